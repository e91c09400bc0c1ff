//! The place of the layer 7 proxy: a network namespace of its own at the end of a veth pair, where every address is local.
//!
//! The node's namespace gets one device and nothing else: no rule, no route, no mark. Inside, whatever comes by the device is delivered
//! locally, and whatever is sent goes out by it, to the program at its other end, from whatever address a transparent socket has.
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    path::Path,
};

use abi::names;
use netlink::{
    AddrGenMode, Family, Handle, Link, LinkChange, Mac, Neighbour, Netns, NewLink, Peer, Route,
    RouteKind, Rule, Scope, netns, sysctl,
};

use crate::{
    Attached, Datapath, Error, Owner, Result,
    attach::{Hook, Point, tc::Tc},
};

/// The node's end of the pair.
pub const DEVICE: &str = "cilium_proxy";
/// The end in the proxy's namespace.
pub const INNER_DEVICE: &str = "eth0";
/// Where the namespace has its name.
pub const NETNS: &str = "/var/run/netns/cilium-proxy";

const LOOPBACK: u32 = 1;
/// Of the rule and of the table for what comes by the device.
const TABLE: u32 = 100;
/// Next hops inside: names for the node's end, which no packet carries.
const GATEWAY4: Ipv4Addr = Ipv4Addr::new(169, 254, 42, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 1);

/// Parameters of the namespace, before its device is there. Packets have others' addresses, which is the point.
///
/// Nothing is remembered of connections that have ended: while it is, new kernels (seen on 6.18) take no first segment of the same ends
/// for a listener that a program chose, so that a client that takes its port again would not be heard for a minute.
const SYSCTLS: [(&str, &str); 5] = [
    ("net/ipv4/tcp_max_tw_buckets", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/accept_local", "1"),
    ("net/ipv4/conf/default/accept_local", "1"),
];

/// As [`SYSCTLS`], where the kernel has IPv6.
const SYSCTLS6: [(&str, &str); 4] = [
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
];

/// The proxy's network namespace, with what is needed to work in it without entering it again.
pub struct ProxyNetns {
    netns: Netns,
    handle: Handle,
    tc: Tc,
}

impl std::fmt::Debug for ProxyNetns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ProxyNetns")
            .field(&self.netns.path())
            .finish()
    }
}

/// The pair as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyLink {
    /// Ifindex of [`DEVICE`].
    pub ifindex: u32,
    /// MAC address of [`DEVICE`].
    pub node_mac: [u8; 6],
    /// Ifindex of [`INNER_DEVICE`] in its namespace.
    pub inner_ifindex: u32,
    /// MAC address of [`INNER_DEVICE`].
    pub mac: [u8; 6],
}

fn failed(device: &str) -> impl FnOnce(netlink::Error) -> Error {
    let device = device.to_owned();
    move |source| Error::Device { device, source }
}

fn inner_failed() -> impl FnOnce(netlink::Error) -> Error {
    failed("eth0 of the proxy's namespace")
}

impl ProxyNetns {
    /// Opens the namespace of this name, or makes it. The only step that takes `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open(path: &Path) -> Result<Self> {
        let netns = ensure_named(path).map_err(failed(DEVICE))?;
        let (handle, tc) = netns
            .run(|| {
                set_parameters()?;
                Ok((Handle::new()?, Tc::open()))
            })
            .and_then(|done| done)
            .map_err(failed(DEVICE))?;
        let tc = tc.map_err(Error::bpf("open a socket for", "filters of the proxy"))?;
        Ok(Self { netns, handle, tc })
    }

    /// Makes the pair and the routes inside, and puts right what differs; what is right already is left alone. `node` works in the node's own
    /// namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn ensure_link(&mut self, node: &mut Handle, mtu: u32) -> Result<ProxyLink> {
        let (outer, inner) = match self.found(node)? {
            Some(pair) => pair,
            None => self.make_pair(node, mtu)?,
        };
        settle(node, &outer, mtu).map_err(failed(DEVICE))?;
        self.settle_inner(&outer, &inner, mtu)
            .map_err(inner_failed())?;
        let mac = |link: &Link| link.mac.unwrap_or_default().0;
        Ok(ProxyLink {
            ifindex: outer.index,
            node_mac: mac(&outer),
            inner_ifindex: inner.index,
            mac: mac(&inner),
        })
    }

    /// The two ends, if they are one pair.
    fn found(&mut self, node: &mut Handle) -> Result<Option<(Link, Link)>> {
        let outer = node.find_link(DEVICE).map_err(failed(DEVICE))?;
        let inner = self
            .handle
            .find_link(INNER_DEVICE)
            .map_err(inner_failed())?;
        Ok(outer.zip(inner).filter(|(outer, inner)| {
            outer.kind.as_deref() == Some("veth")
                && outer.peer == Some(inner.index)
                && inner.peer == Some(outer.index)
                && outer.peer_netns.is_some()
        }))
    }

    fn make_pair(&mut self, node: &mut Handle, mtu: u32) -> Result<(Link, Link)> {
        node.link_delete_if_exists(DEVICE).map_err(failed(DEVICE))?;
        self.handle
            .link_delete_if_exists(INNER_DEVICE)
            .map_err(inner_failed())?;
        // Addresses that were asked for are nobody's to change.
        let peer = Peer::new(INNER_DEVICE)
            .mac(any_mac().map_err(inner_failed())?)
            .mtu(mtu)
            .in_netns(self.netns.as_fd());
        let pair = NewLink::veth(DEVICE, peer)
            .mac(any_mac().map_err(failed(DEVICE))?)
            .mtu(mtu)
            .no_arp();
        let outer = node.link_create(&pair).map_err(failed(DEVICE))?;
        let inner = self.handle.link(INNER_DEVICE).map_err(inner_failed())?;
        Ok((outer, inner))
    }

    fn settle_inner(&mut self, outer: &Link, inner: &Link, mtu: u32) -> netlink::Result<()> {
        self.handle.link_up("lo")?;
        settle(&mut self.handle, inner, mtu)?;
        let mac = outer.mac.unwrap_or_default();
        let has_ipv6 = Path::new("/proc/sys/net/ipv6").exists();
        for family in [Family::V4, Family::V6] {
            if family == Family::V6 && !has_ipv6 {
                continue;
            }
            let gateway: IpAddr = match family {
                Family::V4 => GATEWAY4.into(),
                Family::V6 => GATEWAY6.into(),
            };
            let rule = Rule {
                iif: Some(INNER_DEVICE.to_owned()),
                ..Rule::new(family, TABLE, TABLE)
            };
            self.handle.rule_ensure(&rule)?;
            let local = Route::default_of(family)
                .dev(LOOPBACK)
                .table(TABLE)
                .kind(RouteKind::Local)
                .scope(Scope::Host);
            self.handle.route_replace(&local)?;
            self.handle
                .neighbour_replace(&Neighbour::permanent(inner.index, gateway, mac))?;
            let out = Route::default_of(family)
                .via(gateway)
                .dev(inner.index)
                .onlink();
            self.handle.route_replace(&out)?;
        }
        Ok(())
    }
}

/// Brings a device up with its MTU, and without addresses of the kernel's making, if it is not so.
fn settle(handle: &mut Handle, link: &Link, mtu: u32) -> netlink::Result<()> {
    if link.is_up() && link.mtu == mtu {
        return Ok(());
    }
    let none = LinkChange::new().addr_gen_mode(AddrGenMode::None);
    // Kernels without IPv6 have no such mode.
    let _ = handle.link_change(link.index, &none);
    handle.link_change(link.index, &LinkChange::new().mtu(mtu).up())
}

/// Makes the namespace of this name unless there is one; whether it made it.
///
/// # Errors
/// When the kernel refuses.
pub fn ensure_netns(path: &Path) -> Result<bool> {
    if netns::open(path).is_ok() {
        return Ok(false);
    }
    ensure_named(path).map(|_| true).map_err(failed(DEVICE))
}

fn ensure_named(path: &Path) -> netlink::Result<Netns> {
    match netns::open(path) {
        Ok(netns) => Ok(netns),
        Err(_) => {
            // Whatever is there is no namespace: what is left of one, or of a machine that was switched off.
            netns::delete_at(path)?;
            if let Some(dir) = path.parent() {
                let _ = fs::create_dir_all(dir);
            }
            netns::create_at(path)
        }
    }
}

/// Sets the parameters of the calling thread's namespace.
fn set_parameters() -> netlink::Result<()> {
    for (name, value) in SYSCTLS {
        sysctl::ensure(name, value)?;
    }
    for (name, value) in SYSCTLS6 {
        // Absent without IPv6.
        if sysctl::read(name).is_ok() {
            sysctl::ensure(name, value)?;
        }
    }
    Ok(())
}

fn any_mac() -> netlink::Result<Mac> {
    let mut bytes = [0; 6];
    let read = fs::File::open("/dev/urandom").and_then(|mut random| {
        io::Read::read_exact(&mut random, &mut bytes)?;
        Ok(())
    });
    read.map_err(|source| netlink::Error::Socket {
        op: "read random bytes for",
        source,
    })?;
    Ok(Mac::local_from(bytes))
}

/// Removes the pair and the namespace's name; whether there was anything. The namespace itself ends with the last process in it.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(node: &mut Handle, path: &Path) -> Result<bool> {
    let device = remove_link(node)?;
    let named = path.exists();
    netns::delete_at(path).map_err(failed(DEVICE))?;
    Ok(device || named)
}

/// Removes the pair; whether it was there.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_link(node: &mut Handle) -> Result<bool> {
    let found = node.find_link(DEVICE).map_err(failed(DEVICE))?.is_some();
    if found {
        node.link_delete_if_exists(DEVICE).map_err(failed(DEVICE))?;
    }
    Ok(found)
}

impl Datapath {
    /// Attaches the programs at both ends of the proxy's link. The one at the proxy's own end is a filter on every kernel: links can only be made
    /// from within a namespace.
    ///
    /// # Errors
    /// When a device is gone or the kernel refuses.
    pub fn attach_proxy(&self, netns: &mut ProxyNetns, link: &ProxyLink) -> Result<Attached> {
        let hook = |program, ifindex, ifname| Hook {
            program,
            point: Point::Ingress,
            ifindex,
            ifname,
        };
        let door = hook(names::TO_PROXY, link.inner_ifindex, INNER_DEVICE);
        let inner = self.attacher.attach_elsewhere(&mut netns.tc, &door)?;
        let outer = self.attacher.attach(
            &Owner::Device(DEVICE.to_owned()),
            &[hook(names::FROM_PROXY, link.ifindex, DEVICE)],
        )?;
        Ok(inner.max(outer))
    }
}
