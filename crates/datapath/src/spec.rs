//! What every map must look like, and how big it is.
use std::fmt;

use abi::names;

use crate::sys::MapShape;

/// Kinds of map that the programs use (`enum bpf_map_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MapKind {
    /// Hash table.
    Hash = 1,
    /// Array.
    Array = 2,
    /// Array with a value per CPU.
    PerCpuArray = 6,
    /// Hash table that drops the least recently used entry when it is full.
    LruHash = 9,
    /// Longest-prefix match.
    LpmTrie = 11,
    /// Ring buffer.
    RingBuf = 27,
}

impl MapKind {
    pub(crate) fn from_u32(n: u32) -> Option<Self> {
        [
            Self::Hash,
            Self::Array,
            Self::PerCpuArray,
            Self::LruHash,
            Self::LpmTrie,
            Self::RingBuf,
        ]
        .into_iter()
        .find(|kind| *kind as u32 == n)
    }

    /// The word `bpftool map` uses.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Array => "array",
            Self::PerCpuArray => "percpu_array",
            Self::LruHash => "lru_hash",
            Self::LpmTrie => "lpm_trie",
            Self::RingBuf => "ringbuf",
        }
    }
}

impl fmt::Display for MapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Entries each map has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Local endpoints and node addresses.
    pub endpoints: u32,
    /// Prefixes of the address cache.
    pub ipcache: u32,
    /// Connections, per family.
    pub conntrack: u32,
    /// Masquerade mappings, per family; each connection takes two.
    pub nat: u32,
    /// Fragmented datagrams under way, per family.
    pub fragments: u32,
    /// Rows of network policy, of all subjects together.
    pub policy: u32,
    /// Services with their slots, backends and what belongs to them, per family and map.
    pub services: u32,
    /// Chunks of Maglev tables, per family: a table of the default size has 64.
    pub maglev: u32,
    /// Sockets that talk to services, per family.
    pub sockets: u32,
    /// Bytes of the event ring, a power of two and at least a page.
    pub events_bytes: u32,
}

impl Default for MapSizes {
    fn default() -> Self {
        Self {
            endpoints: 65_535,
            ipcache: 512_000,
            conntrack: 524_288,
            nat: 524_288,
            fragments: 8_192,
            policy: 262_144,
            services: 65_536,
            maglev: 262_144,
            sockets: 65_536,
            events_bytes: 1 << 19,
        }
    }
}

impl MapSizes {
    /// Sizes of the big maps such that they take at most `ratio` of `memory` bytes, between 64 Ki entries and eight times the default.
    #[must_use]
    pub fn for_memory(memory: u64, ratio: f64) -> Self {
        /// Bytes of one connection's entry and of a mapping's, of both families, with the kernel's own part.
        const ENTRY: f64 = 2.0 * (152.0 + 120.0);
        const LEAST: f64 = 65_536.0;
        let default = Self::default();
        let most = f64::from(default.conntrack) * 8.0;
        let entries = (memory as f64 * ratio / ENTRY).clamp(LEAST, most) as u32;
        Self {
            conntrack: entries,
            nat: entries,
            ..default
        }
    }
}

/// What one map must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapSpec {
    pub(crate) name: &'static str,
    pub(crate) kind: MapKind,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
}

impl MapSpec {
    fn of<K, V>(name: &'static str, kind: MapKind, max_entries: u32) -> Self {
        Self {
            name,
            kind,
            key_size: size_of::<K>() as u32,
            value_size: size_of::<V>() as u32,
            max_entries,
        }
    }

    /// How `shape` differs; `None`: it does not.
    pub(crate) fn difference(&self, shape: &MapShape) -> Option<String> {
        let expected = (
            self.kind as u32,
            self.key_size,
            self.value_size,
            self.max_entries,
        );
        let found = (
            shape.kind,
            shape.key_size,
            shape.value_size,
            shape.max_entries,
        );
        if found == expected {
            return None;
        }
        let kind = MapKind::from_u32(shape.kind)
            .map_or_else(|| format!("type {}", shape.kind), |k| k.to_string());
        Some(format!(
            "{kind} with key {} B, value {} B, {} entries instead of {} with key {} B, value {} B, {} entries",
            shape.key_size,
            shape.value_size,
            shape.max_entries,
            self.kind,
            self.key_size,
            self.value_size,
            self.max_entries
        ))
    }

    /// Whether the entries of a map of `shape` can be copied into one of this spec.
    pub(crate) fn can_take_entries_of(&self, shape: &MapShape) -> bool {
        self.key_size == shape.key_size
            && self.value_size == shape.value_size
            && matches!(
                self.kind,
                MapKind::Hash | MapKind::LruHash | MapKind::LpmTrie
            )
            && MapKind::from_u32(shape.kind)
                .is_some_and(|k| matches!(k, MapKind::Hash | MapKind::LruHash | MapKind::LpmTrie))
    }
}

/// Addresses that are announced, with their devices, per family.
const L2_ENTRIES: u32 = 4096;

/// Devices whose driver has the program.
const XDP_DEVICES: u32 = 256;

/// Entries of the metrics map: one per reason and direction.
const METRICS_ENTRIES: u32 = 1024;

/// Connections by way of the proxy that are known at a time.
const PROXY_SESSIONS: u32 = 65_536;

/// Every pinned map, in the order of [`names::MAPS`].
pub(crate) fn specs(sizes: &MapSizes) -> [MapSpec; names::MAPS.len()] {
    use MapKind::{Array, Hash, LpmTrie, LruHash, PerCpuArray, RingBuf};
    use abi::{
        CtEntry, CtKey4, CtKey6, EndpointInfo, EndpointKey, FragKey4, FragKey6, FragValue,
        IpcacheKey, IpcacheValue, L2Answers, L2Key4, L2Key6, LbAffinity, LbAffinityKey4,
        LbAffinityKey6, LbAffinityMatch, LbBackend4, LbBackend6, LbFrontend4, LbFrontend6, LbKey4,
        LbKey6, LbMaglevChunk, LbMaglevKey, LbService, LbSkipKey4, LbSkipKey6, LbSockKey4,
        LbSockKey6, LbSourceKey4, LbSourceKey6, LocalEndpoint, MetricsValue, PolicyKey,
        PolicyPortKey, PolicyValue, ProxySession, ProxySessionKey, SnatEntry4, SnatEntry6,
        SnatKey4, SnatKey6,
    };
    [
        MapSpec::of::<EndpointKey, EndpointInfo>(names::LXC, Hash, sizes.endpoints),
        MapSpec::of::<u32, LocalEndpoint>(names::LXC_IFINDEX, Hash, sizes.endpoints),
        MapSpec::of::<IpcacheKey, IpcacheValue>(names::IPCACHE, LpmTrie, sizes.ipcache),
        MapSpec::of::<CtKey4, CtEntry>(names::CT4, LruHash, sizes.conntrack),
        MapSpec::of::<CtKey6, CtEntry>(names::CT6, LruHash, sizes.conntrack),
        MapSpec::of::<SnatKey4, SnatEntry4>(names::SNAT4, LruHash, sizes.nat),
        MapSpec::of::<SnatKey6, SnatEntry6>(names::SNAT6, LruHash, sizes.nat),
        MapSpec::of::<FragKey4, FragValue>(names::FRAG4, LruHash, sizes.fragments),
        MapSpec::of::<FragKey6, FragValue>(names::FRAG6, LruHash, sizes.fragments),
        MapSpec::of::<PolicyKey, PolicyValue>(names::POLICY, LpmTrie, sizes.policy),
        MapSpec::of::<PolicyPortKey, PolicyValue>(names::POLICY_PORTS, Hash, sizes.policy),
        MapSpec::of::<u32, u32>(names::POLICY_EPOCH, Array, 1),
        MapSpec::of::<ProxySessionKey, ProxySession>(
            names::PROXY_SESSIONS,
            LruHash,
            PROXY_SESSIONS,
        ),
        MapSpec::of::<LbKey4, LbService>(names::LB4_SERVICES, Hash, sizes.services),
        MapSpec::of::<LbKey6, LbService>(names::LB6_SERVICES, Hash, sizes.services),
        MapSpec::of::<u32, LbBackend4>(names::LB4_BACKENDS, Hash, sizes.services),
        MapSpec::of::<u32, LbBackend6>(names::LB6_BACKENDS, Hash, sizes.services),
        MapSpec::of::<u16, LbFrontend4>(names::LB4_REVERSE, Hash, sizes.services),
        MapSpec::of::<u16, LbFrontend6>(names::LB6_REVERSE, Hash, sizes.services),
        MapSpec::of::<LbSockKey4, LbFrontend4>(names::LB4_REVERSE_SK, LruHash, sizes.sockets),
        MapSpec::of::<LbSockKey6, LbFrontend6>(names::LB6_REVERSE_SK, LruHash, sizes.sockets),
        MapSpec::of::<LbAffinityKey4, LbAffinity>(names::LB4_AFFINITY, LruHash, sizes.services),
        MapSpec::of::<LbAffinityKey6, LbAffinity>(names::LB6_AFFINITY, LruHash, sizes.services),
        MapSpec::of::<LbAffinityMatch, u8>(names::LB_AFFINITY_MATCH, Hash, sizes.services),
        MapSpec::of::<LbSourceKey4, u8>(names::LB4_SOURCE_RANGES, LpmTrie, sizes.services),
        MapSpec::of::<LbSourceKey6, u8>(names::LB6_SOURCE_RANGES, LpmTrie, sizes.services),
        MapSpec::of::<LbMaglevKey, LbMaglevChunk>(names::LB4_MAGLEV, Hash, sizes.maglev),
        MapSpec::of::<LbMaglevKey, LbMaglevChunk>(names::LB6_MAGLEV, Hash, sizes.maglev),
        MapSpec::of::<LbSkipKey4, u8>(names::SKIP_LB4, Hash, sizes.services),
        MapSpec::of::<LbSkipKey6, u8>(names::SKIP_LB6, Hash, sizes.services),
        MapSpec::of::<L2Key4, L2Answers>(names::L2_RESPONDER4, Hash, L2_ENTRIES),
        MapSpec::of::<L2Key6, L2Answers>(names::L2_RESPONDER6, Hash, L2_ENTRIES),
        MapSpec::of::<u32, u32>(names::XDP_DEVICES, Hash, XDP_DEVICES),
        MapSpec::of::<u32, MetricsValue>(names::METRICS, PerCpuArray, METRICS_ENTRIES),
        MapSpec::of::<(), ()>(names::EVENTS, RingBuf, sizes.events_bytes),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_of_the_contract_has_a_spec() {
        let specs = specs(&MapSizes::default());
        assert_eq!(specs.map(|s| s.name), names::MAPS);
    }

    #[test]
    fn memory_bounds_the_big_maps() {
        let small = MapSizes::for_memory(1 << 30, 0.0025);
        assert_eq!(small.conntrack, 65_536);
        let big = MapSizes::for_memory(1 << 40, 0.0025);
        assert_eq!(big.conntrack, 524_288 * 8);
    }
}
