//! One flow in words: its ends, what happened, what became of it.
use abi::identity::reserved_name;
use abi::{DropReason, PolicyMatch, TracePoint};
use api::hubble::flow::{
    AuthType, DebugCapturePoint, Endpoint, Flow, L7FlowType, LostEvent, LostEventSource, Service,
    SocketTranslationPoint, TrafficDirection, Verdict, layer4, layer7,
};

use super::{Options, moment};

/// Numbers of event kinds.
const DROP: i32 = 1;
const CAPTURE: i32 = 3;
const TRACE: i32 = 4;
const POLICY_VERDICT: i32 = 5;
const TRACE_SOCK: i32 = 7;

/// A flow's texts.
pub struct Words {
    /// When.
    pub time: String,
    /// Who saw it.
    pub node: String,
    /// The source, as it is told apart.
    pub source: String,
    /// The destination.
    pub destination: String,
    /// Who the source is to policy.
    pub source_identity: String,
    /// Who the destination is.
    pub destination_identity: String,
    /// Whether it answers, if that is known.
    pub reply: Option<bool>,
    /// What was seen.
    pub kind: String,
    /// What became of it.
    pub verdict: String,
    /// The packet or the request.
    pub summary: String,
}

impl Words {
    /// Puts a flow into words.
    pub fn of(flow: &Flow, options: &Options) -> Self {
        let (source, destination) = ends(flow, options);
        let identity = |end: &Option<Endpoint>| {
            let number = end.as_ref().map_or(0, |end| end.identity);
            let name = reserved_name(number).filter(|_| !options.numeric);
            let text = name.map_or_else(|| format!("(ID:{number})"), |name| format!("({name})"));
            options.colors.identity(&text)
        };
        Self {
            time: options.layout.show(moment(flow.time.as_ref())),
            node: flow.node_name.clone(),
            source,
            destination,
            source_identity: identity(&flow.source),
            destination_identity: identity(&flow.destination),
            reply: flow.is_reply,
            kind: kind(flow),
            verdict: verdict(flow, options),
            summary: summary(flow),
        }
    }

    /// All of it on one line. The side that opened the connection stands left.
    pub fn line(&self, node: bool) -> String {
        let node = if node {
            format!(" [{}]", self.node)
        } else {
            String::new()
        };
        let source = format!("{} {}", self.source, self.source_identity);
        let destination = format!("{} {}", self.destination, self.destination_identity);
        let (left, arrow, right) = match self.reply {
            None => (source, "<>", destination),
            Some(false) => (source, "->", destination),
            Some(true) => (destination, "<-", source),
        };
        format!(
            "{}{node}: {left} {arrow} {right} {} {} ({})\n",
            self.time, self.kind, self.verdict, self.summary
        )
    }
}

/// Both ends as people know them, with their ports.
fn ends(flow: &Flow, options: &Options) -> (String, String) {
    let colors = options.colors;
    let Some(ip) = &flow.ip else {
        let ethernet = flow.ethernet.clone().unwrap_or_default();
        return (
            colors.host(&ethernet.source),
            colors.host(&ethernet.destination),
        );
    };
    let (source_port, destination_port) = ports(flow);
    let end =
        |address: &str, port, endpoint: &Option<Endpoint>, service: &Option<Service>, names| {
            let host = name(address, endpoint.as_ref(), service.as_ref(), names, options);
            with_port(&host, port, options)
        };
    (
        end(
            &ip.source,
            source_port,
            &flow.source,
            &flow.source_service,
            &flow.source_names,
        ),
        end(
            &ip.destination,
            destination_port,
            &flow.destination,
            &flow.destination_service,
            &flow.destination_names,
        ),
    )
}

fn name(
    address: &str,
    endpoint: Option<&Endpoint>,
    service: Option<&Service>,
    names: &[String],
    options: &Options,
) -> String {
    if !options.translate {
        return address.to_owned();
    }
    let full = |namespace: &str, name: &str| {
        if namespace.is_empty() {
            name.to_owned()
        } else {
            format!("{namespace}/{name}")
        }
    };
    match (endpoint, service) {
        (Some(pod), _) if !pod.pod_name.is_empty() => full(&pod.namespace, &pod.pod_name),
        (_, Some(service)) if !service.name.is_empty() => full(&service.namespace, &service.name),
        _ if !names.is_empty() => names.join(","),
        _ => address.to_owned(),
    }
}

fn with_port(host: &str, port: u32, options: &Options) -> String {
    let colors = options.colors;
    if port == 0 {
        return colors.host(host);
    }
    let host = if host.contains(':') {
        format!("[{host}]:")
    } else {
        format!("{host}:")
    };
    colors.host(&host) + &colors.port(&port.to_string())
}

fn ports(flow: &Flow) -> (u32, u32) {
    match flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) {
        Some(layer4::Protocol::Tcp(tcp)) => (tcp.source_port, tcp.destination_port),
        Some(layer4::Protocol::Udp(udp)) => (udp.source_port, udp.destination_port),
        Some(layer4::Protocol::Sctp(sctp)) => (sctp.source_port, sctp.destination_port),
        _ => (0, 0),
    }
}

/// What was seen: of packets the place, the reason or the rule; of requests which.
fn kind(flow: &Flow) -> String {
    if let Some(l7) = &flow.l7 {
        let what = L7FlowType::try_from(l7.r#type)
            .unwrap_or_default()
            .as_str_name()
            .to_lowercase();
        return match &l7.record {
            Some(layer7::Record::Http(_)) => format!("http-{what}"),
            Some(layer7::Record::Dns(dns)) => format!("dns-{what} {}", dns.observation_source),
            Some(layer7::Record::Kafka(_)) => format!("kafka-{what}"),
            None => format!("l7-{what}"),
        };
    }
    let event = flow.event_type.unwrap_or_default();
    let sub = u8::try_from(event.sub_type).ok();
    let number = || event.sub_type.to_string();
    match event.r#type {
        TRACE => sub
            .and_then(TracePoint::from_u8)
            .map_or_else(number, |point| point.text().to_owned()),
        DROP => sub
            .and_then(DropReason::from_u8)
            .map_or_else(number, |reason| reason.text().to_owned()),
        POLICY_VERDICT => {
            let matched = u8::try_from(flow.policy_match_type)
                .ok()
                .and_then(PolicyMatch::from_u8)
                .map_or_else(
                    || flow.policy_match_type.to_string(),
                    |matched| matched.text().to_owned(),
                );
            let direction = TrafficDirection::try_from(flow.traffic_direction).unwrap_or_default();
            format!("policy-verdict:{matched} {}", direction.as_str_name())
        }
        CAPTURE => DebugCapturePoint::try_from(flow.debug_capture_point)
            .unwrap_or_default()
            .as_str_name()
            .to_owned(),
        TRACE_SOCK => translation(flow.sock_xlate_point).to_owned(),
        _ => "UNKNOWN".to_owned(),
    }
}

fn translation(point: i32) -> &'static str {
    use SocketTranslationPoint as Point;
    let point = Point::try_from(point).unwrap_or_default();
    match point {
        Point::SockXlatePointUnknown => point.as_str_name(),
        Point::SockXlatePointPreDirectionFwd => "pre-xlate-fwd",
        Point::SockXlatePointPostDirectionFwd => "post-xlate-fwd",
        Point::SockXlatePointPreDirectionRev => "pre-xlate-rev",
        Point::SockXlatePointPostDirectionRev => "post-xlate-rev",
    }
}

/// What became of it; of a policy's verdict what it says.
fn verdict(flow: &Flow, options: &Options) -> String {
    let colors = options.colors;
    let verdict = Verdict::try_from(flow.verdict).unwrap_or_default();
    let by_policy = flow
        .event_type
        .is_some_and(|event| event.r#type == POLICY_VERDICT);
    let word = match verdict {
        Verdict::Forwarded | Verdict::Redirected if by_policy => "ALLOWED",
        Verdict::Dropped | Verdict::Error if by_policy => "DENIED",
        Verdict::Audit if by_policy => "AUDITED",
        other => other.as_str_name(),
    };
    match verdict {
        Verdict::Forwarded => colors.good(word),
        Verdict::Dropped | Verdict::Error => colors.bad(word),
        Verdict::Unknown => word.to_owned(),
        _ => colors.noted(word),
    }
}

fn summary(flow: &Flow) -> String {
    let mut text = if flow.summary.is_empty() {
        ::flow::summary::summary(flow)
    } else {
        flow.summary.clone()
    };
    let auth = AuthType::try_from(flow.auth_type).unwrap_or_default();
    if auth != AuthType::Disabled {
        text += &format!("; Auth: {}", auth.as_str_name());
    }
    text
}

/// Where events were lost.
pub fn lost_at(lost: &LostEvent) -> &'static str {
    LostEventSource::try_from(lost.source)
        .unwrap_or_default()
        .as_str_name()
}

/// How many events were lost, and on which processor.
pub fn lost(lost: &LostEvent) -> (i32, u64) {
    (lost.cpu.unwrap_or_default(), lost.num_events_lost)
}
