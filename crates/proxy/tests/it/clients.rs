//! Clients and servers that others have written: librdkafka and `kafka-python`, `h2` and its frames, gRPC's own. They are Python
//! packages, which `cargo xtask setup` installs.
use crate::world::{ENDPOINT, PEER, World, echo, rule, soon};
use futures::future::BoxFuture;
use hypha_proxy::{
    config::{Direction, Endpoint, KafkaRule, PortRules, Role, Rules, Snapshot, Transport},
    drain,
    kafka::{self, Limits},
    origin::{Origin, Session},
    policy::Policy,
    record,
};
use netlink::netns::{self, Netns};
use std::{
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::spawn_blocking,
};

/// A script of ours, to be run by the Python that has the packages; without it, says so.
fn script(name: &str) -> Option<Command> {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty());
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let cache = cache.map_or_else(home, PathBuf::from);
    let python = cache.join("hypha/tools/python-protocols/bin/python");
    if !python.is_file() {
        eprintln!(
            "skipped: there is no {}; `cargo xtask setup` makes it",
            python.display()
        );
        return None;
    }
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients");
    let mut command = Command::new(python);
    command
        .arg("-B")
        .arg(scripts.join(name))
        .stdin(Stdio::null());
    Some(command)
}

/// Runs it to its end; its last line.
async fn last_line(mut command: Command, words: &[&str]) -> String {
    command.args(words);
    let run = spawn_blocking(move || command.output());
    let output = tokio::time::timeout(std::time::Duration::from_secs(300), run);
    let output = output.await.expect("it never ended").unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = said.lines().next_back().map(str::to_owned);
    last.unwrap_or_else(|| panic!("{output:?}"))
}

/// A server of theirs, which says where it is; it ends with the value.
struct Theirs {
    child: Child,
    address: SocketAddr,
}

impl Theirs {
    fn start(mut command: Command, word: &str) -> Self {
        let command = command.arg(word);
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        let address = line.trim().parse();
        let address = address.unwrap_or_else(|_| panic!("the server said {line:?}"));
        Self { child, address }
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_that_no_client_speaks() {
    let Some(client) = script("http2_client.py") else {
        return;
    };
    let world = World::new(echo().await, vec![rule("GET", "/a")]).await;
    let mut all = client;
    let output = spawn_blocking(move || all.arg(world.proxy.to_string()).output());
    let output = output.await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.ends_with(" cases, all well\n"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_by_its_own_client_and_server() {
    let (Some(server), Some(client)) = (script("grpc_clients.py"), script("grpc_clients.py"))
    else {
        return;
    };
    let server = Theirs::start(server, "serve");
    let rules = vec![rule("POST", "/shop.Cart/(Echo|Fail|Total|Count|Talk)")];
    let world = World::new(server.address, rules).await;
    let last = last_line(client, &["call", &world.proxy.to_string()]).await;
    assert_eq!(last, "all well");
}

/// Brokers tell clients where they are, and this one has the address at which the proxy is for the client: each in a namespace of
/// its own, with a loopback of its own, and the proxy with a foot in both.
struct Between {
    server: Netns,
    address: SocketAddr,
}

impl Origin for Between {
    fn accepted(&self, stream: &TcpStream) -> io::Result<Session> {
        Ok(Session {
            source: stream.peer_addr()?,
            destination: SocketAddr::new(self.address.ip(), 9092),
            client: 0,
            server: PEER,
            egress: Some(ENDPOINT),
            ingress: None,
        })
    }

    fn datagram(&self, _: SocketAddr, _: SocketAddr) -> io::Result<Session> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn connect<'a>(&'a self, _: &'a Session) -> BoxFuture<'a, io::Result<TcpStream>> {
        Box::pin(async {
            let connect = || std::net::TcpStream::connect(self.address);
            let stream = self.server.run(connect).map_err(io::Error::other)??;
            stream.set_nonblocking(true)?;
            TcpStream::from_std(stream)
        })
    }

    fn connect_udp<'a>(&'a self, _: &'a Session) -> BoxFuture<'a, io::Result<UdpSocket>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

/// A namespace with a loopback.
fn namespace() -> Netns {
    let netns = netns::create_unnamed().unwrap();
    let up = || netlink::Handle::new().and_then(|mut handle| handle.link_up("lo"));
    netns.run(up).unwrap().unwrap();
    netns
}

fn kafka(rules: &[KafkaRule], version: u64) -> Arc<Policy> {
    let port = PortRules {
        direction: Direction::Egress,
        transport: Transport::Tcp,
        first: 9092,
        last: 9092,
        peers: Some(vec![PEER]),
        origin: "shop/kafka".into(),
        rules: Rules::Kafka(rules.to_vec()),
    };
    let endpoint = Endpoint {
        id: ENDPOINT,
        ports: vec![port],
        ..Endpoint::default()
    };
    let snapshot = Snapshot {
        version,
        endpoints: vec![endpoint],
        ..Snapshot::default()
    };
    Arc::new(Policy::compile(&snapshot, None))
}

fn may(role: Role, topic: &str) -> KafkaRule {
    KafkaRule {
        role: Some(role),
        topic: Some(topic.into()),
        client_id: Some("shop".into()),
        ..KafkaRule::default()
    }
}

/// What a client calls itself, what it does to which topic, and what librdkafka and `kafka-python` say of how that ended; nothing:
/// it is not asked.
type Case = (&'static str, &'static str, &'static str, [&'static str; 2]);

/// Of a topic or of a group, whichever was asked for first.
const DENIED: [&str; 2] = ["AUTHORIZATION_FAILED", "AuthorizationFailedError"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_by_its_clients() {
    if testkit::skip_unless_root() {
        return;
    }
    let Some(broker) = script("kafka_clients.py") else {
        return;
    };
    let (ours, server) = (namespace(), namespace());
    let broker = server.run(|| Theirs::start(broker, "broker")).unwrap();
    let address = broker.address;
    let listener = ours
        .run(|| std::net::TcpListener::bind(address))
        .unwrap()
        .unwrap();
    listener.set_nonblocking(true).unwrap();
    let policy = watch::Sender::new(kafka(&[], 1));
    let (recorder, _records) = record::channel(100);
    let (_drainer, drain) = drain::channel();
    let origin = Arc::new(Between { server, address });
    let engine = kafka::Engine::new(
        policy.subscribe(),
        origin,
        recorder,
        Limits::default(),
        drain,
    );
    let listener = TcpListener::from_std(listener).unwrap();
    tokio::spawn(async move { engine.run(listener).await });

    let both = [may(Role::Produce, "orders"), may(Role::Consume, "orders")];
    let steps: [(&[KafkaRule], &[Case]); 2] = [
        (
            &both,
            &[
                ("shop", "produce", "orders", ["done"; 2]),
                ("shop", "consume", "orders", ["done"; 2]),
                // The other one asks for the topic until it runs out of time, as consumers do.
                ("shop", "produce", "secrets", [DENIED[0], ""]),
            ],
        ),
        (
            &both[..1],
            &[
                ("shop", "produce", "orders", ["done"; 2]),
                ("shop", "consume", "orders", DENIED),
            ],
        ),
    ];
    let at = address.to_string();
    let mut wrong = Vec::new();
    for (version, (rules, cases)) in (2..).zip(steps) {
        policy.send_replace(kafka(rules, version));
        for (name, action, topic, wanted) in cases {
            let clients = ["librdkafka", "kafka-python"].into_iter().zip(wanted);
            for (client, wanted) in clients.filter(|(_, wanted)| !wanted.is_empty()) {
                let mut command = script("kafka_clients.py").unwrap();
                command.args([client, &at, name, action, topic]);
                let run = || command.stdout(Stdio::piped()).spawn();
                let child = ours.run(run).unwrap().unwrap();
                let output = spawn_blocking(|| child.wait_with_output());
                let output = soon(output).await.unwrap().unwrap();
                let said = String::from_utf8_lossy(&output.stdout);
                if !said.lines().next_back().unwrap_or("").contains(wanted) {
                    wrong.push(format!("{client} {name} {action} {topic}: {output:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
