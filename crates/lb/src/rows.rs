//! What the kernel holds, row by row, in plain numbers. A frontend's row says how many slots it has; each slot names a backend.
use crate::frontend::{Algorithm, BackendKey, FrontendKey, State};
use ipnet::IpNet;
use model::Text;
use std::{net::IpAddr, sync::Arc};

/// Number of a frontend: what conntrack entries name it by.
pub type FrontendId = u16;
/// Number of a backend.
pub type BackendId = u32;

/// A row, with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// The address has frontends.
    Address(IpAddr),
    /// A frontend: slot 0 of its key.
    Frontend(FrontendKey, Master),
    /// A further slot of a frontend, from 1.
    Slot(FrontendKey, u16, BackendId),
    /// A backend.
    Backend(BackendId, BackendKey, State),
    /// What answers of a frontend's backends look like to clients.
    Reverse(FrontendId, IpAddr, u16),
    /// A frontend may keep its clients at this backend.
    Affinity(FrontendId, BackendId),
    /// A client of this range may (or may not) use the frontend; the longest prefix counts. Whom no range has, may if the
    /// frontend's ranges are those that are refused.
    Source(FrontendId, IpNet, bool),
    /// The Maglev table of a frontend; the second field says which family's map. What a restored one holds does not matter.
    Maglev(FrontendId, bool, Arc<[BackendId]>),
    /// What this pod sends to the frontend is not translated.
    Skip(Text, FrontendKey),
}

/// The key of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKey {
    /// See [`Row::Address`].
    Address(IpAddr),
    /// See [`Row::Frontend`].
    Frontend(FrontendKey),
    /// See [`Row::Slot`].
    Slot(FrontendKey, u16),
    /// See [`Row::Backend`]; the second field says which family's map.
    Backend(BackendId, bool),
    /// See [`Row::Reverse`]; the second field says which family's map.
    Reverse(FrontendId, bool),
    /// See [`Row::Affinity`].
    Affinity(FrontendId, BackendId),
    /// See [`Row::Source`].
    Source(FrontendId, IpNet),
    /// See [`Row::Maglev`]; the second field says which family's map.
    Maglev(FrontendId, bool),
    /// See [`Row::Skip`].
    Skip(Text, FrontendKey),
}

/// The value of a frontend's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Master {
    /// Its number.
    pub id: FrontendId,
    /// Slots that serve; zero: connections are refused.
    pub count: u16,
    /// State of those that serve.
    pub serving: State,
    /// Bits of [`crate::frontend::flags`].
    pub flags: u16,
    /// Seconds for which a client keeps its backend; zero without affinity.
    pub affinity: u32,
    /// How a backend is chosen.
    pub algorithm: Algorithm,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a row, in the place of one with the same key.
    Put(Row),
    /// Removes a row.
    Delete(RowKey),
}
