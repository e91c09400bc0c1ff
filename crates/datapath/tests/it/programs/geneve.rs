//! Frontends in options of a Geneve tunnel, with a real device between two namespaces, where the kernel has such devices.
use std::net::{IpAddr, SocketAddr};

use abi::{DatapathConfig, DsrDispatch, lb_flags};
use netlink::NewLink;

use super::{
    frontends::{Frontends, Service},
    overlay::{Tunnel, bind},
    packet::{End, Packet, UDP, read},
    scene::{Ip, native, tunnel},
};
use crate::support::{Place, place};

const PORT: u16 = 6081;

fn stage(here: &Place, routing: fn(&mut DatapathConfig)) -> Option<Tunnel> {
    let device = NewLink::geneve_external("cilium_geneve", PORT).up();
    let tunnel = Tunnel::by(here, &device, |config| {
        routing(config);
        config.dsr_dispatch = DsrDispatch::Geneve as u8;
    })?;
    let scene = &tunnel.scene;
    scene.datapath.attach_device("eth0", scene.eth0).unwrap();
    Some(tunnel)
}

/// The option, length and all, as other implementations write it.
fn option((addr, port): End) -> Vec<u8> {
    let (words, octets) = match addr {
        IpAddr::V4(addr) => (2, addr.octets().to_vec()),
        IpAddr::V6(addr) => (5, addr.octets().to_vec()),
    };
    let head = [1, 0x4B, 0x81, words];
    [&head, &octets[..], &port.to_be_bytes(), &[0, 0]].concat()
}

/// A Geneve header with this option. That the option is critical is said by itself alone: the kernel gives programs no way to the header's bit.
fn header(vni: u32, option: &[u8]) -> Vec<u8> {
    let head = [(option.len() / 4) as u8, 0, 0x65, 0x58];
    [&head[..], &(vni << 8).to_be_bytes(), option].concat()
}

#[test]
fn the_tunnel_carries_the_frontend() {
    for routing in [native as fn(&mut _), tunnel] {
        place(|here| {
            let Some(tunnel) = stage(here, routing) else {
                return;
            };
            let lb = Frontends::of(&tunnel.scene);
            for (n, ip) in (1..).zip(Ip::BOTH) {
                let (at, backend) = ((ip.node(), 30053), (ip.remote_pod(), 53));
                lb.backend(n, backend);
                lb.serve(&Service::new(n as u16, at, UDP, &[n]).flags(lb_flags::DSR));
                let other = bind(&tunnel.peer, SocketAddr::new(ip.remote_node(), PORT));
                let client = bind(&tunnel.peer, SocketAddr::new(ip.remote_node(), 5000));
                client.send_to(b"asked", SocketAddr::from(at)).unwrap();
                let mut buffer = [0; 300];
                let (len, sender) = other.recv_from(&mut buffer).unwrap();
                assert_eq!(sender.ip(), ip.node());
                let expected = header(abi::identity::REMOTE_NODE, &option(at));
                assert_eq!(buffer[..expected.len()], expected);
                let said = read(&buffer[expected.len()..len]);
                assert_eq!((said.src, said.dst), ((ip.remote_node(), 5000), backend));
            }
        });
    }
}

#[test]
fn who_is_told_the_frontend_by_the_tunnel_answers_as_it() {
    for routing in [native as fn(&mut _), tunnel] {
        place(|here| {
            let Some(tunnel) = stage(here, routing) else {
                return;
            };
            for ip in Ip::BOTH {
                let pod = bind(&tunnel.pod, SocketAddr::new(ip.pod1(), 53));
                let (client, at) = ((ip.outside(), 1000), (ip.remote_node(), 30053));
                let frame = Packet::udp(client, (ip.pod1(), 53), b"asked").bytes();
                let world = abi::identity::WORLD;
                let payload = [header(world, &option(at)), frame].concat();
                let socket = bind(&tunnel.peer, SocketAddr::new(ip.remote_node(), 0));
                socket
                    .send_to(&payload, SocketAddr::new(ip.node(), PORT))
                    .unwrap();
                let mut buffer = [0; 100];
                let (len, sender) = pod.recv_from(&mut buffer).unwrap();
                assert_eq!((&buffer[..len], sender), (&b"asked"[..], client.into()));
                pod.send_to(b"answered", sender).unwrap();
                let ends = format!("{} {} > {} {}", at.0, at.1, client.0, client.1);
                let ids = format!("id 1001 > {}", ip.world());
                tunnel.scene.wait_for(&[&format!(
                    "to-network: {ends} proto 17 flags 0x0, reply, {ids}"
                )]);
            }
        });
    }
}
