//! Ranges of nodes, cut out of the ranges of pools: never two that overlap.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::BlockError;

/// The ranges that a pool cuts its parts from, all of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    ranges: Vec<IpNet>,
    /// Prefix length of a part.
    mask: u8,
}

impl Space {
    /// A space of `ranges`, cut into parts of prefix length `mask`.
    ///
    /// # Errors
    /// There is no range, ranges of both families, two that overlap, or a part does not fit into one.
    pub fn new(ranges: Vec<IpNet>, mask: u8) -> Result<Self, BlockError> {
        let ranges: Vec<IpNet> = ranges.into_iter().map(|net| net.trunc()).collect();
        let Some(first) = ranges.first().copied() else {
            return Err(BlockError::NoRange);
        };
        for (index, net) in ranges.iter().enumerate() {
            if net.addr().is_ipv4() != first.addr().is_ipv4() {
                return Err(BlockError::Families { a: first, b: *net });
            }
            if mask < net.prefix_len() || mask > net.max_prefix_len() {
                return Err(BlockError::Mask {
                    mask,
                    range: *net,
                    longest: net.max_prefix_len(),
                });
            }
            if let Some(other) = ranges[..index].iter().find(|other| overlap(other, net)) {
                return Err(BlockError::Overlap { a: *other, b: *net });
            }
        }
        Ok(Self { ranges, mask })
    }

    /// Whether parts are IPv6 ranges.
    pub fn is_ipv6(&self) -> bool {
        self.ranges.first().is_some_and(|net| net.addr().is_ipv6())
    }

    /// The ranges.
    pub fn ranges(&self) -> &[IpNet] {
        &self.ranges
    }

    /// Prefix length of the parts.
    pub fn mask(&self) -> u8 {
        self.mask
    }

    /// Whether the range lies within the space.
    pub fn contains(&self, net: &IpNet) -> bool {
        self.ranges.iter().any(|range| range.contains(net))
    }

    /// How many parts there are in all; saturates.
    pub fn capacity(&self) -> u128 {
        let parts = |net: &IpNet| 1u128.checked_shl(u32::from(self.mask - net.prefix_len()));
        self.ranges
            .iter()
            .map(|net| parts(net).unwrap_or(u128::MAX))
            .fold(0, u128::saturating_add)
    }
}

/// Who has which range. A range is held by one holder, and overlaps no other held one.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// First address of each held range of a family → the range and its holder.
    families: [BTreeMap<u128, (IpNet, String)>; 2],
    by_holder: BTreeMap<String, BTreeSet<IpNet>>,
    /// Where to look for the next free part of a range: a part that was given back is not given soon again, since somebody may
    /// still use addresses of it.
    cursors: BTreeMap<(IpNet, u8), u128>,
}

impl Held {
    /// Nobody has anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nobody has anything, but what was given last is still remembered for what to give next.
    pub fn emptied(&mut self) -> Self {
        Self {
            cursors: std::mem::take(&mut self.cursors),
            ..Self::default()
        }
    }

    /// Gives a range that a holder has already to it. Holding it already is fine.
    ///
    /// # Errors
    /// It overlaps a range that somebody else holds, or another one of the same holder.
    pub fn occupy(&mut self, net: IpNet, holder: &str) -> Result<(), BlockError> {
        let net = net.trunc();
        match self.overlapping(&net) {
            Some((same, by)) if *same == net && by == holder => Ok(()),
            Some((other, by)) => Err(BlockError::Held {
                net,
                other: *other,
                by: by.clone(),
            }),
            None => {
                self.insert(net, holder);
                Ok(())
            }
        }
    }

    /// Cuts the next free part out of a space. What anybody holds is gone around, parts of other sizes and of other spaces too.
    ///
    /// # Errors
    /// Nothing is free.
    pub fn allocate(&mut self, space: &Space, holder: &str) -> Result<IpNet, BlockError> {
        for range in &space.ranges {
            if let Some(net) = self.free_part(range, space.mask) {
                self.cursors
                    .insert((*range, space.mask), last(&net).wrapping_add(1));
                self.insert(net, holder);
                return Ok(net);
            }
        }
        Err(BlockError::Exhausted {
            ranges: space.ranges.clone(),
            mask: space.mask,
        })
    }

    /// Takes a range from its holder; whether it held it.
    pub fn release(&mut self, net: &IpNet, holder: &str) -> bool {
        let net = net.trunc();
        let family = usize::from(net.addr().is_ipv6());
        let held = self.families[family]
            .get(&number(net.network()))
            .is_some_and(|(same, by)| *same == net && by == holder);
        if held {
            self.families[family].remove(&number(net.network()));
            if let Some(own) = self.by_holder.get_mut(holder) {
                own.remove(&net);
                if own.is_empty() {
                    self.by_holder.remove(holder);
                }
            }
        }
        held
    }

    /// Takes everything from a holder; what it was.
    pub fn release_all(&mut self, holder: &str) -> Vec<IpNet> {
        let own = self.by_holder.get(holder).cloned().unwrap_or_default();
        for net in &own {
            self.release(net, holder);
        }
        own.into_iter().collect()
    }

    /// The ranges of a holder, in order.
    pub fn of<'a>(&'a self, holder: &str) -> impl Iterator<Item = IpNet> + use<'a> {
        self.by_holder.get(holder).into_iter().flatten().copied()
    }

    /// Who holds something.
    pub fn holders(&self) -> impl Iterator<Item = &str> {
        self.by_holder.keys().map(String::as_str)
    }

    /// How many ranges are held within a space.
    pub fn used(&self, space: &Space) -> u128 {
        let family = usize::from(space.is_ipv6());
        let within = |net: &IpNet| {
            let (first, end) = (number(net.network()), last(net));
            self.families[family].range(first..=end).count() as u128
        };
        space.ranges.iter().map(within).sum()
    }

    fn insert(&mut self, net: IpNet, holder: &str) {
        let family = usize::from(net.addr().is_ipv6());
        self.families[family].insert(number(net.network()), (net, holder.to_owned()));
        self.by_holder
            .entry(holder.to_owned())
            .or_default()
            .insert(net);
    }

    /// A held range that shares addresses with `net`.
    fn overlapping(&self, net: &IpNet) -> Option<&(IpNet, String)> {
        let family = &self.families[usize::from(net.addr().is_ipv6())];
        // Held ranges do not overlap, so of those that begin at or before the end only the last can reach into `net`.
        let (_, candidate) = family.range(..=last(net)).next_back()?;
        overlap(&candidate.0, net).then_some(candidate)
    }

    /// The next part of `range` that nobody holds any of, from the cursor on, and from the start again.
    fn free_part(&self, range: &IpNet, mask: u8) -> Option<IpNet> {
        let (first, end) = (number(range.network()), last(range));
        let cursor = self
            .cursors
            .get(&(*range, mask))
            .copied()
            .filter(|at| (first..=end).contains(at))
            .unwrap_or(first);
        self.free_between(cursor, end, mask, range)
            .or_else(|| self.free_between(first, end, mask, range))
    }

    fn free_between(&self, from: u128, end: u128, mask: u8, range: &IpNet) -> Option<IpNet> {
        let ipv6 = range.addr().is_ipv6();
        let step = 1u128.checked_shl(u32::from(range.max_prefix_len() - mask));
        let mut at = from;
        loop {
            let part = net_at(at, mask, ipv6)?;
            let Some((taken, _)) = self.overlapping(&part) else {
                return Some(part);
            };
            // Past the part, and past all of what is in the way.
            let behind = last(&part).max(last(taken)).checked_add(1)?;
            at = match step {
                Some(step) => behind.checked_next_multiple_of(step)?,
                None => return None,
            };
            if at > end {
                return None;
            }
        }
    }
}

/// The range of this prefix length that begins at a number.
fn net_at(at: u128, mask: u8, ipv6: bool) -> Option<IpNet> {
    if ipv6 {
        Ipv6Net::new(Ipv6Addr::from(at), mask).ok().map(IpNet::V6)
    } else {
        let ip = Ipv4Addr::from(u32::try_from(at).ok()?);
        Ipv4Net::new(ip, mask).ok().map(IpNet::V4)
    }
}

/// Whether two ranges share addresses.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn last(net: &IpNet) -> u128 {
    number(net.broadcast())
}
