//! Objects that survive a restart.

use std::path::Path;

use hypha_apiserver::ServerOptions;
use hypha_apiserver::store::{Store, StoreOptions};
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
async fn what_is_answered_is_on_disk() {
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
    // As after a crash: the file as it is now, without the server's farewell.
    std::fs::copy(&file, &copy).unwrap();
    let restarted = Api::open(options(&copy));
    assert_eq!(restarted.names(CONFIG_MAPS).await.len(), 20);
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
