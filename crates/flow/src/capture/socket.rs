//! Packets of all devices of this network namespace, as they come in and go out. Nothing is paid for them unless the socket is open.
use nix::{
    cmsg_space,
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol,
            SockType, recvmsg, setsockopt, socket,
            sockopt::{RcvBuf, ReceiveTimestampns, RxqOvfl},
        },
        time::TimeSpec,
    },
};
use std::{
    io::{self, IoSliceMut},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

/// The longest packet that the kernel hands over, with room for what segmentation offload puts together.
const LONGEST: usize = 256 * 1024;
/// What the kernel keeps until it is read; it may grant less.
const QUEUE: usize = 8 << 20;

/// How a device's packets begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// By an Ethernet header.
    Ethernet,
    /// By an IP header.
    Raw,
}

/// A packet as the kernel handed it over.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// How many there are; more than `bytes` has if it was too long.
    pub length: usize,
    /// When, in nanoseconds since 1970.
    pub time: u64,
    /// The device.
    pub ifindex: u32,
    /// How it begins.
    pub link: Link,
    /// It leaves by the device.
    pub outgoing: bool,
}

/// An open socket.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    buffer: Vec<u8>,
    control: Vec<u8>,
    lost: u64,
}

impl Tap {
    /// Takes packets from now on.
    ///
    /// # Errors
    /// The kernel refuses, for example because `CAP_NET_RAW` is missing.
    pub fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::EthAll,
        )?;
        setsockopt(&fd, ReceiveTimestampns, &true)?;
        setsockopt(&fd, RxqOvfl, &1)?;
        setsockopt(&fd, RcvBuf, &QUEUE)?;
        Ok(Self {
            fd,
            buffer: vec![0; LONGEST],
            control: cmsg_space!(TimeSpec, u32),
            lost: 0,
        })
    }

    /// Waits for a packet, not longer than so many milliseconds.
    pub fn wait(&self, limit: u16) {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        // Whatever it says, the socket is looked at next.
        let _ = poll(&mut fds, PollTimeout::from(limit));
    }

    /// Packets that nobody read in time.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// The next packet, if there is one.
    ///
    /// # Errors
    /// The socket does not work.
    pub fn next(&mut self) -> io::Result<Option<Taken<'_>>> {
        let mut places = [IoSliceMut::new(&mut self.buffer)];
        // With this flag the true length is told.
        let flags = MsgFlags::MSG_TRUNC;
        let control = Some(self.control.as_mut_slice());
        let fd = self.fd.as_raw_fd();
        let message = match recvmsg::<LinkAddr>(fd, &mut places, control, flags) {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Ok(None),
            // A device went down: the others are still there.
            Err(Errno::ENETDOWN | Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut time = None;
        for control in message.cmsgs().into_iter().flatten() {
            match control {
                ControlMessageOwned::ScmTimestampns(at) => time = nanos(at),
                ControlMessageOwned::RxqOvfl(lost) => self.lost = lost.into(),
                _ => {}
            }
        }
        let (length, address) = (message.bytes, message.address);
        let Some(from) = address else { return Ok(None) };
        Ok(Some(Taken {
            bytes: self.buffer.get(..length).unwrap_or(&self.buffer),
            length,
            time: time.unwrap_or_else(crate::observer::wall_clock),
            ifindex: u32::try_from(from.ifindex()).unwrap_or_default(),
            link: link(from.hatype()),
            outgoing: i32::from(from.pkttype()) == i32::from(nix::libc::PACKET_OUTGOING),
        }))
    }
}

fn link(hardware: u16) -> Link {
    match hardware {
        nix::libc::ARPHRD_ETHER | nix::libc::ARPHRD_LOOPBACK => Link::Ethernet,
        _ => Link::Raw,
    }
}

fn nanos(at: TimeSpec) -> Option<u64> {
    let seconds = u64::try_from(at.tv_sec()).ok()?;
    let rest = u64::try_from(at.tv_nsec()).ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(rest)
}
