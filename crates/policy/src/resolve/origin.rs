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
    last: u32,
}

impl Origins {
    /// The number of a list; each call needs a [`Self::release`]. Numbers are not used again (but after four thousand
    /// million), so that an event that is late does not name the wrong rule.
    pub(super) fn acquire(&mut self, rules: &[RuleRef]) -> u32 {
        if let Some(number) = self.numbers.get(rules) {
            if let Some((_, users)) = self.lists.get_mut(number) {
                *users += 1;
            }
            return *number;
        }
        let rules: Arc<[RuleRef]> = rules.into();
        loop {
            self.last = self.last.wrapping_add(1).max(FIRST);
            if !self.lists.contains_key(&self.last) {
                break;
            }
        }
        self.numbers.insert(rules.clone(), self.last);
        self.lists.insert(self.last, (rules, 1));
        self.last
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
