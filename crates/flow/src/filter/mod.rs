//! Which flows somebody wants.
//!
//! Within one filter every field that is set has to match, by any of its values; of several filters one suffices. A filter that says
//! something meaningless is refused as a whole, with the field and what is accepted.
mod cel;
mod compile;
mod labels;
mod patterns;

pub use labels::Selector;

use crate::view::{End, L4, View};
use api::hubble::flow::{
    EventTypeFilter, FlowFilter, NetworkInterface, Verdict, Workload, layer7::Record,
};
use ipnet::IpNet;
use patterns::{Glob, Prefixed, StatusCode};
use regex::Regex;
use std::fmt;

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct FilterError {
    /// The field of the filter, by its name in messages.
    pub field: &'static str,
    /// What is wrong with which value, and what is accepted.
    pub problem: String,
}

/// Layers of protocols by which flows are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    L4(L4),
    Icmp,
    Http,
    Dns,
    Kafka,
}

/// One field of a filter: any of its values suffices.
enum Test {
    Uuid(Vec<String>),
    Ip(End, Vec<IpNet>),
    IpXlated(Vec<IpNet>),
    Pod(End, Vec<Prefixed>),
    Fqdn(End, Vec<Glob>),
    Label(End, Vec<Selector>),
    Service(End, Vec<Prefixed>),
    Workload(End, Vec<Workload>),
    Cluster(End, Vec<String>),
    Identity(End, Vec<u32>),
    Port(End, Vec<u16>),
    Direction(Vec<i32>),
    Verdict(Vec<i32>),
    DropReason(Vec<i32>),
    Interface(Vec<NetworkInterface>),
    EventType(Vec<EventTypeFilter>),
    StatusCode(Vec<StatusCode>),
    Protocol(Vec<Protocol>),
    Reply(Vec<bool>),
    DnsQuery(Vec<Regex>),
    Method(Vec<String>),
    Path(Vec<Regex>),
    Url(Vec<Regex>),
    Header(Vec<(String, String)>),
    TcpFlags(Vec<u16>),
    NodeName(Vec<Glob>),
    NodeLabels(Vec<Selector>),
    IpVersion(Vec<i32>),
    TraceId(Vec<String>),
    /// Dear: they come last.
    Cel(Vec<cel::Expression>),
}

/// A filter, ready to be asked.
struct Filter(Vec<Test>);

/// Lists of filters: what is wanted, and what of that is not.
#[derive(Default)]
pub struct Filters {
    wanted: Vec<Filter>,
    unwanted: Vec<Filter>,
}

impl fmt::Debug for Filters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filters")
            .field("wanted", &self.wanted.len())
            .field("unwanted", &self.unwanted.len())
            .finish()
    }
}

impl Filters {
    /// Filters of what is wanted (nothing: all is), and of what is left out of that.
    ///
    /// # Errors
    /// One of them says something meaningless.
    pub fn compile(wanted: &[FlowFilter], unwanted: &[FlowFilter]) -> Result<Self, FilterError> {
        let all = |filters: &[FlowFilter]| -> Result<Vec<Filter>, FilterError> {
            filters.iter().map(compile::filter).collect()
        };
        Ok(Self {
            wanted: all(wanted)?,
            unwanted: all(unwanted)?,
        })
    }

    /// Whether a flow is wanted.
    #[must_use]
    pub fn passes(&self, flow: &(impl View + ?Sized)) -> bool {
        (self.wanted.is_empty() || self.wanted.iter().any(|filter| filter.matches(flow)))
            && !self.unwanted.iter().any(|filter| filter.matches(flow))
    }
}

impl Filter {
    fn matches(&self, flow: &(impl View + ?Sized)) -> bool {
        self.0.iter().all(|test| test.holds(flow))
    }
}

impl Test {
    fn holds(&self, flow: &(impl View + ?Sized)) -> bool {
        match self {
            Self::Uuid(ids) => ids.iter().any(|id| *id == flow.uuid()),
            Self::Ip(end, nets) => flow.ip(*end).is_some_and(|ip| contain(nets, ip)),
            Self::IpXlated(nets) => flow.ip_xlated().is_some_and(|ip| contain(nets, ip)),
            Self::Pod(end, pods) => flow.endpoint(*end).is_some_and(|endpoint| {
                pods.iter()
                    .any(|pod| pod.matches(&endpoint.namespace, &endpoint.pod_name))
            }),
            Self::Fqdn(end, globs) => {
                let names = flow.names(*end);
                names
                    .iter()
                    .any(|name| globs.iter().any(|glob| glob.matches(name)))
            }
            Self::Label(end, selectors) => flow
                .endpoint(*end)
                .is_some_and(|endpoint| selectors.iter().any(|one| one.matches(&endpoint.labels))),
            Self::Service(end, services) => flow.service(*end).is_some_and(|service| {
                services
                    .iter()
                    .any(|one| one.matches(&service.namespace, &service.name))
            }),
            Self::Workload(end, wanted) => flow.endpoint(*end).is_some_and(|endpoint| {
                let is = |has: &Workload| wanted.iter().any(|wanted| is_workload(wanted, has));
                endpoint.workloads.iter().any(is)
            }),
            Self::Cluster(end, names) => flow
                .endpoint(*end)
                .is_some_and(|endpoint| names.contains(&endpoint.cluster_name)),
            Self::Identity(end, ids) => flow
                .endpoint(*end)
                .is_some_and(|endpoint| ids.contains(&endpoint.identity)),
            Self::Port(end, ports) => flow.port(*end).is_some_and(|port| ports.contains(&port)),
            Self::Direction(all) => all.contains(&flow.direction()),
            Self::Verdict(all) => all.contains(&flow.verdict()),
            Self::DropReason(all) => all.contains(&flow.drop_reason()),
            Self::Interface(all) => flow.interface().is_some_and(|(index, name)| {
                all.iter().any(|one| {
                    (one.index == 0 || one.index == index)
                        && (one.name.is_empty() || one.name == name)
                })
            }),
            Self::EventType(all) => {
                let (kind, subtype) = flow.event_type();
                all.iter().any(|one| {
                    one.r#type == kind && (!one.match_sub_type || one.sub_type == subtype)
                })
            }
            Self::Protocol(all) => all.iter().any(|one| is_protocol(*one, flow)),
            Self::Reply(all) => is_reply(flow).is_some_and(|reply| all.contains(&reply)),
            Self::TcpFlags(all) => flow
                .tcp_flags()
                .is_some_and(|flags| all.iter().any(|wanted| flags & wanted == *wanted)),
            Self::NodeName(globs) => globs.iter().any(|glob| glob.matches(flow.node_name())),
            Self::NodeLabels(all) => all.iter().any(|one| one.matches(flow.node_labels())),
            Self::IpVersion(all) => all.contains(&flow.ip_version()),
            Self::TraceId(ids) => ids.iter().any(|id| *id == flow.trace_id()),
            Self::Cel(all) => {
                let message = cel::message(&flow.to_flow());
                message.is_some_and(|message| all.iter().any(|one| one.holds(&message)))
            }
            Self::StatusCode(_)
            | Self::DnsQuery(_)
            | Self::Method(_)
            | Self::Path(_)
            | Self::Url(_)
            | Self::Header(_) => flow
                .l7()
                .and_then(|l7| l7.record.as_ref())
                .is_some_and(|record| self.holds_for(record)),
        }
    }

    fn holds_for(&self, record: &Record) -> bool {
        match (self, record) {
            (Self::DnsQuery(all), Record::Dns(dns)) => {
                all.iter().any(|one| one.is_match(&dns.query))
            }
            (Self::StatusCode(all), Record::Http(http)) => {
                all.iter().any(|one| one.matches(http.code))
            }
            (Self::Method(all), Record::Http(http)) => {
                all.iter().any(|one| one.eq_ignore_ascii_case(&http.method))
            }
            (Self::Path(all), Record::Http(http)) => {
                let path = patterns::path_of(&http.url);
                all.iter().any(|one| one.is_match(path))
            }
            (Self::Url(all), Record::Http(http)) => all.iter().any(|one| one.is_match(&http.url)),
            (Self::Header(all), Record::Http(http)) => http.headers.iter().any(|header| {
                all.iter()
                    .any(|(key, value)| *key == header.key && *value == header.value)
            }),
            _ => false,
        }
    }
}

fn contain(nets: &[IpNet], ip: std::net::IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&ip))
}

fn is_workload(wanted: &Workload, has: &Workload) -> bool {
    (wanted.name.is_empty() || wanted.name == has.name)
        && (wanted.kind.is_empty() || wanted.kind == has.kind)
}

fn is_protocol(wanted: Protocol, flow: &(impl View + ?Sized)) -> bool {
    let record = || flow.l7().and_then(|l7| l7.record.as_ref());
    match wanted {
        Protocol::L4(l4) => flow.protocol() == Some(l4),
        Protocol::Icmp => matches!(flow.protocol(), Some(L4::Icmp4 | L4::Icmp6)),
        Protocol::Http => matches!(record(), Some(Record::Http(_))),
        Protocol::Dns => matches!(record(), Some(Record::Dns(_))),
        Protocol::Kafka => matches!(record(), Some(Record::Kafka(_))),
    }
}

/// What was dropped was not seen to be an answer.
fn is_reply(flow: &(impl View + ?Sized)) -> Option<bool> {
    let dropped = flow.verdict() == Verdict::Dropped as i32;
    flow.is_reply().or(dropped.then_some(false))
}

#[cfg(test)]
mod tests;
