//! Selectors ready to be matched, and the table that keeps who is matched by which.
mod index;
mod table;

pub use table::{SelectorId, SelectorTable};

use crate::labels::Facts;
use crate::rule::{LabelSelector, Requirement, Test};
use std::fmt;

/// A selector in its normal form: two that mean the same requirements are equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Box<[Requirement]>);

impl Selector {
    /// The normal form of `selector`.
    #[must_use]
    pub fn new(selector: &LabelSelector) -> Self {
        let mut all = selector.requirements.clone();
        all.sort_unstable();
        all.dedup();
        Self(all.into())
    }

    /// What is required.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.0
    }

    /// True if all requirements hold.
    #[must_use]
    pub fn matches(&self, facts: &Facts) -> bool {
        self.0.iter().all(|requirement| holds(requirement, facts))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        LabelSelector {
            requirements: self.0.to_vec(),
        }
        .fmt(f)
    }
}

fn holds(requirement: &Requirement, facts: &Facts) -> bool {
    let (source, key, test) = match requirement {
        Requirement::Cidr { net, inside } => {
            return facts.cidrs().iter().any(|cidr| net.contains(cidr)) == *inside;
        }
        Requirement::Label { source, key, test } => (source.as_deref(), key, test),
    };
    let mut labels = facts
        .with_key(key)
        .filter(|label| source.is_none_or(|source| label.source == source));
    let is_one_of = |values: &[String], value: &String| values.binary_search(value).is_ok();
    match test {
        Test::Exists => labels.next().is_some(),
        Test::Absent => labels.next().is_none(),
        Test::In(values) => labels.any(|label| is_one_of(values, &label.value)),
        Test::NotIn(values) => !labels.any(|label| is_one_of(values, &label.value)),
    }
}
