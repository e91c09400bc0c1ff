//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
use zerocopy::transmute;

use crate::Family;

/// Folds a running sum into sixteen bits.
#[inline(always)]
#[must_use]
pub const fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xFFFF_FFFF) + (sum >> 32);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum as u16
}

/// The checksum `check` after a 16-bit word of the covered bytes changed; all three as they lie in memory.
#[inline(always)]
#[must_use]
pub const fn replace16(check: u16, from: u16, to: u16) -> u16 {
    !fold(!check as u64 + !from as u64 + to as u64)
}

/// Sum of an address's words.
#[inline(always)]
#[must_use]
pub fn of_address<F: Family>(addr: F::Addr) -> u64 {
    of_words(transmute!(F::widen(addr)))
}

/// Sum of the complements of an address's words: what to add where another address takes its place.
#[inline(always)]
#[must_use]
pub fn of_complement<F: Family>(addr: F::Addr) -> u64 {
    let words: [u32; 4] = transmute!(F::widen(addr));
    // Beyond a short address this adds what is zero to the sum.
    of_words([!words[0], !words[1], !words[2], !words[3]])
}

#[inline(always)]
const fn of_words(words: [u32; 4]) -> u64 {
    words[0] as u64 + words[1] as u64 + words[2] as u64 + words[3] as u64
}

/// Adds the 16-bit words of `bytes` to a sum; an odd last byte counts as if a zero followed.
#[must_use]
pub fn add(mut sum: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    for w in words {
        sum += u64::from(u16::from_ne_bytes(*w));
    }
    if let [last] = rest {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{V4, V6};
    use proptest::prelude::*;

    /// Replaces an address in bytes that a checksum covers.
    fn replaces<F: Family>(from: F::Addr, to: F::Addr, rest: u64) {
        let before = !fold(rest + of_address::<F>(from));
        let after = !fold(rest + of_address::<F>(to));
        let updated = !fold(u64::from(!before) + of_complement::<F>(from) + of_address::<F>(to));
        assert!(updated == after || updated ^ after == 0xFFFF);
    }

    proptest! {
        #[test]
        fn addresses_are_replaced(v4: [u32; 2], v6: [[u64; 2]; 2], rest: u32) {
            replaces::<V4>(v4[0], v4[1], rest.into());
            replaces::<V6>(v6[0], v6[1], rest.into());
        }

        #[test]
        fn incremental_update_agrees_with_the_full_sum(mut bytes in proptest::collection::vec(any::<u8>(), 8..64), at in 0usize..3, to: u16) {
            let check = !fold(add(0, &bytes));
            let from = u16::from_ne_bytes([bytes[at * 2], bytes[at * 2 + 1]]);
            bytes[at * 2..at * 2 + 2].copy_from_slice(&to.to_ne_bytes());
            let full = !fold(add(0, &bytes));
            let updated = replace16(check, from, to);
            // 0 and 0xFFFF are the same number in one's complement.
            prop_assert!(updated == full || (updated ^ full) == 0xFFFF);
        }
    }
}
