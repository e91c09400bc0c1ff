//! Echo servers on every address of a place, which note from whom each probe came.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};

use super::icmp;
use super::plan::{Place, Protocol};
use super::socket;

/// Marks a probe: its data begin with this.
pub type Nonce = [u8; 16];

/// From where the servers saw each probe come.
#[derive(Clone, Default)]
pub struct Sources(Arc<Mutex<BTreeMap<Nonce, IpAddr>>>);

impl Sources {
    /// The address that the probe came from, if it came.
    #[must_use]
    pub fn of(&self, nonce: &Nonce) -> Option<IpAddr> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(nonce)
            .copied()
    }

    fn note(&self, data: &[u8], from: IpAddr) {
        if let Some(nonce) = data.first_chunk() {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(*nonce, from.to_canonical());
        }
    }
}

/// The running servers of one place; they end when this is dropped.
pub struct Server {
    /// Where each address listens.
    pub ports: BTreeMap<(IpAddr, Protocol), u16>,
    _stop: UnixStream,
}

/// What a server's thread waits for.
enum Socket {
    /// The other end is closed when the server is to stop.
    Stop(UnixStream),
    Tcp(TcpListener),
    Udp(UdpSocket),
    /// Gets a copy of every echo request of the family; true is IPv4.
    Icmp(bool, UdpSocket),
}

impl Socket {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stop(socket) => socket.as_fd(),
            Self::Tcp(socket) => socket.as_fd(),
            Self::Udp(socket) | Self::Icmp(_, socket) => socket.as_fd(),
        }
    }

    /// Where it listens, if it is for one address.
    fn local(&self) -> Option<(Protocol, io::Result<SocketAddr>)> {
        match self {
            Self::Tcp(socket) => Some((Protocol::Tcp, socket.local_addr())),
            Self::Udp(socket) => Some((Protocol::Udp, socket.local_addr())),
            Self::Stop(_) | Self::Icmp(..) => None,
        }
    }
}

/// Starts servers on the addresses of `place`, in its network namespace.
///
/// A thread of its own enters the namespace: no process has to be started, and nothing is left behind if the test is killed.
///
/// # Errors
/// If the namespace cannot be entered or an address not be bound.
pub fn start(place: &Place, sources: &Sources) -> io::Result<Server> {
    let netns = File::open(&place.netns)?;
    let (stop, watch) = UnixStream::pair()?;
    let (addresses, sources) = (place.addresses.clone(), sources.clone());
    let (report, bound) = std::sync::mpsc::channel();
    thread::Builder::new()
        .name(format!("serve-{}", place.name))
        .spawn(move || {
            let opened = setns(netns, CloneFlags::CLONE_NEWNET)
                .map_err(io::Error::from)
                .and_then(|()| open(&addresses, watch));
            match opened {
                Ok(sockets) => {
                    if report.send(ports(&sockets)).is_ok() {
                        serve(&sockets, &sources);
                    }
                }
                Err(error) => drop(report.send(Err(error))),
            }
        })?;
    let ports = bound
        .recv()
        .map_err(|_| io::Error::other("the server's thread ended early"))??;
    Ok(Server { ports, _stop: stop })
}

fn open(addresses: &[IpAddr], stop: UnixStream) -> io::Result<Vec<Socket>> {
    let mut sockets = vec![Socket::Stop(stop)];
    for address in addresses {
        sockets.push(Socket::Tcp(bind_when_ready(|| {
            TcpListener::bind((*address, 0))
        })?));
        // One socket per address, so that answers come from the address that was asked.
        sockets.push(Socket::Udp(UdpSocket::bind((*address, 0))?));
    }
    for ipv4 in [true, false] {
        if addresses.iter().any(|address| address.is_ipv4() == ipv4) {
            sockets.push(Socket::Icmp(ipv4, socket::raw_icmp(ipv4)?));
        }
    }
    Ok(sockets)
}

/// A new IPv6 address cannot be used for a moment, while the kernel looks for a duplicate.
fn bind_when_ready<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..30 {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                thread::sleep(Duration::from_millis(100))
            }
            result => return result,
        }
    }
    bind()
}

fn ports(sockets: &[Socket]) -> io::Result<BTreeMap<(IpAddr, Protocol), u16>> {
    let listening = sockets.iter().filter_map(Socket::local);
    listening
        .map(|(protocol, local)| local.map(|local| ((local.ip(), protocol), local.port())))
        .collect()
}

fn serve(sockets: &[Socket], sources: &Sources) {
    let mut polled: Vec<PollFd<'_>> = sockets
        .iter()
        .map(|socket| PollFd::new(socket.fd(), PollFlags::POLLIN))
        .collect();
    let mut buffer = vec![0; 65536];
    loop {
        match poll(&mut polled, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        for (socket, poll) in sockets.iter().zip(&polled) {
            if !poll.any().unwrap_or(false) {
                continue;
            }
            match socket {
                Socket::Stop(_) => return,
                Socket::Tcp(socket) => accept(socket, sources),
                Socket::Udp(socket) => echo_datagram(socket, &mut buffer, sources),
                Socket::Icmp(ipv4, socket) => {
                    note_echo_request(*ipv4, socket, &mut buffer, sources)
                }
            }
        }
    }
}

fn accept(listener: &TcpListener, sources: &Sources) {
    let Ok((stream, from)) = listener.accept() else {
        return;
    };
    let sources = sources.clone();
    // A connection that cannot be served is one failed cell, which the client reports.
    let _ = thread::Builder::new()
        .name("serve-tcp".into())
        .spawn(move || echo_stream(stream, from, &sources));
}

/// Sends back what comes, until the client closes or is silent.
fn echo_stream(mut stream: TcpStream, from: SocketAddr, sources: &Sources) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    stream.set_nodelay(true)?;
    let mut nonce: Nonce = [0; 16];
    stream.read_exact(&mut nonce)?;
    sources.note(&nonce, from.ip());
    stream.write_all(&nonce)?;
    let mut buffer = vec![0; 65536];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
    }
}

fn echo_datagram(socket: &UdpSocket, buffer: &mut [u8], sources: &Sources) {
    if let Ok((length, from)) = socket.recv_from(buffer) {
        sources.note(&buffer[..length], from.ip());
        // A lost answer is a failed cell, which the client reports.
        let _ = socket.send_to(&buffer[..length], from);
    }
}

/// The kernel answers; only the sender is of interest.
fn note_echo_request(ipv4: bool, socket: &UdpSocket, buffer: &mut [u8], sources: &Sources) {
    if let Ok((length, from)) = socket.recv_from(buffer)
        && let Some(echo) = icmp::parse(ipv4, &buffer[..length])
        && echo.request
    {
        sources.note(echo.data, from.ip());
    }
}
