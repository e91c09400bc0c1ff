//! Packets of a network namespace of the test's own, as the programs of others read them.
use super::world::{CART, DB, World};
use abi::{DropReason, EventKind, FlowEvent};
use hypha_flow::{
    Feeder, Filters, Observer,
    capture::Capture,
    observer::event_clock,
    proto::{
        flow::{FlowFilter, Verdict},
        json,
    },
};
use nix::sched::{CloneFlags, unshare};
use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
    process::Command,
    thread::{self, JoinHandle},
    time::Duration,
};
use zerocopy::FromZeros as _;

const SIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7);

fn ip(line: &str) {
    let done = Command::new("ip").args(line.split(' ')).status().unwrap();
    assert!(done.success(), "ip {line}");
}

fn send(from: IpAddr, to: IpAddr, port: u16) -> SocketAddr {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    // Nobody listens: an earlier answer that says so is no failure of this one.
    let _ = socket.send_to(&[7; 200], (to, port));
    socket.local_addr().unwrap()
}

/// What the programs tell of a packet that they dropped.
fn drop_of(from: SocketAddr, port: u16) -> FlowEvent {
    let mut event = FlowEvent {
        time: event_clock(),
        kind: EventKind::Drop as u8,
        subtype: DropReason::PolicyDeny as u8,
        proto: 17,
        sport: from.port().to_be_bytes(),
        dport: port.to_be_bytes(),
        src_id: 20311,
        dst_id: 31007,
        direction: 1,
        origin: 8,
        ..FlowEvent::new_zeroed()
    };
    event.src[..4].copy_from_slice(&CART.octets());
    event.dst[..4].copy_from_slice(&DB.octets());
    event
}

fn capture(
    world: &World,
    wanted: &[&str],
    limits: (usize, Option<u64>, u64),
) -> JoinHandle<Vec<u8>> {
    let filters: Vec<FlowFilter> = wanted
        .iter()
        .map(|text| json::from_str(text, json::Unknown::Refuse).unwrap())
        .collect();
    let capture = Capture {
        filters: Filters::compile(&filters, &[]).unwrap(),
        everything: filters.is_empty(),
        snap: limits.0,
        packets: limits.1,
        time: Some(Duration::from_secs(limits.2)),
    };
    let observer: Observer = world.observer.clone();
    let feeder = Feeder::plain(&observer, world.tables.clone());
    thread::spawn(move || {
        let mut file = Vec::new();
        let out = |piece: Vec<u8>| {
            file.extend(piece);
            true
        };
        capture.run(&observer, feeder, out).unwrap();
        file
    })
}

/// Fields of every packet of a file, as tshark sees them.
fn read(directory: &Path, name: &str, file: &[u8]) -> Vec<Vec<String>> {
    let path = directory.join(name);
    std::fs::write(&path, file).unwrap();
    let listed = Command::new("tcpdump")
        .arg("-nr")
        .arg(&path)
        .output()
        .unwrap();
    assert!(listed.status.success(), "{listed:?}");
    let fields = [
        "frame.interface_name",
        "ip.src",
        "ipv6.src",
        "udp.dstport",
        "frame.len",
        "frame.cap_len",
        "frame.comment",
    ];
    let fields = fields.iter().flat_map(|field| ["-e", field]);
    let shown = Command::new("tshark")
        .args(["-n", "-T", "fields", "-r"])
        .arg(&path)
        .args(fields)
        .output()
        .unwrap();
    assert!(shown.status.success(), "{shown:?}");
    let text = String::from_utf8(shown.stdout).unwrap();
    let rows = text
        .lines()
        .map(|line| line.split('\t').map(str::to_owned).collect());
    rows.collect()
}

/// The address cache's rows of both pods.
fn known(world: &World) {
    let mut txn = world.tables.db.write();
    for (ip, identity) in [(CART, 20311), (DB, 31007)] {
        let row = model::Prefix {
            prefix: ipnet::IpNet::from(IpAddr::from(ip)),
            identity,
            tunnel: None,
            source: model::PrefixSource::Endpoint,
            owner: "".into(),
        };
        world.tables.prefixes.insert(&mut txn, row).unwrap();
    }
    txn.commit();
}

fn captured() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
    for address in [
        format!("{CART}/32"),
        format!("{DB}/32"),
        format!("{SIX}/128"),
    ] {
        ip(&format!("address add {address} dev lo"));
    }
    let mut world = World::new(1023);
    known(&world);
    let cart = capture(
        &world,
        &[r#"{"source_pod": ["shop/cart-1"], "protocol": ["udp"]}"#],
        (usize::MAX, Some(12), 30),
    );
    let dropped = capture(
        &world,
        &[r#"{"verdict": ["DROPPED"], "destination_port": ["81"]}"#],
        (64, Some(3), 30),
    );
    let six = capture(
        &world,
        &[r#"{"ip_version": ["IPv6"], "destination_port": ["80"]}"#],
        (100, Some(4), 30),
    );
    let none = capture(&world, &[r#"{"protocol": ["sctp"]}"#], (64, None, 1));
    let all = [cart, dropped, six, none];
    while !all.iter().all(JoinHandle::is_finished) {
        let ends = (IpAddr::from(CART), IpAddr::from(DB));
        send(ends.0, ends.1, 80);
        send(ends.1, ends.0, 80);
        let from = send(ends.0, ends.1, 81);
        world.feed(&[drop_of(from, 81)]);
        send(SIX.into(), SIX.into(), 80);
        thread::sleep(Duration::from_millis(30));
    }
    let [cart, dropped, six, none] = all.map(|one| one.join().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let party = |name: &str, id: u32, app: &str| {
        format!(
            "shop/{name} (identity {id}: k8s:app={app},k8s:io.cilium.k8s.policy.cluster=c1,k8s:io.kubernetes.pod.namespace=shop)"
        )
    };
    let way = format!(
        "{} -> {}",
        party("cart-1", 20311, "cart"),
        party("db-0", 31007, "db")
    );
    let denied = format!(
        "{way} {}: Policy denied by denylist, CiliumNetworkPolicy shop/deny-all",
        Verdict::Dropped.as_str_name()
    );
    let cart = read(directory.path(), "cart.pcapng", &cart);
    assert_eq!(cart.len(), 12);
    for row in &cart {
        assert_eq!((row[0].as_str(), row[1].as_str()), ("lo", "10.244.1.7"));
        assert_eq!((row[4].as_str(), row[5].as_str()), ("242", "242"));
        // Nobody waits for a drop that is told late: the other capture has those that were told in time.
        let told = row[6] == format!("{way} FORWARDED") || row[3] == "81" && row[6] == denied;
        assert!(told, "{row:?}");
    }
    assert!(cart.iter().any(|row| row[3] == "80") && cart.iter().any(|row| row[3] == "81"));
    // Nothing is an answer, too.
    assert!(read(directory.path(), "none.pcapng", &none).is_empty());
    let dropped = read(directory.path(), "dropped.pcapng", &dropped);
    assert_eq!(dropped.len(), 3);
    for row in dropped {
        assert_eq!(
            (row[3].as_str(), row[4].as_str(), row[5].as_str()),
            ("81", "242", "64")
        );
        assert_eq!(row[6], denied);
    }
    let six = read(directory.path(), "six.pcapng", &six);
    assert_eq!(six.len(), 4);
    for row in six {
        assert_eq!(
            (row[2].as_str(), row[3].as_str(), row[5].as_str()),
            ("fd00::7", "80", "100")
        );
        assert!(
            row[6].starts_with("fd00::7 (identity 2: reserved:world"),
            "{row:?}"
        );
    }
}

#[test]
fn packets_come_with_names_and_verdicts() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: a network namespace needs root");
        return;
    }
    // The namespace ends with the thread.
    thread::spawn(captured).join().unwrap();
}
