//! The devices of a node that are ours: the host pair, the tunnel device, and the kernel parameters they need.
use std::net::IpAddr;

use netlink::{
    AddrGenMode, Address, Handle, Link, LinkChange, LinkKind, Mac, NewLink, Peer, sysctl,
};

use crate::{Error, Result};

/// The end of the host pair that carries the router addresses.
pub const HOST_DEVICE: &str = "cilium_host";
/// Its other end.
pub const NET_DEVICE: &str = "cilium_net";

/// Encapsulation of packets to other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelKind {
    /// VXLAN.
    Vxlan,
    /// Geneve.
    Geneve,
}

impl TunnelKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Vxlan, Self::Geneve];

    /// Name of its device.
    #[must_use]
    pub const fn device(self) -> &'static str {
        match self {
            Self::Vxlan => "cilium_vxlan",
            Self::Geneve => "cilium_geneve",
        }
    }

    /// Its UDP port where none is configured.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Vxlan => 8472,
            Self::Geneve => 6081,
        }
    }

    /// Bytes that it adds to a packet, over an outer packet of either family: Ethernet, outer headers, its own.
    #[must_use]
    pub const fn overhead(self, outer_v6: bool) -> u32 {
        if outer_v6 { 70 } else { 50 }
    }
}

/// The host pair as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevices {
    /// Router addresses; each is put on [`HOST_DEVICE`] alone, with a full-length prefix.
    pub addresses: Vec<IpAddr>,
    /// MTU of both ends.
    pub mtu: u32,
}

/// The host pair as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPair {
    /// Ifindex of [`HOST_DEVICE`].
    pub host_ifindex: u32,
    /// MAC address of [`HOST_DEVICE`].
    pub host_mac: [u8; 6],
    /// Ifindex of [`NET_DEVICE`].
    pub net_ifindex: u32,
    /// MAC address of [`NET_DEVICE`].
    pub net_mac: [u8; 6],
}

fn failed(device: &str) -> impl FnOnce(netlink::Error) -> Error {
    let device = device.to_owned();
    move |source| Error::Device { device, source }
}

/// Makes the host pair and puts it right where it differs; what is right already is left alone.
///
/// # Errors
/// When the kernel refuses.
pub fn ensure_host(netlink: &mut Handle, wanted: &HostDevices) -> Result<HostPair> {
    let mut host = netlink
        .find_link(HOST_DEVICE)
        .map_err(failed(HOST_DEVICE))?;
    let mut net = netlink.find_link(NET_DEVICE).map_err(failed(NET_DEVICE))?;
    if !is_pair(host.as_ref(), net.as_ref()) {
        remove_host(netlink)?;
        let pair = NewLink::veth(HOST_DEVICE, Peer::new(NET_DEVICE).mtu(wanted.mtu))
            .mtu(wanted.mtu)
            .no_arp();
        netlink.link_create(&pair).map_err(failed(HOST_DEVICE))?;
        no_own_addresses(netlink, &[HOST_DEVICE, NET_DEVICE]);
        (host, net) = (None, None);
    }
    let host = settle(netlink, HOST_DEVICE, host, wanted.mtu)?;
    let net = settle(netlink, NET_DEVICE, net, wanted.mtu)?;
    if wanted.addresses.iter().any(IpAddr::is_ipv6) {
        let name = format!("net/ipv6/conf/{HOST_DEVICE}/disable_ipv6");
        sysctl::ensure(&name, "0").map_err(failed(HOST_DEVICE))?;
    }
    ensure_addresses(netlink, &host, &wanted.addresses)?;
    let mac = |link: &Link| link.mac.unwrap_or(Mac([0; 6])).0;
    Ok(HostPair {
        host_ifindex: host.index,
        host_mac: mac(&host),
        net_ifindex: net.index,
        net_mac: mac(&net),
    })
}

/// No IPv6 address of the kernel's making: only ours may be chosen as a source, and nothing is to be solicited.
fn no_own_addresses(netlink: &mut Handle, devices: &[&str]) {
    for device in devices {
        // Kernels without IPv6 have no such mode.
        let _ = netlink.link_change(*device, &LinkChange::new().addr_gen_mode(AddrGenMode::None));
    }
}

fn is_pair(host: Option<&Link>, net: Option<&Link>) -> bool {
    let (Some(host), Some(net)) = (host, net) else {
        return false;
    };
    host.kind.as_deref() == Some("veth")
        && host.peer == Some(net.index)
        && host.peer_netns.is_none()
}

/// Brings a device up without ARP and with its MTU, if it is not so.
fn settle(
    netlink: &mut Handle,
    device: &'static str,
    found: Option<Link>,
    mtu: u32,
) -> Result<Link> {
    let link = match found {
        Some(link) => link,
        None => netlink.link(device).map_err(failed(device))?,
    };
    let no_arp = link.has(netlink::LinkFlag::NoArp);
    if link.is_up() && no_arp && link.mtu == mtu {
        return Ok(link);
    }
    netlink
        .link_change(device, &LinkChange::new().arp(false).mtu(mtu).up())
        .map_err(failed(device))?;
    netlink.link(device).map_err(failed(device))
}

/// Leaves exactly `wanted` on the device.
fn ensure_addresses(netlink: &mut Handle, link: &Link, wanted: &[IpAddr]) -> Result<()> {
    let found = netlink
        .addresses(Some(link.index))
        .map_err(failed(&link.name))?;
    let full = |ip: IpAddr| if ip.is_ipv4() { 32 } else { 128 };
    for address in found
        .iter()
        .filter(|a| !(wanted.contains(&a.ip) && a.prefix_len == full(a.ip)))
    {
        netlink
            .address_delete_if_exists(address)
            .map_err(failed(&link.name))?;
    }
    for ip in wanted.iter().filter(|ip| {
        !found
            .iter()
            .any(|a| a.ip == **ip && a.prefix_len == full(**ip))
    }) {
        let address = Address::new(link.index, *ip, full(*ip)).nodad();
        netlink
            .address_replace(&address)
            .map_err(failed(&link.name))?;
    }
    Ok(())
}

/// Removes the host pair; whether it was there.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_host(netlink: &mut Handle) -> Result<bool> {
    let mut any = false;
    for device in [HOST_DEVICE, NET_DEVICE] {
        any |= remove(netlink, device)?;
    }
    Ok(any)
}

fn remove(netlink: &mut Handle, device: &str) -> Result<bool> {
    if netlink.find_link(device).map_err(failed(device))?.is_none() {
        return Ok(false);
    }
    netlink
        .link_delete_if_exists(device)
        .map_err(failed(device))?;
    Ok(true)
}

/// Makes the tunnel device, which takes its key per packet, and removes that of the other kind. A device of another port is made
/// anew: the kernel cannot change it. Returns the ifindex.
///
/// # Errors
/// When the kernel refuses; its words for a missing module are "not supported".
pub fn ensure_tunnel(netlink: &mut Handle, kind: TunnelKind, port: u16, mtu: u32) -> Result<u32> {
    for other in TunnelKind::ALL.into_iter().filter(|k| *k != kind) {
        remove(netlink, other.device())?;
    }
    let device = kind.device();
    let mut found = netlink.find_link(device).map_err(failed(device))?;
    if found
        .as_ref()
        .is_some_and(|link| !is_tunnel(link, kind, port))
    {
        remove(netlink, device)?;
        found = None;
    }
    if found.is_none() {
        let kind = match kind {
            TunnelKind::Vxlan => LinkKind::VxlanExternal { port },
            TunnelKind::Geneve => LinkKind::GeneveExternal { port },
        };
        found = Some(
            netlink
                .link_create(&NewLink::new(device, kind))
                .map_err(failed(device))?,
        );
        no_own_addresses(netlink, &[device]);
    }
    let up = found
        .as_ref()
        .is_some_and(|link| link.is_up() && link.mtu == mtu);
    if !up {
        netlink
            .link_change(device, &LinkChange::new().mtu(mtu).up())
            .map_err(failed(device))?;
    }
    Ok(found.map_or(0, |link| link.index))
}

fn is_tunnel(link: &Link, kind: TunnelKind, port: u16) -> bool {
    let name = match kind {
        TunnelKind::Vxlan => "vxlan",
        TunnelKind::Geneve => "geneve",
    };
    link.kind.as_deref() == Some(name) && link.tunnel_external && link.tunnel_port == Some(port)
}

/// Removes the tunnel devices of every kind; whether there was one.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_tunnels(netlink: &mut Handle) -> Result<bool> {
    let mut any = false;
    for kind in TunnelKind::ALL {
        any |= remove(netlink, kind.device())?;
    }
    Ok(any)
}

/// Which kernel parameters to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// IPv4 is on.
    pub ipv4: bool,
    /// IPv6 is on.
    pub ipv6: bool,
}

/// Sets the kernel parameters of the calling thread's network namespace that forwarding needs: forwarding itself, and no check of
/// the return path on `devices` (packets of a pod return by another way than they went). Those changed are returned.
///
/// # Errors
/// When a parameter is not as it must be and cannot be written.
pub fn ensure_sysctls(families: Families, devices: &[&str]) -> Result<Vec<String>> {
    let mut wanted = Vec::new();
    if families.ipv4 {
        wanted.push(("net/ipv4/ip_forward".to_owned(), "1"));
        let scopes = ["all", "default"]
            .into_iter()
            .chain(devices.iter().copied());
        wanted.extend(scopes.map(|d| (format!("net/ipv4/conf/{d}/rp_filter"), "0")));
    }
    if families.ipv6 {
        wanted.push(("net/ipv6/conf/all/forwarding".to_owned(), "1"));
    }
    let mut changed = Vec::new();
    for (name, value) in wanted {
        if sysctl::ensure(&name, value).map_err(failed(&name))? {
            changed.push(format!("{}={value}", name.replace('/', ".")));
        }
    }
    Ok(changed)
}
