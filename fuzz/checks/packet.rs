//! Any bytes that a device may hand up: read or refused in both families, the same for the packet inside an ICMP error, never a panic; what
//! is read names a flow that its answer finds again.

use hypha_wire::{
    Family, V4, V6,
    conntrack::{Segment, Timeouts, advance, is_over, open},
    headers::{embedded, parse},
};

const TIMEOUTS: Timeouts = Timeouts {
    tcp: 8000,
    syn: 60,
    fin: 10,
    any: 60,
    report: 5,
};

pub fn run(data: &[u8]) {
    one::<V4>(data);
    one::<V6>(data);
}

fn one<F: Family>(data: &[u8])
where
    F::CtKey: PartialEq + std::fmt::Debug,
{
    let Ok(h) = parse::<F, [u8]>(data, 0) else {
        return;
    };
    let (key, from_b) = F::ct_key(&h.tuple);
    let (back, back_from_b) = F::ct_key(&h.tuple.reversed());
    assert_eq!(key, back, "both directions share an entry");
    assert!(from_b != back_from_b || h.tuple == h.tuple.reversed());
    let segment = Segment {
        proto: h.tuple.proto,
        tcp_flags: h.tcp_flags,
        from_b,
        len: data.len() as u32,
        now: 1000,
    };
    let mut entry = open(&segment, &TIMEOUTS, 1, 2);
    assert!(entry.expires > segment.now);
    if !is_over(&entry, &segment) {
        let seen = advance(&mut entry, &segment, &TIMEOUTS);
        assert_eq!(seen.status.text(), "established");
    }
    let _ = embedded::<F, [u8]>(data, &h);
}
