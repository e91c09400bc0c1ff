//! Life of a connection: what a packet does to its entry, and what is worth a report.
use abi::{CtEntry, CtStatus, ct_flags};

use crate::headers::TCP;

/// TCP FIN.
pub const FIN: u8 = 1;
/// TCP SYN.
pub const SYN: u8 = 2;
/// TCP RST.
pub const RST: u8 = 4;
/// TCP ACK.
pub const ACK: u8 = 16;
/// TCP flags whose first appearance in a direction is reported.
pub const REPORTED: u8 = FIN | SYN | RST;

/// Seconds that entries live after their last packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Established TCP.
    pub tcp: u32,
    /// TCP of which only the first SYN was seen.
    pub syn: u32,
    /// TCP after both FINs, or a RST.
    pub fin: u32,
    /// Everything else.
    pub any: u32,
    /// Seconds between two reports of a busy connection.
    pub report: u32,
}

/// What of a packet matters to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// IP protocol.
    pub proto: u8,
    /// TCP flags, zero for other protocols and later fragments.
    pub tcp_flags: u8,
    /// The packet comes from end `b` of the key.
    pub from_b: bool,
    /// Length in bytes.
    pub len: u32,
    /// Now, in seconds of the monotonic clock.
    pub now: u32,
}

/// What the entry says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its place in the connection.
    pub status: CtStatus,
    /// It is worth an event at the aggregating levels.
    pub report: bool,
    /// TCP flags to report: this packet's, for the direction it goes.
    pub tcp_flags: u8,
}

/// A new entry, as the first packet of a connection makes it.
#[inline(always)]
#[must_use]
pub fn open(s: &Segment, t: &Timeouts, src_id: u32, dst_id: u32) -> CtEntry {
    let mut e = CtEntry {
        created: s.now,
        last_report: s.now,
        src_id,
        dst_id,
        orig_tcp: s.tcp_flags,
        ..CtEntry::default()
    };
    if s.from_b {
        e.flags |= ct_flags::FROM_B;
    }
    if s.proto == TCP {
        note_tcp(&mut e, s.tcp_flags, true);
    }
    e.expires = s.now.saturating_add(lifetime(&e, s.proto, t));
    e
}

/// True if `e` has ended, or ends with this packet's attempt to open the connection anew.
#[inline(always)]
#[must_use]
pub fn is_over(e: &CtEntry, s: &Segment) -> bool {
    let closing = ct_flags::RESET | ct_flags::ORIG_CLOSING | ct_flags::REPLY_CLOSING;
    s.now > e.expires
        || (s.proto == TCP && s.tcp_flags & (SYN | ACK) == SYN && e.flags & closing != 0)
}

/// Takes a packet into its entry. Fields are written only where they change: busy connections whose two directions run on
/// two CPUs would otherwise pass the cache line to and fro.
#[inline(always)]
pub fn advance(e: &mut CtEntry, s: &Segment, t: &Timeouts) -> Seen {
    let orig = (e.flags & ct_flags::FROM_B != 0) == s.from_b;
    let mut report = false;
    if s.proto == TCP {
        let seen = if orig { e.orig_tcp } else { e.reply_tcp };
        let fresh = s.tcp_flags & !seen;
        if fresh != 0 {
            if orig {
                e.orig_tcp = seen | s.tcp_flags
            } else {
                e.reply_tcp = seen | s.tcp_flags
            }
            report = fresh & REPORTED != 0;
        }
        note_tcp(e, s.tcp_flags, orig);
    }
    if !orig && e.flags & ct_flags::SEEN_REPLY == 0 {
        e.flags |= ct_flags::SEEN_REPLY;
        report = true;
    }
    let expires = s.now.saturating_add(lifetime(e, s.proto, t));
    if e.expires != expires {
        e.expires = expires;
    }
    report |= s.now.wrapping_sub(e.last_report) >= t.report;
    if report && e.last_report != s.now {
        e.last_report = s.now;
    }
    let status = if orig {
        CtStatus::Established
    } else {
        CtStatus::Reply
    };
    Seen {
        status,
        report,
        tcp_flags: s.tcp_flags,
    }
}

/// Adds the packet to the entry's counters.
#[inline(always)]
pub fn account(e: &mut CtEntry, s: &Segment) {
    let way = usize::from((e.flags & ct_flags::FROM_B != 0) != s.from_b);
    // Written out: a variable index into the entry costs the verifier a bounds proof.
    if way == 0 {
        e.packets[0] = e.packets[0].wrapping_add(1);
        e.bytes[0] = e.bytes[0].wrapping_add(u64::from(s.len));
    } else {
        e.packets[1] = e.packets[1].wrapping_add(1);
        e.bytes[1] = e.bytes[1].wrapping_add(u64::from(s.len));
    }
}

#[inline(always)]
fn note_tcp(e: &mut CtEntry, tcp_flags: u8, orig: bool) {
    let mut flags = e.flags;
    if tcp_flags & RST != 0 {
        flags |= ct_flags::RESET;
    }
    if tcp_flags & FIN != 0 {
        flags |= if orig {
            ct_flags::ORIG_CLOSING
        } else {
            ct_flags::REPLY_CLOSING
        };
    }
    if orig && tcp_flags & SYN == 0 {
        flags |= ct_flags::SEEN_NON_SYN;
    }
    if flags != e.flags {
        e.flags = flags;
    }
}

#[inline(always)]
fn lifetime(e: &CtEntry, proto: u8, t: &Timeouts) -> u32 {
    const BOTH: u16 = ct_flags::ORIG_CLOSING | ct_flags::REPLY_CLOSING;
    const ALL_TO_SEE: u16 = ct_flags::ORIG_CLOSING | ct_flags::DSR;
    if proto != TCP {
        t.any
    } else if e.flags & ct_flags::RESET != 0 || e.flags & BOTH == BOTH {
        t.fin
    } else if e.flags & ALL_TO_SEE == ALL_TO_SEE {
        // The other side may go on, which the acknowledgements show.
        t.syn
    } else if e.flags & ct_flags::SEEN_NON_SYN != 0 {
        t.tcp
    } else {
        t.syn
    }
}
