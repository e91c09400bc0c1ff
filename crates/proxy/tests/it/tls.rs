//! TLS as it is: real clients and servers, and bytes that the test itself cuts.
use crate::world::{ENDPOINT, Plain, raw_server, snapshot, soon};
use hypha_proxy::{
    config::{Direction, Rules, Snapshot, TlsRule, Transport},
    drain::{self, Drainer},
    http,
    policy::Policy,
    record::{self, Layer7, Records, Verdict},
    tls::{Engine, Limits},
};
use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

const PORT: u16 = 443;

/// Answers requests with the address that they come from.
const SERVER: &str = r#"
import http.server, socket, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = (self.client_address[0].removeprefix("::ffff:") + " " + str(self.client_address[1])).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1] + "/tls.crt", sys.argv[1] + "/tls.key")
server = Server(("::", int(sys.argv[2])), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

/// A certificate for a name and those below it, as `tls.crt` with `tls.key`.
pub fn certificate(dir: &Path, name: &str) {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args(["-nodes", "-days", "2", "-subj"])
        .arg(format!("/CN={name}"))
        .arg("-addext")
        .arg(format!("subjectAltName=DNS:{name},DNS:*.{name}"))
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(dir.join("tls.key"))
        .arg("-out")
        .arg(dir.join("tls.crt"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// A server of HTTPS, with a certificate for all names below `a.org`; gone with the test.
pub struct Https {
    pub port: u16,
    child: Child,
    dir: PathBuf,
}

impl Https {
    /// At this port, or any for zero.
    pub fn new(dir: &Path, port: u16) -> Self {
        certificate(dir, "a.org");
        let mut child = Command::new("python3")
            .args(["-c", SERVER])
            .arg(dir)
            .arg(port.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        Self {
            port: line.trim().parse().unwrap(),
            child,
            dir: dir.to_owned(),
        }
    }

    /// `curl` to a name that is at this address.
    pub fn curl(&self, name: &str, at: SocketAddr) -> Output {
        let authority = self.dir.join("tls.crt");
        curl(name, at, &authority, &["/"])
    }
}

/// `curl` to a name that is at this address, believing an authority; a path, and more arguments.
pub fn curl(name: &str, at: SocketAddr, authority: &Path, what: &[&str]) -> Output {
    let ip = match at {
        SocketAddr::V4(at) => at.ip().to_string(),
        SocketAddr::V6(at) => format!("[{}]", at.ip()),
    };
    Command::new("curl")
        .args(["-sS", "--noproxy", "*", "--max-time", "30", "--resolve"])
        .arg(format!("{name}:{}:{ip}", at.port()))
        .arg("--cacert")
        .arg(authority)
        .args(&what[1..])
        .arg(format!("https://{name}:{}{}", at.port(), what[0]))
        .output()
        .unwrap()
}

impl Drop for Https {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether it ended as clients end that are told that they may not.
pub fn is_denied(output: &Output) -> bool {
    let text = String::from_utf8_lossy(&output.stderr);
    output.status.code() == Some(35) && text.contains("access denied")
}

pub fn names(version: u64, names: &[&str]) -> Snapshot {
    let rule = |name: &&str| TlsRule {
        server_name: (*name).to_owned(),
    };
    let rules = Rules::Tls(names.iter().map(rule).collect());
    snapshot(version, Transport::Tcp, PORT, rules)
}

pub struct World {
    pub proxy: SocketAddr,
    pub records: Records,
    policy: watch::Sender<Arc<Policy>>,
    origin: Arc<Plain>,
    _drainer: Drainer,
}

impl World {
    pub async fn new(origin: Arc<Plain>, snapshot: &Snapshot) -> Self {
        let policy = watch::Sender::new(Arc::new(Policy::compile(snapshot, None)));
        let (recorder, records) = record::channel(1000);
        let (drainer, drain) = drain::channel();
        let limits = Limits::default();
        let http = http::Engine::new(
            policy.subscribe(),
            origin.clone(),
            recorder.clone(),
            http::Limits::default(),
            drain.clone(),
        );
        let engine = Engine::new(
            policy.subscribe(),
            origin.clone(),
            recorder,
            limits,
            drain,
            http,
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = listener.local_addr().unwrap();
        tokio::spawn(async move { engine.run(listener).await });
        Self {
            proxy,
            records,
            policy,
            origin,
            _drainer: drainer,
        }
    }

    pub fn change(&self, snapshot: &Snapshot) {
        let next = Policy::compile(snapshot, Some(&self.policy.borrow()));
        self.policy.send_replace(Arc::new(next));
    }

    /// What became of the next connection, whose rules said so, and the name.
    async fn seen(&mut self) -> (Verdict, Direction, Option<String>) {
        let record = soon(self.records.next()).await.unwrap();
        match record.layer7 {
            Layer7::Tls(tls) => (record.verdict, record.direction, tls.server_name),
            other => panic!("{other:?}"),
        }
    }

    /// A connection through the proxy to a server of the test's own, after the hello.
    async fn greeted(&self, server: &TcpListener, hello: &[u8]) -> (TcpStream, TcpStream) {
        let mut client = TcpStream::connect(self.proxy).await.unwrap();
        client.write_all(hello).await.unwrap();
        let (mut accepted, _) = soon(server.accept()).await.unwrap();
        let mut got = vec![0; hello.len()];
        soon(accepted.read_exact(&mut got)).await.unwrap();
        assert_eq!(got, hello);
        (client, accepted)
    }
}

/// A hello for a name, in records of so many bytes.
fn hello(name: &str, each: usize) -> Vec<u8> {
    let long = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
    let entry = [&[0][..], &long(name.len()), name.as_bytes()].concat();
    let list = [&long(entry.len())[..], &entry].concat();
    let extension = [&[0, 0][..], &long(list.len()), &list].concat();
    let mut body = vec![3; 34];
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(long(extension.len()));
    body.extend(extension);
    let message = [&[1, 0][..], &long(body.len()), &body].concat();
    let record = |part: &[u8]| [&[22, 3, 1][..], &long(part.len()), part].concat();
    message.chunks(each).flat_map(record).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_reach_servers_whose_names_are_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Arc::new(Https::new(dir.path(), 0));
    let at = SocketAddr::new("127.0.0.1".parse().unwrap(), server.port);
    let rules = names(1, &["a.org", "**.sub.a.org", "*.a.org"]);
    let mut world = World::new(Plain::new(at, PORT), &rules).await;
    let proxy = world.proxy;
    for (name, passes) in [("a.org", true), ("b.a.org", true), ("c.org", false)] {
        let server = server.clone();
        let output = tokio::task::spawn_blocking(move || server.curl(name, proxy));
        let output = output.await.unwrap();
        assert_eq!(output.status.success(), passes, "{name} {output:?}");
        assert_eq!(is_denied(&output), !passes, "{name} {output:?}");
        let verdict = if passes {
            Verdict::Forwarded
        } else {
            Verdict::Denied
        };
        let expected = (verdict, Direction::Egress, Some(name.to_owned()));
        assert_eq!(world.seen().await, expected);
    }
    let client = |words: &'static [&str]| {
        tokio::task::spawn_blocking(move || {
            let mut command = Command::new("openssl");
            command.args(["s_client", "-connect", &proxy.to_string()]);
            command.args(words).stdin(Stdio::null()).output().unwrap()
        })
    };
    for words in [
        &["-servername", "b.a.org", "-tls1_2"][..],
        &["-servername", "x.sub.a.org"],
    ] {
        let output = client(words).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains("CN=a.org") || text.contains("CN = a.org"),
            "{text}"
        );
        assert_eq!(world.seen().await.0, Verdict::Forwarded);
    }
    // Without a name there is none that is allowed.
    let output = client(&["-noservername"]).await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("access denied"), "{output:?}");
    assert_eq!(
        world.seen().await,
        (Verdict::Denied, Direction::Egress, None)
    );
}

#[tokio::test]
async fn bytes_pass_as_they_are_and_sides_end_one_by_one() {
    let (address, server) = raw_server().await;
    let world = World::new(Plain::new(address, PORT), &names(1, &["*.a.org"])).await;
    for each in [7, 4096] {
        let hello = hello("b.a.org", each);
        // Byte by byte, too.
        let mut client = TcpStream::connect(world.proxy).await.unwrap();
        client.set_nodelay(true).unwrap();
        for byte in &hello {
            client.write_all(&[*byte]).await.unwrap();
        }
        let (mut accepted, _) = soon(server.accept()).await.unwrap();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
        let (mut from_client, mut to_server) = client.split();
        let upload = async {
            to_server.write_all(&sent).await.unwrap();
            to_server.shutdown().await.unwrap();
        };
        let download = async {
            let mut got = Vec::new();
            accepted.read_to_end(&mut got).await.unwrap();
            assert!(got.strip_prefix(&hello[..]) == Some(&sent), "{}", got.len());
            // The client has ended its side, and hears the server's to its end.
            accepted.write_all(&sent).await.unwrap();
            accepted.shutdown().await.unwrap();
        };
        let answer = async {
            let mut got = Vec::new();
            from_client.read_to_end(&mut got).await.unwrap();
            assert!(got == sent, "{}", got.len());
        };
        soon(async { tokio::join!(upload, download, answer) }).await;
    }
}

#[tokio::test]
async fn what_is_no_tls_and_what_is_too_much_reaches_no_server() {
    let (address, _server) = raw_server().await;
    let mut world = World::new(Plain::new(address, PORT), &names(1, &["**"])).await;
    let long = [&[22, 3, 1, 64, 0, 1, 1, 0, 1][..], &[0; 20_000]].concat();
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: a.org\r\n\r\n"[..],
        b"\x80\x2e\x01\x03\x01",
        &long,
    ] {
        let mut client = TcpStream::connect(world.proxy).await.unwrap();
        client.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = soon(client.read_to_end(&mut answer)).await;
        assert!(answer.is_empty(), "{answer:?}");
        assert_eq!(
            world.seen().await,
            (Verdict::Denied, Direction::Egress, None)
        );
    }
    let connections = &world.origin.connections;
    assert_eq!(connections.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_connection_ends_when_its_name_is_allowed_no_longer() {
    let (address, server) = raw_server().await;
    let world = World::new(Plain::new(address, PORT), &names(1, &["a.org"])).await;
    let (mut client, mut accepted) = world.greeted(&server, &hello("a.org", 4096)).await;
    world.change(&names(2, &["b.org", "a.org"]));
    client.write_all(b"still").await.unwrap();
    let mut got = [0; 5];
    soon(accepted.read_exact(&mut got)).await.unwrap();
    world.change(&names(3, &["b.org"]));
    assert!(soon(client.read_u8()).await.is_err());
    assert!(soon(accepted.read_u8()).await.is_err());
    // A rule without names: whatever it is, and whoever begins.
    world.change(&snapshot(4, Transport::Tcp, PORT, Rules::All));
    let mut client = TcpStream::connect(world.proxy).await.unwrap();
    let (mut accepted, _) = soon(server.accept()).await.unwrap();
    accepted.write_all(b"220 ").await.unwrap();
    soon(client.read_exact(&mut got[..4])).await.unwrap();
    assert_eq!(&got[..4], b"220 ");
}

#[tokio::test]
async fn both_ends_must_allow_the_name() {
    let (address, server) = raw_server().await;
    let both = |version, of_server: &[&str]| {
        let mut all = names(version, &["a.org", "b.org"]);
        let mut guard = names(version, of_server).endpoints.remove(0);
        guard.id = ENDPOINT + 1;
        guard.ports[0].direction = Direction::Ingress;
        guard.ports[0].peers = None;
        all.endpoints.push(guard);
        all
    };
    let origin = Plain::guarded(address, PORT, ENDPOINT + 1);
    let mut world = World::new(origin, &both(1, &["b.org", "c.org"])).await;
    for (name, direction) in [("a.org", Direction::Ingress), ("c.org", Direction::Egress)] {
        let mut client = TcpStream::connect(world.proxy).await.unwrap();
        client.write_all(&hello(name, 4096)).await.unwrap();
        let mut answer = Vec::new();
        soon(client.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, [21, 3, 1, 0, 2, 2, 49]);
        let expected = (Verdict::Denied, direction, Some(name.to_owned()));
        assert_eq!(world.seen().await, expected);
    }
    world.greeted(&server, &hello("b.org", 4096)).await;
    assert_eq!(world.seen().await.0, Verdict::Forwarded);
}
