//! From flags in their order to filters of the flow API.
use std::collections::BTreeSet;
use std::fmt::Write as _;

use abi::TracePoint;
use abi::identity::reserved_name;
use api::hubble::flow::{
    DropReason, EventTypeFilter, FlowFilter, HttpHeader, IpVersion, NetworkInterface, TcpFlags,
    TrafficDirection, Verdict, Workload, flow_filter,
};
use api::hubble::json::{self, Unknown};

use crate::hubble::settings;

/// Both lists of a request: flows that match one of `allow` are wanted, those that match one of `deny` are not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filters {
    /// None: every flow.
    pub allow: Vec<FlowFilter>,
    /// None: no flow.
    pub deny: Vec<FlowFilter>,
}

impl Filters {
    /// Reads flags in the order in which they stand.
    ///
    /// # Errors
    /// One is wrong, or does not go with another: in one line.
    pub fn of(flags: &[(&'static str, String)]) -> Result<Self, String> {
        let mut filters = Self::default();
        let mut lists = [Builder::default(), Builder::default()];
        let mut negate = false;
        for (name, value) in flags {
            match *name {
                "not" => {
                    if negate {
                        return Err(
                            "two --not follow each other; accepted: --not before a filter"
                                .to_owned(),
                        );
                    }
                    negate = true;
                    continue;
                }
                "allowlist" => filters.allow.push(raw(name, value)?),
                "denylist" => filters.deny.push(raw(name, value)?),
                _ => lists[usize::from(negate)]
                    .set(name, value)
                    .map_err(|text| format!("invalid value '{value}' for '--{name}': {text}"))?,
            }
            if negate && matches!(*name, "allowlist" | "denylist") {
                return Err(format!(
                    "--not cannot stand before --{name}; the other list is its opposite"
                ));
            }
            negate = false;
        }
        if negate {
            return Err(
                "--not stands last; accepted: --not before the filter that it negates".to_owned(),
            );
        }
        let [allow, deny] = lists;
        filters.allow.extend(allow.filters()?);
        filters.deny.extend(deny.filters()?);
        Ok(filters)
    }

    /// Both lists as they can be given to `--allowlist` and `--denylist`.
    pub fn show(&self) -> Result<String, json::JsonError> {
        let mut text = String::new();
        for (name, list) in [("allowlist", &self.allow), ("denylist", &self.deny)] {
            if list.is_empty() {
                continue;
            }
            let _ = writeln!(text, "{name}:");
            for filter in list {
                let quoted = json::to_string(filter)?.replace('\'', "''");
                let _ = writeln!(text, "    - '{quoted}'");
            }
        }
        Ok(text)
    }
}

fn raw(name: &str, text: &str) -> Result<FlowFilter, String> {
    json::from_str(text, Unknown::Refuse).map_err(|error| {
        format!("--{name}: {error}; accepted: a FlowFilter as {{\"source_pod\":[\"ns/pod\"]}}")
    })
}

/// Which end of a flow a flag is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    From,
    To,
    Either,
}

/// Names of pods or services, and the namespaces that were given beside them.
#[derive(Clone, Debug, Default)]
struct Names {
    pods: Vec<String>,
    services: Vec<String>,
    namespaces: Vec<String>,
    everywhere: bool,
}

/// One list: either of two filters matches, which differ where a flag means either end.
#[derive(Clone, Debug, Default)]
struct Builder {
    left: FlowFilter,
    right: FlowFilter,
    /// By end: from, to, either.
    names: [Names; 3],
    used: BTreeSet<String>,
}

impl Builder {
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let (end, what) = match name.split_once('-') {
            Some(("from", what)) => (End::From, what),
            Some(("to", what)) => (End::To, what),
            _ => (End::Either, name),
        };
        self.exclusive(end, name, what)?;
        if value.is_empty() {
            return Err("it is empty".to_owned());
        }
        match what {
            "pod" => self.names[end as usize].pods.push(value.to_owned()),
            "service" => self.names[end as usize].services.push(value.to_owned()),
            "namespace" => self.names[end as usize].namespaces.push(value.to_owned()),
            "all-namespaces" => {
                self.names[end as usize].everywhere = settings::switch(value)?;
            }
            "ip" | "fqdn" | "label" | "port" | "identity" | "workload" | "cluster" => {
                self.ends(end, what, value)?;
            }
            _ => {
                plain(&mut self.left, what, value)?;
                plain(&mut self.right, what, value)?;
            }
        }
        Ok(())
    }

    /// `--pod a --from-pod b` would mean two things at once.
    fn exclusive(&mut self, end: End, name: &str, what: &str) -> Result<(), String> {
        let others: &[String] = &match end {
            End::Either => [format!("from-{what}"), format!("to-{what}")].to_vec(),
            _ => vec![what.to_owned()],
        };
        if let Some(other) = others.iter().find(|other| self.used.contains(*other)) {
            return Err(format!("it cannot be combined with --{other}"));
        }
        self.used.insert(name.to_owned());
        Ok(())
    }

    fn ends(&mut self, end: End, what: &str, value: &str) -> Result<(), String> {
        let (left, right) = (&mut self.left, &mut self.right);
        match end {
            End::From => {
                source(left, what, value)?;
                source(right, what, value)
            }
            End::To => {
                destination(left, what, value)?;
                destination(right, what, value)
            }
            End::Either => {
                source(left, what, value)?;
                destination(right, what, value)
            }
        }
    }

    fn filters(mut self) -> Result<Vec<FlowFilter>, String> {
        for end in [End::From, End::To, End::Either] {
            let (pods, services) = self.resolve(end)?;
            let from = [pods.clone(), services.clone()];
            if end != End::To {
                self.left.source_pod.extend(from[0].clone());
                self.left.source_service.extend(from[1].clone());
            }
            match end {
                End::From => {
                    self.right.source_pod.extend(pods);
                    self.right.source_service.extend(services);
                }
                End::To => {
                    for filter in [&mut self.left, &mut self.right] {
                        filter.destination_pod.extend(pods.clone());
                        filter.destination_service.extend(services.clone());
                    }
                }
                End::Either => {
                    self.right.destination_pod.extend(pods);
                    self.right.destination_service.extend(services);
                }
            }
        }
        let nothing = FlowFilter::default();
        Ok(if self.left == self.right {
            Some(self.left)
                .filter(|one| *one != nothing)
                .into_iter()
                .collect()
        } else {
            vec![self.left, self.right]
        })
    }

    /// Pods and services of one end, each with its namespace.
    fn resolve(&self, end: End) -> Result<(Vec<String>, Vec<String>), String> {
        let own = &self.names[end as usize];
        let either = &self.names[End::Either as usize];
        let namespaces = if own.namespaces.is_empty() {
            &either.namespaces
        } else {
            &own.namespaces
        };
        let everywhere = own.everywhere || either.everywhere;
        if everywhere && !namespaces.is_empty() {
            return Err("--namespace and --all-namespaces exclude each other".to_owned());
        }
        let full = |names: &[String]| -> Result<Vec<String>, String> {
            let mut out = Vec::new();
            for name in names {
                match name.split_once('/') {
                    Some((namespace, _)) => {
                        if !namespaces.is_empty() && !namespaces.iter().any(|one| one == namespace)
                        {
                            return Err(format!(
                                "`{name}` is in namespace `{namespace}`, and --namespace asks for `{}`",
                                namespaces.join("`, `")
                            ));
                        }
                        out.push(name.clone());
                    }
                    None if everywhere => out.push(format!("/{name}")),
                    None if namespaces.is_empty() => out.push(format!("default/{name}")),
                    None => out.extend(namespaces.iter().map(|one| format!("{one}/{name}"))),
                }
            }
            Ok(out)
        };
        let (mut pods, services) = (full(&own.pods)?, full(&own.services)?);
        let unnamed = |names: &Names| names.pods.is_empty() && names.services.is_empty();
        // A namespace that names were looked up in has done its work.
        let done = match end {
            End::Either => !self.names.iter().all(unnamed),
            _ => !unnamed(own),
        };
        if !done {
            pods.extend(own.namespaces.iter().map(|one| format!("{one}/")));
            if own.everywhere {
                pods.push("/".to_owned());
            }
        }
        Ok((pods, services))
    }
}

fn source(filter: &mut FlowFilter, what: &str, value: &str) -> Result<(), String> {
    match what {
        "ip" => filter.source_ip.push(value.to_owned()),
        "fqdn" => filter.source_fqdn.push(value.to_owned()),
        "label" => filter.source_label.push(value.to_owned()),
        "port" => filter.source_port.push(port(value)?),
        "identity" => filter.source_identity.push(identity(value)?),
        "workload" => filter.source_workload.push(workload(value)),
        _ => filter.source_cluster_name.push(value.to_owned()),
    }
    Ok(())
}

fn destination(filter: &mut FlowFilter, what: &str, value: &str) -> Result<(), String> {
    match what {
        "ip" => filter.destination_ip.push(value.to_owned()),
        "fqdn" => filter.destination_fqdn.push(value.to_owned()),
        "label" => filter.destination_label.push(value.to_owned()),
        "port" => filter.destination_port.push(port(value)?),
        "identity" => filter.destination_identity.push(identity(value)?),
        "workload" => filter.destination_workload.push(workload(value)),
        _ => filter.destination_cluster_name.push(value.to_owned()),
    }
    Ok(())
}

/// Flags that are about the flow as a whole.
fn plain(filter: &mut FlowFilter, what: &str, value: &str) -> Result<(), String> {
    let text = value.to_owned();
    match what {
        "snat-ip" => filter.source_ip_xlated.push(text),
        "verdict" => filter.verdict.push(verdict(value)?),
        "drop-reason-desc" => filter.drop_reason_desc.push(drop_reason(value)?),
        "protocol" => filter.protocol.push(protocol(value)?),
        "tcp-flags" => filter.tcp_flags.push(tcp_flags(value)?),
        "type" => filter.event_type.push(event_type(value)?),
        "traffic-direction" => filter.traffic_direction.push(direction(value)?),
        "http-status" => filter.http_status_code.push(http_status(value)?),
        "http-method" => filter.http_method.push(text),
        "http-path" => filter.http_path.push(text),
        "http-url" => filter.http_url.push(text),
        "http-header" => filter.http_header.push(header(value)?),
        "trace-id" => filter.trace_id.push(text),
        "uuid" => filter.uuid.push(text),
        "node-name" => filter.node_name.push(text),
        "node-label" => filter.node_labels.push(text),
        "interface" => filter.interface.push(interface(value)),
        "ip-version" => filter.ip_version.push(ip_version(value)?),
        "ipv4" if settings::switch(value)? => {
            filter.ip_version.push(IpVersion::IPv4.into());
        }
        "ipv6" if settings::switch(value)? => {
            filter.ip_version.push(IpVersion::IPv6.into());
        }
        "cel-expression" => filter
            .experimental
            .get_or_insert_with(flow_filter::Experimental::default)
            .cel_expression
            .push(text),
        _ => {}
    }
    Ok(())
}

fn port(value: &str) -> Result<String, String> {
    match value.parse::<u16>() {
        Ok(_) => Ok(value.to_owned()),
        Err(_) => Err("accepted: a port, 0 to 65535".to_owned()),
    }
}

fn identity(value: &str) -> Result<u32, String> {
    if let Ok(number) = value.parse() {
        return Ok(number);
    }
    let name = value.trim_start_matches("reserved:");
    (0..abi::identity::MIN_ALLOCATED)
        .find(|number| reserved_name(*number) == Some(name))
        .ok_or_else(|| {
            let names: Vec<&str> = (0..).map_while(reserved_name).collect();
            format!("accepted: a number, {}", names.join(", "))
        })
}

/// `name`, `Kind/name` or `Kind/`.
fn workload(value: &str) -> Workload {
    let (kind, name) = value.split_once('/').unwrap_or(("", value));
    Workload {
        name: name.to_owned(),
        kind: kind.to_owned(),
    }
}

fn verdict(value: &str) -> Result<i32, String> {
    let found =
        Verdict::from_str_name(&value.to_uppercase()).filter(|one| *one != Verdict::Unknown);
    found.map(i32::from).ok_or_else(|| {
        let all = (1..).map_while(|number| Verdict::try_from(number).ok());
        let names: Vec<&str> = all.map(|one| one.as_str_name()).collect();
        format!("accepted: {}", names.join(", "))
    })
}

fn drop_reason(value: &str) -> Result<i32, String> {
    let name = value.to_uppercase();
    DropReason::from_str_name(&name)
        .map(i32::from)
        .ok_or_else(|| {
            let names: Vec<&str> = abi::DropReason::ALL
                .iter()
                .map(|one| one.proto_name())
                .collect();
            format!("accepted: {}", names.join(", "))
        })
}

const PROTOCOLS: [&str; 9] = [
    "tcp", "udp", "icmp", "icmpv4", "icmpv6", "sctp", "http", "dns", "kafka",
];

fn protocol(value: &str) -> Result<String, String> {
    let name = value.to_lowercase();
    if PROTOCOLS.contains(&name.as_str()) {
        Ok(name)
    } else {
        Err(format!("accepted: {}", PROTOCOLS.join(", ")))
    }
}

fn tcp_flags(value: &str) -> Result<TcpFlags, String> {
    let mut flags = TcpFlags::default();
    for word in value.split(',') {
        *match word.trim().to_uppercase().as_str() {
            "FIN" => &mut flags.fin,
            "SYN" => &mut flags.syn,
            "RST" => &mut flags.rst,
            "PSH" => &mut flags.psh,
            "ACK" => &mut flags.ack,
            "URG" => &mut flags.urg,
            "ECE" => &mut flags.ece,
            "CWR" => &mut flags.cwr,
            "NS" => &mut flags.ns,
            _ => {
                return Err(
                    "accepted: one or several of FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, NS, with commas"
                        .to_owned(),
                );
            }
        } = true;
    }
    Ok(flags)
}

/// Kinds of events by the names of their numbers.
const TYPES: [(&str, i32); 6] = [
    ("capture", 3),
    ("drop", 1),
    ("l7", 129),
    ("policy-verdict", 5),
    ("trace", 4),
    ("trace-sock", 7),
];

fn event_type(value: &str) -> Result<EventTypeFilter, String> {
    let (kind, sub) = match value.split_once(':') {
        Some((kind, sub)) => (kind, Some(sub)),
        None => (value, None),
    };
    let wrong = || {
        let names: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
        format!(
            "accepted: {}, a number; of traces also the point as trace:to-endpoint",
            names.join(", ")
        )
    };
    let number = match TYPES.iter().find(|(name, _)| *name == kind) {
        Some((_, number)) => *number,
        None => kind.parse::<u8>().map(i32::from).map_err(|_| wrong())?,
    };
    let sub_type = match sub {
        None => None,
        Some(sub) => Some(match sub.parse::<u8>() {
            Ok(number) => i32::from(number),
            Err(_) if number == 4 => trace_point(sub)?,
            Err(_) => return Err(wrong()),
        }),
    };
    Ok(EventTypeFilter {
        r#type: number,
        match_sub_type: sub_type.is_some(),
        sub_type: sub_type.unwrap_or_default(),
    })
}

fn trace_point(name: &str) -> Result<i32, String> {
    let found = TracePoint::ALL.iter().find(|point| point.text() == name);
    found.map(|point| i32::from(*point as u8)).ok_or_else(|| {
        let names = TracePoint::ALL.map(TracePoint::text);
        format!("accepted points: {}", names.join(", "))
    })
}

fn direction(value: &str) -> Result<i32, String> {
    match value.to_lowercase().as_str() {
        "ingress" => Ok(TrafficDirection::Ingress.into()),
        "egress" => Ok(TrafficDirection::Egress.into()),
        _ => Err("accepted: ingress, egress".to_owned()),
    }
}

fn http_status(value: &str) -> Result<String, String> {
    let wrong =
        || "accepted: a code as 404, or its beginning and a plus sign as 4+ or 40+".to_owned();
    let digits = value.strip_suffix('+').unwrap_or(value);
    let right = digits.bytes().all(|byte| byte.is_ascii_digit())
        && matches!(digits.as_bytes().first(), Some(b'1'..=b'5'))
        && match digits.len() {
            3 => !value.ends_with('+'),
            1 | 2 => value.ends_with('+'),
            _ => false,
        };
    if right {
        Ok(value.to_owned())
    } else {
        Err(wrong())
    }
}

fn header(value: &str) -> Result<HttpHeader, String> {
    let (key, value) = value
        .split_once(':')
        .filter(|(key, _)| !key.is_empty())
        .ok_or_else(|| "accepted: a header and its value as key:value".to_owned())?;
    Ok(HttpHeader {
        key: key.trim().to_owned(),
        value: value.trim().to_owned(),
    })
}

fn interface(value: &str) -> NetworkInterface {
    match value.parse() {
        Ok(index) => NetworkInterface {
            index,
            name: String::new(),
        },
        Err(_) => NetworkInterface {
            index: 0,
            name: value.to_owned(),
        },
    }
}

fn ip_version(value: &str) -> Result<i32, String> {
    match value.to_lowercase().as_str() {
        "4" | "v4" | "ipv4" | "ip4" => Ok(IpVersion::IPv4.into()),
        "6" | "v6" | "ipv6" | "ip6" => Ok(IpVersion::IPv6.into()),
        _ => Err("accepted: 4, 6".to_owned()),
    }
}

#[cfg(test)]
mod tests;
