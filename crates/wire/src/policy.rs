//! Which of the rows found for a packet counts.
//!
//! For a packet two rows are looked up, each the one with the longest matching prefix of protocol and port: that of the
//! remote identity and that of identity 0, which stands for anybody.
use abi::{DropReason, PolicyKey, PolicyMatch, PolicyValue, policy_origin, policy_verdict};

use crate::{
    Family,
    headers::{Headers, Icmp, echo_request},
};

/// What the two look-ups came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// One of [`policy_verdict`]; [`policy_verdict::UNMATCHED`] where there was no row.
    pub verdict: u8,
    /// By which parts of its key the row was found.
    pub matched: PolicyMatch,
    /// Origin of the row; [`policy_origin::NOTHING`] where there was none.
    pub origin: u32,
    /// Of a row that allows: the number of the [`ProxyKind`](abi::ProxyKind) by way of which it does.
    pub proxy: u8,
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
                proxy: 0,
            };
        }
    };
    Outcome {
        verdict: row.verdict,
        matched: matched(is_exact, row.l4_len),
        origin: row.origin,
        proxy: if row.verdict == policy_verdict::ALLOW {
            row.proxy
        } else {
            0
        },
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

/// How a packet stands to the question that its connection was asked about: may its first packet pass?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The packet answers what was asked about; else it asks itself.
    pub reverse: bool,
    /// The connection's entry may hold the answer.
    pub recall: bool,
    /// The answer is the connection's, and may be kept in its entry.
    pub holds: bool,
}

/// The question of a packet from the side that opened the connection, or from the other.
///
/// Of ICMP only an echo is a connection: a request asks, and a reply to it answers. A reply that nobody asked for, a request of an
/// entry that such a reply has opened, and any other message are asked about one by one.
#[inline(always)]
#[must_use]
pub fn question<F: Family>(h: &Headers<F>, from_opener: bool) -> Question {
    let connection = Question {
        reverse: !from_opener,
        recall: true,
        holds: true,
    };
    if h.tuple.proto != F::ICMP {
        return connection;
    }
    if h.fragment.is_later() {
        // Which message it belongs to is not known.
        return Question {
            holds: false,
            ..connection
        };
    }
    let is_request = h.icmp_type == echo_request::<F>();
    if h.icmp == Icmp::Echo && is_request == from_opener {
        connection
    } else {
        Question {
            reverse: false,
            recall: false,
            holds: false,
        }
    }
}

/// The port of the question that a packet asks or answers (`reverse`), in network order; of ICMP the type. None if it is not known.
#[inline(always)]
#[must_use]
pub fn port<F: Family>(h: &Headers<F>, reverse: bool) -> Option<u16> {
    if h.tuple.proto != F::ICMP {
        return Some(if reverse {
            h.tuple.sport
        } else {
            h.tuple.dport
        });
    }
    if h.fragment.is_later() {
        return None;
    }
    let kind = if reverse {
        echo_request::<F>()
    } else {
        h.icmp_type
    };
    Some(u16::from(kind).to_be())
}

/// True for the ICMP error without which a sender does not learn to send smaller packets.
#[inline(always)]
#[must_use]
pub fn is_too_big<F: Family>(h: &Headers<F>) -> bool {
    h.icmp == Icmp::Error
        && if F::IS_V6 {
            h.icmp_type == 2
        } else {
            (h.icmp_type, h.icmp_code) == (3, 4)
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fragment, V4, V6};

    fn row(verdict: u8, l4_len: u8, precedence: u32, origin: u32) -> PolicyValue {
        PolicyValue {
            verdict,
            l4_len,
            proxy: 0,
            pad: 0,
            precedence,
            origin,
            decided: 0,
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

    fn headers(proto: u8, icmp: Icmp, icmp_type: u8) -> Headers<V4> {
        let mut h = Headers::empty();
        h.tuple.proto = proto;
        (h.tuple.sport, h.tuple.dport) = (1000_u16.to_be(), 80_u16.to_be());
        (h.icmp, h.icmp_type) = (icmp, icmp_type);
        h
    }

    #[test]
    fn a_connection_has_one_question() {
        for proto in [6, 17, 132] {
            let h = headers(proto, Icmp::None, 0);
            let asks = question(&h, true);
            assert!(!asks.reverse && asks.recall && asks.holds);
            assert_eq!(port(&h, asks.reverse), Some(80_u16.to_be()));
            let answers = question(&h, false);
            assert!(answers.reverse && answers.recall && answers.holds);
            assert_eq!(port(&h, answers.reverse), Some(1000_u16.to_be()));
        }
    }

    #[test]
    fn of_icmp_a_reply_answers_a_request_and_nothing_else_does() {
        let (request, reply) = (headers(1, Icmp::Echo, 8), headers(1, Icmp::Echo, 0));
        assert!(question(&request, true).holds && !question(&request, true).reverse);
        assert!(question(&reply, false).holds && question(&reply, false).reverse);
        assert_eq!(port(&reply, true), Some(8_u16.to_be()));
        let others = [
            (request, false),
            (reply, true),
            (headers(1, Icmp::None, 13), true),
            (headers(1, Icmp::None, 14), false),
            (headers(1, Icmp::Error, 3), true),
        ];
        for (h, from_opener) in others {
            let asks = question(&h, from_opener);
            assert!(!asks.reverse && !asks.recall && !asks.holds);
            assert_eq!(port(&h, false), Some(u16::from(h.icmp_type).to_be()));
        }
        let mut later = headers(1, Icmp::None, 0);
        later.fragment = Fragment::later(7);
        let asks = question(&later, false);
        assert!(asks.reverse && asks.recall && !asks.holds);
        assert_eq!(port(&later, true), None);
    }

    #[test]
    fn too_big_is_one_error_of_each_family() {
        let mut h = headers(1, Icmp::Error, 3);
        assert!(!is_too_big(&h));
        h.icmp_code = 4;
        assert!(is_too_big(&h));
        let mut h = Headers::<V6>::empty();
        (h.tuple.proto, h.icmp, h.icmp_type) = (58, Icmp::Error, 2);
        assert!(is_too_big(&h));
        h.icmp_type = 1;
        assert!(!is_too_big(&h));
    }
}
