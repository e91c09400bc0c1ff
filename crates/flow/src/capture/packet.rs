//! What a packet says, as an event of the programs says it: so it can be named and filtered like one.
use super::socket::{Link, Taken};
use abi::{EventKind, FlowEvent, TracePoint, event_flags, identity};
use wire::{Family, Headers, V4, V6, headers};
use zerocopy::{FromZeros as _, IntoBytes as _};

const VLAN: [u16; 2] = [0x8100, 0x88a8];
/// Length of the two addresses of an Ethernet header.
const ADDRESSES: usize = 12;

/// The event; none for what is not IP.
pub fn event(taken: &Taken<'_>, time: u64) -> Option<FlowEvent> {
    let (ethertype, at) = match taken.link {
        Link::Raw => (version(*taken.bytes.first()?)?, 0),
        Link::Ethernet => {
            let mut at = ADDRESSES;
            loop {
                let kind = wire::Bytes::get::<[u8; 2]>(taken.bytes, at)?;
                let kind = u16::from_be_bytes(kind);
                at += 2;
                if !VLAN.contains(&kind) {
                    break (kind, at);
                }
                at += 2;
            }
        }
    };
    let mut event = FlowEvent {
        time,
        kind: EventKind::Trace as u8,
        subtype: point(taken.outgoing) as u8,
        len: u32::try_from(taken.length).unwrap_or(u32::MAX),
        ifindex: taken.ifindex,
        // From somewhere, until the tables say more.
        src_id: identity::WORLD,
        dst_id: identity::WORLD,
        ..FlowEvent::new_zeroed()
    };
    if ethertype == V4::ETHERTYPE {
        fill::<V4>(taken.bytes, at, &mut event)?;
    } else if ethertype == V6::ETHERTYPE {
        fill::<V6>(taken.bytes, at, &mut event)?;
        event.flags |= event_flags::IPV6;
    } else {
        return None;
    }
    Some(event)
}

const fn version(first: u8) -> Option<u16> {
    match first >> 4 {
        4 => Some(V4::ETHERTYPE),
        6 => Some(V6::ETHERTYPE),
        _ => None,
    }
}

/// A packet is seen before the programs of the device it comes in by, and after those of the device it leaves by.
const fn point(outgoing: bool) -> TracePoint {
    if outgoing {
        TracePoint::ToNetwork
    } else {
        TracePoint::FromNetwork
    }
}

fn fill<F: Family>(bytes: &[u8], at: usize, event: &mut FlowEvent) -> Option<()> {
    let network = headers::network::<F, [u8]>(bytes, at).ok()?;
    for (place, address) in [(&mut event.src, network.src), (&mut event.dst, network.dst)] {
        let address = address.as_bytes();
        place.get_mut(..address.len())?.copy_from_slice(address);
    }
    event.proto = network.proto;
    let found = headers::transport::<F, [u8]>(bytes, &network);
    let Some(found) = found.ok().filter(|found| !found.fragment.is_later()) else {
        event.flags |= event_flags::NO_PORTS;
        return Some(());
    };
    ports(&found, event);
    Some(())
}

fn ports<F: Family>(found: &Headers<F>, event: &mut FlowEvent) {
    event.sport = found.tuple.sport.to_ne_bytes();
    event.dport = found.tuple.dport.to_ne_bytes();
    event.tcp_flags = found.tcp_flags;
    if event.proto == F::ICMP {
        event.tcp_flags = found.icmp_type;
        if headers::is_icmp_error::<F>(found.icmp_type) {
            event.dport = [0, found.icmp_code];
        }
    }
}
