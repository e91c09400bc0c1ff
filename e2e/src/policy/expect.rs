//! What must become of each question, by the reference model: packet by packet, without any map.

use std::collections::BTreeSet;
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
    /// Rules by address mean nodes, too.
    pub nodes_by_address: bool,
    /// Policy is asked for nodes, too.
    pub host_firewall: bool,
    /// Actors for whom all passes, since it is only watched.
    pub audited: BTreeSet<String>,
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
    let remote_labels = seen(remote, &subject.node);
    let subject_labels = match subject.role {
        Role::Host => node_labels(&subject.name),
        _ => seen(subject, &subject.node),
    };
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
        address: ip.filter(|_| match remote.role {
            Role::Outside => true,
            Role::Host => rules.nodes_by_address,
            Role::Pod(..) => false,
        }),
    };
    model.decide(direction, &subject_end, &remote_end, packet)
}

/// The labels by which policies of nodes select a node of the lab.
fn node_labels(name: &str) -> Labels {
    let own = [
        "reserved:host".to_owned(),
        format!("k8s:kubernetes.io/hostname={name}"),
    ];
    own.into_iter().collect()
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
        let is_asked = subject.is_pod() || rules.host_firewall && subject.role == Role::Host;
        if !is_asked {
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
        passes &= decision.passes() || rules.audited.contains(&subject.name);
        words.push(format!("{direction} {decision:?}"));
    }
    (passes, words.join("; "))
}
