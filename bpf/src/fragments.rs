//! Later fragments of a datagram have no ports: they get those that the first one left behind.
use abi::FragValue;
use wire::{Headers, headers::Part};

use crate::maps::Maps;

/// Remembers the ports of a first fragment, looks up those of a later one; false if they are not known.
#[inline(always)]
pub fn resolve<F: Maps>(h: &mut Headers<F>) -> bool {
    let t = &h.tuple;
    let id = h.fragment.id;
    match h.fragment.part {
        Part::Whole => true,
        Part::First => {
            let key = F::frag_key(t.src, t.dst, id, t.proto);
            let ports = FragValue {
                sport: t.sport.to_ne_bytes(),
                dport: t.dport.to_ne_bytes(),
            };
            F::fragments().insert(&key, &ports, 0).is_ok()
        }
        Part::Later => {
            let key = F::frag_key(t.src, t.dst, id, t.proto);
            // SAFETY: LRU entries may be reused while we read; the worst is the ports of another datagram.
            let Some(ports) = (unsafe { F::fragments().get(&key) }) else {
                return false;
            };
            h.tuple.sport = u16::from_ne_bytes(ports.sport);
            h.tuple.dport = u16::from_ne_bytes(ports.dport);
            true
        }
    }
}
