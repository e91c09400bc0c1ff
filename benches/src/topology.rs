//! Two stages of the same shape: pods on nodes joined by plain kernel routing, and by Hypha's programs.
mod node;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::AtomicBool,
};

use abi::DsrDispatch;
use anyhow::{Context, Result, ensure};
use datapath::{Acceleration, events::EventReader, maps::LbMaps, test_run::SkbContext};
use netlink::netns::Netns;

use node::{Node, discard, join, new_netns, node_v4, node_v6, path_of, sh};

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

/// What reads the events of a node until it is told to stop.
pub type Reader = fn(EventReader, &AtomicBool) -> Result<()>;

/// What is particular to a stage.
#[derive(Clone, Copy)]
struct Setup {
    /// How the other node is told a service's frontend.
    dispatch: DsrDispatch,
    /// There is a program for drivers.
    drivers: bool,
    /// There is a place for a proxy.
    proxy: bool,
    reader: Reader,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            dispatch: DsrDispatch::None,
            drivers: false,
            proxy: false,
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

    /// As [`Stage::new`] of our side, whose nodes have a place for a proxy.
    pub fn with_proxy(path: Path) -> Result<Self> {
        let setup = Setup {
            proxy: true,
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
