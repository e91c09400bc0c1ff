//! Changing links.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::DefaultNla;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags,
        LinkMessage,
    },
};

use crate::{Handle, LinkRef, Mac, Request, Result, link::check_name, wire};

const IFLA_INET_CONF: u16 = 1;
const NLA_NESTED: u16 = 0x8000;
const IPV4_DEVCONF_RP_FILTER: u16 = 8;

/// How the kernel makes IPv6 link-local addresses on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddrGenMode {
    /// From the link-layer address (the default).
    Eui64,
    /// None at all.
    None,
}

/// A set of changes to one link; what is not mentioned stays.
///
/// The kernel applies the flags before the per-family settings: to bring a device up without a link-local address, send
/// [`LinkChange::addr_gen_mode`] first and [`LinkChange::up`] in a second request (of the same batch).
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct LinkChange {
    attributes: Vec<LinkAttribute>,
    on: LinkFlags,
    off: LinkFlags,
    inet: Vec<(u16, u32)>,
    inet6: Vec<AfSpecInet6>,
    invalid: Option<&'static str>,
}

impl LinkChange {
    /// No change yet.
    pub fn new() -> Self {
        Self::default()
    }
    fn attr(mut self, attribute: LinkAttribute) -> Self {
        self.attributes.push(attribute);
        self
    }
    /// Bring it up.
    pub fn up(mut self) -> Self {
        self.on |= LinkFlags::Up;
        self
    }
    /// Take it down.
    pub fn down(mut self) -> Self {
        self.off |= LinkFlags::Up;
        self
    }
    /// Switch address resolution (ARP, NDP) on or off.
    pub fn arp(mut self, on: bool) -> Self {
        let set = if on { &mut self.off } else { &mut self.on };
        *set |= LinkFlags::Noarp;
        self
    }
    /// Set the maximum transmission unit.
    pub fn mtu(self, mtu: u32) -> Self {
        self.attr(LinkAttribute::Mtu(mtu))
    }
    /// Set the link-layer address.
    pub fn mac(self, mac: Mac) -> Self {
        self.attr(LinkAttribute::Address(mac.0.to_vec()))
    }
    /// Join a bridge, bond or VRF.
    pub fn master(self, index: u32) -> Self {
        self.attr(LinkAttribute::Controller(index))
    }
    /// Leave the bridge, bond or VRF.
    pub fn no_master(self) -> Self {
        self.attr(LinkAttribute::Controller(0))
    }
    /// Move to another network namespace (the link goes down there).
    pub fn netns(self, netns: BorrowedFd<'_>) -> Self {
        self.attr(LinkAttribute::NetNsFd(netns.as_raw_fd()))
    }
    /// Rename; the link must be addressed by index.
    pub fn name(mut self, name: &str) -> Self {
        self.invalid = self.invalid.or(check_name(name));
        self.attr(LinkAttribute::IfName(name.to_owned()))
    }
    /// Set the alias text.
    pub fn alias(self, alias: &str) -> Self {
        self.attr(LinkAttribute::IfAlias(alias.to_owned()))
    }
    /// Set the transmit queue length.
    pub fn tx_queue_len(self, len: u32) -> Self {
        self.attr(LinkAttribute::TxQueueLen(len))
    }
    /// Largest segmentation-offload packet (IPv6, and IPv4 up to 64 KiB).
    pub fn gso_max_size(self, bytes: u32) -> Self {
        self.attr(LinkAttribute::GsoMaxSize(bytes))
    }
    /// Largest aggregated receive packet (IPv6, and IPv4 up to 64 KiB).
    pub fn gro_max_size(self, bytes: u32) -> Self {
        self.attr(LinkAttribute::GroMaxSize(bytes))
    }
    /// Largest segmentation-offload packet of IPv4.
    pub fn gso_ipv4_max_size(self, bytes: u32) -> Self {
        self.attr(LinkAttribute::GsoIpv4MaxSize(bytes))
    }
    /// Largest aggregated receive packet of IPv4.
    pub fn gro_ipv4_max_size(self, bytes: u32) -> Self {
        self.attr(LinkAttribute::GroIpv4MaxSize(bytes))
    }
    /// How link-local addresses are made.
    pub fn addr_gen_mode(mut self, mode: AddrGenMode) -> Self {
        let mode = match mode {
            AddrGenMode::Eui64 => In6AddrGenMode::Eui64,
            AddrGenMode::None => In6AddrGenMode::None,
        };
        self.inet6.push(AfSpecInet6::AddrGenMode(mode));
        self
    }
    /// The device's `rp_filter`: 0 off, 1 strict, 2 loose (the greater of it and `conf.all` counts).
    pub fn rp_filter(mut self, value: u32) -> Self {
        self.inet.push((IPV4_DEVCONF_RP_FILTER, value));
        self
    }

    fn fill(&self, message: &mut LinkMessage) {
        message.header.flags = self.on;
        message.header.change_mask = self.on | self.off;
        message.attributes.extend(self.attributes.iter().cloned());
        let mut spec = Vec::new();
        if !self.inet.is_empty() {
            let conf = self
                .inet
                .iter()
                .flat_map(|(kind, value)| wire::raw_attr(*kind, &value.to_ne_bytes()))
                .collect();
            spec.push(AfSpecUnspec::Inet(vec![AfSpecInet::Other(
                DefaultNla::new(IFLA_INET_CONF | NLA_NESTED, conf),
            )]));
        }
        if !self.inet6.is_empty() {
            spec.push(AfSpecUnspec::Inet6(self.inet6.clone()));
        }
        if !spec.is_empty() {
            message.attributes.push(LinkAttribute::AfSpecUnspec(spec));
        }
    }
}

impl Request {
    /// Changes a link.
    pub fn link_change<'a>(link: impl Into<LinkRef<'a>>, change: &LinkChange) -> Self {
        let link = link.into();
        let mut message = link.message();
        change.fill(&mut message);
        Self::new(
            "change",
            link.object(),
            RouteNetlinkMessage::SetLink(message),
            0,
        )
        .invalid(link.check().or(change.invalid))
    }
}

impl Handle {
    /// Changes a link.
    pub fn link_change<'a>(
        &mut self,
        link: impl Into<LinkRef<'a>>,
        change: &LinkChange,
    ) -> Result<()> {
        self.execute(Request::link_change(link, change))
    }

    /// Brings a link up.
    pub fn link_up<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> Result<()> {
        self.link_change(link, &LinkChange::new().up())
    }

    /// Takes a link down.
    pub fn link_down<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> Result<()> {
        self.link_change(link, &LinkChange::new().down())
    }
}
