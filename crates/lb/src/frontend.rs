//! What follows from services for this node: addresses that are served, and by whom.
use crate::input::Protocol;
use crate::settings::Forwarding;
use ipnet::IpNet;
use model::Text;
use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

/// Whom a frontend serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// What comes from outside, and everybody where there is no frontend of the other scope.
    External,
    /// What comes from the cluster.
    Internal,
}

/// Address, port, protocol and scope: what packets are looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// The address; the unspecified one stands for every address of the node.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The scope.
    pub scope: Scope,
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Place(self.address, self.port).fmt(f)?;
        write!(f, "/{}", self.protocol)?;
        match self.scope {
            Scope::External => Ok(()),
            Scope::Internal => f.write_str("/i"),
        }
    }
}

impl FromStr for FrontendKey {
    type Err = String;

    /// As it is printed: `10.0.0.1:80`, `[fd00::1]:53/UDP`, `192.0.2.1:80/TCP/i`. Without a protocol TCP is meant.
    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, scope) = match text.strip_suffix("/i") {
            Some(rest) => (rest, Scope::Internal),
            None => (text, Scope::External),
        };
        let (place, protocol) = rest.split_once('/').unwrap_or((rest, "TCP"));
        let place = place.parse::<std::net::SocketAddr>().ok();
        let protocol = Protocol::parse(&protocol.to_ascii_uppercase());
        match (place, protocol) {
            (Some(place), Some(protocol)) => Ok(Self {
                address: place.ip(),
                port: place.port(),
                protocol,
                scope,
            }),
            _ => Err(format!(
                "{text:?} is no frontend; accepted: an address and a port as 10.96.0.10:53, [fd00::10]:53/UDP or 192.0.2.1:30080/TCP/i"
            )),
        }
    }
}

/// Prints `10.0.0.1:80` or `[fd00::1]:80`.
struct Place(IpAddr, u16);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.0, self.1).fmt(f)
    }
}

/// Kind of a frontend. Of two that claim the same key, the earlier kind of this list gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Of a local redirect policy.
    LocalRedirect,
    /// An address in the cluster.
    ClusterIp,
    /// An address of a load balancer.
    LoadBalancer,
    /// One of `externalIPs`.
    ExternalIps,
    /// A port of the node.
    NodePort,
    /// A port of a pod on the node.
    HostPort,
}

impl Kind {
    /// The name that users see.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::LocalRedirect => "LocalRedirect",
            Self::ClusterIp => "ClusterIP",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalIps => "ExternalIPs",
            Self::NodePort => "NodePort",
            Self::HostPort => "HostPort",
        }
    }
}

/// Where a frontend comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A service, by its key.
    Service(Text),
    /// A pod with ports on the host, by its key.
    Pod(Text),
    /// A local redirect policy, by its key.
    Redirect(Text),
}

impl Owner {
    /// `namespace/name` of the object.
    #[must_use]
    pub fn key(&self) -> &Text {
        match self {
            Self::Service(key) | Self::Pod(key) | Self::Redirect(key) => key,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, key) = match self {
            Self::Service(key) => ("service", key),
            Self::Pod(key) => ("pod", key),
            Self::Redirect(key) => ("local redirect policy", key),
        };
        write!(f, "{kind} {key}")
    }
}

/// How a backend is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// Any of them.
    #[default]
    Random,
    /// By a table that all nodes have in common.
    Maglev,
}

impl Algorithm {
    /// The algorithm of this name: `random` or `maglev`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "random" => Self::Random,
            "maglev" => Self::Maglev,
            _ => return None,
        })
    }

    /// The number in the upper 8 bits of a frontend's value.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Random => 1,
            Self::Maglev => 2,
        }
    }
}

/// State of a backend. Where it has several, one for each of its services, the earliest of this list counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Takes new connections.
    Active,
    /// About to end: keeps its connections, and gets new ones only where nothing is active.
    Terminating,
    /// Its health check fails: gets new connections only where nothing else is left.
    Quarantined,
    /// Keeps its connections and gets no new ones.
    Maintenance,
}

impl State {
    /// All states.
    pub const ALL: [Self; 4] = [
        Self::Active,
        Self::Terminating,
        Self::Quarantined,
        Self::Maintenance,
    ];

    /// The word that users see.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Terminating => "terminating",
            Self::Quarantined => "quarantined",
            Self::Maintenance => "maintenance",
        }
    }
}

/// Address, port and protocol of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Place(self.address, self.port).fmt(f)?;
        write!(f, "/{}", self.protocol)
    }
}

/// Weight where none is given.
pub const WEIGHT: u16 = 100;

/// A backend of a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// What packets are sent to.
    pub key: BackendKey,
    /// Its state.
    pub state: State,
    /// Its share, against [`WEIGHT`]; Maglev tables follow it.
    pub weight: u16,
    /// Its zone; empty where unknown.
    pub zone: Text,
    /// Its node; empty where unknown.
    pub node: Text,
}

/// The backends of a frontend, those of several frontends of a service at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Those that get new connections, in the order of their keys. All have the same state.
    pub used: Vec<Backend>,
    /// Those that only keep the connections they have.
    pub kept: Vec<Backend>,
}

impl Selection {
    /// What is left to serve: no backend is as good as [`State::Active`].
    #[must_use]
    pub fn state(&self) -> State {
        self.used.first().map_or(State::Active, |first| first.state)
    }
}

/// Which clients may use a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRanges {
    /// The ranges are those that may not; else the only ones that may.
    pub deny: bool,
    /// The ranges, sorted.
    pub nets: Vec<IpNet>,
}

/// Bits of a frontend, by the numbers under which tools show them.
pub mod flags {
    /// One of `externalIPs`.
    pub const EXTERNAL_IP: u16 = 0x1;
    /// A port of the node.
    pub const NODE_PORT: u16 = 0x2;
    /// Only backends of this node for what comes from outside.
    pub const EXTERNAL_LOCAL: u16 = 0x4;
    /// A port of a pod on the node.
    pub const HOST_PORT: u16 = 0x8;
    /// Clients keep their backend.
    pub const AFFINITY: u16 = 0x10;
    /// An address of a load balancer.
    pub const LOAD_BALANCER: u16 = 0x20;
    /// Served to the outside.
    pub const ROUTABLE: u16 = 0x40;
    /// Clients are checked against ranges.
    pub const SOURCE_RANGES: u16 = 0x80;
    /// Of a local redirect policy.
    pub const LOCAL_REDIRECT: u16 = 0x1 << 8;
    /// The backends are of the other family.
    pub const NAT46X64: u16 = 0x2 << 8;
    /// On a loopback address of the host.
    pub const LOOPBACK: u16 = 0x8 << 8;
    /// Only backends of this node for what comes from the cluster.
    pub const INTERNAL_LOCAL: u16 = 0x10 << 8;
    /// There is one frontend for the outside and one for the cluster.
    pub const TWO_SCOPES: u16 = 0x20 << 8;
    /// The ranges are those that are refused.
    pub const SOURCE_RANGES_DENY: u16 = 0x40 << 8;
    /// Backends answer directly.
    pub const DSR: u16 = 0x80 << 8;
}

/// An address that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// What packets are looked up by.
    pub key: FrontendKey,
    /// Kind.
    pub kind: Kind,
    /// Where it comes from.
    pub owner: Owner,
    /// Age of its owner: the older one wins.
    pub created: i64,
    /// Name of the service's port.
    pub port_name: Text,
    /// Bits of [`flags`].
    pub flags: u16,
    /// Seconds for which a client keeps its backend.
    pub affinity: Option<u32>,
    /// How a backend is chosen.
    pub algorithm: Algorithm,
    /// Which clients may use it; none: all.
    pub ranges: Option<Arc<SourceRanges>>,
    /// Who serves it.
    pub selection: Arc<Selection>,
}

impl Frontend {
    /// True if a flag is set.
    #[must_use]
    pub const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// How packets go to backends of other nodes.
    #[must_use]
    pub const fn forwarding(&self) -> Forwarding {
        if self.has(flags::DSR) {
            Forwarding::Dsr
        } else {
            Forwarding::Snat
        }
    }

    /// What decides between claims of the same key: the least one wins.
    #[must_use]
    pub fn rank(&self) -> (Kind, i64, &Owner, &str) {
        (self.kind, self.created, &self.owner, &self.port_name)
    }
}
