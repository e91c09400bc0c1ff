//! Objects that survive a restart.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hypha_apiserver::ServerOptions;
use hypha_apiserver::store::{ListOptions, Store, StoreOptions, WriteOptions};
use serde_json::{Value, json};

use crate::api::{Api, MERGE};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn options(file: &Path) -> ServerOptions {
    ServerOptions {
        store: StoreOptions {
            data: Some(file.to_owned()),
            ..StoreOptions::default()
        },
        ..ServerOptions::default()
    }
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test]
async fn a_restart_keeps_objects_kinds_owners_and_goes_on_counting() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("objects");
    let (kept, last) = {
        let api = Api::open(options(&file));
        let owner = api
            .post(CONFIG_MAPS, json!({ "metadata": { "name": "owner" } }))
            .await
            .good();
        let owned = json!({ "metadata": { "name": "owned", "ownerReferences": [crate::api::owned_by(&owner, false)] } });
        api.post(CONFIG_MAPS, owned).await.good();
        api.post(CONFIG_MAPS, json!({ "metadata": { "name": "gone" } }))
            .await
            .good();
        api.delete(&format!("{CONFIG_MAPS}/gone"), Value::Null)
            .await
            .good();
        let definition = json!({ "metadata": { "name": "foos.example.org" }, "spec": { "group": "example.org", "scope": "Cluster",
            "names": { "plural": "foos", "kind": "Foo" }, "versions": [{ "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object" } } }] } });
        api.post(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            definition,
        )
        .await
        .good();
        let foo = api
            .post(
                "/apis/example.org/v1/foos",
                json!({ "metadata": { "name": "f" } }),
            )
            .await
            .good();
        (owner, revision(&foo))
    };
    let api = Api::open(options(&file));
    assert_eq!(api.names(CONFIG_MAPS).await, ["owned", "owner"]);
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/owner")).await.good(), kept);
    assert_eq!(api.names("/apis/example.org/v1/foos").await, ["f"]);
    // Watchers of before the restart have to look again, and no revision is given twice.
    let watch = format!("{CONFIG_MAPS}?watch=true&resourceVersion={last}");
    let told = api.send("GET", &watch, "", String::new()).await;
    assert_eq!(told.body["object"]["code"], 410);
    let label = json!({ "metadata": { "labels": { "a": "b" } } });
    let changed = api
        .patch(&format!("{CONFIG_MAPS}/owner"), MERGE, label)
        .await
        .good();
    assert!(revision(&changed) > last);
    api.delete(&format!("{CONFIG_MAPS}/owner"), Value::Null)
        .await
        .good();
    assert!(api.names(CONFIG_MAPS).await.is_empty());
}

#[tokio::test]
async fn what_is_answered_is_soon_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("objects");
    let copy = dir.path().join("copy");
    let api = Api::open(options(&file));
    for i in 0..20 {
        api.post(
            CONFIG_MAPS,
            json!({ "metadata": { "name": format!("m{i:02}") } }),
        )
        .await
        .good();
    }
    // As after a crash of the machine: the file as it is a little later, without its log and the server's farewell.
    let kept = || {
        std::fs::copy(&file, &copy).ok()?;
        let options = StoreOptions {
            data: Some(copy.clone()),
            ..StoreOptions::default()
        };
        // A copy that was made during a write may be torn.
        let store = Store::open(hypha_apiserver::kinds::builtin(), &options).ok()?;
        let kind = store.kind("configmaps").ok()?;
        Some(store.list(&kind, &ListOptions::default()).ok()?.items.len())
    };
    for _ in 0..200 {
        if kept() == Some(20) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the database has {:?} objects of 20", kept());
}

#[test]
fn files_that_are_no_store_are_refused_with_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let open = |file: &Path| {
        let options = StoreOptions {
            data: Some(file.to_owned()),
            ..StoreOptions::default()
        };
        Store::open(hypha_apiserver::kinds::builtin(), &options)
            .err()
            .map(|e| e.to_string())
    };
    let text = dir.path().join("text");
    std::fs::write(&text, "hello ".repeat(10_000)).unwrap();
    let why = open(&text).unwrap();
    assert!(
        why.contains("text: it is damaged or no object store at all"),
        "{why}"
    );

    let good = dir.path().join("good");
    assert_eq!(open(&good), None);
    let store = {
        let options = StoreOptions {
            data: Some(good.clone()),
            ..StoreOptions::default()
        };
        Store::open(hypha_apiserver::kinds::builtin(), &options).unwrap()
    };
    let why = open(&good).unwrap();
    assert!(why.contains("has it open"), "{why}");
    drop(store);

    let bytes = std::fs::read(&good).unwrap();
    let short = dir.path().join("short");
    std::fs::write(&short, &bytes[..bytes.len() / 3]).unwrap();
    let why = open(&short).unwrap();
    assert!(!why.contains('\n') && why.contains("short"), "{why}");
    let unwritable = open(&dir.path().join("no/such/directory/objects")).unwrap();
    assert!(unwritable.contains("No such file"), "{unwritable}");
}

/// How many write in the process to be killed.
const WRITERS: usize = 4;
/// Where the process to be killed keeps its objects.
const VICTIM: &str = "HYPHA_APISERVER_TEST_VICTIM";

/// Writes until it is killed, and says what has been acknowledged. Does nothing unless another test has started it for that.
#[tokio::test]
async fn victim() {
    let Some(file) = std::env::var_os(VICTIM) else {
        return;
    };
    let api = Api::open(options(Path::new(&file)));
    let writers = (0..WRITERS).map(|writer| write_for_ever(&api, writer));
    futures::future::join_all(writers).await;
}

/// Makes, changes and removes maps of its own; both fields of a map always say the same.
async fn write_for_ever(api: &Api, writer: usize) {
    for i in 0.. {
        let name = format!("w{writer}-{}", i % 20);
        let path = format!("{CONFIG_MAPS}/{name}");
        let data = json!({ "a": i.to_string(), "b": i.to_string(), "c": "x".repeat(i % 3000) });
        let removed = i % 7 == 6;
        let answer = if removed {
            api.delete(&path, Value::Null).await
        } else {
            let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": data });
            let apply = format!("{path}?fieldManager=w&force=true");
            api.patch(&apply, crate::api::APPLY, map).await
        };
        assert!(answer.code < 300 || (answer.code, removed) == (404, true));
        let revision = if removed { 0 } else { revision(&answer.body) };
        // One write, so that a kill does not cut it.
        let line = format!("acknowledged {writer} {i} {revision}\n");
        std::io::stdout().write_all(line.as_bytes()).unwrap();
    }
}

/// Which map the write `i` of a writer is about, and what it says after it.
fn outcome(writer: usize, i: usize) -> (String, Option<usize>) {
    (format!("w{writer}-{}", i % 20), (i % 7 != 6).then_some(i))
}

/// What the objects say.
type Maps = BTreeMap<String, usize>;

#[test]
fn a_server_that_is_killed_loses_nothing_that_it_has_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("objects");
    let (mut maps, mut newest) = (Maps::new(), 0);
    for round in 0..4 {
        let mut last: [Option<usize>; WRITERS] = [None; WRITERS];
        for line in life(&file, 60 + round * 37) {
            let words: Vec<usize> = line.split(' ').map(|word| word.parse().unwrap()).collect();
            let [writer, i, revision] = words[..] else {
                panic!("{line}");
            };
            assert_eq!(i, last[writer].map_or(0, |last| last + 1));
            last[writer] = Some(i);
            newest = newest.max(revision as u64);
            match outcome(writer, i) {
                (name, Some(says)) => maps.insert(name, says),
                (name, None) => maps.remove(&name),
            };
        }
        // Each writer may have had one more write on disk that it was not told of.
        let next = |writer| outcome(writer, last[writer].map_or(0, |last: usize| last + 1));
        let unknown: BTreeMap<_, _> = (0..WRITERS).map(next).collect();
        maps = check_kept(&file, &maps, &unknown, &mut newest);
    }
}

/// Lets the victim acknowledge so many writes, and kills it. Returns what it said.
fn life(file: &Path, writes: usize) -> Vec<String> {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kept::victim", "--nocapture"])
        .env(VICTIM, file)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let mut told = lines.map_while(Result::ok).filter_map(|line| {
        let (_, told) = line.split_once("acknowledged ")?;
        Some(told.to_owned())
    });
    let mut all: Vec<String> = told.by_ref().take(writes).collect();
    assert_eq!(all.len(), writes, "the victim ended by itself");
    victim.kill().unwrap();
    victim.wait().unwrap();
    // What it had said before it died counts as well.
    all.extend(told);
    all
}

/// Every write that was acknowledged is there, every object is whole, revisions go on. Returns what is there.
fn check_kept(
    file: &Path,
    known: &Maps,
    unknown: &BTreeMap<String, Option<usize>>,
    newest: &mut u64,
) -> Maps {
    let options = StoreOptions {
        data: Some(file.to_owned()),
        ..StoreOptions::default()
    };
    let store = Store::open(hypha_apiserver::kinds::builtin(), &options).unwrap();
    let kind = store.kind("configmaps").unwrap();
    let list = store.list(&kind, &ListOptions::default()).unwrap();
    let mut found = Maps::new();
    for map in &list.items {
        let whole: Value = serde_json::from_slice(map.text()).unwrap();
        assert_eq!(whole, map.whole());
        let Some(says) = whole["data"]["a"].as_str() else {
            continue;
        };
        assert_eq!(whole["data"]["b"], says);
        assert!(whole["metadata"]["managedFields"].is_array());
        let says: usize = says.parse().unwrap();
        assert_eq!(whole["data"]["c"].as_str().map(str::len), Some(says % 3000));
        found.insert(whole["metadata"]["name"].as_str().unwrap().to_owned(), says);
    }
    for name in known.keys().chain(found.keys()) {
        let (is, was) = (found.get(name).copied(), known.get(name).copied());
        let may_be = unknown.get(name).is_some_and(|next| *next == is);
        assert!(is == was || may_be, "{name}: {is:?}, not {was:?}");
    }
    let object = json!({ "metadata": { "generateName": "n-" } });
    let made = store
        .create(&kind, "default", object, &WriteOptions::default())
        .unwrap();
    assert!(
        revision(&made) > *newest,
        "{} after {newest}",
        revision(&made)
    );
    *newest = revision(&made);
    found
}
