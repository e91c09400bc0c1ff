//! The socket: send requests, collect answers.

use std::{io, os::fd::AsFd, path::Path};

use netlink_packet_core::NLM_F_DUMP;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::{Error, Request, Result, netns, wire};

const RECEIVE_BUFFER: usize = 64 * 1024;
/// Acknowledgements wait in the socket's receive buffer; this many always fit.
const BATCH: usize = 64;
const DUMP_TRIES: usize = 8;
const ANSWER_TIMEOUT_SECONDS: i64 = 10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_MIN_TYPE: u16 = 16;
const DUMP_INTERRUPTED: u16 = 16;

/// An rtnetlink socket. It keeps to the network namespace in which it was opened, whichever thread uses it.
pub struct Handle {
    socket: Socket,
    seq: u32,
    buf: Vec<u8>,
    out: Vec<u8>,
}

/// The object that a query of a batch returned, as a raw payload.
type Answer = Option<Vec<u8>>;

impl Handle {
    /// A handle in the calling thread's network namespace.
    pub fn new() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(Error::socket("open"))?;
        socket
            .bind(&SocketAddr::new(0, 0))
            .map_err(Error::socket("bind"))?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(Error::socket("connect"))?;
        // Error texts and short acknowledgements; kernels without them still work.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        setsockopt(
            &socket.as_fd(),
            ReceiveTimeout,
            &TimeVal::seconds(ANSWER_TIMEOUT_SECONDS),
        )
        .map_err(|e| Error::Socket {
            op: "set the receive time-out",
            source: e.into(),
        })?;
        Ok(Self {
            socket,
            seq: 0,
            buf: Vec::with_capacity(RECEIVE_BUFFER),
            out: Vec::new(),
        })
    }

    /// A handle in another network namespace; the calling thread stays where it is.
    pub fn in_netns(ns: impl AsFd) -> Result<Self> {
        netns::run_in(ns, Self::new)?
    }

    /// As [`Handle::in_netns`], by the path of the namespace (`/run/netns/x`, `/proc/1/ns/net`).
    pub fn in_netns_path(path: impl AsRef<Path>) -> Result<Self> {
        Self::in_netns(netns::open(path)?)
    }

    /// Sends one request and waits for its acknowledgement.
    pub fn execute(&mut self, request: Request) -> Result<()> {
        self.batch(std::slice::from_ref(&request))?
            .pop()
            .unwrap_or(Ok(()))
    }

    /// Sends several requests with one system call and collects one result each, in order. The kernel works through them one
    /// after another and goes on after a refused one. The outer error means that the socket failed and nothing is known.
    pub fn batch(&mut self, requests: &[Request]) -> Result<Vec<Result<()>>> {
        let mut results = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(BATCH) {
            results.extend(self.exchange(chunk)?.into_iter().map(|r| r.map(drop)));
        }
        Ok(results)
    }

    /// As [`Handle::batch`], reduced to the first failure.
    pub fn batch_all(&mut self, requests: &[Request]) -> Result<()> {
        self.batch(requests)?.into_iter().collect()
    }

    /// Sends a chunk and sorts the answers by request; objects that a query returned come as raw payloads.
    pub(crate) fn exchange(&mut self, requests: &[Request]) -> Result<Vec<Result<Answer>>> {
        let first = self.send(requests)?;
        let mut results: Vec<Option<Result<Answer>>> =
            requests.iter().map(|r| r.check().err().map(Err)).collect();
        let mut open = results.iter().filter(|r| r.is_none()).count();
        while open > 0 {
            self.receive()?;
            for message in wire::messages(&self.buf) {
                let index = message.seq.wrapping_sub(first) as usize;
                let (Some(request), Some(slot)) = (requests.get(index), results.get_mut(index))
                else {
                    continue;
                };
                if slot.is_some() {
                    continue;
                }
                *slot = settle(request, &message);
                open -= usize::from(slot.is_some());
            }
        }
        Ok(results.into_iter().map(|r| r.unwrap_or(Ok(None))).collect())
    }

    /// Lists objects: every payload of a dump, read again when the kernel says it changed meanwhile.
    pub(crate) fn dump<T>(
        &mut self,
        request: Request,
        mut read: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        let request = request.query(NLM_F_DUMP);
        let mut found = Vec::new();
        for _ in 0..DUMP_TRIES {
            found.clear();
            if self.dump_once(&request, &mut |kind, payload| {
                found.extend(read(kind, payload))
            })? {
                break;
            }
        }
        Ok(found)
    }

    /// Whether the dump is consistent.
    fn dump_once(&mut self, request: &Request, each: &mut dyn FnMut(u16, &[u8])) -> Result<bool> {
        let seq = self.send(std::slice::from_ref(request))?;
        let mut consistent = true;
        loop {
            self.receive()?;
            for message in wire::messages(&self.buf).filter(|m| m.seq == seq) {
                consistent &= message.flags & DUMP_INTERRUPTED == 0;
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        let errno = wire::read_i32(message.payload).unwrap_or(0);
                        request.judge(errno, None)?;
                        return Ok(consistent);
                    }
                    kind if kind >= NLMSG_MIN_TYPE => each(kind, message.payload),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, requests: &[Request]) -> Result<u32> {
        let first = self.seq.wrapping_add(1);
        self.seq = self.seq.wrapping_add(requests.len() as u32);
        self.out.clear();
        for (i, request) in requests.iter().enumerate() {
            if request.check().is_ok() {
                request.emit(first.wrapping_add(i as u32), &mut self.out);
            }
        }
        if self.out.is_empty() {
            return Ok(first);
        }
        let sent = self
            .socket
            .send(&self.out, 0)
            .map_err(Error::socket("send"))?;
        if sent != self.out.len() {
            return Err(Error::Socket {
                op: "send",
                source: io::ErrorKind::WriteZero.into(),
            });
        }
        Ok(first)
    }

    fn receive(&mut self) -> Result<()> {
        loop {
            self.buf.clear();
            match self.socket.recv(&mut self.buf, 0) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Error::Socket {
                        op: "wait for an answer",
                        source: io::ErrorKind::TimedOut.into(),
                    });
                }
                Err(e) => return Err(Error::socket("receive")(e)),
            }
        }
    }
}

/// The result of a request once `message` decides it; an acknowledged query keeps its object.
fn settle(request: &Request, message: &wire::Message<'_>) -> Option<Result<Answer>> {
    match message.kind {
        NLMSG_ERROR => {
            let errno = wire::read_i32(message.payload).unwrap_or(0);
            let body = message.payload.get(4..).unwrap_or_default();
            Some(
                request
                    .judge(errno, wire::ext_ack(body, message.flags))
                    .map(|()| None),
            )
        }
        NLMSG_DONE => Some(Ok(None)),
        kind if kind >= NLMSG_MIN_TYPE && !request.wants_ack() => {
            Some(Ok(Some(message.payload.to_vec())))
        }
        _ => None,
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("seq", &self.seq)
            .finish_non_exhaustive()
    }
}
