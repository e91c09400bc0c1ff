//! What the contract looks like in memory, for review: a change here is a change of [`abi::ABI_VERSION`].
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
extern crate hypha_abi as abi;

use std::fmt::Write;

use abi::{
    CtEntry, CtKey4, CtKey6, DatapathConfig, EndpointInfo, EndpointKey, FlowEvent, FragKey4,
    FragKey6, FragValue, IpcacheKey, IpcacheValue, L2Answers, L2Key4, L2Key6, LbAffinity,
    LbAffinityKey4, LbAffinityKey6, LbAffinityMatch, LbBackend4, LbBackend6, LbFrontend4,
    LbFrontend6, LbKey4, LbKey6, LbMaglevChunk, LbMaglevKey, LbService, LbSkipKey4, LbSkipKey6,
    LbSockKey4, LbSockKey6, LbSourceKey4, LbSourceKey6, LocalEndpoint, MetricsValue, PolicyKey,
    PolicyPortKey, PolicyValue, ProxySession, ProxySessionKey, SnatEntry4, SnatEntry6, SnatKey4,
    SnatKey6, SockEvent,
};
use expect_test::expect_file;

/// Writes size, alignment and every field's offset and size. The pattern without `..` refuses to compile when a field is missing.
macro_rules! layout {
    ($out:ident, $($name:ident { $($field:ident),* $(,)? })*) => {$(
        let check = |value: &$name| {
            let $name { $($field),* } = value;
            let base = std::ptr::from_ref(value).addr();
            [$((std::ptr::from_ref($field).addr() - base, size_of_val($field))),*]
        };
        writeln!($out, "{}: size {}, align {}", stringify!($name), size_of::<$name>(), align_of::<$name>()).unwrap();
        let fields = check(&zerocopy::FromZeros::new_zeroed());
        for (name, (offset, size)) in [$(stringify!($field)),*].into_iter().zip(fields) {
            writeln!($out, "  {offset:>3} {size:>3} {name}").unwrap();
        }
    )*};
}

#[test]
fn layout() {
    let mut out = format!("ABI version {}\n", abi::ABI_VERSION);
    layout! { out,
        EndpointKey { ip, family, pad, cluster_id }
        EndpointInfo { ifindex, sec_id, id, flags, mac, node_mac, subject }
        LocalEndpoint { info, ipv4, ipv6 }
        IpcacheKey { prefix_len, cluster_id, pad, family, ip }
        IpcacheValue { sec_id, tunnel, flags, key, pad }
        CtKey4 { a, b, port_a, port_b, proto, scope, pad }
        CtKey6 { a, b, port_a, port_b, proto, scope, pad }
        CtEntry {
            expires, created, last_report, flags, orig_tcp, reply_tcp, src_id, dst_id, epochs, rev_nat, endpoint, ifindex,
            packets, bytes,
        }
        SnatKey4 { src, dst, sport, dport, proto, flags, pad }
        SnatEntry4 { created, addr, port, pad }
        SnatKey6 { src, dst, sport, dport, proto, flags, pad }
        SnatEntry6 { created, addr, port, pad }
        FragKey4 { src, dst, id, proto, pad }
        FragKey6 { src, dst, id, proto, pad }
        FragValue { sport, dport }
        FlowEvent {
            time, kind, subtype, ct_status, flags, endpoint, proto, tcp_flags, len, ifindex, src_id, dst_id, src, dst, sport,
            dport, line, file, ext_error, origin, direction, matched, pad,
        }
        SockEvent { time, kind, point, pad, flags, pad2, proto, pad3, cookie, cgroup, netns, pad4, dst, pad5, dport, pad6 }
        PolicyKey { prefix_len, subject, remote, direction, proto, port }
        PolicyPortKey { subject, remote, direction, proto, port }
        PolicyValue { verdict, l4_len, proxy, pad, precedence, origin, decided }
        ProxySessionKey { src, dst, sport, dport, proto, family, pad }
        ProxySession { src_id, dst_id, egress_endpoint, ingress_endpoint, kind, pad }
        LbService { backend, affinity, count, id, flags, algorithm, serving }
        LbKey4 { addr, port, proto, scope, slot, pad }
        LbKey6 { addr, port, proto, scope, slot, pad }
        LbBackend4 { addr, port, proto, state }
        LbBackend6 { addr, port, proto, state }
        LbFrontend4 { addr, port, id }
        LbFrontend6 { addr, port, id }
        LbMaglevKey { id, chunk }
        LbMaglevChunk { backends }
        LbAffinityMatch { backend, id, pad }
        L2Answers { answers, until, mac, pad }
        LbAffinity { backend, used }
        LbAffinityKey4 { client, id, by_cookie, pad }
        LbAffinityKey6 { client, id, by_cookie, pad }
        LbSourceKey4 { prefix_len, id, pad, addr }
        LbSourceKey6 { prefix_len, id, pad, addr }
        LbSockKey4 { cookie, addr, port, pad }
        LbSockKey6 { cookie, addr, port, pad }
        LbSkipKey4 { netns, addr, port, proto, pad }
        LbSkipKey6 { netns, addr, port, proto, pad }
        L2Key4 { addr, ifindex }
        L2Key6 { addr, ifindex }
        MetricsValue { packets, bytes, line, file }
        DatapathConfig {
            host_netns, tunnel_ifindex, report_interval, ct_tcp, ct_tcp_syn, ct_tcp_fin, ct_any, snat_min, snat_max,
            routing, aggregation, ipv4, ipv6, masquerade4, masquerade6, host_legacy, accounting, coarse_clock,
            host_firewall, tunnel_port, services, sock_host_only, no_backend_drops, dsr_dispatch, node_port_min, node_port_max,
            maglev_size, refusal_says_why, bind_protection, trace_sock, xdp, proxy_ifindex, proxy_mac,
            proxy_node_mac, mtu, native4_len, native6_len, node_ipv4, router_ipv4, native4, node_ipv6, router_ipv6, native6,
            nat46x64, pad,
        }
    }
    expect_file!["./layout.txt"].assert_eq(&out);
}

/// The numbers are in counters, events and other programs' tables: they never change.
#[test]
fn drop_reasons() {
    let mut out = String::new();
    for reason in abi::DropReason::ALL {
        let number = *reason as u8;
        assert_eq!(abi::DropReason::from_u8(number), Some(*reason));
        writeln!(out, "{number} {} | {}", reason.text(), reason.proto_name()).unwrap();
    }
    expect_file!["./drop_reasons.txt"].assert_eq(&out);
}
