//! The node's addresses: the pools of the `ipam` crate behind a lock, with their table row by row in step.
use api::{ApiError, ErrorCode, Family};
use ipam::{AllocateError, Families, NodeIpam, Owner, Pool};
use ipnet::IpNet;
use model::{Allocation, LocalNode, Tables};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// How long an allocation waits for addresses whose old connections are just being removed.
const DRAIN_WAIT: Duration = Duration::from_millis(500);

/// How long somebody who asked for an address counts, without asking again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Addresses of this node.
#[derive(Debug)]
pub struct Addresses {
    inner: Mutex<Inner>,
    /// Signalled when retired addresses became free.
    freed: Condvar,
    tables: Tables,
    started: Instant,
    /// Allocations and releases so far, by family: IPv4, IPv6.
    pub events: [Events; 2],
    /// Ranges come as they are asked for.
    grows: AtomicBool,
    /// Told when somebody waits for an address of a pool that has none left.
    pub demand: Notify,
}

/// Counters of one family.
#[derive(Debug, Default)]
pub struct Events {
    /// Addresses given.
    pub allocated: AtomicU64,
    /// Addresses given back.
    pub released: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    pools: NodeIpam,
    /// Of deleted endpoints whose connections are still in the kernel: nobody's, but not to be given yet.
    retired: BTreeSet<IpAddr>,
    /// Who waits for an address of which pool and family (`true`: IPv6), and since when.
    waiting: BTreeMap<(String, bool), BTreeMap<String, Instant>>,
}

/// Who asks for addresses.
#[derive(Clone, Debug)]
pub struct Wish {
    /// What people see, `namespace/pod`.
    pub owner: String,
    /// The CNI attachment, or the owner again: what may give them back.
    pub key: String,
    /// Wanted families.
    pub families: Families,
    /// Pools for IPv4 and IPv6.
    pub pools: [String; 2],
    /// They fall back if no endpoint uses them within this time.
    pub expire: Option<Duration>,
}

impl Addresses {
    /// The ranges of `local`, with the routers' addresses taken.
    #[must_use]
    pub fn new(tables: Tables, local: &LocalNode) -> Self {
        let mut pools = NodeIpam::new();
        for (pool, ranges) in &local.pools {
            pools.set_ranges(pool, ranges);
        }
        let addresses = Self {
            inner: Mutex::new(Inner {
                pools,
                retired: BTreeSet::new(),
                waiting: BTreeMap::new(),
            }),
            freed: Condvar::new(),
            tables,
            started: Instant::now(),
            events: Default::default(),
            grows: AtomicBool::new(false),
            demand: Notify::new(),
        };
        let router = Owner::new("router", "router");
        for ip in [local.router(false), local.router(true)]
            .into_iter()
            .flatten()
        {
            // The first address of a new pool is free.
            if addresses
                .lock()
                .pools
                .allocate_specific(ip, &router)
                .is_ok()
            {
                addresses.row(ip, Some(&router.name));
            }
        }
        addresses
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives one address of every wanted family. Blocks shortly if only addresses of just deleted endpoints are free.
    ///
    /// # Errors
    /// A pool is exhausted, or there is none.
    pub fn allocate(&self, wish: &Wish) -> Result<ipam::Addresses, ApiError> {
        let owner = Owner::new(wish.owner.clone(), wish.key.clone());
        let deadline = Instant::now() + DRAIN_WAIT;
        let mut inner = self.lock();
        loop {
            let now = self.started.elapsed();
            let until = wish.expire.map(|expire| now + expire);
            let overdue = inner.pools.expire(now);
            let pools = [wish.pools[0].as_str(), wish.pools[1].as_str()];
            let families = wish.families;
            let outcome = inner
                .pools
                .allocate_from(pools, families, &owner, now, until);
            overdue.iter().for_each(|(ip, _)| self.released(*ip));
            match outcome {
                Ok(given) => {
                    inner.waited_enough(wish);
                    drop(inner);
                    given.iter().for_each(|ip| self.allocated(ip, &wish.owner));
                    return Ok(given);
                }
                Err(error) if is_short(&error) && self.may_wait(&mut inner, wish, deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let waited = self.freed.wait_timeout(inner, left);
                    inner = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Err(error) => return Err(refusal(&error)),
            }
        }
    }

    /// Whether waiting may help: for addresses that are being freed, or for a range from the operator.
    fn may_wait(&self, inner: &mut Inner, wish: &Wish, deadline: Instant) -> bool {
        let grows = self.grows.load(Ordering::Relaxed);
        if grows {
            inner.wait_for(wish);
            self.demand.notify_one();
        }
        (grows || !inner.retired.is_empty()) && Instant::now() < deadline
    }

    /// From now on ranges come as they are asked for.
    pub fn let_grow(&self) {
        self.grows.store(true, Ordering::Relaxed);
    }

    /// Gives every pool these ranges, and those that are not named none.
    pub fn set_pools(&self, wanted: &BTreeMap<String, Vec<IpNet>>) {
        let mut inner = self.lock();
        let known: Vec<String> = inner
            .pools
            .pools()
            .map(|(name, _)| name.to_owned())
            .collect();
        for gone in known.iter().filter(|name| !wanted.contains_key(*name)) {
            inner.pools.set_ranges(gone, &[]);
        }
        for (pool, ranges) in wanted {
            inner.pools.set_ranges(pool, ranges);
        }
        drop(inner);
        self.freed.notify_all();
    }

    /// The ranges of every pool.
    #[must_use]
    pub fn ranges(&self) -> BTreeMap<String, Vec<IpNet>> {
        let inner = self.lock();
        let pools = inner.pools.pools();
        pools
            .map(|(name, ranges)| (name.to_owned(), ranges.iter().map(Pool::cidr).collect()))
            .collect()
    }

    /// The ranges of every pool without those that are not needed for `requests`.
    #[must_use]
    pub fn give_back(
        &self,
        requests: &BTreeMap<String, (u32, u32)>,
    ) -> BTreeMap<String, Vec<IpNet>> {
        let inner = self.lock();
        let mut out = BTreeMap::new();
        for (name, ranges) in inner.pools.pools() {
            let (v4, v6) = requests.get(name).copied().unwrap_or_default();
            let mut surplus = ipam::surplus(ranges, false, v4);
            surplus.extend(ipam::surplus(ranges, true, v6));
            let kept = ranges.iter().map(Pool::cidr);
            let kept: Vec<IpNet> = kept.filter(|net| !surplus.contains(net)).collect();
            if !kept.is_empty() {
                out.insert(name.to_owned(), kept);
            }
        }
        out
    }

    /// Addresses of each pool that are taken or waited for: IPv4, IPv6.
    #[must_use]
    pub fn in_use(&self) -> BTreeMap<String, (u32, u32)> {
        let mut inner = self.lock();
        inner.waiting.retain(|_, keys| {
            keys.retain(|_, since| since.elapsed() < PATIENCE);
            !keys.is_empty()
        });
        let mut out: BTreeMap<String, (u32, u32)> = BTreeMap::new();
        let mut add = |pool: &str, ipv6: bool, count: usize| {
            let entry = out.entry(pool.to_owned()).or_default();
            let number = if ipv6 { &mut entry.1 } else { &mut entry.0 };
            *number = number.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        };
        for (name, ranges) in inner.pools.pools() {
            for range in ranges {
                add(
                    name,
                    matches!(range.cidr(), IpNet::V6(_)),
                    range.allocated(),
                );
            }
        }
        for ((pool, ipv6), keys) in &inner.waiting {
            add(pool, *ipv6, keys.len());
        }
        out
    }

    /// Puts addresses to use for an endpoint: those that `key` was given, or free ones (after a restart between the two).
    ///
    /// # Errors
    /// Somebody else has one. None is taken then.
    pub fn hold(
        &self,
        ips: impl Iterator<Item = IpAddr>,
        name: &str,
        key: &str,
    ) -> Result<(), ApiError> {
        let owner = Owner::new(name, key);
        let mut inner = self.lock();
        let mut taken = Vec::new();
        for ip in ips {
            let outcome = inner.hold(ip, &owner);
            match outcome {
                Ok(true) => taken.push(ip),
                Ok(false) => {}
                Err(error) => {
                    taken
                        .iter()
                        .for_each(|ip| drop(inner.pools.release_any(*ip)));
                    return Err(error);
                }
            }
        }
        drop(inner);
        taken.into_iter().for_each(|ip| self.allocated(ip, name));
        Ok(())
    }

    /// Takes the addresses of an endpoint from before a restart over, even of a range that the node no longer has.
    ///
    /// # Errors
    /// Another endpoint was restored with one already.
    pub fn restore(
        &self,
        ips: impl Iterator<Item = IpAddr>,
        name: &str,
        key: &str,
    ) -> Result<(), ApiError> {
        let owner = Owner::new(name, key);
        for ip in ips {
            self.lock()
                .pools
                .restore(ip, &owner)
                .map_err(|error| refusal(&error))?;
            self.allocated(ip, name);
        }
        Ok(())
    }

    /// The addresses of a deleted endpoint: still taken, until [`Addresses::release_retired`].
    pub fn retire(&self, ips: impl Iterator<Item = IpAddr>) {
        self.lock().retired.extend(ips);
    }

    /// The connections of retired addresses are gone: they can be given again.
    pub fn release_retired(&self, ips: impl Iterator<Item = IpAddr>) {
        for ip in ips {
            let mut inner = self.lock();
            if inner.retired.remove(&ip) && inner.pools.release_any(ip).is_released() {
                drop(inner);
                self.released(ip);
            }
        }
        self.freed.notify_all();
    }

    /// Gives an address back that no endpoint uses; whether it was taken.
    pub fn release(&self, ip: IpAddr) -> bool {
        let mut inner = self.lock();
        if inner.retired.contains(&ip) {
            return false;
        }
        let released = inner.pools.release_any(ip).is_released();
        drop(inner);
        if released {
            self.released(ip);
        }
        released
    }

    /// Gives back what keys that begin with `prefix` were given and no endpoint uses.
    pub fn release_of(&self, prefix: &str) {
        let held: Vec<IpAddr> = {
            let inner = self.lock();
            let own = inner
                .pools
                .iter()
                .filter(|(ip, owner)| owner.key.starts_with(prefix) && !inner.retired.contains(ip));
            own.map(|(ip, _)| ip).collect()
        };
        for ip in held {
            self.release(ip);
        }
    }

    /// Gives back what was not put to use in time; how many.
    pub fn expire(&self) -> usize {
        let overdue = self.lock().pools.expire(self.started.elapsed());
        for (ip, owner) in &overdue {
            tracing::info!(address = %ip, owner = owner.name, "address was never used and is free again");
            self.released(*ip);
        }
        overdue.len()
    }

    /// Pool, addresses taken, addresses in all, for each family that has a pool.
    #[must_use]
    pub fn usage(&self) -> Vec<api::IpamStatus> {
        let inner = self.lock();
        let usage = |range: &Pool| api::IpamStatus {
            family: match range.cidr() {
                IpNet::V4(_) => Family::Ipv4,
                IpNet::V6(_) => Family::Ipv6,
            },
            cidr: range.cidr(),
            allocated: range.allocated() as u64,
            capacity: u64::try_from(range.capacity()).unwrap_or(u64::MAX),
        };
        let mut out: Vec<api::IpamStatus> = Vec::new();
        for range in inner.pools.pools().flat_map(|(_, ranges)| ranges) {
            let next = usage(range);
            let single =
                |status: &api::IpamStatus| status.cidr.prefix_len() == status.cidr.max_prefix_len();
            // Single addresses are many: they are summed up under the first one.
            match out
                .iter_mut()
                .find(|one| single(one) && single(&next) && one.family == next.family)
            {
                Some(sum) => {
                    sum.allocated += next.allocated;
                    sum.capacity += next.capacity;
                }
                None => out.push(next),
            }
        }
        out.sort_by_key(|status| status.family == Family::Ipv6);
        out
    }

    /// The range that an address is from, as a text; empty if it is of none.
    #[must_use]
    pub fn pool_of(&self, ip: IpAddr) -> String {
        let inner = self.lock();
        let mut ranges = inner.pools.pools().flat_map(|(_, ranges)| ranges);
        let found = ranges.find(|range| range.contains(ip));
        found
            .map(|range| range.cidr().to_string())
            .unwrap_or_default()
    }

    /// The families that have a pool.
    #[must_use]
    pub fn families(&self) -> Families {
        self.lock().pools.families()
    }

    /// Every address that is taken, with its holder's name and key, and whether it is retired.
    #[must_use]
    pub fn taken(&self) -> Vec<(IpAddr, String, String, bool)> {
        let inner = self.lock();
        let row = |(ip, owner): (IpAddr, &Owner)| {
            (
                ip,
                owner.name.clone(),
                owner.key.clone(),
                inner.retired.contains(&ip),
            )
        };
        inner.pools.iter().map(row).collect()
    }

    fn allocated(&self, ip: IpAddr, owner: &str) {
        self.events[usize::from(ip.is_ipv6())]
            .allocated
            .fetch_add(1, Ordering::Relaxed);
        self.row(ip, Some(owner));
    }

    fn released(&self, ip: IpAddr) {
        self.events[usize::from(ip.is_ipv6())]
            .released
            .fetch_add(1, Ordering::Relaxed);
        self.row(ip, None);
    }

    fn row(&self, address: IpAddr, owner: Option<&str>) {
        let mut txn = self.tables.db.write();
        let table = &self.tables.allocations;
        match owner {
            // The table has no unique index that could refuse.
            Some(owner) => drop(table.insert(
                &mut txn,
                Allocation {
                    address,
                    owner: owner.to_owned(),
                },
            )),
            None => drop(table.delete(&mut txn, &address)),
        }
        txn.commit();
    }
}

/// There is no address now, but there may be one later.
fn is_short(error: &AllocateError) -> bool {
    matches!(
        error,
        AllocateError::Exhausted(_)
            | AllocateError::PoolExhausted { .. }
            | AllocateError::NoRange { .. }
            | AllocateError::NoPool(_)
    )
}

impl Inner {
    fn wait_for(&mut self, wish: &Wish) {
        let families = [(false, wish.families.v4), (true, wish.families.v6)];
        for ((ipv6, on), pool) in families.into_iter().zip(&wish.pools) {
            if on {
                let keys = self.waiting.entry((pool.clone(), ipv6)).or_default();
                keys.entry(wish.key.clone()).or_insert_with(Instant::now);
            }
        }
    }

    fn waited_enough(&mut self, wish: &Wish) {
        self.waiting.retain(|_, keys| {
            keys.remove(&wish.key);
            !keys.is_empty()
        });
    }

    /// Whether the address was taken by this.
    fn hold(&mut self, ip: IpAddr, owner: &Owner) -> Result<bool, ApiError> {
        if self.retired.contains(&ip) {
            return Err(ApiError::new(
                ErrorCode::Busy,
                format!("{ip} is being freed; try again"),
            ));
        }
        if self
            .pools
            .owner(ip)
            .is_some_and(|held| held.key == owner.key || held.key == owner.name)
        {
            let key = self
                .pools
                .owner(ip)
                .map(|held| held.key.clone())
                .unwrap_or_default();
            return self
                .pools
                .put_to_use(ip, &key)
                .map(|()| false)
                .map_err(|e| ApiError::new(ErrorCode::Conflict, e.to_string()));
        }
        self.pools
            .allocate_specific(ip, owner)
            .map(|()| true)
            .map_err(|error| match error {
                // Given before a restart and not put to use before it: the agent does not remember, and another pod was faster.
                AllocateError::Taken { .. } => ApiError::new(
                    ErrorCode::Busy,
                    format!("{error} by now; ask for another one"),
                ),
                error => refusal(&error),
            })
    }
}

fn refusal(error: &AllocateError) -> ApiError {
    match error {
        AllocateError::Exhausted(exhausted) => ApiError::new(ErrorCode::PoolExhausted, error.to_string())
            .detail(format!("pool {}; delete pods of this node or give it a bigger pod CIDR", exhausted.pool)),
        AllocateError::PoolExhausted { .. } | AllocateError::NoRange { .. } => ApiError::new(ErrorCode::PoolExhausted, error.to_string())
            .detail("more was asked for; `kubectl get ciliumnode <node> -o yaml` shows what the operator says, and `kubectl get ciliumpodippools` which pools there are"),
        AllocateError::NoPool(_) => ApiError::new(ErrorCode::Unsupported, error.to_string())
            .detail("the node object's podCIDRs and enable-ipv4/enable-ipv6 decide which families there are"),
        AllocateError::Taken { .. } => ApiError::new(ErrorCode::Conflict, error.to_string()),
        _ => ApiError::bad_request(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
