//! Filters as messages have them → filters that can be asked.
use super::{
    Filter, FilterError, Protocol, Selector, Test,
    cel::Expression,
    patterns::{Glob, Prefixed, StatusCode},
};
use crate::{
    record::L7_EVENT,
    summary::flag_bits,
    view::{End, L4},
};
use api::hubble::flow::{DropReason, FlowFilter, IpVersion, TrafficDirection, Verdict};
use ipnet::IpNet;
use regex::{Regex, RegexBuilder};
use std::net::IpAddr;

/// Memory that one expression may take: filters come from outside.
const REGEX_SIZE: usize = 1 << 20;
/// Values of one field.
const MOST_VALUES: usize = 4096;

type Result<T> = std::result::Result<T, FilterError>;

/// Gathers the fields that are set.
struct Tests(Vec<Test>);

impl Tests {
    /// Adds a field, each of whose values `read` understands or explains.
    fn add<T, U>(
        &mut self,
        field: &'static str,
        values: &[T],
        read: impl Fn(&T) -> std::result::Result<U, String>,
        test: impl FnOnce(Vec<U>) -> Test,
    ) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        let error = |problem| FilterError { field, problem };
        if values.len() > MOST_VALUES {
            return Err(error(format!(
                "{} values; at most {MOST_VALUES} are accepted",
                values.len()
            )));
        }
        let read: std::result::Result<Vec<U>, String> = values.iter().map(read).collect();
        self.0.push(test(read.map_err(error)?));
        Ok(())
    }
}

pub(super) fn filter(filter: &FlowFilter) -> Result<Filter> {
    let mut tests = Tests(Vec::new());
    ends(&mut tests, filter)?;
    packet(&mut tests, filter)?;
    l7(&mut tests, filter)?;
    let experimental = filter.experimental.as_ref();
    let expressions = experimental.map_or(&[][..], |experimental| &experimental.cel_expression);
    tests.add(
        "cel_expression",
        expressions,
        |t| Expression::parse(t),
        Test::Cel,
    )?;
    Ok(Filter(tests.0))
}

#[rustfmt::skip]
fn ends(tests: &mut Tests, f: &FlowFilter) -> Result<()> {
    use End::{Destination, Source};
    let copy = |text: &String| Ok(text.clone());
    let workload = |one: &api::hubble::flow::Workload| {
        if one.name.is_empty() && one.kind.is_empty() {
            return Err("a workload without name and kind; give at least one".to_owned());
        }
        Ok(one.clone())
    };
    let id = |id: &u32| Ok(*id);
    tests.add("source_ip", &f.source_ip, |t| net(t), |v| Test::Ip(Source, v))?;
    tests.add("source_ip_xlated", &f.source_ip_xlated, |t| net(t), Test::IpXlated)?;
    tests.add("source_pod", &f.source_pod, |t| Prefixed::parse(t), |v| Test::Pod(Source, v))?;
    tests.add("source_fqdn", &f.source_fqdn, |t| Glob::fqdn(t), |v| Test::Fqdn(Source, v))?;
    tests.add("source_label", &f.source_label, |t| Selector::parse(t), |v| Test::Label(Source, v))?;
    tests.add("source_service", &f.source_service, |t| Prefixed::parse(t), |v| Test::Service(Source, v))?;
    tests.add("source_workload", &f.source_workload, workload, |v| Test::Workload(Source, v))?;
    tests.add("source_cluster_name", &f.source_cluster_name, copy, |v| Test::Cluster(Source, v))?;
    tests.add("source_identity", &f.source_identity, id, |v| Test::Identity(Source, v))?;
    tests.add("source_port", &f.source_port, |t| port(t), |v| Test::Port(Source, v))?;
    tests.add("destination_ip", &f.destination_ip, |t| net(t), |v| Test::Ip(Destination, v))?;
    tests.add("destination_pod", &f.destination_pod, |t| Prefixed::parse(t), |v| Test::Pod(Destination, v))?;
    tests.add("destination_fqdn", &f.destination_fqdn, |t| Glob::fqdn(t), |v| Test::Fqdn(Destination, v))?;
    tests.add("destination_label", &f.destination_label, |t| Selector::parse(t), |v| Test::Label(Destination, v))?;
    tests.add("destination_service", &f.destination_service, |t| Prefixed::parse(t), |v| Test::Service(Destination, v))?;
    tests.add("destination_workload", &f.destination_workload, workload, |v| Test::Workload(Destination, v))?;
    tests.add("destination_cluster_name", &f.destination_cluster_name, copy, |v| Test::Cluster(Destination, v))?;
    tests.add("destination_identity", &f.destination_identity, id, |v| Test::Identity(Destination, v))?;
    tests.add("destination_port", &f.destination_port, |t| port(t), |v| Test::Port(Destination, v))
}

#[rustfmt::skip]
fn packet(tests: &mut Tests, f: &FlowFilter) -> Result<()> {
    let copy = |text: &String| Ok(text.clone());
    let flags = |flags: &_| match flag_bits(Some(flags)) {
        0 => Err("no flag is set; set at least one".to_owned()),
        bits => Ok(bits),
    };
    let device = |one: &api::hubble::flow::NetworkInterface| {
        if one.index == 0 && one.name.is_empty() {
            return Err("a device without number and name; give at least one".to_owned());
        }
        Ok(one.clone())
    };
    tests.add("uuid", &f.uuid, copy, Test::Uuid)?;
    tests.add("traffic_direction", &f.traffic_direction, known::<TrafficDirection>, Test::Direction)?;
    tests.add("verdict", &f.verdict, known::<Verdict>, Test::Verdict)?;
    tests.add("drop_reason_desc", &f.drop_reason_desc, known::<DropReason>, Test::DropReason)?;
    tests.add("interface", &f.interface, device, Test::Interface)?;
    tests.add("event_type", &f.event_type, |one| Ok(*one), Test::EventType)?;
    tests.add("protocol", &f.protocol, |t| protocol(t), Test::Protocol)?;
    tests.add("reply", &f.reply, |one| Ok(*one), Test::Reply)?;
    tests.add("tcp_flags", &f.tcp_flags, flags, Test::TcpFlags)?;
    tests.add("node_name", &f.node_name, |t| Glob::node(t), Test::NodeName)?;
    tests.add("node_labels", &f.node_labels, |t| Selector::parse(t), Test::NodeLabels)?;
    tests.add("ip_version", &f.ip_version, known::<IpVersion>, Test::IpVersion)?;
    tests.add("trace_id", &f.trace_id, copy, Test::TraceId)
}

fn l7(tests: &mut Tests, f: &FlowFilter) -> Result<()> {
    let asked = [
        ("http_status_code", f.http_status_code.is_empty()),
        ("http_method", f.http_method.is_empty()),
        ("http_path", f.http_path.is_empty()),
        ("http_url", f.http_url.is_empty()),
        ("http_header", f.http_header.is_empty()),
        ("dns_query", f.dns_query.is_empty()),
    ];
    let has_l7 = f.event_type.is_empty() || f.event_type.iter().any(|one| one.r#type == L7_EVENT);
    if let Some((field, _)) = asked.into_iter().find(|(_, is_empty)| !is_empty && !has_l7) {
        return Err(FilterError {
            field,
            problem: format!(
                "it is about requests, but event_type leaves them out; add the type {L7_EVENT} (l7) there, or give no event_type"
            ),
        });
    }
    let copy = |text: &String| Ok(text.clone());
    let header = |one: &api::hubble::flow::HttpHeader| Ok((one.key.clone(), one.value.clone()));
    let code = |text: &String| StatusCode::parse(text);
    tests.add(
        "http_status_code",
        &f.http_status_code,
        code,
        Test::StatusCode,
    )?;
    tests.add("http_method", &f.http_method, copy, Test::Method)?;
    tests.add("http_path", &f.http_path, |t| regex(t), Test::Path)?;
    tests.add("http_url", &f.http_url, |t| regex(t), Test::Url)?;
    tests.add("http_header", &f.http_header, header, Test::Header)?;
    tests.add("dns_query", &f.dns_query, |t| regex(t), Test::DnsQuery)
}

fn net(text: &str) -> std::result::Result<IpNet, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ip.into());
    }
    text.parse().map_err(|_| {
        format!("{text:?} is no address; accepted are addresses as 10.0.0.1 or fd00::1 and ranges as 10.0.0.0/8")
    })
}

fn port(text: &str) -> std::result::Result<u16, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no port; accepted is a number from 0 to 65535"))
}

fn known<E: TryFrom<i32>>(number: &i32) -> std::result::Result<i32, String> {
    E::try_from(*number)
        .map(|_| *number)
        .map_err(|_| format!("{number} means nothing here"))
}

fn protocol(text: &str) -> std::result::Result<Protocol, String> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::L4(L4::Tcp),
        "udp" => Protocol::L4(L4::Udp),
        "sctp" => Protocol::L4(L4::Sctp),
        "icmp" => Protocol::Icmp,
        "icmpv4" => Protocol::L4(L4::Icmp4),
        "icmpv6" => Protocol::L4(L4::Icmp6),
        "http" => Protocol::Http,
        "dns" => Protocol::Dns,
        "kafka" => Protocol::Kafka,
        _ => {
            return Err(format!(
                "{text:?} is not known; accepted are tcp, udp, sctp, icmp, icmpv4, icmpv6, http, dns and kafka"
            ));
        }
    })
}

fn regex(text: &str) -> std::result::Result<Regex, String> {
    RegexBuilder::new(text)
        .size_limit(REGEX_SIZE)
        .build()
        .map_err(|error| {
            let error = error.to_string();
            let last = error.lines().last().unwrap_or_default();
            format!("{text:?} is no regular expression: {last}")
        })
}
