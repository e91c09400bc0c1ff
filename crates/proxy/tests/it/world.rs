//! A proxy between clients and servers on the loopback.
use futures::future::BoxFuture;
use hypha_proxy::{
    config::{
        Direction, DnsRule, Endpoint, HttpRule, PortRules, Rules, Settings, Snapshot, Transport,
    },
    drain::{self, Drainer},
    http::{Engine, Limits},
    origin::{Origin, Session},
    policy::Policy,
    record::{self, Record, Records},
};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
};

pub const ENDPOINT: u32 = 7;
pub const PEER: u32 = 300;
pub const PORT: u16 = 80;

/// Everything meant one server, whose port counts as `port` for the rules.
pub struct Plain {
    pub server: SocketAddr,
    pub port: u16,
    /// The server's endpoint, where it has rules of its own.
    pub ingress: Option<u32>,
    /// How many connections were made to it.
    pub connections: AtomicUsize,
}

impl Plain {
    pub fn new(server: SocketAddr, port: u16) -> Arc<Self> {
        let connections = AtomicUsize::new(0);
        Arc::new(Self {
            server,
            port,
            ingress: None,
            connections,
        })
    }

    /// As [`new`](Self::new), with a server that has rules, too.
    pub fn guarded(server: SocketAddr, port: u16, ingress: u32) -> Arc<Self> {
        Arc::new(Self {
            server,
            port,
            ingress: Some(ingress),
            connections: AtomicUsize::new(0),
        })
    }

    fn session(&self, source: SocketAddr) -> Session {
        Session {
            source,
            destination: SocketAddr::new(self.server.ip(), self.port),
            client: 0,
            server: PEER,
            egress: Some(ENDPOINT),
            ingress: self.ingress,
        }
    }
}

impl Origin for Plain {
    fn accepted(&self, stream: &TcpStream) -> io::Result<Session> {
        Ok(self.session(stream.peer_addr()?))
    }

    fn datagram(&self, source: SocketAddr, _: SocketAddr) -> io::Result<Session> {
        Ok(self.session(source))
    }

    fn connect<'a>(&'a self, _: &'a Session) -> BoxFuture<'a, io::Result<TcpStream>> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Box::pin(TcpStream::connect(self.server))
    }

    fn connect_udp<'a>(&'a self, _: &'a Session) -> BoxFuture<'a, io::Result<UdpSocket>> {
        Box::pin(async {
            let socket = UdpSocket::bind("127.0.0.1:0").await?;
            socket.connect(self.server).await?;
            Ok(socket)
        })
    }
}

pub fn snapshot(version: u64, transport: Transport, port: u16, rules: Rules) -> Snapshot {
    let entry = PortRules {
        direction: Direction::Egress,
        transport,
        first: port,
        last: port,
        peers: Some(vec![PEER]),
        origin: "shop/web".into(),
        rules,
    };
    Snapshot {
        version,
        settings: Settings::default(),
        endpoints: vec![Endpoint {
            id: ENDPOINT,
            ports: vec![entry],
            ..Endpoint::default()
        }],
    }
}

pub fn http_rules(version: u64, rules: Vec<HttpRule>) -> Snapshot {
    snapshot(version, Transport::Tcp, PORT, Rules::Http(rules))
}

/// Names over both transports.
pub fn dns_rules(version: u64, rules: Vec<DnsRule>) -> Snapshot {
    let mut all = snapshot(version, Transport::Udp, 53, Rules::Dns(rules.clone()));
    let tcp = snapshot(version, Transport::Tcp, 53, Rules::Dns(rules));
    for mut endpoint in tcp.endpoints {
        all.endpoints[0].ports.append(&mut endpoint.ports);
    }
    all
}

pub fn rule(method: &str, path: &str) -> HttpRule {
    HttpRule {
        method: Some(method.into()),
        path: Some(path.into()),
        ..HttpRule::default()
    }
}

/// A proxy of HTTP before one server.
pub struct World {
    pub proxy: SocketAddr,
    pub records: Records,
    pub policy: watch::Sender<Arc<Policy>>,
    pub origin: Arc<Plain>,
    pub drainer: Drainer,
}

impl World {
    pub async fn new(server: SocketAddr, rules: Vec<HttpRule>) -> Self {
        Self::with(server, rules, Limits::default()).await
    }

    pub async fn with(server: SocketAddr, rules: Vec<HttpRule>, limits: Limits) -> Self {
        Self::of(Plain::new(server, PORT), &http_rules(1, rules), limits).await
    }

    pub async fn of(origin: Arc<Plain>, snapshot: &Snapshot, limits: Limits) -> Self {
        let policy = Policy::compile(snapshot, None);
        let policy = watch::Sender::new(Arc::new(policy));
        let (recorder, records) = record::channel(1000);
        let (drainer, drain) = drain::channel();
        let engine = Engine::new(policy.subscribe(), origin.clone(), recorder, limits, drain);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = listener.local_addr().unwrap();
        tokio::spawn(async move { engine.run(listener).await });
        Self {
            proxy,
            records,
            policy,
            origin,
            drainer,
        }
    }

    pub fn change(&self, snapshot: &Snapshot) {
        let next = Policy::compile(snapshot, Some(&self.policy.borrow()));
        self.policy.send_replace(Arc::new(next));
    }

    pub async fn record(&mut self) -> Record {
        soon(self.records.next()).await.unwrap()
    }

    /// Sends bytes, ends the sending side only if told so, and reads to the end.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.proxy).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is as good as an end.
        let _ = soon(stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Waits for what must come, as long as a slow machine may take.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what)
        .await
        .expect("it never came")
}

/// A server that speaks any HTTP: it answers with what it was asked, header by header and then the body.
pub async fn echo() -> SocketAddr {
    use http_body_util::{BodyExt, Full};
    use hyper::{Request, Response, body::Incoming, service::service_fn};
    use hyper_util::{
        rt::{TokioExecutor, TokioIo},
        server::conn::auto,
    };
    async fn answer(request: Request<Incoming>) -> hyper::Result<Response<Full<bytes::Bytes>>> {
        let mut text = format!(
            "{} {} {:?}\n",
            request.method(),
            request.uri(),
            request.version()
        );
        for (name, value) in request.headers() {
            text += &format!("{name}: {}\n", value.to_str().unwrap());
        }
        let body = request.into_body().collect().await?.to_bytes();
        text += &format!("\n{}", String::from_utf8_lossy(&body));
        Ok(Response::new(Full::from(text)))
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service_fn(answer))
                    .await;
            });
        }
    });
    address
}

/// A server whose bytes the test itself reads and writes.
pub async fn raw_server() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap(), listener)
}

/// Reads until the text is there.
pub async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut all = Vec::new();
    let mut space = [0; 4096];
    soon(async {
        while !String::from_utf8_lossy(&all).contains(end) {
            let got = stream.read(&mut space).await.unwrap();
            assert_ne!(
                got,
                0,
                "the end came before {end:?}: {}",
                String::from_utf8_lossy(&all)
            );
            all.extend_from_slice(&space[..got]);
        }
    })
    .await;
    String::from_utf8(all).unwrap()
}
