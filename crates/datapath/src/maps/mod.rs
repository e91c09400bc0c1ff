//! Typed views of the pinned maps.
//!
//! Every view is a cheap, owned handle: it can be kept and used on any thread while the [`Datapath`] goes its way.
mod conntrack;
mod endpoints;
mod fragments;
mod gc;
mod ipcache;
mod l2;
mod lb;
mod metrics;
mod nat;
mod policy;
mod sessions;
mod typed;

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use abi::names;

pub use conntrack::{Connection, Conntrack};
pub use endpoints::Endpoints;
pub use fragments::{FragmentRow, Fragments};
pub use gc::{GcFilter, GcStats};
pub use ipcache::Ipcache;
pub use l2::{L2Responder, L2Row};
pub use lb::{Lb4, Lb6, LbFamily, LbMap, LbMaps};
pub use metrics::{Metrics, MetricsRow};
pub use nat::{Nat, NatRow};
pub use policy::{PolicyEpoch, PolicyMap, Put};
pub use sessions::ProxySessions;
pub(crate) use typed::TypedMap;

use crate::{
    Datapath, Error, Result,
    open::SharedFd,
    spec::{MapKind, MapSpec},
    sys,
};

/// An opened map whose shape was checked against its spec.
#[derive(Clone)]
pub(crate) struct MapHandle {
    pub(crate) fd: SharedFd,
    pub(crate) spec: MapSpec,
    id: u32,
}

impl MapHandle {
    /// Takes a map; its shape must be that of `spec`, since all reads and writes rely on its sizes.
    pub(crate) fn new(fd: OwnedFd, spec: MapSpec) -> Result<Self> {
        let shape = sys::map_info(fd.as_fd()).map_err(Error::bpf("look at map", spec.name))?;
        match spec.difference(&shape) {
            None => Ok(Self {
                fd: Arc::new(fd),
                spec,
                id: shape.id,
            }),
            Some(what) => Err(Error::Layout {
                name: spec.name,
                what,
            }),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for MapHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapHandle")
            .field("name", &self.spec.name)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A map, as `map list` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapSummary {
    /// Name.
    pub name: &'static str,
    /// Number in the kernel.
    pub id: u32,
    /// Kind.
    pub kind: MapKind,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries it has room for; bytes of a ring buffer.
    pub max_entries: u32,
    /// Entries it has; those of an array are always all there, a ring buffer has none.
    pub entries: usize,
}

impl Datapath {
    fn handle(&self, name: &'static str) -> Result<MapHandle> {
        let missing = || Error::Layout {
            name,
            what: "is not there".to_owned(),
        };
        self.maps
            .iter()
            .find(|m| m.spec.name == name)
            .cloned()
            .ok_or_else(missing)
    }

    fn typed<K: sys::Record, V: sys::Record>(&self, name: &'static str) -> Result<TypedMap<K, V>> {
        TypedMap::new(self.handle(name)?)
    }

    /// The endpoints' maps.
    ///
    /// # Errors
    /// Never for a datapath that was opened; so do those that follow.
    pub fn endpoints(&self) -> Result<Endpoints> {
        Ok(Endpoints::new(
            self.typed(names::LXC)?,
            self.typed(names::LXC_IFINDEX)?,
        ))
    }

    /// The address cache.
    ///
    /// # Errors
    /// As [`Datapath::endpoints`].
    pub fn ipcache(&self) -> Result<Ipcache> {
        Ok(Ipcache::new(self.typed(names::IPCACHE)?))
    }

    /// Connections of both families, and the masquerade mappings that go with them.
    ///
    /// # Errors
    /// As [`Datapath::endpoints`].
    pub fn conntrack(&self) -> Result<Conntrack> {
        Ok(Conntrack::new(
            self.typed(names::CT4)?,
            self.typed(names::CT6)?,
            self.nat()?,
        ))
    }

    /// Masquerade mappings of both families.
    ///
    /// # Errors
    /// As [`Datapath::endpoints`].
    pub fn nat(&self) -> Result<Nat> {
        Ok(Nat::new(
            self.typed(names::SNAT4)?,
            self.typed(names::SNAT6)?,
        ))
    }

    /// Fragmented datagrams under way.
    ///
    /// # Errors
    /// As [`Datapath::endpoints`].
    pub fn fragments(&self) -> Result<Fragments> {
        Ok(Fragments::new(
            self.typed(names::FRAG4)?,
            self.typed(names::FRAG6)?,
        ))
    }

    /// The rows of network policy.
    ///
    /// # Errors
    /// As [`Datapath::endpoints`].
    pub fn policy(&self) -> Result<PolicyMap> {
        let prefixes = self.handle(names::POLICY)?;
        let capacity = prefixes.spec.max_entries;
        let ports = self.typed(names::POLICY_PORTS)?;
        Ok(PolicyMap::new(TypedMap::new(prefixes)?, ports, capacity))
    }

    /// The policy epoch.
    ///
    /// # Errors
    /// As [`Datapath::endpoints`].
    pub fn policy_epoch(&self) -> Result<PolicyEpoch> {
        Ok(PolicyEpoch::new(self.typed(names::POLICY_EPOCH)?))
    }

    /// Addresses of services that this node answers for.
    ///
    /// # Errors
    /// As [`Datapath::endpoints`].
    pub fn l2_responder(&self) -> Result<L2Responder> {
        Ok(L2Responder::new(
            self.typed(names::L2_RESPONDER4)?,
            self.typed(names::L2_RESPONDER6)?,
        ))
    }

    /// Devices whose driver has the program.
    pub(crate) fn driver_map(&self) -> Result<TypedMap<u32, u32>> {
        self.typed(names::XDP_DEVICES)
    }

    /// Packets and bytes by reason and direction.
    ///
    /// # Errors
    /// As [`Datapath::endpoints`].
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::new(self.handle(names::METRICS)?)
    }

    /// A reader of the event ring. One at a time: two readers would each see half of the events.
    ///
    /// # Errors
    /// When the ring cannot be mapped.
    pub fn events(&self) -> Result<crate::events::EventReader> {
        crate::events::EventReader::new(&self.handle(names::EVENTS)?)
    }

    /// Every map with the number of its entries; counting walks the map.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn maps(&self) -> Result<Vec<MapSummary>> {
        self.maps.iter().map(summary).collect()
    }
}

fn summary(map: &MapHandle) -> Result<MapSummary> {
    let spec = &map.spec;
    let entries = match spec.kind {
        MapKind::RingBuf => 0,
        MapKind::Array | MapKind::PerCpuArray => spec.max_entries as usize,
        MapKind::Hash | MapKind::LruHash | MapKind::LpmTrie => typed::count(map)?,
    };
    Ok(MapSummary {
        name: spec.name,
        id: map.id,
        kind: spec.kind,
        key_size: spec.key_size,
        value_size: spec.value_size,
        max_entries: spec.max_entries,
        entries,
    })
}

/// Entries of a map of this kind, keys and values.
pub(crate) fn count_entries(map: BorrowedFd<'_>, spec: &MapSpec) -> Result<usize> {
    let mut entries = 0;
    typed::each_batch(map, spec, |keys, _| {
        entries += keys.len() / spec.key_size as usize;
        Ok(())
    })?;
    Ok(entries)
}

/// Copies every entry of a map into another of the same key and value size; how many.
pub(crate) fn copy_entries(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    spec: &MapSpec,
) -> Result<usize> {
    let mut copied = 0;
    typed::each_batch(from, spec, |keys, values| {
        let entries = keys
            .chunks(spec.key_size as usize)
            .zip(values.chunks(spec.value_size as usize));
        for (key, value) in entries {
            sys::update(to, key, value, 0).map_err(Error::bpf("write map", spec.name))?;
            copied += 1;
        }
        Ok(())
    })?;
    Ok(copied)
}
