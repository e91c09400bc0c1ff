//! The form of a resolved policy that the kernel asks, and how it asks.
//!
//! For a packet two rows are looked up, each the one with the longest matching prefix of protocol and port: that of the
//! remote identity and that of identity 0, which stands for anybody. [`decide`] says which of the two counts.
use crate::rule::{Direction, ICMP, ICMPV6, PortMatch, Protocol};
use abi::DropReason;
use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

/// Remote identity of rows that hold for anybody.
pub const ANYBODY: u32 = 0;

/// A prefix of the 24 bits of protocol and port; the port's place holds the type of an ICMP message.
///
/// In the order of these values a prefix stands before all that it covers, and what it covers follows without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct L4 {
    bits: u32,
    len: u8,
}

impl L4 {
    /// Every packet.
    pub const ALL: Self = Self { bits: 0, len: 0 };

    /// Every packet of one protocol.
    #[must_use]
    pub const fn protocol(protocol: u8) -> Self {
        Self {
            bits: (protocol as u32) << 16,
            len: 8,
        }
    }

    /// One port of a protocol.
    #[must_use]
    pub const fn port(protocol: u8, port: u16) -> Self {
        Self {
            bits: (protocol as u32) << 16 | port as u32,
            len: 24,
        }
    }

    /// One type of ICMP messages.
    #[must_use]
    pub const fn icmp(v6: bool, kind: u8) -> Self {
        Self::port(if v6 { ICMPV6 } else { ICMP }, kind as u16)
    }

    /// The fewest prefixes that cover ports `first` to `last` and no other; at most 30.
    #[must_use]
    pub fn range(protocol: u8, first: u16, last: u16) -> Vec<Self> {
        let mut all = Vec::new();
        let (mut next, end) = (u32::from(first), u32::from(last) + 1);
        while next < end {
            let aligned = next.trailing_zeros().min(16);
            let fits = (end - next).ilog2();
            let size = aligned.min(fits);
            all.push(Self {
                bits: u32::from(protocol) << 16 | next,
                len: 24 - u8::try_from(size).unwrap_or(16),
            });
            next += 1 << size;
        }
        all
    }

    /// Bits of the prefix: 0 for all packets, 8 for a protocol, up to 24 for a port.
    #[must_use]
    pub const fn len(self) -> u8 {
        self.len
    }

    /// True for [`Self::ALL`].
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// True if all that `other` matches is matched.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.len <= other.len && (self.bits ^ other.bits) >> (24 - self.len) == 0
    }

    /// The protocol, if the prefix tells one.
    #[must_use]
    pub fn protocol_number(self) -> Option<u8> {
        (self.len >= 8).then(|| u8::try_from(self.bits >> 16).unwrap_or_default())
    }

    /// The ports (or types of ICMP messages).
    #[must_use]
    pub fn ports(self) -> RangeInclusive<u16> {
        if self.len < 8 {
            return 0..=u16::MAX;
        }
        let first = u16::try_from(self.bits & 0xffff).unwrap_or_default();
        first..=first | u16::MAX.checked_shr(u32::from(self.len) - 8).unwrap_or(0)
    }

    /// The first protocol and port, as a number of 24 bits.
    pub(crate) const fn first(self) -> u32 {
        self.bits
    }

    /// The last protocol and port, as a number of 24 bits.
    pub(crate) const fn last(self) -> u32 {
        self.bits | (0xff_ffff_u32 >> self.len)
    }

    /// The next shorter prefix.
    #[must_use]
    pub const fn parent(self) -> Option<Self> {
        let len = match self.len {
            0 => return None,
            1..=8 => 0,
            len => len - 1,
        };
        Some(Self {
            bits: self.bits & !(0xff_ffff >> len),
            len,
        })
    }
}

impl fmt::Display for L4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(protocol) = self.protocol_number() else {
            return f.write_str("ANY");
        };
        let ports = self.ports();
        if self.len > 8 {
            write!(f, "{}", ports.start())?;
            if ports.start() != ports.end() {
                write!(f, "-{}", ports.end())?;
            }
            f.write_str("/")?;
        }
        f.write_str(&protocol_name(protocol))
    }
}

/// `TCP`, `ICMP` … or the number.
#[must_use]
pub fn protocol_name(number: u8) -> String {
    let named = Protocol::ALL
        .into_iter()
        .find(|protocol| protocol.number() == number);
    match (number, named) {
        (_, Some(protocol)) => protocol.text().to_owned(),
        (ICMP, _) => "ICMP".to_owned(),
        (ICMPV6, _) => "ICMPv6".to_owned(),
        _ => number.to_string(),
    }
}

/// The prefixes of a port by number; empty for a name.
pub(crate) fn prefixes(port: &PortMatch) -> Vec<L4> {
    let crate::rule::Port::Range(first, last) = port.port else {
        return Vec::new();
    };
    let protocols = Protocol::ALL
        .into_iter()
        .filter(|protocol| port.protocol.is_none_or(|want| want == *protocol));
    protocols
        .flat_map(|protocol| L4::range(protocol.number(), first, last))
        .collect()
}

/// Key of a row. All but `l4` is compared whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Number of the subject.
    pub subject: u32,
    /// Seen from the subject.
    pub direction: Direction,
    /// The other side's identity, or [`ANYBODY`].
    pub remote: u32,
    /// Protocol and port.
    pub l4: L4,
}

/// What a row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Pass.
    Allow,
    /// Drop: a rule says so.
    Deny,
    /// Drop: as if there were no row. Only beside shorter rows that say otherwise.
    Unmatched,
}

impl Verdict {
    /// Why a packet is dropped, if it is.
    #[must_use]
    pub const fn drop_reason(self) -> Option<DropReason> {
        match self {
            Self::Allow => None,
            Self::Deny => Some(DropReason::PolicyDeny),
            Self::Unmatched => Some(DropReason::PolicyDenied),
        }
    }

    /// `allow` or `deny`.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny | Self::Unmatched => "deny",
        }
    }
}

/// Value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    /// What it says.
    pub verdict: Verdict,
    /// The row with the greater one counts.
    pub precedence: u32,
    /// Which rules it came from, by their number in the engine: for events.
    pub origin: u32,
}

/// By which parts of its key the row that counts was found; the numbers are those of policy verdict events.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// No row.
    None = 0,
    /// Identity.
    L3Only = 1,
    /// Identity, protocol and port.
    L3L4 = 2,
    /// Protocol and port.
    L4Only = 3,
    /// A row for everything.
    All = 4,
    /// Identity and protocol.
    L3Proto = 5,
    /// Protocol.
    ProtoOnly = 6,
}

/// What the two look-ups came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What counts; [`Verdict::Unmatched`] where there was no row.
    pub verdict: Verdict,
    /// Origin of the row; 0 where there was none.
    pub origin: u32,
    /// How it was found.
    pub matched: Match,
}

/// Which of the two rows counts: that of the greater precedence, then of the longer prefix, then that of the identity.
#[must_use]
pub fn decide(exact: Option<(L4, Value)>, anybody: Option<(L4, Value)>) -> Outcome {
    let rank = |(l4, value): (L4, Value)| (value.precedence, l4.len);
    let (row, is_exact) = match (exact, anybody) {
        (None, None) => {
            return Outcome {
                verdict: Verdict::Unmatched,
                origin: 0,
                matched: Match::None,
            };
        }
        (Some(row), None) => (row, true),
        (None, Some(row)) => (row, false),
        (Some(exact), Some(anybody)) if rank(exact) >= rank(anybody) => (exact, true),
        (_, Some(anybody)) => (anybody, false),
    };
    let matched = match (is_exact, row.0.len) {
        (true, 0) => Match::L3Only,
        (true, 8) => Match::L3Proto,
        (true, _) => Match::L3L4,
        (false, 0) => Match::All,
        (false, 8) => Match::ProtoOnly,
        (false, _) => Match::L4Only,
    };
    Outcome {
        verdict: row.1.verdict,
        origin: row.1.origin,
        matched,
    }
}

/// Who asks whether which packet may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Number of the subject.
    pub subject: u32,
    /// Seen from the subject.
    pub direction: Direction,
    /// The other side's identity.
    pub remote: u32,
    /// Number of the protocol.
    pub protocol: u8,
    /// Destination port or type of the ICMP message; none for a fragment whose first part was not seen.
    pub port: Option<u16>,
}

/// The map as the kernel has it: for tests, and to answer people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map(BTreeMap<Key, Value>);

impl Map {
    /// Writes a row.
    pub fn put(&mut self, key: Key, value: Value) {
        self.0.insert(key, value);
    }

    /// Removes a row.
    pub fn delete(&mut self, key: &Key) {
        self.0.remove(key);
    }

    /// Every row in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.0.iter()
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True without rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the kernel does with a packet.
    #[must_use]
    pub fn ask(&self, question: &Question) -> Outcome {
        decide(
            self.longest(question, question.remote),
            self.longest(question, ANYBODY),
        )
    }

    fn longest(&self, question: &Question, remote: u32) -> Option<(L4, Value)> {
        let mut prefix = Some(match question.port {
            Some(port) => L4::port(question.protocol, port),
            None => L4::protocol(question.protocol),
        });
        while let Some(l4) = prefix {
            let key = Key {
                subject: question.subject,
                direction: question.direction,
                remote,
                l4,
            };
            if let Some(value) = self.0.get(&key) {
                return Some((l4, *value));
            }
            prefix = l4.parent();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_range_is_covered_exactly(a: u16, b: u16, probe: u16) {
            let (first, last) = (a.min(b), a.max(b));
            let prefixes = L4::range(6, first, last);
            prop_assert!(prefixes.len() <= 30);
            for port in [probe, first, last, first.saturating_sub(1), last.saturating_add(1)] {
                let covering = prefixes.iter().filter(|prefix| prefix.covers(L4::port(6, port))).count();
                prop_assert_eq!(covering, usize::from((first..=last).contains(&port)));
                prop_assert!(!prefixes.iter().any(|prefix| prefix.covers(L4::port(17, port))));
            }
        }

        #[test]
        fn parents_cover_and_ports_are_those_covered(port: u16, up in 0..20) {
            let l4 = L4::port(17, port);
            let mut prefix = l4;
            for _ in 0..up {
                prefix = prefix.parent().unwrap_or(L4::ALL);
                prop_assert!(prefix.covers(l4) && prefix <= l4);
                prop_assert!(prefix.ports().contains(&port));
                if prefix.len() >= 8 {
                    prop_assert!(prefix.covers(L4::port(17, *prefix.ports().end())));
                }
            }
        }
    }

    #[test]
    fn every_port_is_one_prefix() {
        assert_eq!(L4::range(6, 0, u16::MAX), [L4::protocol(6)]);
        assert_eq!(L4::range(6, 80, 80), [L4::port(6, 80)]);
        assert_eq!(L4::range(6, 1024, 2047)[0].to_string(), "1024-2047/TCP");
        assert_eq!(L4::protocol(1).to_string(), "ICMP");
    }

    #[test]
    fn the_greater_precedence_counts_then_the_longer_prefix_then_the_identity() {
        let row = |l4, precedence, origin| {
            let verdict = Verdict::Allow;
            Some((
                l4,
                Value {
                    verdict,
                    precedence,
                    origin,
                },
            ))
        };
        let web = L4::port(6, 80);
        let got = |exact, anybody| decide(exact, anybody);
        assert_eq!(
            got(row(L4::ALL, 2, 1), row(web, 1, 2)).matched,
            Match::L3Only
        );
        assert_eq!(
            got(row(L4::ALL, 1, 1), row(web, 1, 2)).matched,
            Match::L4Only
        );
        assert_eq!(got(row(web, 1, 1), row(web, 1, 2)).matched, Match::L3L4);
        assert_eq!(
            got(None, row(L4::protocol(6), 1, 2)).matched,
            Match::ProtoOnly
        );
        assert_eq!(
            got(None, None).verdict.drop_reason(),
            Some(DropReason::PolicyDenied)
        );
    }
}
