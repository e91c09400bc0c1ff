//! Connections that the datapath hands over: both legs keep the client's and the server's addresses.
//!
//! ```text
//! client ─ leg 1: to the server's address, answered from it ─ this process ─ leg 2: from the client's address, another port ─ server
//! ```
//!
//! The original destination is the accepted socket's own address. Whose rules hold is what the datapath noted when it handed the
//! connection over ([`Sessions`]). The second leg takes a port that clients do not take by themselves, so that nobody mistakes one leg
//! for the other.
mod udp;

pub use udp::Datagrams;

use crate::{
    config::Transport,
    origin::{Origin, Session},
};
use futures::future::BoxFuture;
use socket2::{Domain, Socket, Type};
use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream as StdStream, UdpSocket as StdUdp},
    ops::RangeInclusive,
    os::fd::OwnedFd,
    time::Duration,
};
use tokio::{
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

/// How many ports are tried for a second leg. With nine of ten taken, one of so many is free all but always.
const ATTEMPTS: u16 = 128;
/// How long the first port may take to connect; each further one has twice as long.
const PATIENCE: Duration = Duration::from_secs(1);
/// Connections that wait to be accepted; the kernel cuts it to what it allows.
const BACKLOG: i32 = 4096;

/// What the datapath noted of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Identity of the client.
    pub client: u32,
    /// Identity of the server.
    pub server: u32,
    /// The client's endpoint, where its rules hold.
    pub egress: Option<u32>,
    /// The server's endpoint, where its rules hold.
    pub ingress: Option<u32>,
}

/// Who knows what the datapath noted.
pub trait Sessions: Send + Sync + 'static {
    /// What was noted of the connection from `source` to `destination`; `None` where it was not handed over.
    ///
    /// # Errors
    /// It cannot be looked up.
    fn lookup(
        &self,
        transport: Transport,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> io::Result<Option<Noted>>;
}

/// The origin of connections that come by transparent sockets.
pub struct Transparent<S> {
    sessions: S,
    ports: RangeInclusive<u16>,
}

impl<S: Sessions> Transparent<S> {
    /// Second legs come from these ports.
    pub fn new(sessions: S, ports: RangeInclusive<u16>) -> Self {
        Self { sessions, ports }
    }

    fn session(
        &self,
        transport: Transport,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> io::Result<Session> {
        let noted = self.sessions.lookup(transport, source, destination)?;
        let noted = noted.ok_or_else(|| {
            let why = format!("{source} to {destination} was not handed over by the datapath");
            io::Error::new(io::ErrorKind::NotFound, why)
        })?;
        Ok(Session {
            source,
            destination,
            client: noted.client,
            server: noted.server,
            egress: noted.egress,
            ingress: noted.ingress,
        })
    }

    /// Places for the second leg, from a random one on. None of them is a connection of the client's own.
    fn places(
        &self,
        transport: Transport,
        session: Session,
    ) -> io::Result<impl Iterator<Item = SocketAddr>> {
        let mut random = [0; 2];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let start = u16::from_ne_bytes(random);
        let (first, count) = (*self.ports.start(), self.ports.len().max(1));
        let place = move |n: u16| {
            // A step without a factor in common with most counts: neighbours are taken by neighbours' clients.
            let step = usize::from(start) + usize::from(n) * 7919;
            let port = usize::from(first) + step % count;
            SocketAddr::new(session.source.ip(), u16::try_from(port).unwrap_or(first))
        };
        let is_free = move |place: &SocketAddr| {
            let own = self.sessions.lookup(transport, *place, session.destination);
            place.port() != session.source.port() && !matches!(own, Ok(Some(_)))
        };
        Ok((0..ATTEMPTS).map(place).filter(is_free))
    }
}

/// Whether another port may do.
fn is_taken(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable};
    matches!(error.kind(), AddrInUse | AddrNotAvailable)
}

fn no_port(session: &Session) -> io::Error {
    let why = format!(
        "no port is left for {} to {}",
        session.source.ip(),
        session.destination
    );
    io::Error::new(io::ErrorKind::AddrInUse, why)
}

impl<S: Sessions> Origin for Transparent<S> {
    fn accepted(&self, stream: &TcpStream) -> io::Result<Session> {
        self.session(Transport::Tcp, stream.peer_addr()?, stream.local_addr()?)
    }

    fn datagram(&self, source: SocketAddr, destination: SocketAddr) -> io::Result<Session> {
        self.session(Transport::Udp, source, destination)
    }

    fn connect<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, io::Result<TcpStream>> {
        Box::pin(async move {
            for (n, place) in self.places(Transport::Tcp, *session)?.enumerate() {
                let connected = async {
                    let socket = StdStream::from(bound(Type::STREAM, place)?);
                    let socket = TcpSocket::from_std_stream(socket);
                    socket.connect(session.destination).await
                };
                match timeout(PATIENCE * (1 << n.min(3)), connected).await {
                    // Where the datapath has such a connection of somebody else's, nothing is answered.
                    Err(_late) => {}
                    Ok(Err(error)) if is_taken(&error) => {}
                    Ok(done) => return done,
                }
            }
            Err(no_port(session))
        })
    }

    fn connect_udp<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, io::Result<UdpSocket>> {
        Box::pin(async move {
            for place in self.places(Transport::Udp, *session)? {
                // Two sockets of one place could get each other's answers: no address is used twice.
                let socket = transparent(Type::DGRAM, place)?;
                let connected = socket
                    .bind(&place.into())
                    .and_then(|()| socket.connect(&session.destination.into()));
                match connected {
                    Ok(()) => return UdpSocket::from_std(StdUdp::from(socket)),
                    Err(error) if is_taken(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            Err(no_port(session))
        })
    }
}

/// A socket that may have others' addresses.
fn transparent(kind: Type, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_ip_transparent_v6(true)?;
    } else {
        socket.set_ip_transparent_v4(true)?;
    }
    Ok(socket)
}

fn bound(kind: Type, address: SocketAddr) -> io::Result<Socket> {
    let socket = transparent(kind, address)?;
    // One address may be that of many sockets, as long as they go to different places.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A listener that accepts connections to any address.
///
/// # Errors
/// The address is taken, or the process may not do that.
pub fn listen(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = bound(Type::STREAM, address)?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from(socket).into())
}

/// A socket of datagrams to any address, for [`Datagrams`].
///
/// # Errors
/// The address is taken, or the process may not do that.
pub fn datagrams(address: SocketAddr) -> io::Result<OwnedFd> {
    // Answers come from sockets of their own, which may have the same port.
    let socket = bound(Type::DGRAM, address)?;
    udp::tell_destinations(&socket, address.is_ipv6())?;
    Ok(StdUdp::from(socket).into())
}
