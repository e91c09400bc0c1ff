//! Names that endpoints were told of, and the addresses behind them: how long each counts, and what is kept beyond its time
//! since connections live on.
//!
//! ```text
//! learn ─→ entry (until its time is over) ─gc→ zombie (while connections live) ─gc→ nothing
//! ```
//!
//! Seconds since 1970 are an argument everywhere. Nothing ends between two calls of [`Cache::collect`]: an address counts a little
//! longer than its answer says, never shorter.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Names of one endpoint. More are not learned until some have ended: an endpoint that invents names harms itself alone.
pub const NAMES_MAX: usize = 10_000;

/// Bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The least time that an address counts, seconds (`tofqdns-min-ttl`).
    pub min_ttl: u32,
    /// Addresses of one name of one endpoint (`tofqdns-endpoint-max-ip-per-hostname`).
    pub addresses: usize,
    /// Addresses of one endpoint that are kept beyond their time (`tofqdns-max-deferred-connection-deletes`).
    pub zombies: usize,
    /// How long such an address is kept after its last connection, seconds (`tofqdns-idle-connection-grace-period`).
    pub grace: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            min_ttl: 0,
            addresses: 1000,
            zombies: 10_000,
            grace: 0,
        }
    }
}

/// An address of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it was learned.
    pub learned: u64,
    /// How long it counts from then on, seconds.
    pub ttl: u32,
}

impl Entry {
    /// When its time is over.
    #[must_use]
    pub fn expires(&self) -> u64 {
        self.learned.saturating_add(self.ttl.into())
    }
}

/// An address beyond its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zombie {
    /// Its names.
    pub names: BTreeSet<String>,
    /// When there was a connection last, or its time was over.
    pub alive: u64,
    /// Somebody has looked for connections since its time was over.
    pub looked: bool,
}

#[derive(Clone, Debug, Default)]
struct Endpoint {
    names: BTreeMap<String, BTreeMap<IpAddr, Entry>>,
    zombies: BTreeMap<IpAddr, Zombie>,
}

/// What there is, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Names.
    pub names: usize,
    /// Addresses of names.
    pub addresses: usize,
    /// Addresses beyond their time.
    pub zombies: usize,
}

/// The names of all endpoints.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    limits: Limits,
    endpoints: BTreeMap<u32, Endpoint>,
    /// The names of each address, with how many entries and zombies say so.
    holders: BTreeMap<IpAddr, BTreeMap<String, u32>>,
    /// Addresses whose names are others than at the last look.
    touched: BTreeSet<IpAddr>,
}

impl Cache {
    /// A cache without names.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// An endpoint was told a name's addresses; false where it has too many names already.
    pub fn learn(&mut self, endpoint: u32, name: &str, ips: &[IpAddr], ttl: u32, now: u64) -> bool {
        let limits = self.limits;
        let own = self.endpoints.entry(endpoint).or_default();
        if own.names.len() >= NAMES_MAX && !own.names.contains_key(name) {
            return false;
        }
        let addresses = own.names.entry(name.to_owned()).or_default();
        let fresh = Entry {
            learned: now,
            ttl: ttl.max(limits.min_ttl),
        };
        let mut gone = Vec::new();
        for ip in ips {
            let before = addresses.get(ip).copied();
            if before.is_none() {
                hold(&mut self.holders, &mut self.touched, *ip, name);
            }
            if before.is_none_or(|before| before.expires() <= fresh.expires()) {
                addresses.insert(*ip, fresh);
            }
            if let Some(zombie) = own.zombies.get_mut(ip)
                && zombie.names.remove(name)
            {
                gone.push(*ip);
                if zombie.names.is_empty() {
                    own.zombies.remove(ip);
                }
            }
        }
        let mut surplus: Vec<(u64, IpAddr)> = Vec::new();
        if addresses.len() > limits.addresses {
            surplus.extend(addresses.iter().map(|(ip, entry)| (entry.expires(), *ip)));
            surplus.sort_unstable();
            surplus.truncate(addresses.len() - limits.addresses);
        }
        for (_, ip) in surplus {
            addresses.remove(&ip);
            // What holds the entry holds the zombie from now on.
            bury(&mut own.zombies, ip, name, now, || gone.push(ip));
        }
        for ip in gone {
            release(&mut self.holders, &mut self.touched, ip, name);
        }
        true
    }

    /// Puts back an address that was beyond its time when the cache was [saved](Self::zombies).
    pub fn resume(&mut self, endpoint: u32, ip: IpAddr, names: BTreeSet<String>, alive: u64) {
        let own = self.endpoints.entry(endpoint).or_default();
        for name in &names {
            let new = || release(&mut self.holders, &mut self.touched, ip, name);
            bury(&mut own.zombies, ip, name, alive, new);
            hold(&mut self.holders, &mut self.touched, ip, name);
        }
    }

    /// Ends what has had its time and no connections, as `lives` says of endpoint and address. How many addresses of names ended.
    pub fn collect(&mut self, now: u64, lives: impl Fn(u32, IpAddr) -> bool) -> u64 {
        let mut gone: Vec<(IpAddr, String)> = Vec::new();
        for (id, own) in &mut self.endpoints {
            let grace = self.limits.grace;
            own.zombies.retain(|ip, zombie| {
                if lives(*id, *ip) {
                    zombie.alive = now;
                } else if zombie.looked && now >= zombie.alive.saturating_add(grace) {
                    let names = std::mem::take(&mut zombie.names).into_iter();
                    gone.extend(names.map(|name| (*ip, name)));
                    return false;
                }
                zombie.looked = true;
                true
            });
            for (name, addresses) in &mut own.names {
                addresses.retain(|ip, entry| {
                    if entry.expires() > now {
                        return true;
                    }
                    let again = || gone.push((*ip, name.clone()));
                    bury(&mut own.zombies, *ip, name, now, again);
                    false
                });
            }
            own.names.retain(|_, addresses| !addresses.is_empty());
            if own.zombies.len() > self.limits.zombies {
                let mut oldest: Vec<_> = own.zombies.iter().map(|(ip, z)| (z.alive, *ip)).collect();
                oldest.sort_unstable();
                oldest.truncate(own.zombies.len() - self.limits.zombies);
                for (_, ip) in oldest {
                    let names = own.zombies.remove(&ip).map(|zombie| zombie.names);
                    gone.extend(names.into_iter().flatten().map(|name| (ip, name)));
                }
            }
        }
        self.forget_empty();
        let count = gone.len() as u64;
        for (ip, name) in gone {
            release(&mut self.holders, &mut self.touched, ip, &name);
        }
        count
    }

    /// Whether [`Self::collect`] has to know about connections.
    #[must_use]
    pub fn needs_connections(&self) -> bool {
        self.endpoints.values().any(|own| !own.zombies.is_empty())
    }

    /// Keeps the names of these endpoints alone; whether there were others.
    pub fn keep(&mut self, is_there: impl Fn(u32) -> bool) -> bool {
        let ids = self.endpoints.keys().copied();
        let gone: Vec<u32> = ids.filter(|id| !is_there(*id)).collect();
        for id in &gone {
            self.clear_of(*id, |_| true);
        }
        self.forget_empty();
        !gone.is_empty()
    }

    /// Forgets names, connections or not; how many addresses of names.
    pub fn clear(&mut self, which: impl Fn(&str) -> bool) -> usize {
        let ids: Vec<u32> = self.endpoints.keys().copied().collect();
        let count = ids.into_iter().map(|id| self.clear_of(id, &which)).sum();
        self.forget_empty();
        count
    }

    fn clear_of(&mut self, id: u32, which: impl Fn(&str) -> bool) -> usize {
        let Some(own) = self.endpoints.get_mut(&id) else {
            return 0;
        };
        let mut gone: Vec<(IpAddr, String)> = Vec::new();
        own.names.retain(|name, addresses| {
            let clear = which(name);
            if clear {
                gone.extend(addresses.keys().map(|ip| (*ip, name.clone())));
            }
            !clear
        });
        own.zombies.retain(|ip, zombie| {
            let names = zombie.names.iter().filter(|name| which(name));
            gone.extend(names.map(|name| (*ip, name.clone())));
            zombie.names.retain(|name| !which(name));
            !zombie.names.is_empty()
        });
        for (ip, name) in &gone {
            release(&mut self.holders, &mut self.touched, *ip, name);
        }
        gone.len()
    }

    fn forget_empty(&mut self) {
        let has_some = |own: &Endpoint| !own.names.is_empty() || !own.zombies.is_empty();
        self.endpoints.retain(|_, own| has_some(own));
    }

    /// The names of an address, whoever was told.
    pub fn names_of(&self, ip: IpAddr) -> impl Iterator<Item = &str> {
        let names = self.holders.get(&ip).into_iter().flat_map(BTreeMap::keys);
        names.map(String::as_str)
    }

    /// Every address with a name.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.holders.keys().copied()
    }

    /// The addresses whose names have changed since this was asked last.
    pub fn take_touched(&mut self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.touched)
    }

    /// Every entry: endpoint, name, address.
    pub fn entries(&self) -> impl Iterator<Item = (u32, &str, IpAddr, Entry)> {
        self.endpoints.iter().flat_map(|(id, own)| {
            own.names.iter().flat_map(|(name, addresses)| {
                let entries = addresses.iter();
                entries.map(|(ip, entry)| (*id, name.as_str(), *ip, *entry))
            })
        })
    }

    /// Every address beyond its time: endpoint, address.
    pub fn zombies(&self) -> impl Iterator<Item = (u32, IpAddr, &Zombie)> {
        self.endpoints.iter().flat_map(|(id, own)| {
            let zombies = own.zombies.iter();
            zombies.map(|(ip, zombie)| (*id, *ip, zombie))
        })
    }

    /// What there is of each endpoint.
    pub fn counts(&self) -> impl Iterator<Item = (u32, Counts)> {
        self.endpoints.iter().map(|(id, own)| {
            let counts = Counts {
                names: own.names.len(),
                addresses: own.names.values().map(BTreeMap::len).sum(),
                zombies: own.zombies.len(),
            };
            (*id, counts)
        })
    }
}

/// An address is beyond its time; `again` where it was so under this name already.
fn bury(
    zombies: &mut BTreeMap<IpAddr, Zombie>,
    ip: IpAddr,
    name: &str,
    now: u64,
    again: impl FnOnce(),
) {
    let zombie = zombies.entry(ip).or_insert_with(|| Zombie {
        names: BTreeSet::new(),
        alive: now,
        looked: false,
    });
    zombie.alive = zombie.alive.max(now);
    zombie.looked = false;
    if !zombie.names.insert(name.to_owned()) {
        again();
    }
}

fn hold(
    holders: &mut BTreeMap<IpAddr, BTreeMap<String, u32>>,
    touched: &mut BTreeSet<IpAddr>,
    ip: IpAddr,
    name: &str,
) {
    let names = holders.entry(ip).or_default();
    match names.get_mut(name) {
        Some(count) => *count += 1,
        None => {
            names.insert(name.to_owned(), 1);
            touched.insert(ip);
        }
    }
}

fn release(
    holders: &mut BTreeMap<IpAddr, BTreeMap<String, u32>>,
    touched: &mut BTreeSet<IpAddr>,
    ip: IpAddr,
    name: &str,
) {
    let Some(names) = holders.get_mut(&ip) else {
        return;
    };
    if let Some(count) = names.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            names.remove(name);
            touched.insert(ip);
        }
    }
    if names.is_empty() {
        holders.remove(&ip);
    }
}

#[cfg(test)]
mod tests;
