//! Transparent sockets in a network of their own: client, proxy and server in three namespaces, the proxy as a router between them.
use crate::tls::{Https, is_denied, names};
use crate::world::{ENDPOINT, PEER, dns_rules, http_rules, rule, soon};
use hickory_proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{Name, RData, Record as Rr, RecordType, rdata::A},
};
use hypha_proxy::{
    config::{DnsRule, Transport},
    control::{Line, frame::ToProxy},
    server::{Config, Kind, Listen, Server},
    transparent::{Noted, Sessions, Transparent},
};
use netlink::netns;
use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::Command,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

const PORTS: std::ops::RangeInclusive<u16> = 10_000..=29_999;
const CLIENT: [&str; 2] = ["10.9.1.2", "fd09:1::2"];
const SERVER: [&str; 2] = ["10.9.2.2", "fd09:2::2"];

/// Everything that does not come from the proxy's own ports was handed over.
struct All;

impl Sessions for All {
    fn lookup(&self, _: Transport, source: SocketAddr, _: SocketAddr) -> io::Result<Option<Noted>> {
        Ok((!PORTS.contains(&source.port())).then_some(Noted {
            client: 1,
            server: PEER,
            egress: Some(ENDPOINT),
            ingress: None,
        }))
    }
}

/// Three namespaces in a row, gone with the test.
struct Row {
    names: [String; 3],
}

fn ip(words: &str) {
    let done = Command::new("ip").args(words.split(' ')).output().unwrap();
    let why = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {words}: {why}");
}

impl Row {
    fn new() -> Self {
        let row = Self {
            names: ["tpc", "tpp", "tps"].map(testkit::unique_name),
        };
        let [client, proxy, server] = &row.names;
        for name in &row.names {
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
            row.within(name, || {
                for key in ["all", "default"] {
                    netlink::sysctl::ensure(&format!("net/ipv4/conf/{key}/rp_filter"), "0")
                        .unwrap();
                    netlink::sysctl::ensure(&format!("net/ipv6/conf/{key}/accept_dad"), "0")
                        .unwrap();
                }
            });
        }
        for (end, name, device, n) in [(client, "c0", "pc", 1), (server, "s0", "ps", 2)] {
            ip(&format!(
                "-n {end} link add {name} type veth peer name {device} netns {proxy}"
            ));
            for (ns, device, host) in [(end, name, 2), (proxy, device, 1)] {
                ip(&format!("-n {ns} link set {device} up"));
                ip(&format!("-n {ns} addr add 10.9.{n}.{host}/24 dev {device}"));
                ip(&format!(
                    "-n {ns} addr add fd09:{n}::{host}/64 dev {device} nodad"
                ));
            }
            ip(&format!("-n {end} route add default via 10.9.{n}.1"));
            ip(&format!("-n {end} -6 route add default via fd09:{n}::1"));
            for family in ["-4", "-6"] {
                ip(&format!(
                    "-n {proxy} {family} rule add iif {device} lookup 100"
                ));
            }
        }
        ip(&format!(
            "-n {proxy} route add local default dev lo table 100"
        ));
        ip(&format!(
            "-n {proxy} -6 route add local default dev lo table 100"
        ));
        row
    }

    fn path(name: &str) -> PathBuf {
        PathBuf::from("/var/run/netns").join(name)
    }

    fn within<T: Send>(&self, name: &str, work: impl FnOnce() -> T + Send) -> T {
        netns::open(Self::path(name)).unwrap().run(work).unwrap()
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// Answers every request with the address that it came from.
fn serve_http(listener: TcpListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        thread::spawn(move || {
            let from = stream.peer_addr().unwrap();
            let mut space = [0; 4096];
            while stream.read(&mut space).is_ok_and(|got| got > 0) {
                let body = from.to_string();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        });
    }
}

fn answer(bytes: &[u8]) -> Vec<u8> {
    let mut message = Message::from_vec(bytes).unwrap();
    message.metadata.message_type = MessageType::Response;
    let name = message.queries[0].name().clone();
    message.add_answer(Rr::from_rdata(
        name,
        30,
        RData::A(A(Ipv4Addr::new(1, 2, 3, 4))),
    ));
    message.to_vec().unwrap()
}

/// Answers every question, and tells where it came from.
fn serve_dns(socket: UdpSocket, seen: mpsc::Sender<SocketAddr>) {
    let mut space = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut space) {
        if seen.send(from).is_err() {
            return;
        }
        socket.send_to(&answer(&space[..length]), from).unwrap();
    }
}

fn get(server: SocketAddr, path: &str) -> io::Result<(SocketAddr, String)> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok((stream.local_addr()?, text))
}

fn ask(server: SocketAddr, name: &str) -> Message {
    let any: IpAddr = if server.is_ipv6() {
        "::".parse().unwrap()
    } else {
        "0.0.0.0".parse().unwrap()
    };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    // Only what comes from the server's own address and port is read.
    socket.connect(server).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    socket.send(&message.to_vec().unwrap()).unwrap();
    let mut space = [0; 4096];
    let length = socket.recv(&mut space).unwrap();
    Message::from_vec(&space[..length]).unwrap()
}

fn listeners() -> Vec<Listen> {
    let mut all = Vec::new();
    for (family, any) in [("4", "0.0.0.0"), ("6", "::")] {
        for (name, port, kind) in [
            ("http", 80, Kind::Http),
            ("dns-udp", 53, Kind::Dns(Transport::Udp)),
            ("dns-tcp", 53, Kind::Dns(Transport::Tcp)),
            ("tls", 443, Kind::Tls),
        ] {
            all.push(Listen {
                name: format!("{name}-{family}"),
                address: SocketAddr::new(any.parse().unwrap(), port),
                kind,
            });
        }
    }
    all
}

async fn proxy(config: Config, ready: mpsc::Sender<()>, stop: tokio::sync::oneshot::Receiver<()>) {
    let origin = Arc::new(Transparent::new(All, PORTS));
    let server = Server::start(config.clone(), origin).await.unwrap();
    let mut snapshot = http_rules(1, vec![rule("GET", "/public")]);
    for mut more in [
        dns_rules(1, vec![DnsRule::MatchName("a.org".into())]),
        names(1, &["*.a.org"]),
    ] {
        snapshot.endpoints[0]
            .ports
            .append(&mut more.endpoints[0].ports);
    }
    let mut line = soon(Line::connect(&config.control())).await.unwrap();
    line.say(&ToProxy::Snapshot(snapshot)).await.unwrap();
    soon(line.hear()).await.unwrap();
    ready.send(()).unwrap();
    let _ = stop.await;
    drop(server);
}

#[test]
fn addresses_stay_on_both_legs() {
    if testkit::skip_unless_root() {
        return;
    }
    let row = Row::new();
    let [client, proxy_ns, server_ns] = &row.names;
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(
        dir.path().join("state"),
        dir.path().join("run"),
        listeners(),
    );
    config.transparent = true;
    let (seen, mut questions) = mpsc::channel();
    row.within(server_ns, || {
        for any in ["0.0.0.0", "::"] {
            let at = |port| SocketAddr::new(any.parse().unwrap(), port);
            // The any-address of IPv6 takes IPv4 along where nobody else does.
            let (Ok(http), Ok(dns)) = (TcpListener::bind(at(80)), UdpSocket::bind(at(53))) else {
                let own = SERVER[1].parse().unwrap();
                let http = TcpListener::bind(SocketAddr::new(own, 80)).unwrap();
                let dns = UdpSocket::bind(SocketAddr::new(own, 53)).unwrap();
                let seen = seen.clone();
                thread::spawn(move || serve_http(http));
                thread::spawn(move || serve_dns(dns, seen));
                continue;
            };
            let seen = seen.clone();
            thread::spawn(move || serve_http(http));
            thread::spawn(move || serve_dns(dns, seen));
        }
    });
    let https = row.within(server_ns, || Https::new(dir.path(), 443));
    let (ready, is_ready) = mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let inside = netns::open(Row::path(proxy_ns)).unwrap();
    let serving = thread::spawn(move || {
        inside.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(proxy(config, ready, stopped));
            runtime.shutdown_background();
        })
    });
    is_ready.recv_timeout(Duration::from_secs(30)).unwrap();
    for (own, server) in CLIENT.into_iter().zip(SERVER) {
        let (own, server): (IpAddr, IpAddr) = (own.parse().unwrap(), server.parse().unwrap());
        let (questions, https) = (&mut questions, &https);
        row.within(client, move || {
            for _ in 0..20 {
                let (from, text) = get(SocketAddr::new(server, 80), "/public").unwrap();
                assert!(text.starts_with("HTTP/1.1 200"), "{text}");
                let seen: SocketAddr = text.rsplit("\r\n\r\n").next().unwrap().parse().unwrap();
                assert_eq!((seen.ip(), from.ip()), (own, own));
                assert!(
                    PORTS.contains(&seen.port()) && seen.port() != from.port(),
                    "{seen}"
                );
            }
            let (_, text) = get(SocketAddr::new(server, 80), "/secret").unwrap();
            assert!(
                text.starts_with("HTTP/1.1 403") && text.ends_with("Access denied\r\n"),
                "{text}"
            );
            let at = SocketAddr::new(server, 443);
            let output = https.curl("b.a.org", at);
            let text = String::from_utf8_lossy(&output.stdout);
            let (ip, port) = text.split_once(' ').unwrap_or_else(|| panic!("{output:?}"));
            assert_eq!(ip, own.to_string());
            assert!(PORTS.contains(&port.parse().unwrap()), "{text}");
            let output = https.curl("b.org", at);
            assert!(is_denied(&output), "{output:?}");
            for _ in 0..20 {
                let message = ask(SocketAddr::new(server, 53), "a.org.");
                assert_eq!(message.answers.len(), 1, "{message:?}");
                let from = questions.recv_timeout(Duration::from_secs(10)).unwrap();
                assert_eq!(from.ip(), own);
                assert!(PORTS.contains(&from.port()), "{from}");
            }
            let denied = ask(SocketAddr::new(server, 53), "b.org.");
            assert_eq!(denied.metadata.response_code, ResponseCode::Refused);
            assert!(
                questions.try_recv().is_err(),
                "what is denied reaches no server"
            );
        });
    }
    let _ = stop.send(());
    serving.join().unwrap().unwrap();
}
