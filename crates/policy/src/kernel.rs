//! The form of a resolved policy that the kernel asks, and how it asks.
//!
//! For a packet two rows are looked up, each the one with the longest matching prefix of protocol and port: that of the
//! remote identity and that of identity 0, which stands for anybody. [`decide`] says which of the two counts.
use crate::rule::{Direction, ICMP, ICMPV6, L7Kind, PortMatch, Protocol};
use abi::{DropReason, PolicyKey, PolicyValue, policy_verdict};
use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

/// Remote identity of rows that hold for anybody.
pub const ANYBODY: u32 = 0;

pub use abi::PolicyMatch as Match;

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

    /// The prefix of these 24 bits and this length, if there is such a one.
    fn of_bits(bits: u32, len: u32) -> Option<Self> {
        let len = u8::try_from(len)
            .ok()
            .filter(|len| matches!(len, 0 | 8..=24))?;
        let is_prefix = bits <= 0xff_ffff && bits & (0xff_ffff_u32 >> len) == 0;
        is_prefix.then_some(Self { bits, len })
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

impl Key {
    /// The key as it stands in the map.
    #[must_use]
    pub fn to_abi(&self) -> PolicyKey {
        let [_, proto, high, low] = self.l4.bits.to_be_bytes();
        PolicyKey {
            prefix_len: PolicyKey::FIXED_BITS + u32::from(self.l4.len),
            subject: self.subject,
            remote: self.remote,
            direction: match self.direction {
                Direction::Ingress => abi::Direction::Ingress,
                Direction::Egress => abi::Direction::Egress,
            } as u8,
            proto,
            port: [high, low],
        }
    }

    /// The key that stands in the map as `key`; none for one that nothing here would write.
    #[must_use]
    pub fn from_abi(key: &PolicyKey) -> Option<Self> {
        const INGRESS: u8 = abi::Direction::Ingress as u8;
        const EGRESS: u8 = abi::Direction::Egress as u8;
        let direction = match key.direction {
            INGRESS => Direction::Ingress,
            EGRESS => Direction::Egress,
            _ => return None,
        };
        let bits = u32::from_be_bytes([0, key.proto, key.port[0], key.port[1]]);
        let len = key.prefix_len.checked_sub(PolicyKey::FIXED_BITS)?;
        Some(Self {
            subject: key.subject,
            direction,
            remote: key.remote,
            l4: L4::of_bits(bits, len)?,
        })
    }
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
    /// The number in the map.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Allow => policy_verdict::ALLOW,
            Self::Deny => policy_verdict::DENY,
            Self::Unmatched => policy_verdict::UNMATCHED,
        }
    }

    /// The verdict of a number in the map, as the programs take it.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            policy_verdict::ALLOW => Self::Allow,
            policy_verdict::DENY => Self::Deny,
            _ => Self::Unmatched,
        }
    }

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
    /// What is allowed passes by way of the proxy, which reads such requests.
    pub l7: Option<L7Kind>,
    /// The row with the greater one counts.
    pub precedence: u32,
    /// Which rules it came from, by their number in the engine: for events.
    pub origin: u32,
}

impl Value {
    const fn proxy_number(&self) -> u8 {
        match self.l7 {
            Some(kind) => kind.number(),
            None => 0,
        }
    }

    /// The value as it stands in the map under a key of this prefix.
    #[must_use]
    pub const fn to_abi(&self, l4: L4) -> PolicyValue {
        PolicyValue {
            verdict: self.verdict.number(),
            l4_len: l4.len,
            proxy: self.proxy_number(),
            pad: 0,
            precedence: self.precedence,
            origin: self.origin,
            decided: 0,
        }
    }

    /// The value that stands in the map as `value`.
    #[must_use]
    pub const fn from_abi(value: &PolicyValue) -> Self {
        Self {
            verdict: Verdict::from_number(value.verdict),
            l7: L7Kind::from_number(value.proxy),
            precedence: value.precedence,
            origin: value.origin,
        }
    }
}

/// What the two look-ups came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What counts; [`Verdict::Unmatched`] where there was no row.
    pub verdict: Verdict,
    /// By way of the proxy.
    pub l7: Option<L7Kind>,
    /// Origin of the row; 0 where there was none.
    pub origin: u32,
    /// How it was found.
    pub matched: Match,
}

/// Which of the two rows counts, as the programs say: that of the greater precedence, then of the longer prefix, then that of
/// the identity.
#[must_use]
pub fn decide(exact: Option<(L4, Value)>, anybody: Option<(L4, Value)>) -> Outcome {
    let row = |found: Option<(L4, Value)>| found.map(|(l4, value)| value.to_abi(l4));
    let counts = wire::policy::decide(row(exact).as_ref(), row(anybody).as_ref());
    Outcome {
        verdict: Verdict::from_number(counts.verdict),
        l7: L7Kind::from_number(counts.proxy),
        origin: counts.origin,
        matched: counts.matched,
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
    fn rows_stand_in_the_map_and_come_back() {
        let all = [
            L4::ALL,
            L4::protocol(6),
            L4::port(17, 53),
            L4::icmp(true, 128),
        ];
        for l4 in all.into_iter().chain(L4::range(132, 1, 1000)) {
            for direction in Direction::BOTH {
                let key = Key {
                    subject: 0x0123_4567,
                    direction,
                    remote: 7,
                    l4,
                };
                let abi = key.to_abi();
                assert_eq!(abi.l4_len(), u32::from(l4.len()));
                assert_eq!(Key::from_abi(&abi), Some(key));
                let foreign = |change: fn(&mut PolicyKey)| {
                    let mut abi = abi;
                    change(&mut abi);
                    Key::from_abi(&abi)
                };
                assert_eq!(foreign(|key| key.direction = 3), None);
                assert_eq!(foreign(|key| key.prefix_len = 71), None);
                assert_eq!(foreign(|key| key.prefix_len = 73), None);
                assert_eq!(foreign(|key| key.prefix_len = 97), None);
            }
        }
        let bits_beyond_the_prefix = PolicyKey {
            prefix_len: PolicyKey::FIXED_BITS + 8,
            subject: 1,
            remote: 0,
            direction: 1,
            proto: 6,
            port: [0, 1],
        };
        assert_eq!(Key::from_abi(&bits_beyond_the_prefix), None);
        for verdict in [Verdict::Allow, Verdict::Deny, Verdict::Unmatched] {
            let value = Value {
                verdict,
                l7: (verdict == Verdict::Allow).then_some(L7Kind::Dns),
                precedence: 9,
                origin: 17,
            };
            assert_eq!(Value::from_abi(&value.to_abi(L4::ALL)), value);
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
                    l7: None,
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
