//! Neighbours: pods ask who has their gateway, and the program answers with the MAC address of the host-side device.
use abi::{DropReason, LocalEndpoint};
use aya_ebpf::helpers::generated::bpf_redirect;
use wire::{Bytes, Family, V6, checksum, headers};

use crate::{
    config::Settings,
    flow::{Drop, Flow, Outcome, PASS, SHOT, drop_because},
    maps::{self, Maps},
    skb::{L3, Skb},
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
    // Ethernet over IPv4, and a request.
    let is_request = skb.get::<u32>(L3)? == u32::from_ne_bytes([0, 1, 8, 0])
        && skb.get::<u16>(L3 + 6)? == ARP_REQUEST.to_be();
    let sender = skb.get::<u32>(L3 + 14)?;
    let target = skb.get::<u32>(L3 + 24)?;
    if !is_request || target == u32::from_ne_bytes(ep.ipv4) {
        return None;
    }
    let (pod, host) = (ep.info.mac, ep.info.node_mac);
    let written = skb.write_macs(pod, host)
        && skb.write(L3 + 6, ARP_REPLY.to_be())
        && skb.write(L3 + 8, host)
        && skb.write(L3 + 14, target)
        && skb.write(L3 + 18, pod)
        && skb.write(L3 + 24, sender);
    // SAFETY: a helper call.
    if written {
        Some(unsafe { bpf_redirect(skb.ifindex(), 0) } as i32)
    } else {
        Some(SHOT)
    }
}

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Router, solicited, override.
const NA_FLAGS: u32 = 0xE000_0000;
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
fn absorb(flow: &Flow<V6>) -> Outcome {
    let (hook, len) = (flow.hook, flow.skb.len());
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
    let skb = flow.skb;
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
    advertise(skb, ep, target, flow.h.tuple.src)?;
    // SAFETY: a helper call.
    Ok(unsafe { bpf_redirect(skb.ifindex(), 0) } as i32)
}

/// Turns the solicitation in `skb` into an advertisement of `target` to `asker`.
#[inline(always)]
fn advertise(skb: Skb, ep: &LocalEndpoint, target: [u64; 2], asker: [u64; 2]) -> Result<(), Drop> {
    let icmp = L3 + 40;
    if skb.get::<u16>(L3 + 4) != Some((NS_LEN as u16).to_be())
        || skb.get::<u8>(L3 + 6) != Some(58)
        || skb.get::<u8>(L3 + 7) != Some(255)
    {
        return Err(drop_because!(UnknownTarget));
    }
    let mac = ep.info.node_mac;
    let sum = advertisement_checksum(target, asker, mac);
    let written = skb.write_macs(ep.info.mac, mac)
        && skb.write(L3 + 8, target)
        && skb.write(L3 + 24, asker)
        && skb.write(icmp, u16::from_ne_bytes([ADVERTISEMENT, 0]))
        && skb.write(icmp + 2, sum)
        && skb.write(icmp + 4, NA_FLAGS.to_be())
        && skb.write(icmp + 8, target)
        && skb.write(icmp + 24, u16::from_ne_bytes([2, 1]))
        && skb.write(icmp + 26, mac);
    if written {
        Ok(())
    } else {
        Err(drop_because!(ErrorWritingToPacket))
    }
}

/// Checksum of the advertisement: pseudo header (source `target`, destination `asker`, length, protocol) and message.
#[inline(always)]
fn advertisement_checksum(target: [u64; 2], asker: [u64; 2], mac: [u8; 6]) -> u16 {
    let words = |a: [u64; 2]| half_sum(a[0]) + half_sum(a[1]);
    let word = |hi: u8, lo: u8| u64::from(u16::from_ne_bytes([hi, lo]));
    // The target counts twice: as source address and as the message's target.
    let mut sum = words(target) * 2 + words(asker);
    sum +=
        word(0, NS_LEN as u8) + word(0, 58) + word(ADVERTISEMENT, 0) + word(0xE0, 0) + word(2, 1);
    sum += word(mac[0], mac[1]) + word(mac[2], mac[3]) + word(mac[4], mac[5]);
    !checksum::fold(sum)
}

/// The two 32-bit halves of eight bytes, added.
#[inline(always)]
fn half_sum(word: u64) -> u64 {
    (word & 0xFFFF_FFFF) + (word >> 32)
}
