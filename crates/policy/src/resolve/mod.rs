//! From policies and identities to the rows that the kernel asks, step by step as they change.
//!
//! A row depends on little: the terms of the rules that are about its subject, and which of their selectors match its
//! remote identity. So a change marks the (subject, direction, remote) that it can concern, those are worked out
//! anew from their terms, and what differs from before is the [`Diff`].
mod compile;
mod diff;
mod engine;
mod lookup;
mod origin;
mod precedence;
mod proxy;
mod reduce;
mod rules;
mod settle;
mod subjects;
mod writes;

pub use diff::{Cost, Diff, Op};
pub use engine::{Change, Engine};
pub use origin::{DEFAULT_ALLOW, Origin};
pub use proxy::ProxyRules;
pub use settle::localhost_row;
pub use subjects::{Enforcement, Subject};
pub use writes::transition;

/// Place of an entry: policy by its number in the engine, rule in the policy, direction, entry in the section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleRef {
    policy: u32,
    rule: u16,
    direction: crate::rule::Direction,
    entry: u16,
}

impl RuleRef {
    /// A number for what tells the rule from all others, whatever numbers policies have.
    fn hash(&self, policy: Option<&crate::rule::Policy>) -> u32 {
        let mut hash = origin::NameHash::default();
        if let Some(policy) = policy {
            hash.add(policy.name.kind.text().as_bytes());
            hash.add(policy.name.namespace.as_bytes());
            hash.add(policy.name.name.as_bytes());
        }
        hash.add(&self.rule.to_be_bytes());
        hash.add(self.direction.text().as_bytes());
        hash.add(&self.entry.to_be_bytes());
        hash.finish()
    }
}
