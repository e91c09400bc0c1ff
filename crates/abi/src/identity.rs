//! Numeric security identities (the reserved ones are fixed across all nodes and releases).

/// The identity is not known.
pub const UNKNOWN: u32 = 0;
/// This node itself.
pub const HOST: u32 = 1;
/// Everything outside the cluster.
pub const WORLD: u32 = 2;
/// An endpoint that no policy manages.
pub const UNMANAGED: u32 = 3;
/// The health endpoint.
pub const HEALTH: u32 = 4;
/// An endpoint whose labels are not known yet.
pub const INIT: u32 = 5;
/// Another node of the cluster.
pub const REMOTE_NODE: u32 = 6;
/// The Kubernetes API server.
pub const KUBE_APISERVER: u32 = 7;
/// The ingress proxy.
pub const INGRESS: u32 = 8;
/// World reached by IPv4, where both families are on.
pub const WORLD_IPV4: u32 = 9;
/// World reached by IPv6, where both families are on.
pub const WORLD_IPV6: u32 = 10;

/// First identity that labels are given cluster-wide.
pub const MIN_ALLOCATED: u32 = 256;
/// Last identity that labels are given cluster-wide.
pub const MAX_ALLOCATED: u32 = 65535;

/// True for identities of other nodes: the reserved ones, and those that agents give to nodes of certain labels.
#[inline(always)]
#[must_use]
pub const fn is_remote_node(id: u32) -> bool {
    const NODES: u32 = 0x0200_0000;
    id == REMOTE_NODE || id == KUBE_APISERVER || id & 0xFF00_0000 == NODES
}

/// True for identities that a node gives to ranges of addresses outside the cluster.
#[inline(always)]
#[must_use]
pub const fn is_range(id: u32) -> bool {
    const RANGES: u32 = 0x0100_0000;
    id & 0xFF00_0000 == RANGES
}

/// The reserved name of `id`, as in `reserved:host`, if it has one.
#[must_use]
pub const fn reserved_name(id: u32) -> Option<&'static str> {
    Some(match id {
        UNKNOWN => "unknown",
        HOST => "host",
        WORLD => "world",
        UNMANAGED => "unmanaged",
        HEALTH => "health",
        INIT => "init",
        REMOTE_NODE => "remote-node",
        KUBE_APISERVER => "kube-apiserver",
        INGRESS => "ingress",
        WORLD_IPV4 => "world-ipv4",
        WORLD_IPV6 => "world-ipv6",
        _ => return None,
    })
}
