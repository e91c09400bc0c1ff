//! The proxy, with real sockets in namespaces: a toy that turns every word round, in the place where the proxy is.
use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    process::Command,
    thread,
    time::Duration,
};

use abi::{DatapathConfig, Direction, ProxyKind, ProxySession};
use datapath::{
    Attached, ProxySessions,
    devices::{self, Families, HOST_DEVICE, HostDevices},
    proxy::{self, ProxyLink, ProxyNetns},
};
use netlink::{Handle, LinkChange, Netns, NewLink, Route, netns};

use super::{
    frontends::{Frontends, Service},
    overlay::move_away,
    packet::{TCP, UDP},
    policy::{SUBJECT1, SUBJECT2, key, port},
    proxy_toy::{Toy, WORD, ask, serve},
    scene::{
        Ip, POD1, POD1_ID, POD2, POD2_ID, REMOTE_POD_ID, ROUTER_MAC, Scene, lxc_mac, native,
        pod_mac, tunnel,
    },
    wires::lives_at,
};
use crate::support::{Place, place};

use Direction::{Egress, Ingress};

const SERVER: u16 = 8080;

/// A node with two pods, the proxy's place, and a machine at its device.
struct Node {
    scene: Scene,
    pods: [Netns; 2],
    router: Netns,
    netns: ProxyNetns,
    inside: Netns,
    sessions: ProxySessions,
    link: ProxyLink,
    dir: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = proxy::remove(&mut Handle::new().unwrap(), &self.dir.path().join("proxy"));
    }
}

fn tell(config: &mut DatapathConfig, link: &ProxyLink) {
    config.proxy_ifindex = link.ifindex;
    (config.proxy_mac, config.proxy_node_mac) = (link.mac, link.node_mac);
}

impl Node {
    fn new(here: &Place, change: impl FnOnce(&mut DatapathConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy");
        let mut netns = ProxyNetns::open(&path).unwrap();
        let link = netns
            .ensure_link(&mut Handle::new().unwrap(), 1500)
            .unwrap();
        let scene = Scene::new(here, |config| {
            change(config);
            tell(config, &link);
        });
        let datapath = &scene.datapath;
        assert_eq!(
            datapath.attach_proxy(&mut netns, &link).unwrap(),
            Attached::New
        );
        let pods = [
            (POD1, scene.lxc1, "lxc1", Ip::BOTH.map(Ip::pod1)),
            (POD2, scene.lxc2, "lxc2", Ip::BOTH.map(Ip::pod2)),
        ]
        .map(|(id, index, name, addresses)| {
            let pod = move_away(&format!("{name}p"), pod_mac(id), &addresses, true);
            datapath.attach_endpoint(id, index, name, false).unwrap();
            // Older kernels do not take what is for another device, whoever hands it over.
            let own = LinkChange::new().mac(netlink::Mac(lxc_mac(id)));
            Handle::new().unwrap().link_change(name, &own).unwrap();
            pod
        });
        datapath.attach_device("eth0", scene.eth0).unwrap();
        let addresses = [Ip::router, Ip::remote_node].map(|of| Ip::BOTH.map(of));
        let router = move_away("eth0p", ROUTER_MAC, &addresses.concat(), false);
        for of in [Ip::outside, Ip::remote_pod] {
            lives_at(&router, &Ip::BOTH.map(of));
        }
        let mut netlink = Handle::in_netns(&router).unwrap();
        let index = netlink.link("eth0p").unwrap().index;
        for ip in Ip::BOTH {
            let len = if ip == Ip::V4 { 24 } else { 64 };
            let pods = Route::to(ip.pod1(), len).via(ip.node()).dev(index);
            let _ = netlink.route_add(&Route {
                dst: (masked(ip.pod1()), len),
                ..pods
            });
        }
        let inside = netns::open(&path).unwrap();
        let sessions = ProxySessions::open(here.bpffs()).unwrap();
        scene.subjects(SUBJECT1, SUBJECT2);
        Self {
            scene,
            pods,
            router,
            netns,
            inside,
            sessions,
            link,
            dir,
        }
    }

    /// Puts the machine's pod behind a tunnel, in which its packets have its identity.
    fn through_the_tunnel(&self) {
        let mac = netlink::Mac(self.link.node_mac);
        let mut script = format!(
            "ip link add vx type vxlan external dstport 8472
             ip link set vx address {mac} arp off up\n"
        );
        for ip in Ip::BOTH {
            let (family, encap) = if ip == Ip::V4 {
                ("-4", "ip")
            } else {
                ("-6", "ip6")
            };
            let len = if ip == Ip::V4 { 24 } else { 64 };
            let (pods, node) = (masked(ip.pod1()), ip.node());
            script += &format!(
                "ip {family} route replace {pods}/{len} encap {encap} id {REMOTE_POD_ID} dst {node} dev vx\n"
            );
        }
        let done = self
            .router
            .run(|| Command::new("sh").args(["-ec", &script]).status())
            .unwrap();
        assert!(done.unwrap().success(), "{script}");
    }

    /// Gives the node's own processes a way to the pods.
    fn host_speaks(&self) {
        let mut netlink = Handle::new().unwrap();
        let wanted = HostDevices {
            addresses: Vec::new(),
            mtu: 1500,
        };
        let host = devices::ensure_host(&mut netlink, &wanted).unwrap();
        let families = Families {
            ipv4: true,
            ipv6: true,
        };
        devices::ensure_sysctls(families, &[HOST_DEVICE, proxy::DEVICE]).unwrap();
        let v6 = format!("net/ipv6/conf/{HOST_DEVICE}/disable_ipv6");
        netlink::sysctl::write(&v6, "0").unwrap();
        for ip in Ip::BOTH {
            let len = if ip == Ip::V4 { 24 } else { 64 };
            let pods = Route::to(masked(ip.pod1()), len).dev(host.host_ifindex);
            netlink.route_add(&pods).unwrap();
        }
        let datapath = &self.scene.datapath;
        datapath
            .attach_host(HOST_DEVICE, host.host_ifindex)
            .unwrap();
    }

    /// One word from the client through the toy to the server and back; what the server saw of the client, and the session.
    fn talk(
        &self,
        proto: u8,
        (client, from): (&Netns, IpAddr),
        (server, to): (&Netns, IpAddr),
    ) -> (IpAddr, ProxySession) {
        let to = SocketAddr::new(to, SERVER);
        self.call(proto, (client, from), (server, to), to)
    }

    /// As [`Node::talk`], where the client calls the server something else.
    fn call(
        &self,
        proto: u8,
        (client, from): (&Netns, IpAddr),
        (server, to): (&Netns, SocketAddr),
        called: SocketAddr,
    ) -> (IpAddr, ProxySession) {
        self.call_for(1, proto, (client, from), (server, to), called)
    }

    /// As [`Node::call`], where the server says everything so many times.
    fn call_for(
        &self,
        times: usize,
        proto: u8,
        (client, from): (&Netns, IpAddr),
        (server, to): (&Netns, SocketAddr),
        called: SocketAddr,
    ) -> (IpAddr, ProxySession) {
        let toy = Toy::listen(&self.inside, proto, from);
        let server = serve(server, proto, to);
        let (inside, sessions) = (&self.inside, &self.sessions);
        thread::scope(|scope| {
            let server = scope.spawn(move || server.echo(times));
            let toy = scope.spawn(move || toy.pass(inside, sessions));
            let heard = ask(client, proto, from, called);
            let turned: Vec<u8> = WORD.repeat(times).into_iter().rev().collect();
            assert_eq!(heard, turned, "{proto} from {from} to {to}");
            let seen = server.join().unwrap();
            let (client, destination, session) = toy.join().unwrap();
            assert_eq!((client.ip(), destination), (from, to));
            (seen, session)
        })
    }
}

fn masked(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V4(a) => {
            let [x, y, z, _] = a.octets();
            [x, y, z, 0].into()
        }
        IpAddr::V6(a) => {
            let [x, y, z, w, ..] = a.segments();
            [x, y, z, w, 0, 0, 0, 0].into()
        }
    }
}

const KINDS: [(u8, ProxyKind); 2] = [(TCP, ProxyKind::Http), (UDP, ProxyKind::Dns)];

/// Between two pods of the node, at the wish of the sender, of the receiver, and of both.
#[test]
fn pods_of_one_node() {
    place(|here| {
        let node = Node::new(here, native);
        for (egress, ingress) in [(true, false), (false, true), (true, true)] {
            node.scene.forget_rows();
            for (proto, kind) in KINDS {
                let out = key(SUBJECT1, Egress, POD2_ID, port(proto, SERVER));
                let into = key(SUBJECT2, Ingress, POD1_ID, port(proto, SERVER));
                for (row, by_proxy) in [(out, egress), (into, ingress)] {
                    let kind = if by_proxy { kind } else { ProxyKind::None };
                    node.scene.allow_by(kind, row);
                }
            }
            node.scene.raise();
            for ip in Ip::BOTH {
                for (proto, kind) in KINDS {
                    let (a, b) = (ip.pod1(), ip.pod2());
                    let (seen, session) = node.talk(proto, (&node.pods[0], a), (&node.pods[1], b));
                    assert_eq!(seen, a, "the server sees the client's own address");
                    assert_eq!((session.src_id, session.dst_id), (POD1_ID, POD2_ID));
                    assert_eq!(session.kind, kind as u8);
                    let of = |wanted, id| if wanted { id } else { 0 };
                    assert_eq!(session.egress_endpoint, of(egress, POD1));
                    assert_eq!(session.ingress_endpoint, of(ingress, POD2));
                }
            }
        }
    });
}

/// To the world under the node's address, and from a pod of another node.
#[test]
fn by_the_device() {
    for legacy in [0, 1] {
        place(|here| {
            let node = Node::new(here, |config| {
                native(config);
                config.host_legacy = legacy;
            });
            for ip in Ip::BOTH {
                for (proto, kind) in KINDS {
                    let l4 = port(proto, SERVER);
                    node.scene
                        .allow_by(kind, key(SUBJECT1, Egress, ip.world(), l4));
                    node.scene
                        .allow_by(kind, key(SUBJECT2, Ingress, REMOTE_POD_ID, l4));
                }
            }
            node.scene.raise();
            for ip in Ip::BOTH {
                for (proto, _) in KINDS {
                    if legacy == 0 {
                        let world = (&node.router, ip.outside());
                        let (seen, session) = node.talk(proto, (&node.pods[0], ip.pod1()), world);
                        assert_eq!(seen, ip.node());
                        assert_eq!((session.src_id, session.dst_id), (POD1_ID, ip.world()));
                    }
                    let remote = (&node.router, ip.remote_pod());
                    let (seen, session) = node.talk(proto, remote, (&node.pods[1], ip.pod2()));
                    assert_eq!(seen, ip.remote_pod());
                    assert_eq!((session.src_id, session.dst_id), (REMOTE_POD_ID, POD2_ID));
                    assert_eq!(
                        (session.egress_endpoint, session.ingress_endpoint),
                        (0, POD2)
                    );
                }
            }
        });
    }
}

/// A second agent finds everything as it is; a device that was taken away is made again.
#[test]
fn the_place_is_adopted_and_repaired() {
    place(|here| {
        let mut node = Node::new(here, native);
        let mut netlink = Handle::new().unwrap();
        let before = node.netns.ensure_link(&mut netlink, 1500).unwrap();
        let path = node.dir.path().join("proxy");
        let mut second = ProxyNetns::open(&path).unwrap();
        assert!(netns::same(&node.inside, netns::open(&path).unwrap()).unwrap());
        let adopted = second.ensure_link(&mut netlink, 1500).unwrap();
        assert_eq!(adopted, before);
        let datapath = &node.scene.datapath;
        let again = datapath.attach_proxy(&mut second, &adopted).unwrap();
        assert_eq!(again, Attached::Unchanged);
        here.remove_link(proxy::DEVICE);
        let made = second.ensure_link(&mut netlink, 1400).unwrap();
        assert_ne!(made.mac, before.mac);
        assert_eq!(netlink.link(proxy::DEVICE).unwrap().mtu, 1400);
        assert_eq!(
            datapath.attach_proxy(&mut second, &made).unwrap(),
            Attached::New
        );
        assert!(proxy::remove(&mut netlink, &path).unwrap());
        assert!(!proxy::remove(&mut netlink, &path).unwrap());
    });
}

/// A proxy that is not there: nobody gets through, and nobody is told that there is no server.
#[test]
fn nobody_listens() {
    place(|here| {
        let node = Node::new(here, native);
        let row = key(SUBJECT1, Egress, POD2_ID, port(TCP, SERVER));
        node.scene.allow_by(ProxyKind::Http, row);
        node.scene
            .allow(key(SUBJECT2, Ingress, POD1_ID, port(TCP, SERVER)));
        node.scene.raise();
        for ip in Ip::BOTH {
            let to = SocketAddr::new(ip.pod2(), SERVER);
            let server = serve(&node.pods[1], TCP, to);
            let connected = node.pods[0]
                .run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)))
                .unwrap();
            assert_eq!(connected.unwrap_err().kind(), io::ErrorKind::TimedOut);
            drop(server);
        }
        node.scene.wait_for(&["drop Socket lookup failed"]);
    });
}

/// Answers that fit no packet come in parts, and are put together on both legs. A question in parts is not taken, and that is told.
#[test]
fn datagrams_in_parts() {
    place(|here| {
        let node = Node::new(here, native);
        let l4 = port(UDP, SERVER);
        let allow = |row| node.scene.allow_by(ProxyKind::Dns, row);
        allow(key(SUBJECT1, Egress, POD2_ID, l4));
        allow(key(SUBJECT2, Ingress, REMOTE_POD_ID, l4));
        for ip in Ip::BOTH {
            allow(key(SUBJECT1, Egress, ip.world(), l4));
        }
        node.scene.allow(key(SUBJECT2, Ingress, POD1_ID, l4));
        node.scene.raise();
        for ip in Ip::BOTH {
            let (a, b) = ((&node.pods[0], ip.pod1()), (&node.pods[1], ip.pod2()));
            let (world, remote) = (
                (&node.router, ip.outside()),
                (&node.router, ip.remote_pod()),
            );
            for (client, (server, to)) in [(a, b), (a, world), (remote, b)] {
                let to = SocketAddr::new(to, SERVER);
                node.call_for(300, UDP, client, (server, to), to);
            }
            let question = || {
                let socket = UdpSocket::bind((ip.pod1(), 0)).unwrap();
                socket.send_to(&[7; 4000], (ip.pod2(), SERVER)).unwrap();
            };
            node.pods[0].run(question).unwrap();
            node.scene
                .wait_for(&["drop IP fragmentation not supported"]);
        }
    });
}

/// To a pod of another node and from there, with the identities in the tunnel.
#[test]
fn by_the_tunnel() {
    place(|here| {
        let device = NewLink::vxlan_external("cilium_vxlan", 8472).up();
        let index = match Handle::new().unwrap().link_create(&device) {
            Ok(link) => link.index,
            Err(error) => return println!("skipped: {error}"),
        };
        let node = Node::new(here, |config| {
            tunnel(config);
            config.tunnel_ifindex = index;
        });
        let datapath = &node.scene.datapath;
        datapath.attach_overlay("cilium_vxlan", index).unwrap();
        node.through_the_tunnel();
        for (proto, kind) in KINDS {
            let l4 = port(proto, SERVER);
            node.scene
                .allow_by(kind, key(SUBJECT1, Egress, REMOTE_POD_ID, l4));
            node.scene
                .allow_by(kind, key(SUBJECT2, Ingress, REMOTE_POD_ID, l4));
        }
        node.scene.raise();
        for ip in Ip::BOTH {
            for (proto, _) in KINDS {
                let remote = (&node.router, ip.remote_pod());
                let (seen, session) = node.talk(proto, (&node.pods[0], ip.pod1()), remote);
                assert_eq!(seen, ip.pod1());
                assert_eq!((session.src_id, session.dst_id), (POD1_ID, REMOTE_POD_ID));
                let (seen, session) = node.talk(proto, remote, (&node.pods[1], ip.pod2()));
                assert_eq!(seen, ip.remote_pod());
                assert_eq!((session.src_id, session.dst_id), (REMOTE_POD_ID, POD2_ID));
            }
        }
    });
}

/// A process of the node asks a pod, and a pod a process of the node.
#[test]
fn the_node_itself() {
    place(|here| {
        let node = Node::new(here, native);
        node.host_speaks();
        let host = abi::identity::HOST;
        for (proto, kind) in KINDS {
            let l4 = port(proto, SERVER);
            node.scene.allow_by(kind, key(SUBJECT1, Egress, host, l4));
            node.scene.allow_by(kind, key(SUBJECT2, Ingress, host, l4));
        }
        node.scene.raise();
        let own = netns::current().unwrap();
        for ip in Ip::BOTH {
            for (proto, _) in KINDS {
                let here = (&own, ip.node());
                let (seen, session) = node.talk(proto, here, (&node.pods[1], ip.pod2()));
                assert_eq!(seen, ip.node());
                assert_eq!((session.src_id, session.dst_id), (host, POD2_ID));
                let (seen, session) = node.talk(proto, (&node.pods[0], ip.pod1()), here);
                assert_eq!(seen, ip.pod1());
                assert_eq!((session.src_id, session.dst_id), (POD1_ID, host));
            }
        }
    });
}

/// A client outside calls a port of the node, and hears from there.
#[test]
fn by_a_port_of_the_node() {
    place(|here| {
        let node = Node::new(here, native);
        let lb = Frontends::of(&node.scene);
        for ip in Ip::BOTH {
            for (proto, kind) in KINDS {
                let row = key(SUBJECT2, Ingress, ip.world(), port(proto, SERVER));
                node.scene.allow_by(kind, row);
            }
        }
        node.scene.raise();
        let all = Ip::BOTH
            .into_iter()
            .flat_map(|ip| KINDS.map(|(proto, _)| (ip, proto)));
        for (n, (ip, proto)) in (1..).zip(all) {
            let (at, server) = ((ip.node(), 30080), (ip.pod2(), SERVER));
            lb.backend(u32::from(n), server);
            lb.serve(&Service::new(n, at, proto, &[u32::from(n)]));
            let client = (&node.router, ip.outside());
            let pod = (&node.pods[1], server.into());
            let (seen, session) = node.call(proto, client, pod, at.into());
            assert_eq!(seen, ip.outside());
            assert_eq!((session.src_id, session.dst_id), (ip.world(), POD2_ID));
        }
    });
}
