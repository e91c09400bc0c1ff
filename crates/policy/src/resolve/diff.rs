//! What a change comes to.
use crate::kernel::{Key, Map, Value};
use ipnet::IpNet;
use std::collections::BTreeSet;

/// A write to the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a row.
    Put(Key, Value),
    /// Removes a row.
    Delete(Key),
}

/// When a write is done; see [`Diff::ops`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Rows that deny, and before them their exceptions.
    PutDeny,
    /// Rows that allowed what new rows deny; they could hide those.
    DeleteOverruled,
    PutAllow,
    DeleteAllow,
    /// Rows that deny no longer, and after them their exceptions.
    DeleteDeny,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// (subject, direction, remote) whose rows were worked out anew.
    pub visited: u64,
    /// Terms of rules that were looked at for them.
    pub terms: u64,
    /// Selectors that were tried on labels.
    pub tried: u64,
}

/// What is to be done after a change.
#[derive(Clone, Debug, Default)]
pub struct Diff {
    /// Writes, in an order in which each of them may become visible: first what denies more, then what allows more, last
    /// what allows or denies no longer. What is denied before and after is denied at every moment, and what is allowed
    /// before and after is allowed at every moment.
    pub ops: Vec<Op>,
    /// Subjects of these rows, whose epochs must change once the rows are in place.
    pub subjects: BTreeSet<u32>,
    /// Subjects of whom the proxy has to know other rules, see [`super::Engine::proxy_rules`]; those that are gone, too.
    pub proxy_rules: BTreeSet<u32>,
    /// Prefixes that rules name now: each needs an identity, see [`crate::identity::Metadata`].
    pub prefixes_added: Vec<IpNet>,
    /// Prefixes that no rule names any longer.
    pub prefixes_removed: Vec<IpNet>,
    /// What it took.
    pub cost: Cost,
}

impl Diff {
    /// Does the writes.
    pub fn write(&self, map: &mut Map) {
        for op in &self.ops {
            match op {
                Op::Put(key, value) => map.put(*key, *value),
                Op::Delete(key) => map.delete(key),
            }
        }
    }
}
