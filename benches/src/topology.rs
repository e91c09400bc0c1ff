//! Two stages of the same shape: pods on nodes joined by plain kernel routing, and by Hypha's programs.
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use abi::{
    Aggregation, DatapathConfig, DsrDispatch, EndpointInfo, EndpointKey, IpcacheKey, IpcacheValue,
    LocalEndpoint, Routing, endpoint_flags, ipcache_flags,
};
use anyhow::{Context, Result, ensure};
use datapath::{
    Acceleration, AttachMode, Datapath, MapSizes, Object, OpenOptions, events::EventReader,
    maps::LbMaps, test_run::SkbContext,
};
use netlink::netns::{self, Netns};
use nix::mount::{MntFlags, umount2};
use zerocopy::FromZeros;

/// The way between client and server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Path {
    SameNode,
    Native,
    Vxlan,
}

impl Path {
    pub const ALL: [Self; 3] = [Self::SameNode, Self::Native, Self::Vxlan];
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SameNode => "same-node",
            Self::Native => "native",
            Self::Vxlan => "vxlan",
        })
    }
}

/// The addresses used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::V4 { "ipv4" } else { "ipv6" })
    }
}

/// Who forwards.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Kernel,
    Hypha,
}

/// A pod.
pub struct Pod {
    pub netns: Netns,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Pod {
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

/// A node and what runs on it.
struct Node {
    number: u8,
    netns: Netns,
    datapath: Option<Running>,
}

/// Programs of a node, and the thread that drains their events.
struct Running {
    datapath: Datapath,
    bpffs: std::path::PathBuf,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        // Lazy: the maps are still open in this process.
        let _ = umount2(&self.bpffs, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.bpffs);
    }
}

/// What reads the events of a node until it is told to stop.
pub type Reader = fn(EventReader, &AtomicBool) -> Result<()>;

/// What is particular to a stage.
#[derive(Clone, Copy)]
struct Setup {
    /// How the other node is told a service's frontend.
    dispatch: DsrDispatch,
    /// There is a program for drivers.
    drivers: bool,
    reader: Reader,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            dispatch: DsrDispatch::None,
            drivers: false,
            reader: discard,
        }
    }
}

/// Client and server with everything between them; all of it goes with the value.
pub struct Stage {
    pub client: Pod,
    pub server: Pod,
    nodes: Vec<Node>,
}

/// How often programs were loaded: stages of one shape have places of their own.
static LOADED: AtomicU32 = AtomicU32::new(0);
const OVERHEAD: u32 = 50;
const REDIRECTED: i32 = 7;
const SERIES: usize = 400;
/// Each run takes a hop off the same packet, which begins with 255.
const RUNS: u32 = 200;

impl Stage {
    pub fn new(path: Path, side: Side) -> Result<Self> {
        Self::with(path, side, DsrDispatch::None)
    }

    /// A stage with our programs, whose events are read by something else.
    pub fn read_by(path: Path, reader: Reader) -> Result<Self> {
        let setup = Setup {
            reader,
            ..Setup::default()
        };
        Self::set_up(path, Side::Hypha, setup)
    }

    /// As [`Stage::new`] of our side, with the program for drivers; [`Stage::accelerate`] puts it there.
    pub fn for_drivers(path: Path) -> Result<Self> {
        let setup = Setup {
            drivers: true,
            ..Setup::default()
        };
        Self::set_up(path, Side::Hypha, setup)
    }

    /// As [`Stage::new`], with a way to tell the other node a service's frontend.
    pub fn with(path: Path, side: Side, dispatch: DsrDispatch) -> Result<Self> {
        let setup = Setup {
            dispatch,
            ..Setup::default()
        };
        Self::set_up(path, side, setup)
    }

    fn set_up(path: Path, side: Side, setup: Setup) -> Result<Self> {
        let count = if path == Path::SameNode { 1 } else { 2 };
        let mut nodes = (1..=count).map(Node::new).collect::<Result<Vec<_>>>()?;
        if count == 2 {
            join(&nodes[0], &nodes[1])?;
        }
        for node in &mut nodes {
            node.prepare(path, side, count, setup)?;
        }
        let mtu = if path == Path::Vxlan {
            1500 - OVERHEAD
        } else {
            1500
        };
        let client = nodes[0].pod(10, side, mtu)?;
        let server = nodes[usize::from(count) - 1].pod(11, side, mtu)?;
        let stage = Self {
            client,
            server,
            nodes,
        };
        stage.warm_up()?;
        Ok(stage)
    }

    /// Runs a program of the first node on a packet from the client to the server, over and over; nanoseconds of one run.
    /// The fastest of many short series counts: what else runs on the machine can only slow it down.
    pub fn time_program(&self, program: &'static str, packet: &[u8]) -> Result<f64> {
        let node = &self.nodes[0];
        let running = node
            .datapath
            .as_ref()
            .context("no programs on this stage")?;
        let context = SkbContext {
            ifindex: node.ifindex("lxc10")?,
            ..SkbContext::default()
        };
        let times = node.netns.run(|| {
            (0..SERIES)
                .map(|_| {
                    running
                        .datapath
                        .test_run_repeat(program, packet, context, RUNS)
                })
                .collect::<Result<Vec<_>, _>>()
        })??;
        let fastest = times
            .iter()
            .map(|run| run.nanoseconds)
            .min()
            .unwrap_or_default();
        let verdict = times.first().map_or(0, |run| run.verdict);
        ensure!(
            verdict == REDIRECTED,
            "{program} gave the verdict {verdict} for a packet it should forward"
        );
        Ok(f64::from(fastest))
    }

    /// The maps of services of a node.
    pub fn services(&self, node: usize) -> Result<LbMaps> {
        let running = self.nodes[node].datapath.as_ref();
        Ok(running
            .context("no programs on this stage")?
            .datapath
            .services()?)
    }

    /// Has the first node's programs translate what is done by the sockets of a cgroup.
    pub fn attach_sockets(&self, cgroup: &std::path::Path) -> Result<()> {
        let running = self.nodes[0].datapath.as_ref();
        let datapath = &running.context("no programs on this stage")?.datapath;
        Ok(datapath.attach_sockets(cgroup).map(drop)?)
    }

    /// The network namespace of a node.
    pub fn node(&self, node: usize) -> &Netns {
        &self.nodes[node].netns
    }

    /// Address of the first node.
    pub fn node_address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => node_v4(1).into(),
            Family::V6 => node_v6(1).into(),
        }
    }

    /// A host outside of the cluster, on a network of its own with each node: the first is its way to all others, the second its own to it.
    pub fn outside(&self) -> Result<Netns> {
        let netns = new_netns()?;
        sh(
            &netns,
            "sysctl -qw net.ipv4.ip_local_port_range='1024 65535' net.ipv4.tcp_tw_reuse=1
            sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
            ip link set lo up
            ip addr add 10.10.1.200/32 dev lo\nip addr add fd00:10:1::200/128 dev lo nodad",
        )?;
        for node in &self.nodes {
            let (n, path) = (node.number, path_of(&netns));
            sh(
                &node.netns,
                &format!(
                    "ip link add out type veth peer name eth{n} netns {path}
                    ip addr add 10.10.2{n}.100/24 dev out\nip addr add fd00:10:2{n}::100/64 dev out nodad
                    ip link set out up"
                ),
            )?;
            sh(
                &netns,
                &format!(
                    "ip addr add 10.10.2{n}.200/24 dev eth{n}\nip addr add fd00:10:2{n}::200/64 dev eth{n} nodad
                    ip link set eth{n} up"
                ),
            )?;
            sh(
                &node.netns,
                &format!(
                    "ip route add 10.10.1.200/32 via 10.10.2{n}.200
                    ip -6 route add fd00:10:1::200/128 via fd00:10:2{n}::200
                    ping -n -q -c 2 -i 0.1 -W 2 10.10.1.200"
                ),
            )?;
            if let Some(running) = &node.datapath {
                let out = node.ifindex("out")?;
                node.netns
                    .run(|| running.datapath.attach_device("out", out))??;
            }
        }
        sh(
            &netns,
            "ip route add default via 10.10.21.100 src 10.10.1.200
            ip -6 route add default via fd00:10:21::100 src fd00:10:1::200",
        )?;
        sh(
            &netns,
            &format!("ping -n -q -c 2 -i 0.1 -W 2 {}", node_v4(1)),
        )?;
        Ok(netns)
    }

    /// Has the other ends of the first node's cables, one of them at [`Stage::outside`], take frames that programs send, and not leave
    /// checksums to others.
    pub fn ready_cables(&self, outside: &Netns) -> Result<()> {
        for (netns, device) in [(outside, "eth1"), (&self.nodes[1].netns, "eth0")] {
            sh(netns, &format!("ethtool -K {device} gro on tx off"))?;
        }
        Ok(())
    }

    /// Puts the program for drivers into those of the first node's devices.
    pub fn accelerate(&self) -> Result<()> {
        let node = &self.nodes[0];
        let running = node.datapath.as_ref();
        let datapath = &running.context("no programs on this stage")?.datapath;
        let devices = [
            ("eth0", node.ifindex("eth0")?),
            ("out", node.ifindex("out")?),
        ];
        let native = Acceleration::Native;
        node.netns.run(|| datapath.accelerate(&devices, native))??;
        Ok(())
    }

    /// Resolves neighbours, and proves that the stage works before anything is measured on it.
    fn warm_up(&self) -> Result<()> {
        for family in Family::ALL {
            let to = self.server.address(family).to_string();
            sh(
                &self.client.netns,
                &format!("ping -n -q -c 2 -i 0.1 -W 2 {to}"),
            )?;
        }
        Ok(())
    }
}

/// Runs commands in a namespace, one a line.
fn sh(netns: &Netns, commands: &str) -> Result<()> {
    netns.run(|| {
        for command in commands.lines().map(str::trim).filter(|c| !c.is_empty()) {
            let output = Command::new("sh")
                .arg("-c")
                .arg(command)
                .stdin(Stdio::null())
                .output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.success(),
                "`{command}` failed: {}",
                said.trim()
            );
        }
        Ok(())
    })?
}

fn node_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 10, 99 + number)
}

fn node_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 0xff + u16::from(number))
}

fn pod_v4(node: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node, host)
}

fn pod_v6(node: u8, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x244, u16::from(node), 0, 0, 0, 0, u16::from(host))
}

/// A cable between the two nodes' `eth0`.
fn join(a: &Node, b: &Node) -> Result<()> {
    let b_fd = path_of(&b.netns);
    sh(
        &a.netns,
        &format!("ip link add eth0 type veth peer name eth0 netns {b_fd}"),
    )?;
    for node in [a, b] {
        let (v4, v6) = (node_v4(node.number), node_v6(node.number));
        sh(
            &node.netns,
            &format!(
                "ip addr add {v4}/24 dev eth0\nip addr add {v6}/64 dev eth0 nodad\nip link set eth0 up"
            ),
        )?;
    }
    Ok(())
}

impl Node {
    fn new(number: u8) -> Result<Self> {
        let netns = new_netns()?;
        sh(
            &netns,
            "ip link set lo up
            sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.forwarding=1
            sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv6.conf.default.accept_dad=0",
        )?;
        Ok(Self {
            number,
            netns,
            datapath: None,
        })
    }

    fn other(&self) -> u8 {
        3 - self.number
    }

    fn prepare(&mut self, path: Path, side: Side, count: u8, setup: Setup) -> Result<()> {
        match (side, path) {
            (Side::Kernel, Path::SameNode) => Ok(()),
            (Side::Kernel, Path::Native) => self.native_routes(),
            (Side::Kernel, Path::Vxlan) => self.kernel_vxlan(),
            (Side::Hypha, _) => {
                if path == Path::Native {
                    self.native_routes()?;
                }
                if path == Path::Vxlan {
                    sh(
                        &self.netns,
                        "ip link add cilium_vxlan type vxlan external dstport 8472\nip link set cilium_vxlan up",
                    )?;
                }
                self.load(path, count, setup)
            }
        }
    }

    fn native_routes(&self) -> Result<()> {
        let other = self.other();
        let (net4, via4) = (pod_v4(other, 0), node_v4(other));
        let (net6, via6) = (pod_v6(other, 0), node_v6(other));
        sh(
            &self.netns,
            &format!("ip route add {net4}/24 via {via4}\nip -6 route add {net6}/112 via {via6}"),
        )
    }

    fn kernel_vxlan(&self) -> Result<()> {
        let other = self.other();
        let (local, remote) = (node_v4(self.number), node_v4(other));
        let (net4, net6) = (pod_v4(other, 0), pod_v6(other, 0));
        let mac = |n: u8| format!("02:00:00:00:42:{n:02x}");
        let gateway4 = Ipv4Addr::new(172, 31, 0, other);
        let gateway6 = Ipv6Addr::new(0xfd00, 0x31, 0, 0, 0, 0, 0, u16::from(other));
        sh(
            &self.netns,
            &format!(
                "ip link add vxlan0 address {own} type vxlan id 42 local {local} remote {remote} dstport 8472
                ip link set vxlan0 up
                ip neigh replace {gateway4} lladdr {far} dev vxlan0 nud permanent
                ip neigh replace {gateway6} lladdr {far} dev vxlan0 nud permanent
                ip route add {net4}/24 via {gateway4} dev vxlan0 onlink
                ip -6 route add {net6}/112 via {gateway6} dev vxlan0 onlink",
                own = mac(self.number),
                far = mac(other),
            ),
        )
    }

    /// Loads the programs, attaches them to the node's devices and tells them about the other node.
    fn load(&mut self, path: Path, count: u8, setup: Setup) -> Result<()> {
        let bpffs = std::env::temp_dir().join(format!(
            "hypha-bench-{}-{}-{path}-{}",
            std::process::id(),
            self.number,
            LOADED.fetch_add(1, Ordering::Relaxed)
        ));
        datapath::ensure_bpffs(&bpffs)?;
        let options = OpenOptions {
            bpffs: bpffs.clone(),
            config: DatapathConfig {
                dsr_dispatch: setup.dispatch as u8,
                xdp: setup.drivers.into(),
                mtu: 1500,
                ..self.config(path)?
            },
            sizes: MapSizes {
                endpoints: 1024,
                ipcache: 1024,
                conntrack: 262_144,
                nat: 65_536,
                fragments: 64,
                // As the agent has it: a ring that fits the cache costs less than one that does not.
                ..MapSizes::default()
            },
            attach: AttachMode::Auto,
            object: Object::embedded(),
        };
        let (datapath, _) = self.netns.run(|| Datapath::open(&options))??;
        if count == 2 {
            let eth0 = self.ifindex("eth0")?;
            self.netns.run(|| datapath.attach_device("eth0", eth0))??;
            self.know_other(&datapath)?;
        }
        if path == Path::Vxlan {
            let vxlan = self.ifindex("cilium_vxlan")?;
            self.netns
                .run(|| datapath.attach_overlay("cilium_vxlan", vxlan))??;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let reader = drain(&datapath, &stop, setup.reader)?;
        self.datapath = Some(Running {
            datapath,
            bpffs,
            stop,
            reader: Some(reader),
        });
        Ok(())
    }

    fn config(&self, path: Path) -> Result<DatapathConfig> {
        let mut config = DatapathConfig::new_zeroed();
        config.tunnel_ifindex = if path == Path::Vxlan {
            self.ifindex("cilium_vxlan")?
        } else {
            0
        };
        config.routing = if path == Path::Vxlan {
            Routing::Tunnel as u8
        } else {
            Routing::Native as u8
        };
        config.aggregation = Aggregation::Medium as u8;
        config.report_interval = 5;
        (
            config.ct_tcp,
            config.ct_tcp_syn,
            config.ct_tcp_fin,
            config.ct_any,
        ) = (8000, 60, 10, 60);
        (config.snat_min, config.snat_max) = (32768, 65535);
        (config.ipv4, config.ipv6, config.services) = (1, 1, 1);
        (config.node_port_min, config.node_port_max) = (30000, 32767);
        config.maglev_size = 16_381;
        (config.masquerade4, config.masquerade6) = (1, 1);
        (config.native4, config.native4_len) = ([10, 244, 0, 0], 16);
        (config.native6, config.native6_len) = (pod_v6(0, 0).octets(), 32);
        config.node_ipv4 = node_v4(self.number).octets();
        config.node_ipv6 = node_v6(self.number).octets();
        Ok(config)
    }

    fn know_other(&self, datapath: &Datapath) -> Result<()> {
        let other = self.other();
        let mut tunnel = [0; 16];
        tunnel[..4].copy_from_slice(&node_v4(other).octets());
        let value = IpcacheValue {
            sec_id: 4711,
            tunnel,
            flags: ipcache_flags::TUNNEL,
            key: 0,
            pad: 0,
        };
        let ipcache = datapath.ipcache()?;
        ipcache.upsert(&IpcacheKey::v4(pod_v4(other, 0).octets(), 24), &value)?;
        ipcache.upsert(&IpcacheKey::v6(pod_v6(other, 0).octets(), 112), &value)?;
        Ok(())
    }

    fn ifindex(&self, name: &str) -> Result<u32> {
        let index = self.netns.run(|| nix::net::if_::if_nametoindex(name))?;
        index.with_context(|| format!("no device {name}"))
    }

    /// A pod with its own namespace, addresses and way out.
    fn pod(&self, host: u8, side: Side, mtu: u32) -> Result<Pod> {
        let netns = new_netns()?;
        let (v4, v6) = (pod_v4(self.number, host), pod_v6(self.number, host));
        let (lxc, path) = (format!("lxc{host}"), path_of(&netns));
        let (mac, node_mac) = (
            [2, 0, 0, 1, self.number, host],
            [2, 0, 0, 2, self.number, host],
        );
        sh(
            &self.netns,
            &format!(
                "ip link add {lxc} address {} type veth peer name eth0 address {} netns {path}
                sysctl -qw net.ipv6.conf.{lxc}.addr_gen_mode=1
                ip link set {lxc} up",
                colons(node_mac),
                colons(mac)
            ),
        )?;
        // The gateway is the same in both families and on both sides; only who answers for it differs.
        let (gateway4, gateway6) = (pod_v4(self.number, 1), pod_v6(self.number, 1));
        sh(
            &netns,
            &format!(
                "ip link set lo up
                sysctl -qw net.ipv4.ip_local_port_range='1024 65535' net.ipv4.tcp_tw_reuse=1 net.ipv6.conf.default.accept_dad=0
                ip addr add {v4}/32 dev eth0
                ip addr add {v6}/128 dev eth0 nodad
                ip link set eth0 up
                ip route add default via {gateway4} dev eth0 onlink mtu {mtu}
                ip -6 route add {gateway6} dev eth0
                ip -6 route add default via {gateway6} dev eth0 mtu {mtu}"
            ),
        )?;
        match (side, &self.datapath) {
            (Side::Hypha, Some(running)) => {
                self.endpoint(&running.datapath, &lxc, host, mac, node_mac)?
            }
            _ => self.kernel_endpoint(&netns, &lxc, (v4, v6), mac, node_mac)?,
        }
        Ok(Pod { netns, v4, v6 })
    }

    fn endpoint(
        &self,
        datapath: &Datapath,
        lxc: &str,
        host: u8,
        mac: [u8; 6],
        node_mac: [u8; 6],
    ) -> Result<()> {
        let ifindex = self.ifindex(lxc)?;
        let id = u16::from(host);
        let info = EndpointInfo {
            ifindex,
            sec_id: 1000 + u32::from(host),
            id,
            flags: 0,
            mac,
            node_mac,
            subject: 0,
        };
        let (ipv4, ipv6) = (
            pod_v4(self.number, host).octets(),
            pod_v6(self.number, host).octets(),
        );
        let endpoints = datapath.endpoints()?;
        endpoints.upsert(&LocalEndpoint { info, ipv4, ipv6 })?;
        let gateway = EndpointInfo {
            flags: endpoint_flags::HOST,
            ..info
        };
        endpoints.upsert_address(&EndpointKey::v6(pod_v6(self.number, 1).octets()), &gateway)?;
        self.netns
            .run(|| datapath.attach_endpoint(id, ifindex, lxc, false))??;
        Ok(())
    }

    fn kernel_endpoint(
        &self,
        pod: &Netns,
        lxc: &str,
        at: (Ipv4Addr, Ipv6Addr),
        mac: [u8; 6],
        node_mac: [u8; 6],
    ) -> Result<()> {
        let (gateway4, gateway6) = (pod_v4(self.number, 1), pod_v6(self.number, 1));
        let (near, far) = (colons(node_mac), colons(mac));
        sh(
            pod,
            &format!(
                "ip neigh replace {gateway4} lladdr {near} dev eth0 nud permanent
                ip neigh replace {gateway6} lladdr {near} dev eth0 nud permanent"
            ),
        )?;
        sh(
            &self.netns,
            &format!(
                "ip route add {v4}/32 dev {lxc}
                ip -6 route add {v6}/128 dev {lxc}
                ip neigh replace {v4} lladdr {far} dev {lxc} nud permanent
                ip neigh replace {v6} lladdr {far} dev {lxc} nud permanent",
                v4 = at.0,
                v6 = at.1
            ),
        )
    }
}

/// Has the events read until `stop`.
fn drain(datapath: &Datapath, stop: &Arc<AtomicBool>, reader: Reader) -> Result<JoinHandle<()>> {
    let events = datapath.events()?;
    let stop = Arc::clone(stop);
    Ok(std::thread::spawn(move || {
        if let Err(error) = reader(events, &stop) {
            eprintln!("events are not read any more: {error:#}");
        }
    }))
}

/// Reads events away at the agent's pace.
fn discard(mut events: EventReader, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        events.poll(Duration::from_millis(200), |event| {
            std::hint::black_box(event);
        });
    }
    Ok(())
}

fn colons(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A path that `ip` can open.
fn path_of(netns: &Netns) -> String {
    format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        netns.as_fd().as_raw_fd()
    )
}

/// A namespace that goes with the process.
fn new_netns() -> Result<Netns> {
    Ok(netns::create_unnamed()?)
}
