//! The maps, and which of a pair belongs to which family.
use core::mem::offset_of;

use abi::{
    CtEntry, CtKey4, CtKey6, EndpointInfo, EndpointKey, FlowEvent, FragKey4, FragKey6, FragValue,
    IpcacheKey, IpcacheValue, L2Answers, L2Key4, L2Key6, LocalEndpoint, MetricsValue, PolicyKey,
    PolicyPortKey, PolicyValue, ProxySession, ProxySessionKey, SnatEntry4, SnatEntry6, SnatKey4,
    SnatKey6, xdp_device,
};
use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
};
use wire::{Family, V4, V6, direct::Direct};

use crate::{
    calls::Calls,
    config::Settings,
    cross::Cross,
    flow::State,
    routes::{Route, SLOTS},
    service::Services,
};

const NO_PREALLOC: u32 = 1;

#[map(name = "cilium_lxc")]
static LXC: HashMap<EndpointKey, EndpointInfo> = HashMap::pinned(65_535, NO_PREALLOC);
#[map(name = "cilium_lxc_if")]
static LXC_IFINDEX: HashMap<u32, LocalEndpoint> = HashMap::pinned(65_535, NO_PREALLOC);
#[map(name = "cilium_ipcache")]
static IPCACHE: LpmTrie<[u8; size_of::<IpcacheKey>() - 4], IpcacheValue> =
    LpmTrie::pinned(512_000, NO_PREALLOC);
#[map(name = "cilium_ct4_global")]
static CT4: LruHashMap<CtKey4, CtEntry> = LruHashMap::pinned(524_288, 0);
#[map(name = "cilium_ct6_global")]
static CT6: LruHashMap<CtKey6, CtEntry> = LruHashMap::pinned(524_288, 0);
#[map(name = "cilium_snat_v4_external")]
static SNAT4: LruHashMap<SnatKey4, SnatEntry4> = LruHashMap::pinned(524_288, 0);
#[map(name = "cilium_snat_v6_external")]
static SNAT6: LruHashMap<SnatKey6, SnatEntry6> = LruHashMap::pinned(524_288, 0);
#[map(name = "cilium_ipv4_frag_datagrams")]
static FRAG4: LruHashMap<FragKey4, FragValue> = LruHashMap::pinned(8192, 0);
#[map(name = "cilium_ipv6_frag_datagrams")]
static FRAG6: LruHashMap<FragKey6, FragValue> = LruHashMap::pinned(8192, 0);
#[map(name = "cilium_policy")]
static POLICY: LpmTrie<[u8; size_of::<PolicyKey>() - 4], PolicyValue> =
    LpmTrie::pinned(262_144, NO_PREALLOC);
#[map(name = "cilium_policy_ports")]
static POLICY_PORTS: HashMap<PolicyPortKey, PolicyValue> = HashMap::pinned(262_144, NO_PREALLOC);
#[map(name = "cilium_policy_epoch")]
static POLICY_EPOCH: Array<u32> = Array::pinned(1, 0);
#[map(name = "cilium_proxy_sessions")]
static PROXY_SESSIONS: LruHashMap<ProxySessionKey, ProxySession> = LruHashMap::pinned(65_536, 0);
#[map(name = "cilium_l2_responder_v4")]
static L2_RESPONDER4: HashMap<L2Key4, L2Answers> = HashMap::pinned(4096, NO_PREALLOC);
#[map(name = "cilium_l2_responder_v6")]
static L2_RESPONDER6: HashMap<L2Key6, L2Answers> = HashMap::pinned(4096, NO_PREALLOC);
#[map(name = "hypha_xdp_devices")]
static XDP_DEVICES: HashMap<u32, u32> = HashMap::pinned(256, NO_PREALLOC);
#[map(name = "cilium_metrics")]
static METRICS: PerCpuArray<MetricsValue> = PerCpuArray::pinned(1024, 0);
#[map(name = "cilium_events")]
static EVENTS: RingBuf = RingBuf::pinned(1 << 20, 0);

/// Memory for what a program finds out about its packet: neither tc programs nor those of drivers interrupt each other on one CPU.
#[map(name = "hypha_state4")]
static STATE4: PerCpuArray<State<V4>> = PerCpuArray::with_max_entries(1, 0);
#[map(name = "hypha_state6")]
static STATE6: PerCpuArray<State<V6>> = PerCpuArray::with_max_entries(1, 0);

/// What each CPU knows of the routing table.
#[map(name = "hypha_routes4")]
static ROUTES4: PerCpuArray<Route<V4>> = PerCpuArray::with_max_entries(SLOTS, 0);
#[map(name = "hypha_routes6")]
static ROUTES6: PerCpuArray<Route<V6>> = PerCpuArray::with_max_entries(SLOTS, 0);

/// The family's own maps and settings.
pub trait Maps: Direct + Settings + Calls + Services + Cross {
    fn ct() -> &'static LruHashMap<Self::CtKey, CtEntry>;
    fn snat() -> &'static LruHashMap<Self::SnatKey, Self::SnatEntry>;
    fn fragments() -> &'static LruHashMap<Self::FragKey, FragValue>;
    /// This CPU's memory for a packet's state.
    fn state() -> Option<&'static mut State<Self>>;
    /// One of this CPU's places for routes.
    fn route(place: u32) -> Option<&'static mut Route<Self>>;
    /// The endpoint's address of this family; zero if it has none.
    fn addr_of(endpoint: &LocalEndpoint) -> Self::Addr;
}

impl Maps for V4 {
    #[inline(always)]
    fn ct() -> &'static LruHashMap<CtKey4, CtEntry> {
        &CT4
    }

    #[inline(always)]
    fn snat() -> &'static LruHashMap<SnatKey4, SnatEntry4> {
        &SNAT4
    }

    #[inline(always)]
    fn fragments() -> &'static LruHashMap<FragKey4, FragValue> {
        &FRAG4
    }

    #[inline(always)]
    fn state() -> Option<&'static mut State<V4>> {
        // SAFETY: each program asks once, and ends before the next one on its CPU begins; all zeros is a valid state.
        STATE4.get_ptr_mut(0).map(|p| unsafe { &mut *p })
    }

    #[inline(always)]
    fn route(place: u32) -> Option<&'static mut Route<V4>> {
        // SAFETY: as for the state.
        ROUTES4.get_ptr_mut(place).map(|p| unsafe { &mut *p })
    }

    #[inline(always)]
    fn addr_of(endpoint: &LocalEndpoint) -> u32 {
        zerocopy::transmute!(endpoint.ipv4)
    }
}

impl Maps for V6 {
    #[inline(always)]
    fn ct() -> &'static LruHashMap<CtKey6, CtEntry> {
        &CT6
    }

    #[inline(always)]
    fn snat() -> &'static LruHashMap<SnatKey6, SnatEntry6> {
        &SNAT6
    }

    #[inline(always)]
    fn fragments() -> &'static LruHashMap<FragKey6, FragValue> {
        &FRAG6
    }

    #[inline(always)]
    fn state() -> Option<&'static mut State<V6>> {
        // SAFETY: each program asks once, and ends before the next one on its CPU begins; all zeros is a valid state.
        STATE6.get_ptr_mut(0).map(|p| unsafe { &mut *p })
    }

    #[inline(always)]
    fn route(place: u32) -> Option<&'static mut Route<V6>> {
        // SAFETY: as for the state.
        ROUTES6.get_ptr_mut(place).map(|p| unsafe { &mut *p })
    }

    #[inline(always)]
    fn addr_of(endpoint: &LocalEndpoint) -> [u64; 2] {
        zerocopy::transmute!(endpoint.ipv6)
    }
}

/// The endpoint behind a host-side device.
#[inline(always)]
pub fn endpoint_of_device(ifindex: u32) -> Option<&'static LocalEndpoint> {
    // SAFETY: an entry removed meanwhile stays readable until this program ends (NO_PREALLOC frees by RCU).
    unsafe { LXC_IFINDEX.get(ifindex) }
}

/// The endpoint, or the node itself, that has `addr`.
#[inline(always)]
pub fn endpoint<F: Family>(addr: F::Addr) -> Option<&'static EndpointInfo> {
    let key = F::endpoint_key(addr);
    // SAFETY: as above.
    unsafe { LXC.get(&key) }
}

/// What this node says of an IPv4 address on a device's network.
#[inline(always)]
pub fn answers4(addr: u32, ifindex: u32) -> Option<&'static mut L2Answers> {
    let key = L2Key4 {
        addr: zerocopy::transmute!(addr),
        ifindex,
    };
    // SAFETY: as above; a count that is lost to another CPU is lost.
    L2_RESPONDER4.get_ptr_mut(&key).map(|p| unsafe { &mut *p })
}

/// What this node says of an IPv6 address on a device's network.
#[inline(always)]
pub fn answers6(addr: [u64; 2], ifindex: u32) -> Option<&'static mut L2Answers> {
    let key = L2Key6 {
        addr: zerocopy::transmute!(addr),
        ifindex,
    };
    // SAFETY: as above.
    L2_RESPONDER6.get_ptr_mut(&key).map(|p| unsafe { &mut *p })
}

/// Whether a frame that came by one device can leave by another one without the stack.
#[inline(always)]
pub fn reaches(from: u32, to: u32) -> bool {
    if from == to {
        return true;
    }
    match xdp_place(to) {
        Some(xdp_device::DRIVER | xdp_device::CABLE) => true,
        Some(_) => xdp_place(from) == Some(xdp_device::STACK),
        None => false,
    }
}

/// One of [`xdp_device`].
#[inline(always)]
pub fn xdp_place(ifindex: u32) -> Option<u32> {
    // SAFETY: as above.
    unsafe { XDP_DEVICES.get(ifindex) }.copied()
}

/// The cluster's knowledge of `addr`.
#[inline(always)]
pub fn ipcache<F: Family>(addr: F::Addr) -> Option<&'static IpcacheValue> {
    let key = F::ipcache_key(addr);
    // SAFETY: `Key` is the prefix length followed by the data, which is how `IpcacheKey` lies in memory.
    let key = unsafe { &*(&raw const key).cast::<Key<[u8; size_of::<IpcacheKey>() - 4]>>() };
    IPCACHE.get(key)
}

/// The row of policy with the longest prefix of protocol and port for `key`.
#[inline(always)]
pub fn policy_row(key: &PolicyKey) -> Option<&'static PolicyValue> {
    if key.is_port() {
        // SAFETY: all of a key but its first four bytes is such a key (asserted in `abi`). A row that goes is freed after a grace
        // period that outlasts the program.
        let row = unsafe {
            let port = (&raw const *key).byte_add(offset_of!(PolicyKey, subject));
            POLICY_PORTS.get(&*port.cast::<PolicyPortKey>())
        };
        if row.is_some() {
            return row;
        }
    }
    // SAFETY: as for the address cache.
    let key = unsafe { &*(&raw const *key).cast::<Key<[u8; size_of::<PolicyKey>() - 4]>>() };
    POLICY.get(key)
}

/// What is known of a connection by way of the proxy.
#[inline(always)]
pub fn session(key: &ProxySessionKey) -> Option<&'static ProxySession> {
    // SAFETY: an LRU entry may be reused while we read: the packet then goes to a listener that knows no such session.
    unsafe { PROXY_SESSIONS.get(key) }
}

/// Notes a connection by way of the proxy; false if the map takes none.
#[inline(always)]
pub fn put_session(key: &ProxySessionKey, session: &ProxySession) -> bool {
    PROXY_SESSIONS.insert(key, session, 0).is_ok()
}

/// The policy epoch; never zero, which entries have that nobody was asked about.
#[inline(always)]
pub fn policy_epoch() -> u32 {
    match POLICY_EPOCH.get(0) {
        Some(0) | None => 1,
        Some(epoch) => *epoch,
    }
}

/// Record without waking the reader: the agent drains the ring by the clock.
pub const NO_WAKEUP: u64 = 1;

/// The event ring.
#[inline(always)]
pub fn events() -> &'static RingBuf {
    &EVENTS
}

const _: () = assert!(
    size_of::<FlowEvent>().is_multiple_of(8),
    "the ring's records are eight-byte aligned"
);

/// Counts one packet of `len` bytes.
#[inline(always)]
pub fn count(reason: u8, direction: abi::Direction, len: u32, line: u16, file: u8) {
    if let Some(m) = METRICS.get_ptr_mut(abi::metrics_index(reason, direction)) {
        // SAFETY: per-CPU memory that no other program touches while this one runs on the CPU.
        let m = unsafe { &mut *m };
        m.packets += 1;
        m.bytes += u64::from(len);
        if m.line != u32::from(line) {
            m.line = u32::from(line);
            m.file = u32::from(file);
        }
    }
}
