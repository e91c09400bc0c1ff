//! Attaching: idempotent, atomic replacement, stale pins, both mechanisms.
use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use abi::names;
use datapath::{AttachMode, Attached, Datapath, Mechanism, OpenOptions, Owner, probes::Feature};
use netlink::{Handle, NetkitMode, NewLink, Peer};

use crate::support::{Place, place};

fn options(here: &Place, mode: AttachMode) -> OpenOptions {
    OpenOptions {
        attach: mode,
        ..here.options()
    }
}

/// Runs a test with each mechanism that the kernel has.
fn each_mechanism(test: fn(&Place, AttachMode)) {
    for mode in [AttachMode::Tcx, AttachMode::Clsact] {
        place(|here| {
            if mode == AttachMode::Tcx && !Feature::Tcx.is_there() {
                return eprintln!("skipped: {}", Feature::Tcx.without());
            }
            test(here, mode);
        });
    }
}

fn program_of(attachments: &[datapath::Attachment], owner: &Owner, program: &str) -> u32 {
    let found = attachments
        .iter()
        .find(|a| a.owner == *owner && a.program == program);
    found
        .unwrap_or_else(|| panic!("{program} of {owner} in {attachments:?}"))
        .program_id
}

#[test]
fn attaching_twice_changes_nothing() {
    each_mechanism(|here, mode| {
        let mut options = options(here, mode);
        // The oldest verifier sees this test: with what is only there for a proxy, too.
        options.config.proxy_ifindex = 1;
        let (datapath, _) = Datapath::open(&options).unwrap();
        let lxc = here.veth("lxc1");
        let eth = here.veth("eth0.5");
        assert_eq!(
            datapath.attach_endpoint(7, lxc, "lxc1", true).unwrap(),
            Attached::New
        );
        assert_eq!(
            datapath.attach_device("eth0.5", eth).unwrap(),
            Attached::New
        );
        let first = datapath.attachments().unwrap();
        assert_eq!(first.len(), 4);
        assert!(first.iter().all(|a| a.current));
        assert_eq!(
            datapath.attach_endpoint(7, lxc, "lxc1", true).unwrap(),
            Attached::Unchanged
        );
        assert_eq!(
            datapath.attach_device("eth0.5", eth).unwrap(),
            Attached::Unchanged
        );
        assert_eq!(datapath.attachments().unwrap(), first);
        assert!(
            first
                .iter()
                .any(|a| a.owner == Owner::Device("eth0.5".to_owned()))
        );
        // Without endpoint routes the program towards the pod goes.
        assert_eq!(
            datapath.attach_endpoint(7, lxc, "lxc1", false).unwrap(),
            Attached::Unchanged
        );
        assert_eq!(datapath.attachments().unwrap().len(), 3);
        assert!(datapath.detach_endpoint(7).unwrap());
        assert_eq!(
            datapath.attach_endpoint(7, lxc, "lxc1", true).unwrap(),
            Attached::New,
            "the hook is free at once"
        );
        assert!(datapath.detach_endpoint(7).unwrap());
        assert!(!datapath.detach_endpoint(7).unwrap());
        assert!(datapath.detach_device("eth0.5").unwrap());
        assert_eq!(datapath.attachments().unwrap(), []);
    });
}

#[test]
fn replacing_programs_keeps_the_links() {
    each_mechanism(|here, mode| {
        let (datapath, _) = Datapath::open(&options(here, mode)).unwrap();
        let lxc = here.veth("lxc1");
        let eth = here.veth("eth0");
        datapath.attach_endpoint(7, lxc, "lxc1", false).unwrap();
        datapath.attach_device("eth0", eth).unwrap();
        datapath.attach_host("lxc1p", lxc + 1).ok();
        let before = datapath.attachments().unwrap();
        drop(datapath);
        let mut other = options(here, mode);
        other.config.ct_any = 61;
        let (datapath, report) = Datapath::open(&other).unwrap();
        assert_eq!(
            (report.replaced.updated, report.replaced.unchanged),
            (before.len(), 0)
        );
        let after = datapath.attachments().unwrap();
        assert!(after.iter().all(|a| a.current));
        let links = |list: &[datapath::Attachment]| {
            list.iter()
                .map(|a| (a.owner.clone(), a.ifindex, a.link_id))
                .collect::<Vec<_>>()
        };
        assert_eq!(links(&before), links(&after));
        assert!(
            before
                .iter()
                .zip(&after)
                .all(|(b, a)| b.program_id != a.program_id)
        );
    });
}

#[test]
fn a_half_done_replacement_is_finished_by_the_next_open() {
    each_mechanism(|here, mode| {
        let (datapath, _) = Datapath::open(&options(here, mode)).unwrap();
        let lxc = here.veth("lxc1");
        datapath.attach_endpoint(7, lxc, "lxc1", false).unwrap();
        let mut other = options(here, mode);
        other.config.ct_any = 61;
        let (half, _) = Datapath::prepare(&other).unwrap();
        // One of two attachments gets the new program, then the process is gone.
        half.attach_endpoint(7, lxc, "lxc1", false).unwrap();
        let mixed = program_of(
            &half.attachments().unwrap(),
            &Owner::Endpoint(7),
            names::FROM_CONTAINER,
        );
        drop(half);
        let (datapath, report) = Datapath::open(&options(here, mode)).unwrap();
        assert!(!report.adopted);
        assert_eq!(report.replaced.updated, 1);
        let now = program_of(
            &datapath.attachments().unwrap(),
            &Owner::Endpoint(7),
            names::FROM_CONTAINER,
        );
        assert_ne!(now, mixed);
    });
}

#[test]
fn pins_of_devices_that_are_gone_are_removed() {
    each_mechanism(|here, mode| {
        let (datapath, _) = Datapath::open(&options(here, mode)).unwrap();
        let lxc = here.veth("lxc1");
        datapath.attach_endpoint(7, lxc, "lxc1", false).unwrap();
        here.remove_link("lxc1");
        let again = here.veth("lxc1");
        assert_ne!(again, lxc);
        assert_eq!(
            datapath.attach_endpoint(7, again, "lxc1", false).unwrap(),
            Attached::New
        );
        assert_eq!(datapath.attachments().unwrap().len(), 1);
        here.remove_link("lxc1");
        let mut other = options(here, mode);
        other.config.ct_any = 61;
        let (datapath, report) = Datapath::open(&other).unwrap();
        assert_eq!(report.replaced.stale.len(), 1, "{:?}", report.replaced);
        assert_eq!(datapath.attachments().unwrap(), []);
    });
}

#[test]
fn a_device_keeps_its_link_under_another_endpoint_number() {
    place(|here| {
        let (datapath, _) = here.open();
        let lxc = here.veth("lxc1");
        datapath.attach_endpoint(7, lxc, "lxc1", false).unwrap();
        let before = datapath.attachments().unwrap();
        assert_eq!(
            datapath.attach_endpoint(8, lxc, "lxc1", false).unwrap(),
            Attached::New
        );
        let after = datapath.attachments().unwrap();
        assert_eq!(after.len(), 1);
        assert_eq!(after[0].owner, Owner::Endpoint(8));
        assert_eq!(after[0].ifindex, before[0].ifindex);
    });
}

#[test]
fn the_mechanism_can_be_changed() {
    place(|here| {
        let Ok((datapath, _)) = Datapath::open(&options(here, AttachMode::Tcx)) else {
            eprintln!("skipped: no tcx");
            return;
        };
        let lxc = here.veth("lxc1");
        datapath.attach_endpoint(7, lxc, "lxc1", true).unwrap();
        for (mode, mechanism) in [
            (AttachMode::Clsact, Mechanism::Clsact),
            (AttachMode::Tcx, Mechanism::Tcx),
        ] {
            let (datapath, report) = Datapath::open(&options(here, mode)).unwrap();
            assert!(report.adopted, "the programs are the same");
            assert_eq!(
                datapath.attach_endpoint(7, lxc, "lxc1", true).unwrap(),
                Attached::New
            );
            let found = datapath.attachments().unwrap();
            assert_eq!(
                found.iter().map(|a| a.mechanism).collect::<Vec<_>>(),
                [mechanism; 2]
            );
        }
    });
}

#[test]
fn a_device_that_is_not_there_is_named() {
    each_mechanism(|here, mode| {
        let (datapath, _) = Datapath::open(&options(here, mode)).unwrap();
        let error = datapath
            .attach_endpoint(7, 4711, "lxcgone", false)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("cil_from_container on lxcgone (#4711)"),
            "{error}"
        );
    });
}

#[test]
fn netkit_pods_are_attached_by_netkit_links() {
    place(|here| {
        if !Feature::Netkit.is_there() {
            eprintln!("skipped: {}", Feature::Netkit.without());
            return;
        }
        let (datapath, _) = here.open();
        let mut netlink = Handle::new().unwrap();
        let pair = NewLink::netkit("lxcnk", NetkitMode::L2, Peer::new("podnk"));
        let index = netlink.link_create(&pair).unwrap().index;
        assert_eq!(
            datapath
                .attach_endpoint_netkit(9, index, "lxcnk", true)
                .unwrap(),
            Attached::New
        );
        assert_eq!(
            datapath
                .attach_endpoint_netkit(9, index, "lxcnk", true)
                .unwrap(),
            Attached::Unchanged
        );
        let before = datapath.attachments().unwrap();
        assert_eq!(
            before.iter().map(|a| a.mechanism).collect::<Vec<_>>(),
            [Mechanism::Netkit; 2]
        );
        drop(datapath);
        let mut other = here.options();
        other.config.ct_any = 61;
        let (datapath, report) = Datapath::open(&other).unwrap();
        assert_eq!(report.replaced.updated, 2);
        let after = datapath.attachments().unwrap();
        assert!(after.iter().all(|a| a.current));
        assert_eq!(
            before.iter().map(|a| a.link_id).collect::<Vec<_>>(),
            after.iter().map(|a| a.link_id).collect::<Vec<_>>()
        );
        assert!(datapath.detach_endpoint(9).unwrap());
    });
}

/// A UDP echo in lockstep over the loopback device, whose packets pass the programs twice: every datagram is answered however
/// often the programs are replaced.
#[test]
fn no_packet_is_lost_while_programs_are_replaced() {
    each_mechanism(|here, mode| {
        let (datapath, _) = Datapath::open(&options(here, mode)).unwrap();
        datapath.attach_device("lo", 1).unwrap();
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for socket in [&server, &client] {
            socket
                .set_read_timeout(Some(Duration::from_secs(2)))
                .unwrap();
        }
        client.connect(server.local_addr().unwrap()).unwrap();
        let done = AtomicBool::new(false);
        let echo = |mut answered: u64| {
            let mut buffer = [0; 8];
            while !done.load(Ordering::Relaxed) {
                client.send(&answered.to_ne_bytes()).expect("send");
                let (len, from) = server.recv_from(&mut buffer).expect("a datagram was lost");
                server.send_to(&buffer[..len], from).expect("answer");
                client.recv(&mut buffer).expect("an answer was lost");
                assert_eq!(u64::from_ne_bytes(buffer), answered);
                answered += 1;
            }
            answered
        };
        let answered = std::thread::scope(|scope| {
            let traffic = scope.spawn(|| echo(0));
            for round in 0..4 {
                let mut other = options(here, mode);
                other.config.ct_any = 100 + round;
                let (_, report) = Datapath::open(&other).unwrap();
                assert_eq!(report.replaced.updated, 2);
            }
            done.store(true, Ordering::Relaxed);
            traffic.join().unwrap()
        });
        assert!(answered > 100, "only {answered} round trips");
    });
}
