//! Packets themselves, chosen by the filters of flows, as a pcapng file with a comment for each: who sent it, to whom, what became of it.
//!
//! A packet is taken from the devices, and waits for a moment: if the programs tell of a drop of just this one, it was dropped, with the
//! reason and the policies that the flow has. Nothing of it costs anything while no capture runs.
mod packet;
mod pcapng;
mod socket;

use crate::{
    Feeder, Filters, Observer,
    observer::{event_clock, wall_clock},
    record::{Record, Seen, Shown, What},
};
use abi::{DropReason, EventKind, FlowEvent};
use api::hubble::flow::{Endpoint, Flow, Verdict};
use pcapng::{Packet, Writer};
use socket::{Link, Taken, Tap};
use std::{
    collections::{HashMap, VecDeque},
    fmt::Write as _,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a packet waits for what the programs tell of it: they are heard every 50 ms at least.
const PATIENCE: u64 = 250_000_000;
/// The time between a packet at its device and the drop of it, at most.
const NEAR: u64 = 20_000_000;
/// The most bytes that wait, of packets and what is known of them.
const WAITING: usize = 32 << 20;
/// The most drops that are remembered.
const DROPS: usize = 1 << 16;
/// The most packets that are taken between two looks at drops.
const TAKEN: usize = 4096;
/// Milliseconds between two looks.
const LOOK: u16 = 20;

/// What is captured.
#[derive(Debug, Default)]
pub struct Capture {
    /// Which packets, as flows.
    pub filters: Filters,
    /// All of them are wanted, also those that are not IP.
    pub everything: bool,
    /// The most bytes of each.
    pub snap: usize,
    /// After how many to end; none: never.
    pub packets: Option<u64>,
    /// How long to take packets; none: until nobody reads any more.
    pub time: Option<Duration>,
}

/// A packet that waits for what became of it.
struct Pending {
    bytes: Box<[u8]>,
    length: usize,
    time: u64,
    ifindex: u32,
    link: Link,
    outgoing: bool,
    seen: Option<Seen>,
}

impl Pending {
    const fn size(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }
}

/// Who sends what to whom, as packets and events have it.
type Key = ([u8; 16], [u8; 16], [u8; 2], [u8; 2], u8);

fn key(event: &FlowEvent) -> Key {
    (event.src, event.dst, event.sport, event.dport, event.proto)
}

struct Session<'a> {
    capture: &'a Capture,
    observer: &'a Observer,
    feeder: Feeder,
    /// The next record of the observer to be looked at.
    place: u64,
    drops: HashMap<Key, Vec<(u64, Seen)>>,
    /// How many there are.
    heard: usize,
    pending: VecDeque<Pending>,
    waiting: usize,
    /// What did not fit while it waited.
    lost: u64,
    written: u64,
    writer: Writer,
}

impl Capture {
    /// Captures until enough was seen, or `out`, which gets the file piece by piece, says that nobody reads it. `feeder` names packets and
    /// does nothing else.
    ///
    /// # Errors
    /// The kernel gives no packets.
    pub fn run(
        &self,
        observer: &Observer,
        feeder: Feeder,
        mut out: impl FnMut(Vec<u8>) -> bool,
    ) -> io::Result<()> {
        let mut tap = Tap::open()?;
        let mut session = Session {
            capture: self,
            observer,
            feeder,
            place: observer.flows().ring().next(),
            drops: HashMap::new(),
            heard: 0,
            pending: VecDeque::new(),
            waiting: 0,
            lost: 0,
            written: 0,
            writer: Writer::new(self.snap),
        };
        let end = self.time.map(|time| Instant::now() + time);
        loop {
            tap.wait(LOOK);
            session.take(&mut tap)?;
            let over = end.is_some_and(|end| Instant::now() >= end);
            session.hear();
            session.decide(wall_clock().saturating_sub(PATIENCE));
            if session.is_enough() || over {
                break;
            }
            if !out(session.writer.take()) {
                return Ok(());
            }
        }
        std::thread::sleep(Duration::from_nanos(PATIENCE));
        session.hear();
        session.decide(u64::MAX);
        session.writer.lost(wall_clock(), tap.lost() + session.lost);
        out(session.writer.take());
        Ok(())
    }
}

impl Session<'_> {
    fn is_enough(&self) -> bool {
        self.capture
            .packets
            .is_some_and(|most| self.written >= most)
    }

    /// Takes what is there.
    fn take(&mut self, tap: &mut Tap) -> io::Result<()> {
        self.feeder.begin();
        let offset = wall_clock().saturating_sub(event_clock());
        for _ in 0..TAKEN {
            let Some(taken) = tap.next()? else { break };
            self.keep(&taken, offset);
        }
        Ok(())
    }

    fn keep(&mut self, taken: &Taken<'_>, offset: u64) {
        let event = packet::event(taken, taken.time.saturating_sub(offset));
        if event.is_none() && !self.capture.everything {
            return;
        }
        let bytes = taken.bytes.get(..self.capture.snap);
        let bytes = bytes.unwrap_or(taken.bytes);
        let packet = Pending {
            bytes: bytes.into(),
            length: taken.length,
            time: taken.time,
            ifindex: taken.ifindex,
            link: taken.link,
            outgoing: taken.outgoing,
            seen: event.map(|event| self.feeder.seen(&event)),
        };
        if self.waiting + packet.size() > WAITING {
            self.lost += 1;
            return;
        }
        self.waiting += packet.size();
        self.pending.push_back(packet);
    }

    /// Hears of drops.
    fn hear(&mut self) {
        let ring = self.observer.flows().ring();
        let mut place = self.place.max(ring.first());
        while let Some(record) = ring.get(place) {
            place += 1;
            if let Record {
                time,
                what: What::Packet(seen),
            } = record
                && seen.event.kind == EventKind::Drop as u8
                && self.heard < DROPS
            {
                self.heard += 1;
                let list = self.drops.entry(key(&seen.event)).or_default();
                list.push((*time, seen.clone()));
            }
        }
        drop(ring);
        self.place = place;
    }

    /// Writes what was taken before `until`, as far as it is wanted, and forgets drops that nobody waits for.
    fn decide(&mut self, until: u64) {
        while self.pending.front().is_some_and(|next| next.time < until) && !self.is_enough() {
            let Some(packet) = self.pending.pop_front() else {
                return;
            };
            self.waiting -= packet.size();
            self.write(&packet);
        }
        let oldest = self.pending.front().map_or(until, |next| next.time);
        self.drops.retain(|_, list| {
            list.retain(|(time, _)| time.saturating_add(PATIENCE) > oldest);
            !list.is_empty()
        });
        self.heard = self.drops.values().map(Vec::len).sum();
    }

    fn write(&mut self, packet: &Pending) {
        let about = self.observer.about();
        let dropped = packet.seen.as_ref().and_then(|seen| {
            let list = self.drops.get(&key(&seen.event))?;
            let near = list
                .iter()
                .filter(|(at, _)| at.abs_diff(packet.time) <= NEAR);
            let nearest = near.min_by_key(|(at, _)| at.abs_diff(packet.time));
            nearest.map(|(_, seen)| seen)
        });
        let comment = match dropped.or(packet.seen.as_ref()) {
            None => "not IP".to_owned(),
            Some(seen) => {
                let shown = Shown {
                    seen,
                    time: packet.time,
                    about: &about,
                };
                if !self.capture.filters.passes(&shown) {
                    return;
                }
                comment(&shown.to_flow())
            }
        };
        let name = || device(packet);
        let place = self.writer.device(packet.ifindex, packet.link, name);
        let packet = Packet {
            time: packet.time,
            bytes: &packet.bytes,
            length: packet.length,
            outgoing: packet.outgoing,
            comment: &comment,
        };
        self.writer.packet(place, &packet);
        self.written += 1;
    }
}

/// Name of a packet's device; one that has gone keeps its number.
fn device(packet: &Pending) -> String {
    let name = packet.seen.as_ref().and_then(|seen| seen.device.clone());
    let name = name.filter(|name| !name.is_empty());
    let name: Option<Arc<str>> = name.or_else(|| {
        let name = nix::net::if_::if_indextoname(packet.ifindex).ok()?;
        Some(name.to_string_lossy().into())
    });
    name.map_or_else(
        || format!("device {}", packet.ifindex),
        |name| name.to_string(),
    )
}

/// Who sent it, to whom, and what became of it.
fn comment(flow: &Flow) -> String {
    let (from, to) = flow
        .ip
        .as_ref()
        .map_or(("", ""), |ip| (&ip.source, &ip.destination));
    let mut text = format!(
        "{} -> {} {}",
        party(flow.source.as_ref(), from),
        party(flow.destination.as_ref(), to),
        flow.verdict().as_str_name()
    );
    if flow.verdict() == Verdict::Dropped {
        let number = u8::try_from(flow.drop_reason_desc).unwrap_or_default();
        let reason = DropReason::from_u8(number).map_or("unknown reason", DropReason::text);
        let _ = write!(text, ": {reason}");
    }
    let policies = flow.ingress_denied_by.iter().chain(&flow.egress_denied_by);
    for policy in policies {
        let _ = write!(
            text,
            ", {} {}/{}",
            policy.kind, policy.namespace, policy.name
        );
    }
    text
}

fn party(endpoint: Option<&Endpoint>, address: &str) -> String {
    let Some(endpoint) = endpoint else {
        return address.to_owned();
    };
    let name = if endpoint.pod_name.is_empty() {
        address.to_owned()
    } else {
        format!("{}/{}", endpoint.namespace, endpoint.pod_name)
    };
    format!(
        "{name} (identity {}: {})",
        endpoint.identity,
        endpoint.labels.join(",")
    )
}
