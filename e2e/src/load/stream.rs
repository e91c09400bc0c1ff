//! TCP: one long transfer whose every byte is checked, and a row of short connections.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netlink::Netns;

use super::{Route, STALLED, Stop, Tally, flow, made_in};

/// Bytes written at once by a transfer.
const CHUNK: usize = 32 * 1024;
/// Time between two chunks: the transfer always has packets on the way, and leaves the machine to others.
const CHUNK_PACE: Duration = Duration::from_millis(4);
/// Time between two connections.
const CONNECT_PACE: Duration = Duration::from_millis(10);
const MESSAGE: usize = 64;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Up,
    Down,
}

/// A transfer over one connection until told to stop. Both sides know what every byte must be.
pub(super) fn transfer(route: &Route, stop: &Stop, direction: Direction) -> JoinHandle<Tally> {
    let listener = listen(route);
    let address = listener.local_addr().expect("the listener's address");
    let (client, stop) = (clone(&route.client), stop.clone());
    let name = if direction == Direction::Up {
        "transfer there,"
    } else {
        "transfer back,"
    };
    flow(name, route, move |tally| {
        let ends = connect(&client, address).and_then(|client| Ok((client, listener.accept()?.0)));
        let (client, server) = match ends {
            Ok(ends) => ends,
            Err(e) => return tally.fail(format!("connect: {e}")),
        };
        let (from, to) = if direction == Direction::Up {
            (client, server)
        } else {
            (server, client)
        };
        let arrived = AtomicU64::new(0);
        thread::scope(|scope| {
            let reader = scope.spawn(|| receive(to, &arrived));
            let sent = send(from, &stop, &mut tally.sent);
            let read = reader
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the reader panicked")));
            sent.err()
                .into_iter()
                .for_each(|e| tally.fail(format!("sending byte {}: {e}", tally.sent)));
            read.err()
                .into_iter()
                .for_each(|e| tally.fail(format!("receiving: {e}")));
        });
        tally.received = arrived.into_inner();
    })
}

fn send(mut stream: TcpStream, stop: &Stop, sent: &mut u64) -> io::Result<()> {
    stream.set_write_timeout(Some(STALLED))?;
    let mut chunk = vec![0; CHUNK];
    while !stop.told() {
        fill(&mut chunk, *sent);
        stream.write_all(&chunk)?;
        *sent += CHUNK as u64;
        thread::sleep(CHUNK_PACE);
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // The other side closes once it has everything.
    stream.set_read_timeout(Some(STALLED))?;
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::other("an answer where none was expected")),
    }
}

fn receive(mut stream: TcpStream, arrived: &AtomicU64) -> io::Result<()> {
    stream.set_read_timeout(Some(STALLED))?;
    let (mut seen, mut wanted, mut filled) = (vec![0; CHUNK], vec![0; CHUNK], 0);
    loop {
        let length = stream.read(&mut seen[filled..])?;
        if length == 0 {
            return if filled == 0 {
                Ok(())
            } else {
                Err(io::Error::other("ends inside a chunk"))
            };
        }
        filled += length;
        if filled == CHUNK {
            fill(&mut wanted, arrived.load(Ordering::Relaxed));
            if seen != wanted {
                return Err(io::Error::other(format!(
                    "wrong bytes after byte {}",
                    arrived.load(Ordering::Relaxed)
                )));
            }
            arrived.fetch_add(CHUNK as u64, Ordering::Relaxed);
            filled = 0;
        }
    }
}

/// Every eight bytes are the number of their place in the stream.
fn fill(chunk: &mut [u8], offset: u64) {
    for (word, place) in chunk.chunks_exact_mut(8).zip((offset / 8)..) {
        word.copy_from_slice(&place.to_be_bytes());
    }
}

/// A new connection every ten milliseconds; each sends a little and must get it back. None is tried twice.
pub(super) fn connections(route: &Route, stop: &Stop) -> JoinHandle<Tally> {
    let listener = listen(route);
    let address = listener.local_addr().expect("the listener's address");
    let (client, stop) = (clone(&route.client), stop.clone());
    flow("connections", route, move |tally| {
        thread::scope(|scope| {
            scope.spawn(|| serve(&listener));
            let asked = client.run(|| ask(address, &stop, tally));
            asked
                .err()
                .into_iter()
                .for_each(|e| tally.fail(e.to_string()));
            // The server ends with a connection that says nothing.
            let _ = client.run(|| TcpStream::connect_timeout(&address, STALLED).map(drop));
        });
    })
}

fn ask(address: SocketAddr, stop: &Stop, tally: &mut Tally) {
    let mut next = Instant::now();
    while !stop.told() {
        next = (next + CONNECT_PACE).max(Instant::now());
        let start = Instant::now();
        let number = tally.sent;
        tally.sent += 1;
        match one(address, number) {
            Ok(()) => tally.received += 1,
            Err(e) => tally.fail(format!(
                "connection {number} after {:?}: {e}",
                start.elapsed()
            )),
        }
        tally.slowest = tally.slowest.max(start.elapsed());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn one(address: SocketAddr, number: u64) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, STALLED)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALLED))?;
    let (mut message, mut answer) = ([1; MESSAGE], [0; MESSAGE]);
    message[..8].copy_from_slice(&number.to_be_bytes());
    stream.write_all(&message)?;
    stream.read_exact(&mut answer)?;
    // The server has closed by now or does so soon: the time-wait is its.
    match (answer == message, stream.read(&mut [0])?) {
        (true, 0) => Ok(()),
        (true, _) => Err(io::Error::other("more than was sent came back")),
        (false, _) => Err(io::Error::other("another answer")),
    }
}

fn serve(listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut message = [0; MESSAGE];
        let _ = stream.set_read_timeout(Some(STALLED));
        match stream.read(&mut message[..1]) {
            Ok(0) => return,
            Ok(_) => {
                // What goes wrong here is seen by the client.
                let _ = stream
                    .read_exact(&mut message[1..])
                    .and_then(|()| stream.write_all(&message));
            }
            Err(_) => {}
        }
    }
}

#[track_caller]
fn listen(route: &Route) -> TcpListener {
    made_in(&route.server, "a TCP server", || {
        TcpListener::bind((route.target, 0))
    })
}

fn connect(ns: &Netns, address: SocketAddr) -> io::Result<TcpStream> {
    ns.run(|| TcpStream::connect_timeout(&address, STALLED))
        .map_err(io::Error::other)?
}

#[track_caller]
fn clone(ns: &Netns) -> Netns {
    ns.try_clone().expect("a handle of a network namespace")
}
