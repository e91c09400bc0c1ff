//! The free numbers of a range, as intervals: a /64 costs as little as a /24.

use std::collections::BTreeMap;

/// A set of numbers, kept as disjoint, non-touching closed intervals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Free {
    /// First to last of each interval.
    intervals: BTreeMap<u128, u128>,
}

impl Free {
    /// All numbers from `first` to `last`; none when `first` is greater.
    pub(crate) fn range(first: u128, last: u128) -> Self {
        Self {
            intervals: (first <= last)
                .then_some((first, last))
                .into_iter()
                .collect(),
        }
    }

    pub(crate) fn contains(&self, n: u128) -> bool {
        self.interval_of(n).is_some()
    }

    /// The first free number at or after `from`, and from the start again when there is none.
    pub(crate) fn next_from(&self, from: u128) -> Option<u128> {
        if self.contains(from) {
            return Some(from);
        }
        let after = self.intervals.range(from..).next();
        after
            .or_else(|| self.intervals.iter().next())
            .map(|(first, _)| *first)
    }

    /// Takes a number out; whether it was in.
    pub(crate) fn take(&mut self, n: u128) -> bool {
        let Some((first, last)) = self.interval_of(n) else {
            return false;
        };
        self.intervals.remove(&first);
        if first < n {
            self.intervals.insert(first, n - 1);
        }
        if n < last {
            self.intervals.insert(n + 1, last);
        }
        true
    }

    /// Puts a number back; whether it was out.
    pub(crate) fn give(&mut self, n: u128) -> bool {
        if self.contains(n) {
            return false;
        }
        let (mut first, mut last) = (n, n);
        if let Some(left) = n.checked_sub(1).and_then(|before| self.interval_of(before)) {
            first = left.0;
            self.intervals.remove(&left.0);
        }
        if let Some(right) = n.checked_add(1).and_then(|after| self.interval_of(after)) {
            last = right.1;
            self.intervals.remove(&right.0);
        }
        self.intervals.insert(first, last);
        true
    }

    fn interval_of(&self, n: u128) -> Option<(u128, u128)> {
        let (first, last) = self.intervals.range(..=n).next_back()?;
        (*last >= n).then_some((*first, *last))
    }
}
