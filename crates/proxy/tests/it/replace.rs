//! One process takes another one's place: under load nothing fails, and after a kill the last snapshot holds.
use crate::world::{PORT, Plain, dns_rules, echo, http_rules, read_until, rule, soon};
use hypha_proxy::{
    config::{DnsRule, Snapshot, Transport},
    control::{
        Line,
        frame::{FromProxy, ToProxy},
    },
    keeper,
    server::{Config, End, Kind, Listen, Server},
};
use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

fn config(dir: &Path, http: SocketAddr) -> Config {
    let listen = |name: &str, address, kind| Listen {
        name: name.into(),
        address,
        kind,
    };
    let any = "127.0.0.1:0".parse().unwrap();
    let listeners = vec![
        listen("http", http, Kind::Http),
        listen("dns-udp", any, Kind::Dns(Transport::Udp)),
        listen("dns-tcp", any, Kind::Dns(Transport::Tcp)),
    ];
    Config::new(dir.join("state"), dir.join("run"), listeners)
}

/// How often a proxy is replaced or killed; `HYPHA_PROXY_ROUNDS` gives another number.
fn rounds() -> usize {
    std::env::var("HYPHA_PROXY_ROUNDS").map_or(5, |text| text.parse().expect("a number"))
}

/// What it took, for whoever runs more rounds than the usual ones.
fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let middle = times.get(times.len() / 2);
    eprintln!(
        "{what}: {} times, median {middle:?}, longest {:?}",
        times.len(),
        times.last()
    );
}

async fn teach(config: &Config, snapshot: Snapshot) {
    let mut line = soon(Line::connect(&config.control())).await.unwrap();
    line.say(&ToProxy::Snapshot(snapshot)).await.unwrap();
    // Records of what was asked before may come first.
    loop {
        match soon(line.hear()).await.unwrap() {
            Some(FromProxy::Taken { .. }) => return,
            Some(FromProxy::Records { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn get(proxy: SocketAddr, path: &str) -> std::io::Result<String> {
    use tokio::io::AsyncReadExt;
    let mut stream = TcpStream::connect(proxy).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Sends requests until told to stop: each in a connection of its own, or all in one as long as the proxy keeps it.
async fn load(proxy: SocketAddr, keep: bool, stop: Arc<AtomicBool>, done: Arc<AtomicUsize>) {
    while !stop.load(Ordering::Relaxed) {
        if !keep {
            let answer = soon(get(proxy, "/a")).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            done.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let mut stream = soon(TcpStream::connect(proxy)).await.unwrap();
        let mut kept = true;
        while kept && !stop.load(Ordering::Relaxed) {
            stream
                .write_all(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
                .await
                .unwrap();
            let answer = read_until(&mut stream, "host: h\n\n").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            kept = !answer.to_lowercase().contains("connection: close");
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_takes_over_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Plain::new(echo().await, PORT);
    let first = config(dir.path(), "127.0.0.1:0".parse().unwrap());
    let mut current = Server::start(first.clone(), origin.clone()).await.unwrap();
    teach(&first, http_rules(1, vec![rule("GET", "/a")])).await;
    let proxy = current.addresses[0];
    let all = current.addresses.clone();
    let (stop, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let clients: Vec<_> = (0..6)
        .map(|n| tokio::spawn(load(proxy, n % 2 == 0, stop.clone(), done.clone())))
        .collect();
    let mut times = Vec::new();
    for _ in 0..rounds() {
        let before = done.load(Ordering::Relaxed);
        let began = Instant::now();
        let successor = Server::start(first.clone(), origin.clone()).await.unwrap();
        assert_eq!(successor.addresses, all, "the same sockets");
        soon(current.replaced()).await;
        times.push(began.elapsed());
        assert_eq!(soon(current.finish()).await, End::Finished);
        current = successor;
        soon(async {
            while done.load(Ordering::Relaxed) < before + 50 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
    tell("a successor serves", times);
    eprintln!("{} requests meanwhile", done.load(Ordering::Relaxed));
    // The agent finds the newest one at the same place, with the snapshot that was in force.
    assert_eq!(
        soon(Line::connect(&first.control())).await.unwrap().version,
        1
    );
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        soon(client).await.unwrap();
    }
}

#[tokio::test]
async fn what_does_not_end_is_cut_at_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Plain::new(echo().await, PORT);
    let mut config = config(dir.path(), "127.0.0.1:0".parse().unwrap());
    config.drain = Duration::from_millis(200);
    let server = Server::start(config.clone(), origin).await.unwrap();
    let mut idle = TcpStream::connect(server.addresses[0]).await.unwrap();
    teach(&config, http_rules(1, vec![rule("GET", "/a")])).await;
    idle.write_all(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut idle, "host: h\n\n").await;
    assert_eq!(soon(server.finish()).await, End::Cut);
}

#[tokio::test]
async fn a_damaged_snapshot_allows_nothing_and_a_new_one_heals_it() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Plain::new(echo().await, PORT);
    let config = config(dir.path(), "127.0.0.1:0".parse().unwrap());
    std::fs::create_dir_all(&config.state).unwrap();
    std::fs::write(config.state.join("snapshot.json"), "half a snap").unwrap();
    let server = Server::start(config.clone(), origin).await.unwrap();
    let proxy = server.addresses[0];
    assert!(
        soon(get(proxy, "/a"))
            .await
            .unwrap()
            .starts_with("HTTP/1.1 403")
    );
    teach(&config, http_rules(1, vec![rule("GET", "/a")])).await;
    assert!(
        soon(get(proxy, "/a"))
            .await
            .unwrap()
            .starts_with("HTTP/1.1 200")
    );
}

const CHILD: &str = "HYPHA_PROXY_TEST_CHILD";

/// Not a test of its own: what [`a_killed_proxy_goes_on_with_what_is_on_disk`] runs as a process that it can kill.
#[tokio::test]
async fn child_that_serves() {
    let Ok(given) = std::env::var(CHILD) else {
        return;
    };
    let mut words = given.split(' ');
    let mut word = || words.next().unwrap();
    let (dir, server, http) = (word(), word().parse().unwrap(), word().parse().unwrap());
    let config = config(Path::new(dir), http);
    let _server = Server::start(config, Plain::new(server, PORT))
        .await
        .unwrap();
    std::future::pending::<()>().await;
}

/// A process that does not outlive the test.
struct Killed(Child);

impl Killed {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.kill();
    }
}

fn child(dir: &Path, server: SocketAddr, http: SocketAddr) -> Killed {
    let process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "replace::child_that_serves", "--nocapture"])
        .env(CHILD, format!("{} {server} {http}", dir.display()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Killed(process)
}

/// An address of this process's own: nobody else takes its port in between.
fn own_address(port: u16) -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    ([127, 77, high, low], port).into()
}

async fn serving(proxy: SocketAddr) {
    soon(async {
        while get(proxy, "/a").await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_proxy_turns_nobody_away_whose_sockets_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let server = echo().await;
    let proxy = own_address(8081);
    let config = config(dir.path(), proxy);
    keeper::keep(&config.run).unwrap();
    let mut process = child(dir.path(), server, proxy);
    serving(proxy).await;
    teach(&config, http_rules(1, vec![rule("GET", "/a")])).await;
    for _ in 0..rounds() {
        process.kill();
        // Nobody serves, and nobody is refused.
        let mut waiting = soon(TcpStream::connect(proxy)).await.unwrap();
        waiting
            .write_all(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
            .await
            .unwrap();
        process = child(dir.path(), server, proxy);
        let answer = read_until(&mut waiting, "host: h\n\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_proxy_goes_on_with_what_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let server = echo().await;
    let proxy = own_address(8080);
    let config = config(dir.path(), proxy);
    let mut process = child(dir.path(), server, proxy);
    serving(proxy).await;
    let mut snapshot = http_rules(1, vec![rule("GET", "/a")]);
    let mut names = dns_rules(1, vec![DnsRule::MatchName("a.org".into())]);
    snapshot.endpoints[0]
        .ports
        .append(&mut names.endpoints[0].ports);
    teach(&config, snapshot).await;
    let mut times = Vec::new();
    for _ in 0..rounds() {
        // No word to anybody, and no agent there afterwards.
        process.kill();
        assert!(get(proxy, "/a").await.is_err());
        let began = Instant::now();
        process = child(dir.path(), server, proxy);
        serving(proxy).await;
        times.push(began.elapsed());
        assert!(
            soon(get(proxy, "/a"))
                .await
                .unwrap()
                .starts_with("HTTP/1.1 200")
        );
        assert!(
            soon(get(proxy, "/b"))
                .await
                .unwrap()
                .starts_with("HTTP/1.1 403")
        );
    }
    tell("served after a kill", times);
}
