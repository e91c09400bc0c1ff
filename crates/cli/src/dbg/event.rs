//! The lines of `monitor`.
use std::net::{IpAddr, SocketAddr};

use api::{MonitorEvent, MonitorKind};

/// How much a line says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Identities as numbers, also the reserved ones.
    pub numeric: bool,
    /// Time, length and source of every event.
    pub verbose: bool,
}

/// The line for `event`.
#[must_use]
pub fn line(event: &MonitorEvent, style: Style) -> String {
    let text = match event.kind {
        MonitorKind::Trace => trace(event, style),
        MonitorKind::Drop => dropped(event, style),
        MonitorKind::PolicyVerdict => verdict(event, style),
        MonitorKind::TraceSock => translated(event),
        MonitorKind::L7 => request(event, style),
        MonitorKind::Agent => format!(">> {}", event.reason),
        MonitorKind::Lost => format!("{} events lost: more came than could be read", event.lost),
        MonitorKind::Unknown => format!("?? {}", event.reason),
    };
    if style.verbose {
        text + &detail(event)
    } else {
        text
    }
}

fn trace(event: &MonitorEvent, style: Style) -> String {
    let (direction, place) = event.point.split_once('-').unwrap_or(("to", &event.point));
    let arrow = if direction == "from" { "<-" } else { "->" };
    let place = if place == "endpoint" {
        format!("endpoint {}", event.endpoint)
    } else {
        place.to_owned()
    };
    format!(
        "{arrow} {place} flow {:#010x} , identity {} state {} ifindex {} orig-ip {}: {}",
        flow(event),
        identities(event, style),
        if event.ct_state.is_empty() {
            "unknown"
        } else {
            &event.ct_state
        },
        device(event),
        event.src.map(|ip| ip.to_string()).unwrap_or_default(),
        summary(event),
    )
}

fn dropped(event: &MonitorEvent, style: Style) -> String {
    format!(
        "xx drop ({}) flow {:#010x} to endpoint {}, ifindex {}, file {}, , identity {}: {}{}",
        event.reason,
        flow(event),
        if event.direction == "egress" {
            0
        } else {
            event.endpoint
        },
        event.ifindex,
        event.source,
        identities(event, style),
        summary(event),
        rules(event),
    )
}

fn verdict(event: &MonitorEvent, style: Style) -> String {
    let remote = if event.direction == "egress" {
        event.dst_identity
    } else {
        event.src_identity
    };
    format!(
        "Policy verdict log: flow {:#010x} local EP ID {}, remote ID {}, proto {}, {}, action {}, auth: disabled, match {}, {}{}",
        flow(event),
        event.endpoint,
        identity(remote, style),
        event.protocol,
        event.direction,
        event.verdict,
        match event.match_type.as_str() {
            "" => "none",
            found => found,
        },
        summary(event),
        rules(event),
    )
}

/// A request that the proxy saw, or its answer.
fn request(event: &MonitorEvent, style: Style) -> String {
    let Some(request) = &event.request else {
        return String::new();
    };
    let arrow = if event.direction == "egress" {
        "->"
    } else {
        "<-"
    };
    let labels = |labels: &[String]| labels.join(" ");
    format!(
        "{arrow} {} {} from {} ([{}]) to {} ([{}]), identity {}, verdict {} {}",
        request.kind,
        request.protocol,
        request.src_endpoint,
        labels(&request.src_labels),
        request.dst_endpoint,
        labels(&request.dst_labels),
        identities(event, style),
        event.verdict,
        request.said,
    )
}

/// A socket's other side before or after a translation. Whose socket it is stands there where it is a pod's.
fn translated(event: &MonitorEvent) -> String {
    let port = event.dst_port;
    let dst = event.dst.map(|ip| SocketAddr::new(ip, port).to_string());
    let pod = match event.endpoint {
        0 => String::new(),
        id => format!("endpoint {id}, "),
    };
    format!(
        "[{}] {pod}cgroup_id: {} sock_cookie: {}, dst {} {}",
        event.point,
        event.cgroup_id,
        event.socket_cookie,
        dst.unwrap_or_default(),
        protocol(event.protocol),
    )
}

fn protocol(number: u8) -> String {
    match number {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        132 => "sctp".to_owned(),
        other => format!("protocol {other}"),
    }
}

/// The rules that decided, at the end of the line.
fn rules(event: &MonitorEvent) -> String {
    match event.rules.is_empty() {
        true => String::new(),
        false => format!(" by {}", event.rules.join(", ")),
    }
}

fn detail(event: &MonitorEvent) -> String {
    let mut parts = vec![format!(
        "{}.{:09}",
        event.timestamp_ns / 1_000_000_000,
        event.timestamp_ns % 1_000_000_000
    )];
    parts.extend((event.length > 0).then(|| format!("{} bytes", event.length)));
    parts.extend(
        (event.kind == MonitorKind::Trace && !event.source.is_empty())
            .then(|| event.source.clone()),
    );
    format!(" ({})", parts.join(", "))
}

fn device(event: &MonitorEvent) -> String {
    if event.ifname.is_empty() {
        event.ifindex.to_string()
    } else {
        event.ifname.clone()
    }
}

fn identities(event: &MonitorEvent, style: Style) -> String {
    format!(
        "{}->{}",
        identity(event.src_identity, style),
        identity(event.dst_identity, style)
    )
}

fn identity(id: u32, style: Style) -> String {
    match abi::identity::reserved_name(id) {
        Some(name) if !style.numeric => name.to_owned(),
        _ => id.to_string(),
    }
}

/// A number that both directions of a connection share and that tells connections apart (FNV-1a over the sorted ends).
fn flow(event: &MonitorEvent) -> u32 {
    let mut ends = [(event.src, event.src_port), (event.dst, event.dst_port)];
    ends.sort();
    let mut hash = 0x811c_9dc5_u32;
    let mut eat = |byte: u8| hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    for (ip, port) in ends {
        match ip {
            Some(IpAddr::V4(ip)) => ip.octets().into_iter().for_each(&mut eat),
            Some(IpAddr::V6(ip)) => ip.octets().into_iter().for_each(&mut eat),
            None => {}
        }
        port.to_be_bytes().into_iter().for_each(&mut eat);
    }
    eat(event.protocol);
    hash
}

/// `a:port -> b:port tcp SYN`.
fn summary(event: &MonitorEvent) -> String {
    let (Some(src), Some(dst)) = (event.src, event.dst) else {
        return format!("protocol {}", event.protocol);
    };
    let ports = |ip: IpAddr, port: u16| SocketAddr::new(ip, port).to_string();
    let with_ports = format!(
        "{} -> {}",
        ports(src, event.src_port),
        ports(dst, event.dst_port)
    );
    match event.protocol {
        6 => format!("{with_ports} tcp {}", tcp_flags(event.tcp_flags))
            .trim_end()
            .to_owned(),
        17 | 132 => format!("{with_ports} {}", protocol(event.protocol)),
        1 | 58 => format!("{src} -> {dst} {}", icmp(event)),
        other => format!("{src} -> {dst} protocol {other}"),
    }
}

fn tcp_flags(flags: u8) -> String {
    let names = [
        (2, "SYN"),
        (16, "ACK"),
        (1, "FIN"),
        (4, "RST"),
        (8, "PSH"),
        (32, "URG"),
        (64, "ECE"),
        (128, "CWR"),
    ];
    let set: Vec<&str> = names
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    set.join(", ")
}

fn icmp(event: &MonitorEvent) -> String {
    let Some((kind, code)) = event.icmp else {
        return "icmp".into();
    };
    let name = match (event.protocol, kind) {
        // Echo has no codes; the identifier may stand in its place.
        (1, 0) | (58, 129) => return "EchoReply".into(),
        (1, 8) | (58, 128) => return "EchoRequest".into(),
        (1, 3) | (58, 1) => "DestinationUnreachable",
        (1, 11) | (58, 3) => "TimeExceeded",
        (58, 2) => "PacketTooBig",
        (58, 135) => "NeighborSolicitation",
        (58, 136) => "NeighborAdvertisement",
        _ => return format!("icmp type {kind} code {code}"),
    };
    if code == 0 {
        name.into()
    } else {
        format!("{name}(code {code})")
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn event(kind: MonitorKind) -> MonitorEvent {
        MonitorEvent {
            endpoint: 904,
            src: Some([10, 7, 1, 12].into()),
            dst: Some([10, 7, 2, 9].into()),
            src_port: 40112,
            dst_port: 80,
            protocol: 6,
            tcp_flags: 2,
            src_identity: 21565,
            dst_identity: 31007,
            ifindex: 12,
            length: 74,
            ..MonitorEvent::new(kind, 1_900_000_000_000_000_042)
        }
    }

    fn trace(point: &str, state: &str) -> MonitorEvent {
        MonitorEvent {
            point: point.into(),
            ct_state: state.into(),
            ifname: "lxcab12".into(),
            ..event(MonitorKind::Trace)
        }
    }

    #[test]
    fn traces() {
        let ping = MonitorEvent {
            protocol: 1,
            icmp: Some((8, 0)),
            dst_identity: 2,
            ifname: String::new(),
            ..trace("from-endpoint", "")
        };
        let reply = MonitorEvent {
            tcp_flags: 18,
            ..trace("to-network", "reply")
        };
        let udp = MonitorEvent {
            protocol: 17,
            src: Some("2001:db8::1".parse().unwrap()),
            dst: Some("2001:db8::2".parse().unwrap()),
            ..trace("from-overlay", "established")
        };
        let lines = [trace("to-endpoint", "new"), reply, ping, udp]
            .map(|event| line(&event, Style::default()) + "\n");
        expect![[r#"
            -> endpoint 904 flow 0x393854b9 , identity 21565->31007 state new ifindex lxcab12 orig-ip 10.7.1.12: 10.7.1.12:40112 -> 10.7.2.9:80 tcp SYN
            -> network flow 0x393854b9 , identity 21565->31007 state reply ifindex lxcab12 orig-ip 10.7.1.12: 10.7.1.12:40112 -> 10.7.2.9:80 tcp SYN, ACK
            <- endpoint 904 flow 0x3a38564c , identity 21565->world state unknown ifindex 12 orig-ip 10.7.1.12: 10.7.1.12 -> 10.7.2.9 EchoRequest
            <- overlay flow 0xf1cae33b , identity 21565->31007 state established ifindex lxcab12 orig-ip 2001:db8::1: [2001:db8::1]:40112 -> [2001:db8::2]:80 udp
        "#]].assert_eq(&lines.concat());
    }

    #[test]
    fn drops_verdicts_and_the_rest() {
        let dropped = MonitorEvent {
            reason: "Policy denied".into(),
            source: "to_container.rs:94".into(),
            src_identity: 1,
            ..event(MonitorKind::Drop)
        };
        let verdict = MonitorEvent {
            verdict: "deny".into(),
            direction: "ingress".into(),
            ..event(MonitorKind::PolicyVerdict)
        };
        let audited = MonitorEvent {
            verdict: "audit".into(),
            match_type: "L3-L4".into(),
            rules: vec!["CiliumNetworkPolicy shop/db: spec.ingressDeny[0]".into()],
            ..verdict.clone()
        };
        let lost = MonitorEvent {
            lost: 7,
            ..MonitorEvent::new(MonitorKind::Lost, 0)
        };
        let agent = MonitorEvent {
            reason: "Endpoint created: 904".into(),
            ..MonitorEvent::new(MonitorKind::Agent, 0)
        };
        let style = Style {
            numeric: true,
            verbose: false,
        };
        let lines = [
            line(&dropped, Style::default()),
            line(&dropped, style),
            line(&verdict, style),
            line(&audited, style),
            line(&lost, style),
            line(&agent, style),
        ];
        expect![[r#"
            xx drop (Policy denied) flow 0x393854b9 to endpoint 904, ifindex 12, file to_container.rs:94, , identity host->31007: 10.7.1.12:40112 -> 10.7.2.9:80 tcp SYN
            xx drop (Policy denied) flow 0x393854b9 to endpoint 904, ifindex 12, file to_container.rs:94, , identity 1->31007: 10.7.1.12:40112 -> 10.7.2.9:80 tcp SYN
            Policy verdict log: flow 0x393854b9 local EP ID 904, remote ID 21565, proto 6, ingress, action deny, auth: disabled, match none, 10.7.1.12:40112 -> 10.7.2.9:80 tcp SYN
            Policy verdict log: flow 0x393854b9 local EP ID 904, remote ID 21565, proto 6, ingress, action audit, auth: disabled, match L3-L4, 10.7.1.12:40112 -> 10.7.2.9:80 tcp SYN by CiliumNetworkPolicy shop/db: spec.ingressDeny[0]
            7 events lost: more came than could be read
            >> Endpoint created: 904
        "#]].assert_eq(&(lines.join("\n") + "\n"));
    }

    #[test]
    fn translations() {
        let of_pod = MonitorEvent {
            point: "pre-xlate-fwd".into(),
            dst: Some([10, 96, 0, 10].into()),
            dst_port: 53,
            protocol: 17,
            socket_cookie: 4711,
            cgroup_id: 99,
            endpoint: 904,
            ..MonitorEvent::new(MonitorKind::TraceSock, 0)
        };
        let of_host = MonitorEvent {
            point: "post-xlate-rev".into(),
            dst: Some("fd00::7".parse().unwrap()),
            protocol: 6,
            endpoint: 0,
            ..of_pod.clone()
        };
        let lines = [of_pod, of_host].map(|event| line(&event, Style::default()) + "\n");
        expect![[r#"
            [pre-xlate-fwd] endpoint 904, cgroup_id: 99 sock_cookie: 4711, dst 10.96.0.10:53 udp
            [post-xlate-rev] cgroup_id: 99 sock_cookie: 4711, dst [fd00::7]:53 tcp
        "#]]
        .assert_eq(&lines.concat());
    }

    #[test]
    fn requests_name_both_ends() {
        let denied = MonitorEvent {
            verdict: "Denied".into(),
            direction: "ingress".into(),
            request: Some(Box::new(api::MonitorRequest {
                kind: "Request".into(),
                protocol: "http".into(),
                said: "PUT http://db.shop.svc/v1/x => 403".into(),
                dst_endpoint: 904,
                src_labels: vec!["k8s:app=ok".into()],
                dst_labels: vec![
                    "k8s:app=db".into(),
                    "k8s:io.kubernetes.pod.namespace=shop".into(),
                ],
                ..api::MonitorRequest::default()
            })),
            ..event(MonitorKind::L7)
        };
        assert_eq!(
            line(&denied, Style::default()),
            "<- Request http from 0 ([k8s:app=ok]) to 904 ([k8s:app=db k8s:io.kubernetes.pod.namespace=shop]), \
             identity 21565->31007, verdict Denied PUT http://db.shop.svc/v1/x => 403"
        );
    }

    #[test]
    fn verbose_adds_time_and_length() {
        let style = Style {
            numeric: false,
            verbose: true,
        };
        let text = line(&trace("to-stack", "new"), style);
        assert!(
            text.ends_with(" (1900000000.000000042, 74 bytes)"),
            "{text}"
        );
    }

    #[test]
    fn both_directions_are_one_flow() {
        let there = event(MonitorKind::Trace);
        let back = MonitorEvent {
            src: there.dst,
            dst: there.src,
            src_port: 80,
            dst_port: 40112,
            ..there.clone()
        };
        assert_eq!(flow(&there), flow(&back));
        assert_ne!(
            flow(&there),
            flow(&MonitorEvent {
                src_port: 1,
                ..there
            })
        );
    }
}
