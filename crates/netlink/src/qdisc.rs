//! Queueing disciplines; of them only `clsact`, the anchor of classic tc programs.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage},
};
use nix::errno::Errno;

use crate::{Handle, Request, Result, wire};

const HEADER: usize = 20;
const RTM_NEWQDISC: u16 = 36;

/// A queueing discipline on a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Qdisc {
    /// The link.
    pub index: u32,
    /// Kind: `clsact`, `noqueue`, `fq` …
    pub kind: String,
    /// Handle, `major << 16 | minor`.
    pub handle: u32,
    /// Parent handle.
    pub parent: u32,
}

fn clsact(index: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = index as i32;
    message.header.handle = TcHandle {
        major: u16::MAX,
        minor: 0,
    };
    message.header.parent = TcHandle::CLSACT;
    message
        .attributes
        .push(TcAttribute::Kind("clsact".to_owned()));
    message
}

impl Request {
    /// Adds `clsact` to a link.
    pub fn clsact_add(index: u32) -> Self {
        let message = RouteNetlinkMessage::NewQueueDiscipline(clsact(index));
        Self::new(
            "add",
            format!("clsact on link #{index}"),
            message,
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }
    /// Removes `clsact`, and with it all classic tc programs, from a link.
    pub fn clsact_delete(index: u32) -> Self {
        Self::new(
            "delete",
            format!("clsact on link #{index}"),
            RouteNetlinkMessage::DelQueueDiscipline(clsact(index)),
            0,
        )
    }
}

impl Handle {
    /// Queueing disciplines of one link or of all.
    pub fn qdiscs(&mut self, index: Option<u32>) -> Result<Vec<Qdisc>> {
        let message = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let mut found = self.dump(
            Request::new("list", "qdiscs", message, 0),
            |kind, payload| {
                (kind == RTM_NEWQDISC)
                    .then(|| read(payload))
                    .flatten()
                    .filter(|q| index.is_none_or(|i| i == q.index))
            },
        )?;
        found.sort();
        Ok(found)
    }
    /// Gives a link a `clsact`; content when it has one.
    pub fn clsact_ensure(&mut self, index: u32) -> Result<()> {
        self.execute(Request::clsact_add(index).or_exists())
    }
    /// Removes `clsact` from a link; content when there is none.
    pub fn clsact_delete_if_exists(&mut self, index: u32) -> Result<()> {
        match self.execute(Request::clsact_delete(index).or_absent()) {
            // The kernel's answer for a handle that is not there.
            Err(e) if e.errno() == Some(Errno::EINVAL) => Ok(()),
            other => other,
        }
    }
}

fn read(payload: &[u8]) -> Option<Qdisc> {
    let header: &[u8; HEADER] = payload.first_chunk()?;
    let kind = wire::attrs(payload, HEADER)
        .find(|(kind, _)| *kind == 1)
        .map(|(_, v)| wire::read_str(v))?;
    let number = |at: usize| wire::read_u32(&header[at..]);
    Some(Qdisc {
        index: number(4)?,
        kind,
        handle: number(8)?,
        parent: number(12)?,
    })
}
