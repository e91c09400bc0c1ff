//! The metrics by name: which flows each counts, and under which labels.
use super::{
    Contexts, Item, ItemError, Series,
    requests::{Http, Kafka},
};
use crate::{
    record::L7_EVENT,
    summary::{icmp4, icmp6, rcode},
    view::{End, L4, View},
};
use abi::PolicyMatch;
use api::hubble::flow::{
    DropReason, IpVersion, L7FlowType, TraceObservationPoint, TrafficDirection, Verdict,
    layer4::Protocol, layer7::Record,
};
use prometheus_client::registry::Registry;
use std::{collections::BTreeMap, sync::Arc};

/// Kinds of events in messages.
const DROP: i32 = 1;
const CAPTURE: i32 = 3;
const TRACE: i32 = 4;
const VERDICT: i32 = 5;

const NAMES: &str =
    "dns, drop, flow, flows-to-world, http, httpV2, icmp, kafka, policy, port-distribution and tcp";

/// One metric.
pub(super) enum Plugin {
    Dns {
        queries: Series,
        responses: Series,
        types: Series,
        names: bool,
        ignore_aaaa: bool,
    },
    Drop(Series),
    Flow(Series),
    ToWorld {
        series: Series,
        any_drop: bool,
        port: bool,
        syn_only: bool,
    },
    Http(Http),
    Icmp(Series),
    Kafka(Kafka),
    Policy(Series),
    Ports(Series),
    Tcp(Series),
}

impl Plugin {
    pub fn new(item: &Item, registry: &mut Registry) -> Result<Self, ItemError> {
        let error = |problem: String| item.wrong(problem);
        let mut options = item.options.clone();
        let contexts = Arc::new(Contexts::take(&mut options).map_err(error)?);
        let name = item.name.as_str();
        let requests = match name {
            "http" => Some(Self::Http(Http::new(registry, &contexts))),
            "httpV2" => {
                let exemplars = switch(&mut options, "exemplars");
                Some(Self::Http(Http::second(registry, &contexts, exemplars)))
            }
            "kafka" => Some(Self::Kafka(Kafka::new(registry, &contexts))),
            _ => None,
        };
        let mut series = |name: &str, help: &str| Series::new(registry, name, help, &contexts);
        let plugin = match name {
            "dns" => Some(Self::Dns {
                queries: series("dns_queries", "DNS questions"),
                responses: series("dns_responses", "DNS answers"),
                types: series("dns_response_types", "Records in DNS answers, by type"),
                names: switch(&mut options, "query"),
                ignore_aaaa: switch(&mut options, "ignoreAAAA"),
            }),
            "drop" => Some(Self::Drop(series(
                "drop",
                "Packets that were dropped, by reason",
            ))),
            "flow" => Some(Self::Flow(series(
                "flows_processed",
                "Flows, by what they tell of",
            ))),
            "flows-to-world" => Some(Self::ToWorld {
                series: series("flows_to_world", "Flows to what is outside of the cluster"),
                any_drop: switch(&mut options, "any-drop"),
                port: switch(&mut options, "port"),
                syn_only: switch(&mut options, "syn-only"),
            }),
            "icmp" => Some(Self::Icmp(series("icmp", "ICMP messages"))),
            "policy" => Some(Self::Policy(series("policy_verdicts", "Answers of policy"))),
            "port-distribution" => Some(Self::Ports(series(
                "port_distribution",
                "Forwarded packets, by port",
            ))),
            "tcp" => Some(Self::Tcp(series(
                "tcp_flags",
                "TCP segments that open or end connections",
            ))),
            _ => requests,
        };
        let unknown = || error(format!("there is no metric {name:?}; accepted are {NAMES}"));
        let plugin = plugin.ok_or_else(unknown)?;
        match options.keys().next() {
            Some(option) => Err(error(format!("it has no option {option:?}"))),
            None => Ok(plugin),
        }
    }

    pub fn forget(&mut self, pod: &str) {
        match self {
            Self::Dns {
                queries,
                responses,
                types,
                ..
            } => [queries, responses, types]
                .into_iter()
                .for_each(|one| one.forget(pod)),
            Self::Http(http) => http.forget(pod),
            Self::Kafka(kafka) => kafka.forget(pod),
            Self::Drop(one)
            | Self::Flow(one)
            | Self::ToWorld { series: one, .. }
            | Self::Icmp(one)
            | Self::Policy(one)
            | Self::Ports(one)
            | Self::Tcp(one) => one.forget(pod),
        }
    }

    pub fn see(&mut self, flow: &dyn View) {
        match self {
            Self::Dns { .. } => self.dns(flow),
            Self::Drop(series) => drop_of(series, flow),
            Self::Flow(series) => processed(series, flow),
            Self::ToWorld {
                series,
                any_drop,
                port,
                syn_only,
            } => to_world(series, flow, *any_drop, *port, *syn_only),
            Self::Http(http) => http.see(flow),
            Self::Icmp(series) => icmp(series, flow),
            Self::Kafka(kafka) => kafka.see(flow),
            Self::Policy(series) => policy(series, flow),
            Self::Ports(series) => ports(series, flow),
            Self::Tcp(series) => tcp(series, flow),
        }
    }

    fn dns(&mut self, flow: &dyn View) {
        let Self::Dns {
            queries,
            responses,
            types,
            names,
            ignore_aaaa,
        } = self
        else {
            return;
        };
        let Some(l7) = flow.l7() else { return };
        let Some(Record::Dns(dns)) = &l7.record else {
            return;
        };
        let qtypes = dns.qtypes.join(",");
        if *ignore_aaaa && qtypes == "AAAA" {
            return;
        }
        let query = dns.query.trim_end_matches('.');
        let denied = flow.verdict() == Verdict::Dropped as i32;
        let count = dns.ips.len().to_string();
        let code = match (denied, l7.r#type()) {
            (true, _) => "Policy denied".into(),
            (_, L7FlowType::Response) => rcode(dns.rcode),
            _ => "".into(),
        };
        let mut labels = vec![
            ("rcode", code.as_ref()),
            ("qtypes", qtypes.as_str()),
            ("ips_returned", count.as_str()),
        ];
        if *names {
            labels.push(("query", query));
        }
        if l7.r#type() != L7FlowType::Response {
            queries.count(flow, &labels);
            return;
        }
        responses.count(flow, &labels);
        for kind in &dns.rrtypes {
            let mut labels = vec![("type", kind.as_str()), ("qtypes", qtypes.as_str())];
            if *names {
                labels.push(("query", query));
            }
            types.count(flow, &labels);
        }
    }
}

/// Whether an option is there; `query=false` is not.
fn switch(options: &mut BTreeMap<String, String>, name: &str) -> bool {
    options.remove(name).is_some_and(|value| value != "false")
}

fn verdict(flow: &dyn View) -> Verdict {
    Verdict::try_from(flow.verdict()).unwrap_or(Verdict::Unknown)
}

fn was_forwarded(flow: &dyn View) -> bool {
    matches!(verdict(flow), Verdict::Forwarded | Verdict::Redirected)
}

/// The protocol by the name that users know.
fn protocol(flow: &dyn View) -> &'static str {
    if let Some(record) = flow.l7().and_then(|l7| l7.record.as_ref()) {
        return match record {
            Record::Http(_) => "HTTP",
            Record::Dns(_) => "DNS",
            Record::Kafka(_) => "Kafka",
        };
    }
    match flow.protocol() {
        Some(L4::Tcp) => "TCP",
        Some(L4::Udp) => "UDP",
        Some(L4::Sctp) => "SCTP",
        Some(L4::Icmp4) => "ICMPv4",
        Some(L4::Icmp6) => "ICMPv6",
        None => "Unknown flow",
    }
}

fn drop_of(series: &mut Series, flow: &dyn View) {
    // What policy answered is told once more by the drop that follows.
    if verdict(flow) != Verdict::Dropped || flow.event_type().0 == VERDICT {
        return;
    }
    let reason = DropReason::try_from(flow.drop_reason()).unwrap_or(DropReason::Unknown);
    series.count(
        flow,
        &[
            ("reason", reason.as_str_name()),
            ("protocol", protocol(flow)),
        ],
    );
}

fn processed(series: &mut Series, flow: &dyn View) {
    let (kind, subtype) = flow.event_type();
    let (kind, subtype) = match kind {
        L7_EVENT => ("L7", protocol(flow).to_owned()),
        DROP => ("Drop", String::new()),
        CAPTURE => ("Capture", String::new()),
        TRACE => ("Trace", point(subtype)),
        VERDICT => ("PolicyVerdict", String::new()),
        _ => ("Unknown", String::new()),
    };
    series.count(
        flow,
        &[
            ("protocol", protocol(flow)),
            ("type", kind),
            ("subtype", &subtype),
            ("verdict", verdict(flow).as_str_name()),
        ],
    );
}

/// Name of a point, as `to-endpoint`.
fn point(subtype: i32) -> String {
    let number = match subtype {
        0 => TraceObservationPoint::ToEndpoint as i32,
        number => number,
    };
    let point = TraceObservationPoint::try_from(number);
    let name = point.map_or("", |point| point.as_str_name());
    name.to_ascii_lowercase().replace('_', "-")
}

fn to_world(series: &mut Series, flow: &dyn View, any_drop: bool, port: bool, syn_only: bool) {
    let Some(endpoint) = flow.endpoint(End::Destination) else {
        return;
    };
    let has = |label: &str| endpoint.labels.iter().any(|one| one == label);
    let is_world = [
        "reserved:world",
        "reserved:world-ipv4",
        "reserved:world-ipv6",
    ]
    .into_iter()
    .any(has);
    if !is_world || has("reserved:kube-apiserver") || flow.protocol().is_none() {
        return;
    }
    let dropped = verdict(flow) == Verdict::Dropped;
    let by_policy = [
        DropReason::PolicyDenied as i32,
        DropReason::PolicyDeny as i32,
    ];
    if dropped && !any_drop && !by_policy.contains(&flow.drop_reason()) {
        return;
    }
    // Of connections only what opens them counts, or what is dropped.
    if flow.is_reply().unwrap_or(!dropped) {
        return;
    }
    let is_syn = flow.tcp_flags().is_none_or(|flags| flags & 0x12 == 2);
    if syn_only && !is_syn {
        return;
    }
    let number = flow.port(End::Destination).unwrap_or_default().to_string();
    let mut labels = vec![
        ("protocol", protocol(flow)),
        ("verdict", verdict(flow).as_str_name()),
    ];
    if port {
        labels.push(("port", &number));
    }
    series.count(flow, &labels);
}

fn icmp(series: &mut Series, flow: &dyn View) {
    if !matches!(flow.protocol(), Some(L4::Icmp4 | L4::Icmp6)) || !was_forwarded(flow) {
        return;
    }
    let whole = flow.to_flow();
    let l4 = whole.l4.as_ref().and_then(|l4| l4.protocol.as_ref());
    let (family, kind) = match l4 {
        Some(Protocol::IcmPv4(icmp)) => ("IPv4", icmp4(icmp.r#type, icmp.code)),
        Some(Protocol::IcmPv6(icmp)) => ("IPv6", icmp6(icmp.r#type, icmp.code)),
        _ => return,
    };
    series.count(flow, &[("family", family), ("type", &kind)]);
}

fn policy(series: &mut Series, flow: &dyn View) {
    let direction = match TrafficDirection::try_from(flow.direction()) {
        Ok(TrafficDirection::Ingress) => "ingress",
        Ok(TrafficDirection::Egress) => "egress",
        _ => "unknown",
    };
    let action = verdict(flow).as_str_name().to_ascii_lowercase();
    let matched = match flow.event_type().0 {
        VERDICT => {
            let number = u8::try_from(flow.policy_match()).unwrap_or(u8::MAX);
            let matched = PolicyMatch::from_u8(number).map_or("unknown", PolicyMatch::text);
            matched.to_ascii_lowercase()
        }
        L7_EVENT if flow.is_reply() != Some(true) => {
            format!("l7/{}", protocol(flow).to_ascii_lowercase())
        }
        _ => return,
    };
    series.count(
        flow,
        &[
            ("direction", direction),
            ("match", &matched),
            ("action", &action),
        ],
    );
}

fn ports(series: &mut Series, flow: &dyn View) {
    if !was_forwarded(flow) || flow.is_reply() != Some(false) || flow.protocol().is_none() {
        return;
    }
    let port = flow.port(End::Destination).unwrap_or_default().to_string();
    series.count(flow, &[("protocol", protocol(flow)), ("port", &port)]);
}

fn tcp(series: &mut Series, flow: &dyn View) {
    const FIN: u16 = 1;
    const SYN: u16 = 2;
    const RST: u16 = 4;
    const ACK: u16 = 0x10;
    let Some(flags) = flow.tcp_flags().filter(|_| was_forwarded(flow)) else {
        return;
    };
    let flag = if flags & FIN != 0 {
        "FIN"
    } else if flags & SYN != 0 {
        if flags & ACK != 0 { "SYN-ACK" } else { "SYN" }
    } else if flags & RST != 0 {
        "RST"
    } else {
        return;
    };
    let family = if flow.ip_version() == IpVersion::IPv6 as i32 {
        "IPv6"
    } else {
        "IPv4"
    };
    series.count(flow, &[("flag", flag), ("family", family)]);
}
