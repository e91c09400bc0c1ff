//! Neighbours: link-layer addresses of next hops.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{self as packet, NeighbourAddress, NeighbourAttribute, NeighbourMessage},
};

use crate::{Family, Handle, Mac, Request, Result, wire};

const HEADER: usize = 12;
const RTM_NEWNEIGH: u16 = 28;

/// State of a neighbour entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NeighbourState {
    /// Set by hand, never checked or forgotten.
    Permanent,
    /// Confirmed lately.
    Reachable,
    /// Not confirmed lately; checked when used.
    Stale,
    /// Any other kernel value.
    Other(u16),
}

impl NeighbourState {
    fn raw(self) -> u16 {
        match self {
            Self::Permanent => 0x80,
            Self::Reachable => 0x02,
            Self::Stale => 0x04,
            Self::Other(v) => v,
        }
    }
    fn from_raw(v: u16) -> Self {
        match v {
            0x80 => Self::Permanent,
            0x02 => Self::Reachable,
            0x04 => Self::Stale,
            v => Self::Other(v),
        }
    }
}

/// A neighbour entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The device it is reached through.
    pub index: u32,
    /// Its address.
    pub ip: IpAddr,
    /// Its link-layer address, once known.
    pub mac: Option<Mac>,
    /// State of the entry.
    pub state: NeighbourState,
}

impl Neighbour {
    /// A permanent entry.
    pub fn permanent(index: u32, ip: impl Into<IpAddr>, mac: Mac) -> Self {
        Self {
            index,
            ip: ip.into(),
            mac: Some(mac),
            state: NeighbourState::Permanent,
        }
    }

    fn object(&self) -> String {
        format!("neighbour {} on link #{}", self.ip, self.index)
    }

    fn message(&self) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = Family::of(self.ip).af();
        message.header.ifindex = self.index;
        message.header.state = packet::NeighbourState::from(self.state.raw());
        let ip = match self.ip {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        };
        message.attributes.push(NeighbourAttribute::Destination(ip));
        message.attributes.extend(
            self.mac
                .map(|m| NeighbourAttribute::LinkLayerAddress(m.0.to_vec())),
        );
        message
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER] = payload.first_chunk()?;
        Family::from_af(header[0])?;
        let (mut ip, mut mac) = (None, None);
        for (kind, value) in wire::attrs(payload, HEADER) {
            match kind {
                1 => ip = wire::read_ip(value),
                2 => mac = value.try_into().ok().map(Mac),
                _ => {}
            }
        }
        let state = NeighbourState::from_raw(wire::read_u16(&header[8..])?);
        Some(Self {
            index: wire::read_u32(&header[4..])?,
            ip: ip?,
            mac,
            state,
        })
    }
}

impl Request {
    /// Adds a neighbour or takes the place of the one that is there.
    pub fn neighbour_replace(neighbour: &Neighbour) -> Self {
        let message = RouteNetlinkMessage::NewNeighbour(neighbour.message());
        Self::new(
            "set",
            neighbour.object(),
            message,
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }
    /// Removes a neighbour.
    pub fn neighbour_delete(neighbour: &Neighbour) -> Self {
        Self::new(
            "delete",
            neighbour.object(),
            RouteNetlinkMessage::DelNeighbour(neighbour.message()),
            0,
        )
    }
}

impl Handle {
    /// Neighbours on one link or on all, in order.
    pub fn neighbours(&mut self, index: Option<u32>) -> Result<Vec<Neighbour>> {
        let message = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let mut found = self.dump(
            Request::new("list", "neighbours", message, 0),
            |kind, payload| {
                (kind == RTM_NEWNEIGH)
                    .then(|| Neighbour::read(payload))
                    .flatten()
                    .filter(|n| index.is_none_or(|i| i == n.index))
            },
        )?;
        found.sort();
        Ok(found)
    }
    /// Adds a neighbour or takes the place of the one that is there.
    pub fn neighbour_replace(&mut self, neighbour: &Neighbour) -> Result<()> {
        self.execute(Request::neighbour_replace(neighbour))
    }
    /// Removes a neighbour; content when there is none.
    pub fn neighbour_delete_if_exists(&mut self, neighbour: &Neighbour) -> Result<()> {
        self.execute(Request::neighbour_delete(neighbour).or_absent())
    }
}
