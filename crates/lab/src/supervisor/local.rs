//! The API server's door to the host: on the loopback, and open to the owner of the lab alone.
//!
//! Whoever may create pods runs programs as root, and the API has no authentication of its own yet. So every connection's
//! other end is looked up among the host's sockets: its owner must be the user that runs the lab.

use std::fs;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};

/// Accepts connections of this process's own user.
pub(super) struct OwnerOnly {
    listener: TcpListener,
    uid: u32,
}

impl OwnerOnly {
    pub(super) fn new(listener: TcpListener) -> OwnerOnly {
        let uid = nix::unistd::geteuid().as_raw();
        OwnerOnly { listener, uid }
    }

    fn may(&self, stream: &TcpStream, client: SocketAddr) -> bool {
        let (SocketAddr::V4(client), Ok(SocketAddr::V4(server))) = (client, stream.local_addr())
        else {
            return false;
        };
        // Not of the calling thread: the host's sockets.
        let sockets = fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
        owner(&sockets, client, server) == Some(self.uid)
    }
}

/// An address as /proc/net/tcp writes it.
fn hex(at: SocketAddrV4) -> String {
    let ip = u32::from_ne_bytes(at.ip().octets());
    format!("{ip:08X}:{:04X}", at.port())
}

/// Who owns the socket at `local` that is connected to `remote`.
fn owner(sockets: &str, local: SocketAddrV4, remote: SocketAddrV4) -> Option<u32> {
    let (local, remote) = (hex(local), hex(remote));
    sockets.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let ours = words.next()? == local && words.next()? == remote;
        ours.then(|| words.nth(4)?.parse().ok())?
    })
}

impl Listener for OwnerOnly {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let (stream, client) = Listener::accept(&mut self.listener).await;
            if self.may(&stream, client) {
                let _ = stream.set_nodelay(true);
                return (stream, client);
            }
            tracing::warn!(%client, "the API server refused a connection of another user");
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_found_by_both_ends() {
        let (client, server) = (
            "127.0.0.1:40000".parse().unwrap(),
            "127.0.0.1:6443".parse().unwrap(),
        );
        let row = |local, remote, uid| {
            format!(
                "   1: {} {} 01 00000000:00000000 00:00000000 00000000  {uid}        0 77 1 0000000000000000 20 4 30 10 -1\n",
                hex(local),
                hex(remote)
            )
        };
        let text = format!(
            "  sl  local_address rem_address   st\n{}{}{}",
            row(server, client, 0),
            row(client, "127.0.0.1:1".parse().unwrap(), 5),
            row(client, server, 1000)
        );
        assert_eq!(owner(&text, client, server), Some(1000));
        assert_eq!(
            owner(&text, "127.0.0.1:40001".parse().unwrap(), server),
            None
        );
        assert_eq!(owner("", client, server), None);
    }
}
