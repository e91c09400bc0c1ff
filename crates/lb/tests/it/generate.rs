//! Random worlds, small enough for everything to meet everything.
use crate::kit;
use crate::model::World;
use hypha_lb::frontend::{Algorithm, BackendKey};
use hypha_lb::input::{
    Endpoint, HostPort, Ingress, Mark, Node, Pod, Protocol, Service, ServicePort, ServiceType,
    Slice, SlicePort, TrafficPolicy,
};
use hypha_lb::redirect::{From, Redirect, RedirectPort};
use hypha_lb::selector::{Selector, Test};
use hypha_lb::{Change, Forwarding, Settings, maglev};
use model::Text;
use std::net::IpAddr;
use std::sync::Arc;

/// Numbers out of a seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(0xd134_2543_de82_ef95)
            .wrapping_add(0x2545_f491_4f6c_dd1d);
        (((self.0 ^ (self.0 >> 29)) >> 16) as usize) % n
    }

    /// True in one of `n` cases.
    pub fn rare(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }

    fn some<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }
}

const NODES: [&str; 3] = ["n1", "n2", ""];
const ZONES: [&str; 3] = ["z1", "z2", ""];
const SERVICES: [&str; 5] = ["a/s0", "a/s1", "b/s2", "b/s3", "b/s4"];
const CLUSTER: [&str; 4] = ["10.96.0.1", "10.96.0.2", "fd00:1::1", "fd00:1::2"];
const OUTER: [&str; 4] = ["198.51.100.1", "198.51.100.2", "fd00:2::1", "192.0.2.11"];
const PODS: [&str; 6] = [
    "10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2", "fd00::3",
];

pub fn settings(dice: &mut Dice) -> Settings {
    let forwarding = [Forwarding::Snat, Forwarding::Dsr, Forwarding::Hybrid][dice.below(3)];
    Settings {
        ipv6: !dice.rare(4),
        algorithm: if dice.rare(3) {
            Algorithm::Maglev
        } else {
            Algorithm::Random
        },
        algorithm_annotation: dice.rare(2),
        maglev: maglev::Shape::new(251, b"seed").unwrap(),
        forwarding,
        topology: !dice.rare(3),
        internal_policy: !dice.rare(5),
        terminating: !dice.rare(5),
        external_cluster_ip: dice.rare(4),
        source_ranges_all: dice.rare(3),
        nat46x64: dice.rare(3),
        ..Settings::default()
    }
}

pub fn node(dice: &mut Dice) -> Node {
    let mut addresses = vec![kit::ip("192.0.2.11")];
    if !dice.rare(3) {
        addresses.push(kit::ip("fd00:9::11"));
    }
    if dice.rare(3) {
        addresses.push(kit::ip("192.0.2.99"));
    }
    Node {
        name: Text::from(if dice.rare(9) { "n2" } else { "n1" }),
        zone: Text::from(dice.pick(&ZONES)),
        labels: kit::labels(&[("service.cilium.io/node", dice.pick(&["edge", "core"]))]),
        addresses,
    }
}

fn protocol(dice: &mut Dice) -> Protocol {
    [Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp][dice.below(4)]
}

fn policy(dice: &mut Dice) -> TrafficPolicy {
    if dice.rare(3) {
        TrafficPolicy::Local
    } else {
        TrafficPolicy::Cluster
    }
}

fn service(dice: &mut Dice, key: &str) -> Service {
    let mut notes = Vec::new();
    for (name, values) in [
        (
            "service.cilium.io/type",
            &["ClusterIP", "NodePort,LoadBalancer", "nonsense"][..],
        ),
        ("service.cilium.io/node", &["edge", "edge", "core"]),
        (
            "service.cilium.io/src-ranges-policy",
            &["deny", "allow", "?"],
        ),
        ("service.cilium.io/lb-algorithm", &["maglev", "random"]),
    ] {
        if dice.rare(6) {
            notes.push((name, dice.pick(values)));
        }
    }
    let names = ["http", "dns", "x"];
    let count = 1 + dice.below(2);
    let ports = (0..count).map(|index| ServicePort {
        name: Text::from(names[index]),
        protocol: protocol(dice),
        port: [80, 53][dice.below(2)],
        node_port: [0, 30_080, 30_081, 80][dice.below(4)],
    });
    let ports = ports.collect();
    let kinds = [
        ServiceType::ClusterIp,
        ServiceType::NodePort,
        ServiceType::LoadBalancer,
        ServiceType::ExternalName,
    ];
    let ranges = [
        "10.0.0.0/8",
        " 192.0.2.0/24",
        "fd00::/16",
        "nonsense",
        "10.1.0.0/16",
    ];
    Service {
        key: Text::from(key),
        labels: kit::labels(if dice.rare(9) {
            &[("service.kubernetes.io/service-proxy-name", "x")]
        } else {
            &[]
        }),
        annotations: kit::labels(&notes),
        created: dice.below(3) as i64,
        kind: kinds[[0, 1, 2, 2, 1, 3][dice.below(6)]],
        cluster_ips: dice.some(2, |dice| kit::ip(dice.pick(&CLUSTER))),
        external_ips: dice.some(1, |dice| kit::ip(dice.pick(&OUTER))),
        ingress: dice.some(2, |dice| Ingress {
            address: kit::ip(dice.pick(&OUTER)),
            proxy: dice.rare(5),
        }),
        ports,
        external_policy: policy(dice),
        internal_policy: policy(dice),
        affinity: dice.rare(3).then_some([0, 60, 100_000][dice.below(3)]),
        source_ranges: if dice.rare(3) {
            dice.some(3, |dice| Text::from(dice.pick(&ranges)))
        } else {
            Vec::new()
        },
        publish_not_ready: dice.rare(6),
        health_check_port: 0,
        class: Text::default(),
        ..Service::default()
    }
}

fn address(dice: &mut Dice) -> IpAddr {
    kit::ip(dice.pick(&PODS))
}

fn endpoint(dice: &mut Dice) -> Endpoint {
    let (ready, serving, terminating) = [
        (true, true, false),
        (true, true, false),
        (false, false, false),
        (false, true, true),
        (false, false, true),
    ][dice.below(5)];
    let hinted = !dice.rare(4);
    Endpoint {
        address: address(dice),
        ready,
        serving,
        terminating,
        node: Text::from(dice.pick(&NODES)),
        zone: Text::default(),
        zones: (0..usize::from(hinted))
            .map(|_| Text::from(dice.pick(&["z1", "z2"])))
            .collect(),
        nodes: if dice.rare(2) {
            [Text::from(dice.pick(&["n1", "n2"]))].into()
        } else {
            Box::default()
        },
    }
}

fn slice(dice: &mut Dice, key: &str) -> Slice {
    let ports = ["http", "dns", "x"].map(|name| SlicePort {
        name: Text::from(name),
        protocol: protocol(dice),
        port: [8080, 5353, 0][[0, 0, 1, 1, 2][dice.below(5)]],
    });
    let weight = dice.pick(&["100", "50", "0", "nonsense"]);
    let notes: Vec<_> = if dice.rare(4) {
        vec![("service.cilium.io/weight", weight)]
    } else {
        Vec::new()
    };
    Slice {
        key: Text::from(key),
        service: Text::from(dice.pick(&SERVICES)),
        annotations: kit::labels(&notes),
        ports: ports.to_vec(),
        endpoints: dice.some(5, endpoint),
        ..Slice::default()
    }
}

fn pod(dice: &mut Dice, key: &str) -> Pod {
    Pod {
        key: Text::from(key),
        labels: kit::labels(&[("app", dice.pick(&["dns", "web"]))]),
        created: dice.below(3) as i64,
        addresses: dice.some(2, address),
        host_network: dice.rare(6),
        ready: !dice.rare(3),
        terminating: dice.rare(5),
        host_ports: dice.some(2, |dice| HostPort {
            address: [
                None,
                None,
                Some("0.0.0.0"),
                Some("127.0.0.1"),
                Some("192.0.2.11"),
            ][dice.below(5)]
            .map(kit::ip),
            host_port: [8080, 30_080, 80][dice.below(3)],
            port: 80,
            protocol: Protocol::Tcp,
        }),
    }
}

fn redirect(dice: &mut Dice, key: &str) -> Redirect {
    let port = |port, protocol, name: &str| RedirectPort {
        name: Text::from(name),
        port,
        protocol,
    };
    let from = if dice.rare(2) {
        From::Address(kit::ip(dice.pick(&["169.254.20.10", "10.96.0.1"])))
    } else {
        From::Service(Text::from(dice.pick(&SERVICES)))
    };
    let ports = vec![
        port(80, Protocol::Tcp, "http"),
        port(53, Protocol::Udp, "dns"),
    ];
    Redirect {
        key: Text::from(key),
        created: dice.below(2) as i64,
        from_ports: if matches!(from, From::Service(_)) && dice.rare(2) {
            Vec::new()
        } else {
            ports.clone()
        },
        from,
        selector: Selector {
            requirements: vec![("app".to_owned(), Test::In(vec!["dns".to_owned()]))],
        },
        to_ports: if dice.rare(3) {
            vec![port(5300, Protocol::Tcp, "http")]
        } else {
            ports
        },
        skip: dice.rare(2),
    }
}

fn mark(dice: &mut Dice) -> (BackendKey, Option<Mark>) {
    let key = BackendKey {
        address: address(dice),
        port: [8080, 5353][dice.below(2)],
        protocol: protocol(dice),
    };
    (
        key,
        [None, Some(Mark::Quarantined), Some(Mark::Maintenance)][dice.below(3)],
    )
}

/// One change, made to `world`, too.
pub fn change(dice: &mut Dice, world: &mut World) -> Change {
    let gone = dice.rare(5);
    match dice.below(12) {
        0..=3 => {
            let key = dice.pick(&SERVICES);
            let service = (!gone).then(|| Arc::new(service(dice, key)));
            World::put(&mut world.services, key, service.clone());
            Change::Service(Text::from(key), service)
        }
        4..=7 => {
            let key = dice.pick(&["a/e0", "a/e1", "b/e2", "b/e3", "b/e4", "b/e5"]);
            let slice = (!gone).then(|| Arc::new(slice(dice, key)));
            World::put(&mut world.slices, key, slice.clone());
            Change::Slice(Text::from(key), slice)
        }
        8 => {
            let key = dice.pick(&["a/p0", "a/p1", "b/p2", "b/p3"]);
            let pod = (!gone).then(|| Arc::new(pod(dice, key)));
            World::put(&mut world.pods, key, pod.clone());
            Change::Pod(Text::from(key), pod)
        }
        9 => {
            let key = dice.pick(&["a/r0", "b/r1", "b/r2"]);
            let redirect = (!gone).then(|| Arc::new(redirect(dice, key)));
            World::put(&mut world.redirects, key, redirect.clone());
            Change::Redirect(Text::from(key), redirect)
        }
        10 => {
            let (key, mark) = mark(dice);
            match mark {
                Some(mark) => world.marks.insert(key, mark),
                None => world.marks.remove(&key),
            };
            Change::Mark(key, mark)
        }
        _ => {
            world.node = node(dice);
            Change::Node(world.node.clone())
        }
    }
}
