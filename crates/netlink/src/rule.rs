//! Routing rules: which table a packet is looked up in.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

use crate::{Family, Handle, Request, Result, wire};

const HEADER: usize = 12;
const RTM_NEWRULE: u16 = 32;

/// A rule of the routing policy database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Order; lower is asked first.
    pub priority: u32,
    /// Family it works for.
    pub family: Family,
    /// Table it leads to.
    pub table: u32,
    /// Source prefix.
    pub from: Option<(IpAddr, u8)>,
    /// Destination prefix.
    pub to: Option<(IpAddr, u8)>,
    /// Packet mark and the bits of it that count.
    pub mark: Option<(u32, u32)>,
    /// Device the packet came in by.
    pub iif: Option<String>,
    /// Who made it, see [`protocol`](crate::protocol).
    pub protocol: u8,
}

impl Rule {
    /// A rule that leads everything to a table.
    pub fn new(family: Family, priority: u32, table: u32) -> Self {
        Self {
            priority,
            family,
            table,
            from: None,
            to: None,
            mark: None,
            iif: None,
            protocol: crate::protocol::BOOT,
        }
    }

    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family.af();
        message.header.action = RuleAction::ToTable;
        message.header.src_len = self.from.map_or(0, |p| p.1);
        message.header.dst_len = self.to.map_or(0, |p| p.1);
        let out = &mut message.attributes;
        out.push(RuleAttribute::Priority(self.priority));
        out.push(RuleAttribute::Table(self.table));
        out.push(RuleAttribute::Protocol(RouteProtocol::from(self.protocol)));
        out.extend(self.from.map(|p| RuleAttribute::Source(p.0)));
        out.extend(self.to.map(|p| RuleAttribute::Destination(p.0)));
        if let Some((mark, mask)) = self.mark {
            out.push(RuleAttribute::FwMark(mark));
            out.push(RuleAttribute::FwMask(mask));
        }
        out.extend(self.iif.clone().map(RuleAttribute::Iifname));
        message
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER] = payload.first_chunk()?;
        let mut rule = Self::new(Family::from_af(header[0])?, 0, u32::from(header[4]));
        rule.protocol = 0;
        let (mut mark, mut mask) = (None, u32::MAX);
        for (kind, value) in wire::attrs(payload, HEADER) {
            match kind {
                1 => rule.to = wire::read_ip(value).map(|ip| (ip, header[1])),
                2 => rule.from = wire::read_ip(value).map(|ip| (ip, header[2])),
                3 => rule.iif = Some(wire::read_str(value)),
                6 => rule.priority = wire::read_u32(value)?,
                10 => mark = wire::read_u32(value),
                15 => rule.table = wire::read_u32(value)?,
                16 => mask = wire::read_u32(value)?,
                21 => rule.protocol = value.first().copied().unwrap_or(0),
                _ => {}
            }
        }
        rule.mark = mark.map(|m| (m, mask));
        Some(rule)
    }
}

impl Request {
    /// Adds a rule; refused when the same one is there.
    pub fn rule_add(rule: &Rule) -> Self {
        let object = format!("rule {} to table {}", rule.priority, rule.table);
        Self::new(
            "add",
            object,
            RouteNetlinkMessage::NewRule(rule.message()),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }
    /// Removes a rule.
    pub fn rule_delete(rule: &Rule) -> Self {
        let object = format!("rule {} to table {}", rule.priority, rule.table);
        Self::new(
            "delete",
            object,
            RouteNetlinkMessage::DelRule(rule.message()),
            0,
        )
    }
}

impl Handle {
    /// Rules of a family in the order they are asked.
    pub fn rules(&mut self, family: Family) -> Result<Vec<Rule>> {
        let mut message = RuleMessage::default();
        message.header.family = family.af();
        let mut found = self.dump(
            Request::new("list", "rules", RouteNetlinkMessage::GetRule(message), 0),
            |kind, payload| (kind == RTM_NEWRULE).then(|| Rule::read(payload)).flatten(),
        )?;
        found.sort();
        Ok(found)
    }
    /// Adds a rule; content when the same one is there.
    pub fn rule_ensure(&mut self, rule: &Rule) -> Result<()> {
        self.execute(Request::rule_add(rule).or_exists())
    }
    /// Removes a rule; content when there is none.
    pub fn rule_delete_if_exists(&mut self, rule: &Rule) -> Result<()> {
        self.execute(Request::rule_delete(rule).or_absent())
    }
}
