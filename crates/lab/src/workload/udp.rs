//! The UDP side of the built-in server. Answers leave from the address that was asked, whichever of the machine's
//! addresses that is; so the sockets ask for packet information and are plain blocking ones on threads of their own.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::Context;
use nix::libc::{in_addr, in_pktinfo, in6_pktinfo};
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
};

/// What to answer.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    /// The datagram itself.
    Same,
    /// The sender's address and port as text.
    Sender,
    /// What `agnhost netexec` answers to `hostname`, `clientip` and `echo …`.
    Netexec,
}

/// The address that was asked.
enum Asked {
    V4(in_pktinfo),
    V6(in6_pktinfo),
    Unknown,
}

pub(super) fn start(port: u16, answer: Answer) -> anyhow::Result<()> {
    let socket = open(port).with_context(|| format!("cannot listen on UDP port {port}"))?;
    let run = move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            // A refused answer (the client's port is closed) shows as an error of the next call: nothing to do about it.
            let _ = serve_one(&socket, &mut buffer, answer);
        }
    };
    std::thread::Builder::new()
        .name(format!("udp-{port}"))
        .stack_size(128 << 10)
        .spawn(run)
        .context("no thread")?;
    Ok(())
}

fn open(port: u16) -> std::io::Result<UdpSocket> {
    let [v6, v4] = super::wildcards(port);
    match UdpSocket::bind(v6) {
        Ok(socket) => {
            setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
            Ok(socket)
        }
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => Err(e),
        Err(_) => {
            let socket = UdpSocket::bind(v4)?;
            setsockopt(&socket, Ipv4PacketInfo, &true)?;
            Ok(socket)
        }
    }
}

fn serve_one(socket: &UdpSocket, buffer: &mut [u8], answer: Answer) -> nix::Result<()> {
    let fd = socket.as_raw_fd();
    let mut control = nix::cmsg_space!(in6_pktinfo, in_pktinfo);
    let (len, from, asked) = {
        let mut parts = [IoSliceMut::new(buffer)];
        let got =
            recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::empty())?;
        let asked = got
            .cmsgs()?
            .fold(Asked::Unknown, |found, message| match message {
                ControlMessageOwned::Ipv4PacketInfo(info) => Asked::V4(info),
                ControlMessageOwned::Ipv6PacketInfo(info) => Asked::V6(info),
                _ => found,
            });
        (got.bytes, got.address, asked)
    };
    let Some(from) = from else { return Ok(()) };
    let text;
    let payload: &[u8] = match answer {
        Answer::Same => &buffer[..len],
        Answer::Netexec => {
            text = netexec(&buffer[..len], &from);
            text.as_bytes()
        }
        Answer::Sender => {
            text = sender(&from).map(|a| a.to_string()).unwrap_or_default();
            text.as_bytes()
        }
    };
    send(fd, payload, &from, asked)
}

fn netexec(request: &[u8], from: &SockaddrStorage) -> String {
    let request = String::from_utf8_lossy(request);
    let request = request.trim();
    match request.split_once(' ') {
        Some(("echo", rest)) => rest.to_owned(),
        _ if request.eq_ignore_ascii_case("hostname") => super::http::hostname(),
        _ if request == "clientip" => sender(from).map(|a| a.to_string()).unwrap_or_default(),
        _ => String::new(),
    }
}

fn send(fd: i32, payload: &[u8], to: &SockaddrStorage, asked: Asked) -> nix::Result<()> {
    let parts = [IoSlice::new(payload)];
    // The source address is asked for, the link is left to the routes.
    let v4 = |i: in_pktinfo| in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: i.ipi_addr,
        ipi_addr: in_addr { s_addr: 0 },
    };
    let v6 = |i: in6_pktinfo| in6_pktinfo {
        ipi6_ifindex: 0,
        ..i
    };
    match asked {
        Asked::V4(info) => sendmsg(
            fd,
            &parts,
            &[ControlMessage::Ipv4PacketInfo(&v4(info))],
            MsgFlags::empty(),
            Some(to),
        ),
        Asked::V6(info) => sendmsg(
            fd,
            &parts,
            &[ControlMessage::Ipv6PacketInfo(&v6(info))],
            MsgFlags::empty(),
            Some(to),
        ),
        Asked::Unknown => sendmsg(fd, &parts, &[], MsgFlags::empty(), Some(to)),
    }
    .map(drop)
}

fn sender(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address
        .as_sockaddr_in()
        .map(|a| SocketAddr::new(a.ip().into(), a.port()));
    let v6 = || {
        address
            .as_sockaddr_in6()
            .map(|a| SocketAddr::new(a.ip().into(), a.port()))
    };
    v4.or_else(v6).map(super::plain)
}
