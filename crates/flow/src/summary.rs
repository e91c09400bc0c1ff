//! A flow in a few words.
use api::hubble::flow::{
    Dns, Flow, FlowType, Http, Kafka, L7FlowType, Layer7, TcpFlags, layer4::Protocol,
    layer7::Record,
};
use std::{borrow::Cow, fmt::Write as _};

/// What the flow is about: TCP flags, ICMP message, or the request and its answer.
#[must_use]
pub fn summary(flow: &Flow) -> String {
    if let Some(l7) = &flow.l7 {
        return of_l7(l7).unwrap_or_default();
    }
    let protocol = flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref());
    let socket = flow.r#type == FlowType::Sock as i32;
    match protocol {
        Some(Protocol::Tcp(_)) if socket => "TCP".to_owned(),
        Some(Protocol::Tcp(tcp)) => of_flags(flag_bits(tcp.flags.as_ref())),
        Some(Protocol::Udp(_)) => "UDP".to_owned(),
        Some(Protocol::Sctp(_)) => "SCTP".to_owned(),
        Some(Protocol::IcmPv4(icmp)) => format!("ICMPv4 {}", icmp4(icmp.r#type, icmp.code)),
        Some(Protocol::IcmPv6(icmp)) => format!("ICMPv6 {}", icmp6(icmp.r#type, icmp.code)),
        None => String::new(),
    }
}

/// Names of TCP flags in the order in which they are shown, with their bits in the header.
const FLAGS: [(u16, &str); 9] = [
    (0x02, "SYN"),
    (0x10, "ACK"),
    (0x04, "RST"),
    (0x01, "FIN"),
    (0x08, "PSH"),
    (0x20, "URG"),
    (0x40, "ECE"),
    (0x80, "CWR"),
    (0x100, "NS"),
];

/// `TCP Flags: SYN, ACK` of the bits in a TCP header.
#[must_use]
pub fn of_flags(bits: u16) -> String {
    let mut out = String::with_capacity(24);
    out.push_str("TCP Flags: ");
    let start = out.len();
    for (bit, name) in FLAGS {
        if bits & bit != 0 {
            if out.len() > start {
                out.push_str(", ");
            }
            out.push_str(name);
        }
    }
    out
}

/// The bits of the flags as they stand in a TCP header.
#[must_use]
pub fn flag_bits(flags: Option<&TcpFlags>) -> u16 {
    let Some(f) = flags else { return 0 };
    [f.fin, f.syn, f.rst, f.psh, f.ack, f.urg, f.ece, f.cwr, f.ns]
        .into_iter()
        .enumerate()
        .fold(0, |bits, (place, set)| bits | u16::from(set) << place)
}

/// The flags of the bits in a TCP header.
#[must_use]
pub const fn flags_of(bits: u16) -> TcpFlags {
    TcpFlags {
        fin: bits & 1 != 0,
        syn: bits & 2 != 0,
        rst: bits & 4 != 0,
        psh: bits & 8 != 0,
        ack: bits & 0x10 != 0,
        urg: bits & 0x20 != 0,
        ece: bits & 0x40 != 0,
        cwr: bits & 0x80 != 0,
        ns: bits & 0x100 != 0,
    }
}

type Names = (u8, &'static str, &'static [&'static str]);

const ICMP4: [Names; 15] = [
    (0, "EchoReply", &[]),
    (
        3,
        "DestinationUnreachable",
        &[
            "Net",
            "Host",
            "Protocol",
            "Port",
            "FragmentationNeeded",
            "SourceRoutingFailed",
            "NetUnknown",
            "HostUnknown",
            "SourceIsolated",
            "NetAdminProhibited",
            "HostAdminProhibited",
            "NetTOS",
            "HostTOS",
            "CommAdminProhibited",
            "HostPrecedence",
            "PrecedenceCutoff",
        ],
    ),
    (4, "SourceQuench", &[]),
    (5, "Redirect", &["Net", "Host", "TOS+Net", "TOS+Host"]),
    (8, "EchoRequest", &[]),
    (9, "RouterAdvertisement", &[]),
    (10, "RouterSolicitation", &[]),
    (
        11,
        "TimeExceeded",
        &["TTLExceeded", "FragmentReassemblyTimeExceeded"],
    ),
    (
        12,
        "ParameterProblem",
        &["PointerIndicatesError", "MissingOption", "BadLength"],
    ),
    (13, "TimestampRequest", &[]),
    (14, "TimestampReply", &[]),
    (15, "InfoRequest", &[]),
    (16, "InfoReply", &[]),
    (17, "AddressMaskRequest", &[]),
    (18, "AddressMaskReply", &[]),
];

const ICMP6: [Names; 11] = [
    (
        1,
        "DestinationUnreachable",
        &[
            "NoRouteToDst",
            "AdminProhibited",
            "BeyondScopeOfSrc",
            "AddressUnreachable",
            "PortUnreachable",
            "SrcAddressFailedPolicy",
            "RejectRouteToDst",
        ],
    ),
    (2, "PacketTooBig", &[]),
    (
        3,
        "TimeExceeded",
        &["HopLimitExceeded", "FragmentReassemblyTimeExceeded"],
    ),
    (
        4,
        "ParameterProblem",
        &[
            "ErroneousHeaderField",
            "UnrecognizedNextHeader",
            "UnrecognizedIPv6Option",
        ],
    ),
    (128, "EchoRequest", &[]),
    (129, "EchoReply", &[]),
    (133, "RouterSolicitation", &[]),
    (134, "RouterAdvertisement", &[]),
    (135, "NeighborSolicitation", &[]),
    (136, "NeighborAdvertisement", &[]),
    (137, "Redirect", &[]),
];

fn named(table: &[Names], kind: u32, code: u32) -> Cow<'static, str> {
    let found = table.iter().find(|(number, ..)| u32::from(*number) == kind);
    let Some((_, name, codes)) = found else {
        return format!("{kind}({code})").into();
    };
    match codes.get(code as usize) {
        Some(code) => format!("{name}({code})").into(),
        None if codes.is_empty() && code == 0 => (*name).into(),
        None => format!("{name}(Code: {code})").into(),
    }
}

/// Name of an ICMP message, as `DestinationUnreachable(Port)`.
#[must_use]
pub fn icmp4(kind: u32, code: u32) -> Cow<'static, str> {
    named(&ICMP4, kind, code)
}

/// Name of an ICMPv6 message.
#[must_use]
pub fn icmp6(kind: u32, code: u32) -> Cow<'static, str> {
    named(&ICMP6, kind, code)
}

fn of_l7(l7: &Layer7) -> Option<String> {
    let kind = L7FlowType::try_from(l7.r#type).ok()?;
    Some(match l7.record.as_ref()? {
        Record::Http(http) => of_http(kind, l7.latency_ns, http),
        Record::Dns(dns) => of_dns(kind, dns),
        Record::Kafka(kafka) => of_kafka(kind, kafka),
    })
}

fn of_http(kind: L7FlowType, latency: u64, http: &Http) -> String {
    let Http {
        protocol,
        method,
        url,
        code,
        ..
    } = http;
    if kind == L7FlowType::Response {
        let took = latency / 1_000_000;
        format!("{protocol} {code} {took}ms ({method} {url})")
    } else {
        format!("{protocol} {method} {url}")
    }
}

fn of_dns(kind: L7FlowType, dns: &Dns) -> String {
    let asked = if dns.observation_source == "proxy" {
        "Proxy"
    } else {
        "Query"
    };
    let types = dns.qtypes.join(",");
    if kind != L7FlowType::Response {
        return format!("DNS Query {} {types}", dns.query);
    }
    let mut out = String::from("DNS Answer");
    // Writing to a text does not fail.
    if dns.rcode != 0 {
        let _ = write!(out, " RCode: {}", rcode(dns.rcode));
    } else {
        if !dns.ips.is_empty() {
            let _ = write!(out, " \"{}\"", dns.ips.join(","));
        }
        if !dns.cnames.is_empty() {
            let _ = write!(out, " CNAMEs: \"{}\"", dns.cnames.join(","));
        }
    }
    let _ = write!(out, " TTL: {} ({asked} {} {types})", dns.ttl, dns.query);
    out
}

/// What a DNS answer's code means, as far as it has a name.
#[must_use]
pub fn rcode(code: u32) -> Cow<'static, str> {
    match code {
        0 => "No Error",
        1 => "Format Error",
        2 => "Server Failure",
        3 => "Non-Existent Domain",
        4 => "Not Implemented",
        5 => "Query Refused",
        6 => "Name Exists when it should not",
        7 => "RR Set Exists when it should not",
        8 => "RR Set that should exist does not",
        9 => "Server Not Authoritative for zone",
        10 => "Name not contained in zone",
        _ => return format!("Unknown ({code})").into(),
    }
    .into()
}

fn of_kafka(kind: L7FlowType, kafka: &Kafka) -> String {
    let Kafka {
        api_key,
        correlation_id,
        topic,
        error_code,
        ..
    } = kafka;
    let mut out = match kind {
        L7FlowType::Response => format!("Kafka response {api_key}"),
        _ => format!("Kafka request {api_key}"),
    };
    let _ = write!(out, " correlation id {correlation_id}");
    if !topic.is_empty() {
        let _ = write!(out, " topic '{topic}'");
    }
    if kind == L7FlowType::Response {
        let _ = write!(out, " return code {error_code}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::hubble::flow::{IcmPv4, Layer4, Tcp, Udp};

    fn l4(protocol: Protocol) -> Flow {
        Flow {
            l4: Some(Layer4 {
                protocol: Some(protocol),
            }),
            ..Flow::default()
        }
    }

    #[test]
    fn packets() {
        let tcp = |bits| {
            l4(Protocol::Tcp(Tcp {
                flags: Some(flags_of(bits)),
                ..Tcp::default()
            }))
        };
        assert_eq!(summary(&tcp(0x12)), "TCP Flags: SYN, ACK");
        assert_eq!(
            summary(&tcp(0x1ff)),
            "TCP Flags: SYN, ACK, RST, FIN, PSH, URG, ECE, CWR, NS"
        );
        assert_eq!(flag_bits(Some(&flags_of(0x155))), 0x155);
        assert_eq!(summary(&l4(Protocol::Udp(Udp::default()))), "UDP");
        let ping = IcmPv4 { r#type: 8, code: 0 };
        assert_eq!(summary(&l4(Protocol::IcmPv4(ping))), "ICMPv4 EchoRequest");
        let mut call = tcp(0);
        call.r#type = FlowType::Sock as i32;
        assert_eq!(summary(&call), "TCP");
        assert_eq!(summary(&Flow::default()), "");
    }

    #[test]
    fn messages_without_a_name_are_numbers() {
        assert_eq!(icmp4(3, 3), "DestinationUnreachable(Port)");
        assert_eq!(icmp4(3, 77), "DestinationUnreachable(Code: 77)");
        assert_eq!(icmp4(8, 1), "EchoRequest(Code: 1)");
        assert_eq!(icmp4(200, 1), "200(1)");
        assert_eq!(icmp6(3, 0), "TimeExceeded(HopLimitExceeded)");
    }

    fn l7(kind: L7FlowType, record: Record) -> Flow {
        Flow {
            l7: Some(Layer7 {
                r#type: kind as i32,
                latency_ns: 3_400_000,
                record: Some(record),
            }),
            ..Flow::default()
        }
    }

    #[test]
    fn requests_and_answers() {
        use L7FlowType::{Request, Response};
        let http = Record::Http(Http {
            code: 200,
            method: "GET".into(),
            url: "http://h/p".into(),
            protocol: "HTTP/1.1".into(),
            headers: Vec::new(),
        });
        assert_eq!(
            summary(&l7(Request, http.clone())),
            "HTTP/1.1 GET http://h/p"
        );
        assert_eq!(
            summary(&l7(Response, http)),
            "HTTP/1.1 200 3ms (GET http://h/p)"
        );
        let dns = Dns {
            query: "name.".into(),
            qtypes: vec!["A".into()],
            ips: vec!["1.1.1.1".into(), "2.2.2.2".into()],
            ttl: 30,
            observation_source: "proxy".into(),
            ..Dns::default()
        };
        assert_eq!(
            summary(&l7(Request, Record::Dns(dns.clone()))),
            "DNS Query name. A"
        );
        assert_eq!(
            summary(&l7(Response, Record::Dns(dns.clone()))),
            "DNS Answer \"1.1.1.1,2.2.2.2\" TTL: 30 (Proxy name. A)"
        );
        let failed = Dns {
            rcode: 3,
            ttl: u32::MAX,
            ips: Vec::new(),
            ..dns
        };
        assert_eq!(
            summary(&l7(Response, Record::Dns(failed))),
            "DNS Answer RCode: Non-Existent Domain TTL: 4294967295 (Proxy name. A)"
        );
        let kafka = Kafka {
            api_key: "produce".into(),
            correlation_id: 3,
            topic: "t".into(),
            ..Kafka::default()
        };
        assert_eq!(
            summary(&l7(Request, Record::Kafka(kafka.clone()))),
            "Kafka request produce correlation id 3 topic 't'"
        );
        assert_eq!(
            summary(&l7(Response, Record::Kafka(kafka))),
            "Kafka response produce correlation id 3 topic 't' return code 0"
        );
    }
}
