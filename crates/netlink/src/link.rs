//! Links as the kernel tells them.

use netlink_packet_core::NLM_F_REQUEST;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkExtentMask, LinkHeader, LinkMessage},
};
use nix::errno::Errno;

use crate::{Error, Handle, Mac, Request, Result, wire};

const HEADER: usize = 16;
const RTM_NEWLINK: u16 = 16;

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Kind (`veth`, `vxlan`, `netkit` …); none for physical devices and the loopback.
    pub kind: Option<String>,
    /// Link-layer address; none for devices without one.
    pub mac: Option<Mac>,
    /// Maximum transmission unit.
    pub mtu: u32,
    /// The `IFF_*` flags.
    pub flags: u32,
    /// `ARPHRD_*` type (1 = Ethernet).
    pub arphrd: u16,
    /// The bridge, bond or VRF above.
    pub master: Option<u32>,
    /// The lower device or the other end of a pair, as an index in [`Link::peer_netns`]'s namespace.
    pub peer: Option<u32>,
    /// Id of the namespace that [`Link::peer`] lives in, when it is another one.
    pub peer_netns: Option<i32>,
    /// Kernel's alias text.
    pub alias: Option<String>,
    /// Operational state: 6 is up, 2 is down, 0 is unknown (fine for virtual devices).
    pub oper_state: u8,
    /// Number of transmit and receive queues.
    pub queues: (u32, u32),
    /// Largest segmentation-offload packet for IPv6 (and for IPv4 where the kernel has no limit of its own).
    pub gso_max_size: u32,
    /// Largest aggregated receive packet.
    pub gro_max_size: u32,
    /// UDP port of a tunnel device.
    pub tunnel_port: Option<u16>,
    /// Whether a tunnel device takes its tunnel key per packet (`external`, collect-metadata).
    pub tunnel_external: bool,
    /// Mode of a netkit device: 0 is L2, 1 is L3.
    pub netkit_mode: Option<u32>,
    /// Whether this is the primary end of a netkit pair.
    pub netkit_primary: bool,
}

/// Device flags that people ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum LinkFlag {
    /// Administratively up.
    Up = 0x1,
    /// The loopback.
    Loopback = 0x8,
    /// Operationally up.
    Running = 0x40,
    /// No address resolution.
    NoArp = 0x80,
}

impl Link {
    /// Whether a flag is set.
    pub fn has(&self, flag: LinkFlag) -> bool {
        self.flags & flag as u32 != 0
    }
    /// Administratively up.
    pub fn is_up(&self) -> bool {
        self.has(LinkFlag::Up)
    }

    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let mut link = Self {
            arphrd: wire::read_u16(payload.get(2..)?)?,
            index: wire::read_u32(payload.get(4..)?)?,
            flags: wire::read_u32(payload.get(8..)?)?,
            ..Self::default()
        };
        for (kind, value) in wire::attrs(payload, HEADER) {
            link.read_attr(kind, value);
        }
        Some(link)
    }

    fn read_attr(&mut self, kind: u16, value: &[u8]) {
        let number = || wire::read_u32(value);
        match kind {
            1 => self.mac = value.try_into().ok().map(Mac).filter(|m| !m.is_zero()),
            3 => self.name = wire::read_str(value),
            4 => self.mtu = number().unwrap_or(0),
            5 => self.peer = number().filter(|i| *i != 0),
            10 => self.master = number(),
            16 => self.oper_state = value.first().copied().unwrap_or(0),
            18 => self.read_info(value),
            20 => self.alias = Some(wire::read_str(value)),
            31 => self.queues.0 = number().unwrap_or(0),
            32 => self.queues.1 = number().unwrap_or(0),
            37 => self.peer_netns = wire::read_i32(value),
            41 => self.gso_max_size = number().unwrap_or(0),
            58 => self.gro_max_size = number().unwrap_or(0),
            _ => {}
        }
    }

    fn read_info(&mut self, info: &[u8]) {
        let find = |wanted| {
            wire::attrs(info, 0)
                .find(|(k, _)| *k == wanted)
                .map(|(_, v)| v)
        };
        self.kind = find(1).map(wire::read_str);
        let Some(data) = find(2) else { return };
        let attr = |wanted| {
            wire::attrs(data, 0)
                .find(|(k, _)| *k == wanted)
                .map(|(_, v)| v)
        };
        match self.kind.as_deref() {
            Some("vxlan") => {
                self.tunnel_port = attr(15).and_then(wire::read_u16_be);
                self.tunnel_external = attr(25).and_then(|v| v.first()).is_some_and(|v| *v != 0);
            }
            Some("geneve") => {
                self.tunnel_port = attr(5).and_then(wire::read_u16_be);
                self.tunnel_external = attr(6).is_some();
            }
            Some("netkit") => {
                self.netkit_primary = attr(2).and_then(|v| v.first()).is_some_and(|v| *v != 0);
                self.netkit_mode = attr(5).and_then(wire::read_u32);
            }
            _ => {}
        }
    }
}

/// Names a link: by index (`7`) or by name (`"eth0"`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkRef<'a> {
    /// By interface index.
    Index(u32),
    /// By interface name.
    Name(&'a str),
}

impl From<u32> for LinkRef<'_> {
    fn from(index: u32) -> Self {
        Self::Index(index)
    }
}
impl<'a> From<&'a str> for LinkRef<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}
impl<'a> From<&'a String> for LinkRef<'a> {
    fn from(name: &'a String) -> Self {
        Self::Name(name)
    }
}
impl From<&Link> for LinkRef<'_> {
    fn from(link: &Link) -> Self {
        Self::Index(link.index)
    }
}

impl LinkRef<'_> {
    pub(crate) fn object(&self) -> String {
        match self {
            Self::Index(i) => format!("link #{i}"),
            Self::Name(n) => format!("link {n}"),
        }
    }

    /// A message that addresses this link.
    pub(crate) fn message(&self) -> LinkMessage {
        let mut message = LinkMessage::default();
        match self {
            Self::Index(i) => message.header.index = *i,
            Self::Name(n) => message
                .attributes
                .push(LinkAttribute::IfName((*n).to_owned())),
        }
        message
    }

    pub(crate) fn check(&self) -> Option<&'static str> {
        match self {
            Self::Index(0) => Some("0 is not an interface index"),
            Self::Index(_) => None,
            Self::Name(n) => check_name(n),
        }
    }
}

/// What is wrong with an interface name, if anything.
pub(crate) fn check_name(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > 15 {
        return Some("an interface name has 1 to 15 bytes");
    }
    let bad = name == "."
        || name == ".."
        || name
            .bytes()
            .any(|b| b == b'/' || b == b':' || b == 0 || b.is_ascii_whitespace());
    bad.then_some("an interface name has no slash, colon or blank")
}

impl Request {
    /// Deletes a link (of a pair, both ends).
    pub fn link_delete<'a>(link: impl Into<LinkRef<'a>>) -> Self {
        let link = link.into();
        Self::new(
            "delete",
            link.object(),
            RouteNetlinkMessage::DelLink(link.message()),
            NLM_F_REQUEST,
        )
        .invalid(link.check())
    }

    pub(crate) fn link_get(link: LinkRef<'_>) -> Self {
        let mut message = link.message();
        message
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        Self::new(
            "get",
            link.object(),
            RouteNetlinkMessage::GetLink(message),
            0,
        )
        .invalid(link.check())
        .query(0)
    }
}

impl Handle {
    /// All links, by index.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let mut message = LinkMessage::default();
        message.header = LinkHeader::default();
        message
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let request = Request::new("list", "links", RouteNetlinkMessage::GetLink(message), 0);
        let mut links = self.dump(request, |kind, payload| {
            (kind == RTM_NEWLINK).then(|| Link::read(payload)).flatten()
        })?;
        links.sort_by_key(|l| l.index);
        Ok(links)
    }

    /// One link; an error that [is "not found"](Error::is_not_found) when there is none.
    pub fn link<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> Result<Link> {
        let link = link.into();
        let answer = self
            .exchange(&[Request::link_get(link)])?
            .pop()
            .unwrap_or(Ok(None))?;
        read_link(answer, link)
    }

    /// One link, or nothing when there is none.
    pub fn find_link<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> Result<Option<Link>> {
        match self.link(link) {
            Ok(link) => Ok(Some(link)),
            Err(Error::Kernel {
                errno: Errno::ENODEV,
                ..
            }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Deletes a link.
    pub fn link_delete<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> Result<()> {
        self.execute(Request::link_delete(link))
    }

    /// Deletes a link; content when there is none.
    pub fn link_delete_if_exists<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> Result<()> {
        self.execute(Request::link_delete(link).or_absent())
    }

    /// Does all of `requests` and then reads `link`, in one round trip. The first refusal is the error.
    pub fn batch_then_link<'a>(
        &mut self,
        requests: &[Request],
        link: impl Into<LinkRef<'a>>,
    ) -> Result<Link> {
        let link = link.into();
        let mut all = requests.to_vec();
        all.push(Request::link_get(link));
        let mut answer = None;
        for result in self.exchange(&all)? {
            answer = result?;
        }
        read_link(answer, link)
    }
}

fn read_link(answer: Option<Vec<u8>>, link: LinkRef<'_>) -> Result<Link> {
    answer
        .as_deref()
        .and_then(Link::read)
        .ok_or_else(|| Error::Answer {
            op: "get",
            object: link.object(),
            what: "no link in it",
        })
}
