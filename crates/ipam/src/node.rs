//! A node's addresses of both families.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{AllocateError, NotHeld, Owner, Pool, Release};

/// Pool of whoever asks for none.
pub const DEFAULT_POOL: &str = "default";

/// Which families are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    /// An IPv4 address.
    pub v4: bool,
    /// An IPv6 address.
    pub v6: bool,
}

/// Addresses that were given together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Addresses {
    /// The IPv4 one.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 one.
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// Both, as far as there are any.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.v4
            .map(IpAddr::V4)
            .into_iter()
            .chain(self.v6.map(IpAddr::V6))
    }
}

/// The addresses of a node. Time is an argument: any clock that only goes forward, as the time since some fixed moment.
#[derive(Debug, Clone, Default)]
pub struct NodeIpam {
    /// Ranges by the name of their pool.
    pools: BTreeMap<String, Vec<Pool>>,
    /// Addresses of pods from before the node's CIDR changed.
    foreign: BTreeMap<IpAddr, Owner>,
    /// Addresses that nobody has put to use yet, and until when they may stay so.
    unused: BTreeMap<IpAddr, Duration>,
}

impl NodeIpam {
    /// No range yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the node its IPv4 range in the default pool. Addresses taken from another range before stay taken until they are
    /// released.
    pub fn set_v4(&mut self, cidr: Option<Ipv4Net>) {
        self.set_family(false, cidr.map(IpNet::V4));
    }

    /// Gives the node its IPv6 range in the default pool; as [`NodeIpam::set_v4`].
    pub fn set_v6(&mut self, cidr: Option<Ipv6Net>) {
        self.set_family(true, cidr.map(IpNet::V6));
    }

    fn set_family(&mut self, ipv6: bool, cidr: Option<IpNet>) {
        let old = self.pools.get(DEFAULT_POOL).into_iter().flatten();
        let other = old.map(Pool::cidr).filter(|net| is_ipv6(net) != ipv6);
        let ranges: Vec<IpNet> = other.chain(cidr).collect();
        self.set_ranges(DEFAULT_POOL, &ranges);
    }

    /// Gives a pool its ranges, of both families. Addresses taken from a range that it has no longer stay taken until they are
    /// released.
    pub fn set_ranges(&mut self, pool: &str, ranges: &[IpNet]) {
        let wanted: Vec<IpNet> = ranges.iter().map(IpNet::trunc).collect();
        let old = self.pools.remove(pool).unwrap_or_default();
        let (mut kept, gone): (Vec<Pool>, Vec<Pool>) = old
            .into_iter()
            .partition(|range| wanted.contains(&range.cidr()));
        for range in gone {
            let taken = range.iter().map(|(ip, owner)| (ip, owner.clone()));
            self.foreign.extend(taken);
        }
        let mut next: Vec<Pool> = Vec::new();
        for net in wanted {
            if next.iter().any(|range| range.cidr() == net) {
                continue;
            }
            let at = kept.iter().position(|range| range.cidr() == net);
            next.push(match at {
                Some(at) => kept.swap_remove(at),
                None => {
                    let mut range = Pool::new(net);
                    self.foreign
                        .retain(|ip, owner| range.allocate_specific(*ip, owner.clone()).is_err());
                    range
                }
            });
        }
        if !next.is_empty() {
            self.pools.insert(pool.to_owned(), next);
        }
    }

    /// Every pool with its ranges.
    pub fn pools(&self) -> impl Iterator<Item = (&str, &[Pool])> {
        let pools = self.pools.iter();
        pools.map(|(name, ranges)| (name.as_str(), ranges.as_slice()))
    }

    /// The first IPv4 range of the default pool.
    pub fn v4(&self) -> Option<&Pool> {
        self.first(false)
    }

    /// The first IPv6 range of the default pool.
    pub fn v6(&self) -> Option<&Pool> {
        self.first(true)
    }

    fn first(&self, ipv6: bool) -> Option<&Pool> {
        let mut ranges = self.pools.get(DEFAULT_POOL)?.iter();
        ranges.find(|range| is_ipv6(&range.cidr()) == ipv6)
    }

    /// The families of which any pool has a range.
    pub fn families(&self) -> Families {
        let any = |ipv6: bool| self.ranges().any(|range| is_ipv6(&range.cidr()) == ipv6);
        Families {
            v4: any(false),
            v6: any(true),
        }
    }

    /// Takes one address of each wanted family of the default pool; as [`NodeIpam::allocate_from`].
    pub fn allocate(
        &mut self,
        families: Families,
        owner: &Owner,
        now: Duration,
        unused_until: Option<Duration>,
    ) -> Result<Addresses, AllocateError> {
        self.allocate_from([DEFAULT_POOL; 2], families, owner, now, unused_until)
    }

    /// Takes one address of each wanted family, or none at all, from the pools that are named for IPv4 and IPv6. With
    /// `unused_until`, the addresses fall back unless [`NodeIpam::put_to_use`] is called before then. What is overdue is given
    /// back first.
    pub fn allocate_from(
        &mut self,
        pools: [&str; 2],
        families: Families,
        owner: &Owner,
        now: Duration,
        unused_until: Option<Duration>,
    ) -> Result<Addresses, AllocateError> {
        self.expire(now);
        let mut given = Addresses::default();
        if families.v4
            && let IpAddr::V4(ip) = self.take(pools[0], false, owner)?
        {
            given.v4 = Some(ip);
        }
        if families.v6 {
            match self.take(pools[1], true, owner) {
                Ok(IpAddr::V6(ip)) => given.v6 = Some(ip),
                Ok(IpAddr::V4(_)) => {}
                Err(e) => {
                    given
                        .iter()
                        .for_each(|ip| drop(self.release(ip, &owner.key)));
                    return Err(e);
                }
            }
        }
        if let Some(until) = unused_until {
            self.unused.extend(given.iter().map(|ip| (ip, until)));
        }
        Ok(given)
    }

    /// The next free address of a pool's first range that has one.
    fn take(&mut self, pool: &str, ipv6: bool, owner: &Owner) -> Result<IpAddr, AllocateError> {
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        let ranges = self.pools.get_mut(pool).map(Vec::as_mut_slice);
        let mut refusal = None;
        let (mut count, mut capacity) = (0, 0u128);
        for range in ranges.unwrap_or_default() {
            if is_ipv6(&range.cidr()) != ipv6 {
                continue;
            }
            match range.allocate(owner.clone()) {
                Ok(ip) => return Ok(ip),
                Err(error) => {
                    count += 1;
                    capacity = capacity.saturating_add(error.capacity);
                    refusal = Some(error);
                }
            }
        }
        Err(match refusal {
            Some(error) if count == 1 => error.into(),
            Some(_) => AllocateError::PoolExhausted {
                pool: pool.to_owned(),
                family,
                capacity,
            },
            None if pool == DEFAULT_POOL => AllocateError::NoPool(family),
            None => AllocateError::NoRange {
                pool: pool.to_owned(),
                family,
            },
        })
    }

    fn ranges(&self) -> impl Iterator<Item = &Pool> {
        self.pools.values().flatten()
    }

    fn range_of(&self, ip: IpAddr) -> Option<&Pool> {
        self.ranges().find(|range| range.contains(ip))
    }

    fn range_of_mut(&mut self, ip: IpAddr) -> Option<&mut Pool> {
        let mut ranges = self.pools.values_mut().flatten();
        ranges.find(|range| range.contains(ip))
    }

    /// Takes this very address, for good.
    pub fn allocate_specific(&mut self, ip: IpAddr, owner: &Owner) -> Result<(), AllocateError> {
        if let Some(by) = self.foreign.get(&ip) {
            return Err(AllocateError::Taken { ip, by: by.clone() });
        }
        if let Some(range) = self.range_of_mut(ip) {
            return range.allocate_specific(ip, owner.clone());
        }
        let mut ranges = self.ranges().map(Pool::cidr);
        let other = ranges.find(|net| is_ipv6(net) == ip.is_ipv6());
        Err(match other {
            Some(pool) => AllocateError::NotInPool { ip, pool },
            None if ip.is_ipv4() => AllocateError::NoPool("IPv4"),
            None => AllocateError::NoPool("IPv6"),
        })
    }

    /// Takes over an address that a pod has from before a restart, even one of an older range. Refused when another holder
    /// was restored with it already.
    pub fn restore(&mut self, ip: IpAddr, owner: &Owner) -> Result<(), AllocateError> {
        match self.allocate_specific(ip, owner) {
            Err(AllocateError::NotInPool { .. } | AllocateError::NoPool(_)) => {
                self.foreign.insert(ip, owner.clone());
                Ok(())
            }
            Err(AllocateError::Taken { by, .. }) if by.key == owner.key => Ok(()),
            other => other,
        }
    }

    /// An endpoint uses the address now: it no longer expires.
    pub fn put_to_use(&mut self, ip: IpAddr, key: &str) -> Result<(), NotHeld> {
        match self.owner(ip) {
            Some(owner) if owner.key == key => {
                self.unused.remove(&ip);
                Ok(())
            }
            by => Err(NotHeld {
                ip,
                who: key.to_owned(),
                by: by.cloned(),
            }),
        }
    }

    /// Gives an address back; only its holder (by key) can.
    pub fn release(&mut self, ip: IpAddr, key: &str) -> Release {
        match self.owner(ip) {
            None => Release::NotAllocated,
            Some(owner) if owner.key != key => Release::NotOwner(owner.clone()),
            Some(_) => self.release_any(ip),
        }
    }

    /// Gives an address back whoever holds it.
    pub fn release_any(&mut self, ip: IpAddr) -> Release {
        self.unused.remove(&ip);
        if let Some(owner) = self.foreign.remove(&ip) {
            return Release::Released(owner);
        }
        self.range_of_mut(ip)
            .map_or(Release::NotAllocated, |range| range.release_any(ip))
    }

    /// Gives everything of a holder back.
    pub fn release_all_of(&mut self, key: &str) -> Vec<IpAddr> {
        let held: Vec<_> = self
            .iter()
            .filter(|(_, owner)| owner.key == key)
            .map(|(ip, _)| ip)
            .collect();
        held.iter().for_each(|ip| drop(self.release_any(*ip)));
        held
    }

    /// Gives back what was not put to use in time.
    pub fn expire(&mut self, now: Duration) -> Vec<(IpAddr, Owner)> {
        let overdue: Vec<_> = self
            .unused
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(ip, _)| *ip)
            .collect();
        let release = |ip| match self.release_any(ip) {
            Release::Released(owner) => Some((ip, owner)),
            _ => None,
        };
        overdue.into_iter().filter_map(release).collect()
    }

    /// When [`NodeIpam::expire`] has something to do next.
    pub fn next_expiry(&self) -> Option<Duration> {
        self.unused.values().min().copied()
    }

    /// Who holds an address.
    pub fn owner(&self, ip: IpAddr) -> Option<&Owner> {
        let of_range = || self.range_of(ip)?.owner(ip);
        self.foreign.get(&ip).or_else(of_range)
    }

    /// Every address that is taken, range by range in order; those of older ranges last.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Owner)> {
        let pools = self.ranges().flat_map(Pool::iter);
        pools.chain(self.foreign.iter().map(|(ip, owner)| (*ip, owner)))
    }
}

fn is_ipv6(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(_))
}
