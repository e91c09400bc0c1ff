//! Objects that may be gone although nobody will say so.
//!
//! While a list is read nothing tells whether an own write that was answered meanwhile is older or newer than the list: an
//! object that is not in it is either too new for it, or was removed before it. Such objects are looked at one by one.
use std::{collections::BTreeMap, time::Duration};

use crate::{Kind, write::Target};

/// How long to wait after a look that failed.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Doubts(BTreeMap<Target, Duration>);

impl Doubts {
    /// The object is to be looked at, not before `at`.
    pub(super) fn add(&mut self, target: Target, at: Duration) {
        self.0.insert(target, at);
    }

    /// What is to be looked at now: of the kinds for which no list is being read.
    pub(super) fn take(&mut self, now: Duration, is_quiet: impl Fn(Kind) -> bool) -> Vec<Target> {
        let due = |(target, at): (&Target, &Duration)| {
            (*at <= now && is_quiet(target.kind)).then(|| target.clone())
        };
        let due: Vec<Target> = self.0.iter().filter_map(due).collect();
        for target in &due {
            self.0.remove(target);
        }
        due
    }

    /// When something is to be looked at next.
    pub(super) fn deadline(&self, is_quiet: impl Fn(Kind) -> bool) -> Option<Duration> {
        let quiet = self.0.iter().filter(|(target, _)| is_quiet(target.kind));
        quiet.map(|(_, at)| *at).min()
    }
}
