//! The tunnel, with a real VXLAN device between two namespaces: test runs cannot carry a tunnel's key.
use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use abi::{DatapathConfig, Direction, DropReason, names};
use netlink::{Address, Handle, LinkChange, Mac, Netns, NewLink, Route, netns};

use super::{
    frontends::{Frontends, Service},
    packet::{Packet, UDP, read},
    policy::{ALL, key},
    scene::{Ip, PASS, POD1, POD1_ID, REMOTE_POD_ID, Scene, pod_mac, tunnel},
};
use crate::support::{Place, place};

const PORT: u16 = 8472;
const HEADER: usize = 8;

/// The node with its tunnel; the other node is a socket that sends and receives what is in the tunnel.
pub struct Tunnel {
    pub scene: Scene,
    pub pod: Netns,
    pub peer: Netns,
}

impl Tunnel {
    fn new(here: &Place) -> Self {
        let device = NewLink::vxlan_external("cilium_vxlan", PORT).up();
        Self::by(here, &device, tunnel).unwrap()
    }

    /// With this device; none if the kernel has no such devices.
    pub fn by(
        here: &Place,
        device: &NewLink<'_>,
        change: impl FnOnce(&mut DatapathConfig),
    ) -> Option<Self> {
        let index = match Handle::new().unwrap().link_create(device) {
            Ok(link) => link.index,
            Err(error) => {
                println!("skipped: {}: {error}", device.name);
                return None;
            }
        };
        let scene = Scene::new(here, |config| {
            change(config);
            config.tunnel_ifindex = index;
        });
        let addresses = |of: fn(Ip) -> IpAddr| Ip::BOTH.map(of);
        let peer = move_away(
            "eth0p",
            [2, 3, 0, 0, 0, 2],
            &addresses(Ip::remote_node),
            false,
        );
        let pod = move_away("lxc1p", pod_mac(POD1), &addresses(Ip::pod1), true);
        scene.datapath.attach_overlay(&device.name, index).unwrap();
        scene
            .datapath
            .attach_endpoint(POD1, scene.lxc1, "lxc1", false)
            .unwrap();
        Some(Self { scene, pod, peer })
    }

    /// Sends `frame` out of the other node's tunnel, with the identity `vni`.
    fn send(&self, ip: Ip, vni: u32, frame: &[u8]) {
        let payload = [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes(), frame].concat();
        let to = SocketAddr::new(ip.node(), PORT);
        let socket = bind(&self.peer, SocketAddr::new(ip.remote_node(), 0));
        assert_eq!(socket.send_to(&payload, to).unwrap(), payload.len());
    }
}

/// Moves a device into a new namespace, with these addresses; a pod's have a route through its gateway.
pub fn move_away(device: &str, mac: [u8; 6], addresses: &[IpAddr], is_pod: bool) -> Netns {
    let ns = netns::create_unnamed().unwrap();
    let change = LinkChange::new().netns(std::os::fd::AsFd::as_fd(&ns));
    Handle::new().unwrap().link_change(device, &change).unwrap();
    let mut netlink = Handle::in_netns(&ns).unwrap();
    netlink.link_up("lo").unwrap();
    netlink
        .link_change(device, &LinkChange::new().mac(Mac(mac)).up())
        .unwrap();
    let index = netlink.link(device).unwrap().index;
    for addr in addresses {
        let len = if addr.is_ipv4() { 24 } else { 64 };
        netlink
            .address_add(&Address::new(index, *addr, len).nodad())
            .unwrap();
        let ip = if addr.is_ipv4() { Ip::V4 } else { Ip::V6 };
        if is_pod {
            let default = Route::default_of(netlink::Family::of(*addr))
                .via(ip.gateway())
                .dev(index);
            netlink.route_add(&default).unwrap();
        }
    }
    ns
}

/// A socket in a namespace; waits a little for the address, which a device that just came up may not have yet.
pub fn bind(ns: &Netns, addr: SocketAddr) -> UdpSocket {
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        match ns.run(|| UdpSocket::bind(addr)).unwrap() {
            Ok(socket) => {
                socket
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                return socket;
            }
            Err(e)
                if e.kind() == io::ErrorKind::AddrNotAvailable
                    && std::time::Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => panic!("{addr}: {e}"),
        }
    }
}

/// A backend behind the tunnel answers the router, behind which the client of the service is.
#[test]
fn what_the_router_was_sent_for_goes_on_to_the_client() {
    place(|here| {
        let tunnel = Tunnel::new(here);
        let scene = &tunnel.scene;
        let lb = Frontends::of(scene);
        for (n, ip) in (1..).zip(Ip::BOTH) {
            let (client, at) = ((ip.outside(), 50_000), (ip.node(), 30053));
            let backend = (ip.remote_pod(), 53);
            lb.backend(n, backend);
            lb.serve(&Service::new(n as u16, at, UDP, &[n]));
            scene.from_netdev(&Packet::udp(client, at, b"x").bytes());
            let back = Packet::udp(backend, (ip.gateway(), 50_000), b"y").bytes();
            tunnel.send(ip, REMOTE_POD_ID, &back);
            let what = format!("{} {} > {} {} proto 17", at.0, at.1, client.0, client.1);
            scene.wait_for(&[&format!(
                "to-network: {what} flags 0x0, reply snat tunnel, id {REMOTE_POD_ID} > {}",
                ip.world()
            )]);
        }
    });
}

/// The sender's identity is the tunnel's key, and of another node what the address cache says of it.
#[test]
fn policy_is_asked_about_what_the_tunnel_brings() {
    place(|here| {
        let tunnel = Tunnel::new(here);
        let scene = &tunnel.scene;
        scene.subject(scene.lxc1, 5001, 0);
        scene.allow(key(5001, Direction::Ingress, 4321, ALL));
        scene.allow(key(5001, Direction::Ingress, 7, ALL));
        for ip in Ip::BOTH {
            let (from, to) = ((ip.remote_pod(), 1000), (ip.pod1(), 53));
            let packet = Packet::udp(from, to, b"x").bytes();
            let end = format!("{} 53 proto 17", to.0);
            tunnel.send(ip, 4322, &packet);
            let ids = "id 4322 > 1001, ep 7";
            scene.wait_for(&[
                &format!(
                    "policy ingress Policy denied none by 0: {} 1000 > {end}",
                    from.0
                ),
                &format!(
                    "drop Policy denied: {} 1000 > {end} flags 0x0, new forward tunnel, {ids}",
                    from.0
                ),
            ]);
            tunnel.send(ip, 4321, &packet);
            let ids = "id 4321 > 1001, ep 7";
            scene.wait_for(&[&format!("new forward tunnel, {ids}")]);
            // The connection is allowed, but not with whoever sends under another identity.
            tunnel.send(ip, 4322, &packet);
            scene.wait_for(&["established forward tunnel, id 4322 > 1001, ep 7"]);
            scene.is_known_as(ip.remote_node(), 7);
            tunnel.send(ip, 1, &Packet::udp((ip.remote_node(), 5), to, b"x").bytes());
            scene.wait_for(&["new forward tunnel, id 7 > 1001, ep 7"]);
        }
    });
}

#[test]
fn what_the_tunnel_brings_is_delivered_with_its_senders_identity() {
    place(|here| {
        let tunnel = Tunnel::new(here);
        for ip in Ip::BOTH {
            let pod = bind(&tunnel.pod, SocketAddr::new(ip.pod1(), 53));
            let (from, to) = ((ip.remote_pod(), 1000), (ip.pod1(), 53));
            tunnel.send(
                ip,
                4321,
                &Packet::udp(from, to, b"through the tunnel").bytes(),
            );
            let mut buffer = [0; 100];
            let (len, sender) = pod.recv_from(&mut buffer).unwrap();
            assert_eq!(
                (&buffer[..len], sender),
                (&b"through the tunnel"[..], from.into())
            );
            let tuple = format!("{} 1000 > {} 53 proto 17 flags 0x0", from.0, to.0);
            tunnel.scene.wait_for(&[
                &format!("from-overlay: {tuple}, unknown tunnel, id 4321 > 0, ep 0"),
                &format!("to-endpoint: {tuple}, new forward tunnel, id 4321 > 1001, ep 7"),
            ]);
            // The identity that other nodes' own processes send under is that of a node to us.
            tunnel.send(ip, 1, &Packet::udp((ip.remote_node(), 5), to, b"x").bytes());
            tunnel
                .scene
                .wait_for(&["new forward tunnel, id 6 > 1001, ep 7"]);
        }
    });
}

#[test]
fn a_pods_packets_enter_the_tunnel_with_its_identity() {
    place(|here| {
        let tunnel = Tunnel::new(here);
        for ip in Ip::BOTH {
            let peer = bind(&tunnel.peer, SocketAddr::new(ip.remote_node(), PORT));
            let pod = bind(&tunnel.pod, SocketAddr::new(ip.pod1(), 1000));
            pod.send_to(b"to the other node", (ip.remote_pod(), 53))
                .unwrap();
            let mut buffer = [0; 200];
            let (len, sender) = peer.recv_from(&mut buffer).unwrap();
            assert_eq!(sender.ip(), ip.node());
            let vni = u32::from_be_bytes(buffer[4..8].try_into().unwrap()) >> 8;
            assert_eq!((buffer[0], vni), (8, POD1_ID));
            let frame = &buffer[HEADER..len];
            // Its checksum is left to a device that a veth pair does not have.
            let said = read(frame);
            assert_eq!(
                (said.src, said.dst),
                ((ip.pod1(), 1000), (ip.remote_pod(), 53))
            );
            tunnel
                .scene
                .wait_for(&["new forward tunnel, id 1001 > 2001, ep 7"]);
        }
    });
}

#[test]
fn what_the_tunnel_should_not_bring_is_dropped() {
    place(|here| {
        let tunnel = Tunnel::new(here);
        let count = |reason: DropReason| {
            let metrics = tunnel.scene.datapath.metrics().unwrap();
            metrics
                .get(reason as u8, abi::Direction::Ingress)
                .unwrap()
                .packets
        };
        for (n, ip) in Ip::BOTH.into_iter().enumerate() {
            let udp = |dst| Packet::udp((ip.remote_pod(), 1000), (dst, 53), b"x").bytes();
            tunnel.send(ip, 0, &udp(ip.pod1()));
            tunnel.scene.wait_for(&["drop Invalid identity: "]);
            tunnel.send(ip, 4321, &udp(ip.nobody()));
            tunnel
                .scene
                .wait_for(&["drop No matching local container found: "]);
            tunnel.send(ip, 4321, &udp(ip.pod1())[..ip.l4() + 4]);
            tunnel
                .scene
                .wait_for(&["drop CT: Truncated or invalid header: "]);
            // The node itself is a destination.
            tunnel.send(ip, 4321, &udp(ip.gateway()));
            tunnel
                .scene
                .wait_for(&[", new forward tunnel, id 4321 > 1, ep 0"]);
            let n = n as u64 + 1;
            assert_eq!(
                (
                    count(DropReason::InvalidIdentity),
                    count(DropReason::NoLocalContainer)
                ),
                (n, n)
            );
        }
    });
}

#[test]
fn what_does_not_come_from_the_tunnel_has_no_identity() {
    place(|here| {
        let scene = Scene::new(here, tunnel);
        for ip in Ip::BOTH {
            let sent = Packet::udp((ip.remote_pod(), 1), (ip.pod1(), 2), b"x").bytes();
            let came = scene.run(names::FROM_OVERLAY, scene.eth0, &sent, 0);
            came.dropped(
                DropReason::ErrorRetrievingTunnelKey,
                abi::Direction::Ingress,
            );
        }
        let arp = [&super::packet::MACS.concat(), &[8, 6][..], &[0; 40]].concat();
        assert_eq!(
            scene.run(names::FROM_OVERLAY, scene.eth0, &arp, 0).verdict,
            PASS
        );
    });
}
