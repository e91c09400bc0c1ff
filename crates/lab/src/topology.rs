//! The plan of a lab's network, as plain values: who has which links, addresses and routes.
//! Nothing here touches the machine; [`crate::build`] carries it out.
//!
//! ```text
//!   node1 .100 ┐                       ┌ node3 .100
//!   node2 .101 ┤ l2a 192.168.10.0/24   │ l2b 192.168.20.0/24
//!   node4 .102 ┘        └── router .200 ──┘
//!                            │ eth2 10.10.1.200/24   │ eth3 10.10.2.200/24
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::spec::{LabSpec, Routing};

/// The port of the lab's API server on node1's address.
pub const API_PORT: u16 = 6443;
/// The cluster's pod network, IPv4.
pub const CLUSTER_V4: &str = "10.244.0.0/16";
/// The cluster's pod network, IPv6.
pub const CLUSTER_V6: &str = "fd00:244::/32";

/// A whole lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The bridges of the fabric namespace, one per L2 network.
    pub bridges: Vec<String>,
    /// The nodes, in order.
    pub nodes: Vec<Machine>,
    /// The router, which is also the outside host.
    pub router: Machine,
}

/// One network namespace that stands for a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Host name.
    pub name: String,
    /// Its links into the fabric, the first is `eth0`.
    pub links: Vec<Link>,
    /// Its static routes.
    pub routes: Vec<Route>,
    /// The pod CIDRs of a node; empty for the router.
    pub pod_cidrs: Vec<IpNet>,
}

impl Machine {
    /// The addresses of `eth0`.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.links
            .iter()
            .take(1)
            .flat_map(|l| l.addresses.iter().map(IpNet::addr))
    }

    /// The first address of `eth0`: IPv4 where the lab has it.
    pub fn primary(&self) -> IpAddr {
        self.addresses()
            .next()
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

/// A veth pair between a machine and a bridge of the fabric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Name in the machine.
    pub name: String,
    /// Name of the other end, in the fabric.
    pub fabric_end: String,
    /// The bridge it is a port of.
    pub bridge: String,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
}

/// A static route through a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination; a default route has prefix length 0.
    pub to: IpNet,
    /// Next hop.
    pub via: IpAddr,
}

/// The two L2 networks that nodes stand on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    A,
    B,
}

impl Side {
    fn bridge(self) -> &'static str {
        match self {
            Side::A => "l2a",
            Side::B => "l2b",
        }
    }

    /// The third octet, and the second group of the IPv6 prefix as written.
    fn number(self) -> u8 {
        match self {
            Side::A => 10,
            Side::B => 20,
        }
    }

    fn addresses(self, spec: &LabSpec, host: u8) -> Vec<IpNet> {
        let v4 = net4(Ipv4Addr::new(192, 168, self.number(), host), 24);
        let v6 = net6([0xfd00, as_written(self.number()), 0], as_written(host), 64);
        both(spec, v4, v6)
    }
}

/// 20 as a person writes it in an IPv6 address: `:20:`, which is 0x20.
fn as_written(n: u8) -> u16 {
    let n = u16::from(n);
    (n / 100) * 256 + (n / 10 % 10) * 16 + n % 10
}

fn net4(addr: Ipv4Addr, len: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(addr, len))
}

fn net6(prefix: [u16; 3], host: u16, len: u8) -> IpNet {
    let addr = Ipv6Addr::new(prefix[0], prefix[1], prefix[2], 0, 0, 0, 0, host);
    IpNet::V6(Ipv6Net::new_assert(addr, len))
}

fn both(spec: &LabSpec, v4: IpNet, v6: IpNet) -> Vec<IpNet> {
    let v4 = spec.families.v4().then_some(v4);
    let v6 = spec.families.v6().then_some(v6);
    v4.into_iter().chain(v6).collect()
}

const ROUTER_HOST: u8 = 200;

/// Where node `i` (from 1) stands: the third alone on the second network, all others on the first.
fn place(i: u8) -> (Side, u8) {
    match i {
        1 => (Side::A, 100),
        2 => (Side::A, 101),
        3 => (Side::B, 100),
        n => (Side::A, 98 + n),
    }
}

fn pod_cidrs(spec: &LabSpec, i: u8) -> Vec<IpNet> {
    both(
        spec,
        net4(Ipv4Addr::new(10, 244, i, 0), 24),
        net6([0xfd00, 0x244, as_written(i)], 0, 112),
    )
}

fn node(spec: &LabSpec, i: u8) -> Machine {
    let (side, host) = place(i);
    let hops = side.addresses(spec, ROUTER_HOST);
    let routes = hops.iter().flat_map(|hop| {
        let nets = behind_nets()
            .into_iter()
            .filter(|n| n.addr().is_ipv4() == hop.addr().is_ipv4());
        nets.chain([default_of(hop.addr())]).map(|to| Route {
            to,
            via: hop.addr(),
        })
    });
    Machine {
        links: vec![Link {
            name: "eth0".into(),
            // A device has a short name, a node may have a longer one.
            fabric_end: format!("node{i}-eth0"),
            bridge: side.bridge().into(),
            addresses: side.addresses(spec, host),
        }],
        routes: routes.collect(),
        pod_cidrs: pod_cidrs(spec, i),
        name: spec.node_name(i),
    }
}

fn default_of(family: IpAddr) -> IpNet {
    match family {
        IpAddr::V4(_) => net4(Ipv4Addr::UNSPECIFIED, 0),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
    }
}

fn router_link(i: u8, bridge: &str, addresses: Vec<IpNet>) -> Link {
    Link {
        name: format!("eth{i}"),
        fabric_end: format!("router-eth{i}"),
        bridge: bridge.into(),
        addresses,
    }
}

/// What nodes reach through the router by routes of their own, beside the default route.
fn behind_nets() -> [IpNet; 3] {
    let v6 = |n| net6([0xfd00, 0x10, n], 0, 64);
    [net4(Ipv4Addr::new(10, 10, 0, 0), 16), v6(1), v6(2)]
}

/// The address of the router on one of the networks behind it.
fn behind(spec: &LabSpec, n: u8) -> Vec<IpNet> {
    both(
        spec,
        net4(Ipv4Addr::new(10, 10, n, ROUTER_HOST), 24),
        net6([0xfd00, 0x10, u16::from(n)], as_written(ROUTER_HOST), 64),
    )
}

fn router(spec: &LabSpec, nodes: &[Machine]) -> Machine {
    let carries = spec.routing == Routing::Native && spec.router_routes;
    let routes = nodes.iter().filter(|_| carries).flat_map(|n| {
        let hops: Vec<IpAddr> = n.addresses().collect();
        n.pod_cidrs
            .iter()
            .zip(hops)
            .map(|(to, via)| Route { to: *to, via })
    });
    Machine {
        name: "router".into(),
        links: vec![
            router_link(0, "l2a", Side::A.addresses(spec, ROUTER_HOST)),
            router_link(1, "l2b", Side::B.addresses(spec, ROUTER_HOST)),
            router_link(2, "behind1", behind(spec, 1)),
            router_link(3, "behind2", behind(spec, 2)),
        ],
        routes: routes.collect(),
        pod_cidrs: Vec::new(),
    }
}

/// The plan for a lab.
pub fn plan(spec: &LabSpec) -> Topology {
    let nodes: Vec<Machine> = (1..=spec.nodes).map(|i| node(spec, i)).collect();
    let router = router(spec, &nodes);
    Topology {
        bridges: ["l2a", "l2b", "behind1", "behind2"]
            .map(String::from)
            .into(),
        nodes,
        router,
    }
}

impl Topology {
    /// Every machine, nodes first.
    pub fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.nodes.iter().chain(std::iter::once(&self.router))
    }
}

/// Kernel settings of every machine: forwarding on, no reverse-path filter, addresses usable at once, ping for everybody.
pub fn sysctls(spec: &LabSpec) -> Vec<(&'static str, &'static str)> {
    let mut all = vec![
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/default/send_redirects", "0"),
        ("net/ipv4/ping_group_range", "0 2147483647"),
    ];
    if spec.families.v6() {
        all.extend([
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv6/conf/default/forwarding", "1"),
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/all/accept_ra", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
        ]);
    } else {
        all.extend([
            ("net/ipv6/conf/all/disable_ipv6", "1"),
            ("net/ipv6/conf/default/disable_ipv6", "1"),
        ]);
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::spec::{Families, MAX_NODES};

    fn spec(nodes: u8) -> LabSpec {
        LabSpec {
            nodes,
            ..LabSpec::default()
        }
    }

    fn addresses(m: &Machine, link: usize) -> Vec<String> {
        m.links[link]
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn three_nodes_stand_where_the_contract_says() {
        let t = plan(&spec(3));
        assert_eq!(
            addresses(&t.nodes[0], 0),
            ["192.168.10.100/24", "fd00:10::100/64"]
        );
        assert_eq!(
            addresses(&t.nodes[1], 0),
            ["192.168.10.101/24", "fd00:10::101/64"]
        );
        assert_eq!(
            addresses(&t.nodes[2], 0),
            ["192.168.20.100/24", "fd00:20::100/64"]
        );
        assert_eq!(t.nodes[0].links[0].bridge, t.nodes[1].links[0].bridge);
        assert_ne!(t.nodes[0].links[0].bridge, t.nodes[2].links[0].bridge);
        let cidrs: Vec<String> = t.nodes[2]
            .pod_cidrs
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(cidrs, ["10.244.3.0/24", "fd00:244:3::/112"]);
    }

    #[test]
    fn the_router_is_on_every_network() {
        let r = plan(&spec(3)).router;
        assert_eq!(addresses(&r, 0), ["192.168.10.200/24", "fd00:10::200/64"]);
        assert_eq!(addresses(&r, 1), ["192.168.20.200/24", "fd00:20::200/64"]);
        assert_eq!(addresses(&r, 2), ["10.10.1.200/24", "fd00:10:1::200/64"]);
        assert_eq!(addresses(&r, 3), ["10.10.2.200/24", "fd00:10:2::200/64"]);
        assert!(
            r.routes.is_empty(),
            "in tunnel mode it knows nothing of pods"
        );
    }

    #[test]
    fn native_routes_lead_to_the_node_of_the_cidr() {
        let mut s = LabSpec {
            routing: Routing::Native,
            ..spec(4)
        };
        let routes = plan(&s).router.routes;
        assert_eq!(routes.len(), 8);
        assert_eq!(
            (routes[4].to.to_string(), routes[4].via.to_string()),
            ("10.244.3.0/24".into(), "192.168.20.100".into())
        );
        assert_eq!(
            (routes[7].to.to_string(), routes[7].via.to_string()),
            ("fd00:244:4::/112".into(), "fd00:10::102".into())
        );
        s.router_routes = false;
        assert!(plan(&s).router.routes.is_empty());
    }

    #[test]
    fn one_family_leaves_the_other_out() {
        for (families, v4) in [(Families::Ipv4, true), (Families::Ipv6, false)] {
            let t = plan(&LabSpec {
                families,
                routing: Routing::Native,
                ..spec(3)
            });
            let nets = t.machines().flat_map(|m| {
                m.links
                    .iter()
                    .flat_map(|l| &l.addresses)
                    .chain(&m.pod_cidrs)
            });
            assert!(nets.into_iter().all(|n| n.addr().is_ipv4() == v4));
            assert!(
                t.machines()
                    .flat_map(|m| &m.routes)
                    .all(|r| r.via.is_ipv4() == v4 && r.to.addr().is_ipv4() == v4)
            );
        }
    }

    #[test]
    fn invariants_at_every_size() {
        for nodes in 1..=MAX_NODES {
            let t = plan(&LabSpec {
                routing: Routing::Native,
                ..spec(nodes)
            });
            let links: Vec<&Link> = t.machines().flat_map(|m| &m.links).collect();
            let addresses: BTreeSet<IpAddr> = links
                .iter()
                .flat_map(|l| l.addresses.iter().map(IpNet::addr))
                .collect();
            assert_eq!(
                addresses.len(),
                links.iter().map(|l| l.addresses.len()).sum::<usize>(),
                "addresses are unique"
            );
            let ends: BTreeSet<&str> = links.iter().map(|l| l.fabric_end.as_str()).collect();
            assert_eq!(ends.len(), links.len(), "fabric names are unique");
            assert!(
                ends.iter().all(|e| e.len() <= 15),
                "and fit into a link name"
            );
            assert!(links.iter().all(|l| t.bridges.contains(&l.bridge)));
            let cidrs: BTreeSet<IpNet> = t.nodes.iter().flat_map(|n| n.pod_cidrs.clone()).collect();
            assert_eq!(cidrs.len(), usize::from(nodes) * 2, "pod CIDRs are unique");
            for m in t.machines() {
                for r in &m.routes {
                    let on_link = m
                        .links
                        .iter()
                        .flat_map(|l| &l.addresses)
                        .any(|a| a.contains(&r.via));
                    assert!(on_link, "{}: next hop {} is a neighbour", m.name, r.via);
                }
            }
            let v4: IpNet = CLUSTER_V4.parse().unwrap();
            let v6: IpNet = CLUSTER_V6.parse().unwrap();
            assert!(cidrs.iter().all(|c| v4.contains(c) || v6.contains(c)));
        }
    }
}
