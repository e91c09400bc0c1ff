//! The most important test of network policy: random policies, resolved and written into the real map; random packets, decided by
//! the real programs; and the model of what policies mean, which knows neither rows nor packets.
//!
//! Sixty thousand packets; `POLICY_CASES` gives another number of sets of policies, of a thousand packets each.
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use abi::{
    DropReason, EndpointInfo, EventKind, FlowEvent, IpcacheKey, IpcacheValue, LocalEndpoint, names,
};
use datapath::{Datapath, events::EventReader, test_run::SkbContext};
use hypha_policy::{
    kernel::{Question, Verdict},
    reference::Decision,
    resolve::Change,
    rule::Direction,
};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

use super::packet::Packet;
use crate::{
    generate::{ask, group, object, settings, some_service},
    support::{Place, place},
    world::{Ask, Remote, World, cases, policy},
};

/// Packets for each set of policies.
const PACKETS: usize = 1000;
const IFINDEX_OF_POD: &str = "lxc1";
const SHOT: i32 = 2;
const ENDPOINT: u16 = 9;
const POD4: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
const POD6: Ipv6Addr = Ipv6Addr::new(0xFD00, 0x244, 1, 0, 0, 0, 0, 0x10);

/// One pod, whose policy is that of whom a question is about.
struct Node {
    datapath: Datapath,
    events: EventReader,
    device: u32,
    /// The place of each identity's address.
    remotes: BTreeMap<u32, u16>,
    subject: u32,
    /// Packets are told apart, so that no connection answers for another.
    packets: u32,
}

impl Node {
    fn new(here: &Place) -> Self {
        let mut options = here.options();
        options.sizes.policy = 65_536;
        let (datapath, _) = Datapath::open(&options).unwrap();
        let events = datapath.events().unwrap();
        let device = here.veth(IFINDEX_OF_POD);
        Self {
            datapath,
            events,
            device,
            remotes: BTreeMap::new(),
            subject: 0,
            packets: 0,
        }
    }

    /// Writes the rows of `world` in place of those that are there.
    fn take(&self, world: &World) {
        let map = self.datapath.policy().unwrap();
        let old: Vec<_> = map.dump().unwrap().iter().map(|row| row.0).collect();
        map.delete_all(&old).unwrap();
        let rows: Vec<_> = world
            .map
            .iter()
            .map(|(key, value)| (key.to_abi(), value.to_abi(key.l4)))
            .collect();
        assert_eq!(map.put_all(&rows).unwrap(), rows.len());
        assert_eq!(map.len().unwrap(), rows.len());
        self.datapath.policy_epoch().unwrap().raise().unwrap();
    }

    fn pod_is(&mut self, subject: u32) {
        if self.subject == subject {
            return;
        }
        self.subject = subject;
        let info = EndpointInfo {
            ifindex: self.device,
            sec_id: 4242,
            id: ENDPOINT,
            flags: 0,
            mac: [2, 1, 0, 0, 0, 1],
            node_mac: [2, 2, 0, 0, 0, 1],
            subject,
        };
        let pod = LocalEndpoint {
            info,
            ipv4: POD4.octets(),
            ipv6: POD6.octets(),
        };
        self.datapath.endpoints().unwrap().upsert(&pod).unwrap();
    }

    /// An address of this identity.
    fn address(&mut self, identity: u32, v6: bool) -> IpAddr {
        let next = self.remotes.len() as u16 + 1;
        let place = *self.remotes.entry(identity).or_insert(next);
        let [high, low] = place.to_be_bytes();
        let (v4, a6) = (
            Ipv4Addr::new(10, 9, high, low),
            Ipv6Addr::new(0xFD00, 9, 0, 0, 0, 0, 0, place),
        );
        if place == next {
            let value = IpcacheValue {
                sec_id: identity,
                tunnel: [0; 16],
                flags: 0,
                key: 0,
                pad: 0,
            };
            let cache = self.datapath.ipcache().unwrap();
            cache
                .upsert(&IpcacheKey::v4(v4.octets(), 32), &value)
                .unwrap();
            cache
                .upsert(&IpcacheKey::v6(a6.octets(), 128), &value)
                .unwrap();
        }
        if v6 { a6.into() } else { v4.into() }
    }

    /// Sends the packet that a question is about, from the pod or to it; what the program says, and what it reports of policy.
    fn send(&mut self, ask: &Ask, remote: u32) -> (i32, Vec<FlowEvent>) {
        self.packets += 1;
        let own = (self.packets % 60_000) as u16 + 1;
        let v6 = match ask.packet.protocol {
            1 => false,
            58 => true,
            _ => self.packets.is_multiple_of(2),
        };
        self.pod_is(ask.subject);
        let far = self.address(remote, v6);
        let pod = if v6 { POD6.into() } else { POD4.into() };
        let (src, dst) = match ask.direction {
            Direction::Ingress => (far, pod),
            Direction::Egress => (pod, far),
        };
        let bytes = packet(src, dst, own, ask);
        let program = match ask.direction {
            Direction::Ingress => names::FROM_NETDEV,
            Direction::Egress => names::FROM_CONTAINER,
        };
        let context = SkbContext {
            ifindex: self.device,
            ..SkbContext::default()
        };
        let run = self.datapath.test_run(program, &bytes, context).unwrap();
        let mut events = Vec::new();
        self.events.drain(|event| events.push(*event));
        (run.verdict, events)
    }
}

fn packet(src: IpAddr, dst: IpAddr, own: u16, ask: &Ask) -> Vec<u8> {
    let port = ask.packet.port;
    match ask.packet.protocol {
        6 => Packet::tcp((src, own), (dst, port), super::packet::SYN),
        17 => Packet::udp((src, own), (dst, port), b"x"),
        1 | 58 => {
            let [a, b] = own.to_be_bytes();
            Packet::icmp(src, dst, port as u8, 0, [a, b, 0, 0], b"sixteen bytes...")
        }
        protocol => {
            let ports = [own.to_be_bytes(), port.to_be_bytes()].concat();
            Packet::new(src, dst, protocol, [ports, vec![0; 8]].concat())
        }
    }
    .bytes()
}

/// Whether the programs ask about such a packet at all: they have no connections of other protocols; and neighbours' messages, and
/// those that say how big packets may be, are none of policy's business.
fn is_asked(ask: &Ask) -> bool {
    match ask.packet.protocol {
        6 | 17 | 132 => true,
        1 => ask.packet.port <= 255,
        58 => ask.packet.port <= 255 && !matches!(ask.packet.port, 2 | 130..=137 | 143),
        _ => false,
    }
}

fn remote(world: &World, ask: &Ask) -> Option<u32> {
    world.known.subjects.get(&ask.subject)?;
    match ask.remote {
        Remote::Member(id) => world.known.identities.contains_key(&id).then_some(id),
        Remote::Address(address) if address.is_ipv6() && !world.both_families => None,
        Remote::Address(address) => Some(world.identity_of(address)),
    }
}

/// Compares program and model; the kind of decision.
fn compare(node: &mut Node, world: &World, ask: &Ask) -> Result<Option<&'static str>, String> {
    let Some(remote) = remote(world, ask).filter(|_| is_asked(ask)) else {
        return Ok(None);
    };
    let decision = world.compare(ask)?;
    let (reason, kind) = match &decision {
        Decision::Denied(_) => (Some(DropReason::PolicyDeny), "denied"),
        Decision::NotAllowed => (Some(DropReason::PolicyDenied), "not allowed"),
        Decision::Allowed(_) => (None, "allowed"),
        // What goes by way of the proxy has tests of its own.
        Decision::AllowedVia(_) => return Ok(None),
        Decision::Localhost => (None, "localhost"),
        Decision::NotEnforced => (None, "not enforced"),
    };
    let outcome = world.map.ask(&Question {
        subject: ask.subject,
        direction: ask.direction,
        remote,
        protocol: ask.packet.protocol,
        port: Some(ask.packet.port),
    });
    let (verdict, events) = node.send(ask, remote);
    let told = |what: EventKind| events.iter().find(|event| event.kind == what as u8);
    let number = reason.map_or(0, |reason| reason as u8);
    let right = (verdict == SHOT) == reason.is_some()
        && told(EventKind::Drop).map(|event| event.subtype) == reason.map(|reason| reason as u8)
        && (outcome.verdict == Verdict::Allow) == reason.is_none();
    // Of what is not enforced nothing is told, nor of another message between two whose first has passed.
    let is_message = matches!(ask.packet.protocol, 1 | 58);
    let verdict_right = match told(EventKind::PolicyVerdict) {
        Some(event) => {
            let direction = match ask.direction {
                Direction::Ingress => 1,
                Direction::Egress => 2,
            };
            (
                event.subtype,
                event.origin,
                event.matched,
                event.direction,
                event.endpoint,
            ) == (
                number,
                outcome.origin,
                outcome.matched as u8,
                direction,
                ENDPOINT,
            )
        }
        None => kind == "not enforced" || is_message && reason.is_none(),
    };
    if right && verdict_right {
        return Ok(Some(kind));
    }
    Err(format!(
        "{ask:?} (identity {remote}): the model says {decision:?}, the map {outcome:?}, the program {verdict} and {events:#?}"
    ))
}

#[test]
fn the_programs_say_what_the_model_says() {
    place(|here| {
        let mut node = Node::new(here);
        let mut runner = TestRunner::default();
        let inputs = (
            settings(),
            any::<bool>(),
            prop::collection::vec(object(), 1..8),
            prop::collection::vec(group(), 0..3),
            prop::collection::vec(some_service(), 0..3),
            prop::collection::vec(ask(), PACKETS * 5 / 4),
        );
        let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
        for _ in 0..cases(60) {
            let (settings, both_families, objects, groups, services, mut asks) =
                inputs.new_tree(&mut runner).unwrap().current();
            let mut world = World::new(settings, both_families);
            let mut changes: Vec<_> = objects.iter().map(|o| Change::Policy(policy(o))).collect();
            changes.extend(groups.into_iter().map(Change::Group));
            changes.extend(services.into_iter().map(Change::Service));
            world.apply(changes);
            node.take(&world);
            asks.sort_by_key(|ask| ask.subject);
            for ask in &asks {
                match compare(&mut node, &world, ask) {
                    Ok(kind) => *seen.entry(kind.unwrap_or("not asked")).or_default() += 1,
                    Err(difference) => panic!(
                        "{difference}\n{:#}",
                        shrunk(&mut node, &objects, ask, &world)
                    ),
                }
            }
        }
        println!("{seen:?}");
        seen.remove("not asked");
        let packets: u32 = seen.values().sum();
        assert!(packets >= cases(60) * 833, "{seen:?}");
        assert_eq!(
            seen.len(),
            5,
            "a kind of decision was never reached: {seen:?}"
        );
    });
}

/// The policies without those that a difference does not need.
fn shrunk(
    node: &mut Node,
    objects: &[serde_json::Value],
    ask: &Ask,
    world: &World,
) -> serde_json::Value {
    let mut needed = objects.to_vec();
    let mut at = 0;
    while at < needed.len() {
        let mut fewer = needed.clone();
        fewer.remove(at);
        let mut smaller = World::new(world.known.settings.clone(), world.both_families);
        smaller.apply(fewer.iter().map(|o| Change::Policy(policy(o))).collect());
        node.take(&smaller);
        match compare(node, &smaller, ask) {
            Err(_) => needed = fewer,
            Ok(_) => at += 1,
        }
    }
    needed.into()
}
