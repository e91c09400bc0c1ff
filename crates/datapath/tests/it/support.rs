//! What every test needs: its own namespaces and bpffs, options, devices.
use std::{path::Path, thread};

use abi::{Aggregation, DatapathConfig, Routing};
use datapath::{AttachMode, Datapath, MapSizes, Object, OpenOptions, OpenReport};
use netlink::{Handle, NewLink, Peer};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::Uid,
};

/// A place of its own on the machine; everything in it goes when the test's thread ends.
pub struct Place {
    dir: tempfile::TempDir,
}

/// Runs `test` on a thread with network and mount namespaces of its own, and a bpffs. Skips where that cannot be.
pub fn place(test: impl FnOnce(&Place) + Send) {
    if !Uid::effective().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    if object().is_empty() {
        eprintln!("skipped: built without the eBPF object (HYPHA_SKIP_BPF=1)");
        return;
    }
    let outcome = thread::scope(|scope| scope.spawn(|| test(&Place::enter())).join());
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

impl Place {
    fn enter() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("new namespaces");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .expect("private mounts");
        let dir = tempfile::tempdir().expect("temporary directory");
        datapath::ensure_bpffs(dir.path()).expect("bpffs");
        Handle::new()
            .expect("netlink")
            .link_up("lo")
            .expect("loopback up");
        Self { dir }
    }

    pub fn bpffs(&self) -> &Path {
        self.dir.path()
    }

    pub fn options(&self) -> OpenOptions {
        OpenOptions {
            bpffs: self.dir.path().to_path_buf(),
            config: config(),
            sizes: MapSizes {
                endpoints: 1024,
                ipcache: 1024,
                conntrack: 8192,
                nat: 8192,
                fragments: 64,
                policy: 8192,
                services: 1024,
                maglev: 64,
                sockets: 1024,
                events_bytes: 1 << 16,
            },
            attach: AttachMode::Auto,
            object: object(),
        }
    }

    pub fn open(&self) -> (Datapath, OpenReport) {
        Datapath::open(&self.options()).expect("open")
    }

    /// A veth pair of which the first end is returned by its ifindex; both are up.
    pub fn veth(&self, name: &str) -> u32 {
        let mut netlink = Handle::new().expect("netlink");
        let peer = format!("{name}p");
        let link = netlink
            .link_create(&NewLink::veth(name, Peer::new(&peer)).up())
            .expect("veth");
        netlink.link_up(peer.as_str()).expect("peer up");
        link.index
    }

    pub fn remove_link(&self, name: &str) {
        Handle::new()
            .expect("netlink")
            .link_delete(name)
            .expect("delete link");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Or the temporary directory could not be removed.
        let _ = nix::mount::umount2(self.dir.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// The object under test; another one than the embedded one by `HYPHA_TEST_OBJECT`.
fn object() -> Object {
    match std::env::var_os("HYPHA_TEST_OBJECT") {
        Some(path) => Object::from_bytes(std::fs::read(path).expect("HYPHA_TEST_OBJECT")),
        None => Object::embedded(),
    }
}

/// A config as the agent would give.
pub fn config() -> DatapathConfig {
    DatapathConfig {
        host_netns: 0,
        tunnel_ifindex: 0,
        report_interval: 5,
        ct_tcp: 8000,
        ct_tcp_syn: 60,
        ct_tcp_fin: 10,
        ct_any: 60,
        snat_min: 32768,
        snat_max: 65535,
        routing: Routing::Native as u8,
        aggregation: Aggregation::None as u8,
        ipv4: 1,
        ipv6: 1,
        masquerade4: 0,
        masquerade6: 0,
        host_legacy: 0,
        accounting: 1,
        coarse_clock: 0,
        host_firewall: 0,
        tunnel_port: 0,
        services: 1,
        sock_host_only: 0,
        no_backend_drops: 0,
        dsr_dispatch: abi::DsrDispatch::None as u8,
        node_port_min: 30000,
        node_port_max: 32767,
        maglev_size: 251,
        refusal_says_why: 0,
        bind_protection: 1,
        trace_sock: 0,
        xdp: 0,
        proxy_ifindex: 0,
        proxy_mac: [0; 6],
        proxy_node_mac: [0; 6],
        mtu: 1500,
        native4_len: 8,
        native6_len: 64,
        node_ipv4: [192, 168, 10, 100],
        router_ipv4: [10, 244, 1, 1],
        native4: [10, 0, 0, 0],
        node_ipv6: [0xFD, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        router_ipv6: [0xFD, 0, 2, 0x44, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        native6: [0xFD, 0, 2, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        nat46x64: 0,
        pad: [0; 7],
    }
}
