//! Ranges of pools: what this node asks for, what it has, what it gives back.
use crate::addresses::Addresses;
use ipam::needed;
use ipnet::IpNet;
use model::CiliumNode;
use runtime::settings::{IpamMode, Settings};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, OnceLock},
};
use tokio::sync::Notify;

/// Ranges by pool.
pub type Ranges = BTreeMap<String, Vec<IpNet>>;

/// The agent's addresses for those who start before there are any; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    addresses: OnceLock<Arc<Addresses>>,
    /// Told once they are there.
    there: Notify,
}

impl Shared {
    /// There are addresses now.
    pub fn set(&self, addresses: Arc<Addresses>) {
        // Set once, at start.
        let _ = self.0.addresses.set(addresses);
        self.0.there.notify_one();
    }

    fn get(&self) -> Option<&Arc<Addresses>> {
        self.0.addresses.get()
    }

    /// Ends when there are addresses, and when a pod waits for one of a pool that has none left.
    pub async fn wanted(&self) {
        match self.get() {
            Some(addresses) => tokio::select! {
                () = addresses.demand.notified() => {}
                () = self.0.there.notified() => {}
            },
            None => self.0.there.notified().await,
        }
    }

    /// Addresses to ask for: those in use or waited for, and the reserve that the settings want.
    #[must_use]
    pub fn requests(&self, settings: &Settings) -> BTreeMap<String, (u32, u32)> {
        let reserves = &settings.ipam_multi_pool_pre_allocation;
        let reserve = |pool: &str| reserves.get(pool).and_then(|n| n.parse().ok()).unwrap_or(0);
        let mut in_use: BTreeMap<String, (u32, u32)> = BTreeMap::new();
        for pool in reserves.keys() {
            in_use.insert(pool.clone(), (0, 0));
        }
        if let Some(addresses) = self.get() {
            in_use.extend(addresses.in_use());
        }
        let ask =
            |on: bool, count: u32, pool: &str| if on { needed(count, reserve(pool)) } else { 0 };
        in_use
            .into_iter()
            .map(|(pool, (v4, v6))| {
                let v4 = ask(settings.enable_ipv4, v4, &pool);
                let v6 = ask(settings.enable_ipv6, v6, &pool);
                (pool, (v4, v6))
            })
            .filter(|(_, (v4, v6))| v4 + v6 > 0)
            .collect()
    }

    /// Takes the ranges that the object has into use, and stops using those that are not needed; what the object is to have.
    #[must_use]
    pub fn take_ranges(&self, settings: &Settings, row: &CiliumNode) -> Ranges {
        let Some(addresses) = self.get() else {
            return row.pools.clone();
        };
        addresses.set_pools(&row.pools);
        let left = addresses.give_back(&self.requests(settings));
        addresses.set_pools(&left);
        left
    }

    /// Takes the single addresses that the object has into use.
    pub fn take_singles(&self, row: &CiliumNode) {
        if let Some(addresses) = self.get() {
            addresses.set_pools(&singles(row));
        }
    }

    /// The ranges in use.
    #[must_use]
    pub fn ranges(&self) -> Ranges {
        self.get()
            .map(|addresses| addresses.ranges())
            .unwrap_or_default()
    }

    /// Who uses which address, as the status of the object says it.
    #[must_use]
    pub fn used(&self) -> Value {
        let (mut v4, mut v6) = (Map::new(), Map::new());
        let taken = self.get().map(|all| all.taken()).unwrap_or_default();
        for (ip, owner, _, _) in taken {
            let part = if ip.is_ipv4() { &mut v4 } else { &mut v6 };
            part.insert(ip.to_string(), json!({"owner": owner}));
        }
        json!({"used": v4, "ipv6-used": v6})
    }
}

/// The ranges that a node starts with, by pool; `row` is its `CiliumNode`.
#[must_use]
pub fn at_start(settings: &Settings, cidrs: &[IpNet], row: Option<&CiliumNode>) -> Ranges {
    match (settings.ipam, row) {
        (IpamMode::MultiPool, Some(row)) => row.pools.clone(),
        (IpamMode::Crd, Some(row)) => singles(row),
        _ => {
            // Of a family, the first range counts.
            let first = |ipv6: bool, on: bool| {
                let mut own = cidrs.iter().filter(move |net| net.addr().is_ipv6() == ipv6);
                own.next().copied().filter(|_| on)
            };
            let ranges = first(false, settings.enable_ipv4)
                .into_iter()
                .chain(first(true, settings.enable_ipv6))
                .collect();
            BTreeMap::from([(ipam::DEFAULT_POOL.to_owned(), ranges)])
        }
    }
}

fn singles(row: &CiliumNode) -> Ranges {
    let nets = row.singles.iter().copied().map(IpNet::from).collect();
    BTreeMap::from([(ipam::DEFAULT_POOL.to_owned(), nets)])
}

/// All ranges, those of `first` before the others.
#[must_use]
pub fn flat(ranges: &Ranges, first: &str) -> Vec<IpNet> {
    let head = ranges.get(first).into_iter().flatten();
    let tail = ranges
        .iter()
        .filter(|(pool, _)| pool.as_str() != first)
        .flat_map(|(_, nets)| nets);
    head.chain(tail).copied().collect()
}

/// The router's address of a family: `before`, if it is in one of the ranges still; else the first usable one of the first range.
#[must_use]
pub fn router(ranges: &[IpNet], ipv6: bool, before: Option<IpAddr>) -> Option<IpAddr> {
    let mut own = ranges.iter().filter(|net| net.addr().is_ipv6() == ipv6);
    if let Some(before) = before
        && own.clone().any(|net| net.contains(&before))
    {
        return Some(before);
    }
    Some(ipam::Pool::new(*own.next()?).first())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_node_asks_for_its_reserves_before_it_has_anything() {
        let settings = Settings {
            enable_ipv6: false,
            ipam_multi_pool_pre_allocation: [("default", "8"), ("red", "0")]
                .map(|(pool, count)| (pool.to_owned(), count.to_owned()))
                .into(),
            ..Settings::default()
        };
        assert_eq!(
            Shared::default().requests(&settings),
            BTreeMap::from([("default".to_owned(), (8, 0))])
        );
    }

    #[test]
    fn the_default_pool_comes_first_and_the_router_stays() {
        let ranges = Ranges::from([
            ("blue".to_owned(), vec![net("10.9.0.0/28")]),
            (
                "default".to_owned(),
                vec![net("10.1.0.0/28"), net("10.2.0.0/28")],
            ),
        ]);
        let all = flat(&ranges, "default");
        assert_eq!(all[0], net("10.1.0.0/28"));
        let ip = |text: &str| Some(text.parse().unwrap());
        assert_eq!(router(&all, false, None), ip("10.1.0.1"));
        assert_eq!(router(&all, false, ip("10.2.0.1")), ip("10.2.0.1"));
        assert_eq!(router(&all, false, ip("10.7.0.1")), ip("10.1.0.1"));
        assert_eq!(router(&all, true, None), None);
    }

    #[test]
    fn of_a_family_the_first_range_counts_outside_of_pools() {
        let cidrs = [net("10.0.0.0/24"), net("10.0.1.0/24"), net("fd00::/112")];
        let start = at_start(&Settings::default(), &cidrs, None);
        assert_eq!(start["default"], [net("10.0.0.0/24"), net("fd00::/112")]);
    }
}
