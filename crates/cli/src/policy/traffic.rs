//! Protocols and ports on the command line and in answers.
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use ::policy::kernel::protocol_name;
use ::policy::reference::Packet;
use ::policy::rule::{Direction, ICMP, ICMPV6, NamedPorts, Policy, Port, Protocol, Traffic};

/// What people may write.
pub const ACCEPTED: &str =
    "80/TCP, 53/UDP, 9999/SCTP, a port's name as http, or ICMP with or without a type as 8/ICMP";

/// A protocol that no rule names; it stands for all of these.
const OTHER: u8 = 255;

/// The packet that `text` means; `named` are the ports of the receiver that have names.
///
/// # Errors
/// What is wrong, and what is accepted.
pub fn parse(text: &str, ipv4: bool, named: &NamedPorts) -> Result<Packet, String> {
    let wrong = || format!("`{text}` is no port; accepted: {ACCEPTED}");
    let (port, protocol) = match text.split_once('/') {
        Some((port, protocol)) => (Some(port), Some(protocol)),
        None if text.eq_ignore_ascii_case("icmp") => (None, Some(text)),
        None => (Some(text), None),
    };
    if protocol.is_some_and(|name| name.to_ascii_lowercase().starts_with("icmp")) {
        let (number, echo) = if ipv4 { (ICMP, 8) } else { (ICMPV6, 128) };
        let kind = port
            .map_or(Ok(echo), str::parse::<u8>)
            .map_err(|_| wrong())?;
        return Ok(Packet {
            protocol: number,
            port: kind.into(),
        });
    }
    let wanted = match protocol {
        None => None,
        Some(name) => Some(
            Protocol::ALL
                .into_iter()
                .find(|known| known.text().eq_ignore_ascii_case(name))
                .ok_or_else(wrong)?,
        ),
    };
    let port = port.ok_or_else(wrong)?;
    if let Ok(port) = port.parse::<u16>() {
        return Ok(Packet {
            protocol: wanted.unwrap_or(Protocol::Tcp).number(),
            port,
        });
    }
    let known = named
        .iter()
        .find(|known| known.name == port && wanted.is_none_or(|wanted| wanted == known.protocol));
    match known {
        Some(known) => Ok(Packet {
            protocol: known.protocol.number(),
            port: known.port,
        }),
        None if named.is_empty() => Err(format!("{}; the receiver names no ports", wrong())),
        None => {
            let names: Vec<&str> = named.iter().map(|known| known.name.as_str()).collect();
            Err(format!(
                "{}; ports that the receiver names: {}",
                wrong(),
                names.join(", ")
            ))
        }
    }
}

/// As people write it.
#[must_use]
pub fn name(packet: Packet) -> String {
    match packet.protocol {
        OTHER => "other protocols".to_owned(),
        ICMP | ICMPV6 => format!("{} type {}", protocol_name(packet.protocol), packet.port),
        other => format!("{}/{}", packet.port, protocol_name(other)),
    }
}

/// A run of ports (or types) of one protocol within which no rule begins or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    protocol: u8,
    ports: RangeInclusive<u16>,
}

impl Piece {
    /// One packet out of it, which stands for all.
    #[must_use]
    pub fn packet(&self) -> Packet {
        Packet {
            protocol: self.protocol,
            port: *self.ports.start(),
        }
    }
}

/// All traffic, cut wherever a rule could cut it.
#[must_use]
pub fn pieces(policies: &[Policy], named: &NamedPorts, ipv4: bool) -> Vec<Piece> {
    let mut cuts: BTreeMap<u8, BTreeSet<u32>> = Protocol::ALL
        .into_iter()
        .map(|protocol| (protocol.number(), BTreeSet::from([0])))
        .collect();
    let icmp = if ipv4 { ICMP } else { ICMPV6 };
    cuts.insert(icmp, BTreeSet::from([0]));
    cuts.insert(OTHER, BTreeSet::from([0]));
    let mut cut = |protocol: Option<u8>, first: u16, last: u16| {
        for (number, at) in &mut cuts {
            let is_transport = Protocol::ALL.iter().any(|known| known.number() == *number);
            if protocol.map_or(is_transport, |wanted| wanted == *number) {
                at.extend([u32::from(first), u32::from(last) + 1]);
            }
        }
    };
    for port in named {
        cut(Some(port.protocol.number()), port.port, port.port);
    }
    let rules = policies.iter().flat_map(|policy| &policy.rules);
    let entries = rules.flat_map(|rule| {
        Direction::BOTH
            .into_iter()
            .flat_map(|direction| &rule.section(direction).entries)
    });
    for entry in entries {
        match &entry.traffic {
            Traffic::All => {}
            Traffic::Ports(ports) => {
                for port in ports {
                    if let Port::Range(first, last) = port.port {
                        cut(port.protocol.map(Protocol::number), first, last);
                    }
                }
            }
            Traffic::Icmp(kinds) => {
                for kind in kinds {
                    let number = if kind.v6 { ICMPV6 } else { ICMP };
                    cut(Some(number), kind.kind.into(), kind.kind.into());
                }
            }
        }
    }
    cuts.into_iter()
        .flat_map(|(protocol, at)| cut_up(protocol, &at))
        .collect()
}

fn cut_up(protocol: u8, at: &BTreeSet<u32>) -> Vec<Piece> {
    let last = last_of(protocol);
    let starts: Vec<u16> = at
        .iter()
        .filter_map(|start| u16::try_from(*start).ok())
        .filter(|start| *start <= last)
        .collect();
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([last]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| Piece {
            protocol,
            ports: *start..=end,
        })
        .collect()
}

const fn last_of(protocol: u8) -> u16 {
    match protocol {
        ICMP | ICMPV6 => 255,
        _ => u16::MAX,
    }
}

/// Pieces as people write them, those that touch as one.
#[must_use]
pub fn names(pieces: &[&Piece]) -> Vec<String> {
    let mut joined: Vec<Piece> = Vec::new();
    for piece in pieces {
        match joined.last_mut() {
            Some(before)
                if before.protocol == piece.protocol
                    && u32::from(*before.ports.end()) + 1 == u32::from(*piece.ports.start()) =>
            {
                before.ports = *before.ports.start()..=*piece.ports.end();
            }
            _ => joined.push((*piece).clone()),
        }
    }
    joined.iter().map(piece_name).collect()
}

fn piece_name(piece: &Piece) -> String {
    let protocol = protocol_name(piece.protocol);
    let (first, last) = (*piece.ports.start(), *piece.ports.end());
    match piece.protocol {
        OTHER => "other protocols".to_owned(),
        number if (first, last) == (0, last_of(number)) => protocol,
        ICMP | ICMPV6 if first == last => format!("{protocol} type {first}"),
        ICMP | ICMPV6 => format!("{protocol} types {first}-{last}"),
        _ if first == last => format!("{first}/{protocol}"),
        _ => format!("{first}-{last}/{protocol}"),
    }
}

#[cfg(test)]
mod tests {
    use ::policy::rule::NamedPort;
    use serde_json::json;

    use super::*;

    fn named() -> NamedPorts {
        let port = NamedPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 8080,
        };
        [port].into()
    }

    #[test]
    fn packets_are_read() {
        for (text, wanted) in [
            ("80/TCP", "80/TCP"),
            ("80", "80/TCP"),
            ("53/udp", "53/UDP"),
            ("9/sctp", "9/SCTP"),
            ("http", "8080/TCP"),
            ("http/TCP", "8080/TCP"),
            ("icmp", "ICMP type 8"),
            ("3/ICMP", "ICMP type 3"),
        ] {
            assert_eq!(name(parse(text, true, &named()).unwrap()), wanted);
        }
        assert_eq!(
            name(parse("ICMP", false, &named()).unwrap()),
            "ICMPv6 type 128"
        );
        for text in [
            "", "80/", "/TCP", "70000", "https", "80/GRE", "http/UDP", "300/ICMP",
        ] {
            let error = parse(text, true, &named()).unwrap_err();
            assert!(error.contains("accepted: 80/TCP"), "{error}");
        }
    }

    #[test]
    fn all_traffic_is_cut_where_rules_begin_and_end() {
        let object = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "p"},
            "spec": {"endpointSelector": {}, "ingress": [
                {"toPorts": [{"ports": [{"port": "80", "endPort": 90, "protocol": "TCP"}, {"port": "53"}]}]},
                {"icmps": [{"fields": [{"type": 8}]}]}]}});
        let policy = ::policy::parse::policy(&object, Default::default()).unwrap();
        let all = pieces(&[policy], &named(), true);
        let of = |protocol: u8| {
            let of: Vec<&Piece> = all
                .iter()
                .filter(|piece| piece.protocol == protocol)
                .collect();
            let apart: Vec<String> = of.iter().map(|piece| piece_name(piece)).collect();
            assert_eq!(
                names(&of).len(),
                1,
                "the pieces of a protocol touch: {apart:?}"
            );
            apart
        };
        assert_eq!(
            of(6),
            [
                "0-52/TCP",
                "53/TCP",
                "54-79/TCP",
                "80-90/TCP",
                "91-8079/TCP",
                "8080/TCP",
                "8081-65535/TCP"
            ]
        );
        assert_eq!(of(17), ["0-52/UDP", "53/UDP", "54-65535/UDP"]);
        assert_eq!(of(1), ["ICMP types 0-7", "ICMP type 8", "ICMP types 9-255"]);
        assert_eq!(of(OTHER), ["other protocols"]);
    }
}
