//! Our proxy as the others are: on a plain socket, before one server.
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use futures::future::BoxFuture;
use proxy::{
    config::{
        Direction, DnsRule, Endpoint, HttpRule, PortRules, Rules, Settings, Snapshot, Transport,
    },
    origin::{Origin, Session},
    server::{Config, Kind, Listen, Server},
    store::Store,
};
use tokio::net::{TcpStream, UdpSocket};

const ENDPOINT: u32 = 7;

/// What is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    Http,
    Dns,
}

/// Arguments of the process.
#[derive(Args)]
pub struct Drive {
    protocol: Protocol,
    dir: PathBuf,
    address: SocketAddr,
    server: SocketAddr,
}

/// How the process is started.
pub fn command(
    protocol: Protocol,
    dir: &Path,
    address: SocketAddr,
    server: SocketAddr,
) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    let protocol = protocol.to_possible_value().context("no such protocol")?;
    command.args(["drive-proxy", protocol.get_name()]);
    command
        .arg(dir)
        .args([address.to_string(), server.to_string()]);
    Ok(command)
}

/// Serves until it is killed, with as many threads as `hypha proxy`.
///
/// # Errors
/// It cannot.
pub fn drive(drive: &Drive) -> Result<()> {
    datapath::share_heap();
    let state = drive.dir.join("state");
    let (kind, transport, rules) = match drive.protocol {
        Protocol::Http => {
            let rule = HttpRule {
                method: Some("POST".into()),
                path: Some("/v1/request-landing".into()),
                ..HttpRule::default()
            };
            (Kind::Http, Transport::Tcp, Rules::Http(vec![rule]))
        }
        Protocol::Dns => {
            let rule = DnsRule::MatchPattern("*.example".into());
            let kind = Kind::Dns(Transport::Udp);
            (kind, Transport::Udp, Rules::Dns(vec![rule]))
        }
    };
    let port = drive.server.port();
    let entry = PortRules {
        direction: Direction::Egress,
        transport,
        first: port,
        last: port,
        peers: None,
        origin: "bench".into(),
        rules,
    };
    Store::open(&state)?.save(&Snapshot {
        version: 1,
        settings: Settings::default(),
        endpoints: vec![Endpoint {
            id: ENDPOINT,
            ports: vec![entry],
            ..Endpoint::default()
        }],
    })?;
    let listen = Listen {
        name: "bench".into(),
        address: drive.address,
        kind,
    };
    let config = Config::new(state, drive.dir.join("run"), vec![listen]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(2)
        .enable_all()
        .build()?;
    let origin = Arc::new(Before(drive.server));
    runtime.block_on(async {
        let _server = Server::start(config, origin).await?;
        std::future::pending().await
    })
}

/// Everything is meant for one server.
struct Before(SocketAddr);

impl Before {
    fn session(&self, source: SocketAddr) -> Session {
        Session {
            source,
            destination: self.0,
            client: 0,
            server: 0,
            egress: Some(ENDPOINT),
            ingress: None,
        }
    }
}

impl Origin for Before {
    fn accepted(&self, stream: &TcpStream) -> io::Result<Session> {
        Ok(self.session(stream.peer_addr()?))
    }

    fn datagram(&self, source: SocketAddr, _: SocketAddr) -> io::Result<Session> {
        Ok(self.session(source))
    }

    fn connect<'a>(&'a self, _: &'a Session) -> BoxFuture<'a, io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(self.0))
    }

    fn connect_udp<'a>(&'a self, _: &'a Session) -> BoxFuture<'a, io::Result<UdpSocket>> {
        Box::pin(async {
            let socket = UdpSocket::bind("127.0.0.1:0").await?;
            socket.connect(self.0).await?;
            Ok(socket)
        })
    }
}
