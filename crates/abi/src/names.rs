//! Names of maps and programs as users see them in `bpftool` and under the bpffs.

/// Endpoints and node addresses by IP: [`crate::EndpointKey`] → [`crate::EndpointInfo`].
pub const LXC: &str = "cilium_lxc";
/// Endpoints by the ifindex of their host-side device: `u32` → [`crate::LocalEndpoint`].
pub const LXC_IFINDEX: &str = "cilium_lxc_if";
/// Longest-prefix match of every known address: [`crate::IpcacheKey`] → [`crate::IpcacheValue`].
pub const IPCACHE: &str = "cilium_ipcache";
/// IPv4 connections: [`crate::CtKey4`] → [`crate::CtEntry`].
pub const CT4: &str = "cilium_ct4_global";
/// IPv6 connections: [`crate::CtKey6`] → [`crate::CtEntry`].
pub const CT6: &str = "cilium_ct6_global";
/// IPv4 masquerade mappings, both directions: [`crate::SnatKey4`] → [`crate::SnatEntry4`].
pub const SNAT4: &str = "cilium_snat_v4_external";
/// IPv6 masquerade mappings, both directions: [`crate::SnatKey6`] → [`crate::SnatEntry6`].
pub const SNAT6: &str = "cilium_snat_v6_external";
/// Ports of fragmented IPv4 datagrams: [`crate::FragKey4`] → [`crate::FragValue`].
pub const FRAG4: &str = "cilium_ipv4_frag_datagrams";
/// Ports of fragmented IPv6 datagrams: [`crate::FragKey6`] → [`crate::FragValue`].
pub const FRAG6: &str = "cilium_ipv6_frag_datagrams";
/// Rows of network policy that hold for more than one port: [`crate::PolicyKey`] → [`crate::PolicyValue`].
pub const POLICY: &str = "cilium_policy";
/// Rows of network policy for one port each: [`crate::PolicyPortKey`] → [`crate::PolicyValue`].
pub const POLICY_PORTS: &str = "cilium_policy_ports";
/// One number, the policy epoch: with another one every connection is asked about anew.
pub const POLICY_EPOCH: &str = "cilium_policy_epoch";
/// Connections that go by way of the proxy, as their clients opened them: [`crate::ProxySessionKey`] → [`crate::ProxySession`].
pub const PROXY_SESSIONS: &str = "cilium_proxy_sessions";
/// IPv4 frontends and their slots: [`crate::LbKey4`] → [`crate::LbService`].
pub const LB4_SERVICES: &str = "cilium_lb4_services_v2";
/// IPv6 frontends and their slots: [`crate::LbKey6`] → [`crate::LbService`].
pub const LB6_SERVICES: &str = "cilium_lb6_services_v2";
/// IPv4 backends by number: `u32` → [`crate::LbBackend4`].
pub const LB4_BACKENDS: &str = "cilium_lb4_backends_v3";
/// IPv6 backends by number: `u32` → [`crate::LbBackend6`].
pub const LB6_BACKENDS: &str = "cilium_lb6_backends_v3";
/// IPv4 frontends by number: `u16` → [`crate::LbFrontend4`].
pub const LB4_REVERSE: &str = "cilium_lb4_reverse_nat";
/// IPv6 frontends by number: `u16` → [`crate::LbFrontend6`].
pub const LB6_REVERSE: &str = "cilium_lb6_reverse_nat";
/// What IPv4 sockets think they talk to: [`crate::LbSockKey4`] → [`crate::LbFrontend4`].
pub const LB4_REVERSE_SK: &str = "cilium_lb4_reverse_sk";
/// What IPv6 sockets think they talk to: [`crate::LbSockKey6`] → [`crate::LbFrontend6`].
pub const LB6_REVERSE_SK: &str = "cilium_lb6_reverse_sk";
/// Backends that IPv4 clients keep: [`crate::LbAffinityKey4`] → [`crate::LbAffinity`].
pub const LB4_AFFINITY: &str = "cilium_lb4_affinity";
/// Backends that IPv6 clients keep: [`crate::LbAffinityKey6`] → [`crate::LbAffinity`].
pub const LB6_AFFINITY: &str = "cilium_lb6_affinity";
/// Backends at which frontends may keep their clients: [`crate::LbAffinityMatch`] → `u8`.
pub const LB_AFFINITY_MATCH: &str = "cilium_lb_affinity_match";
/// Longest-prefix match of the clients of IPv4 frontends: [`crate::LbSourceKey4`] → `u8`.
pub const LB4_SOURCE_RANGES: &str = "cilium_lb4_source_range";
/// Longest-prefix match of the clients of IPv6 frontends: [`crate::LbSourceKey6`] → `u8`.
pub const LB6_SOURCE_RANGES: &str = "cilium_lb6_source_range";
/// Maglev tables of IPv4 frontends: [`crate::LbMaglevKey`] → [`crate::LbMaglevChunk`].
pub const LB4_MAGLEV: &str = "cilium_lb4_maglev";
/// Maglev tables of IPv6 frontends: [`crate::LbMaglevKey`] → [`crate::LbMaglevChunk`].
pub const LB6_MAGLEV: &str = "cilium_lb6_maglev";
/// Who is not translated, IPv4: [`crate::LbSkipKey4`] → `u8`.
pub const SKIP_LB4: &str = "cilium_skip_lb4";
/// Who is not translated, IPv6: [`crate::LbSkipKey6`] → `u8`.
pub const SKIP_LB6: &str = "cilium_skip_lb6";
/// IPv4 addresses that this node answers for: [`crate::L2Key4`] → [`crate::L2Answers`].
pub const L2_RESPONDER4: &str = "cilium_l2_responder_v4";
/// IPv6 addresses that this node answers for: [`crate::L2Key6`] → [`crate::L2Answers`].
pub const L2_RESPONDER6: &str = "cilium_l2_responder_v6";
/// Devices whose driver has the program: ifindex → one of [`crate::xdp_device`], a `u32`.
pub const XDP_DEVICES: &str = "hypha_xdp_devices";
/// Packets and bytes by reason and direction, per CPU: [`crate::metrics_index`] → [`crate::MetricsValue`].
pub const METRICS: &str = "cilium_metrics";
/// The ring buffer of [`crate::FlowEvent`] records.
pub const EVENTS: &str = "cilium_events";
/// Name of the read-only global that holds [`crate::DatapathConfig`].
pub const CONFIG_GLOBAL: &str = "CONFIG";

/// Every pinned map.
pub const MAPS: [&str; 35] = [
    LXC,
    LXC_IFINDEX,
    IPCACHE,
    CT4,
    CT6,
    SNAT4,
    SNAT6,
    FRAG4,
    FRAG6,
    POLICY,
    POLICY_PORTS,
    POLICY_EPOCH,
    PROXY_SESSIONS,
    LB4_SERVICES,
    LB6_SERVICES,
    LB4_BACKENDS,
    LB6_BACKENDS,
    LB4_REVERSE,
    LB6_REVERSE,
    LB4_REVERSE_SK,
    LB6_REVERSE_SK,
    LB4_AFFINITY,
    LB6_AFFINITY,
    LB_AFFINITY_MATCH,
    LB4_SOURCE_RANGES,
    LB6_SOURCE_RANGES,
    LB4_MAGLEV,
    LB6_MAGLEV,
    SKIP_LB4,
    SKIP_LB6,
    L2_RESPONDER4,
    L2_RESPONDER6,
    XDP_DEVICES,
    METRICS,
    EVENTS,
];

/// Host side of a pod's link, ingress: what the pod sends.
pub const FROM_CONTAINER: &str = "cil_from_container";
/// Host side of a pod's link, egress: what the host stack routes to the pod.
pub const TO_CONTAINER: &str = "cil_to_container";
/// A node device, ingress.
pub const FROM_NETDEV: &str = "cil_from_netdev";
/// A node device, egress.
pub const TO_NETDEV: &str = "cil_to_netdev";
/// The tunnel device, ingress.
pub const FROM_OVERLAY: &str = "cil_from_overlay";
/// `cilium_host`, egress: what the node's own processes send to pods.
pub const FROM_HOST: &str = "cil_from_host";

/// The node's end of the proxy's link, ingress: what the proxy sends.
pub const FROM_PROXY: &str = "cil_from_proxy";
/// The proxy's end of its link, ingress: what goes to the proxy.
pub const TO_PROXY: &str = "cil_to_proxy";

/// A node device, before the stack; loaded only where [`crate::DatapathConfig::xdp`] says so.
pub const XDP_ENTRY: &str = "cil_xdp_entry";

/// A socket that connects, IPv4.
pub const SOCK4_CONNECT: &str = "cil_sock4_connect";
/// A socket that connects, IPv6.
pub const SOCK6_CONNECT: &str = "cil_sock6_connect";
/// A datagram to an address, IPv4.
pub const SOCK4_SENDMSG: &str = "cil_sock4_sendmsg";
/// A datagram to an address, IPv6.
pub const SOCK6_SENDMSG: &str = "cil_sock6_sendmsg";
/// Where a datagram comes from, IPv4.
pub const SOCK4_RECVMSG: &str = "cil_sock4_recvmsg";
/// Where a datagram comes from, IPv6.
pub const SOCK6_RECVMSG: &str = "cil_sock6_recvmsg";
/// Whom a socket is connected to, IPv4.
pub const SOCK4_GETPEERNAME: &str = "cil_sock4_getpeername";
/// Whom a socket is connected to, IPv6.
pub const SOCK6_GETPEERNAME: &str = "cil_sock6_getpeername";
/// A socket that was bound, IPv4.
pub const SOCK4_POST_BIND: &str = "cil_sock4_post_bind";
/// A socket that was bound, IPv6.
pub const SOCK6_POST_BIND: &str = "cil_sock6_post_bind";

/// The programs of devices in the stack: tc classifiers.
pub const DEVICE_PROGRAMS: [&str; 8] = [
    FROM_CONTAINER,
    TO_CONTAINER,
    FROM_NETDEV,
    TO_NETDEV,
    FROM_OVERLAY,
    FROM_HOST,
    FROM_PROXY,
    TO_PROXY,
];

/// The programs of sockets, which are attached to a control group.
pub const SOCK_PROGRAMS: [&str; 10] = [
    SOCK4_CONNECT,
    SOCK6_CONNECT,
    SOCK4_SENDMSG,
    SOCK6_SENDMSG,
    SOCK4_RECVMSG,
    SOCK6_RECVMSG,
    SOCK4_GETPEERNAME,
    SOCK6_GETPEERNAME,
    SOCK4_POST_BIND,
    SOCK6_POST_BIND,
];

/// Every program of the object, [`XDP_ENTRY`] last.
pub const PROGRAMS: [&str; ALWAYS + 1] = all();

/// Those but [`XDP_ENTRY`], which is the last.
const ALWAYS: usize = DEVICE_PROGRAMS.len() + SOCK_PROGRAMS.len();

const fn all() -> [&'static str; ALWAYS + 1] {
    let mut all = [XDP_ENTRY; ALWAYS + 1];
    let mut n = 0;
    while n < ALWAYS {
        all[n] = if n < DEVICE_PROGRAMS.len() {
            DEVICE_PROGRAMS[n]
        } else {
            SOCK_PROGRAMS[n - DEVICE_PROGRAMS.len()]
        };
        n += 1;
    }
    all
}
