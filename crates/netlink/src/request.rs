//! A request that can be sent alone or with others.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;

use crate::Error;

/// One change of the kernel's state, ready to be sent by [`Handle::execute`](crate::Handle::execute) or
/// [`Handle::batch`](crate::Handle::batch).
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) op: &'static str,
    pub(crate) object: String,
    message: RouteNetlinkMessage,
    flags: u16,
    accept: &'static [Errno],
    invalid: Option<&'static str>,
}

const EXISTS: &[Errno] = &[Errno::EEXIST];
const ABSENT: &[Errno] = &[
    Errno::ENODEV,
    Errno::ENOENT,
    Errno::ESRCH,
    Errno::EADDRNOTAVAIL,
    Errno::ENXIO,
];

impl Request {
    pub(crate) fn new(
        op: &'static str,
        object: impl Into<String>,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Self {
        Self {
            op,
            object: object.into(),
            message,
            flags: flags | NLM_F_REQUEST | NLM_F_ACK,
            accept: &[],
            invalid: None,
        }
    }

    /// The same request, content when the object exists already.
    #[must_use]
    pub fn or_exists(mut self) -> Self {
        self.accept = EXISTS;
        self
    }

    /// The same request, content when the object does not exist.
    #[must_use]
    pub fn or_absent(mut self) -> Self {
        self.accept = ABSENT;
        self
    }

    /// A query: answered by objects, not by an acknowledgement.
    pub(crate) fn query(mut self, dump_flags: u16) -> Self {
        self.flags = NLM_F_REQUEST | dump_flags;
        self
    }

    pub(crate) fn invalid(mut self, what: Option<&'static str>) -> Self {
        self.invalid = self.invalid.or(what);
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.invalid {
            Some(what) => Err(Error::Invalid {
                object: self.object.clone(),
                what,
            }),
            None => Ok(()),
        }
    }

    pub(crate) fn wants_ack(&self) -> bool {
        self.flags & NLM_F_ACK != 0
    }

    pub(crate) fn judge(&self, errno: i32, detail: Option<String>) -> Result<(), Error> {
        if errno == 0 {
            return Ok(());
        }
        let errno = Errno::from_raw(errno.saturating_neg());
        if self.accept.contains(&errno) {
            return Ok(());
        }
        Err(Error::Kernel {
            op: self.op,
            object: self.object.clone(),
            errno,
            detail,
        })
    }

    pub(crate) fn emit(&self, seq: u32, out: &mut Vec<u8>) {
        let mut header = NetlinkHeader::default();
        header.flags = self.flags;
        header.sequence_number = seq;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(self.message.clone()));
        message.finalize();
        let start = out.len();
        out.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut out[start..]);
    }
}
