//! Loads: a client in one pod on one core, a server in another pod on another core.
use std::{
    fmt,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use netlink::netns::Netns;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::topology::{Family, Stage};

/// Where a load runs.
pub struct Target<'a> {
    client: &'a Netns,
    server: &'a Netns,
    address: IpAddr,
    by: Option<&'a Frontend<'a>>,
}

/// Makes an address that leads to a server's.
type Frontend<'a> = dyn Fn(SocketAddr) -> Result<SocketAddr> + Sync + 'a;

impl<'a> Target<'a> {
    pub fn of(stage: &'a Stage, family: Family) -> Self {
        Self {
            client: &stage.client.netns,
            server: &stage.server.netns,
            address: stage.server.address(family),
            by: None,
        }
    }

    /// From one namespace to an address of another.
    pub const fn between(client: &'a Netns, server: &'a Netns, address: IpAddr) -> Self {
        Self {
            client,
            server,
            address,
            by: None,
        }
    }

    /// The client uses another address than the server's.
    pub const fn by(mut self, frontend: &'a Frontend<'a>) -> Self {
        self.by = Some(frontend);
        self
    }
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// One TCP stream, as fast as it goes.
    TcpStream,
    /// Datagrams of 64 bytes, as fast as they are received.
    Udp64,
    /// A byte there and a byte back on one TCP connection.
    Rr,
    /// Connect, a byte there and a byte back, close.
    Crr,
    /// A byte there and a byte back by UDP.
    Urr,
}

impl Load {
    pub const ALL: [Self; 5] = [Self::TcpStream, Self::Udp64, Self::Rr, Self::Crr, Self::Urr];

    pub const fn unit(self) -> &'static str {
        match self {
            Self::TcpStream => "Mbit/s",
            _ => "1/s",
        }
    }

    /// Runs the load for `duration`; the figure in [`Load::unit`].
    pub fn run(self, target: &Target<'_>, duration: Duration) -> Result<f64> {
        match self {
            Self::TcpStream => tcp_stream(target, duration),
            Self::Udp64 => udp64(target, duration),
            Self::Rr => rr(target, duration),
            Self::Crr => crr(target, duration),
            Self::Urr => urr(target, duration),
        }
        .with_context(|| format!("the load {self} failed"))
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TcpStream => "tcp-stream",
            Self::Udp64 => "udp-64",
            Self::Rr => "rr",
            Self::Crr => "crr",
            Self::Urr => "urr",
        })
    }
}

const PATIENCE: Duration = Duration::from_millis(200);

/// Runs `server` on core 1 in the server's namespace and `client` on core 0 in the client's, until the client is done.
fn pair<S: Send, T: Send>(
    target: &Target<'_>,
    open: impl FnOnce(SocketAddr) -> std::io::Result<(S, SocketAddr)> + Send,
    server: impl FnOnce(S, &AtomicBool) -> std::io::Result<()> + Send,
    client: impl FnOnce(SocketAddr) -> std::io::Result<T> + Send,
) -> Result<T> {
    let (socket, own) = target
        .server
        .run(|| open(SocketAddr::new(target.address, 0)))??;
    let address = match target.by {
        Some(frontend) => frontend(own)?,
        None => own,
    };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let serving = scope.spawn(|| {
            pin(1);
            server(socket, &done)
        });
        let result = target.client.run(|| {
            pin(0);
            client(address)
        });
        done.store(true, Ordering::Relaxed);
        // A server that still waits for a connection gets its last one, also from a client that failed.
        let _ = target
            .server
            .run(|| TcpStream::connect_timeout(&own, PATIENCE));
        let served = serving
            .join()
            .map_err(|_| anyhow::anyhow!("the server panicked"))?;
        let result = result??;
        served?;
        Ok(result)
    })
}

/// Keeps the calling thread on one core, where there are several.
fn pin(core: usize) {
    let mut set = CpuSet::new();
    if set.set(core).is_ok() {
        // On a machine with one core both sides share it, and so does the baseline.
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

fn listen(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn bind(address: SocketAddr) -> std::io::Result<(UdpSocket, SocketAddr)> {
    let socket = UdpSocket::bind(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn tcp_stream(target: &Target<'_>, duration: Duration) -> Result<f64> {
    let received = AtomicU64::new(0);
    let elapsed = pair(
        target,
        listen,
        |listener, _| {
            let (mut stream, _) = listener.accept()?;
            let mut buffer = vec![0; 256 << 10];
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(()),
                    n => received.fetch_add(n as u64, Ordering::Relaxed),
                };
            }
        },
        |address| {
            let mut stream = connect(address)?;
            let buffer = vec![0; 128 << 10];
            let start = Instant::now();
            while start.elapsed() < duration {
                stream.write_all(&buffer)?;
            }
            Ok(start.elapsed())
        },
    )?;
    Ok(received.into_inner() as f64 * 8.0 / 1e6 / elapsed.as_secs_f64())
}

fn udp64(target: &Target<'_>, duration: Duration) -> Result<f64> {
    let received = AtomicU64::new(0);
    let elapsed = pair(
        target,
        bind,
        |socket, done| {
            let mut buffer = [0; 64];
            while !done.load(Ordering::Relaxed) {
                if socket.recv(&mut buffer).is_ok() {
                    received.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        },
        |address| {
            let (socket, _) = bind(unspecified(address))?;
            socket.connect(address)?;
            let start = Instant::now();
            while start.elapsed() < duration {
                for _ in 0..64 {
                    // A full queue is part of what is measured.
                    let _ = socket.send(&[0; 64]);
                }
            }
            Ok(start.elapsed())
        },
    )?;
    Ok(received.into_inner() as f64 / elapsed.as_secs_f64())
}

fn unspecified(peer: SocketAddr) -> SocketAddr {
    if peer.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    }
}

fn rr(target: &Target<'_>, duration: Duration) -> Result<f64> {
    pair(
        target,
        listen,
        |listener, _| {
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            let mut byte = [0];
            while stream.read(&mut byte)? == 1 {
                stream.write_all(&byte)?;
            }
            Ok(())
        },
        |address| {
            let mut stream = connect(address)?;
            count(duration, || {
                stream.write_all(&[1])?;
                stream.read_exact(&mut [0])
            })
        },
    )
}

fn crr(target: &Target<'_>, duration: Duration) -> Result<f64> {
    pair(
        target,
        listen,
        |listener, done| {
            let mut byte = [0];
            loop {
                let (mut stream, _) = listener.accept()?;
                if done.load(Ordering::Relaxed) || stream.read(&mut byte)? == 0 {
                    return Ok(());
                }
                stream.write_all(&byte)?;
            }
        },
        |address| {
            count(duration, || {
                let mut stream = connect(address)?;
                stream.write_all(&[1])?;
                stream.read_exact(&mut [0])
            })
        },
    )
}

fn urr(target: &Target<'_>, duration: Duration) -> Result<f64> {
    pair(
        target,
        bind,
        |socket, done| {
            let mut byte = [0];
            while !done.load(Ordering::Relaxed) {
                match socket.recv_from(&mut byte) {
                    Ok((n, peer)) => drop(socket.send_to(&byte[..n], peer)?),
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(e) => return Err(e),
                }
            }
            Ok(())
        },
        |address| {
            let (socket, _) = bind(unspecified(address))?;
            socket.connect(address)?;
            count(duration, || {
                socket.send(&[1])?;
                socket.recv(&mut [0]).map(drop)
            })
        },
    )
}

/// How often per second `once` can be done.
fn count(
    duration: Duration,
    mut once: impl FnMut() -> std::io::Result<()>,
) -> std::io::Result<f64> {
    let start = Instant::now();
    let mut done = 0u64;
    while start.elapsed() < duration {
        once()?;
        done += 1;
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}
