//! Addresses of one CIDR.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use crate::{AllocateError, Exhausted, free::Free};

/// Who holds an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// What people see: `namespace/pod`, `router`.
    pub name: String,
    /// What makes this holder different from another one of the same name, for example the CNI attachment: a stateful pod's
    /// successor has its name, and a late deletion of the predecessor must not take the successor's address.
    pub key: String,
}

impl Owner {
    /// A holder with a key of its own.
    pub fn new(name: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            key: key.into(),
        }
    }
}

impl From<&str> for Owner {
    fn from(name: &str) -> Self {
        Self::new(name, name)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What [`Pool::release`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// The address is free again.
    Released(Owner),
    /// Nobody held it: nothing to do, as after a second release.
    NotAllocated,
    /// Somebody else holds it: left alone.
    NotOwner(Owner),
}

impl Release {
    /// Whether the address became free by this.
    pub fn is_released(&self) -> bool {
        matches!(self, Self::Released(_))
    }
}

/// The addresses of a CIDR of either family. The network address is never given, nor the broadcast address of IPv4 (as far as
/// the prefix has them). Allocation goes round: a released address comes back only after all the others.
#[derive(Debug, Clone)]
pub struct Pool {
    cidr: IpNet,
    base: u128,
    capacity: u128,
    free: Free,
    taken: BTreeMap<u128, Owner>,
    reserved: BTreeMap<u128, String>,
    next: u128,
}

impl Pool {
    /// All usable addresses of a CIDR, free.
    pub fn new(cidr: IpNet) -> Self {
        let cidr = cidr.trunc();
        let base = number(cidr.network());
        let last = number(cidr.broadcast()) - base;
        let mut reserved = BTreeMap::new();
        // RFC 3021 and its IPv6 kin: prefixes of one or two addresses have neither a network nor a broadcast address.
        if last > 1 {
            reserved.insert(0, "network address".to_owned());
            if matches!(cidr, IpNet::V4(_)) {
                reserved.insert(last, "broadcast address".to_owned());
            }
        }
        let mut pool = Self {
            cidr,
            base,
            capacity: 0,
            free: Free::range(0, last),
            taken: BTreeMap::new(),
            reserved,
            next: 0,
        };
        for offset in pool.reserved.keys() {
            pool.free.take(*offset);
        }
        // Cannot overflow: the one prefix with 2^128 addresses has a reserved one.
        pool.capacity = last - (pool.reserved.len() as u128).saturating_sub(1)
            + u128::from(pool.reserved.is_empty());
        pool
    }

    /// The CIDR.
    pub fn cidr(&self) -> IpNet {
        self.cidr
    }
    /// The first usable address; by custom the node's router.
    pub fn first(&self) -> IpAddr {
        let offset = u128::from(self.reserved.contains_key(&0));
        self.address(offset)
    }
    /// Addresses that can be allocated in all.
    pub fn capacity(&self) -> u128 {
        self.capacity
    }
    /// Addresses that are allocated.
    pub fn allocated(&self) -> usize {
        self.taken.len()
    }
    /// Whether nothing is free.
    pub fn is_full(&self) -> bool {
        self.taken.len() as u128 >= self.capacity
    }
    /// Whether the address is in the CIDR.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.cidr.contains(&ip)
    }
    /// Who holds an address.
    pub fn owner(&self, ip: IpAddr) -> Option<&Owner> {
        self.taken.get(&self.offset(ip)?)
    }
    /// Allocated addresses in order.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Owner)> {
        self.taken
            .iter()
            .map(|(offset, owner)| (self.address(*offset), owner))
    }
    /// For example `5/254 allocated from 10.7.1.0/24`.
    pub fn summary(&self) -> String {
        format!(
            "{}/{} allocated from {}",
            self.taken.len(),
            self.capacity,
            self.cidr
        )
    }

    /// Keeps an address from ever being given; refused while somebody holds it. It no longer counts.
    pub fn reserve(&mut self, ip: IpAddr, why: impl Into<String>) -> Result<(), AllocateError> {
        let offset = self.offset(ip).ok_or(AllocateError::NotInPool {
            ip,
            pool: self.cidr,
        })?;
        if let Some(by) = self.taken.get(&offset) {
            return Err(AllocateError::Taken { ip, by: by.clone() });
        }
        if self.free.take(offset) {
            self.capacity -= 1;
        }
        self.reserved.insert(offset, why.into());
        Ok(())
    }

    /// Takes the next free address.
    pub fn allocate(&mut self, owner: impl Into<Owner>) -> Result<IpAddr, Exhausted> {
        let exhausted = || Exhausted {
            pool: self.cidr,
            capacity: self.capacity,
        };
        let offset = self.free.next_from(self.next).ok_or_else(exhausted)?;
        self.take(offset, owner.into());
        Ok(self.address(offset))
    }

    /// Takes this very address.
    pub fn allocate_specific(
        &mut self,
        ip: IpAddr,
        owner: impl Into<Owner>,
    ) -> Result<(), AllocateError> {
        let offset = self.offset(ip).ok_or(AllocateError::NotInPool {
            ip,
            pool: self.cidr,
        })?;
        if let Some(by) = self.taken.get(&offset) {
            return Err(AllocateError::Taken { ip, by: by.clone() });
        }
        if let Some(why) = self.reserved.get(&offset) {
            return Err(AllocateError::Reserved {
                ip,
                pool: self.cidr,
                why: why.clone(),
            });
        }
        self.take(offset, owner.into());
        Ok(())
    }

    /// Gives an address back; only its holder (by key) can.
    pub fn release(&mut self, ip: IpAddr, key: &str) -> Release {
        let Some(offset) = self.offset(ip) else {
            return Release::NotAllocated;
        };
        match self.taken.get(&offset) {
            None => Release::NotAllocated,
            Some(owner) if owner.key != key => Release::NotOwner(owner.clone()),
            Some(_) => self.free_up(offset),
        }
    }

    /// Gives an address back whoever holds it.
    pub fn release_any(&mut self, ip: IpAddr) -> Release {
        self.offset(ip)
            .map_or(Release::NotAllocated, |offset| self.free_up(offset))
    }

    fn free_up(&mut self, offset: u128) -> Release {
        let Some(owner) = self.taken.remove(&offset) else {
            return Release::NotAllocated;
        };
        self.free.give(offset);
        Release::Released(owner)
    }

    fn take(&mut self, offset: u128, owner: Owner) {
        self.free.take(offset);
        self.taken.insert(offset, owner);
        self.next = offset.wrapping_add(1);
    }

    fn offset(&self, ip: IpAddr) -> Option<u128> {
        self.contains(ip).then(|| number(ip) - self.base)
    }

    fn address(&self, offset: u128) -> IpAddr {
        let n = self.base + offset;
        match self.cidr {
            // The offset is below the size of the CIDR: the number fits.
            IpNet::V4(_) => Ipv4Addr::from(n as u32).into(),
            IpNet::V6(_) => Ipv6Addr::from(n).into(),
        }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}
