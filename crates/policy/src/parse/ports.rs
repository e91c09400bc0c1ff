//! Protocols and ports.
use super::{Context, Result, cursor::At, l7};
use crate::rule::{Action, Direction, L7, Port, PortMatch, Protocol};
use std::sync::Arc;

/// Most ports of one item of `toPorts`.
const MAX_PORTS: usize = 40;
const PROTOCOLS: [&str; 4] = ["TCP", "UDP", "SCTP", "ANY"];

/// Where a port rule stands, which decides what it may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope {
    pub(super) direction: Direction,
    pub(super) action: Action,
    pub(super) of_nodes: bool,
}

/// One item of `toPorts`.
pub(super) fn port_rule(context: &Context, at: &At<'_>, scope: Scope) -> Result<Vec<PortMatch>> {
    let all = [
        "ports",
        "rules",
        "terminatingTLS",
        "originatingTLS",
        "serverNames",
        "listener",
    ];
    at.fields(match scope.action {
        Action::Allow => &all,
        _ => &all[..1],
    })?;
    let items = at.list("ports")?.unwrap_or_default();
    if items.is_empty() {
        return Err(at.wrong(
            "ports is empty",
            "one port or more; \"0\" for every port, or no toPorts for all traffic",
        ));
    }
    if items.len() > MAX_PORTS {
        return Err(at.wrong(
            format!("{} ports in one item", items.len()),
            format!("at most {MAX_PORTS}; write several items"),
        ));
    }
    let ports: Vec<PortMatch> = items.iter().map(port).collect::<Result<_>>()?;
    Ok(match l7::read(context, at, &ports, scope)? {
        Some(l7) => ports
            .iter()
            .flat_map(|port| with_rules(port, &l7))
            .collect(),
        None => ports,
    })
}

/// The port with its rules: of protocols that requests can be told apart in.
fn with_rules(port: &PortMatch, l7: &Arc<L7>) -> Vec<PortMatch> {
    let protocols = match port.protocol {
        Some(protocol) => vec![protocol],
        None => vec![Protocol::Tcp, Protocol::Udp],
    };
    let of = |protocol| PortMatch {
        protocol: Some(protocol),
        port: port.port.clone(),
        l7: Some(l7.clone()),
    };
    protocols.into_iter().map(of).collect()
}

fn port(at: &At<'_>) -> Result<PortMatch> {
    at.fields(&["port", "endPort", "protocol"])?;
    let protocol = match at.get("protocol") {
        None => None,
        Some(at) if at.text()?.is_empty() => None,
        Some(at) => protocol(at.one_of(&PROTOCOLS)?),
    };
    let port = match at.get("port") {
        None => Port::ALL,
        Some(at) => port_text(&at)?,
    };
    Ok(PortMatch {
        protocol,
        port: with_end(at, port)?,
        l7: None,
    })
}

/// The protocol of this name; none for `ANY`.
pub(super) fn protocol(text: &str) -> Option<Protocol> {
    Protocol::ALL
        .into_iter()
        .find(|protocol| protocol.text() == text)
}

/// A port as text or number, or a name.
fn port_text(at: &At<'_>) -> Result<Port> {
    if at.value.is_number() {
        return Ok(single(at.number(0, u16::MAX)?));
    }
    let text = at.text()?;
    if text.is_empty() {
        return Ok(Port::ALL);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse() {
            Ok(number) => Ok(single(number)),
            Err(_) => Err(at.wrong(
                format!("{text} is no port"),
                "a number from 0 to 65535, 0 for every port, or a name",
            )),
        };
    }
    name(at, text)
}

fn single(number: u16) -> Port {
    match number {
        0 => Port::ALL,
        number => Port::Range(number, number),
    }
}

/// The name of a port, in lower case.
pub(super) fn name(at: &At<'_>, text: &str) -> Result<Port> {
    let lower = text.to_ascii_lowercase();
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let right = (1..=15).contains(&lower.len())
        && lower.bytes().all(known)
        && lower.bytes().any(|byte| byte.is_ascii_lowercase())
        && !lower.starts_with('-')
        && !lower.ends_with('-')
        && !lower.contains("--");
    if right {
        return Ok(Port::Named(lower));
    }
    Err(at.wrong(
        format!("{text:?} is neither a port number nor a name"),
        "a number from 0 to 65535, or a name of at most 15 letters, digits and single hyphens with at least one letter",
    ))
}

/// The port with the end of its range, if `at` gives one.
pub(super) fn with_end(at: &At<'_>, port: Port) -> Result<Port> {
    let Some(end) = at.get("endPort") else {
        return Ok(port);
    };
    let last = end.number(0, u16::MAX)?;
    match port {
        port if last == 0 => Ok(port),
        Port::Named(name) => Err(end.wrong(
            format!("port {name:?} is a name, which has no range"),
            "no endPort, or a number as port",
        )),
        Port::Range(0, _) => Err(end.wrong(
            "there is no first port",
            "no endPort, or a port from 1 to 65535",
        )),
        Port::Range(first, _) if last < first => Err(end.wrong(
            format!("{last} is less than port {first}"),
            format!("a number from {first} to 65535"),
        )),
        Port::Range(first, _) => Ok(Port::Range(first, last)),
    }
}
