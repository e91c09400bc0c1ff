//! Routes.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{
        RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
    },
};

use crate::{Family, Handle, Request, Result, Scope, wire};

const HEADER: usize = 12;
const RTM_NEWROUTE: u16 = 24;
const RTM_F_CLONED: u32 = 0x200;
const RTNH_F_ONLINK: u32 = 4;

/// Well-known routing tables.
pub mod table {
    /// The table that ordinary routes go to.
    pub const MAIN: u32 = 254;
    /// The kernel's own addresses.
    pub const LOCAL: u32 = 255;
}

/// Well-known route origins (`proto` in `ip route`).
pub mod protocol {
    /// The kernel itself.
    pub const KERNEL: u8 = 2;
    /// Set up at boot; what `ip route add` uses.
    pub const BOOT: u8 = 3;
    /// An administrator.
    pub const STATIC: u8 = 4;
}

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum RouteKind {
    /// Forward it.
    #[default]
    Unicast,
    /// Deliver it here.
    Local,
    /// Drop it silently.
    Blackhole,
    /// Answer "unreachable".
    Unreachable,
    /// Any other kernel value.
    Other(u8),
}

impl RouteKind {
    fn raw(self) -> u8 {
        match self {
            Self::Unicast => 1,
            Self::Local => 2,
            Self::Blackhole => 6,
            Self::Unreachable => 7,
            Self::Other(v) => v,
        }
    }
    fn from_raw(v: u8) -> Self {
        match v {
            1 => Self::Unicast,
            2 => Self::Local,
            6 => Self::Blackhole,
            7 => Self::Unreachable,
            v => Self::Other(v),
        }
    }
}

/// A route. Two routes that differ only in gateway, device and metrics replace each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Destination prefix; the unspecified address with length 0 for the default route.
    pub dst: (IpAddr, u8),
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Device, by index.
    pub dev: Option<u32>,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// Path MTU for this destination.
    pub mtu: Option<u32>,
    /// Table.
    pub table: u32,
    /// Origin, see [`protocol`].
    pub protocol: u8,
    /// Scope; ignored by IPv6.
    pub scope: Scope,
    /// Preference among routes to the same prefix; lower wins.
    pub priority: Option<u32>,
    /// What it does.
    pub kind: RouteKind,
    /// Take the next hop to be on the link even when no route says so.
    pub onlink: bool,
}

impl Route {
    /// A unicast route of the main table to a prefix.
    pub fn to(ip: impl Into<IpAddr>, prefix_len: u8) -> Self {
        Self {
            dst: (ip.into(), prefix_len),
            gateway: None,
            dev: None,
            src: None,
            mtu: None,
            table: table::MAIN,
            protocol: protocol::BOOT,
            scope: Scope::Global,
            priority: None,
            kind: RouteKind::Unicast,
            onlink: false,
        }
    }
    /// A route to one address.
    pub fn to_host(ip: impl Into<IpAddr>) -> Self {
        let ip = ip.into();
        Self::to(ip, Family::of(ip).bits())
    }
    /// The default route of a family.
    pub fn default_of(family: Family) -> Self {
        match family {
            Family::V4 => Self::to(Ipv4Addr::UNSPECIFIED, 0),
            Family::V6 => Self::to(Ipv6Addr::UNSPECIFIED, 0),
        }
    }
    /// Through this next hop.
    #[must_use]
    pub fn via(mut self, gateway: impl Into<IpAddr>) -> Self {
        self.gateway = Some(gateway.into());
        self
    }
    /// Through this device.
    #[must_use]
    pub fn dev(mut self, index: u32) -> Self {
        self.dev = Some(index);
        self
    }
    /// With this preferred source address.
    #[must_use]
    pub fn src(mut self, src: impl Into<IpAddr>) -> Self {
        self.src = Some(src.into());
        self
    }
    /// With this path MTU.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }
    /// In this table.
    #[must_use]
    pub fn table(mut self, table: u32) -> Self {
        self.table = table;
        self
    }
    /// Of this origin.
    #[must_use]
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.protocol = protocol;
        self
    }
    /// Of this scope.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }
    /// With this preference.
    #[must_use]
    pub fn priority(mut self, priority: u32) -> Self {
        self.priority = Some(priority);
        self
    }
    /// Of this kind.
    #[must_use]
    pub fn kind(mut self, kind: RouteKind) -> Self {
        self.kind = kind;
        self
    }
    /// The next hop is on the link.
    #[must_use]
    pub fn onlink(mut self) -> Self {
        self.onlink = true;
        self
    }
    /// Family of the destination.
    pub fn family(&self) -> Family {
        Family::of(self.dst.0)
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = self.family().af();
        header.destination_prefix_length = self.dst.1;
        header.table = u8::try_from(self.table).unwrap_or(0);
        header.protocol = RouteProtocol::from(self.protocol);
        header.scope = RouteScope::from(self.scope.raw());
        header.kind = RouteType::from(self.kind.raw());
        header.flags.set(RouteFlags::Onlink, self.onlink);
        let out = &mut message.attributes;
        if self.dst.1 > 0 {
            out.push(RouteAttribute::Destination(self.dst.0.into()));
        }
        out.extend(self.gateway.map(|g| RouteAttribute::Gateway(g.into())));
        out.extend(self.dev.map(RouteAttribute::Oif));
        out.extend(self.src.map(|s| RouteAttribute::PrefSource(s.into())));
        out.extend(self.priority.map(RouteAttribute::Priority));
        out.extend(
            self.mtu
                .map(|m| RouteAttribute::Metrics(vec![RouteMetric::Mtu(m)])),
        );
        if self.table > 255 {
            out.push(RouteAttribute::Table(self.table));
        }
        message
    }

    fn check(&self) -> Option<&'static str> {
        let family = self.family();
        if self.dst.1 > family.bits() {
            return Some("the prefix is longer than the address");
        }
        let mixed = |ip: Option<IpAddr>| ip.is_some_and(|ip| Family::of(ip) != family);
        (mixed(self.gateway) || mixed(self.src))
            .then_some("gateway and source must be of the destination's family")
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER] = payload.first_chunk()?;
        let flags = wire::read_u32(&header[8..])?;
        if flags & RTM_F_CLONED != 0 {
            return None;
        }
        let mut route = Self::default_of(Family::from_af(header[0])?);
        route.dst.1 = header[1];
        route.table = u32::from(header[4]);
        route.protocol = header[5];
        route.scope = Scope::from_raw(header[6]);
        route.kind = RouteKind::from_raw(header[7]);
        route.onlink = flags & RTNH_F_ONLINK != 0;
        for (kind, value) in wire::attrs(payload, HEADER) {
            route.read_attr(kind, value);
        }
        Some(route)
    }

    fn read_attr(&mut self, kind: u16, value: &[u8]) {
        match kind {
            1 => self.dst.0 = wire::read_ip(value).unwrap_or(self.dst.0),
            4 => self.dev = wire::read_u32(value),
            5 => self.gateway = wire::read_ip(value),
            6 => self.priority = wire::read_u32(value),
            7 => self.src = wire::read_ip(value),
            8 => {
                self.mtu = wire::attrs(value, 0)
                    .find(|(k, _)| *k == 2)
                    .and_then(|(_, v)| wire::read_u32(v))
            }
            15 => self.table = wire::read_u32(value).unwrap_or(self.table),
            // RTA_VIA: a next hop of the other family.
            18 => self.gateway = value.get(2..).and_then(wire::read_ip),
            _ => {}
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.dst.0, self.dst.1)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(dev) = self.dev {
            write!(f, " dev #{dev}")?;
        }
        if self.table != table::MAIN {
            write!(f, " table {}", self.table)?;
        }
        Ok(())
    }
}

/// Which routes to list; an absent field takes all.
#[derive(Debug, Clone, Copy, Default)]
pub struct RouteFilter {
    /// Only this family.
    pub family: Option<Family>,
    /// Only this table.
    pub table: Option<u32>,
    /// Only through this device.
    pub dev: Option<u32>,
    /// Only of this origin.
    pub protocol: Option<u8>,
}

impl RouteFilter {
    /// The main table of both families.
    pub fn main() -> Self {
        Self {
            table: Some(table::MAIN),
            ..Self::default()
        }
    }
    fn takes(&self, route: &Route) -> bool {
        self.family.is_none_or(|f| f == route.family())
            && self.table.is_none_or(|t| t == route.table)
            && self.dev.is_none_or(|d| Some(d) == route.dev)
            && self.protocol.is_none_or(|p| p == route.protocol)
    }
}

impl Request {
    fn route(op: &'static str, route: &Route, message: RouteNetlinkMessage, flags: u16) -> Self {
        Self::new(op, format!("route {route}"), message, flags).invalid(route.check())
    }
    /// Adds a route; refused when the prefix has one of that priority.
    pub fn route_add(route: &Route) -> Self {
        Self::route(
            "add",
            route,
            RouteNetlinkMessage::NewRoute(route.message()),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }
    /// Adds a route or takes the place of the one to that prefix.
    pub fn route_replace(route: &Route) -> Self {
        Self::route(
            "set",
            route,
            RouteNetlinkMessage::NewRoute(route.message()),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }
    /// Removes a route; gateway, device and origin must fit where they are given.
    pub fn route_delete(route: &Route) -> Self {
        Self::route(
            "delete",
            route,
            RouteNetlinkMessage::DelRoute(route.message()),
            0,
        )
    }
}

impl Handle {
    /// Routes, in order of destination. The kernel's own cached entries are left out.
    pub fn routes(&mut self, filter: &RouteFilter) -> Result<Vec<Route>> {
        let mut message = RouteMessage::default();
        if let Some(family) = filter.family {
            message.header.address_family = family.af();
        }
        let request = Request::new("list", "routes", RouteNetlinkMessage::GetRoute(message), 0);
        let mut found = self.dump(request, |kind, payload| {
            (kind == RTM_NEWROUTE)
                .then(|| Route::read(payload))
                .flatten()
                .filter(|r| filter.takes(r))
        })?;
        found.sort();
        Ok(found)
    }
    /// Adds a route; refused when the prefix has one of that priority.
    pub fn route_add(&mut self, route: &Route) -> Result<()> {
        self.execute(Request::route_add(route))
    }
    /// Adds a route or takes the place of the one to that prefix.
    pub fn route_replace(&mut self, route: &Route) -> Result<()> {
        self.execute(Request::route_replace(route))
    }
    /// Removes a route.
    pub fn route_delete(&mut self, route: &Route) -> Result<()> {
        self.execute(Request::route_delete(route))
    }
    /// Removes a route; content when there is none.
    pub fn route_delete_if_exists(&mut self, route: &Route) -> Result<()> {
        self.execute(Request::route_delete(route).or_absent())
    }
}
