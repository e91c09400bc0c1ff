//! Which port a masqueraded flow gets.

/// Ports that are tried before a flow is given up.
pub const ATTEMPTS: u32 = 16;

/// The range of ports to masquerade to, both ends in it, host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First port.
    pub min: u16,
    /// Last port.
    pub max: u16,
}

impl Range {
    /// True if `port` (host order) is in the range.
    #[inline(always)]
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        port >= self.min && port <= self.max
    }

    /// Any number as a port of the range.
    #[inline(always)]
    #[must_use]
    pub const fn pick(self, random: u32) -> u16 {
        let size = (self.max - self.min) as u32 + 1;
        // The high half of the product spreads evenly over the range without a division.
        self.min + (((random as u64 * size as u64) >> 32) as u16)
    }

    /// The port after `port`, around the end of the range.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, port: u16) -> u16 {
        if port >= self.max { self.min } else { port + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_port_stays_in_the_range(min in 1u16.., span: u16, random: u32) {
            let range = Range { min, max: min.saturating_add(span) };
            let port = range.pick(random);
            prop_assert!(range.contains(port));
            prop_assert!(range.contains(range.after(port)));
        }
    }
}
