//! A node of a stage: its devices, routes and pods, and the programs on them.
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use abi::{
    Aggregation, DatapathConfig, EndpointInfo, EndpointKey, IpcacheKey, IpcacheValue,
    LocalEndpoint, Routing, endpoint_flags, ipcache_flags,
};
use anyhow::{Context, Result, ensure};
use datapath::{
    AttachMode, Datapath, MapSizes, Object, OpenOptions,
    events::EventReader,
    proxy::{ProxyLink, ProxyNetns},
};
use netlink::netns::{self, Netns};
use nix::mount::{MntFlags, umount2};
use zerocopy::FromZeros;

use super::{Path, Pod, Reader, Setup, Side};

/// How often programs were loaded: stages of one shape have places of their own.
static LOADED: AtomicU32 = AtomicU32::new(0);

/// A node and what runs on it.
pub(super) struct Node {
    pub(super) number: u8,
    pub(super) netns: Netns,
    pub(super) datapath: Option<Running>,
}

/// Programs of a node, and the thread that drains their events.
pub(super) struct Running {
    pub(super) datapath: Datapath,
    bpffs: std::path::PathBuf,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
    place: Option<ProxyPlace>,
}

/// A proxy's network namespace, and the way there. Nobody is in it.
struct ProxyPlace {
    path: PathBuf,
    netns: ProxyNetns,
    link: ProxyLink,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if let Some(place) = &self.place {
            // The device goes with the node's namespace.
            let _ = netns::delete_at(&place.path);
        }
        // Lazy: the maps are still open in this process.
        let _ = umount2(&self.bpffs, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.bpffs);
    }
}

/// Runs commands in a namespace, one a line.
pub(super) fn sh(netns: &Netns, commands: &str) -> Result<()> {
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

pub(super) fn node_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 10, 99 + number)
}

pub(super) fn node_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 0xff + u16::from(number))
}

pub(super) fn pod_v4(node: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node, host)
}

pub(super) fn pod_v6(node: u8, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x244, u16::from(node), 0, 0, 0, 0, u16::from(host))
}

/// A cable between the two nodes' `eth0`.
pub(super) fn join(a: &Node, b: &Node) -> Result<()> {
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
    pub(super) fn new(number: u8) -> Result<Self> {
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

    pub(super) fn prepare(
        &mut self,
        path: Path,
        side: Side,
        count: u8,
        setup: Setup,
    ) -> Result<()> {
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
        let mut place = setup.proxy.then(|| self.proxy_place(&bpffs)).transpose()?;
        let link = place.as_ref().map(|place| place.link);
        let options = OpenOptions {
            bpffs: bpffs.clone(),
            config: DatapathConfig {
                proxy_ifindex: link.map_or(0, |link| link.ifindex),
                proxy_mac: link.map_or([0; 6], |link| link.mac),
                proxy_node_mac: link.map_or([0; 6], |link| link.node_mac),
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
        if let Some(place) = &mut place {
            let attach = || datapath.attach_proxy(&mut place.netns, &place.link);
            self.netns.run(attach)??;
        }
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
            place,
        });
        Ok(())
    }

    fn proxy_place(&self, bpffs: &std::path::Path) -> Result<ProxyPlace> {
        let path = bpffs.with_extension("proxy");
        let mut netns = ProxyNetns::open(&path)?;
        let link = self.netns.run(|| -> Result<ProxyLink> {
            Ok(netns.ensure_link(&mut netlink::Handle::new()?, 1500)?)
        })??;
        Ok(ProxyPlace { path, netns, link })
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

    pub(super) fn ifindex(&self, name: &str) -> Result<u32> {
        let index = self.netns.run(|| nix::net::if_::if_nametoindex(name))?;
        index.with_context(|| format!("no device {name}"))
    }

    /// A pod with its own namespace, addresses and way out.
    pub(super) fn pod(&self, host: u8, side: Side, mtu: u32) -> Result<Pod> {
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
pub(super) fn discard(mut events: EventReader, stop: &AtomicBool) -> Result<()> {
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
pub(super) fn path_of(netns: &Netns) -> String {
    format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        netns.as_fd().as_raw_fd()
    )
}

/// A namespace that goes with the process.
pub(super) fn new_netns() -> Result<Netns> {
    Ok(netns::create_unnamed()?)
}
