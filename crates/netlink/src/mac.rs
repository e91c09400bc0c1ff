//! Ethernet addresses.

use std::{fmt, str::FromStr};

/// A 48-bit Ethernet address; prints as `02:00:00:00:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

/// Text that is not an Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address: expected six hexadecimal bytes joined by colons")]
pub struct ParseMacError(pub String);

impl Mac {
    /// A locally administered unicast address made from 48 arbitrary bits.
    pub fn local_from(mut bytes: [u8; 6]) -> Self {
        bytes[0] = (bytes[0] & 0xfc) | 0x02;
        Self(bytes)
    }
    /// Whether all bits are zero (a device without a link-layer address).
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mac({self})")
    }
}

impl FromStr for Mac {
    type Err = ParseMacError;
    fn from_str(s: &str) -> Result<Self, ParseMacError> {
        let bad = || ParseMacError(s.chars().take(40).collect());
        let mut out = [0u8; 6];
        let mut parts = s.split(':');
        for byte in &mut out {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() || s.contains('+') {
            Err(bad())
        } else {
            Ok(Self(out))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip_and_rejects() {
        let mac: Mac = "02:0a:ff:00:10:7e".parse().unwrap();
        assert_eq!(mac.to_string(), "02:0a:ff:00:10:7e");
        for bad in [
            "",
            "02:0a:ff:00:10",
            "02:0a:ff:00:10:7e:01",
            "2:0a:ff:00:10:7e",
            "zz:0a:ff:00:10:7e",
            "+2:0a:ff:00:10:7e",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn local_addresses_are_unicast_and_local() {
        assert_eq!(Mac::local_from([0xff; 6]).0[0] & 0x03, 0x02);
    }
}
