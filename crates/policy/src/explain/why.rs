//! One question, both ends, every rule that has a say.
use crate::kernel::{L4, protocol_name};
use crate::reference::{Decision, End, Model, Packet, RuleSource, Via, traffic_matches};
use crate::rule::{Action, Direction, ICMP, ICMPV6};
use model::Labels;
use std::fmt;

/// In what an entry falls short of the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// It allows this peer, but other protocols or ports.
    Traffic,
    /// It allows this protocol and port, but other peers.
    Peer,
}

/// An entry that would allow the traffic if one thing were otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Near {
    /// Which entry.
    pub source: RuleSource,
    /// What is otherwise.
    pub miss: Miss,
}

/// What is decided at one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// Seen from this end.
    pub direction: Direction,
    /// What is decided, by which rules.
    pub decision: Decision,
    /// Where nothing allows the traffic: entries that nearly do.
    pub near: Vec<Near>,
    /// Where nothing allows the traffic: what rule would.
    pub needed: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// At the sender; none where it is no endpoint, so that nothing is decided there.
    pub egress: Option<Side>,
    /// At the receiver; none likewise.
    pub ingress: Option<Side>,
}

impl Why {
    /// True if the traffic passes at both ends.
    #[must_use]
    pub fn passes(&self) -> bool {
        [&self.egress, &self.ingress]
            .into_iter()
            .flatten()
            .all(|side| side.decision.passes())
    }
}

/// Asks what becomes of a packet from `source` to `destination`, and why.
#[must_use]
pub fn why(model: &Model<'_>, source: &End<'_>, destination: &End<'_>, packet: Packet) -> Why {
    let side = |direction, subject: &End<'_>, remote: &End<'_>| {
        is_subject(subject.labels).then(|| one_side(model, direction, subject, remote, packet))
    };
    Why {
        egress: side(Direction::Egress, source, destination),
        ingress: side(Direction::Ingress, destination, source),
    }
}

/// True for those that policy can be about: pods, and what the agent runs for itself or the node.
fn is_subject(labels: &Labels) -> bool {
    let reserved = ["host", "health", "init", "ingress"];
    labels.get("k8s:io.kubernetes.pod.namespace").is_some()
        || reserved
            .iter()
            .any(|name| labels.get(&format!("reserved:{name}")).is_some())
}

fn one_side(
    model: &Model<'_>,
    direction: Direction,
    subject: &End<'_>,
    remote: &End<'_>,
    packet: Packet,
) -> Side {
    let decision = model.decide(direction, subject, remote, packet);
    let is_open = decision == Decision::NotAllowed;
    Side {
        direction,
        near: if is_open {
            near(model, direction, subject, remote, packet)
        } else {
            Vec::new()
        },
        needed: is_open.then(|| needed(direction, subject, remote, packet)),
        decision,
    }
}

fn near(
    model: &Model<'_>,
    direction: Direction,
    subject: &End<'_>,
    remote: &End<'_>,
    packet: Packet,
) -> Vec<Near> {
    let receiver = match direction {
        Direction::Ingress => subject,
        Direction::Egress => remote,
    };
    let allowing = model
        .entries(direction, subject)
        .filter(|(_, entry)| entry.action == Action::Allow);
    allowing
        .filter_map(|(source, entry)| {
            let peer = model.peers_match(entry, direction, subject, remote);
            let traffic = traffic_matches(&entry.traffic, receiver, packet);
            let miss = match (peer, traffic) {
                (true, false) => Miss::Traffic,
                (false, true) => Miss::Peer,
                _ => return None,
            };
            Some(Near { source, miss })
        })
        .collect()
}

fn needed(direction: Direction, subject: &End<'_>, remote: &End<'_>, packet: Packet) -> String {
    let (list, towards) = match direction {
        Direction::Ingress => ("ingress", "from"),
        Direction::Egress => ("egress", "to"),
    };
    format!(
        "an entry of {list} in a policy that selects {}, {towards} {}, {}",
        short(subject),
        peer(direction, remote),
        traffic(packet)
    )
}

/// The labels that tell one workload from another.
fn short(end: &End<'_>) -> String {
    let noise = [
        "k8s:io.cilium.k8s.namespace.labels.",
        "k8s:io.cilium.k8s.policy.",
    ];
    let texts: Vec<String> = end
        .labels
        .to_strings()
        .into_iter()
        .filter(|text| !noise.iter().any(|start| text.starts_with(start)))
        .collect();
    texts.join(",")
}

fn peer(direction: Direction, remote: &End<'_>) -> String {
    let prefix = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    if let Some(address) = remote.address {
        return format!("{prefix}CIDR {address} or {prefix}Entities world");
    }
    let reserved = remote
        .labels
        .iter()
        .find_map(|(key, _)| key.strip_prefix("reserved:"));
    match reserved {
        Some(name) => format!("{prefix}Entities {name}"),
        None => format!("{prefix}Endpoints {}", short(remote)),
    }
}

fn traffic(packet: Packet) -> String {
    match packet.protocol {
        ICMP | ICMPV6 => format!(
            "icmps type {} of {}, or no ports at all",
            packet.port,
            if packet.protocol == ICMP {
                "IPv4"
            } else {
                "IPv6"
            }
        ),
        6 | 17 | 132 => format!("toPorts {}", L4::port(packet.protocol, packet.port)),
        other => format!("no ports at all (protocol {})", protocol_name(other)),
    }
}

impl fmt::Display for RuleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.policy, self.path)
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind;
        if self.all {
            write!(f, "allowed by way of the proxy, every {kind} request")?;
        } else {
            write!(f, "allowed by way of the proxy: {kind} rules")?;
        }
        for (index, (policy, l7)) in self.rules.iter().enumerate() {
            let before = match index {
                0 if self.all => "; ",
                0 => " ",
                _ => ", ",
            };
            write!(f, "{before}{policy}: {}", l7.path)?;
        }
        for (policy, l7) in &self.conflicts {
            write!(
                f,
                "\n  {policy}: {} is of another kind and allows nothing here",
                l7.path
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |rules: &[RuleSource]| -> String {
            let texts: Vec<_> = rules.iter().map(RuleSource::to_string).collect();
            texts.join(", ")
        };
        write!(f, "{}: ", self.direction)?;
        match &self.decision {
            Decision::Localhost => f.write_str("allowed: the host reaches its pods")?,
            Decision::NotEnforced => {
                f.write_str("allowed: no policy denies it or asks for more")?
            }
            Decision::Allowed(rules) => write!(f, "allowed by {}", list(rules))?,
            Decision::AllowedVia(via) => write!(f, "{via}")?,
            Decision::Denied(rules) => write!(f, "denied by {}", list(rules))?,
            Decision::NotAllowed => f.write_str("denied: no rule allows it")?,
        }
        for near in &self.near {
            let what = match near.miss {
                Miss::Traffic => "allows this peer, but not this port",
                Miss::Peer => "allows this port, but not this peer",
            };
            write!(f, "\n  {} {what}", near.source)?;
        }
        match &self.needed {
            Some(needed) => write!(f, "\n  needed: {needed}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passes() { "allowed" } else { "denied" };
        f.write_str(verdict)?;
        for side in [&self.egress, &self.ingress].into_iter().flatten() {
            write!(f, "\n{side}")?;
        }
        Ok(())
    }
}
