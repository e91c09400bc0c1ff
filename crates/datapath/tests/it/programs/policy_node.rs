//! Network policy of the node itself: the host firewall.
use abi::{Direction, DropReason, endpoint_flags, mark};

use super::{
    packet::{ACK, Packet, SYN, TCP},
    policy::{ALL, key, port},
    scene::{Came, Ip, PASS, POD1_ID, Scene, native},
};
use crate::support::place;

use Direction::{Egress, Ingress};

/// Whose rows hold for the node here.
const SUBJECT: u32 = 1;

impl Scene {
    /// Gives the node's addresses a subject.
    fn subject_of_host(&self, flags: u16) {
        let endpoints = self.datapath.endpoints().unwrap();
        for (key, mut info) in endpoints.dump_addresses().unwrap() {
            if info.flags & endpoint_flags::HOST != 0 {
                (info.subject, info.flags) = (SUBJECT, endpoint_flags::HOST | flags);
                endpoints.upsert_address(&key, &info).unwrap();
            }
        }
    }
}

/// A node with the firewall on.
fn guarded(config: &mut abi::DatapathConfig) {
    native(config);
    (config.host_firewall, config.tunnel_port) = (1, 8472);
}

#[test]
fn the_node_is_asked_about_what_it_gets_and_sends() {
    place(|here| {
        let scene = Scene::new(here, guarded);
        for ip in Ip::BOTH {
            scene.subject_of_host(0);
            let (node, far) = (ip.node(), ip.remote_node());
            let to_node = |to| Packet::tcp((far, 1000), (node, to), SYN).bytes();
            let by_node = |from, to, flags| Packet::tcp((node, from), (far, to), flags).bytes();
            let remote = abi::identity::REMOTE_NODE;
            let nothing = |came: Came| assert_eq!((came.verdict, came.counted), (PASS, vec![]));
            scene
                .from_netdev(&to_node(22))
                .dropped(DropReason::PolicyDenied, Ingress);
            scene
                .to_netdev(&by_node(1000, 443, SYN), 0)
                .dropped(DropReason::PolicyDenied, Egress);
            scene.allow(key(SUBJECT, Ingress, remote, port(TCP, 22)));
            nothing(scene.from_netdev(&to_node(22)));
            scene
                .from_netdev(&to_node(23))
                .dropped(DropReason::PolicyDenied, Ingress);
            nothing(scene.to_netdev(&by_node(22, 1000, SYN | ACK), 0));
            scene.allow(key(SUBJECT, Egress, remote, port(TCP, 443)));
            nothing(scene.to_netdev(&by_node(1000, 443, SYN), 0));
            let answer = Packet::tcp((far, 443), (node, 1000), SYN | ACK).bytes();
            nothing(scene.from_netdev(&answer));
            // Pods are asked about, too, by the node's own policy and theirs.
            let pod = |to| Packet::tcp((ip.pod1(), 1000), (node, to), SYN).bytes();
            scene
                .from_pod1(&pod(22))
                .dropped(DropReason::PolicyDenied, Ingress);
            scene.allow(key(SUBJECT, Ingress, POD1_ID, port(TCP, 22)));
            scene.from_pod1(&pod(22)).passed();
            let to_pod = Packet::tcp((ip.gateway(), 1000), (ip.pod1(), 80), SYN).bytes();
            scene
                .from_host(&to_pod, mark::HOST)
                .dropped(DropReason::PolicyDenied, Egress);
            scene.allow(key(SUBJECT, Egress, POD1_ID, port(TCP, 80)));
            scene.from_host(&to_pod, mark::HOST).passed();
            // What only passes through is not the node's.
            let through = Packet::tcp((ip.outside(), 1000), (ip.pod1(), 80), SYN).bytes();
            scene.from_netdev(&through).passed();
            let tunnel = Packet::udp((far, 1000), (node, 8472), b"x").bytes();
            nothing(scene.from_netdev(&tunnel));
            scene.subject_of_host(endpoint_flags::POLICY_AUDIT);
            let came = scene.from_netdev(&to_node(24));
            assert_eq!(came.verdict, PASS);
            came.verdict_is("policy ingress Policy denied none by 0 audited: ");
            scene.forget_rows();
        }
    });
}

#[test]
fn the_nodes_neighbours_find_it_and_it_hides_behind_nothing() {
    place(|here| {
        let scene = Scene::new(here, guarded);
        scene.subject_of_host(0);
        let (node, far) = (Ip::V6.node(), Ip::V6.remote_node());
        for kind in 133..=137 {
            let message = Packet::icmp(far, node, kind, 0, [0; 4], &[0; 24]).bytes();
            assert_eq!(scene.from_netdev(&message).verdict, PASS);
            let message = Packet::icmp(node, far, kind, 0, [0; 4], &[0; 24]).bytes();
            assert_eq!(scene.to_netdev(&message, 0).verdict, PASS);
        }
        // The node may understand a packet that is not understood here.
        let options: Vec<u8> = [60, 60, 60, 60, 6]
            .iter()
            .flat_map(|next| [*next, 0, 1, 4, 0, 0, 0, 0])
            .collect();
        let chain = Packet::new(far, node, 60, [options, vec![0; 20]].concat()).bytes();
        scene
            .from_netdev(&chain)
            .dropped(DropReason::InvalidExtensionHeader, Ingress);
        // Protocols without connections are asked about one by one.
        let (node, far) = (Ip::V4.node(), Ip::V4.remote_node());
        let gre = Packet::new(far, node, 47, vec![0; 8]).bytes();
        scene
            .from_netdev(&gre)
            .dropped(DropReason::PolicyDenied, Ingress);
        scene.allow(key(SUBJECT, Ingress, abi::identity::REMOTE_NODE, ALL));
        assert_eq!(scene.from_netdev(&gre).verdict, PASS);
        assert!(scene.connections().is_empty());
    });
}
