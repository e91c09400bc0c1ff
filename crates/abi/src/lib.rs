//! The contract between the eBPF programs and user space: map names, keys, values, events, numbers.
//!
//! Everything here is `no_std` and `repr(C)` without padding: `zerocopy::IntoBytes` refuses a struct with padding at
//! compile time, and the golden test `layout` shows every size and offset in review. Network values are big-endian byte
//! arrays, host values are native integers. Keys are aligned beyond their fields' need, so that the eBPF back end moves
//! addresses by words and not by bytes.
#![cfg_attr(not(test), no_std)]

mod config;
mod conntrack;
mod drop;
mod endpoint;
mod event;
pub mod identity;
mod lb;
pub mod mark;
pub mod names;
mod nat;
mod policy;
pub mod proxy;
mod sock;

pub use config::{Aggregation, DatapathConfig, DsrDispatch, Routing};
pub use conntrack::{CtEntry, CtKey4, CtKey6, CtStatus, ct_flags, ct_scope};
pub use drop::DropReason;
pub use endpoint::{
    EndpointInfo, EndpointKey, IpcacheKey, IpcacheValue, LocalEndpoint, endpoint_flags, family,
    ipcache_flags, widen,
};
pub use event::{
    Direction, EventKind, FlowEvent, LOST_EVENTS, MetricsValue, TracePoint, event_flags,
    metrics_index, source_file,
};
pub use lb::{
    DIRECT_FRONTEND, L2Answers, L2Key4, L2Key6, LbAffinity, LbAffinityKey4, LbAffinityKey6,
    LbAffinityMatch, LbBackend4, LbBackend6, LbFrontend4, LbFrontend6, LbKey4, LbKey6,
    LbMaglevChunk, LbMaglevKey, LbService, LbSkipKey4, LbSkipKey6, LbSockKey4, LbSockKey6,
    LbSourceKey4, LbSourceKey6, MAGLEV_CHUNK, lb_algorithm, lb_flags, lb_scope, lb_state,
    xdp_device,
};
pub use nat::{
    FragKey4, FragKey6, FragValue, SnatEntry4, SnatEntry6, SnatKey4, SnatKey6, snat_flags,
};
pub use policy::{
    PolicyKey, PolicyMatch, PolicyPortKey, PolicyValue, policy_origin, policy_verdict,
};
pub use proxy::{ProxyKind, ProxySession, ProxySessionKey};
pub use sock::{SockEvent, SockPoint};

/// Bumped by hand whenever a key, value or event changes its layout or meaning: pinned maps of another version are
/// not adopted but made anew.
pub const ABI_VERSION: u32 = 6;
