//! A node's addresses of both families.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{AllocateError, NotHeld, Owner, Pool, Release};

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
    v4: Option<Pool>,
    v6: Option<Pool>,
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

    /// Gives the node its IPv4 range. Addresses taken from another range before stay taken until they are released.
    pub fn set_v4(&mut self, cidr: Option<Ipv4Net>) {
        let pool = replace(self.v4.take(), cidr.map(IpNet::V4), &mut self.foreign);
        self.v4 = pool;
    }

    /// Gives the node its IPv6 range; as [`NodeIpam::set_v4`].
    pub fn set_v6(&mut self, cidr: Option<Ipv6Net>) {
        let pool = replace(self.v6.take(), cidr.map(IpNet::V6), &mut self.foreign);
        self.v6 = pool;
    }

    /// The pool of IPv4.
    pub fn v4(&self) -> Option<&Pool> {
        self.v4.as_ref()
    }

    /// The pool of IPv6.
    pub fn v6(&self) -> Option<&Pool> {
        self.v6.as_ref()
    }

    /// The families that have a range.
    pub fn families(&self) -> Families {
        Families {
            v4: self.v4.is_some(),
            v6: self.v6.is_some(),
        }
    }

    /// Takes one address of each wanted family, or none at all. With `unused_until`, the addresses fall back unless
    /// [`NodeIpam::put_to_use`] is called before then. What is overdue is given back first.
    pub fn allocate(
        &mut self,
        families: Families,
        owner: &Owner,
        now: Duration,
        unused_until: Option<Duration>,
    ) -> Result<Addresses, AllocateError> {
        self.expire(now);
        let mut given = Addresses::default();
        if families.v4
            && let IpAddr::V4(ip) = allocate(&mut self.v4, "IPv4", owner)?
        {
            given.v4 = Some(ip);
        }
        if families.v6 {
            match allocate(&mut self.v6, "IPv6", owner) {
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

    /// Takes this very address, for good.
    pub fn allocate_specific(&mut self, ip: IpAddr, owner: &Owner) -> Result<(), AllocateError> {
        if let Some(by) = self.foreign.get(&ip) {
            return Err(AllocateError::Taken { ip, by: by.clone() });
        }
        let (pool, family) = self.pool_mut(ip);
        pool.as_mut()
            .ok_or(AllocateError::NoPool(family))?
            .allocate_specific(ip, owner.clone())
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
        let (pool, _) = self.pool_mut(ip);
        pool.as_mut()
            .map_or(Release::NotAllocated, |pool| pool.release_any(ip))
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
        let pool = if ip.is_ipv4() { &self.v4 } else { &self.v6 };
        self.foreign.get(&ip).or_else(|| pool.as_ref()?.owner(ip))
    }

    /// Every address that is taken, in order; those of older ranges last.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Owner)> {
        let pools = self.v4.iter().chain(&self.v6).flat_map(Pool::iter);
        pools.chain(self.foreign.iter().map(|(ip, owner)| (*ip, owner)))
    }

    fn pool_mut(&mut self, ip: IpAddr) -> (&mut Option<Pool>, &'static str) {
        match ip {
            IpAddr::V4(_) => (&mut self.v4, "IPv4"),
            IpAddr::V6(_) => (&mut self.v6, "IPv6"),
        }
    }
}

fn allocate(
    pool: &mut Option<Pool>,
    family: &'static str,
    owner: &Owner,
) -> Result<IpAddr, AllocateError> {
    let pool = pool.as_mut().ok_or(AllocateError::NoPool(family))?;
    Ok(pool.allocate(owner.clone())?)
}

/// The pool of a new range with what still fits of the old one's addresses and of the foreign ones; the rest is foreign.
fn replace(
    old: Option<Pool>,
    cidr: Option<IpNet>,
    foreign: &mut BTreeMap<IpAddr, Owner>,
) -> Option<Pool> {
    if old.as_ref().map(Pool::cidr) == cidr.map(|c| c.trunc()) {
        return old;
    }
    if let Some(old) = old {
        foreign.extend(old.iter().map(|(ip, owner)| (ip, owner.clone())));
    }
    let mut pool = Pool::new(cidr?);
    foreign.retain(|ip, owner| pool.allocate_specific(*ip, owner.clone()).is_err());
    Some(pool)
}
