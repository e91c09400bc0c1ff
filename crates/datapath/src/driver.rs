//! What a device can do for a program in its driver, as the kernel tells it.
use std::io;

use crate::rtnl::{ACK, Message, Rtnl, attrs};

/// Length of `struct ifinfomsg`.
const IFINFO: usize = 16;
/// Length of the header of a message of a generic family.
const GENERIC: usize = 4;

/// Whether the device's program runs in its driver, and not where the stack begins. What cannot be found out does not.
pub(crate) fn is_in_driver(ifindex: u32) -> bool {
    const IN_DRIVER: u8 = 1;
    look(ifindex).is_ok_and(|link| link.attached == IN_DRIVER)
}

/// True for the end of a virtual cable.
pub(crate) fn is_veth(ifindex: u32) -> io::Result<bool> {
    Ok(look(ifindex)?.kind == b"veth\0")
}

/// What of a device matters here.
#[derive(Default)]
struct Link {
    kind: Vec<u8>,
    /// `XDP_ATTACHED_*`.
    attached: u8,
}

fn look(ifindex: u32) -> io::Result<Link> {
    const GET_LINK: u16 = 18;
    let mut found = Link::default();
    let message = Message::new(GET_LINK, ACK, &[0, ifindex, 0, 0]);
    Rtnl::open()?.request(message, |payload| {
        found = read_link(payload.get(IFINFO..).unwrap_or_default());
    })?;
    Ok(found)
}

fn read_link(bytes: &[u8]) -> Link {
    const LINK_INFO: u16 = 18;
    const INFO_KIND: u16 = 1;
    const XDP: u16 = 43;
    const XDP_ATTACHED: u16 = 2;
    let inner = |outer, wanted| find(find(bytes, outer)?, wanted);
    Link {
        kind: inner(LINK_INFO, INFO_KIND).unwrap_or_default().to_vec(),
        attached: inner(XDP, XDP_ATTACHED)
            .and_then(|value| value.first())
            .copied()
            .unwrap_or_default(),
    }
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attrs(bytes)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// What a driver offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offers {
    /// Programs can run in it.
    pub(crate) programs: bool,
    /// Frames of other drivers leave by it; of a virtual cable, any that programs send.
    pub(crate) frames: bool,
}

/// What the device's driver offers; `None` where the kernel does not tell (before 6.3).
pub(crate) fn offers(ifindex: u32) -> Option<Offers> {
    const BASIC: u64 = 1;
    const FRAMES: u64 = 4;
    let bits = features(ifindex).ok().flatten()?;
    Some(Offers {
        programs: bits & BASIC != 0,
        frames: bits & FRAMES != 0,
    })
}

/// The bits of `enum netdev_xdp_act`.
fn features(ifindex: u32) -> io::Result<Option<u64>> {
    const CONTROL: u16 = 16;
    const GET_FAMILY: u8 = 3;
    const FAMILY_NAME: u16 = 2;
    const FAMILY_ID: u16 = 1;
    const GET_DEVICE: u8 = 1;
    const IFINDEX: u16 = 1;
    const FEATURES: u16 = 3;
    let mut generic = Rtnl::open_generic()?;
    let mut ask = |family, command: u8, kind, value: &[u8], wanted| {
        // Of the family's first version.
        let head = u32::from_ne_bytes([command, 1, 0, 0]);
        let mut message = Message::new(family, ACK, &[head]);
        message.attr(kind, value);
        let mut found = Vec::new();
        generic.request(message, |payload| {
            let bytes = payload.get(GENERIC..).unwrap_or_default();
            found = find(bytes, wanted).unwrap_or_default().to_vec();
        })?;
        Ok::<_, io::Error>(found)
    };
    let family = ask(CONTROL, GET_FAMILY, FAMILY_NAME, b"netdev\0", FAMILY_ID)?;
    let Some(family) = family.first_chunk().map(|id| u16::from_ne_bytes(*id)) else {
        return Ok(None);
    };
    let bits = ask(
        family,
        GET_DEVICE,
        IFINDEX,
        &ifindex.to_ne_bytes(),
        FEATURES,
    )?;
    Ok(bits.first_chunk().map(|bits| u64::from_ne_bytes(*bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever runs this, everybody has it, and nobody has a program there.
    #[test]
    fn the_loopback_device_is_no_cable() {
        assert!(!is_veth(1).unwrap());
        assert!(!is_in_driver(1));
        let offers = offers(1);
        assert!(offers.is_none_or(|offers| !offers.programs && !offers.frames));
    }

    #[test]
    fn malformed_answers_say_nothing() {
        for len in 0..64 {
            let link = read_link(&vec![0xFF; len]);
            assert_eq!((link.kind.len(), link.attached), (0, 0));
        }
    }
}
