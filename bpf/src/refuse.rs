//! Nobody serves, or not what is so long: the client hears it at once, from the program, and does not wait for an answer.
use abi::{DropReason, mark};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail};
use wire::{
    Bytes, checksum,
    conntrack::{ACK, FIN, RST, SYN},
    headers::TCP,
};

use crate::{
    config, direct,
    flow::{Code, SHOT, State},
    maps::Maps,
    packet::{L3, Packet},
    skb::Skb,
};

const TTL: u8 = 64;
/// `BPF_ADJ_ROOM_MAC`: room between the Ethernet header and the next one.
const BEHIND_MACS: u32 = 1;
/// What an error quotes of the L4 header: enough for every receiver to know whom it is about.
const QUOTED: usize = 8;
const ICMP_HEADER: usize = 8;
const FRAGMENT_HEADER: usize = 8;

/// True if whoever sends what is dropped for this reason is told.
#[inline(always)]
pub fn is_told(reason: u8) -> bool {
    let nobody_serves = reason == DropReason::NoServiceBackend as u8;
    config::services() && (nobody_serves && config::refuses() || direct::is_too_long(reason))
}

/// Turns the packet into its refusal, by the reason of its last report, and sends it back where it came from. The verdict; what cannot be
/// answered is dropped.
#[inline(always)]
pub fn refuse<F: Maps>(skb: Skb, state: &mut State<F>) -> Code {
    let too_long = direct::is_too_long(state.subtype);
    // Parts of a datagram cannot be answered one by one, and a reset is the end of it.
    let has_answer = (state.h.fragment.is_whole() || too_long) && state.h.tcp_flags & RST == 0;
    let Some(macs) = skb.get::<[[u8; 6]; 2]>(0).filter(|_| has_answer) else {
        return SHOT as Code;
    };
    let done = if state.h.tuple.proto == TCP && !too_long {
        reset::<F>(skb, state)
    } else {
        complain::<F>(skb, state)
    };
    if done.is_none() || !skb.write_macs(macs[1], macs[0]) {
        return SHOT as Code;
    }
    skb.set_mark(mark::SNAT_DONE);
    // SAFETY: a helper call.
    unsafe { bpf_redirect(skb.ifindex(), 0) as Code }
}

/// In place, with what the segment carries: its checksum then only has to follow what changes. Whether a device has still to sum up the
/// rest is not known here.
#[inline(never)]
fn reset<F: Maps>(skb: Skb, state: &State<F>) -> Option<()> {
    let h = &state.h;
    let at = h.l4();
    let [ports, seq, ack, rest] = skb.get::<[u32; 4]>(at)?;
    let headers = at - L3;
    let len = if F::IS_V6 {
        usize::from(u16::from_be(skb.get::<u16>(L3 + 4)?)) + F::HEADER_LEN
    } else {
        usize::from(u16::from_be(skb.get::<u16>(L3 + 2)?))
    };
    let [offset, flags, ..] = rest.to_ne_bytes();
    let payload = len.wrapping_sub(headers + usize::from(offset >> 4) * 4) as u32;
    let numbered = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let next = u32::from_be(seq)
        .wrapping_add(payload)
        .wrapping_add(numbered);
    let from = if flags & ACK != 0 { ack } else { 0 };
    let ended = u16::from_ne_bytes([offset & 0xF0, RST | ACK]);
    let sum = at + 16;
    let replaced = skb.replace_l4_word(sum, seq, from)
        && skb.replace_l4_word(sum, ack, next.to_be())
        && skb.replace_l4_port(sum, u16::from_ne_bytes([offset, flags]), ended, 0)
        && skb.store(at, &[ports.rotate_left(16), from, next.to_be()], 0)
        && skb.store(at + 12, &ended, 0);
    if !replaced {
        return None;
    }
    turn::<F>(skb)
}

/// Swaps the addresses, which no checksum notices, and gives the packet a new life.
#[inline(always)]
fn turn<F: Maps>(skb: Skb) -> Option<()> {
    let at = L3 + F::SRC_OFFSET;
    let [src, dst] = skb.get::<[F::Addr; 2]>(at)?;
    let written = skb.write(at, [dst, src])
        && if F::IS_V6 {
            skb.write(L3 + 7, TTL)
        } else {
            let [word, sum] = skb.get::<[u16; 2]>(L3 + 8)?;
            let fresh = u16::from_ne_bytes([TTL, word.to_ne_bytes()[1]]);
            skb.write(L3 + 8, [fresh, checksum::replace16(sum, word, fresh)])
        };
    written.then_some(())
}

/// "Port unreachable" or "too big", with as much of the packet as every receiver needs.
#[inline(never)]
fn complain<F: Maps>(skb: Skb, state: &State<F>) -> Option<()> {
    let too_long = direct::is_too_long(state.subtype);
    // Options and extension headers are not quoted, but that of a fragment: senders of those have to hear how long they may be.
    let more = match state.h.l4().wrapping_sub(L3 + F::HEADER_LEN) {
        0 => 0,
        FRAGMENT_HEADER if too_long => FRAGMENT_HEADER,
        _ => return None,
    };
    let quoted = F::HEADER_LEN + more + QUOTED;
    if (skb.len() as usize) < L3 + quoted {
        return None;
    }
    let room = F::HEADER_LEN + ICMP_HEADER;
    // SAFETY: helper calls on a valid context.
    let made = unsafe {
        bpf_skb_change_tail(skb.0, (L3 + quoted) as u32, 0) == 0
            && bpf_skb_adjust_room(skb.0, room as i32, BEHIND_MACS, 0) == 0
    };
    if !made || !skb.pull((L3 + room + quoted) as u32) {
        return None;
    }
    let (src, dst) = (state.h.tuple.dst, state.h.tuple.src);
    let len = ICMP_HEADER + quoted;
    if F::IS_V6 {
        let first = [0x6000_0000_u32.to_be(), head6(len)];
        if !skb.write(L3, first) {
            return None;
        }
    } else {
        let total = (F::HEADER_LEN + len) as u16;
        let words = [
            u16::from_ne_bytes([0x45, 0]),
            total.to_be(),
            0,
            0,
            u16::from_ne_bytes([TTL, F::ICMP]),
        ];
        let sum = words.iter().map(|w| u64::from(*w)).sum::<u64>()
            + checksum::of_address::<F>(src)
            + checksum::of_address::<F>(dst);
        if !skb.write(L3, words) || !skb.write(L3 + 10, !checksum::fold(sum)) {
            return None;
        }
    }
    let (kind, code, value) = match (F::IS_V6, too_long) {
        (true, false) => (1, 4, 0),
        (true, true) => (2, 0, direct::told_longest::<F>()),
        (false, false) => (3, 3, 0),
        (false, true) => (3, 4, direct::told_longest::<F>() & 0xFFFF),
    };
    let (first, value) = (u16::from_ne_bytes([kind, code]), value.to_be());
    let mut sum = u64::from(first) + u64::from(value) + quoted_sum::<F>(skb, L3 + room)?;
    if more != 0 {
        let [a, b] = skb.get::<[u32; 2]>(L3 + room + F::HEADER_LEN + QUOTED)?;
        sum += u64::from(a) + u64::from(b);
    }
    if F::IS_V6 {
        sum += checksum::of_address::<F>(src) + checksum::of_address::<F>(dst);
        sum += u64::from((len as u16).to_be()) + u64::from(u16::from_ne_bytes([0, F::ICMP]));
    }
    let [high, low]: [u16; 2] = zerocopy::transmute!(value);
    let icmp = [first, !checksum::fold(sum), high, low];
    let written = skb.write(L3 + F::SRC_OFFSET, [src, dst]) && skb.write(L3 + F::HEADER_LEN, icmp);
    written.then_some(())
}

/// Length, protocol and hop limit of the IPv6 header.
#[inline(always)]
fn head6(len: usize) -> u32 {
    let [a, b] = (len as u16).to_be_bytes();
    u32::from_ne_bytes([a, b, 58, TTL])
}

/// Sum of what is quoted, at `at`.
#[inline(always)]
fn quoted_sum<F: Maps>(skb: Skb, at: usize) -> Option<u64> {
    let head = skb.get::<[u32; 7]>(at)?;
    let mut sum = head.iter().map(|w| u64::from(*w)).sum();
    if F::IS_V6 {
        let rest = skb.get::<[u32; 5]>(at + 28)?;
        sum += rest.iter().map(|w| u64::from(*w)).sum::<u64>();
    }
    Some(sum)
}
