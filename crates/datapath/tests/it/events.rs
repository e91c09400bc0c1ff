//! Packets through the programs: events, metrics, test runs, checks.
use std::{net::UdpSocket, time::Duration};

use abi::{EndpointInfo, LocalEndpoint, names};
use datapath::{
    Owner,
    check::{Expected, Problem},
    probes::{self, Feature},
    test_run::SkbContext,
};
use netlink::{Address, Handle};

use crate::support::place;

/// An Ethernet frame with an IPv4 UDP packet of 8 bytes in it.
fn udp_frame(src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let mut ip = vec![0x45, 0, 0, 36, 0, 1, 0, 0, 64, 17, 0, 0];
    ip.extend(src);
    ip.extend(dst);
    let sum: u32 = ip
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], c[1]])))
        .sum();
    let sum = !((sum & 0xFFFF) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend([0x30, 0x39, 0, 53, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    frame
}

fn endpoint(id: u16, ifindex: u32) -> LocalEndpoint {
    let info = EndpointInfo {
        ifindex,
        sec_id: 300,
        id,
        flags: 0,
        mac: [2, 0, 0, 0, 0, 2],
        node_mac: [2, 0, 0, 0, 0, 1],
        subject: 0,
    };
    LocalEndpoint {
        info,
        ipv4: [10, 244, 1, 10],
        ipv6: [0; 16],
    }
}

#[test]
fn a_run_reports_through_the_ring() {
    place(|here| {
        let (datapath, _) = here.open();
        let lxc = here.veth("lxc1");
        datapath
            .endpoints()
            .unwrap()
            .upsert(&endpoint(7, lxc))
            .unwrap();
        let mut reader = datapath.events().unwrap();
        assert_eq!(reader.drain(|_| ()), 0);
        let context = SkbContext {
            ifindex: lxc,
            ..SkbContext::default()
        };
        let frame = udp_frame([10, 244, 1, 10], [10, 10, 1, 200]);
        let run = datapath
            .test_run(names::FROM_CONTAINER, &frame, context)
            .unwrap();
        assert_eq!(run.packet.len(), frame.len());
        let mut seen = Vec::new();
        assert!(reader.poll(Duration::from_secs(2), |event| seen.push(*event)) > 0);
        assert!(seen.iter().any(|event| event.endpoint == 7), "{seen:?}");
        assert_eq!(reader.stats().malformed, 0);
        // A reader that comes later goes on where this one stopped.
        drop(reader);
        datapath
            .test_run(names::FROM_CONTAINER, &frame, context)
            .unwrap();
        assert!(datapath.events().unwrap().drain(|_| ()) > 0);
        assert_eq!(datapath.metrics().unwrap().lost_events().unwrap(), 0);
    });
}

#[test]
fn a_full_ring_counts_what_it_loses() {
    place(|here| {
        let (datapath, _) = here.open();
        let lxc = here.veth("lxc1");
        datapath
            .endpoints()
            .unwrap()
            .upsert(&endpoint(7, lxc))
            .unwrap();
        let context = SkbContext {
            ifindex: lxc,
            ..SkbContext::default()
        };
        let frame = udp_frame([10, 244, 1, 10], [10, 10, 1, 200]);
        datapath
            .test_run_repeat(names::FROM_CONTAINER, &frame, context, 2000)
            .unwrap();
        let lost = datapath.metrics().unwrap().lost_events().unwrap();
        let read = datapath.events().unwrap().drain(|_| ()) as u64;
        assert!(lost > 0 && read > 0, "{lost} lost, {read} read");
    });
}

#[test]
fn attached_programs_see_real_packets() {
    place(|here| {
        let (datapath, _) = here.open();
        let eth = here.veth("eth0");
        let mut netlink = Handle::new().unwrap();
        netlink
            .address_replace(&Address::new(eth, [192, 168, 10, 100], 24))
            .unwrap();
        datapath.attach_device("eth0", eth).unwrap();
        let mut reader = datapath.events().unwrap();
        let socket = UdpSocket::bind("192.168.10.100:0").unwrap();
        socket.set_broadcast(true).unwrap();
        // The peer answers no ARP; a broadcast needs none.
        socket.send_to(b"hello", "192.168.10.255:9").unwrap();
        datapath.attach_device("eth0", eth).unwrap();
        let programs = datapath.programs().unwrap();
        // The one for drivers is not loaded unless it is asked for.
        assert_eq!(programs.len() + 1, names::PROGRAMS.len());
        reader.poll(Duration::from_millis(200), |_| ());
        assert_eq!(reader.stats().malformed, 0);
    });
}

#[test]
fn the_check_names_what_is_wrong() {
    place(|here| {
        let (datapath, _) = here.open();
        let lxc = here.veth("lxc1");
        let entry = endpoint(7, lxc);
        let expected = [Expected {
            id: 7,
            ifindex: lxc,
            entry,
        }];
        let problems = datapath.check(&expected).unwrap();
        assert_eq!(
            problems,
            [
                Problem::NotAttached {
                    id: 7,
                    ifindex: lxc
                },
                Problem::MapEntry {
                    id: 7,
                    present: false
                }
            ]
        );
        datapath.endpoints().unwrap().upsert(&entry).unwrap();
        datapath.attach_endpoint(7, lxc, "lxc1", false).unwrap();
        assert_eq!(datapath.check(&expected).unwrap(), []);
        let leaked = datapath.check(&[]).unwrap();
        assert_eq!(leaked.len(), 3, "{leaked:?}");
        assert_eq!(
            leaked[0].to_string(),
            "endpoint 7: cil_from_container is attached, but there is no such endpoint"
        );
        here.remove_link("lxc1");
        let gone = datapath.check(&expected).unwrap();
        let program = names::FROM_CONTAINER;
        assert_eq!(
            gone[0],
            Problem::DeviceGone {
                owner: Owner::Endpoint(7),
                program
            }
        );
    });
}

#[test]
fn probes_answer_in_one_line() {
    place(|_| {
        let findings = probes::all();
        assert_eq!(findings.len(), Feature::ALL.len());
        for finding in findings {
            eprintln!("{}: {finding}", finding.feature.name());
            assert!(!finding.to_string().contains('\n'));
        }
        assert!(
            Feature::RingBuffer.is_there()
                && Feature::RedirectPeer.is_there()
                && Feature::Vxlan.is_there()
        );
    });
}
