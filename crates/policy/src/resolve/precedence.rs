//! Which entry counts, as one number that the kernel can compare.
//!
//! ```text
//! all ones               decided here for good: rows that a passed question was worked out into
//! all ones but one       the host reaches its pods
//! 3 priority index action   admin tier, where priority and index are counted down
//! 2 0 0 action              policies; an allow by way of the proxy comes before a plain one
//! 1 0 index action          baseline tier
//! 0                      nothing is needed
//! ```
use crate::rule::{Action, L7Kind, Tier};

const MAX_PRIORITY: u32 = 1000;
const MAX_INDEX: u32 = 255;

/// Greater counts before smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence(pub(super) u32);

impl Precedence {
    pub(super) const FINAL: Self = Self(u32::MAX);
    pub(super) const LOCALHOST: Self = Self(u32::MAX - 1);
    pub(super) const DEFAULT: Self = Self(0);
    const ADMIN: u32 = 3 << 28;
    const NORMAL: u32 = 2 << 28;
    const BASELINE: u32 = 1 << 28;

    /// Of an entry, or of the part of it that has rules of this kind. Kinds differ so that of two at one port the same one
    /// counts everywhere, whichever row is longer.
    pub(super) fn of(tier: Tier, action: Action, l7: Option<L7Kind>) -> Self {
        let rank = match action {
            Action::Allow => l7.map_or(0, |kind| u32::from(kind.number())),
            Action::Pass => 0xe,
            Action::Deny => 0xf,
        };
        let down = |index: u16| (MAX_INDEX.saturating_sub(u32::from(index))) << 8;
        Self(match tier {
            Tier::Admin { priority, index } => {
                let priority = MAX_PRIORITY.saturating_sub(u32::from(priority));
                Self::ADMIN | priority << 16 | down(index) | rank
            }
            Tier::Normal => Self::NORMAL | rank,
            Tier::Baseline { index } => Self::BASELINE | down(index) | rank,
        })
    }

    /// True for the tier that a pass leaves.
    pub(super) fn is_admin(self) -> bool {
        (Self::ADMIN..Self::LOCALHOST.0).contains(&self.0)
    }

    /// True for an allow of the tier of policies, by way of the proxy or not.
    pub(super) fn is_normal_allow(self) -> bool {
        (Self::NORMAL..Self::NORMAL | 0xe).contains(&self.0)
    }

    /// True for the tier that is not asked where what is not allowed is denied.
    pub(super) fn is_baseline(self) -> bool {
        (Self::BASELINE..Self::NORMAL).contains(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_then_ranks_then_actions() {
        let admin =
            |priority, index, action| Precedence::of(Tier::Admin { priority, index }, action, None);
        let falling = [
            Precedence::FINAL,
            Precedence::LOCALHOST,
            admin(0, 0, Action::Deny),
            admin(0, 0, Action::Pass),
            admin(0, 0, Action::Allow),
            admin(0, 99, Action::Deny),
            admin(1, 0, Action::Deny),
            admin(1000, 99, Action::Allow),
            Precedence::of(Tier::Normal, Action::Deny, None),
            Precedence::of(Tier::Normal, Action::Allow, Some(L7Kind::Dns)),
            Precedence::of(Tier::Normal, Action::Allow, Some(L7Kind::Http)),
            Precedence::of(Tier::Normal, Action::Allow, None),
            Precedence::of(Tier::Baseline { index: 0 }, Action::Allow, None),
            Precedence::of(Tier::Baseline { index: 1 }, Action::Deny, None),
            Precedence::DEFAULT,
        ];
        assert!(falling.is_sorted_by(|greater, less| greater > less));
    }
}
