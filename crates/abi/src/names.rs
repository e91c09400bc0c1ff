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
/// Rows of network policy: [`crate::PolicyKey`] → [`crate::PolicyValue`].
pub const POLICY: &str = "cilium_policy";
/// One number, the policy epoch: with another one every connection is asked about anew.
pub const POLICY_EPOCH: &str = "cilium_policy_epoch";
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
/// IPv4 addresses that this node answers for: [`crate::L2Key4`] → `u64`.
pub const L2_RESPONDER4: &str = "cilium_l2_responder_v4";
/// IPv6 addresses that this node answers for: [`crate::L2Key6`] → `u64`.
pub const L2_RESPONDER6: &str = "cilium_l2_responder_v6";
/// Packets and bytes by reason and direction, per CPU: [`crate::metrics_index`] → [`crate::MetricsValue`].
pub const METRICS: &str = "cilium_metrics";
/// The ring buffer of [`crate::FlowEvent`] records.
pub const EVENTS: &str = "cilium_events";
/// Name of the read-only global that holds [`crate::DatapathConfig`].
pub const CONFIG_GLOBAL: &str = "CONFIG";

/// Every pinned map.
pub const MAPS: [&str; 32] = [
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
    POLICY_EPOCH,
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

/// Every program of the object, all of them tc classifiers.
pub const PROGRAMS: [&str; 6] = [
    FROM_CONTAINER,
    TO_CONTAINER,
    FROM_NETDEV,
    TO_NETDEV,
    FROM_OVERLAY,
    FROM_HOST,
];
