//! Whose connection it is, and how the other leg is made: told by whoever hands connections over.
use crate::{
    config::{Direction, Transport},
    policy::Scope,
};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::{io, net::SocketAddr};
use tokio::net::{TcpStream, UdpSocket};

/// Both ends of a connection that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Session {
    /// The client.
    pub source: SocketAddr,
    /// Where the client meant to go.
    pub destination: SocketAddr,
    /// The endpoint of this node whose rules hold.
    pub endpoint: u32,
    /// Which end it is.
    pub direction: Direction,
    /// Identity of the other end.
    pub peer: u32,
}

impl Session {
    /// Whose rules are asked.
    #[must_use]
    pub fn scope(&self, transport: Transport) -> Scope {
        Scope {
            endpoint: self.endpoint,
            direction: self.direction,
            transport,
            port: self.destination.port(),
            peer: self.peer,
        }
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
