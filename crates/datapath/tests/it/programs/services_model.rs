//! Random services and packets: what the programs make of them, against plain rules for who may serve and for what a packet becomes.
use std::{cell::Cell, collections::HashMap, net::IpAddr};

use abi::{Aggregation, DropReason, lb_flags, names};
use datapath::test_run::{SkbContext, TestRun};

use super::{
    direct::{labelled, options},
    frontends::{Frontends, Service},
    fuzz::{Dice, setting},
    packet::{ACK, End, Packet, SCTP, SYN, TCP, UDP, read, wrong_checksums},
    scene::{BACK, Ip, PASS, REDIRECT, SHOT, Scene, UP},
};
use crate::support::place;

/// Packets per family; `SERVICES_CASES` gives another number, and `SERVICES_SEED` others.
const CASES: u64 = 20_000;
const FRONTENDS: usize = 24;
const BACKENDS: u32 = 12;

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum From {
    Pod1,
    Pod2,
    Outside,
}

/// What is known of a client's connection to a frontend.
#[derive(Clone, Copy, Debug)]
struct Connection {
    backend: u32,
    /// The client as the backend sees it; none if no packet got there.
    seen: Option<End>,
}

/// The rules.
struct Model {
    ip: Ip,
    services: Vec<Service>,
    /// Clients that may use the frontend, if not all may.
    ranges: Vec<Option<IpAddr>>,
    backends: HashMap<u32, End>,
    connections: HashMap<(From, End, usize), Connection>,
    /// Backends that clients are kept at, by frontend.
    kept: HashMap<(IpAddr, usize), u32>,
}

/// What must come of a packet to a frontend.
enum Expected {
    Dropped,
    Refused,
    /// To one of these.
    Served(Vec<u32>),
}

impl Model {
    fn expected(&self, from: From, client: End, front: usize) -> Expected {
        let service = &self.services[front];
        if from == From::Outside {
            let closed = service.flags & lb_flags::ROUTABLE == 0;
            if closed || self.ranges[front].is_some_and(|may| may != client.0) {
                return Expected::Dropped;
            }
        }
        let known = self.connections.get(&(from, client, front));
        if let Some(known) = known.filter(|known| self.backends.contains_key(&known.backend)) {
            return self.reachable(front, vec![known.backend]);
        }
        if let Some(kept) = self.kept.get(&(client.0, front)) {
            return self.reachable(front, vec![*kept]);
        }
        match service.slots[..] {
            [] => Expected::Refused,
            _ => self.reachable(front, service.slots.clone()),
        }
    }

    /// The port of SCTP cannot be changed.
    fn reachable(&self, front: usize, backends: Vec<u32>) -> Expected {
        let service = &self.services[front];
        let changes = |id: &u32| self.backends[id].1 != service.at.1;
        if service.proto == SCTP && backends.iter().any(changes) {
            Expected::Dropped
        } else {
            Expected::Served(backends)
        }
    }

    /// Whether the packet is passed on, to be answered from where it goes.
    fn is_passed_on(&self, from: From, front: usize, backend: End) -> bool {
        let is_asked = self.services[front].flags & lb_flags::DSR != 0;
        is_asked && from == From::Outside && !self.is_here(backend)
    }

    fn is_here(&self, backend: End) -> bool {
        backend.0 == self.ip.pod1() || backend.0 == self.ip.pod2()
    }

    /// Whether the client's address must be one of the node's, or of nobody, for the answer to come back.
    fn source(&self, from: From, client: End, front: usize, backend: End) -> Source {
        let ip = self.ip;
        let is_here = self.is_here(backend) || self.is_passed_on(from, front, backend);
        if from != From::Outside && backend.0 == client.0 {
            return Source::Exactly((loopback(ip), client.1));
        }
        if is_here || from != From::Outside && backend.0 == ip.remote_pod() {
            return Source::Exactly(client);
        }
        Source::Node
    }
}

enum Source {
    Exactly(End),
    Node,
}

fn loopback(ip: Ip) -> IpAddr {
    match ip {
        Ip::V4 => [169, 254, 42, 1].into(),
        Ip::V6 => "100::a9fe:2a01".parse().unwrap(),
    }
}

/// Scene, rows and rules, which change together.
struct World<'a> {
    scene: &'a Scene,
    lb: Frontends,
    dice: Dice,
    model: Model,
    /// Node's ports in use: protocol, port, backend.
    ports: HashMap<(u8, u16, End), (From, End, usize)>,
    served: u64,
    passed_on: u64,
    answered: u64,
    /// Packets that left from the driver; none if there is no program for it.
    by_driver: Option<Cell<u64>>,
}

fn packet(proto: u8, from: End, to: End, flags: u8) -> Packet {
    match proto {
        TCP => Packet::tcp(from, to, flags),
        UDP => Packet::udp(from, to, b"a datagram"),
        _ => Packet::sctp(from, to),
    }
}

impl World<'_> {
    /// What comes from outside meets the driver's program first; what goes up from there goes up as it came.
    fn run(&self, from: From, bytes: &[u8]) -> TestRun {
        if let Some(by_driver) = &self.by_driver
            && from == From::Outside
        {
            let run = self.run_program(names::XDP_ENTRY, self.scene.eth0, bytes);
            if run.verdict == BACK {
                by_driver.set(by_driver.get() + 1);
                return TestRun {
                    verdict: REDIRECT,
                    ..run
                };
            }
            if run.verdict != UP {
                // It is not sent: no port is free.
                return TestRun {
                    verdict: SHOT,
                    ..run
                };
            }
            assert_eq!(run.packet, bytes);
        }
        let (program, ifindex) = match from {
            From::Pod1 => (names::FROM_CONTAINER, self.scene.lxc1),
            From::Pod2 => (names::FROM_CONTAINER, self.scene.lxc2),
            From::Outside => (names::FROM_NETDEV, self.scene.eth0),
        };
        self.run_program(program, ifindex, bytes)
    }

    fn run_program(&self, program: &'static str, ifindex: u32, bytes: &[u8]) -> TestRun {
        let context = SkbContext {
            ifindex,
            ..SkbContext::default()
        };
        let run = self
            .scene
            .datapath
            .test_run(program, bytes, context)
            .unwrap();
        assert_eq!(wrong_checksums(&run.packet), [""; 0]);
        run
    }

    fn place_of(&self, backend: End) -> From {
        if backend.0 == self.model.ip.pod1() {
            From::Pod1
        } else if backend.0 == self.model.ip.pod2() {
            From::Pod2
        } else {
            From::Outside
        }
    }

    /// Gives the backend of this number a place, another one than it had.
    fn backend(&mut self, id: u32) {
        let ip = self.model.ip;
        let hosts = [ip.pod1(), ip.pod2(), ip.remote_pod(), ip.outside()];
        let at = (hosts[id as usize % 4], [80, 30080, 8080][id as usize % 3]);
        self.lb.backend(id, at);
        self.model.backends.insert(id, at);
    }

    fn new_service(&mut self, front: usize) {
        let ip = self.model.ip;
        let dice = &mut self.dice;
        let addresses = [ip.vip(), ip.balancer(), ip.node()];
        // No two share an address and port; that of SCTP has to be one of the backends'.
        let (addr, proto, port) = match front {
            4 | 9 | 14 => (addresses[front / 5], SCTP, 80),
            _ => (
                dice.pick(&addresses),
                [TCP, UDP][front % 2],
                30000 + front as u16,
            ),
        };
        let at = (addr, port);
        let mut service = Service::new(front as u16 + 1, at, proto, &[]);
        if dice.one_in(4) {
            service = service.inside();
        }
        if dice.one_in(3) {
            service = service.flags(lb_flags::AFFINITY);
            service.affinity = 3600;
        }
        if dice.one_in(4) && proto != SCTP {
            service.maglev = vec![0; 251];
        }
        if dice.one_in(2) {
            service = service.flags(lb_flags::DSR);
        }
        let range = dice.one_in(4).then(|| ip.stranger());
        if let Some(may) = range {
            service = service.flags(lb_flags::SOURCE_RANGES);
            let bits = if may.is_ipv4() { 32 } else { 128 };
            self.lb.source(service.id, (may, bits), true);
        }
        self.model.services.push(service);
        self.model.ranges.push(range);
        self.fill(front);
    }

    /// Gives a service other backends.
    fn fill(&mut self, front: usize) {
        let service = &mut self.model.services[front];
        let all: Vec<u32> = (1..=BACKENDS)
            .filter(|id| self.model.backends.contains_key(id))
            .collect();
        let n = if service.proto == SCTP {
            1
        } else {
            self.dice.below(6)
        };
        service.slots = (0..n).map(|_| self.dice.pick(&all)).collect();
        service.slots.sort_unstable();
        service.slots.dedup();
        let slots = service.slots.clone();
        for place in &mut service.maglev {
            *place = if slots.is_empty() {
                0
            } else {
                self.dice.pick(&slots)
            };
        }
        for id in 1..=BACKENDS {
            self.lb.let_go(service.id, id);
        }
        self.model
            .kept
            .retain(|(_, at), id| *at != front || slots.contains(id));
        self.lb.serve(service);
    }

    /// Takes a backend away, out of every service that has it; or brings it back.
    fn turn_backend(&mut self) {
        let id = 1 + self.dice.below(BACKENDS as usize) as u32;
        if self.model.backends.len() < BACKENDS as usize / 2
            || !self.model.backends.contains_key(&id)
        {
            self.backend(id);
            return;
        }
        self.model.backends.remove(&id);
        for front in 0..FRONTENDS {
            if self.model.services[front].slots.contains(&id) {
                self.fill(front);
            }
            self.lb.let_go(front as u16 + 1, id);
        }
        self.model.kept.retain(|_, kept| *kept != id);
        self.lb.remove_backend(id);
    }

    fn ask(&mut self) {
        let ip = self.model.ip;
        let front = self.dice.below(FRONTENDS);
        let from = self
            .dice
            .pick(&[From::Pod1, From::Pod2, From::Outside, From::Outside]);
        let addr = match from {
            From::Pod1 => ip.pod1(),
            From::Pod2 => ip.pod2(),
            From::Outside => self.dice.pick(&[ip.stranger(), ip.router()]),
        };
        // Ports in the range of masquerading and below; each frontend's of its own, since two that lead to one backend would share
        // a connection.
        let base = self.dice.pick(&[2000, 40_000]);
        let client = (addr, base + front as u16 * 16 + self.dice.below(12) as u16);
        let service = self.model.services[front].clone();
        let flags = self.dice.pick(&[SYN, ACK]);
        let sent = packet(service.proto, client, service.at, flags);
        let came = self.run(from, &sent.bytes());
        match self.model.expected(from, client, front) {
            Expected::Dropped => assert_eq!(came.verdict, SHOT, "{service:?} {client:?}"),
            Expected::Refused => {
                assert_eq!(came.verdict, REDIRECT);
                let said = read(&came.packet);
                assert_eq!((said.src.0, said.dst.0), (service.at.0, client.0));
            }
            Expected::Served(backends) if self.has_no_port(from, client, front, &backends) => {
                assert_eq!(came.verdict, SHOT, "{service:?} {client:?}");
                self.note((from, client, front), backends[0], None);
            }
            Expected::Served(backends) => {
                self.check_served(from, client, front, (flags, &backends), &came);
            }
        }
    }

    /// SCTP keeps its port, and another client has it already.
    fn has_no_port(&self, from: From, client: End, front: usize, backends: &[u32]) -> bool {
        let proto = self.model.services[front].proto;
        let backend = self.model.backends[&backends[0]];
        let owner = self.ports.get(&(proto, client.1, backend));
        let is_masqueraded = matches!(
            self.model.source(from, client, front, backend),
            Source::Node
        );
        proto == SCTP
            && is_masqueraded
            && owner.is_some_and(|owner| *owner != (from, client, front))
    }

    /// The connection has this backend now.
    fn note(&mut self, key @ (_, client, front): (From, End, usize), id: u32, seen: Option<End>) {
        let was = self
            .model
            .connections
            .insert(key, Connection { backend: id, seen });
        let keeps = self.model.services[front].flags & lb_flags::AFFINITY != 0;
        if keeps && was.is_none_or(|was| was.backend != id) {
            self.model.kept.insert((client.0, front), id);
        }
    }

    fn check_served(
        &mut self,
        from: From,
        client: End,
        front: usize,
        (flags, backends): (u8, &[u32]),
        came: &TestRun,
    ) {
        self.served += 1;
        let service = &self.model.services[front];
        let what = format!("{from:?} {client:?} to {service:?}");
        assert_eq!(came.verdict, REDIRECT, "{what}: {:?}", came.packet);
        let said = read(&came.packet);
        let sent = packet(service.proto, client, service.at, flags).bytes();
        let l4 = self.model.ip.l4() + came.packet.len() - sent.len();
        let port = |at: usize| u16::from_be_bytes([came.packet[at], came.packet[at + 1]]);
        let (sport, to) = (port(l4), (said.dst.0, port(l4 + 2)));
        let id = backends.iter().find(|id| self.model.backends[id] == to);
        let Some(id) = id.copied() else {
            panic!("{what}: {to:?} is none of {backends:?}");
        };
        let seen = match self.model.source(from, client, front, to) {
            Source::Exactly(seen) => seen,
            Source::Node => {
                assert!(sport >= 32768 || service.proto == SCTP, "{what}");
                assert!(
                    client.1 < 32768
                        || sport == client.1
                        || self.ports.contains_key(&(service.proto, client.1, to))
                );
                (self.model.ip.node(), sport)
            }
        };
        let mut expected = packet(service.proto, seen, to, flags).ttl(63).bytes();
        let begins = service.proto != TCP || flags == SYN;
        let is_passed_on = self.model.is_passed_on(from, front, to);
        if is_passed_on && begins {
            expected = labelled(&expected, service.at);
        }
        self.passed_on += u64::from(is_passed_on);
        assert_eq!(came.packet[14..], expected[14..], "{what}");
        let key = (from, client, front);
        if seen.0 == self.model.ip.node() {
            let owner = self.ports.insert((service.proto, sport, to), key);
            assert!(owner.is_none_or(|owner| owner == key), "{what}: {owner:?}");
        }
        self.note(key, id, Some(seen));
    }

    /// The backend of some connection answers.
    fn answer(&mut self) {
        let keys: Vec<_> = self.model.connections.keys().copied().collect();
        if keys.is_empty() {
            return;
        }
        let key @ (_, client, front) = keys[self.dice.below(keys.len())];
        let Connection { backend, seen } = self.model.connections[&key];
        let (Some(backend), Some(seen)) = (self.model.backends.get(&backend).copied(), seen) else {
            return;
        };
        if self.model.is_passed_on(key.0, front, backend) {
            // Its node answers.
            return;
        }
        self.answered += 1;
        let service = &self.model.services[front];
        let sent = packet(service.proto, backend, seen, SYN | ACK);
        let came = self.run(self.place_of(backend), &sent.bytes());
        let expected = packet(service.proto, service.at, client, SYN | ACK).ttl(63);
        assert_eq!(came.verdict, REDIRECT, "{key:?} {service:?}");
        assert_eq!(
            came.packet[14..],
            expected.bytes()[14..],
            "{key:?} {service:?}"
        );
    }

    /// What is for no frontend is left alone: another port, another protocol.
    fn miss(&mut self) {
        let ip = self.model.ip;
        let service = self.dice.below(FRONTENDS);
        let service = &self.model.services[service];
        let other = if service.proto == TCP { UDP } else { TCP };
        let at = self.dice.pick(&[(service.at.0, 79), service.at]);
        let proto = if at.1 == 79 { service.proto } else { other };
        let sent = packet(proto, (ip.stranger(), 999), at, ACK).bytes();
        let came = self.run(From::Outside, &sent);
        assert_eq!((came.verdict, came.packet), (PASS, sent));
    }
}

fn compare(ip: Ip, driver: bool) {
    let cases = setting("SERVICES_CASES", CASES);
    let seed = setting("SERVICES_SEED", 0) * 2 + u64::from(ip == Ip::V6);
    place(|here| {
        let scene = Scene::new(here, |config| {
            options(config);
            config.xdp = driver.into();
            config.aggregation = Aggregation::Medium as u8;
        });
        let mut world = World {
            lb: Frontends::of(&scene),
            scene: &scene,
            dice: Dice(0x5E21_1CE5 + seed),
            model: Model {
                ip,
                services: Vec::new(),
                ranges: Vec::new(),
                backends: HashMap::new(),
                connections: HashMap::new(),
                kept: HashMap::new(),
            },
            ports: HashMap::new(),
            served: 0,
            passed_on: 0,
            answered: 0,
            by_driver: driver.then(Cell::default),
        };
        for id in 1..=BACKENDS {
            world.backend(id);
        }
        for front in 0..FRONTENDS {
            world.new_service(front);
        }
        for _ in 0..cases {
            match world.dice.below(100) {
                0 => {
                    let front = world.dice.below(FRONTENDS);
                    world.fill(front);
                }
                1 => world.turn_backend(),
                2..5 => world.miss(),
                5..60 => world.ask(),
                _ => world.answer(),
            }
        }
        let shares = (world.served * 100 / cases, world.answered * 100 / cases);
        assert!(shares.0 > 25 && shares.1 > 20, "{shares:?} of 100");
        assert!(world.passed_on * 200 > cases, "{}", world.passed_on);
        let from_driver = world.by_driver.as_ref().map_or(cases, Cell::get);
        assert!(from_driver * 50 > cases, "{from_driver}");
        // Nothing else was dropped.
        let metrics = scene.datapath.metrics().unwrap().dump().unwrap();
        let expected = [
            DropReason::NoServiceBackend,
            DropReason::LbSourceRange,
            DropReason::IsClusterIp,
            DropReason::NatUnsupportedProtocol,
            DropReason::NatNoMapping,
        ]
        .map(|reason| reason as u8);
        for row in metrics {
            assert!(row.reason == 0 || expected.contains(&row.reason), "{row:?}");
        }
    });
}

#[test]
fn packets_become_what_the_rules_say() {
    compare(Ip::V4, false);
}

#[test]
fn packets_become_what_the_rules_say_ipv6() {
    compare(Ip::V6, false);
}

#[test]
fn packets_in_drivers_become_what_the_rules_say() {
    compare(Ip::V4, true);
}

#[test]
fn packets_in_drivers_become_what_the_rules_say_ipv6() {
    compare(Ip::V6, true);
}
