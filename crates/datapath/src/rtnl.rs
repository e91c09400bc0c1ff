//! The little of netlink that crate `netlink` does not speak: classifier filters, kinds of device, and what devices can do for programs in
//! their drivers.
use std::io;

use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_GENERIC, NETLINK_ROUTE},
};

pub(crate) const REQUEST: u16 = 1;
pub(crate) const ACK: u16 = 4;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const DUMP: u16 = 0x300;
/// An attribute that holds attributes.
pub(crate) const NESTED: u16 = 0x8000;

const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Types below are control messages.
const FIRST_TYPE: u16 = 16;
/// Length of the message header.
const HEADER: usize = 16;

/// A netlink socket in the calling thread's network namespace.
pub(crate) struct Rtnl {
    socket: Socket,
    seq: u32,
}

impl Rtnl {
    pub(crate) fn open() -> io::Result<Self> {
        Self::of(NETLINK_ROUTE)
    }

    /// One for families that have no protocol of their own.
    pub(crate) fn open_generic() -> io::Result<Self> {
        Self::of(NETLINK_GENERIC)
    }

    fn of(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, seq: 0 })
    }

    /// Sends a message and hands every object of the answer to `each` until the answer ends.
    pub(crate) fn request(
        &mut self,
        message: Message,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.seq += 1;
        self.socket.send(&message.finish(self.seq), 0)?;
        let mut buffer = Vec::with_capacity(32 * 1024);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0)?;
            let mut rest = buffer.as_slice();
            while let Some(((kind, seq), payload)) = split(&mut rest) {
                match kind {
                    _ if seq != self.seq => {}
                    ERROR | DONE => {
                        let errno = payload.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
                        return if errno == 0 {
                            Ok(())
                        } else {
                            Err(io::Error::from_raw_os_error(-errno))
                        };
                    }
                    FIRST_TYPE.. => each(payload),
                    _ => {}
                }
            }
        }
    }
}

/// Takes the next message off a datagram: its type and sequence number, and what follows its header.
pub(crate) fn split<'a>(rest: &mut &'a [u8]) -> Option<((u16, u32), &'a [u8])> {
    let len = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
    let header: &[u8; HEADER] = rest.first_chunk()?;
    let payload = rest.get(HEADER..len)?;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let seq = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    *rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some(((kind, seq), payload))
}

/// Attributes by type, up to the first malformed one.
pub(crate) fn attrs(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: &[u8; 4] = rest.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !NESTED;
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A message under construction.
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// A message with its fixed part, given as 32-bit words.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u32]) -> Self {
        let mut out = vec![0; HEADER];
        out[4..6].copy_from_slice(&kind.to_ne_bytes());
        out[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        fixed
            .iter()
            .for_each(|word| out.extend_from_slice(&word.to_ne_bytes()));
        Self(out)
    }

    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) {
        self.0
            .extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes);
    }

    /// Begins an attribute of attributes; [`Message::close`] ends it.
    pub(crate) fn open(&mut self, kind: u16) -> usize {
        let start = self.0.len();
        self.attr(kind | NESTED, &[]);
        start
    }

    pub(crate) fn close(&mut self, start: usize) {
        let len = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }

    pub(crate) fn finish(mut self, seq: u32) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&seq.to_ne_bytes());
        self.0
    }
}

/// Whether the kernel knows a kind of device that cannot be made without attributes. Nothing is made: a kind it knows it refuses
/// for the lack of them, one it does not know for being unknown.
pub(crate) fn knows_device_kind(kind: &str) -> bool {
    const NEW_LINK: u16 = 16;
    const LINK_INFO: u16 = 18;
    const INFO_KIND: u16 = 1;
    let mut message = Message::new(NEW_LINK, CREATE | EXCLUSIVE | ACK, &[0; 4]);
    let start = message.open(LINK_INFO);
    message.text(INFO_KIND, kind);
    message.close(start);
    let answer = Rtnl::open().and_then(|mut rtnl| rtnl.request(message, |_| ()));
    answer.is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_answers_end_the_walk() {
        for len in 0..64 {
            let bytes = vec![0xFF; len];
            assert!(split(&mut bytes.as_slice()).is_none());
            assert_eq!(attrs(&bytes).count(), 0);
            assert_eq!(attrs(&vec![0; len]).count(), 0);
        }
    }
}
