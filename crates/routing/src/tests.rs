use super::*;
use abi::identity::{HOST, REMOTE_NODE, WORLD, WORLD_IPV4, WORLD_IPV6};
use model::{
    Device, LocalNode, Mac, Node, Prefix, PrefixIdentity, PrefixSource, RemoteEndpoint, Route,
};
use std::collections::BTreeMap;
use std::net::IpAddr;

fn plan(tunnel: bool) -> Plan {
    Plan {
        ipv4: true,
        ipv6: true,
        tunnel: tunnel.then_some((Encapsulation::Vxlan, 8472)),
        tunnel_for_services: false,
        tunnel_options: false,
        direct_node_routes: !tunnel,
        skip_unreachable: false,
        native4: None,
        native6: None,
        masquerade4: true,
        masquerade6: true,
        snat_min: 32768,
        host_legacy: false,
        accounting: false,
        timeouts: Timeouts {
            tcp: 8000,
            tcp_syn: 60,
            tcp_fin: 10,
            any: 60,
        },
        events: Events {
            aggregation: abi::Aggregation::Medium,
            interval: 5,
        },
        mtu: None,
    }
}

fn node(n: u8, subnet: u8, host: u8) -> Node {
    Node {
        uid: String::new(),
        name: format!("node{n}"),
        addresses: vec![
            format!("192.168.{subnet}.{host}").parse().unwrap(),
            format!("fd00:{subnet}::{host}").parse().unwrap(),
        ],
        external: Vec::new(),
        pod_cidrs: vec![
            format!("10.244.{n}.0/24").parse().unwrap(),
            format!("fd00:244:{n}::/112").parse().unwrap(),
        ],
        labels: Default::default(),
    }
}

fn local() -> LocalNode {
    let node = node(1, 10, 100);
    LocalNode {
        pools: BTreeMap::new(),
        addresses: node.addresses.clone(),
        node,
        router4: Some("10.244.1.1".parse().unwrap()),
        router6: Some("fd00:244:1::1".parse().unwrap()),
        devices: vec![Device {
            name: "eth0".to_owned(),
            ifindex: 2,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            addresses: vec![
                "192.168.10.100/24".parse().unwrap(),
                "fd00:10::100/64".parse().unwrap(),
            ],
            default_route: true,
        }],
        policy_audit: None,
    }
}

fn nodes() -> Vec<Node> {
    vec![node(1, 10, 100), node(2, 10, 101), node(3, 20, 100)]
}

fn show(route: &Route) -> String {
    let part = |word: &str, value: Option<String>| {
        value.map(|v| format!(" {word} {v}")).unwrap_or_default()
    };
    format!(
        "{}{} dev {}{}{}",
        route.destination,
        part("via", route.gateway.map(|ip| ip.to_string())),
        route.device,
        part("src", route.source.map(|ip| ip.to_string())),
        part("mtu", route.mtu.map(|mtu| mtu.to_string())),
    )
}

fn find<'a>(rows: &'a [Prefix], prefix: &str) -> &'a Prefix {
    rows.iter()
        .find(|row| row.prefix == prefix.parse().unwrap())
        .unwrap_or_else(|| panic!("no row {prefix}"))
}

#[test]
fn tunnel_routes_lead_by_the_host_device_with_reduced_mtu() {
    let all = nodes();
    let got = routes(&plan(true), &local(), all.iter());
    assert_eq!(got.warnings, [""; 0]);
    assert_eq!(
        got.routes.iter().map(show).collect::<Vec<_>>(),
        [
            "10.244.1.1/32 dev cilium_host",
            "10.244.1.0/24 via 10.244.1.1 dev cilium_host src 10.244.1.1",
            "fd00:244:1::1/128 dev cilium_host",
            "fd00:244:1::/112 dev cilium_host src fd00:244:1::1",
            "10.244.2.0/24 via 10.244.1.1 dev cilium_host src 10.244.1.1 mtu 1450",
            "fd00:244:2::/112 dev cilium_host src fd00:244:1::1 mtu 1450",
            "10.244.3.0/24 via 10.244.1.1 dev cilium_host src 10.244.1.1 mtu 1450",
            "fd00:244:3::/112 dev cilium_host src fd00:244:1::1 mtu 1450",
        ]
    );
}

#[test]
fn native_routes_lead_to_neighbours_and_name_the_others() {
    let all = nodes();
    let got = routes(&plan(false), &local(), all.iter());
    assert_eq!(
        got.routes.iter().map(show).skip(4).collect::<Vec<_>>(),
        [
            "10.244.2.0/24 via 192.168.10.101 dev eth0",
            "fd00:244:2::/112 via fd00:10::101 dev eth0"
        ]
    );
    assert_eq!(got.warnings.len(), 2);
    assert!(
        got.warnings[0].starts_with("node node3: no direct route"),
        "{}",
        got.warnings[0]
    );
    let quiet = routes(
        &Plan {
            skip_unreachable: true,
            ..plan(false)
        },
        &local(),
        all.iter(),
    );
    assert!(quiet.warnings.is_empty());
}

#[test]
fn a_family_that_is_off_has_no_rows() {
    let all = nodes();
    let only4 = Plan {
        ipv6: false,
        ..plan(true)
    };
    assert!(
        routes(&only4, &local(), all.iter())
            .routes
            .iter()
            .all(|route| route.destination.addr().is_ipv4())
    );
    assert!(
        node_prefixes(&only4, &local(), all.iter())
            .iter()
            .all(|row| row.prefix.addr().is_ipv4())
    );
    let world = world_prefixes(&only4);
    assert_eq!(
        world.iter().map(|row| row.identity).collect::<Vec<_>>(),
        [WORLD]
    );
}

#[test]
fn nodes_and_their_ranges() {
    let all = nodes();
    let rows = node_prefixes(&plan(true), &local(), all.iter());
    assert_eq!(find(&rows, "192.168.10.100/32").identity, HOST);
    assert_eq!(find(&rows, "10.244.1.1/32").identity, HOST);
    assert_eq!(find(&rows, "192.168.20.100/32").identity, REMOTE_NODE);
    assert_eq!(find(&rows, "fd00:10::101/128").identity, REMOTE_NODE);
    let range = find(&rows, "fd00:244:3::/112");
    assert_eq!(
        (range.identity, range.tunnel),
        (WORLD_IPV6, Some("192.168.20.100".parse().unwrap()))
    );
    assert!(
        rows.iter()
            .all(|row| row.prefix != "10.244.1.0/24".parse().unwrap()),
        "the own range is not behind a tunnel"
    );
    let native = node_prefixes(&plan(false), &local(), all.iter());
    assert!(native.iter().all(|row| row.tunnel.is_none()));
}

#[test]
fn pods_of_other_nodes() {
    let all = nodes();
    let address: IpAddr = "192.168.10.101".parse().unwrap();
    let unknown: IpAddr = "192.168.10.200".parse().unwrap();
    let behind = NodesByAddress::from([
        (address, all.iter().find(|node| node.name == "node2")),
        (unknown, None),
    ]);
    let pod = |name: &str, node: IpAddr, ip: &str| RemoteEndpoint {
        key: format!("shop/{name}").into(),
        addresses: [ip.parse().unwrap()].into(),
        identity: 4711,
        node: Some(node),
        ..RemoteEndpoint::default()
    };
    let pods = [
        pod("a", address, "10.244.2.7"),
        pod("b", unknown, "10.244.9.7"),
    ];
    let pods: Vec<&RemoteEndpoint> = pods.iter().collect();
    let rows = remote_prefixes(&plan(true), &local(), &behind, &pods);
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].identity, rows[0].owner.as_str()), (4711, "shop/a"));
    let tunnels = rows.iter().map(|row| row.tunnel).collect::<Vec<_>>();
    assert_eq!(tunnels, [Some(address), Some(unknown)]);
    let native = remote_prefixes(&plan(false), &local(), &behind, &pods);
    assert_eq!(native[0].tunnel, None);
}

#[test]
fn ranges_have_identities_of_their_own_where_nobody_says_better() {
    let all = nodes();
    let mut rows = PrefixPlan::default();
    rows.add(world_prefixes(&plan(true)));
    rows.add(node_prefixes(&plan(true), &local(), all.iter()));
    rows.add([Prefix {
        prefix: "10.244.2.7/32".parse().unwrap(),
        identity: 4711,
        tunnel: None,
        source: PrefixSource::CustomResource,
        owner: Default::default(),
    }]);
    let ranges = [
        ("192.168.10.101/32", 7),
        ("192.168.10.100/32", 7),
        ("10.244.2.7/32", 0x0100_0001),
        ("10.244.2.8/32", 0x0100_0002),
        ("198.51.100.0/24", 0x0100_0003),
    ]
    .map(|(prefix, identity)| PrefixIdentity {
        prefix: prefix.parse().unwrap(),
        identity,
    });
    let node2 = all.iter().find(|node| node.name == "node2");
    rows.identify(&plan(true), &local(), &ranges, |range| {
        node2.filter(|node| node.pod_cidrs.iter().any(|net| net.contains(&range)))
    });
    let rows: BTreeMap<String, (u32, Option<IpAddr>)> = rows
        .into_rows()
        .map(|row| (row.prefix.to_string(), (row.identity, row.tunnel)))
        .collect();
    let tunnel = Some("192.168.10.101".parse().unwrap());
    assert_eq!(rows["192.168.10.101/32"], (7, None));
    assert_eq!(
        rows["192.168.10.100/32"],
        (HOST, None),
        "this node is itself"
    );
    assert_eq!(rows["10.244.2.7/32"], (4711, None), "an endpoint is itself");
    assert_eq!(
        rows["10.244.2.8/32"],
        (0x0100_0002, tunnel),
        "among a node's pods"
    );
    assert_eq!(rows["198.51.100.0/24"], (0x0100_0003, None));
}

#[test]
fn the_better_source_wins() {
    let row = |source, identity| Prefix {
        prefix: "10.0.0.1/32".parse().unwrap(),
        identity,
        tunnel: None,
        source,
        owner: Default::default(),
    };
    for order in [[0, 1], [1, 0]] {
        let rows = [
            row(PrefixSource::Kubernetes, 300),
            row(PrefixSource::Local, HOST),
        ];
        let mut plan = PrefixPlan::default();
        plan.add(order.map(|i| rows[i].clone()));
        assert_eq!(
            plan.into_rows().map(|row| row.identity).collect::<Vec<_>>(),
            [HOST]
        );
    }
}

#[test]
fn mtus_follow_device_setting_and_underlay() {
    let pair = |plan: &Plan, local: &LocalNode| {
        let got = mtus(plan, local);
        (got.device, got.route)
    };
    assert_eq!(pair(&plan(false), &local()), (1500, 1500));
    assert_eq!(pair(&plan(true), &local()), (1500, 1450));
    assert_eq!(
        pair(
            &Plan {
                mtu: Some(9000),
                ..plan(true)
            },
            &local()
        ),
        (9000, 8950)
    );
    let mut only6 = local();
    only6.node.addresses.remove(0);
    only6.addresses.remove(0);
    only6.devices[0].addresses.remove(0);
    assert_eq!(pair(&plan(true), &only6), (1500, 1430));
    let services = Plan {
        tunnel_options: true,
        ..plan(true)
    };
    assert_eq!(pair(&services, &local()), (1500, 1438));
}

#[test]
fn the_config_holds_addresses_ranges_and_devices() {
    let devices = HostPair {
        host_ifindex: 5,
        host_mac: Mac([1; 6]),
        net_mac: Mac([2; 6]),
        tunnel_ifindex: 7,
    };
    let config = datapath_config(&plan(true), &local(), &devices);
    assert_eq!((config.tunnel_ifindex, config.routing), (7, 1));
    assert_eq!((config.native4, config.native4_len), ([10, 244, 1, 0], 24));
    assert_eq!(config.node_ipv4, [192, 168, 10, 100]);
    assert_eq!((config.snat_min, config.snat_max), (32768, 65535));
    assert_eq!((config.masquerade4, config.masquerade6), (1, 1));
    let native = Plan {
        native4: Some("10.244.0.0/16".parse().unwrap()),
        ..plan(false)
    };
    let config = datapath_config(&native, &local(), &devices);
    assert_eq!(
        (config.native4, config.native4_len, config.routing),
        ([10, 244, 0, 0], 16, 0)
    );
    assert_eq!(config.mtu, 1500);
}

/// The tunnel is there, other nodes know where it leads, and pods are reached without it.
#[test]
fn a_tunnel_for_services_is_no_way_to_pods() {
    let services = Plan {
        tunnel: Some((Encapsulation::Geneve, 6081)),
        tunnel_for_services: true,
        tunnel_options: true,
        ..plan(false)
    };
    let devices = HostPair {
        tunnel_ifindex: 7,
        ..HostPair::default()
    };
    let config = datapath_config(&services, &local(), &devices);
    assert_eq!(
        (config.routing, config.tunnel_ifindex, config.tunnel_port),
        (0, 7, 6081)
    );
    for node in nodes() {
        let routes = |plan| node_routes(plan, &local(), &node).routes;
        assert_eq!(routes(&services), routes(&plan(false)));
    }
    let rows = node_prefixes(&services, &local(), nodes().iter());
    let behind = Some("192.168.20.100".parse().unwrap());
    assert_eq!(find(&rows, "10.244.3.0/24").tunnel, behind);
}

#[test]
fn both_families_have_their_own_world() {
    let ids: Vec<u32> = world_prefixes(&plan(true))
        .iter()
        .map(|row| row.identity)
        .collect();
    assert_eq!(ids, [WORLD_IPV4, WORLD_IPV6]);
}

/// The routes to the own pods and to those of all nodes.
fn routes<'a>(plan: &Plan, local: &LocalNode, nodes: impl Iterator<Item = &'a Node>) -> RoutePlan {
    let mut all = RoutePlan {
        routes: own_routes(plan, local),
        warnings: Vec::new(),
    };
    for node in nodes {
        let of = node_routes(plan, local, node);
        all.routes.extend(of.routes);
        all.warnings.extend(of.warnings);
    }
    all
}
