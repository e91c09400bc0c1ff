//! Numbers for the lists of rules that rows came from: a row holds one number, and so does an event.
use super::RuleRef;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Origin of rows that say that nothing is needed.
pub const DEFAULT_ALLOW: u32 = 1;
/// Origin of rows that let the host reach its pods.
pub(super) const LOCALHOST: u32 = 2;
const FIRST: u32 = 16;

/// What a row came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// No row, or one that says as much: nothing allows the traffic.
    Nothing,
    /// Nothing is needed in this direction.
    DefaultAllow,
    /// The host reaches its pods.
    Localhost,
    /// These rules.
    Rules(Arc<[RuleRef]>),
}

/// Lists of rules in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins {
    numbers: BTreeMap<Arc<[RuleRef]>, u32>,
    lists: BTreeMap<u32, (Arc<[RuleRef]>, u32)>,
}

impl Origins {
    /// The number of a list; each call needs a [`Self::release`].
    ///
    /// It follows from what `hash` says of each rule, so that an engine that starts anew gives the same numbers: rows of
    /// before need not be written again, and an event that is late names no wrong rule.
    pub(super) fn acquire(&mut self, rules: &[RuleRef], hash: impl Fn(&RuleRef) -> u32) -> u32 {
        if let Some(number) = self.numbers.get(rules) {
            if let Some((_, users)) = self.lists.get_mut(number) {
                *users += 1;
            }
            return *number;
        }
        // The order of the rules is that in which the policies came: it must not count.
        let mut hashes: Vec<u32> = rules.iter().map(hash).collect();
        hashes.sort_unstable();
        let mut all = NameHash::default();
        for hash in hashes {
            all.add(&hash.to_be_bytes());
        }
        let mut number = all.finish().max(FIRST);
        while self.lists.contains_key(&number) {
            number = number.wrapping_add(1).max(FIRST);
        }
        let rules: Arc<[RuleRef]> = rules.into();
        self.numbers.insert(rules.clone(), number);
        self.lists.insert(number, (rules, 1));
        number
    }

    pub(super) fn release(&mut self, number: u32) {
        let Some((rules, users)) = self.lists.get_mut(&number) else {
            return;
        };
        *users -= 1;
        if *users == 0 {
            self.numbers.remove(rules);
            self.lists.remove(&number);
        }
    }

    pub(super) fn get(&self, number: u32) -> Origin {
        match number {
            DEFAULT_ALLOW => Origin::DefaultAllow,
            LOCALHOST => Origin::Localhost,
            number => self
                .lists
                .get(&number)
                .map_or(Origin::Nothing, |(rules, _)| Origin::Rules(rules.clone())),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lists.len()
    }
}

/// FNV-1a of 32 bits: the numbers stand in the kernel, where a later release must find them again.
pub(super) struct NameHash(u32);

impl Default for NameHash {
    fn default() -> Self {
        Self(0x811c_9dc5)
    }
}

impl NameHash {
    /// The number.
    pub(super) const fn finish(self) -> u32 {
        self.0
    }

    /// Adds `bytes` and an end mark.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain([&0xff]) {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
}
