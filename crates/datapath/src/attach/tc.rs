//! Classic tc: the `clsact` qdisc and one direct-action filter per direction, at priority 1 and handle 1.
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use abi::names;

use super::Point;
use crate::rtnl::{ACK, CREATE, DUMP, EXCLUSIVE, Message, REPLACE, Rtnl, attrs};

const NEW_QDISC: u16 = 36;
const NEW_FILTER: u16 = 44;
const DEL_FILTER: u16 = 45;
const GET_FILTER: u16 = 46;

const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
const BPF_ID: u16 = 11;
const DIRECT_ACTION: u32 = 1;

const CLSACT_PARENT: u32 = 0xFFFF_FFF1;
const CLSACT_HANDLE: u32 = 0xFFFF_0000;
const INGRESS_PARENT: u32 = 0xFFFF_FFF2;
const EGRESS_PARENT: u32 = 0xFFFF_FFF3;
const PRIORITY: u32 = 1;
const HANDLE: u32 = 1;
/// Length of `struct tcmsg`.
const TCMSG: usize = 20;

/// A filter at our place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) name: String,
    pub(crate) program_id: u32,
}

impl Filter {
    pub(crate) fn is_ours(&self) -> bool {
        names::DEVICE_PROGRAMS.contains(&self.name.as_str())
    }
}

/// Filters of devices in the calling thread's network namespace.
pub(crate) struct Tc(Rtnl);

impl Tc {
    pub(crate) fn open() -> io::Result<Self> {
        Rtnl::open().map(Self)
    }

    /// Gives the device a `clsact` unless it has one.
    pub(crate) fn ensure_clsact(&mut self, ifindex: u32) -> io::Result<()> {
        let fixed = [0, ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0];
        let mut message = Message::new(NEW_QDISC, CREATE | EXCLUSIVE | ACK, &fixed);
        message.text(KIND, "clsact");
        match self.0.request(message, |_| ()) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// Puts a program at our place, between two packets if there was one.
    pub(crate) fn put(
        &mut self,
        ifindex: u32,
        point: Point,
        name: &str,
        prog: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut message =
            filter_message(NEW_FILTER, CREATE | REPLACE | ACK, ifindex, HANDLE, point)?;
        message.text(KIND, "bpf");
        let start = message.open(OPTIONS);
        message.attr(BPF_FD, &prog.as_raw_fd().to_ne_bytes());
        message.text(BPF_NAME, name);
        message.attr(BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
        message.close(start);
        self.0.request(message, |_| ())
    }

    /// Removes the filter at our place; content when there is none.
    pub(crate) fn delete(&mut self, ifindex: u32, point: Point) -> io::Result<()> {
        let mut message = filter_message(DEL_FILTER, ACK, ifindex, HANDLE, point)?;
        message.text(KIND, "bpf");
        match self.0.request(message, |_| ()) {
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)
                ) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// The filter at our place.
    pub(crate) fn filter(&mut self, ifindex: u32, point: Point) -> io::Result<Option<Filter>> {
        let message = filter_message(GET_FILTER, DUMP, ifindex, 0, point)?;
        let mut found = None;
        self.0.request(message, |payload| {
            found = found.take().or_else(|| read_filter(payload))
        })?;
        Ok(found)
    }
}

fn filter_message(
    kind: u16,
    flags: u16,
    ifindex: u32,
    handle: u32,
    point: Point,
) -> io::Result<Message> {
    let parent = match point {
        Point::Ingress => INGRESS_PARENT,
        Point::Egress => EGRESS_PARENT,
        Point::FromPod | Point::ToPod => {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
    };
    let protocol = u32::from((libc::ETH_P_ALL as u16).to_be());
    Ok(Message::new(
        kind,
        flags,
        &[0, ifindex, handle, parent, PRIORITY << 16 | protocol],
    ))
}

fn read_filter(payload: &[u8]) -> Option<Filter> {
    let number = |at: usize| {
        payload
            .get(at..)?
            .first_chunk()
            .map(|b| u32::from_ne_bytes(*b))
    };
    if number(8)? != HANDLE || number(16)? >> 16 != PRIORITY {
        return None;
    }
    let options = attrs(payload.get(TCMSG..)?)
        .find(|(kind, _)| *kind == OPTIONS)?
        .1;
    let find = |wanted| {
        attrs(options)
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, value)| value)
    };
    let name = find(BPF_NAME)?;
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    let program_id = find(BPF_ID)?
        .first_chunk()
        .map(|b| u32::from_ne_bytes(*b))?;
    Some(Filter {
        name: String::from_utf8_lossy(name).into_owned(),
        program_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtnl::split;

    #[test]
    fn a_filter_is_read_back() {
        let mut message = filter_message(NEW_FILTER, 0, 7, HANDLE, Point::Ingress).unwrap();
        message.text(KIND, "bpf");
        let start = message.open(OPTIONS);
        message.text(BPF_NAME, "cil_from_host");
        message.attr(BPF_ID, &42u32.to_ne_bytes());
        message.close(start);
        let bytes = message.finish(3);
        let mut rest = bytes.as_slice();
        let ((kind, seq), payload) = split(&mut rest).unwrap();
        assert_eq!((kind, seq), (NEW_FILTER, 3));
        assert_eq!(
            read_filter(payload),
            Some(Filter {
                name: "cil_from_host".to_owned(),
                program_id: 42
            })
        );
        assert!(rest.is_empty());
    }

    #[test]
    fn malformed_answers_are_not_filters() {
        for len in 0..64 {
            assert_eq!(read_filter(&vec![0xFF; len]), None);
        }
    }
}
