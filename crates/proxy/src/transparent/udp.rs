//! Datagrams that were meant for somebody else.
use crate::origin;
use futures::future::BoxFuture;
use nix::{
    cmsg_space, libc,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg,
        setsockopt, sockopt,
    },
};
use socket2::{Socket, Type};
use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket as StdUdp},
    os::fd::AsRawFd,
};
use tokio::{io::Interest, net::UdpSocket};

/// Has the kernel tell where each datagram was meant to go.
pub(super) fn tell_destinations(socket: &Socket, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        setsockopt(socket, sockopt::Ipv6OrigDstAddr, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv4OrigDstAddr, &true)?;
    }
    Ok(())
}

/// A transparent socket: each datagram has its own destination, and answers come from there.
pub struct Datagrams(UdpSocket);

impl Datagrams {
    /// Wraps what [`datagrams`](super::datagrams) has made.
    #[must_use]
    pub fn new(socket: UdpSocket) -> Self {
        Self(socket)
    }

    fn receive_now(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, SocketAddr)> {
        let mut parts = [IoSliceMut::new(buffer)];
        let mut control = cmsg_space!(libc::sockaddr_in6);
        let message = recvmsg::<SockaddrStorage>(
            self.0.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let unknown = |what| io::Error::other(format!("a datagram without its {what}"));
        let destination = message.cmsgs()?.find_map(|part| match part {
            ControlMessageOwned::Ipv4OrigDstAddr(address) => {
                Some(SocketAddrV4::from(SockaddrIn::from(address)).into())
            }
            ControlMessageOwned::Ipv6OrigDstAddr(address) => {
                Some(plain(SocketAddrV6::from(SockaddrIn6::from(address))))
            }
            _ => None,
        });
        let source = message.address.as_ref().and_then(|address| {
            let four = address.as_sockaddr_in().copied();
            let four = four.map(|address| SocketAddrV4::from(address).into());
            four.or_else(|| Some(plain(SocketAddrV6::from(*address.as_sockaddr_in6()?))))
        });
        let length = message.bytes;
        Ok((
            length,
            source.ok_or_else(|| unknown("source"))?,
            destination.ok_or_else(|| unknown("destination"))?,
        ))
    }
}

/// Flow labels and scopes are no part of who it is.
fn plain(address: SocketAddrV6) -> SocketAddr {
    SocketAddr::new((*address.ip()).into(), address.port())
}

impl origin::Datagrams for Datagrams {
    fn receive<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> BoxFuture<'a, io::Result<(usize, SocketAddr, SocketAddr)>> {
        Box::pin(async move {
            self.0
                .async_io(Interest::READABLE, || self.receive_now(buffer))
                .await
        })
    }

    fn send<'a>(
        &'a self,
        bytes: &'a [u8],
        client: SocketAddr,
        destination: SocketAddr,
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            // Made for this answer: it has the server's port as well as its address. Connected, it takes nobody else's question.
            let socket = super::bound(Type::DGRAM, destination)?;
            socket.connect(&client.into())?;
            let socket = UdpSocket::from_std(StdUdp::from(socket))?;
            socket.send(bytes).await.map(drop)
        })
    }
}
