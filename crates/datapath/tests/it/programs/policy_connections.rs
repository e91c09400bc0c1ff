//! Network policy and connections: what is asked once, what is an answer, and what ends.
use abi::{Direction, DropReason};

use super::{
    packet::{ACK, Packet, SYN, TCP},
    policy::{ALL, SUBJECT1, SUBJECT2, key, port},
    scene::{Ip, POD1_ID, POD2_ID, REMOTE_POD_ID, Scene, native},
};
use crate::support::place;

use Direction::{Egress, Ingress};

#[test]
fn answers_pass_and_errors_about_them() {
    place(|here| {
        let scene = Scene::new(here, native);
        scene.subjects(SUBJECT1, SUBJECT2);
        for ip in Ip::BOTH {
            let (a, b) = ((ip.pod1(), 1000), (ip.pod2(), 80));
            scene.allow(key(SUBJECT1, Egress, POD2_ID, port(TCP, 80)));
            scene.allow(key(SUBJECT2, Ingress, POD1_ID, port(TCP, 80)));
            let reply = Packet::tcp(b, a, SYN | ACK).bytes();
            scene
                .from_pod2(&reply)
                .dropped(DropReason::PolicyDenied, Egress);
            let first = Packet::tcp(a, b, SYN).bytes();
            assert_eq!(scene.from_pod1(&first).passed().verdicts().len(), 2);
            scene.from_pod2(&reply).passed();
            // Also after a new epoch: the question is that of the connection.
            scene.raise();
            assert_eq!(scene.from_pod2(&reply).passed().verdicts(), [""; 0]);
            let quoted = Packet::tcp(a, b, ACK).bytes();
            let error = Packet::unreachable(ip.pod2(), ip.pod1(), &quoted).bytes();
            scene.from_pod2(&error).passed();
            // About nobody's connection: asked about, by its type.
            let stray = Packet::tcp((ip.pod1(), 9), (ip.pod2(), 9), ACK).bytes();
            let error = Packet::unreachable(ip.pod2(), ip.pod1(), &stray).bytes();
            scene
                .from_pod2(&error)
                .dropped(DropReason::PolicyDenied, Egress);
            let (kind, code) = if ip == Ip::V4 { (3, 4) } else { (2, 0) };
            let big = Packet::icmp(ip.pod2(), ip.pod1(), kind, code, [0, 0, 5, 0], &stray[14..]);
            scene.from_pod2(&big.bytes()).passed();
        }
    });
}

#[test]
fn what_is_allowed_no_longer_ends_with_its_next_packet() {
    for (subject, direction, remote) in [(SUBJECT1, Egress, POD2_ID), (SUBJECT2, Ingress, POD1_ID)]
    {
        place(|here| {
            let scene = Scene::new(here, native);
            let (one, two) = if subject == SUBJECT1 {
                (SUBJECT1, 0)
            } else {
                (0, SUBJECT2)
            };
            scene.subjects(one, two);
            for ip in Ip::BOTH {
                let (a, b) = ((ip.pod1(), 1000), (ip.pod2(), 80));
                let forward = Packet::tcp(a, b, ACK).bytes();
                let back = Packet::tcp(b, a, ACK).bytes();
                let row = key(subject, direction, remote, port(TCP, 80));
                scene.allow(row);
                scene.from_pod1(&Packet::tcp(a, b, SYN).bytes()).passed();
                scene.from_pod2(&back).passed();
                // An answer holds for its epoch: rows are complete before that is raised.
                let policy = scene.datapath.policy().unwrap();
                assert!(policy.delete(&row).unwrap());
                scene.from_pod1(&forward).passed();
                scene.raise();
                // Both ways, whoever is first, and again and again.
                for _ in 0..2 {
                    scene
                        .from_pod2(&back)
                        .dropped(DropReason::PolicyDenied, direction);
                    scene
                        .from_pod1(&forward)
                        .dropped(DropReason::PolicyDenied, direction);
                    scene.raise();
                }
                // The other side does not open it anew.
                scene
                    .from_pod2(&back)
                    .dropped(DropReason::PolicyDenied, direction);
                scene.allow(row);
                scene.from_pod1(&forward).passed();
                scene.from_pod2(&back).passed();
            }
        });
    }
}

#[test]
fn an_answer_is_about_who_asked() {
    place(|here| {
        let scene = Scene::new(here, native);
        scene.subjects(0, SUBJECT2);
        for ip in Ip::BOTH {
            let packet = Packet::tcp((ip.pod1(), 1000), (ip.pod2(), 80), ACK).bytes();
            scene.allow(key(SUBJECT2, Ingress, POD1_ID, ALL));
            scene.from_pod1(&packet).passed();
            // Another identity of the sender is asked about without a new epoch.
            let endpoints = scene.datapath.endpoints().unwrap();
            let before = endpoints.get(scene.lxc1).unwrap().unwrap();
            let mut other = before;
            other.info.sec_id = 4711;
            endpoints.upsert(&other).unwrap();
            scene
                .from_pod1(&packet)
                .dropped(DropReason::PolicyDenied, Ingress);
            endpoints.upsert(&before).unwrap();
            scene.from_pod1(&packet).passed();
            // That of an address elsewhere with one.
            let remote = Packet::tcp((ip.remote_pod(), 1000), (ip.pod2(), 80), ACK).bytes();
            scene.allow(key(SUBJECT2, Ingress, REMOTE_POD_ID, ALL));
            scene.from_netdev(&remote).passed();
            scene.remote_pod_is(ip, 4711, None);
            scene.from_netdev(&remote).passed();
            scene.raise();
            scene
                .from_netdev(&remote)
                .dropped(DropReason::PolicyDenied, Ingress);
            scene.remote_pod_is(ip, REMOTE_POD_ID, None);
            scene.from_netdev(&remote).passed();
        }
    });
}

#[test]
fn of_icmp_an_echo_is_a_connection_and_the_rest_is_asked_about_by_type() {
    place(|here| {
        let scene = Scene::new(here, native);
        scene.subjects(SUBJECT1, SUBJECT2);
        for ip in Ip::BOTH {
            let (a, b) = (ip.pod1(), ip.pod2());
            let (proto, request, asks) = if ip == Ip::V4 {
                (1, 8, 13)
            } else {
                (58, 128, 144)
            };
            scene.allow(key(SUBJECT1, Egress, POD2_ID, port(proto, request)));
            scene.allow(key(SUBJECT2, Ingress, POD1_ID, port(proto, request)));
            scene.allow(key(SUBJECT2, Egress, POD1_ID, port(proto, request)));
            // Whoever may ping is answered; a reply that nobody asked for is asked about as one.
            scene
                .from_pod2(&Packet::pong(b, a, 5).bytes())
                .dropped(DropReason::PolicyDenied, Egress);
            scene.from_pod1(&Packet::ping(a, b, 5).bytes()).passed();
            scene.from_pod2(&Packet::pong(b, a, 5).bytes()).passed();
            scene
                .from_pod2(&Packet::ping(b, a, 6).bytes())
                .dropped(DropReason::PolicyDenied, Ingress);
            // Under the same numbers, in the other direction: no answer.
            scene
                .from_pod2(&Packet::ping(b, a, 5).bytes())
                .dropped(DropReason::PolicyDenied, Ingress);
            let other = Packet::icmp(a, b, asks, 0, [0; 4], b"sixteen bytes...").bytes();
            scene
                .from_pod1(&other)
                .dropped(DropReason::PolicyDenied, Egress);
            scene.allow(key(SUBJECT1, Egress, POD2_ID, port(proto, u16::from(asks))));
            scene.allow(key(
                SUBJECT2,
                Ingress,
                POD1_ID,
                port(proto, u16::from(asks)),
            ));
            scene.from_pod1(&other).passed();
            // What one message was allowed says nothing of the next, of whatever type.
            let next = Packet::icmp(a, b, asks + 2, 0, [0; 4], b"sixteen bytes...").bytes();
            scene
                .from_pod1(&next)
                .dropped(DropReason::PolicyDenied, Egress);
            scene.from_pod1(&Packet::ping(a, b, 0).bytes()).passed();
            scene.from_pod1(&other).passed();
        }
    });
}
