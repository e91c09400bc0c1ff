//! Connections by way of the proxy: which of their packets go there.
use abi::{ProxySessionKey, ct_flags, family};

use crate::{Family, Tuple};

/// True if a packet of an entry with these flags goes to the proxy: from the side that opened (`from_opener`), or from the other. Those of
/// the other direction come from the proxy, and from nobody else.
#[inline(always)]
#[must_use]
pub const fn goes_to_proxy(flags: u16, from_opener: bool) -> bool {
    let leg = if from_opener {
        ct_flags::PROXY_FORWARD
    } else {
        ct_flags::PROXY_REPLY
    };
    flags & leg != 0
}

/// Key of the session whose client sends packets of this tuple.
#[inline(always)]
#[must_use]
pub fn session_key<F: Family>(t: &Tuple<F>) -> ProxySessionKey {
    ProxySessionKey {
        src: F::widen(t.src),
        dst: F::widen(t.dst),
        sport: t.sport.to_ne_bytes(),
        dport: t.dport.to_ne_bytes(),
        proto: t.proto,
        family: if F::IS_V6 { family::V6 } else { family::V4 },
        pad: [0; 2],
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::transmute;

    use super::*;
    use crate::{V4, V6};

    #[test]
    fn each_leg_has_one_direction_to_the_proxy() {
        let (client, server) = (ct_flags::PROXY_FORWARD, ct_flags::PROXY_REPLY);
        assert!(goes_to_proxy(client, true) && !goes_to_proxy(client, false));
        assert!(!goes_to_proxy(server, true) && goes_to_proxy(server, false));
        assert!(!goes_to_proxy(!ct_flags::PROXIED, true));
        assert!(!goes_to_proxy(!ct_flags::PROXIED, false));
    }

    #[test]
    fn keys_of_two_families_differ() {
        let v4 = Tuple::<V4> {
            src: u32::from_ne_bytes([10, 0, 0, 1]),
            dst: u32::from_ne_bytes([10, 0, 0, 2]),
            sport: 1000_u16.to_be(),
            dport: 80_u16.to_be(),
            proto: 6,
        };
        let key = session_key(&v4);
        assert_eq!(key.src[..5], [10, 0, 0, 1, 0]);
        assert_eq!((key.sport, key.dport), ([3, 232], [0, 80]));
        let v6 = Tuple::<V6> {
            src: transmute!(key.src),
            dst: transmute!(key.dst),
            sport: v4.sport,
            dport: v4.dport,
            proto: 6,
        };
        assert_ne!(session_key(&v6), key);
        assert_eq!(session_key(&v6).src, key.src);
    }
}
