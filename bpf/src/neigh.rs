//! Neighbours: pods ask who has their gateway, and the program answers with the MAC address of the host-side device.
use abi::{DropReason, L2Answers, LocalEndpoint};
use aya_ebpf::helpers::generated::bpf_redirect;
use wire::{Bytes, Family, V6, checksum, headers};

use crate::{
    clock,
    config::Settings,
    flow::{Flow, Outcome, PASS, SHOT, drop_because},
    maps::{self, Maps},
    packet::{L3, Packet},
    skb::Skb,
};

const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;

/// Answers an ARP request for any address but the pod's own; other ARP goes up the stack.
#[inline(always)]
pub fn arp(skb: Skb, ep: &LocalEndpoint) -> i32 {
    answer_arp(skb, ep).unwrap_or(PASS)
}

#[inline(always)]
fn answer_arp(skb: Skb, ep: &LocalEndpoint) -> Option<i32> {
    let target = wanted(skb)?;
    if target == u32::from_ne_bytes(ep.ipv4) {
        return None;
    }
    Some(reply(skb, target, ep.info.mac, ep.info.node_mac))
}

/// Answers on a device's network for addresses of services that this node announces; other ARP goes up the stack.
#[inline(never)]
pub fn announced_arp(skb: Skb) -> i32 {
    answer_announced(skb).unwrap_or(PASS)
}

#[inline(always)]
fn answer_announced(skb: Skb) -> Option<i32> {
    let target = wanted(skb)?;
    let asker = skb.get::<[u8; 6]>(L3 + 8)?;
    let row = maps::answers4(target, skb.ifindex()).filter(|row| holds(row))?;
    row.answers += 1;
    Some(reply(skb, target, asker, row.mac))
}

#[inline(always)]
fn holds(row: &L2Answers) -> bool {
    row.mac != [0; 6] && row.until > clock::exact()
}

/// The address that an ARP request asks for, Ethernet over IPv4.
#[inline(always)]
fn wanted(skb: Skb) -> Option<u32> {
    let is_request = skb.get::<u32>(L3)? == u32::from_ne_bytes([0, 1, 8, 0])
        && skb.get::<u16>(L3 + 6)? == ARP_REQUEST.to_be();
    skb.get::<u32>(L3 + 24).filter(|_| is_request)
}

/// Turns an ARP request into the reply that `target` is at `mac`.
#[inline(always)]
fn reply(skb: Skb, target: u32, asker: [u8; 6], mac: [u8; 6]) -> i32 {
    let Some(sender) = skb.get::<u32>(L3 + 14) else {
        return SHOT;
    };
    let written = skb.write_macs(asker, mac)
        && skb.write(L3 + 6, ARP_REPLY.to_be())
        && skb.write(L3 + 8, mac)
        && skb.write(L3 + 14, target)
        && skb.write(L3 + 18, asker)
        && skb.write(L3 + 24, sender);
    if !written {
        return SHOT;
    }
    // SAFETY: a helper call.
    unsafe { bpf_redirect(skb.ifindex(), 0) as i32 }
}

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Solicited, override.
const NA_FLAGS: u32 = 0x6000_0000;
const ROUTER: u32 = 0x8000_0000;
/// A solicitation with the one option that hosts send: header, target, source link-layer address.
const NS_LEN: usize = 32;

/// True for the ICMPv6 messages between neighbours, which never cross a router: discovery and multicast membership.
#[inline(always)]
pub fn is_between_neighbours(h: &headers::Headers<V6>) -> bool {
    let is_membership = matches!(h.icmp_type, 130..=132 | 143);
    h.tuple.proto == 58
        && (matches!(h.icmp_type, 133..=137) || is_membership && V6::is_multicast(h.tuple.dst))
}

/// True for neighbour discovery, which never crosses a router.
#[inline(always)]
pub fn is_discovery<F: Family>(h: &headers::Headers<F>) -> bool {
    F::IS_V6 && h.tuple.proto == F::ICMP && matches!(h.icmp_type, 133..=137)
}

/// What every system says when its link comes up, and nobody at the other end of a pod's link needs to hear: it is counted and ends
/// here, without an event for each pod that starts.
#[inline(always)]
pub fn absorb<F: Maps>(flow: &Flow<F>) -> Outcome {
    let (hook, len) = (flow.hook, flow.packet.len());
    maps::count(
        DropReason::MulticastHandled as u8,
        hook.direction,
        len,
        line!() as u16,
        hook.file,
    );
    Ok(SHOT)
}

/// Answers a solicitation for the gateway or for another address of this node.
#[inline(always)]
pub fn nd(flow: &Flow<V6>, ep: &LocalEndpoint) -> Outcome {
    let skb = flow.packet;
    match flow.h.icmp_type {
        SOLICITATION => {}
        // Membership reports, the search for a router (routes are set already), the pod's own announcements.
        130..=133 | 143 | ADVERTISEMENT => return absorb(flow),
        _ => return Err(drop_because!(ForbiddenIcmpv6Message)),
    }
    let Some(target) = skb.get::<[u64; 2]>(flow.h.l4() + 8) else {
        return Err(drop_because!(InvalidPacket));
    };
    if flow.h.tuple.src == [0; 2] {
        // Nobody else can have the pod's address: silence is the answer to its duplicate detection.
        return absorb(flow);
    }
    let known = target == V6::router_addr() || maps::endpoint::<V6>(target).is_some();
    if !known || target == V6::addr_of(ep) {
        return Err(drop_because!(UnknownTarget));
    }
    let macs = [ep.info.mac, ep.info.node_mac];
    advertise(skb, macs, target, flow.h.tuple.src, NA_FLAGS | ROUTER)
}

/// Answers a solicitation on a device's network for an address of a service that this node announces. None if it does not.
#[inline(always)]
pub fn announced_nd<F: Maps>(flow: &Flow<F>) -> Option<Outcome> {
    if !F::IS_V6 || !is_discovery(&flow.h) || flow.h.icmp_type != SOLICITATION {
        return None;
    }
    core::hint::cold_path();
    let skb = flow.packet;
    let target = skb.get::<[u64; 2]>(flow.h.l4() + 8)?;
    let asker = skb.get::<[u8; 6]>(6)?;
    let src: [u64; 2] = zerocopy::transmute!(F::widen(flow.h.tuple.src));
    let row = maps::answers6(target, skb.ifindex()).filter(|row| holds(row) && src != [0; 2])?;
    row.answers += 1;
    Some(advertise(skb, [asker, row.mac], target, src, NA_FLAGS))
}

/// Turns the solicitation in `skb` into an advertisement of `target` to `asker`, and sends it back; MAC addresses of receiver and sender.
#[inline(always)]
fn advertise(
    skb: Skb,
    [to, mac]: [[u8; 6]; 2],
    target: [u64; 2],
    asker: [u64; 2],
    flags: u32,
) -> Outcome {
    let icmp = L3 + 40;
    if skb.get::<u16>(L3 + 4) != Some((NS_LEN as u16).to_be())
        || skb.get::<u8>(L3 + 6) != Some(58)
        || skb.get::<u8>(L3 + 7) != Some(255)
    {
        return Err(drop_because!(UnknownTarget));
    }
    let sum = advertisement_checksum(target, asker, mac, flags);
    let written = skb.write_macs(to, mac)
        && skb.write(L3 + 8, target)
        && skb.write(L3 + 24, asker)
        && skb.write(icmp, u16::from_ne_bytes([ADVERTISEMENT, 0]))
        && skb.write(icmp + 2, sum)
        && skb.write(icmp + 4, flags.to_be())
        && skb.write(icmp + 8, target)
        && skb.write(icmp + 24, u16::from_ne_bytes([2, 1]))
        && skb.write(icmp + 26, mac);
    if !written {
        return Err(drop_because!(ErrorWritingToPacket));
    }
    // SAFETY: a helper call.
    Ok(unsafe { bpf_redirect(skb.ifindex(), 0) } as i32)
}

/// Checksum of the advertisement: pseudo header (source `target`, destination `asker`, length, protocol) and message.
#[inline(always)]
fn advertisement_checksum(target: [u64; 2], asker: [u64; 2], mac: [u8; 6], flags: u32) -> u16 {
    let words = |a: [u64; 2]| half_sum(a[0]) + half_sum(a[1]);
    let word = |hi: u8, lo: u8| u64::from(u16::from_ne_bytes([hi, lo]));
    // The target counts twice: as source address and as the message's target.
    let mut sum = words(target) * 2 + words(asker);
    sum += word(0, NS_LEN as u8)
        + word(0, 58)
        + word(ADVERTISEMENT, 0)
        + word((flags >> 24) as u8, 0)
        + word(2, 1);
    sum += word(mac[0], mac[1]) + word(mac[2], mac[3]) + word(mac[4], mac[5]);
    !checksum::fold(sum)
}

/// The two 32-bit halves of eight bytes, added.
#[inline(always)]
fn half_sum(word: u64) -> u64 {
    (word & 0xFFFF_FFFF) + (word >> 32)
}
