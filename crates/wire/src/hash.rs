//! The number that Maglev tables are asked with: the same for a tuple on every node and machine.
use zerocopy::transmute;

use crate::{Family, Tuple};

/// Hash of a tuple: Murmur3's 32-bit mixing (seed 0) over source address, destination address, both ports as one number (source in the
/// upper half), and protocol; all as numbers of 32 bits, which are taken from the packet in network order.
#[inline(always)]
#[must_use]
pub fn tuple<F: Family>(t: &Tuple<F>) -> u32 {
    let src: [u32; 4] = transmute!(F::widen(t.src));
    let dst: [u32; 4] = transmute!(F::widen(t.dst));
    let ports = u32::from(u16::from_be(t.sport)) << 16 | u32::from(u16::from_be(t.dport));
    let mut h = 0;
    if F::IS_V6 {
        h = mix(h, u32::from_be(src[0]));
        h = mix(h, u32::from_be(src[1]));
        h = mix(h, u32::from_be(src[2]));
        h = mix(h, u32::from_be(src[3]));
        h = mix(h, u32::from_be(dst[0]));
        h = mix(h, u32::from_be(dst[1]));
        h = mix(h, u32::from_be(dst[2]));
        h = mix(h, u32::from_be(dst[3]));
    } else {
        h = mix(h, u32::from_be(src[0]));
        h = mix(h, u32::from_be(dst[0]));
    }
    h = mix(h, ports);
    finish(mix(h, u32::from(t.proto)))
}

#[inline(always)]
const fn mix(h: u32, word: u32) -> u32 {
    let word = word
        .wrapping_mul(0xCC9E_2D51)
        .rotate_left(15)
        .wrapping_mul(0x1B87_3593);
    (h ^ word)
        .rotate_left(13)
        .wrapping_mul(5)
        .wrapping_add(0xE654_6B64)
}

#[inline(always)]
const fn finish(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85EB_CA6B);
    h ^= h >> 13;
    h = h.wrapping_mul(0xC2B2_AE35);
    h ^ h >> 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{V4, V6};

    fn v4(client: u32, sport: u16) -> Tuple<V4> {
        Tuple {
            src: client.to_be(),
            dst: 0xC0A8_0A64_u32.to_be(),
            sport: sport.to_be(),
            dport: 30_080_u16.to_be(),
            proto: 6,
        }
    }

    fn v6(client: u64, sport: u16) -> Tuple<V6> {
        let addr = |last: u64| [0xFD00_0010_u64 << 32, last].map(u64::to_be);
        Tuple {
            src: addr(client),
            dst: addr(0x100),
            sport: sport.to_be(),
            dport: 30_080_u16.to_be(),
            proto: 17,
        }
    }

    /// Nodes of two versions must agree on these.
    #[test]
    fn known_numbers() {
        assert_eq!(tuple(&v4(0x0A0A_01C8, 40_000)), KNOWN4);
        assert_eq!(tuple(&v6(0x200, 40_000)), KNOWN6);
    }

    const KNOWN4: u32 = 3814482676;
    const KNOWN6: u32 = 2401525056;

    /// Neither clients in a row nor ports in a row crowd at one place.
    #[test]
    fn what_lies_close_together_is_spread() {
        for places in [251_usize, 16_381] {
            let spread = |hashes: &mut dyn Iterator<Item = u32>| {
                let mut seen = vec![0_u32; places];
                let mut n = 0;
                for hash in hashes {
                    seen[hash as usize % places] += 1;
                    n += 1;
                }
                let mean = f64::from(n) / places as f64;
                // Chi-squared over its degrees of freedom is about one for chance.
                seen.iter()
                    .map(|s| (f64::from(*s) - mean).powi(2) / mean)
                    .sum::<f64>()
                    / places as f64
            };
            let by_port = spread(&mut (0..60_000).map(|port| tuple(&v4(0x0A00_0001, port))));
            let by_client = spread(&mut (0..60_000).map(|n| tuple(&v4(0x0A00_0000 + n, 1000))));
            let by_port6 = spread(&mut (0..60_000).map(|port| tuple(&v6(1, port))));
            let by_client6 = spread(&mut (0..60_000).map(|n| tuple(&v6(n, 1000))));
            for chi in [by_port, by_client, by_port6, by_client6] {
                assert!((0.6..1.4).contains(&chi), "{chi} for {places} places");
            }
        }
    }
}
