//! Many watchers, many objects, many writes: checked against a model, and timed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use futures::StreamExt;
use hypha_apiserver::object::Key;
use hypha_apiserver::store::{Part, StoreOptions, WriteOptions};
use hypha_apiserver::{ApiServer, ServerOptions};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tower::ServiceExt;

/// How many write at the same time, as the clients of a cluster do.
const WRITERS: usize = 8;

/// How much.
struct Load {
    watchers: usize,
    objects: usize,
    writes: usize,
    /// Writes per second; as fast as possible without.
    rate: Option<f64>,
    /// Whether the watchers come over TCP.
    outside: bool,
}

fn config_map(name: &str, number: usize) -> Value {
    json!({ "metadata": { "name": name, "labels": { "half": (number % 2).to_string() } }, "data": { "n": number.to_string() } })
}

/// What a watcher has seen: the state that its events make, and how many there were.
struct Seen {
    /// What each object says, by the number in its name.
    state: Vec<Option<usize>>,
    revision: u64,
    events: usize,
    delays: Vec<Duration>,
}

/// The text of a field, found without reading the rest: two hundred readers in one process should not be the load.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let start = line.find(name)? + name.len();
    let end = line[start..].find('"')?;
    Some(&line[start..start + end])
}

const NAME: &str = "\"name\":\"";
const SAYS: &str = "\"n\":\"";
const AT: &str = "\"at\":\"";
const TYPE: &str = "\"type\":\"";
const REVISION: &str = "\"resourceVersion\":\"";

fn number(name: &str) -> usize {
    name[1..].parse().unwrap()
}

impl Seen {
    fn says(line: &str) -> Option<usize> {
        Some(field(line, SAYS).unwrap().parse().unwrap())
    }

    /// Takes one event; panics if it cannot come now.
    fn take(&mut self, line: &str, begun: Instant) {
        let name = field(line, NAME).unwrap();
        let revision: u64 = field(line, REVISION).unwrap().parse().unwrap();
        let state = &mut self.state[number(name)];
        let event = field(line, TYPE).unwrap();
        match event {
            "ADDED" => assert!(state.is_none(), "{name} was added twice"),
            "MODIFIED" | "DELETED" => assert!(state.is_some(), "{name} was not there"),
            other => panic!("{other}: {line}"),
        }
        assert!(
            revision > self.revision,
            "{revision} after {}",
            self.revision
        );
        self.revision = revision;
        self.events += 1;
        if event == "DELETED" {
            *state = None;
            return;
        }
        *state = Self::says(line);
        if let Some(at) = field(line, AT).and_then(|at| at.parse().ok()) {
            self.delays
                .push(begun.elapsed().saturating_sub(Duration::from_micros(at)));
        }
    }

    /// Takes an object that was there before; those come in no order of revisions.
    fn take_initial(&mut self, line: &str) {
        assert_eq!(field(line, TYPE), Some("ADDED"));
        let state = &mut self.state[number(field(line, NAME).unwrap())];
        assert_eq!(std::mem::replace(state, Self::says(line)), None);
    }
}

/// Somebody who watches: first what was there, then what changes, until the event that ends the test.
struct Reader {
    seen: Seen,
    /// How many of the initial objects are to come, and who waits for them.
    left: usize,
    ready: Arc<Semaphore>,
    begun: Instant,
}

impl Reader {
    /// Takes a line; whether it was the last one.
    fn take(&mut self, line: &str) -> bool {
        if field(line, NAME) == Some("zz-end") {
            return true;
        }
        if self.left == 0 {
            self.seen.take(line, self.begun);
            return false;
        }
        self.seen.take_initial(line);
        self.left -= 1;
        if self.left == 0 {
            self.ready.add_permits(1);
        }
        false
    }
}

const WATCH: &str = "/api/v1/namespaces/default/configmaps?watch=true&resourceVersion=0";

/// Follows a watch in this process.
async fn follow(server: ApiServer, mut reader: Reader) -> Seen {
    let request = Request::get(WATCH).body(Body::empty()).unwrap();
    let response = server.router().oneshot(request).await.unwrap();
    let mut body = response.into_body().into_data_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.unwrap();
        let text = std::str::from_utf8(&chunk).unwrap();
        // A chunk ends where an event ends.
        assert!(text.ends_with("}\n"));
        if text.lines().any(|line| reader.take(line)) {
            return reader.seen;
        }
    }
    panic!("the watch ended early");
}

/// Follows a watch over TCP, as other processes do.
fn follow_from_outside(address: SocketAddr, mut reader: Reader) -> Seen {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("GET {WATCH} HTTP/1.1\r\nHost: test\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        // Between the events stand the lengths of chunks.
        if line.starts_with('{') && reader.take(&line) {
            return reader.seen;
        }
    }
    panic!("the watch ended early");
}

/// Changes, removes and makes objects of its own, each write kept before the next one. Returns what is left, and how long the slowest
/// write took.
async fn write(
    server: ApiServer,
    mut model: BTreeMap<String, String>,
    writes: usize,
    rate: Option<f64>,
    begun: Instant,
) -> (BTreeMap<String, String>, Duration) {
    let names: Vec<String> = model.keys().cloned().collect();
    let store = server.store();
    let kind = store.kind("configmaps").unwrap();
    let options = WriteOptions {
        manager: Some("load".to_owned()),
        ..WriteOptions::default()
    };
    let (started, mut slowest) = (Instant::now(), Duration::ZERO);
    for i in 0..writes {
        if let Some(rate) = rate {
            #[allow(clippy::cast_precision_loss, reason = "a count of seconds")]
            let due = Duration::from_secs_f64((i * WRITERS) as f64 / rate);
            tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
        }
        let name = &names[(i * 7919) % names.len()];
        let key = Key::namespaced("default", name);
        let at = Instant::now();
        if model.contains_key(name) && i % 5 == 4 {
            store.delete(&kind, &key, &Default::default()).unwrap();
            model.remove(name);
        } else {
            let mut object = config_map(name, i);
            object["data"]["at"] = json!(begun.elapsed().as_micros().to_string());
            if model.insert(name.clone(), i.to_string()).is_some() {
                store
                    .update(&kind, &key, object, Part::Main, &options)
                    .unwrap();
            } else {
                store.create(&kind, "default", object, &options).unwrap();
            }
        }
        store.kept().unwrap();
        tokio::task::yield_now().await;
        slowest = slowest.max(at.elapsed());
    }
    (model, slowest)
}

/// Runs a load against a server whose objects are kept in a file, and returns what to tell about it.
async fn run(load: &Load) -> String {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreOptions {
        data: Some(dir.path().join("objects")),
        ..StoreOptions::default()
    };
    let server = ApiServer::open(ServerOptions {
        store,
        ..ServerOptions::default()
    })
    .unwrap();
    let kind = server.store().kind("configmaps").unwrap();
    let options = WriteOptions {
        manager: Some("load".to_owned()),
        ..WriteOptions::default()
    };
    let mut model: BTreeMap<String, String> = BTreeMap::new();
    for i in 0..load.objects {
        let name = format!("m{i:05}");
        server
            .store()
            .create(&kind, "default", config_map(&name, i), &options)
            .unwrap();
        model.insert(name, i.to_string());
    }
    let begun = Instant::now();
    let ready = Arc::new(Semaphore::new(0));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = server.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    let watchers: Vec<_> = (0..load.watchers)
        .map(|_| {
            let reader = Reader {
                seen: Seen {
                    state: vec![None; load.objects],
                    revision: 0,
                    events: 0,
                    delays: Vec::new(),
                },
                left: load.objects,
                ready: Arc::clone(&ready),
                begun,
            };
            match load.outside {
                true => tokio::task::spawn_blocking(move || follow_from_outside(address, reader)),
                false => tokio::spawn(follow(server.clone(), reader)),
            }
        })
        .collect();
    // Everybody has seen what there is before it changes.
    let everybody = u32::try_from(load.watchers).unwrap();
    ready.acquire_many(everybody).await.unwrap().forget();

    let (started, before) = (Instant::now(), busy());
    let mut slowest = Duration::ZERO;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let names = model.keys().skip(writer).step_by(WRITERS);
            let own = names.map(|name| (name.clone(), model[name].clone()));
            tokio::spawn(write(
                server.clone(),
                own.collect(),
                load.writes / WRITERS,
                load.rate,
                begun,
            ))
        })
        .collect();
    model.clear();
    for writer in writers {
        let (left, longest) = writer.await.unwrap();
        model.extend(left);
        slowest = slowest.max(longest);
    }
    let (took, worked) = (started.elapsed(), busy() - before);
    server
        .store()
        .create(&kind, "default", config_map("zz-end", 0), &options)
        .unwrap();
    let mut state = vec![None; load.objects];
    for (name, says) in &model {
        state[number(name)] = Some(says.parse().unwrap());
    }
    let mut delays = Vec::new();
    for watcher in watchers {
        let seen = tokio::time::timeout(Duration::from_secs(120), watcher)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(seen.events, load.writes);
        assert!(seen.state == state, "a watcher ended in another state");
        delays.extend(seen.delays);
    }
    delays.sort_unstable();
    let at = |share: usize| {
        delays
            .get(delays.len() * share / 100)
            .copied()
            .unwrap_or_default()
    };
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    let rate = load.writes as f64 / took.as_secs_f64();
    format!(
        "{} watchers, {} objects: {} writes at {rate:.0}/s with {worked:.1} s of CPU, slowest durable write {slowest:?}; \
         events seen after p50 {:?}, p99 {:?}",
        load.watchers,
        load.objects,
        load.writes,
        at(50),
        at(99)
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_see_every_change_once_and_in_order() {
    let told = run(&Load {
        watchers: 20,
        objects: 300,
        writes: 400,
        rate: None,
        outside: false,
    })
    .await;
    eprintln!("{told}");
}

fn full(outside: bool) -> Load {
    Load {
        watchers: 200,
        objects: 20_000,
        writes: 10_000,
        rate: Some(1000.0),
        outside,
    }
}

/// The whole load. `cargo test --release -p hypha-apiserver --test it -- --ignored --nocapture load`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long; its figures mean something in a release build only"]
async fn full_load() {
    println!("{}", run(&full(false)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long; its figures mean something in a release build only"]
async fn full_load_from_outside() {
    println!("over TCP: {}", run(&full(true)).await);
}

/// Writers beside each other share the writes to disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "its figures mean something in a release build only"]
async fn durable_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreOptions {
        data: Some(dir.path().join("objects")),
        ..StoreOptions::default()
    };
    let server = ApiServer::open(ServerOptions {
        store,
        ..ServerOptions::default()
    })
    .unwrap();
    let started = Instant::now();
    let writers: Vec<_> = (0..16)
        .map(|w| {
            let server = server.clone();
            tokio::spawn(async move {
                for i in 0..250 {
                    let body = config_map(&format!("w{w}-{i}"), i).to_string();
                    let request = Request::post("/api/v1/namespaces/default/configmaps")
                        .body(Body::from(body))
                        .unwrap();
                    assert_eq!(
                        server.router().oneshot(request).await.unwrap().status(),
                        201
                    );
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    println!(
        "16 writers: {:.0} durable writes/s",
        4000.0 / started.elapsed().as_secs_f64()
    );
}

/// Lists ten thousand pods.
#[tokio::test]
#[ignore = "its figures mean something in a release build only"]
async fn large_list() {
    let server = ApiServer::new();
    let kind = server.store().kind("pods").unwrap();
    let options = WriteOptions {
        manager: Some("load".to_owned()),
        ..WriteOptions::default()
    };
    let pod = json!({ "metadata": { "labels": { "app": "a" } }, "spec": { "nodeName": "n1", "containers": [
        { "name": "c", "image": "nginx", "env": [{ "name": "E", "value": "v" }], "ports": [{ "containerPort": 80 }] }] } });
    for i in 0..10_000 {
        let mut pod = pod.clone();
        pod["metadata"]["name"] = json!(format!("p{i}"));
        server
            .store()
            .create(&kind, "default", pod, &options)
            .unwrap();
    }
    eprintln!("memory with them: {} MB", resident());
    for (what, accept) in [
        ("first list", "application/json"),
        ("second list", "application/json"),
        ("table", "application/json;as=Table;v=v1;g=meta.k8s.io"),
        (
            "second table",
            "application/json;as=Table;v=v1;g=meta.k8s.io",
        ),
        (
            "metadata",
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
        ),
    ] {
        let at = Instant::now();
        let request = Request::get("/api/v1/pods").header("accept", accept);
        let response = server
            .router()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        let mut body = response.into_body().into_data_stream();
        let mut bytes = 0;
        while let Some(chunk) = body.next().await {
            bytes += chunk.unwrap().len();
        }
        println!(
            "{what} of 10,000 pods: {:?} for {bytes} bytes",
            at.elapsed()
        );
        assert!(bytes > 10_000 * 1000);
    }
}

/// CPU time of this process, seconds.
fn busy() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(") ").next().unwrap();
    let ticks = fields.split(' ').skip(11).take(2);
    ticks.map(|t| t.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// Resident memory of this process, megabytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let kilobytes = line.split_whitespace().nth(1).unwrap();
    kilobytes.parse::<usize>().unwrap() / 1000
}
