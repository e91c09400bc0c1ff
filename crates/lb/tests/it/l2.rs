//! Who stands for which lease, and answers for what.
use crate::kit::{balanced, ip, labels, node, service};
use hypha_lb::input::Service;
use hypha_lb::l2::{Leases, Policy, lease};
use hypha_lb::parse;
use model::Text;
use serde_json::{Value, json};

fn policy(spec: &Value) -> Policy {
    parse::l2_policy("p", spec).unwrap()
}

fn web() -> Service {
    let mut web = balanced(
        service("a/web", &["10.96.0.1"], &[("http", 80, 0)]),
        &["198.51.100.1", "fd00:2::1", "198.51.100.9"],
    );
    web.ingress[2].proxy = true;
    web.external_ips = vec![ip("203.0.113.1")];
    web.labels = labels(&[("color", "blue")]);
    web
}

/// Addresses and devices of the lease, if there is one.
fn entries(service: &Service, specs: &[Value]) -> String {
    let policies: Vec<_> = specs.iter().map(policy).collect();
    let devices = ["eth0", "eth1", "wlan0"].map(Text::from);
    let Some(lease) = lease(service, &policies, &node(), &devices) else {
        return String::new();
    };
    assert_eq!(lease.name, "cilium-l2announce-a-web");
    let texts: Vec<_> = lease
        .entries
        .iter()
        .map(|(ip, device)| format!("{ip}@{device}"))
        .collect();
    texts.join(" ")
}

#[test]
fn addresses_and_devices_that_policies_name() {
    let both = json!({"externalIPs": true, "loadBalancerIPs": true, "interfaces": ["^eth0$"]});
    assert_eq!(
        entries(&web(), &[both]),
        "198.51.100.1@eth0 203.0.113.1@eth0 fd00:2::1@eth0"
    );
    assert_eq!(
        entries(&web(), &[json!({"externalIPs": true})]),
        "203.0.113.1@eth0 203.0.113.1@eth1 203.0.113.1@wlan0"
    );
    assert_eq!(
        entries(&web(), &[json!({"interfaces": ["eth"]})]),
        "",
        "neither kind is asked for"
    );
    let two = [
        json!({"externalIPs": true, "interfaces": ["eth0"]}),
        json!({"externalIPs": true, "interfaces": ["^wlan"]}),
    ];
    assert_eq!(entries(&web(), &two), "203.0.113.1@eth0 203.0.113.1@wlan0");
}

#[test]
fn selectors_of_services_and_nodes_and_the_class() {
    let with = |key: &str, selector: Value| {
        let mut spec = json!({"externalIPs": true, "interfaces": ["eth0"]});
        spec[key] = selector;
        !entries(&web(), &[spec]).is_empty()
    };
    assert!(with(
        "serviceSelector",
        json!({"matchLabels": {"color": "blue"}})
    ));
    assert!(!with(
        "serviceSelector",
        json!({"matchLabels": {"color": "red"}})
    ));
    assert!(with(
        "serviceSelector",
        json!({"matchLabels": {"io.kubernetes.service.name": "web"}})
    ));
    assert!(with(
        "nodeSelector",
        json!({"matchLabels": {"role": "worker"}})
    ));
    assert!(!with(
        "nodeSelector",
        json!({"matchExpressions": [{"key": "role", "operator": "DoesNotExist"}]})
    ));
    for (class, ours) in [
        ("", true),
        ("io.cilium/l2-announcer", true),
        ("io.cilium/bgp-control-plane", false),
    ] {
        let service = Service {
            class: class.into(),
            ..web()
        };
        assert_eq!(
            !entries(&service, &[json!({"externalIPs": true})]).is_empty(),
            ours,
            "{class}"
        );
    }
}

#[test]
fn whoever_wins_answers_and_whoever_loses_stops() {
    let policies = [policy(
        &json!({"externalIPs": true, "interfaces": ["eth0"]}),
    )];
    let devices = [Text::from("eth0")];
    let key = Text::from("a/web");
    let mut leases = Leases::default();
    let entry = (ip("203.0.113.1"), Text::from("eth0"));
    let change = leases.set(&key, lease(&web(), &policies, &node(), &devices));
    assert_eq!(
        (change.stand.len(), change.announce.len()),
        (1, 0),
        "no answer before the lease is won"
    );
    let change = leases.hold("cilium-l2announce-a-web", true);
    assert_eq!(change.announce, [entry]);
    let mut more = web();
    more.external_ips.push(ip("203.0.113.2"));
    let change = leases.set(&key, lease(&more, &policies, &node(), &devices));
    assert_eq!(
        (change.announce, change.stand.len()),
        (vec![(ip("203.0.113.2"), Text::from("eth0"))], 0)
    );
    assert_eq!(leases.announced().count(), 2);
    assert_eq!(
        leases.hold("cilium-l2announce-a-web", false).withdraw.len(),
        2
    );
    leases.hold("cilium-l2announce-a-web", true);
    let change = leases.set(&key, None);
    assert_eq!(
        (
            change.drop.len(),
            change.withdraw.len(),
            leases.announced().count()
        ),
        (1, 2, 0)
    );
}

#[test]
fn neighbours_are_told_by_frames_that_they_understand() {
    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
    let mac = [2, 0, 0, 0, 0, 7];
    let arp = hypha_lb::l2::announcement(ip("192.0.2.7"), mac);
    let parsed = PacketHeaders::from_ethernet_slice(&arp).unwrap();
    let ethernet = parsed.link.unwrap().ethernet2().unwrap();
    assert_eq!((ethernet.destination, ethernet.source), ([0xFF; 6], mac));
    let Some(NetHeaders::Arp(request)) = parsed.net else {
        panic!("no ARP");
    };
    assert_eq!(request.operation.0, 1);
    assert_eq!(request.sender_hw_addr(), mac);
    assert_eq!(request.sender_protocol_addr(), [192, 0, 2, 7]);
    assert_eq!(request.target_protocol_addr(), [192, 0, 2, 7]);

    let advertisement = hypha_lb::l2::announcement(ip("fd00::7"), mac);
    let parsed = PacketHeaders::from_ethernet_slice(&advertisement).unwrap();
    let ethernet = parsed.link.unwrap().ethernet2().unwrap();
    assert_eq!(ethernet.destination, [0x33, 0x33, 0, 0, 0, 1]);
    let Some(NetHeaders::Ipv6(header, _)) = parsed.net else {
        panic!("no IPv6");
    };
    assert_eq!(header.hop_limit, 255);
    assert_eq!(header.source_addr().to_string(), "fd00::7");
    assert_eq!(header.destination_addr().to_string(), "ff02::1");
    let Some(TransportHeader::Icmpv6(icmp)) = parsed.transport else {
        panic!("no ICMPv6");
    };
    let payload = parsed.payload.slice();
    let check = icmp
        .icmp_type
        .calc_checksum(header.source, header.destination, payload);
    assert_eq!(check.unwrap(), icmp.checksum);
    assert_eq!(payload[..16], header.source);
    assert_eq!(payload[16..], [2, 1, 2, 0, 0, 0, 0, 7]);
}
