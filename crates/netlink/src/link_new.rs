//! Making links.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        self as packet, InfoBridge, InfoData, InfoGeneve, InfoKind, InfoNetkit, InfoVeth,
        InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    },
};

use crate::{Handle, Link, Mac, Request, Result, link::check_name};

/// A link to be made. Start with one of the constructors, then set fields or use the builder methods.
#[derive(Debug, Clone)]
pub struct NewLink<'a> {
    /// Name.
    pub name: String,
    /// What to make.
    pub kind: LinkKind<'a>,
    /// Link-layer address; the kernel chooses one otherwise.
    pub mac: Option<Mac>,
    /// Maximum transmission unit; the kernel's default otherwise.
    pub mtu: Option<u32>,
    /// Transmit and receive queues; the kernel's default otherwise.
    pub queues: Option<(u32, u32)>,
    /// Bring it up at once. (IPv6 then makes a link-local address; see [`AddrGenMode`](crate::AddrGenMode).)
    pub up: bool,
    /// No address resolution.
    pub no_arp: bool,
    /// Bridge, bond or VRF to join.
    pub master: Option<u32>,
    /// Make it in this network namespace instead of the handle's.
    pub netns: Option<BorrowedFd<'a>>,
}

/// What kind of link to make.
#[derive(Debug, Clone)]
pub enum LinkKind<'a> {
    /// A device that swallows what it is sent.
    Dummy,
    /// An Ethernet bridge.
    Bridge,
    /// A pair of Ethernet devices.
    Veth(Peer<'a>),
    /// A pair of netkit devices.
    Netkit {
        /// With or without Ethernet headers.
        mode: NetkitMode,
        /// What happens to packets of the primary end when no program is attached.
        policy: NetkitPolicy,
        /// The same for the peer.
        peer_policy: NetkitPolicy,
        /// The other end.
        peer: Peer<'a>,
    },
    /// VXLAN that takes and shows the tunnel key per packet (collect-metadata).
    VxlanExternal {
        /// UDP port.
        port: u16,
    },
    /// Geneve that takes and shows the tunnel key per packet (collect-metadata).
    GeneveExternal {
        /// UDP port.
        port: u16,
    },
}

/// The other end of a pair. It cannot be made up at once: the kernel refuses that until the pair is joined.
#[derive(Debug, Clone, Default)]
pub struct Peer<'a> {
    /// Name.
    pub name: String,
    /// Link-layer address; the kernel chooses one otherwise.
    pub mac: Option<Mac>,
    /// Maximum transmission unit; the kernel's default otherwise.
    pub mtu: Option<u32>,
    /// Transmit and receive queues; the kernel's default otherwise.
    pub queues: Option<(u32, u32)>,
    /// Make it in this network namespace instead of the handle's.
    pub netns: Option<BorrowedFd<'a>>,
}

impl<'a> Peer<'a> {
    /// A peer of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
    /// In another network namespace.
    #[must_use]
    pub fn in_netns(mut self, netns: BorrowedFd<'a>) -> Self {
        self.netns = Some(netns);
        self
    }
    /// With this link-layer address.
    #[must_use]
    pub fn mac(mut self, mac: Mac) -> Self {
        self.mac = Some(mac);
        self
    }
    /// With this maximum transmission unit.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }
}

/// Whether netkit packets carry Ethernet headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetkitMode {
    /// With Ethernet headers.
    L2,
    /// Plain IP packets.
    #[default]
    L3,
}

/// What a netkit end does with packets while no program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetkitPolicy {
    /// Pass them on.
    #[default]
    Forward,
    /// Drop them.
    Blackhole,
}

impl From<NetkitMode> for packet::NetkitMode {
    fn from(mode: NetkitMode) -> Self {
        match mode {
            NetkitMode::L2 => Self::L2,
            NetkitMode::L3 => Self::L3,
        }
    }
}

impl From<NetkitPolicy> for packet::NetkitPolicy {
    fn from(policy: NetkitPolicy) -> Self {
        match policy {
            NetkitPolicy::Forward => Self::Pass,
            NetkitPolicy::Blackhole => Self::Drop,
        }
    }
}

impl<'a> NewLink<'a> {
    /// A link of any kind.
    pub fn new(name: impl Into<String>, kind: LinkKind<'a>) -> Self {
        let name = name.into();
        Self {
            name,
            kind,
            mac: None,
            mtu: None,
            queues: None,
            up: false,
            no_arp: false,
            master: None,
            netns: None,
        }
    }
    /// A dummy device.
    pub fn dummy(name: impl Into<String>) -> Self {
        Self::new(name, LinkKind::Dummy)
    }
    /// A bridge.
    pub fn bridge(name: impl Into<String>) -> Self {
        Self::new(name, LinkKind::Bridge)
    }
    /// A veth pair.
    pub fn veth(name: impl Into<String>, peer: Peer<'a>) -> Self {
        Self::new(name, LinkKind::Veth(peer))
    }
    /// A netkit pair; this end is the primary one, to which programs of both directions are attached.
    pub fn netkit(name: impl Into<String>, mode: NetkitMode, peer: Peer<'a>) -> Self {
        let (policy, peer_policy) = (NetkitPolicy::Forward, NetkitPolicy::Forward);
        Self::new(
            name,
            LinkKind::Netkit {
                mode,
                policy,
                peer_policy,
                peer,
            },
        )
    }
    /// A collect-metadata VXLAN device.
    pub fn vxlan_external(name: impl Into<String>, port: u16) -> Self {
        Self::new(name, LinkKind::VxlanExternal { port })
    }
    /// A collect-metadata Geneve device.
    pub fn geneve_external(name: impl Into<String>, port: u16) -> Self {
        Self::new(name, LinkKind::GeneveExternal { port })
    }
    /// With this link-layer address.
    #[must_use]
    pub fn mac(mut self, mac: Mac) -> Self {
        self.mac = Some(mac);
        self
    }
    /// With this maximum transmission unit.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }
    /// Up at once.
    #[must_use]
    pub fn up(mut self) -> Self {
        self.up = true;
        self
    }
    /// Without address resolution.
    #[must_use]
    pub fn no_arp(mut self) -> Self {
        self.no_arp = true;
        self
    }
    /// Made in another network namespace.
    #[must_use]
    pub fn in_netns(mut self, netns: BorrowedFd<'a>) -> Self {
        self.netns = Some(netns);
        self
    }

    fn check(&self) -> Option<&'static str> {
        let peer = match &self.kind {
            LinkKind::Veth(peer) | LinkKind::Netkit { peer, .. } => check_name(&peer.name),
            _ => None,
        };
        check_name(&self.name).or(peer)
    }

    fn message(&self) -> LinkMessage {
        let mut message = LinkMessage::default();
        let attributes = &mut message.attributes;
        attributes.push(LinkAttribute::IfName(self.name.clone()));
        common(attributes, self.mac, self.mtu, self.queues, self.netns);
        attributes.extend(self.master.map(LinkAttribute::Controller));
        let mut info = vec![LinkInfo::Kind(self.kind.name())];
        info.extend(self.kind.data().map(LinkInfo::Data));
        attributes.push(LinkAttribute::LinkInfo(info));
        set_flag(&mut message, LinkFlags::Up, self.up);
        set_flag(&mut message, LinkFlags::Noarp, self.no_arp);
        message
    }
}

fn common(
    out: &mut Vec<LinkAttribute>,
    mac: Option<Mac>,
    mtu: Option<u32>,
    queues: Option<(u32, u32)>,
    netns: Option<BorrowedFd<'_>>,
) {
    out.extend(mac.map(|m| LinkAttribute::Address(m.0.to_vec())));
    out.extend(mtu.map(LinkAttribute::Mtu));
    if let Some((tx, rx)) = queues {
        out.push(LinkAttribute::NumTxQueues(tx));
        out.push(LinkAttribute::NumRxQueues(rx));
    }
    out.extend(netns.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())));
}

fn set_flag(message: &mut LinkMessage, flag: LinkFlags, on: bool) {
    if on {
        message.header.flags |= flag;
        message.header.change_mask |= flag;
    }
}

impl Peer<'_> {
    fn message(&self) -> LinkMessage {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(self.name.clone()));
        common(
            &mut message.attributes,
            self.mac,
            self.mtu,
            self.queues,
            self.netns,
        );
        message
    }
}

impl LinkKind<'_> {
    fn name(&self) -> InfoKind {
        match self {
            Self::Dummy => InfoKind::Dummy,
            Self::Bridge => InfoKind::Bridge,
            Self::Veth(_) => InfoKind::Veth,
            Self::Netkit { .. } => InfoKind::Netkit,
            Self::VxlanExternal { .. } => InfoKind::Vxlan,
            Self::GeneveExternal { .. } => InfoKind::Geneve,
        }
    }

    fn data(&self) -> Option<InfoData> {
        Some(match self {
            Self::Dummy => return None,
            Self::Bridge => InfoData::Bridge(Vec::<InfoBridge>::new()),
            Self::Veth(peer) => InfoData::Veth(InfoVeth::Peer(peer.message())),
            Self::Netkit {
                mode,
                policy,
                peer_policy,
                peer,
            } => InfoData::Netkit(vec![
                InfoNetkit::Mode((*mode).into()),
                InfoNetkit::Policy((*policy).into()),
                InfoNetkit::PeerPolicy((*peer_policy).into()),
                InfoNetkit::Peer(peer.message()),
            ]),
            Self::VxlanExternal { port } => InfoData::Vxlan(vec![
                InfoVxlan::CollectMetadata(true),
                InfoVxlan::Learning(false),
                InfoVxlan::Port(*port),
                InfoVxlan::UDPZeroCsumTX(true),
                InfoVxlan::UDPZeroCsumRX(true),
            ]),
            Self::GeneveExternal { port } => InfoData::Geneve(vec![
                InfoGeneve::CollectMetadata,
                InfoGeneve::Port(*port),
                InfoGeneve::UdpZeroCsum6Tx(true),
                InfoGeneve::UdpZeroCsum6Rx(true),
            ]),
        })
    }
}

impl Request {
    /// Makes a link; refused when the name is taken.
    pub fn link_create(link: &NewLink<'_>) -> Self {
        let object = format!("{} link {}", link.kind.name(), link.name);
        Self::new(
            "create",
            object,
            RouteNetlinkMessage::NewLink(link.message()),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .invalid(link.check())
    }
}

impl Handle {
    /// Makes a link and returns it; refused when the name is taken. (Not for links made in another namespace: use
    /// [`Handle::execute`] with [`Request::link_create`] there.)
    pub fn link_create(&mut self, link: &NewLink<'_>) -> Result<Link> {
        self.batch_then_link(&[Request::link_create(link)], &link.name)
    }

    /// As [`Handle::link_create`], but returns the link that has the name already, whatever it is made of.
    pub fn link_ensure(&mut self, link: &NewLink<'_>) -> Result<Link> {
        self.batch_then_link(&[Request::link_create(link).or_exists()], &link.name)
    }
}
