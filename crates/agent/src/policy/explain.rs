//! Why a packet passes or not.
use super::{Policy, core::Core};
use abi::identity::{HOST, reserved_name};
use api::{ApiError, RulePlace, Why, WhyEnd, WhyQuery, WhySide};
use model::Labels;
use policy::{
    explain::{self, Miss},
    identity::Scope,
    kernel::{Question, Verdict, protocol_name},
    labels::NAMESPACE,
    reference::{Decision, End, Model, Packet, RuleSource},
    resolve::{Change, Engine},
    rule::{CidrGroup, Direction, ICMP, ICMPV6, NamedPorts, Protocol, Service},
};
use std::net::IpAddr;
use tables::Snapshot;

/// No reserved identity is greater.
const RESERVED_MAX: u32 = 15;
/// What a question asks about where it does not say.
const USUAL: &str = "80/TCP";

/// One end of a question.
struct Found {
    end: WhyEnd,
    labels: Labels,
    ports: NamedPorts,
    subject: Option<u32>,
}

/// All that decides about verdicts, at one moment.
pub struct Known {
    pub policies: Vec<policy::rule::Policy>,
    pub groups: Vec<CidrGroup>,
    pub services: Vec<Service>,
    pub settings: policy::Settings,
}

impl Known {
    /// What the core knows.
    pub fn of(core: &Core) -> Self {
        Self {
            policies: core.engine.policies().cloned().collect(),
            groups: core.engine.groups().cloned().collect(),
            services: core.engine.services().cloned().collect(),
            settings: core.engine.settings().clone(),
        }
    }

    /// The same, as changes for an engine.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        let policies = self.policies.iter().cloned().map(Change::Policy);
        let groups = self.groups.iter().cloned().map(Change::Group);
        let services = self.services.iter().cloned().map(Change::Service);
        policies.chain(groups).chain(services)
    }
}

impl Policy {
    /// Why a packet passes or not.
    ///
    /// # Errors
    /// An end or the traffic is not understood.
    pub fn why(&self, query: &WhyQuery) -> Result<Why, ApiError> {
        let snapshot = self.0.tables.db.snapshot();
        let (packet, traffic) = packet(&query.traffic)?;
        let source = self.find(&snapshot, &query.source)?;
        let destination = self.find(&snapshot, &query.destination)?;
        let known = Known::of(&self.core());
        let model = Model {
            settings: &known.settings,
            policies: &known.policies,
            groups: &known.groups,
            services: &known.services,
        };
        let answer = explain::why(&model, &source.as_end(), &destination.as_end(), packet);
        let core = self.core();
        let passes = answer.passes();
        let side = |side: explain::Side, subject: &Found, remote: &Found| {
            let kernel = kernel_says(&core.engine, side.direction, subject, remote, packet);
            shown(side, kernel)
        };
        Ok(Why {
            passes,
            traffic,
            egress: answer.egress.map(|one| side(one, &source, &destination)),
            ingress: answer.ingress.map(|one| side(one, &destination, &source)),
            source: source.end,
            destination: destination.end,
        })
    }

    fn find(&self, snapshot: &Snapshot, text: &str) -> Result<Found, ApiError> {
        let tables = &self.0.tables;
        let unknown = || {
            ApiError::not_found(format!("{text:?} as an end of traffic")).detail(
                "namespace/name of a pod, number of an endpoint of this node, identity:N, an address, a reserved name such as world or host, or labels joined by commas",
            )
        };
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(self.at_address(snapshot, address));
        }
        let endpoint = match text.parse::<u16>() {
            Ok(1) => return self.of_identity(snapshot, HOST, "host").ok_or_else(unknown),
            Ok(number) => tables.endpoints.get(snapshot, &number),
            Err(_) => tables.endpoints_by_pod.first(snapshot, text),
        };
        if let Some(endpoint) = endpoint {
            return Ok(self.of_endpoint(endpoint));
        }
        if let Some(number) = text.strip_prefix("identity:") {
            let id: u32 = number.parse().map_err(|_| unknown())?;
            return self.of_identity(snapshot, id, text).ok_or_else(unknown);
        }
        let plain = text.strip_prefix("reserved:").unwrap_or(text);
        let reserved = (1..=RESERVED_MAX).find(|id| reserved_name(*id) == Some(plain));
        if let Some(id) = reserved {
            return self.of_identity(snapshot, id, text).ok_or_else(unknown);
        }
        if let Some(row) = tables.cilium_endpoints.get(snapshot, text) {
            return self
                .of_identity(snapshot, row.identity, text)
                .ok_or_else(unknown);
        }
        if text.contains('=') || text.contains(':') {
            return Ok(self.of_labels(snapshot, text));
        }
        Err(unknown())
    }

    fn of_endpoint(&self, endpoint: &model::Endpoint) -> Found {
        Found {
            end: WhyEnd {
                name: endpoint.pod.to_string(),
                identity: endpoint.identity,
                labels: endpoint.labels.to_strings(),
                address: None,
                endpoint: Some(endpoint.id),
            },
            labels: endpoint.labels.clone(),
            ports: super::subjects::named_ports(&endpoint.ports),
            subject: (endpoint.subject != 0).then_some(endpoint.subject),
        }
    }

    fn of_identity(&self, snapshot: &Snapshot, id: u32, name: &str) -> Option<Found> {
        let row = self.0.tables.identities.get(snapshot, &id)?;
        let core = self.core();
        let host = id == HOST && core.options.host_firewall;
        // As a subject the host has the labels of its node.
        let own = core
            .engine
            .subjects()
            .find(|(number, _)| host && *number == HOST);
        let labels = own.map_or_else(|| row.labels.clone(), |(_, own)| own.labels.clone());
        Some(Found {
            end: WhyEnd {
                name: name.to_owned(),
                identity: id,
                labels: labels.to_strings(),
                ..WhyEnd::default()
            },
            labels,
            ports: core.inputs.ports_of(id),
            subject: host.then_some(HOST),
        })
    }

    fn at_address(&self, snapshot: &Snapshot, address: IpAddr) -> Found {
        let tables = &self.0.tables;
        if let Some(endpoint) = tables.endpoints_by_address.first(snapshot, &address) {
            return self.of_endpoint(endpoint);
        }
        let net = ipnet::IpNet::from(address);
        let mut prefix = Some(net);
        let mut row = None;
        while let (Some(net), None) = (prefix, row) {
            row = tables.prefixes.get(snapshot, &net.trunc());
            prefix = net.supernet();
        }
        let both = tables
            .identities
            .get(snapshot, &abi::identity::WORLD_IPV4)
            .is_some();
        let id = row.map_or_else(
            || policy::identity::world_of(address, both),
            |row| row.identity,
        );
        let outside = is_outside(id);
        let mut found = self
            .of_identity(snapshot, id, &address.to_string())
            .unwrap_or_else(|| self.of_labels(snapshot, "reserved:world"));
        found.end.name = address.to_string();
        found.end.address = outside.then_some(address);
        found
    }

    fn of_labels(&self, snapshot: &Snapshot, text: &str) -> Found {
        let with_source = |label: &str| match policy::labels::split_source(label) {
            (Some(_), _) => label.to_owned(),
            (None, label) => format!("k8s:{label}"),
        };
        let labels: Labels = text
            .split(',')
            .map(|label| with_source(label.trim()))
            .collect();
        let known = self.0.tables.identities_by_labels.first(snapshot, &labels);
        let id = known.map_or(0, |row| row.id);
        Found {
            end: WhyEnd {
                name: text.to_owned(),
                identity: id,
                labels: labels.to_strings(),
                ..WhyEnd::default()
            },
            ports: self.core().inputs.ports_of(id),
            labels,
            subject: None,
        }
    }
}

impl Found {
    fn as_end(&self) -> End<'_> {
        End {
            labels: &self.labels,
            ports: &self.ports,
            address: self.end.address,
        }
    }
}

/// True for what is outside the cluster, which rules on addresses mean.
fn is_outside(id: u32) -> bool {
    use abi::identity::{WORLD, WORLD_IPV4, WORLD_IPV6};
    [WORLD, WORLD_IPV4, WORLD_IPV6].contains(&id) || Scope::of(id) == Some(Scope::Local)
}

/// True for pods.
pub fn is_pod(labels: &Labels) -> bool {
    labels.get(&format!("k8s:{NAMESPACE}")).is_some()
}

fn kernel_says(
    engine: &Engine,
    direction: Direction,
    subject: &Found,
    remote: &Found,
    packet: Packet,
) -> String {
    let outcome = subject.subject.and_then(|subject| {
        engine.ask(&Question {
            subject,
            direction,
            remote: remote.end.identity,
            protocol: packet.protocol,
            port: Some(packet.port),
        })
    });
    match outcome.map(|outcome| outcome.verdict) {
        None => String::new(),
        Some(Verdict::Allow) => "allow".to_owned(),
        Some(Verdict::Deny | Verdict::Unmatched) => "deny".to_owned(),
    }
}

fn place(source: &RuleSource) -> RulePlace {
    RulePlace {
        policy: source.policy.to_string(),
        path: source.path.clone(),
        miss: String::new(),
    }
}

fn shown(side: explain::Side, kernel: String) -> WhySide {
    let (decision, rules) = match &side.decision {
        Decision::Localhost => ("localhost", &[][..]),
        Decision::Allowed(rules) => ("allowed", &rules[..]),
        Decision::AllowedVia(via) => ("allowed", &via.sources[..]),
        Decision::Denied(rules) => ("denied", &rules[..]),
        Decision::NotAllowed => ("not-allowed", &[][..]),
        Decision::NotEnforced => ("not-enforced", &[][..]),
    };
    let near = side.near.iter().map(|near| RulePlace {
        miss: match near.miss {
            Miss::Traffic => "allows this peer, but not this traffic",
            Miss::Peer => "allows this traffic, but not this peer",
        }
        .to_owned(),
        ..place(&near.source)
    });
    WhySide {
        passes: side.decision.passes(),
        decision: decision.to_owned(),
        rules: rules.iter().map(place).collect(),
        via: match &side.decision {
            Decision::AllowedVia(via) => via.to_string(),
            _ => String::new(),
        },
        near: near.collect(),
        needed: side.needed.unwrap_or_default(),
        kernel,
    }
}

/// Reads `80/TCP`, `TCP`, `8/ICMP` and the like.
fn packet(text: &str) -> Result<(Packet, String), ApiError> {
    let text = if text.is_empty() { USUAL } else { text };
    let wrong = || {
        ApiError::bad_request(format!("traffic {text:?} is not understood")).detail(
            "PORT/TCP, PORT/UDP, PORT/SCTP, TYPE/ICMP, TYPE/ICMPv6, or a protocol by name or number",
        )
    };
    let (number, protocol) = match text.split_once('/') {
        Some((number, protocol)) => (number.parse().map_err(|_| wrong())?, protocol),
        None => (0, text),
    };
    let protocol = match protocol.to_ascii_uppercase().as_str() {
        "ICMP" | "ICMPV4" => ICMP,
        "ICMPV6" => ICMPV6,
        other => match Protocol::ALL.into_iter().find(|one| one.text() == other) {
            Some(known) => known.number(),
            None => other.parse().map_err(|_| wrong())?,
        },
    };
    let name = protocol_name(protocol);
    let words = if text.contains('/') {
        format!("{number}/{name}")
    } else {
        name
    };
    let packet = Packet {
        protocol,
        port: number,
    };
    Ok((packet, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_read_as_people_write_it() {
        let read =
            |text: &str| packet(text).map(|(packet, words)| (packet.protocol, packet.port, words));
        assert_eq!(read("").unwrap(), (6, 80, "80/TCP".to_owned()));
        assert_eq!(read("53/udp").unwrap(), (17, 53, "53/UDP".to_owned()));
        assert_eq!(
            read("128/ICMPv6").unwrap(),
            (58, 128, "128/ICMPv6".to_owned())
        );
        assert_eq!(read("SCTP").unwrap(), (132, 0, "SCTP".to_owned()));
        assert!(read("80/what").is_err() && read("x/TCP").is_err());
    }
}
