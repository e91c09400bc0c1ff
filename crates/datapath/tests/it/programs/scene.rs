//! A node with two pods, and the world around it; packets are run through its programs and everything that comes of it is told.
use std::{
    cell::RefCell,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use abi::{
    CtStatus, DatapathConfig, Direction, DropReason, EndpointInfo, EndpointKey, FlowEvent,
    IpcacheKey, IpcacheValue, LocalEndpoint, PolicyMatch, Routing, SnatEntry4, SnatKey4,
    TracePoint, endpoint_flags, event_flags, ipcache_flags, names, snat_flags, source_file,
};
use aya::maps::{HashMap, Map, MapData};
use datapath::{
    Datapath, events::EventReader, maps::Connection, maps::NatRow, test_run::SkbContext,
};
use netlink::{Address, Handle, Mac, Neighbour, Route, sysctl};

use super::packet::{End, wrong_checksums};
use crate::support::Place;

pub const PASS: i32 = 0;
pub const SHOT: i32 = 2;
pub const REDIRECT: i32 = 7;
/// Verdicts of the program for drivers: up the stack, and out by the device that the packet came by.
pub const UP: i32 = 2;
pub const BACK: i32 = 3;

/// Security identities of the pods here, and of one elsewhere.
pub const POD1_ID: u32 = 1001;
pub const POD2_ID: u32 = 1002;
pub const REMOTE_POD_ID: u32 = 2001;
/// Numbers of the endpoints.
pub const POD1: u16 = 7;
pub const POD2: u16 = 8;

pub const ROUTER_MAC: [u8; 6] = [2, 9, 0, 0, 0, 1];
/// The MAC address of the machine that may take the router's place.
pub const OTHER_ROUTER_MAC: [u8; 6] = [2, 9, 0, 0, 0, 2];
pub const ETH0_MAC: [u8; 6] = [2, 3, 0, 0, 0, 1];

/// MAC address inside a pod.
pub const fn pod_mac(endpoint: u16) -> [u8; 6] {
    [2, 1, 0, 0, 0, endpoint as u8]
}

/// MAC address of the host side of a pod's link.
pub const fn lxc_mac(endpoint: u16) -> [u8; 6] {
    [2, 2, 0, 0, 0, endpoint as u8]
}

/// The addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ip {
    V4,
    V6,
}

macro_rules! addresses {
    ($($(#[$doc:meta])* $name:ident: $v4:literal, $v6:literal;)*) => {
        impl Ip {
            $($(#[$doc])* pub fn $name(self) -> IpAddr {
                match self { Self::V4 => $v4, Self::V6 => $v6 }.parse().unwrap()
            })*
        }
    };
}

addresses! {
    pod1: "10.244.1.10", "fd00:244:1::10";
    pod2: "10.244.1.20", "fd00:244:1::20";
    /// An address of the pods' network that no pod has.
    nobody: "10.244.1.99", "fd00:244:1::99";
    /// The pods' gateway: `cilium_host`.
    gateway: "10.244.1.1", "fd00:244:1::1";
    node: "192.168.10.100", "fd00:10::100";
    remote_node: "192.168.10.101", "fd00:10::101";
    remote_pod: "10.244.2.10", "fd00:244:2::10";
    /// Behind the router, whose MAC address is known.
    outside: "10.10.1.200", "fd00:10:1::200";
    /// On the node's own network, never seen.
    stranger: "192.168.10.77", "fd00:10::77";
    /// Of a service in the cluster.
    vip: "10.96.0.10", "fd00:96::10";
    /// Of a load balancer.
    balancer: "172.20.0.5", "fd00:20::5";
    /// The kernel refuses to route there.
    unreachable: "10.66.0.1", "fd00:66::1";
    multicast: "224.0.0.5", "ff02::5";
    router: "192.168.10.200", "fd00:10::200";
}

impl Ip {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The other family.
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    /// World's identity where both families are on.
    pub fn world(self) -> u32 {
        match self {
            Self::V4 => abi::identity::WORLD_IPV4,
            Self::V6 => abi::identity::WORLD_IPV6,
        }
    }

    /// Offset of the L4 header in a packet without options.
    pub fn l4(self) -> usize {
        if self == Self::V4 { 34 } else { 54 }
    }

    fn endpoint_key(addr: IpAddr) -> EndpointKey {
        match addr {
            IpAddr::V4(a) => EndpointKey::v4(a.octets()),
            IpAddr::V6(a) => EndpointKey::v6(a.octets()),
        }
    }

    fn ipcache_key(addr: IpAddr, bits: u32) -> IpcacheKey {
        match addr {
            IpAddr::V4(a) => IpcacheKey::v4(a.octets(), bits),
            IpAddr::V6(a) => IpcacheKey::v6(a.octets(), bits),
        }
    }

    /// Bits of an address.
    fn bits(self) -> u32 {
        if self == Self::V4 { 32 } else { 128 }
    }
}

/// What came of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Came {
    pub verdict: i32,
    pub packet: Vec<u8>,
    pub mark: u32,
    /// Events in words; see [`words`].
    pub events: Vec<String>,
    /// Counters that moved by one packet: reason (zero is forwarded) and direction.
    pub counted: Vec<(u8, Direction)>,
}

impl Came {
    /// Asserts that the packet was dropped, counted and reported for `reason`.
    #[track_caller]
    pub fn dropped(&self, reason: DropReason, direction: Direction) {
        assert_eq!(self.verdict, SHOT, "{self:?}");
        assert_eq!(self.counted, [(reason as u8, direction)], "{self:?}");
        let last = self.events.last().expect("a drop is reported");
        assert!(
            last.starts_with(&format!("drop {}:", reason.text())),
            "{last}"
        );
    }

    /// Asserts the verdict and the only counter that moved: packets forwarded.
    #[track_caller]
    pub fn forwarded(&self, verdict: i32, direction: Direction) -> &Self {
        assert_eq!(
            (self.verdict, &self.counted[..]),
            (verdict, &[(0, direction)][..]),
            "{self:?}"
        );
        self
    }

    /// Asserts that the last event is `expected`; a trace's event begins with its point.
    #[track_caller]
    pub fn told(&self, expected: &str) -> &Self {
        assert_eq!(
            self.events.last().map_or("nothing", String::as_str),
            expected
        );
        self
    }
}

pub struct Scene {
    pub datapath: Datapath,
    events: RefCell<EventReader>,
    maps: PathBuf,
    pub eth0: u32,
    pub lxc1: u32,
    pub lxc2: u32,
}

/// Native routing, both families masqueraded, every packet reported.
pub fn native(config: &mut DatapathConfig) {
    (config.masquerade4, config.masquerade6) = (1, 1);
    (config.native4, config.native4_len) = ([10, 244, 0, 0], 16);
    config.native6 = [0xFD, 0, 2, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    config.native6_len = 32;
}

/// As [`native`], with the other nodes' pods behind a tunnel.
pub fn tunnel(config: &mut DatapathConfig) {
    native(config);
    config.routing = Routing::Tunnel as u8;
    config.tunnel_ifindex = 77;
}

#[allow(clippy::wrong_self_convention, reason = "named as the programs are")]
impl Scene {
    pub fn new(here: &Place, change: impl FnOnce(&mut DatapathConfig)) -> Self {
        sysctl::write("net/ipv4/ip_forward", "1").unwrap();
        sysctl::write("net/ipv6/conf/all/forwarding", "1").unwrap();
        let mut options = here.options();
        change(&mut options.config);
        let (datapath, _) = Datapath::open(&options).unwrap();
        let events = RefCell::new(datapath.events().unwrap());
        let (eth0, lxc1, lxc2) = (here.veth("eth0"), here.veth("lxc1"), here.veth("lxc2"));
        let scene = Self {
            datapath,
            events,
            maps: here.bpffs().join("tc/globals"),
            eth0,
            lxc1,
            lxc2,
        };
        // Before there are neighbours: a new MAC address forgets them.
        let mac = netlink::LinkChange::new().mac(Mac(ETH0_MAC));
        Handle::new().unwrap().link_change(eth0, &mac).unwrap();
        for ip in Ip::BOTH {
            scene.network(ip);
            scene.node_addresses(ip);
            scene.address_cache(ip);
        }
        scene.pods();
        scene
    }

    fn network(&self, ip: Ip) {
        let mut netlink = Handle::new().unwrap();
        let len = if ip == Ip::V4 { 24 } else { 64 };
        netlink
            .address_add(&Address::new(self.eth0, ip.node(), len).nodad())
            .unwrap();
        self.router_is(ip, ROUTER_MAC);
        let family = if ip == Ip::V4 {
            netlink::Family::V4
        } else {
            netlink::Family::V6
        };
        netlink
            .route_add(&Route::default_of(family).via(ip.router()).dev(self.eth0))
            .unwrap();
        let refused = Route::to_host(ip.unreachable()).kind(netlink::RouteKind::Unreachable);
        netlink.route_add(&refused).unwrap();
    }

    /// Gives the router another MAC address.
    pub fn router_is(&self, ip: Ip, mac: [u8; 6]) {
        let router = Neighbour::permanent(self.eth0, ip.router(), Mac(mac));
        Handle::new().unwrap().neighbour_replace(&router).unwrap();
    }

    /// Gives the second pod one more address.
    pub fn pod2_has(&self, addr: IpAddr) {
        let endpoints = self.datapath.endpoints().unwrap();
        let pod = endpoints.get(self.lxc2).unwrap().unwrap();
        endpoints
            .upsert_address(&Ip::endpoint_key(addr), &pod.info)
            .unwrap();
    }

    fn node_addresses(&self, ip: Ip) {
        let info = EndpointInfo {
            ifindex: 0,
            sec_id: 1,
            id: 0,
            flags: endpoint_flags::HOST,
            mac: [0; 6],
            node_mac: [0; 6],
            subject: 0,
        };
        for addr in [ip.node(), ip.gateway()] {
            self.datapath
                .endpoints()
                .unwrap()
                .upsert_address(&Ip::endpoint_key(addr), &info)
                .unwrap();
        }
    }

    fn pods(&self) {
        for (id, sec_id, ifindex) in [(POD1, POD1_ID, self.lxc1), (POD2, POD2_ID, self.lxc2)] {
            let info = EndpointInfo {
                ifindex,
                sec_id,
                id,
                flags: 0,
                mac: pod_mac(id),
                node_mac: lxc_mac(id),
                subject: 0,
            };
            let of = |ip: Ip| if id == POD1 { ip.pod1() } else { ip.pod2() };
            let (IpAddr::V4(v4), IpAddr::V6(v6)) = (of(Ip::V4), of(Ip::V6)) else {
                panic!("families")
            };
            let pod = LocalEndpoint {
                info,
                ipv4: v4.octets(),
                ipv6: v6.octets(),
            };
            self.datapath.endpoints().unwrap().upsert(&pod).unwrap();
        }
    }

    fn address_cache(&self, ip: Ip) {
        let zero: IpAddr = if ip == Ip::V4 {
            [0; 4].into()
        } else {
            [0; 16].into()
        };
        let all = ip.bits();
        let rows = [
            row(zero, 0, ip.world(), None),
            row(ip.pod1(), all, POD1_ID, None),
            row(ip.pod2(), all, POD2_ID, None),
            row(ip.node(), all, abi::identity::HOST, None),
            row(ip.remote_node(), all, abi::identity::REMOTE_NODE, None),
            // IPv4 pods behind an IPv4 tunnel, IPv6 pods behind an IPv6 one.
            row(ip.remote_pod(), all, REMOTE_POD_ID, Some(ip.remote_node())),
        ];
        self.datapath.ipcache().unwrap().upsert_all(&rows).unwrap();
    }

    /// Gives the pod of the other node another identity, and another way to it.
    pub fn remote_pod_is(&self, ip: Ip, sec_id: u32, tunnel: Option<IpAddr>) {
        let rows = [row(ip.remote_pod(), ip.bits(), sec_id, tunnel)];
        self.datapath.ipcache().unwrap().upsert_all(&rows).unwrap();
    }

    /// Gives an address an identity of its own.
    pub fn is_known_as(&self, addr: IpAddr, sec_id: u32) {
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        let rows = [row(addr, bits, sec_id, None)];
        self.datapath.ipcache().unwrap().upsert_all(&rows).unwrap();
    }

    /// Changes the flags of an endpoint.
    pub fn flag_pod(&self, ifindex: u32, flags: u16) {
        let endpoints = self.datapath.endpoints().unwrap();
        let mut pod = endpoints.get(ifindex).unwrap().unwrap();
        pod.info.flags = flags;
        endpoints.upsert(&pod).unwrap();
    }

    pub fn from_pod1(&self, packet: &[u8]) -> Came {
        self.run(names::FROM_CONTAINER, self.lxc1, packet, 0)
    }

    pub fn from_pod2(&self, packet: &[u8]) -> Came {
        self.run(names::FROM_CONTAINER, self.lxc2, packet, 0)
    }

    #[track_caller]
    pub fn from_driver(&self, packet: &[u8]) -> Came {
        self.run(names::XDP_ENTRY, self.eth0, packet, 0)
    }

    pub fn from_netdev(&self, packet: &[u8]) -> Came {
        self.run(names::FROM_NETDEV, self.eth0, packet, 0)
    }

    pub fn from_proxy(&self, packet: &[u8]) -> Came {
        self.run(names::FROM_PROXY, self.eth0, packet, 0)
    }

    pub fn to_netdev(&self, packet: &[u8], mark: u32) -> Came {
        self.run(names::TO_NETDEV, self.eth0, packet, mark)
    }

    pub fn from_host(&self, packet: &[u8], mark: u32) -> Came {
        self.run(names::FROM_HOST, self.eth0, packet, mark)
    }

    /// Runs a program and collects what came of it. Checksums that were right must still be right, whatever the verdict.
    #[track_caller]
    pub fn run(&self, program: &'static str, ifindex: u32, packet: &[u8], mark: u32) -> Came {
        let before = self.counters();
        let context = SkbContext {
            ifindex,
            mark,
            ..SkbContext::default()
        };
        let run = self.datapath.test_run(program, packet, context).unwrap();
        let is_refusal = run.verdict == REDIRECT && is_unreachable(&run.packet);
        // What is passed on, or changes its family, is told of as it goes on.
        let crossed = run.packet[12] != packet[12];
        let len = if is_labelled(&run.packet) || crossed {
            run.packet.len()
        } else {
            packet.len()
        };
        assert!(run.packet.len() == len || is_refusal, "the length changed");
        if wrong_checksums(packet).is_empty() {
            assert_eq!(
                wrong_checksums(&run.packet),
                [""; 0],
                "checksums became wrong"
            );
        }
        let mut events = Vec::new();
        self.events.borrow_mut().drain(|event| {
            let is_before = crossed && event.len as usize == packet.len();
            let len = if is_before { packet.len() } else { len };
            check_frame(event, program, ifindex, len);
            events.push(words(event));
        });
        Came {
            verdict: run.verdict,
            packet: run.packet,
            mark: run.context.mark,
            events,
            counted: self.moved(&before, len),
        }
    }

    /// Waits until there was, for each of `wanted`, an event whose words contain it.
    #[track_caller]
    pub fn wait_for(&self, wanted: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut seen = Vec::new();
        while Instant::now() < deadline {
            let mut events = self.events.borrow_mut();
            events.poll(Duration::from_millis(50), |event| seen.push(words(event)));
            if wanted
                .iter()
                .all(|what| seen.iter().any(|words| words.contains(what)))
            {
                return;
            }
        }
        panic!("not all of {wanted:?} among {seen:#?}");
    }

    fn counters(&self) -> Vec<(u8, u8, u64, u64)> {
        let rows = self.datapath.metrics().unwrap().dump().unwrap();
        rows.iter()
            .map(|r| (r.reason, r.direction, r.packets, r.bytes))
            .collect()
    }

    fn moved(&self, before: &[(u8, u8, u64, u64)], len: usize) -> Vec<(u8, Direction)> {
        let mut moved = Vec::new();
        for (reason, direction, packets, bytes) in self.counters() {
            let old = before
                .iter()
                .find(|b| (b.0, b.1) == (reason, direction))
                .map_or((0, 0), |b| (b.2, b.3));
            if (packets, bytes) != old {
                assert_eq!((packets - old.0, bytes - old.1), (1, len as u64));
                moved.push((reason, Direction::from_index(u32::from(direction))));
            }
        }
        moved
    }

    pub fn connections(&self) -> Vec<Connection> {
        self.datapath.conntrack().unwrap().dump().unwrap()
    }

    /// Removes one direction of an IPv4 mapping, as the kernel does where the map is full.
    pub fn forget(&self, proto: u8, src: End, dst: End) {
        let (IpAddr::V4(s), IpAddr::V4(d)) = (src.0, dst.0) else {
            panic!("not IPv4")
        };
        let key = SnatKey4 {
            src: s.octets(),
            dst: d.octets(),
            sport: src.1.to_be_bytes(),
            dport: dst.1.to_be_bytes(),
            proto,
            flags: snat_flags::IN,
            pad: [0; 2],
        };
        let pin = MapData::from_pin(self.maps.join(names::SNAT4)).unwrap();
        let mut map: HashMap<_, [u8; size_of::<SnatKey4>()], [u8; size_of::<SnatEntry4>()]> =
            Map::LruHashMap(pin).try_into().unwrap();
        map.remove(&zerocopy::transmute!(key)).unwrap();
    }

    pub fn mappings(&self) -> Vec<NatRow> {
        self.datapath.nat().unwrap().dump().unwrap()
    }
}

/// A row of the address cache.
fn row(addr: IpAddr, bits: u32, sec_id: u32, tunnel: Option<IpAddr>) -> (IpcacheKey, IpcacheValue) {
    let mut value = IpcacheValue {
        sec_id,
        tunnel: [0; 16],
        flags: 0,
        key: 0,
        pad: 0,
    };
    if let Some(tunnel) = tunnel {
        value.flags = ipcache_flags::TUNNEL;
        match tunnel {
            IpAddr::V4(t) => value.tunnel[..4].copy_from_slice(&t.octets()),
            IpAddr::V6(t) => {
                value.tunnel = t.octets();
                value.flags |= ipcache_flags::TUNNEL_V6;
            }
        }
    }
    (Ip::ipcache_key(addr, bits), value)
}

/// "Port unreachable" or "too big", as the programs build it.
pub fn is_unreachable(packet: &[u8]) -> bool {
    match packet[12] {
        8 => packet[23] == 1 && [[3, 3], [3, 4]].contains(&[packet[34], packet[35]]),
        _ => packet[20] == 58 && [[1, 4], [2, 0]].contains(&[packet[54], packet[55]]),
    }
}

/// With the option that tells a frontend.
pub fn is_labelled(packet: &[u8]) -> bool {
    match packet[12] {
        8 => packet[14] >= 0x47 && packet[34] == 0x9A,
        _ => packet[20] == 60 && packet[56] == 0x1B,
    }
}

/// What every event of a run has in common.
fn check_frame(event: &FlowEvent, program: &str, ifindex: u32, len: usize) {
    assert_eq!(
        (event.ifindex, event.len, event.ext_error),
        (ifindex, len as u32, 0)
    );
    assert!(event.time > 0);
    let file = source_file::name(event.file);
    assert_eq!(format!("cil_{}", file.trim_end_matches(".rs")), program);
    assert_eq!(
        event.line > 0,
        event.kind == abi::EventKind::Drop as u8,
        "drops name their line"
    );
}

/// What policy said, in words.
fn verdict(event: &FlowEvent) -> String {
    let direction = Direction::from_index(u32::from(event.direction));
    let said = DropReason::from_u8(event.subtype).map_or("allow", DropReason::text);
    let matched = PolicyMatch::from_u8(event.matched).unwrap();
    let audited = if event.flags & event_flags::AUDITED == 0 {
        ""
    } else {
        " audited"
    };
    format!(
        "policy {} {said} {} by {}{audited}",
        direction.text().to_lowercase(),
        matched.text(),
        event.origin
    )
}

/// An event in words: what happened, the tuple, TCP flags or ICMP type, the connection, flags, identities, endpoint.
pub fn words(event: &FlowEvent) -> String {
    let what = match event.kind {
        1 => format!(
            "drop {}",
            DropReason::from_u8(event.subtype).unwrap().text()
        ),
        4 => TracePoint::from_u8(event.subtype)
            .unwrap()
            .text()
            .to_owned(),
        5 => verdict(event),
        kind => panic!("an event of kind {kind}"),
    };
    let is_v6 = event.flags & event_flags::IPV6 != 0;
    let addr = |bytes: [u8; 16]| match is_v6 {
        true => IpAddr::from(bytes),
        false => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
    };
    let port = u16::from_be_bytes;
    let mut flags = String::new();
    for (bit, word) in [
        (event_flags::FORWARD, " forward"),
        (event_flags::SNAT, " snat"),
        (event_flags::TUNNEL, " tunnel"),
    ] {
        if event.flags & bit != 0 {
            flags.push_str(word);
        }
    }
    let origin = match (event.kind, event.origin) {
        (1, origin) if origin != 0 => format!(", origin {origin}"),
        _ => String::new(),
    };
    format!(
        "{what}: {} {} > {} {} proto {} flags {:#x}, {}{flags}, id {} > {}, ep {}{origin}",
        addr(event.src),
        port(event.sport),
        addr(event.dst),
        port(event.dport),
        event.proto,
        event.tcp_flags,
        CtStatus::from_u8(event.ct_status).text(),
        event.src_id,
        event.dst_id,
        event.endpoint
    )
}
