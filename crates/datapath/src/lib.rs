//! The user-space half of the datapath: loads the eBPF programs, pins and attaches them, and reads and writes their maps.
//!
//! Everything that lets a node's pods talk lives in the kernel and stays there when this process ends: maps under
//! `tc/globals/`, programs under `cilium/programs/`, links under `cilium/endpoints/<id>/links/`,
//! `cilium/devices/<device>/links/` and `cilium/socketlb/links/cgroup/` of the bpffs. [`Datapath::open`] adopts what it finds there, or replaces it so that no
//! packet is lost.

mod attach;
pub mod check;
pub mod devices;
mod digest;
mod driver;
mod error;
pub mod events;
mod load;
pub mod maps;
mod object;
mod open;
mod pins;
pub mod probes;
pub mod proxy;
mod record;
mod rtnl;
mod spec;
mod sys;
pub mod test_run;

pub use attach::{Acceleration, AttachMode, Attached, Attachment, Mechanism, Owner, Replaced};
pub use error::{Error, Result};
pub use maps::ProxySessions;
pub use object::Object;
pub use open::{MapFate, OpenOptions, OpenReport};
pub use pins::ensure_bpffs;
pub use record::RECORD_MAP;
pub use spec::{MapKind, MapSizes};
pub use sys::{FrameSender, ProgramInfo, netns_cookie, share_heap, trim_heap, unload_code};

/// The datapath of one node.
#[derive(Debug)]
pub struct Datapath {
    pins: pins::Pins,
    record_map: record::RecordMap,
    maps: Vec<maps::MapHandle>,
    attacher: attach::Attacher,
    /// Digest to be recorded once the programs just loaded are in place.
    pending: Option<[u8; 16]>,
}

/// Whoever opens the datapath may hand its parts to other threads.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    const fn sent<T: Send>() {}
    shared::<Datapath>();
    shared::<maps::Conntrack>();
    shared::<maps::ProxySessions>();
    sent::<events::EventReader>();
};
