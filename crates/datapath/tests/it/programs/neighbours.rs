//! ARP and neighbour discovery: the program answers for everybody but the pod itself.
use std::net::{IpAddr, Ipv6Addr};

use abi::{Direction::Egress, DropReason};
use etherparse::{ArpEthIpv4Packet, ArpOperation, ArpPacket};

use super::{
    packet::{Packet, wrong_checksums},
    scene::{Ip, PASS, POD1, REDIRECT, SHOT, Scene, lxc_mac, native, pod_mac},
};
use crate::support::place;

fn octets(addr: IpAddr) -> [u8; 4] {
    match addr {
        IpAddr::V4(a) => a.octets(),
        IpAddr::V6(_) => panic!("not IPv4"),
    }
}

fn v6(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V6(a) => a.octets(),
        IpAddr::V4(_) => panic!("not IPv6"),
    }
}

fn arp(dst: [u8; 6], src: [u8; 6], packet: &ArpEthIpv4Packet) -> Vec<u8> {
    let mut bytes = [dst, src].concat();
    bytes.extend([8, 6]);
    bytes.extend(ArpPacket::from(packet.clone()).to_bytes());
    // As drivers do, to the shortest Ethernet frame.
    bytes.resize(60, 0);
    bytes
}

fn request(target: IpAddr) -> ArpEthIpv4Packet {
    ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: pod_mac(POD1),
        sender_ipv4: octets(Ip::V4.pod1()),
        target_mac: [0; 6],
        target_ipv4: octets(target),
    }
}

/// What is counted for messages that end at the pod's link, unreported.
const ABSORBED: [(u8, abi::Direction); 1] = [(DropReason::MulticastHandled as u8, Egress)];

#[test]
fn arp_is_answered_with_the_host_sides_mac_address() {
    place(|here| {
        let scene = Scene::new(here, native);
        for target in [Ip::V4.gateway(), Ip::V4.pod2(), Ip::V4.outside()] {
            let came = scene.from_pod1(&arp([0xFF; 6], pod_mac(POD1), &request(target)));
            let answer = ArpEthIpv4Packet {
                operation: ArpOperation::REPLY,
                sender_mac: lxc_mac(POD1),
                sender_ipv4: octets(target),
                target_mac: pod_mac(POD1),
                target_ipv4: octets(Ip::V4.pod1()),
            };
            assert_eq!(came.packet, arp(pod_mac(POD1), lxc_mac(POD1), &answer));
            assert_eq!(
                (came.verdict, came.counted, came.events),
                (REDIRECT, vec![], vec![])
            );
        }
    });
}

#[test]
fn other_arp_is_left_alone() {
    place(|here| {
        let scene = Scene::new(here, native);
        let own = request(Ip::V4.pod1());
        let reply = ArpEthIpv4Packet {
            operation: ArpOperation::REPLY,
            ..request(Ip::V4.gateway())
        };
        let mut token_ring = arp([0xFF; 6], pod_mac(POD1), &request(Ip::V4.gateway()));
        token_ring[15] = 6;
        let mut all = vec![token_ring];
        all.extend([own, reply].map(|packet| arp([0xFF; 6], pod_mac(POD1), &packet)));
        let short = all[1][..40].to_vec();
        all.push(short);
        for sent in all {
            let came = scene.from_pod1(&sent);
            assert_eq!((came.verdict, came.packet), (PASS, sent));
        }
    });
}

/// A solicitation of `target`, with the option that says who asks.
fn solicitation(src: IpAddr, target: IpAddr) -> Packet {
    let t = v6(target);
    let mut group = [0xFF, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xFF, 0, 0, 0];
    group[13..].copy_from_slice(&t[13..]);
    let option = [&[1, 1][..], &pod_mac(POD1)].concat();
    Packet::icmp(
        src,
        group.into(),
        135,
        0,
        [0; 4],
        &[&t[..], &option].concat(),
    )
    .ttl(255)
}

#[test]
fn solicitations_are_answered_with_the_host_sides_mac_address() {
    place(|here| {
        let scene = Scene::new(here, native);
        let link_local: IpAddr = "fe80::10".parse().unwrap();
        for asker in [Ip::V6.pod1(), link_local] {
            for target in [Ip::V6.gateway(), Ip::V6.node(), Ip::V6.pod2()] {
                let came = scene.from_pod1(&solicitation(asker, target).bytes());
                let option = [&[2, 1][..], &lxc_mac(POD1)].concat();
                let payload = [&v6(target)[..], &option].concat();
                let flags = [0xE0, 0, 0, 0];
                let answer = Packet::icmp(target, asker, 136, 0, flags, &payload).ttl(255);
                let mut expected = answer.bytes();
                expected[..6].copy_from_slice(&pod_mac(POD1));
                expected[6..12].copy_from_slice(&lxc_mac(POD1));
                assert_eq!(came.packet, expected, "{asker} asks for {target}");
                assert_eq!(wrong_checksums(&came.packet), [""; 0]);
                assert_eq!(
                    (came.verdict, came.counted, came.events),
                    (REDIRECT, vec![], vec![])
                );
            }
        }
    });
}

#[test]
fn solicitations_that_are_not_answered() {
    place(|here| {
        let scene = Scene::new(here, native);
        let pod = Ip::V6.pod1();
        for target in [Ip::V6.outside(), Ip::V6.nobody(), Ip::V6.pod1()] {
            let came = scene.from_pod1(&solicitation(pod, target).bytes());
            came.dropped(DropReason::UnknownTarget, Egress);
        }
        // Without the option, or from beyond the link.
        let bare = Packet::icmp(pod, Ip::V6.gateway(), 135, 0, [0; 4], &v6(Ip::V6.gateway()));
        for packet in [bare.ttl(255), solicitation(pod, Ip::V6.gateway()).ttl(64)] {
            scene
                .from_pod1(&packet.bytes())
                .dropped(DropReason::UnknownTarget, Egress);
        }
        let cut = &solicitation(pod, Ip::V6.gateway()).bytes()[..14 + 40 + 20];
        scene
            .from_pod1(cut)
            .dropped(DropReason::InvalidPacket, Egress);
        // Is anybody else using my address? Silence says no; and whatever the pod announces, nobody wants to know.
        let unspecified = Ipv6Addr::UNSPECIFIED.into();
        let announce = Packet::icmp(pod, Ip::V6.gateway(), 136, 0, [0x20, 0, 0, 0], &v6(pod));
        for packet in [solicitation(unspecified, pod), announce.ttl(255)] {
            let came = scene.from_pod1(&packet.bytes());
            assert_eq!(
                (came.verdict, came.counted, came.events),
                (SHOT, ABSORBED.to_vec(), vec![])
            );
        }
    });
}

#[test]
fn pods_do_not_play_router() {
    place(|here| {
        let scene = Scene::new(here, native);
        let routers: IpAddr = "ff02::2".parse().unwrap();
        for kind in [134, 137] {
            let packet = Packet::icmp(Ip::V6.pod1(), routers, kind, 0, [0; 4], &[0; 32]).ttl(255);
            let came = scene.from_pod1(&packet.bytes());
            came.dropped(DropReason::ForbiddenIcmpv6Message, Egress);
        }
    });
}

#[test]
fn what_every_pod_says_at_its_start_is_counted_and_not_reported() {
    place(|here| {
        let scene = Scene::new(here, native);
        let everybody: IpAddr = "ff02::16".parse().unwrap();
        for kind in [130, 131, 132, 133, 143] {
            let packet = Packet::icmp(Ip::V6.pod1(), everybody, kind, 0, [0; 4], &[0; 32]).ttl(1);
            let came = scene.from_pod1(&packet.bytes());
            assert_eq!(
                (came.verdict, came.counted, came.events),
                (SHOT, ABSORBED.to_vec(), vec![])
            );
        }
    });
}
