//! Flows as questions to policy: who talked to whom, and what policies say of that.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ::policy::explain::{Why, why};
use ::policy::labels::{NAMESPACE, RESERVED};
use ::policy::reference::{Model, Packet};
use ::policy::rule::{Entity, ICMP, ICMPV6, Protocol};
use anyhow::Result;
use api::hubble::flow::{Endpoint, Flow, FlowType, Verdict, layer4};
use clap::Args;
use model::Labels;

use super::cluster::World;
use super::place::Place;
use super::traffic;
use crate::hubble::{self, ServerFlags};
use crate::kube::ClusterArgs;

/// Where flows come from.
#[derive(Clone, Debug, Default, Args)]
pub struct FlowSource {
    /// Flows that were recorded in this file, as `hypha observe -o jsonpb` prints them; - is standard input
    #[arg(long, value_name = "FILE")]
    pub flows: Option<PathBuf>,
    /// Flows that the cluster's nodes keep
    #[arg(long, conflicts_with = "flows")]
    pub live: bool,
    /// Only flows since then: an age as 1h, or a time
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// The observer that is asked for --live, as HOST:PORT; by default the relay, through the API server
    #[arg(long, value_name = "ADDRESS", requires = "live")]
    pub server: Option<String>,
}

impl FlowSource {
    /// True if flows are meant at all.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.live || self.flows.is_some()
    }

    /// Reads them.
    ///
    /// # Errors
    /// The file has something else, or nobody answers.
    pub fn read(&self, cluster: &ClusterArgs) -> Result<Vec<Flow>> {
        let kubeconfig = cluster.kubeconfig.as_ref();
        let server = ServerFlags {
            port_forward: self.server.is_none().then(|| "true".to_owned()),
            server: self.server.clone(),
            kubeconfig: kubeconfig.map(|path| path.display().to_string()),
            kube_context: cluster.context.clone(),
            kube_namespace: Some(cluster.namespace.clone()),
            ..ServerFlags::default()
        };
        hubble::recorded(self.flows.as_deref(), self.since.as_deref(), &server)
    }
}

/// Who talked to whom, by what; once, however many packets there were.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Talk {
    /// Who began.
    pub source: Party,
    /// Whom it was for.
    pub destination: Party,
    /// Number of the protocol, and port of the receiver or type of the message.
    pub protocol: u8,
    /// See `protocol`.
    pub port: u16,
}

/// One end of a flow, as the flow has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Party {
    /// `namespace/name` of a pod; empty for others.
    pub pod: String,
    /// The labels of its identity.
    pub labels: Vec<String>,
    /// Its address, of what is no pod.
    pub address: Option<IpAddr>,
}

/// How often there was such a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// That passed.
    pub passed: u64,
    /// That was dropped.
    pub dropped: u64,
}

impl Talk {
    /// What a flow tells of; none if it is not about a packet between two ends that began something.
    #[must_use]
    pub fn of(flow: &Flow) -> Option<Self> {
        if flow.r#type == FlowType::Sock as i32 || flow.l7.is_some() {
            return None;
        }
        let ip = flow.ip.as_ref()?;
        let source = Party::of(flow.source.as_ref(), &ip.source)?;
        let destination = Party::of(flow.destination.as_ref(), &ip.destination)?;
        let answers = flow.is_reply == Some(true);
        let (protocol, from, to) = match flow.l4.as_ref()?.protocol.as_ref()? {
            layer4::Protocol::Tcp(tcp) => (Protocol::Tcp, tcp.source_port, tcp.destination_port),
            layer4::Protocol::Udp(udp) => (Protocol::Udp, udp.source_port, udp.destination_port),
            layer4::Protocol::Sctp(sctp) => {
                (Protocol::Sctp, sctp.source_port, sctp.destination_port)
            }
            layer4::Protocol::IcmPv4(icmp) => {
                return Self::message(ICMP, icmp.r#type, answers, source, destination);
            }
            layer4::Protocol::IcmPv6(icmp) => {
                return Self::message(ICMPV6, icmp.r#type, answers, source, destination);
            }
        };
        let talk = |source, destination, port| {
            Some(Self {
                source,
                destination,
                protocol: protocol.number(),
                port: u16::try_from(port).ok()?,
            })
        };
        if answers {
            talk(destination, source, from)
        } else {
            talk(source, destination, to)
        }
    }

    /// An ICMP message; answers and errors belong to what was asked, which is told of on its own.
    fn message(
        protocol: u8,
        kind: u32,
        answers: bool,
        source: Party,
        destination: Party,
    ) -> Option<Self> {
        (!answers).then_some(Self {
            source,
            destination,
            protocol,
            port: u16::try_from(kind).ok()?,
        })
    }

    /// The packet that policy is asked about.
    #[must_use]
    pub const fn packet(&self) -> Packet {
        Packet {
            protocol: self.protocol,
            port: self.port,
        }
    }

    /// Port and protocol as people write them.
    #[must_use]
    pub fn traffic(&self) -> String {
        traffic::name(self.packet())
    }

    /// What policies say of it now: each end sees the other from its own node.
    #[must_use]
    pub fn ask(&self, world: &World) -> Why {
        let (source, destination) = (self.source.place(world), self.destination.place(world));
        ask(world, &source, &destination, self.packet())
    }
}

/// What policies say of a packet between two places.
#[must_use]
pub fn ask(world: &World, source: &Place<'_>, destination: &Place<'_>, packet: Packet) -> Why {
    let model = Model {
        settings: &world.settings,
        policies: &world.policies,
        groups: &world.groups,
        services: &world.services,
    };
    let side = |subject: &Place<'_>| {
        let (from, to) = (
            source.seen_from(subject.node(), world),
            destination.seen_from(subject.node(), world),
        );
        let is_open = matches!(subject, Place::Node(_)) && !world.host_firewall;
        (!is_open).then(|| why(&model, &from.end(), &to.end(), packet))
    };
    Why {
        egress: side(source).and_then(|why| why.egress),
        ingress: side(destination).and_then(|why| why.ingress),
    }
}

impl Party {
    fn of(endpoint: Option<&Endpoint>, address: &str) -> Option<Self> {
        let address = address.parse().ok()?;
        let none = Endpoint::default();
        let endpoint = endpoint.unwrap_or(&none);
        let is_pod = !endpoint.pod_name.is_empty();
        let in_namespace = endpoint
            .labels
            .iter()
            .any(|label| label.contains(NAMESPACE));
        let pod = match is_pod {
            true => format!("{}/{}", endpoint.namespace, endpoint.pod_name),
            false => String::new(),
        };
        Some(Self {
            pod,
            labels: endpoint.labels.clone(),
            // Pods are known by their names, or else by their labels.
            address: (!is_pod && !in_namespace).then_some(address),
        })
    }

    /// The same in a cluster as it is now. A pod that is gone is any pod of its labels.
    #[must_use]
    pub fn place<'a>(&self, world: &'a World) -> Place<'a> {
        let pod = world.pods.iter().find(|pod| pod.path() == self.pod);
        if let Some(pod) = pod {
            return Place::Pod(pod);
        }
        match self.address {
            Some(address) => match Place::at(address, world) {
                // Addresses of a node that is gone, or that only the node itself knows.
                Place::Outside(_) if !self.is_reserved("world") => self.class(),
                place => place,
            },
            None => Place::Labels(self.labels()),
        }
    }

    fn labels(&self) -> Labels {
        self.labels.iter().cloned().collect()
    }

    /// Whether it has one of the labels that no pod has.
    #[must_use]
    pub fn is_reserved(&self, name: &str) -> bool {
        self.labels.iter().any(|label| {
            let own = label.split_once(':');
            own.is_some_and(|(source, own)| source == RESERVED && own == name)
        })
    }

    fn class(&self) -> Place<'static> {
        let names = self.labels.iter().filter_map(|label| label.split_once(':'));
        let mut entities = names.filter_map(|(_, name)| Entity::from_text(name));
        match entities.next() {
            Some(entity) => Place::Class(entity),
            None => Place::Labels(self.labels()),
        }
    }

    /// As people know it.
    #[must_use]
    pub fn name(&self, world: &World) -> String {
        if self.pod.is_empty() {
            self.place(world).name()
        } else {
            self.pod.clone()
        }
    }
}

/// All that was talked, with how often.
#[must_use]
pub fn talks(flows: &[Flow]) -> BTreeMap<Talk, Seen> {
    let mut all: BTreeMap<Talk, Seen> = BTreeMap::new();
    for flow in flows {
        let Some(talk) = Talk::of(flow) else { continue };
        let seen = all.entry(talk).or_default();
        match flow.verdict() {
            Verdict::Dropped | Verdict::Error => seen.dropped += 1,
            _ => seen.passed += 1,
        }
    }
    all
}
