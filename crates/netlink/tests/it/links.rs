use std::os::fd::AsFd;

use hypha_netlink as netlink;
use netlink::{
    AddrGenMode, Errno, LinkChange, LinkFlag, LinkKind, Mac, NetkitMode, NewLink, Peer, Request,
    netns,
};

use crate::{pair, sandbox};

#[test]
fn fresh_namespace_has_only_a_loopback() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    let links = h.links().unwrap();
    assert_eq!(
        links
            .iter()
            .map(|l| (l.index, l.name.as_str()))
            .collect::<Vec<_>>(),
        [(1, "lo")]
    );
    assert!(links[0].has(LinkFlag::Loopback) && !links[0].is_up());
    h.link_up("lo").unwrap();
    assert!(h.link(1).unwrap().is_up());
}

#[test]
fn veth_pair_is_made_across_namespaces_in_one_request() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    let Some((pod, mut p)) = sandbox() else {
        return;
    };
    let (a, b) = (Mac::local_from([1; 6]), Mac::local_from([2; 6]));
    let peer = Peer::new("eth0").in_netns(pod.as_fd()).mac(b).mtu(1450);
    let link = h
        .link_create(&NewLink::veth("lxc1", peer).mac(a).mtu(1450))
        .unwrap();
    assert_eq!(
        (link.kind.as_deref(), link.mac, link.mtu),
        (Some("veth"), Some(a), 1450)
    );
    let inner = p.link("eth0").unwrap();
    assert_eq!((inner.mac, inner.mtu), (Some(b), 1450));
    assert_eq!(link.peer, Some(inner.index));
    assert!(link.peer_netns.is_some());
    h.link_delete("lxc1").unwrap();
    assert!(p.find_link("eth0").unwrap().is_none());
}

#[test]
fn queues_of_a_pair() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    let mut new = NewLink::veth(
        "q0",
        Peer {
            queues: Some((2, 3)),
            ..Peer::new("q1")
        },
    );
    new.queues = Some((3, 2));
    assert_eq!(h.link_create(&new).unwrap().queues, (3, 2));
    assert_eq!(h.link("q1").unwrap().queues, (2, 3));
}

#[test]
fn up_without_link_local_noise() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    let requests = [
        Request::link_create(&NewLink::veth("quiet", Peer::new("loud"))),
        Request::link_change(
            "quiet",
            &LinkChange::new()
                .addr_gen_mode(AddrGenMode::None)
                .rp_filter(0),
        ),
        Request::link_change("quiet", &LinkChange::new().up()),
        Request::link_change("loud", &LinkChange::new().up()),
    ];
    let quiet = h.batch_then_link(&requests, "quiet").unwrap();
    assert!(quiet.is_up());
    let loud = h.link("loud").unwrap();
    assert!(h.addresses(Some(quiet.index)).unwrap().is_empty());
    assert!(
        h.addresses(Some(loud.index))
            .unwrap()
            .iter()
            .any(|a| a.ip.is_ipv6())
    );
}

#[test]
fn rp_filter_reaches_the_device() {
    let Some((ns, mut h)) = sandbox() else { return };
    pair(&mut h, "d0");
    h.link_change("d0", &LinkChange::new().rp_filter(2))
        .unwrap();
    let read = || {
        netns::run_in(&ns, || netlink::sysctl::read("net/ipv4/conf/d0/rp_filter"))
            .unwrap()
            .unwrap()
    };
    assert_eq!(read(), "2");
    netlink::sysctl::write_in(&ns, &[("net/ipv4/conf/d0/rp_filter", "1")]).unwrap();
    assert_eq!(read(), "1");
}

#[test]
fn tunnels_take_the_key_per_packet() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    for new in [
        NewLink::vxlan_external("vx0", 8472).up(),
        NewLink::geneve_external("gv0", 6081).up(),
    ] {
        match h.link_create(&new) {
            Ok(link) => {
                let port = if matches!(new.kind, LinkKind::VxlanExternal { .. }) {
                    8472
                } else {
                    6081
                };
                assert_eq!(
                    (link.tunnel_port, link.tunnel_external, link.is_up()),
                    (Some(port), true, true),
                    "{}",
                    link.name
                );
            }
            Err(e) if e.is_unsupported() => eprintln!("skipped: this kernel has no {}", new.name),
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn netkit_pairs() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    let Some((pod, mut p)) = sandbox() else {
        return;
    };
    for (name, mode, number) in [("nk3", NetkitMode::L3, 1), ("nk2", NetkitMode::L2, 0)] {
        match h.link_create(&NewLink::netkit(
            name,
            mode,
            Peer::new(name).in_netns(pod.as_fd()),
        )) {
            Ok(link) => {
                assert_eq!(
                    (link.netkit_mode, link.netkit_primary),
                    (Some(number), true)
                );
                assert!(!p.link(name).unwrap().netkit_primary);
            }
            Err(e) if e.is_unsupported() => return eprintln!("skipped: this kernel has no netkit"),
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn bridge_with_members() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    let bridge = h.link_create(&NewLink::bridge("br0").up()).unwrap();
    let member = h
        .link_create(&NewLink::veth("m0", Peer::new("m1")))
        .unwrap();
    h.link_change(&member, &LinkChange::new().master(bridge.index))
        .unwrap();
    assert_eq!(h.link("m0").unwrap().master, Some(bridge.index));
    h.link_change(&member, &LinkChange::new().no_master())
        .unwrap();
    assert_eq!(h.link("m0").unwrap().master, None);
}

#[test]
fn changes_of_a_link() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    let link = pair(&mut h, "d0");
    let mac = Mac::local_from([7; 6]);
    h.link_change(
        &link,
        &LinkChange::new()
            .name("d1")
            .mtu(9000)
            .mac(mac)
            .arp(false)
            .alias("of mine"),
    )
    .unwrap();
    h.link_change(
        &link,
        &LinkChange::new()
            .gso_max_size(40_000)
            .gro_max_size(40_000)
            .tx_queue_len(10),
    )
    .unwrap();
    let link = h.link("d1").unwrap();
    assert_eq!(
        (link.mtu, link.mac, link.alias.as_deref()),
        (9000, Some(mac), Some("of mine"))
    );
    assert!(link.has(LinkFlag::NoArp));
    assert_eq!((link.gso_max_size, link.gro_max_size), (40_000, 40_000));
    h.link_change(&link, &LinkChange::new().arp(true)).unwrap();
    assert!(!h.link("d1").unwrap().has(LinkFlag::NoArp));
}

#[test]
fn moving_a_link_to_another_namespace() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    let Some((other, mut o)) = sandbox() else {
        return;
    };
    pair(&mut h, "d0");
    h.link_change("d0", &LinkChange::new().netns(other.as_fd()))
        .unwrap();
    assert!(h.find_link("d0").unwrap().is_none());
    assert!(o.find_link("d0").unwrap().is_some());
}

#[test]
fn idempotent_variants_and_errors_that_tell() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    let first = h.link_ensure(&NewLink::bridge("d0")).unwrap();
    assert_eq!(
        h.link_ensure(&NewLink::bridge("d0")).unwrap().index,
        first.index
    );
    let again = h.link_create(&NewLink::bridge("d0")).unwrap_err();
    assert!(
        again.is_exists() && again.to_string().starts_with("create bridge link d0: "),
        "{again}"
    );
    h.link_delete("d0").unwrap();
    let gone = h.link_delete("d0").unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
    h.link_delete_if_exists("d0").unwrap();
    let name = h
        .link_create(&NewLink::bridge("name-that-is-too-long"))
        .unwrap_err();
    assert!(name.to_string().contains("1 to 15 bytes"), "{name}");
}

#[test]
fn a_batch_goes_on_after_a_refusal_and_keeps_the_order() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    let mut requests: Vec<_> = (0..150)
        .map(|i| Request::link_create(&NewLink::bridge(format!("d{i}"))))
        .collect();
    requests.insert(70, Request::link_create(&NewLink::bridge("d3")));
    requests.insert(100, Request::link_delete("no/name"));
    let results = h.batch(&requests).unwrap();
    let failed: Vec<_> = results
        .iter()
        .enumerate()
        .filter(|(_, r)| r.is_err())
        .map(|(i, _)| i)
        .collect();
    assert_eq!(failed, [70, 100]);
    assert_eq!(
        results[70].as_ref().unwrap_err().errno(),
        Some(Errno::EEXIST)
    );
    assert_eq!(h.links().unwrap().len(), 151);
}

#[test]
fn clsact_comes_and_goes() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    let link = pair(&mut h, "d0");
    h.clsact_delete_if_exists(link.index).unwrap();
    h.clsact_ensure(link.index).unwrap();
    h.clsact_ensure(link.index).unwrap();
    assert!(
        h.qdiscs(Some(link.index))
            .unwrap()
            .iter()
            .any(|q| q.kind == "clsact")
    );
    h.clsact_delete_if_exists(link.index).unwrap();
    assert!(
        h.qdiscs(Some(link.index))
            .unwrap()
            .iter()
            .all(|q| q.kind != "clsact")
    );
}
