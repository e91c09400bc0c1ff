//! What must become of each question, by the reference model: packet by packet, without any map.

use std::net::IpAddr;

use ::policy::Settings;
use ::policy::reference::{Decision, End, Model, Packet};
use ::policy::rule::{CidrGroup, Direction, NamedPorts, Policy, Service};
use model::Labels;

use super::probe::{Cell, Kind};
use super::stage::{Actor, Role, Stage};

/// Policies in force, and everything else that decides.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Settings of the nodes.
    pub settings: Settings,
    /// Policies.
    pub policies: Vec<Policy>,
    /// Groups of address ranges.
    pub groups: Vec<CidrGroup>,
    /// Services.
    pub services: Vec<Service>,
}

/// One side's decision, in words.
fn side(
    rules: &Rules,
    direction: Direction,
    subject: &Actor,
    remote: &Actor,
    packet: Packet,
    ip: Option<IpAddr>,
) -> Decision {
    let model = Model {
        settings: &rules.settings,
        policies: &rules.policies,
        groups: &rules.groups,
        services: &rules.services,
    };
    let none = NamedPorts::new();
    let (subject_labels, remote_labels) =
        (seen(subject, &subject.node), seen(remote, &subject.node));
    let ports = |actor: &Actor| match &actor.role {
        Role::Pod(_, ports) => ports.clone(),
        _ => none.clone(),
    };
    let (subject_ports, remote_ports) = (ports(subject), ports(remote));
    let subject_end = End {
        labels: &subject_labels,
        ports: &subject_ports,
        address: None,
    };
    let remote_end = End {
        labels: &remote_labels,
        ports: &remote_ports,
        address: ip.filter(|_| remote.role == Role::Outside),
    };
    model.decide(direction, &subject_end, &remote_end, packet)
}

/// The labels of an actor as somebody on `node` sees them.
fn seen(actor: &Actor, node: &str) -> Labels {
    match &actor.role {
        Role::Pod(labels, _) => labels.clone(),
        Role::Host if actor.node == node => Labels::reserved("host"),
        Role::Host => Labels::reserved("remote-node"),
        Role::Outside => Labels::reserved("world"),
    }
}

/// Whether the packets of a question pass at both ends, and why.
#[must_use]
pub fn expected(stage: &Stage, rules: &Rules, cell: &Cell) -> (bool, String) {
    let (source, destination) = (&stage.actors[cell.source], &stage.actors[cell.destination]);
    let packet = Packet {
        protocol: cell.kind.number(cell.ipv4),
        port: match cell.kind {
            Kind::Icmp => {
                if cell.ipv4 {
                    8
                } else {
                    128
                }
            }
            _ => cell.port,
        },
    };
    let mut passes = true;
    let mut words = Vec::new();
    let sides = [
        (Direction::Egress, source, destination),
        (Direction::Ingress, destination, source),
    ];
    for (direction, subject, remote) in sides {
        if !subject.is_pod() {
            continue;
        }
        let decision = side(
            rules,
            direction,
            subject,
            remote,
            packet,
            remote.ip(cell.ipv4),
        );
        passes &= decision.passes();
        words.push(format!("{direction} {decision:?}"));
    }
    (passes, words.join("; "))
}
