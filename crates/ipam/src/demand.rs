//! How much of a pool a node asks for, and what it gives back.

use ipnet::IpNet;

use crate::Pool;

/// Addresses to ask for: those in use, and at least `reserve` more, in steps of `reserve`. Without a reserve, those in use.
pub fn needed(in_use: u32, reserve: u32) -> u32 {
    if reserve == 0 {
        return in_use;
    }
    in_use
        .div_ceil(reserve)
        .saturating_add(1)
        .saturating_mul(reserve)
}

/// The ranges without any taken address that a pool can do without and still have `needed` addresses of a family; the last ones
/// first. Nothing is given back that would have to be asked for again at once.
pub fn surplus(ranges: &[Pool], ipv6: bool, needed: u32) -> Vec<IpNet> {
    let own = || {
        ranges
            .iter()
            .filter(|range| matches!(range.cidr(), IpNet::V6(_)) == ipv6)
    };
    let mut capacity: u128 = own().map(Pool::capacity).fold(0, u128::saturating_add);
    let mut out = Vec::new();
    let unused: Vec<&Pool> = own().filter(|range| range.allocated() == 0).collect();
    for range in unused.into_iter().rev() {
        let left = capacity.saturating_sub(range.capacity());
        if left >= u128::from(needed) {
            capacity = left;
            out.push(range.cidr());
        }
    }
    out
}
