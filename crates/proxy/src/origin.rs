//! Whose connection it is, and how the other leg is made: told by whoever hands connections over.
use crate::{
    config::{Direction, Transport},
    policy::Scope,
};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::{io, net::SocketAddr};
use tokio::net::{TcpStream, UdpSocket};

/// Both ends of a connection that was handed over, and whose rules it must meet.
///
/// Where client and server are both on this node and both have rules, each must allow what is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Session {
    /// The client.
    pub source: SocketAddr,
    /// Where the client meant to go.
    pub destination: SocketAddr,
    /// Identity of the client.
    pub client: u32,
    /// Identity of the server.
    pub server: u32,
    /// The client's endpoint, where its rules hold.
    pub egress: Option<u32>,
    /// The server's endpoint, where its rules hold.
    pub ingress: Option<u32>,
}

impl Session {
    /// Whose rules are asked, the client's first.
    pub fn scopes(&self, transport: Transport) -> impl Iterator<Item = Scope> + use<> {
        let port = self.destination.port();
        let scope = move |direction, peer| {
            move |endpoint| Scope {
                endpoint,
                direction,
                transport,
                port,
                peer,
            }
        };
        let egress = self.egress.map(scope(Direction::Egress, self.server));
        let ingress = self.ingress.map(scope(Direction::Ingress, self.client));
        egress.into_iter().chain(ingress)
    }

    /// The end whose rules are asked last.
    #[must_use]
    pub fn last(&self) -> Direction {
        match self.ingress {
            Some(_) => Direction::Ingress,
            None => Direction::Egress,
        }
    }

    /// The endpoint of this node that asks, or is asked; zero: there is none.
    #[must_use]
    pub fn endpoint(&self) -> u32 {
        self.egress.or(self.ingress).unwrap_or(0)
    }
}

/// What knows the addresses of connections that were handed over, and connects in the client's name.
///
/// With transparent sockets the original destination is the accepted socket's own address, and the second leg is bound to
/// the client's; tests use plain addresses.
pub trait Origin: Send + Sync + 'static {
    /// Both ends of an accepted connection.
    ///
    /// # Errors
    /// They are not known, and the connection is closed.
    fn accepted(&self, stream: &TcpStream) -> io::Result<Session>;

    /// Both ends of a datagram from `source` that was sent to `destination`.
    ///
    /// # Errors
    /// They are not known, and the datagram is dropped.
    fn datagram(&self, source: SocketAddr, destination: SocketAddr) -> io::Result<Session>;

    /// A new connection to the original destination in the client's name. Each session gets its own: connections of different
    /// clients never meet in one.
    ///
    /// # Errors
    /// It cannot be reached.
    fn connect<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, io::Result<TcpStream>>;

    /// A new socket from a random port, connected to the original destination.
    ///
    /// # Errors
    /// There is none to be had.
    fn connect_udp<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, io::Result<UdpSocket>>;
}

/// A socket of datagrams that knows where each was meant to go.
pub trait Datagrams: Send + Sync + 'static {
    /// The next one: its length, its source, and its original destination.
    fn receive<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> BoxFuture<'a, io::Result<(usize, SocketAddr, SocketAddr)>>;

    /// Sends one to a client as if from the original destination.
    fn send<'a>(
        &'a self,
        bytes: &'a [u8],
        client: SocketAddr,
        destination: SocketAddr,
    ) -> BoxFuture<'a, io::Result<()>>;
}

/// An ordinary socket: its own address is the destination of all that it gets.
impl Datagrams for UdpSocket {
    fn receive<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> BoxFuture<'a, io::Result<(usize, SocketAddr, SocketAddr)>> {
        Box::pin(async move {
            let (length, source) = self.recv_from(buffer).await?;
            Ok((length, source, self.local_addr()?))
        })
    }

    fn send<'a>(
        &'a self,
        bytes: &'a [u8],
        client: SocketAddr,
        _destination: SocketAddr,
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move { self.send_to(bytes, client).await.map(drop) })
    }
}
