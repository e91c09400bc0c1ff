//! Services balanced in drivers, with real packets over real cables between namespaces.
use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    thread,
    time::Duration,
};

use abi::{DatapathConfig, Direction, names, source_file};
use datapath::{Acceleration, Attached, Attachment, Datapath, Error, Mechanism};
use netlink::{Address, Handle, Mac, Neighbour, Netns, Route};

use super::{
    drivers::driver,
    frontends::{Frontends, Service},
    overlay::{bind, move_away},
    packet::{TCP, UDP},
    scene::{Ip, ROUTER_MAC, Scene},
};
use crate::support::{Place, place};

const LOOPBACK: u32 = 1;
const FAR_MAC: [u8; 6] = [2, 9, 0, 0, 0, 3];

/// Settings of a device in a namespace, as `ethtool -K` takes them.
fn set(ns: &Netns, device: &str, features: &[&str]) {
    let status = ns
        .run(|| {
            Command::new("ethtool")
                .arg("-K")
                .arg(device)
                .args(features)
                .status()
        })
        .unwrap()
        .expect("ethtool");
    assert!(status.success());
}

/// What a cable's end has to have where programs send by the other one: it looks for frames, and does not leave checksums to others.
const READY: [&str; 4] = ["gro", "on", "tx", "off"];

pub fn lives_at(ns: &Netns, addresses: &[IpAddr]) {
    let mut netlink = Handle::in_netns(ns).unwrap();
    for addr in addresses {
        let len = if addr.is_ipv4() { 32 } else { 128 };
        let address = Address::new(LOOPBACK, *addr, len).nodad();
        netlink.address_add(&address).unwrap();
    }
}

/// A node, and a host that is its router, a client and a backend.
struct Wire {
    scene: Scene,
    host: Netns,
}

fn wire(here: &Place, change: impl FnOnce(&mut DatapathConfig)) -> Wire {
    let scene = Scene::new(here, change);
    scene.datapath.attach_device("eth0", scene.eth0).unwrap();
    let host = move_away("eth0p", ROUTER_MAC, &Ip::BOTH.map(Ip::router), false);
    lives_at(&host, &Ip::BOTH.map(Ip::outside));
    Wire { scene, host }
}

/// Another device of the node, at which another host has the backends.
fn far(scene: &Scene, here: &Place) -> (u32, Netns) {
    let eth1 = here.veth("eth1");
    let addresses = |last: u8| -> [IpAddr; 2] {
        let v6 = format!("fd00:20::{last:x}");
        [[192, 168, 20, last].into(), v6.parse().unwrap()]
    };
    let mut netlink = Handle::new().unwrap();
    for (addr, len) in addresses(100).into_iter().zip([24, 64]) {
        netlink
            .address_add(&Address::new(eth1, addr, len).nodad())
            .unwrap();
    }
    let host = move_away("eth1p", FAR_MAC, &addresses(200), false);
    lives_at(&host, &Ip::BOTH.map(Ip::remote_pod));
    let index = Handle::in_netns(&host)
        .unwrap()
        .link("eth1p")
        .unwrap()
        .index;
    for ((ip, theirs), ours) in Ip::BOTH.into_iter().zip(addresses(200)).zip(addresses(100)) {
        let neighbour = Neighbour::permanent(eth1, theirs, Mac(FAR_MAC));
        netlink.neighbour_replace(&neighbour).unwrap();
        let there = Route::to_host(ip.remote_pod()).via(theirs).dev(eth1);
        netlink.route_add(&there).unwrap();
        let back = Route::to_host(ip.node()).via(ours).dev(index);
        Handle::in_netns(&host).unwrap().route_add(&back).unwrap();
    }
    scene.datapath.attach_device("eth1", eth1).unwrap();
    (eth1, host)
}

const WORDS: [&[u8]; 3] = [b"one", b"and another", &[7; 1000]];

/// Says some words at the address, and hears them again.
fn talk(client: &Netns, from: IpAddr, to: SocketAddr, proto: u8) {
    if proto == UDP {
        let socket = bind(client, SocketAddr::new(from, 0));
        socket.connect(to).unwrap();
        for word in WORDS {
            socket.send(word).unwrap();
            let mut heard = [0; 2000];
            let len = socket.recv(&mut heard).expect("an answer");
            assert_eq!(&heard[..len], word);
        }
        return;
    }
    let mut stream = client
        .run(|| TcpStream::connect_timeout(&to, Duration::from_secs(10)))
        .unwrap()
        .expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    for word in WORDS {
        stream.write_all(word).unwrap();
        let mut heard = vec![0; word.len()];
        stream.read_exact(&mut heard).expect("an answer");
        assert_eq!(heard, word);
    }
}

/// Gives back what comes, to one client; where that seemed to come from.
fn echo_udp(socket: &UdpSocket) -> IpAddr {
    let mut heard = [0; 2000];
    let mut seen = None;
    for _ in WORDS {
        let (len, from) = socket.recv_from(&mut heard).expect("a datagram");
        socket.send_to(&heard[..len], from).unwrap();
        seen = Some(from.ip());
    }
    seen.unwrap()
}

fn echo_tcp(listener: &TcpListener) -> IpAddr {
    let (mut stream, from) = listener.accept().unwrap();
    let mut heard = [0; 2000];
    while let Ok(len @ 1..) = stream.read(&mut heard) {
        stream.write_all(&heard[..len]).unwrap();
    }
    from.ip()
}

/// Clients of both families and protocols ask the node, and `backend` answers; the backend sees the node.
fn all_talk(scene: &Scene, client: &Netns, backend: &Netns) {
    let lb = Frontends::of(scene);
    let all = Ip::BOTH
        .into_iter()
        .flat_map(|ip| [TCP, UDP].map(|proto| (ip, proto)));
    for (n, (ip, proto)) in (1..).zip(all) {
        let at = (ip.node(), 30080);
        let socket = bind(backend, SocketAddr::new(ip.remote_pod(), 0));
        let server = socket.local_addr().unwrap();
        let listener = backend.run(|| TcpListener::bind(server)).unwrap().unwrap();
        lb.backend(u32::from(n), (server.ip(), server.port()));
        lb.serve(&Service::new(n, at, proto, &[u32::from(n)]));
        let seen = thread::scope(|scope| {
            let server = scope.spawn(|| match proto {
                UDP => echo_udp(&socket),
                _ => echo_tcp(&listener),
            });
            talk(client, ip.outside(), at.into(), proto);
            server.join().unwrap()
        });
        assert_eq!(seen, ip.node());
    }
}

/// Packets that went on, and the program that sent them.
fn forwarded(scene: &Scene) -> (u64, &'static str) {
    let metrics = scene.datapath.metrics().unwrap();
    let row = metrics.get(0, Direction::Egress).unwrap();
    (row.packets, source_file::name(row.file as u8))
}

fn attached(datapath: &Datapath) -> Vec<Attachment> {
    let mut all = datapath.attachments().unwrap();
    all.retain(|one| one.program == names::XDP_ENTRY);
    all
}

/// Out by the device that it came by.
#[test]
fn one_cable() {
    for (how, mechanism) in [
        (Acceleration::Native, Mechanism::Xdp),
        (Acceleration::BestEffort, Mechanism::Xdp),
        (Acceleration::Generic, Mechanism::XdpGeneric),
    ] {
        place(|here| {
            let Wire { scene, host } = wire(here, driver);
            lives_at(&host, &Ip::BOTH.map(Ip::remote_pod));
            set(&host, "eth0p", &READY);
            let devices = [("eth0", scene.eth0)];
            let done = scene.datapath.accelerate(&devices, how).unwrap();
            assert_eq!(done, Attached::New);
            let found = attached(&scene.datapath);
            assert_eq!(
                found.iter().map(|one| one.mechanism).collect::<Vec<_>>(),
                [mechanism]
            );
            all_talk(&scene, &host, &host);
            let (packets, by) = forwarded(&scene);
            // Three words there and back, twice, and of TCP what is around them.
            assert!(packets > 36 && by == "xdp_entry.rs", "{packets} by {by}");
        });
    }
}

/// In by one device and out by another one, both ways.
#[test]
fn two_cables() {
    for how in [Acceleration::Native, Acceleration::Generic] {
        place(|here| {
            let Wire { scene, host } = wire(here, driver);
            let (eth1, far) = far(&scene, here);
            set(&host, "eth0p", &READY);
            set(&far, "eth1p", &READY);
            let devices = [("eth0", scene.eth0), ("eth1", eth1)];
            scene.datapath.accelerate(&devices, how).unwrap();
            assert_eq!(attached(&scene.datapath).len(), 2);
            all_talk(&scene, &host, &far);
            let (packets, by) = forwarded(&scene);
            assert!(packets > 36 && by == "xdp_entry.rs", "{packets} by {by}");
        });
    }
}

/// Where checksums are left to devices that are none, packets go by the stack, and get there.
#[test]
fn a_cable_that_leaves_checksums_to_others() {
    place(|here| {
        let Wire { scene, host } = wire(here, driver);
        lives_at(&host, &Ip::BOTH.map(Ip::remote_pod));
        set(&host, "eth0p", &READY[..2]);
        let devices = [("eth0", scene.eth0)];
        scene
            .datapath
            .accelerate(&devices, Acceleration::Native)
            .unwrap();
        all_talk(&scene, &host, &host);
        let (packets, by) = forwarded(&scene);
        assert!(packets > 36 && by == "from_netdev.rs", "{packets} by {by}");
    });
}

/// A driver that cannot send is said to be one; then no device has the program, unless any place is good enough.
#[test]
fn a_cable_whose_other_end_takes_no_frames() {
    place(|here| {
        let Wire { scene, host } = wire(here, driver);
        let (eth1, far) = far(&scene, here);
        lives_at(&host, &Ip::BOTH.map(Ip::remote_pod));
        set(&host, "eth0p", &READY);
        let devices = [("eth0", scene.eth0), ("eth1", eth1)];
        let native = || scene.datapath.accelerate(&devices, Acceleration::Native);
        let refused = native().unwrap_err();
        assert!(matches!(&refused, Error::Driver { device, .. } if device == "eth1"));
        let words = refused.to_string();
        assert!(words.contains("gro on") && !words.contains('\n'), "{words}");
        assert_eq!(attached(&scene.datapath), []);
        let lenient = Acceleration::BestEffort;
        assert_eq!(
            scene.datapath.accelerate(&devices, lenient).unwrap(),
            Attached::New
        );
        let found = attached(&scene.datapath);
        let mechanisms = found.iter().map(|one| one.mechanism).collect::<Vec<_>>();
        assert_eq!(mechanisms, [Mechanism::Xdp, Mechanism::XdpGeneric]);
        // Also from a driver to a device that takes no frames from there: by the stack.
        all_talk(&scene, &host, &far);
        // Now it can.
        set(&far, "eth1p", &READY);
        assert_eq!(native().unwrap(), Attached::New);
        let found = attached(&scene.datapath);
        assert!(found.iter().all(|one| one.mechanism == Mechanism::Xdp));
    });
}

#[test]
fn it_stays_over_a_restart_and_goes_when_it_is_turned_off() {
    place(|here| {
        let Wire { scene, host } = wire(here, driver);
        set(&host, "eth0p", &READY);
        let devices = [("eth0", scene.eth0)];
        let on = |datapath: &Datapath| datapath.accelerate(&devices, Acceleration::Native);
        on(&scene.datapath).unwrap();
        let before = attached(&scene.datapath);
        let open = |change: &dyn Fn(&mut DatapathConfig)| {
            let mut options = here.options();
            driver(&mut options.config);
            change(&mut options.config);
            Datapath::open(&options).unwrap()
        };
        drop(scene);
        let (datapath, report) = open(&|_| ());
        assert!(report.adopted);
        assert_eq!(attached(&datapath), before);
        assert_eq!(on(&datapath).unwrap(), Attached::Unchanged);
        assert_eq!(attached(&datapath), before);
        drop(datapath);
        // Another program: the link stays.
        let (datapath, _) = open(&|config| config.ct_any = 61);
        let after = attached(&datapath);
        assert_ne!(after[0].program_id, before[0].program_id);
        assert_eq!(
            (after[0].link_id, after[0].current),
            (before[0].link_id, true)
        );
        assert_eq!(on(&datapath).unwrap(), Attached::Unchanged);
        // A device that is the node's no longer.
        assert_eq!(
            datapath.accelerate(&[], Acceleration::Native).unwrap(),
            Attached::Unchanged
        );
        assert_eq!(attached(&datapath), []);
        assert_eq!(on(&datapath).unwrap(), Attached::New);
        drop(datapath);
        let (datapath, report) = open(&|config| config.xdp = 0);
        assert_eq!(report.replaced.stale, ["device eth0: cil_xdp_entry"]);
        assert_eq!(attached(&datapath), []);
        let pin = here.bpffs().join("cilium/programs").join(names::XDP_ENTRY);
        assert!(!pin.exists());
        assert_eq!(
            datapath.programs().unwrap().len() + 1,
            names::PROGRAMS.len()
        );
        // The driver is free again, for whoever comes.
        drop(datapath);
        let (datapath, _) = open(&|_| ());
        assert_eq!(on(&datapath).unwrap(), Attached::New);
        assert!(datapath.detach_device("eth0").unwrap());
        assert_eq!(attached(&datapath), []);
    });
}
