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
/// Packets and bytes by reason and direction, per CPU: [`crate::metrics_index`] → [`crate::MetricsValue`].
pub const METRICS: &str = "cilium_metrics";
/// The ring buffer of [`crate::FlowEvent`] records.
pub const EVENTS: &str = "cilium_events";
/// Name of the read-only global that holds [`crate::DatapathConfig`].
pub const CONFIG_GLOBAL: &str = "CONFIG";

/// Every pinned map.
pub const MAPS: [&str; 13] = [
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
