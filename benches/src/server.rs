//! The embedded API server as its clients see it: a long list, and many watchers of many objects under writes, over TCP without TLS.
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use apiserver::{
    ApiServer, ServerOptions, StoreOptions,
    object::Key,
    store::{Part, Store, WriteOptions},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime};

use crate::{
    filter::Filter,
    report::{Report, Row},
};

const LISTED: usize = 10_000;
const WATCHERS: usize = 200;
const OBJECTS: usize = 20_000;
const WRITERS: usize = 8;
/// Writes per second, and how many of them.
const RATE: usize = 1000;
const WRITES: usize = 5000;
/// How long watchers may take to begin, and to hear of the last write.
const LIMIT: Duration = Duration::from_secs(60);

const LIST: &str = "apiserver/list-10000-pods";
const TABLE: &str = "apiserver/table-10000-pods";
const WATCH: &str = "apiserver/200-watchers";

/// Measures what the filter lets through.
pub fn measure(filter: &Filter, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    if filter.wants(LIST) || filter.wants(TABLE) {
        rows.extend(lists()?);
    }
    if filter.wants(WATCH) {
        rows.extend(watches()?);
    }
    for row in rows {
        eprintln!("{row}");
        report.add(row);
    }
    Ok(())
}

/// A server that keeps its objects in a file.
struct Served {
    runtime: Runtime,
    server: ApiServer,
    address: SocketAddr,
    dir: std::path::PathBuf,
}

impl Served {
    fn start() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("hypha-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let store = StoreOptions {
            data: Some(dir.join("objects")),
            ..StoreOptions::default()
        };
        let server = ApiServer::open(ServerOptions {
            store,
            ..ServerOptions::default()
        })?;
        let runtime = Runtime::new()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let serving = server.clone();
        runtime.spawn(async move { serving.serve(listener).await });
        Ok(Self {
            runtime,
            server,
            address,
            dir,
        })
    }

    /// Sends a request and returns what comes.
    fn get(&self, path: &str, accept: &str) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: bench\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        Ok(stream)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.shutdown();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn options() -> WriteOptions {
    WriteOptions {
        manager: Some("bench".to_owned()),
        ..WriteOptions::default()
    }
}

fn lists() -> Result<Vec<Row>> {
    let served = Served::start()?;
    let store = served.server.store();
    let kind = store.kind("pods")?;
    for i in 0..LISTED {
        let pod = json!({ "metadata": { "name": format!("p{i}"), "labels": { "app": "a" } }, "spec": { "nodeName": "n1",
            "containers": [{ "name": "c", "image": "nginx", "env": [{ "name": "E", "value": "v" }] }] } });
        store.create(&kind, "default", pod, &options())?;
    }
    let took = |accept: &str| -> Result<f64> {
        let (begin, mut text) = (Instant::now(), Vec::new());
        served.get("/api/v1/pods", accept)?.read_to_end(&mut text)?;
        ensure!(
            text.len() > LISTED * 1000,
            "the list has {} bytes only",
            text.len()
        );
        Ok(begin.elapsed().as_secs_f64() * 1000.0)
    };
    let whole = took("application/json")?;
    let table = took("application/json;as=Table;v=v1;g=meta.k8s.io")?;
    Ok(vec![
        Row::against_goal(LIST.to_owned(), "ms", whole, 300.0),
        Row::against_goal(TABLE.to_owned(), "ms", table, 300.0),
    ])
}

fn map(i: usize, says: usize) -> Value {
    json!({ "metadata": { "name": format!("m{i:05}") }, "data": { "n": says.to_string() } })
}

fn watches() -> Result<Vec<Row>> {
    let served = Served::start()?;
    let store = served.server.store();
    let kind = store.kind("configmaps")?;
    for i in 0..OBJECTS {
        store.create(&kind, "default", map(i, 0), &options())?;
    }
    let heard = Arc::new(AtomicUsize::new(0));
    let path = format!(
        "/api/v1/configmaps?watch=true&resourceVersion={}",
        store.revision()
    );
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let stream = served.get(&path, "application/json")?;
        let heard = Arc::clone(&heard);
        let watcher = thread::Builder::new().stack_size(128 << 10);
        watchers.push(watcher.spawn(move || follow(stream, &heard))?);
    }
    let begin = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| served.runtime.spawn(write(Arc::clone(store), writer)))
        .collect();
    for writer in writers {
        served.runtime.block_on(writer)??;
    }
    let took = begin.elapsed();
    while heard.load(Ordering::Relaxed) < WATCHERS * WRITES {
        let count = heard.load(Ordering::Relaxed);
        ensure!(
            begin.elapsed() < took + LIMIT,
            "watchers heard {count} events of {}",
            WATCHERS * WRITES
        );
        thread::sleep(Duration::from_millis(1));
    }
    let late = begin.elapsed() - took;
    served.server.shutdown();
    for watcher in watchers {
        let told = watcher.join().ok().context("a watcher failed")?;
        ensure!(told == WRITES, "a watcher heard {told} events of {WRITES}");
    }
    let rate = WRITES as f64 / took.as_secs_f64();
    Ok(vec![
        Row::against_goal(format!("{WATCH}/writes"), "1/s", rate, RATE as f64),
        Row::against_goal(
            format!("{WATCH}/late"),
            "ms",
            late.as_secs_f64() * 1000.0,
            100.0,
        ),
    ])
}

/// Counts the events of a watch until it ends.
fn follow(stream: TcpStream, heard: &AtomicUsize) -> usize {
    let mut told = 0;
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if line.contains("\"type\":\"MODIFIED\"") {
            told += 1;
            heard.fetch_add(1, Ordering::Relaxed);
        }
    }
    told
}

/// Changes objects of its own at its share of the rate, each change kept before the next.
async fn write(store: Arc<Store>, writer: usize) -> Result<()> {
    let kind = store.kind("configmaps")?;
    let begin = Instant::now();
    for i in 0..WRITES / WRITERS {
        let due = Duration::from_secs_f64((i * WRITERS) as f64 / RATE as f64);
        tokio::time::sleep(due.saturating_sub(begin.elapsed())).await;
        let own = (i * WRITERS + writer) % OBJECTS;
        let key = Key::namespaced("default", format!("m{own:05}"));
        store.update(&kind, &key, map(own, i + 1), Part::Main, &options())?;
        store.kept()?;
        tokio::task::yield_now().await;
    }
    Ok(())
}
