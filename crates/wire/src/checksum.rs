//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

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
    use proptest::prelude::*;

    proptest! {
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
