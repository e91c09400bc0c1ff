//! Network policy: asked of both ends, at every place where packets are handed on, remembered as long as it holds.
use abi::{
    Direction, DropReason, PolicyKey, PolicyMatch, PolicyValue, ProxyKind, endpoint_flags, mark,
    names, policy_origin, policy_verdict,
};
use datapath::maps::Put;

use super::{
    packet::{Packet, SYN, TCP, UDP},
    scene::{Came, Ip, POD1, POD1_ID, POD2, POD2_ID, REMOTE_POD_ID, SHOT, Scene, native, tunnel},
};
use crate::support::place;

use Direction::{Egress, Ingress};

/// Whose rows hold for the pods here.
pub const SUBJECT1: u32 = 5001;
pub const SUBJECT2: u32 = 5002;

/// A prefix of protocol and port: its bits, and how many of them count.
pub type L4 = (u32, u32);
pub const ALL: L4 = (0, 0);

pub const fn port(proto: u8, port: u16) -> L4 {
    ((proto as u32) << 16 | port as u32, 24)
}

pub const fn key(subject: u32, direction: Direction, remote: u32, (bits, len): L4) -> PolicyKey {
    let [_, proto, high, low] = bits.to_be_bytes();
    PolicyKey {
        prefix_len: PolicyKey::FIXED_BITS + len,
        subject,
        remote,
        direction: direction as u8,
        proto,
        port: [high, low],
    }
}

impl Scene {
    pub fn subjects(&self, pod1: u32, pod2: u32) {
        self.subject(self.lxc1, pod1, 0);
        self.subject(self.lxc2, pod2, 0);
    }

    pub fn subject(&self, ifindex: u32, subject: u32, flags: u16) {
        let endpoints = self.datapath.endpoints().unwrap();
        let mut pod = endpoints.get(ifindex).unwrap().unwrap();
        (pod.info.subject, pod.info.flags) = (subject, flags);
        endpoints.upsert(&pod).unwrap();
    }

    fn row(&self, verdict: u8, origin: u32, key: PolicyKey) {
        self.row_by(ProxyKind::None, verdict, origin, key);
    }

    fn row_by(&self, proxy: ProxyKind, verdict: u8, origin: u32, key: PolicyKey) {
        let value = PolicyValue {
            verdict,
            l4_len: key.l4_len() as u8,
            proxy: proxy as u8,
            pad: 0,
            precedence: u32::from(verdict == policy_verdict::DENY),
            origin,
            decided: 0,
        };
        let put = self.datapath.policy().unwrap().put(&key, &value).unwrap();
        assert_eq!(put, Put::Written);
    }

    pub fn allow(&self, key: PolicyKey) {
        self.row(policy_verdict::ALLOW, 77, key);
    }

    /// Allows by way of the proxy.
    pub fn allow_by(&self, proxy: ProxyKind, key: PolicyKey) {
        self.row_by(proxy, policy_verdict::ALLOW, 78, key);
    }

    pub fn forget_rows(&self) {
        let policy = self.datapath.policy().unwrap();
        let keys: Vec<_> = policy.dump().unwrap().iter().map(|row| row.0).collect();
        assert_eq!(policy.delete_all(&keys).unwrap(), keys.len());
        self.raise();
    }

    pub fn raise(&self) {
        self.datapath.policy_epoch().unwrap().raise().unwrap();
    }

    pub fn no_connections(&self) {
        self.datapath.conntrack().unwrap().flush().unwrap();
    }
}

impl Came {
    pub fn passed(&self) -> &Self {
        assert_ne!(self.verdict, SHOT, "{self:?}");
        self
    }

    /// The verdicts that were reported.
    pub fn verdicts(&self) -> Vec<&str> {
        let all = self.events.iter().map(String::as_str);
        all.filter(|words| words.starts_with("policy ")).collect()
    }

    #[track_caller]
    pub fn verdict_is(&self, expected: &str) -> &Self {
        let verdicts = self.verdicts();
        assert_eq!(verdicts.len(), 1, "{self:?}");
        assert!(
            verdicts[0].starts_with(expected),
            "{:?} is not {expected}",
            verdicts[0]
        );
        self
    }
}

/// A place where policy is asked: which packet is sent where, of whom it is asked.
struct Way {
    name: &'static str,
    subject: u32,
    direction: Direction,
    remote: u32,
    endpoint: u16,
    send: fn(&Scene, Ip, u16) -> Came,
}

fn udp(from: std::net::IpAddr, to: std::net::IpAddr, port: u16) -> Vec<u8> {
    Packet::udp((from, port), (to, 53), b"x").bytes()
}

/// Every place for pods, of a node that routes.
fn ways() -> Vec<Way> {
    let way = |name, subject, direction, remote, send| Way {
        name,
        subject,
        direction,
        remote,
        endpoint: if subject == SUBJECT1 { POD1 } else { POD2 },
        send,
    };
    vec![
        way(
            "to a pod of this node",
            SUBJECT1,
            Egress,
            POD2_ID,
            |s, ip, p| s.from_pod1(&udp(ip.pod1(), ip.pod2(), p)),
        ),
        way(
            "from a pod of this node",
            SUBJECT2,
            Ingress,
            POD1_ID,
            |s, ip, p| s.from_pod1(&udp(ip.pod1(), ip.pod2(), p)),
        ),
        way(
            "to a pod elsewhere",
            SUBJECT1,
            Egress,
            REMOTE_POD_ID,
            |s, ip, p| s.from_pod1(&udp(ip.pod1(), ip.remote_pod(), p)),
        ),
        way("to the node", SUBJECT1, Egress, 1, |s, ip, p| {
            s.from_pod1(&udp(ip.pod1(), ip.node(), p))
        }),
        way(
            "from the network",
            SUBJECT1,
            Ingress,
            REMOTE_POD_ID,
            |s, ip, p| s.from_netdev(&udp(ip.remote_pod(), ip.pod1(), p)),
        ),
        way("from the node", SUBJECT1, Ingress, 1, |s, ip, p| {
            s.from_host(&udp(ip.gateway(), ip.pod1(), p), mark::HOST)
        }),
        way("by the stack", SUBJECT1, Ingress, POD2_ID, |s, ip, p| {
            let packet = udp(ip.pod2(), ip.pod1(), p);
            s.run(
                names::TO_CONTAINER,
                s.lxc1,
                &packet,
                mark::with_identity(POD2_ID),
            )
        }),
    ]
}

#[test]
fn every_way_asks() {
    for config in [native, tunnel] {
        place(|here| {
            let scene = Scene::new(here, config);
            for way in ways() {
                for ip in Ip::BOTH {
                    ask_one_way(&scene, &way, ip);
                }
            }
            let outside = |s: &Scene, ip: Ip, p| s.from_pod1(&udp(ip.pod1(), ip.outside(), p));
            for ip in Ip::BOTH {
                let way = Way {
                    name: "to the world",
                    subject: SUBJECT1,
                    direction: Egress,
                    remote: ip.world(),
                    endpoint: POD1,
                    send: outside,
                };
                ask_one_way(&scene, &way, ip);
            }
        });
    }
}

fn ask_one_way(scene: &Scene, way: &Way, ip: Ip) {
    let told = format!("{} {ip:?}", way.name);
    let (subject, direction) = (way.subject, way.direction);
    let word = direction.text().to_lowercase();
    let at = |l4| key(subject, direction, way.remote, l4);
    let anybody = |l4| key(subject, direction, 0, l4);
    let lxc = if subject == SUBJECT1 {
        scene.lxc1
    } else {
        scene.lxc2
    };
    scene.subjects(0, 0);
    scene.forget_rows();
    scene.no_connections();
    assert_eq!(
        (way.send)(scene, ip, 1).passed().verdicts(),
        [""; 0],
        "{told}"
    );
    scene.no_connections();

    scene.subject(lxc, subject, 0);
    let came = (way.send)(scene, ip, 1);
    came.dropped(DropReason::PolicyDenied, direction);
    came.verdict_is(&format!("policy {word} Policy denied none by 0: "));
    let end = format!("ep {}", way.endpoint);
    assert!(
        came.events.last().unwrap().ends_with(&end),
        "{told}: {came:?}"
    );
    assert!(scene.connections().is_empty(), "{told}");

    scene.row(policy_verdict::DENY, 12, at(port(UDP, 53)));
    scene.allow(anybody(ALL));
    let came = (way.send)(scene, ip, 2);
    came.dropped(DropReason::PolicyDeny, direction);
    came.verdict_is(&format!(
        "policy {word} Policy denied by denylist L3-L4 by 12: "
    ));
    assert!(
        came.events.last().unwrap().ends_with(", origin 12"),
        "{told}: {came:?}"
    );

    scene.forget_rows();
    scene.allow(at((u32::from(UDP) << 16, 8)));
    (way.send)(scene, ip, 3)
        .passed()
        .verdict_is(&format!("policy {word} allow L3-Proto by 77: "));
    assert_eq!(
        (way.send)(scene, ip, 3).passed().verdicts(),
        [""; 0],
        "{told}"
    );
    assert_eq!(scene.connections().len(), 1, "{told}");

    scene.forget_rows();
    scene.row(
        policy_verdict::ALLOW,
        policy_origin::DEFAULT_ALLOW,
        anybody(ALL),
    );
    assert_eq!(
        (way.send)(scene, ip, 4).passed().verdicts(),
        [""; 0],
        "{told}"
    );

    scene.forget_rows();
    scene.subject(lxc, subject, endpoint_flags::POLICY_AUDIT);
    let came = (way.send)(scene, ip, 5);
    came.passed()
        .verdict_is(&format!("policy {word} Policy denied none by 0 audited: "));

    scene.allow(at(ALL));
    scene.subject(
        lxc,
        subject,
        endpoint_flags::POLICY_LOCKDOWN | endpoint_flags::POLICY_AUDIT,
    );
    for port in [5, 6] {
        (way.send)(scene, ip, port).dropped(DropReason::NoPolicyConfig, direction);
    }
}

#[test]
fn a_row_counts_what_it_decides_on_as_that_begins() {
    place(|here| {
        let scene = Scene::new(here, native);
        scene.subjects(0, SUBJECT2);
        let counts = || {
            let rows = scene.datapath.policy().unwrap().dump().unwrap();
            rows.iter().map(|row| row.1.decided).collect::<Vec<_>>()
        };
        scene.row(
            policy_verdict::DENY,
            12,
            key(SUBJECT2, Ingress, 0, port(TCP, 53)),
        );
        scene.allow(key(SUBJECT2, Ingress, POD1_ID, port(UDP, 53)));
        let ip = Ip::V4;
        let send = |port| scene.from_pod1(&udp(ip.pod1(), ip.pod2(), port));
        send(1).passed();
        assert_eq!(counts(), [0, 1]);
        // The connection lives: its packets ask no row, or one that they have asked before.
        send(1).passed();
        scene.raise();
        send(1).passed();
        assert_eq!(counts(), [0, 1]);
        send(2).passed();
        let syn = Packet::tcp((ip.pod1(), 3), (ip.pod2(), 53), SYN).bytes();
        for _ in 0..2 {
            scene
                .from_pod1(&syn)
                .dropped(DropReason::PolicyDeny, Ingress);
        }
        assert_eq!(counts(), [2, 2]);
    });
}

#[test]
fn fragments_are_asked_about_by_the_ports_of_the_first() {
    place(|here| {
        let scene = Scene::new(here, native);
        scene.subjects(0, SUBJECT2);
        for ip in Ip::BOTH {
            let parts =
                |to, id| Packet::udp((ip.pod1(), 1000), (ip.pod2(), to), &[7; 100]).split(id, 4);
            scene.allow(key(SUBJECT2, Ingress, POD1_ID, port(UDP, 53)));
            for part in parts(53, 1) {
                scene.from_pod1(&part).passed();
            }
            for part in parts(54, 2) {
                scene
                    .from_pod1(&part)
                    .dropped(DropReason::PolicyDenied, Ingress);
            }
            let proto = if ip == Ip::V4 { 1 } else { 58 };
            let kind = if ip == Ip::V4 { 8 } else { 128 };
            scene.allow(key(
                SUBJECT2,
                Ingress,
                POD1_ID,
                port(proto, u16::from(kind)),
            ));
            let echo = Packet::icmp(ip.pod1(), ip.pod2(), kind, 0, [0, 99, 0, 1], &[1; 64]);
            for part in echo.split(3, 2) {
                scene.from_pod1(&part).passed();
            }
            // A part whose message is not known again asks for its protocol.
            let [_, later] = echo.split(3, 2);
            scene.raise();
            scene
                .from_pod1(&later)
                .dropped(DropReason::PolicyDenied, Ingress);
            scene.forget_rows();
        }
    });
}

#[test]
fn the_longest_prefix_and_the_greater_precedence_count() {
    place(|here| {
        let scene = Scene::new(here, native);
        scene.subjects(0, SUBJECT2);
        let at = |remote, l4| key(SUBJECT2, Ingress, remote, l4);
        scene.allow(at(POD1_ID, (u32::from(TCP) << 16 | 1024, 14)));
        scene.row(
            policy_verdict::UNMATCHED,
            0,
            at(POD1_ID, (u32::from(TCP) << 16 | 1088, 18)),
        );
        scene.allow(at(0, port(TCP, 80)));
        scene.row(policy_verdict::DENY, 9, at(0, port(TCP, 1025)));
        for ip in Ip::BOTH {
            let to = |to, from| {
                scene.from_pod1(&Packet::tcp((ip.pod1(), from), (ip.pod2(), to), SYN).bytes())
            };
            to(80, 1)
                .passed()
                .verdict_is("policy ingress allow L4-Only by 77");
            to(1024, 1)
                .passed()
                .verdict_is("policy ingress allow L3-L4 by 77");
            to(2047, 1).passed();
            to(1025, 1).dropped(DropReason::PolicyDeny, Ingress);
            to(1088, 1).dropped(DropReason::PolicyDenied, Ingress);
            to(2048, 1).dropped(DropReason::PolicyDenied, Ingress);
            to(1023, 1).dropped(DropReason::PolicyDenied, Ingress);
        }
        assert_eq!(PolicyMatch::L3L4.text(), "L3-L4");
    });
}
