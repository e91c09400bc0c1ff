//! Addresses of links.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
};

use crate::{Family, Handle, Request, Result, Scope, wire};

const HEADER: usize = 8;
const RTM_NEWADDR: u16 = 20;

/// An address on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Length of its prefix.
    pub prefix_len: u8,
    /// The link it is on.
    pub index: u32,
    /// Where it is valid.
    pub scope: Scope,
    /// IPv6: usable at once, without duplicate address detection.
    pub nodad: bool,
    /// Do not make a route for the prefix.
    pub no_prefix_route: bool,
    /// When listed: duplicate address detection has not ended, or it failed.
    pub tentative: bool,
    /// When listed: never expires.
    pub permanent: bool,
    /// When listed: an address after the first of its subnet.
    pub secondary: bool,
}

impl Address {
    /// A global address with a prefix length.
    pub fn new(index: u32, ip: impl Into<IpAddr>, prefix_len: u8) -> Self {
        Self {
            ip: ip.into(),
            prefix_len,
            index,
            scope: Scope::Global,
            nodad: false,
            no_prefix_route: false,
            tentative: false,
            permanent: true,
            secondary: false,
        }
    }
    /// A single address (`/32` or `/128`), usable at once.
    pub fn host(index: u32, ip: impl Into<IpAddr>) -> Self {
        let ip = ip.into();
        Self {
            nodad: true,
            ..Self::new(index, ip, Family::of(ip).bits())
        }
    }
    /// With this scope.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }
    /// Usable at once.
    #[must_use]
    pub fn nodad(mut self) -> Self {
        self.nodad = true;
        self
    }

    fn object(&self) -> String {
        format!(
            "address {}/{} on link #{}",
            self.ip, self.prefix_len, self.index
        )
    }

    fn message(&self) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = Family::of(self.ip).af();
        message.header.prefix_len = self.prefix_len;
        message.header.scope = AddressScope::from(self.scope.raw());
        message.header.index = self.index;
        message.attributes.push(AddressAttribute::Local(self.ip));
        message.attributes.push(AddressAttribute::Address(self.ip));
        let mut flags = AddressFlags::empty();
        flags.set(AddressFlags::Nodad, self.nodad && self.ip.is_ipv6());
        flags.set(AddressFlags::Noprefixroute, self.no_prefix_route);
        if !flags.is_empty() {
            message.attributes.push(AddressAttribute::Flags(flags));
        }
        message
    }

    fn check(&self) -> Option<&'static str> {
        (self.prefix_len > Family::of(self.ip).bits())
            .then_some("the prefix is longer than the address")
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER] = payload.first_chunk()?;
        Family::from_af(header[0])?;
        let (mut local, mut address, mut flags) = (None, None, u32::from(header[2]));
        for (kind, value) in wire::attrs(payload, HEADER) {
            match kind {
                1 => address = wire::read_ip(value),
                2 => local = wire::read_ip(value),
                8 => flags = wire::read_u32(value).unwrap_or(flags),
                _ => {}
            }
        }
        let flag = |f: AddressFlags| flags & f.bits() != 0;
        Some(Self {
            ip: local.or(address)?,
            prefix_len: header[1],
            index: wire::read_u32(&header[4..])?,
            scope: Scope::from_raw(header[3]),
            nodad: flag(AddressFlags::Nodad),
            no_prefix_route: flag(AddressFlags::Noprefixroute),
            tentative: flag(AddressFlags::Tentative) || flag(AddressFlags::Dadfailed),
            permanent: flag(AddressFlags::Permanent),
            secondary: flag(AddressFlags::Secondary),
        })
    }
}

impl Request {
    /// Adds an address; refused when the link has it.
    pub fn address_add(address: &Address) -> Self {
        let message = RouteNetlinkMessage::NewAddress(address.message());
        Self::new("add", address.object(), message, NLM_F_CREATE | NLM_F_EXCL)
            .invalid(address.check())
    }
    /// Adds an address or changes the flags of the one that is there.
    pub fn address_replace(address: &Address) -> Self {
        let message = RouteNetlinkMessage::NewAddress(address.message());
        Self::new(
            "set",
            address.object(),
            message,
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .invalid(address.check())
    }
    /// Removes an address.
    pub fn address_delete(address: &Address) -> Self {
        let message = RouteNetlinkMessage::DelAddress(address.message());
        Self::new("delete", address.object(), message, 0).invalid(address.check())
    }
}

impl Handle {
    /// Addresses of one link or of all, ordered by link, family and address.
    pub fn addresses(&mut self, index: Option<u32>) -> Result<Vec<Address>> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let request = Request::new("list", "addresses", message, 0);
        let mut found = self.dump(request, |kind, payload| {
            (kind == RTM_NEWADDR)
                .then(|| Address::read(payload))
                .flatten()
                .filter(|a| index.is_none_or(|i| i == a.index))
        })?;
        found.sort_by_key(|a| (a.index, a.ip, a.prefix_len));
        Ok(found)
    }
    /// Adds an address; refused when the link has it.
    pub fn address_add(&mut self, address: &Address) -> Result<()> {
        self.execute(Request::address_add(address))
    }
    /// Adds an address or changes the flags of the one that is there.
    pub fn address_replace(&mut self, address: &Address) -> Result<()> {
        self.execute(Request::address_replace(address))
    }
    /// Removes an address.
    pub fn address_delete(&mut self, address: &Address) -> Result<()> {
        self.execute(Request::address_delete(address))
    }
    /// Removes an address; content when it is not there.
    pub fn address_delete_if_exists(&mut self, address: &Address) -> Result<()> {
        self.execute(Request::address_delete(address).or_absent())
    }
}
