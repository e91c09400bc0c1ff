//! Which entry counts, as one number that the kernel can compare.
//!
//! ```text
//! all ones               decided here for good: rows that a passed question was worked out into
//! all ones but one       the host reaches its pods
//! 3 priority index action   admin tier, where priority and index are counted down
//! 2 0 0 action              policies
//! 1 0 index action          baseline tier
//! 0                      nothing is needed
//! ```
use crate::rule::{Action, Tier};

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

    pub(super) fn of(tier: Tier, action: Action) -> Self {
        let rank = match action {
            Action::Allow => 0,
            Action::Pass => 1,
            Action::Deny => 2,
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
            |priority, index, action| Precedence::of(Tier::Admin { priority, index }, action);
        let falling = [
            Precedence::FINAL,
            Precedence::LOCALHOST,
            admin(0, 0, Action::Deny),
            admin(0, 0, Action::Pass),
            admin(0, 0, Action::Allow),
            admin(0, 99, Action::Deny),
            admin(1, 0, Action::Deny),
            admin(1000, 99, Action::Allow),
            Precedence::of(Tier::Normal, Action::Deny),
            Precedence::of(Tier::Normal, Action::Allow),
            Precedence::of(Tier::Baseline { index: 0 }, Action::Allow),
            Precedence::of(Tier::Baseline { index: 1 }, Action::Deny),
            Precedence::DEFAULT,
        ];
        assert!(falling.is_sorted_by(|greater, less| greater > less));
    }
}
