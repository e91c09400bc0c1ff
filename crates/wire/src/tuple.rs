//! The five numbers that name a flow.
use crate::Family;

/// Addresses, ports and protocol of a packet, as they stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<F: Family> {
    /// Source address.
    pub src: F::Addr,
    /// Destination address.
    pub dst: F::Addr,
    /// Source port in network order; for ICMP echo requests the identifier.
    pub sport: u16,
    /// Destination port in network order; for ICMP echo replies the identifier.
    pub dport: u16,
    /// IP protocol.
    pub proto: u8,
}

impl<F: Family> Tuple<F> {
    /// The tuple of a packet in the other direction.
    #[inline(always)]
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            proto: self.proto,
        }
    }
}
