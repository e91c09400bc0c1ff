//! Which of the rows found for a packet counts.
//!
//! For a packet two rows are looked up, each the one with the longest matching prefix of protocol and port: that of the
//! remote identity and that of identity 0, which stands for anybody.
use abi::{DropReason, PolicyKey, PolicyMatch, PolicyValue, policy_origin, policy_verdict};

/// What the two look-ups came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// One of [`policy_verdict`]; [`policy_verdict::UNMATCHED`] where there was no row.
    pub verdict: u8,
    /// By which parts of its key the row was found.
    pub matched: PolicyMatch,
    /// Origin of the row; [`policy_origin::NOTHING`] where there was none.
    pub origin: u32,
}

/// The row of the greater precedence counts, then that of the longer prefix, then that of the identity.
#[inline(always)]
#[must_use]
pub fn decide(exact: Option<&PolicyValue>, anybody: Option<&PolicyValue>) -> Outcome {
    let (row, is_exact) = match (exact, anybody) {
        (Some(exact), Some(anybody)) if rank(anybody) > rank(exact) => (anybody, false),
        (Some(exact), _) => (exact, true),
        (None, Some(anybody)) => (anybody, false),
        (None, None) => {
            return Outcome {
                verdict: policy_verdict::UNMATCHED,
                matched: PolicyMatch::None,
                origin: policy_origin::NOTHING,
            };
        }
    };
    Outcome {
        verdict: row.verdict,
        matched: matched(is_exact, row.l4_len),
        origin: row.origin,
    }
}

#[inline(always)]
fn rank(row: &PolicyValue) -> u64 {
    u64::from(row.precedence) << 8 | u64::from(row.l4_len)
}

#[inline(always)]
fn matched(is_exact: bool, l4_len: u8) -> PolicyMatch {
    const PROTO: u8 = PolicyKey::PROTO_BITS as u8;
    match (is_exact, l4_len) {
        (true, 0) => PolicyMatch::L3Only,
        (true, PROTO) => PolicyMatch::L3Proto,
        (true, _) => PolicyMatch::L3L4,
        (false, 0) => PolicyMatch::All,
        (false, PROTO) => PolicyMatch::ProtoOnly,
        (false, _) => PolicyMatch::L4Only,
    }
}

/// Why a packet of this verdict is dropped, if it is.
#[inline(always)]
#[must_use]
pub const fn drop_reason(verdict: u8) -> Option<DropReason> {
    match verdict {
        policy_verdict::ALLOW => None,
        policy_verdict::DENY => Some(DropReason::PolicyDeny),
        _ => Some(DropReason::PolicyDenied),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(verdict: u8, l4_len: u8, precedence: u32, origin: u32) -> PolicyValue {
        PolicyValue {
            verdict,
            l4_len,
            pad: 0,
            precedence,
            origin,
        }
    }

    #[test]
    fn precedence_then_the_longer_prefix_then_the_identity() {
        let got = |exact: (u8, u32), anybody: (u8, u32)| {
            let exact = row(policy_verdict::ALLOW, exact.0, exact.1, 1);
            let anybody = row(policy_verdict::DENY, anybody.0, anybody.1, 2);
            decide(Some(&exact), Some(&anybody)).matched
        };
        assert_eq!(got((0, 2), (24, 1)), PolicyMatch::L3Only);
        assert_eq!(got((24, 1), (0, 2)), PolicyMatch::All);
        assert_eq!(got((0, 1), (24, 1)), PolicyMatch::L4Only);
        assert_eq!(got((24, 1), (24, 1)), PolicyMatch::L3L4);
        assert_eq!(got((8, 1), (8, 1)), PolicyMatch::L3Proto);
        assert_eq!(got((8, 1), (8, 2)), PolicyMatch::ProtoOnly);
        assert_eq!(got((0, u32::MAX - 1), (24, u32::MAX)), PolicyMatch::L4Only);
    }

    #[test]
    fn one_row_counts_and_none_drops() {
        let deny = row(policy_verdict::DENY, 17, 3, 9);
        let outcome = decide(None, Some(&deny));
        assert_eq!((outcome.verdict, outcome.origin), (policy_verdict::DENY, 9));
        assert_eq!(outcome.matched, PolicyMatch::L4Only);
        assert_eq!(decide(Some(&deny), None).matched, PolicyMatch::L3L4);
        let none = decide(None, None);
        assert_eq!((none.matched, none.origin), (PolicyMatch::None, 0));
        assert_eq!(drop_reason(none.verdict), Some(DropReason::PolicyDenied));
    }

    /// A row whose bytes were never written must not let anybody in.
    #[test]
    fn only_one_number_passes() {
        for verdict in 0..=u8::MAX {
            assert_eq!(
                drop_reason(verdict).is_none(),
                verdict == policy_verdict::ALLOW
            );
        }
        assert_eq!(
            drop_reason(policy_verdict::DENY),
            Some(DropReason::PolicyDeny)
        );
    }
}
