//! Random histories of pools and services: what must hold after every flush.
use crate::generate::Dice;
use crate::ipam::{SETUP, put, request};
use crate::kit::{ip, labels};
use hypha_lb::input::Protocol;
use hypha_lb::lbipam::{Block, Change, Families, Manager, Pool, Request, Write};
use hypha_lb::selector::{Selector, Test};
use model::Text;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

fn some_pool(dice: &mut Dice, name: &str) -> Pool {
    let blocks = [
        "10.0.0.0/30",
        "10.0.0.4/31",
        "10.0.0.0/29",
        "fd00::/126",
        "10.0.1.0/32",
    ];
    let colour = Selector {
        requirements: vec![("color".to_owned(), Test::In(vec!["red".to_owned()]))],
    };
    Pool {
        name: Text::from(name),
        created: dice.below(3) as i64,
        blocks: (0..=dice.below(2))
            .map(|_| Block::cidr(dice.pick(&blocks).parse().unwrap()))
            .collect(),
        selector: if dice.rare(3) {
            colour
        } else {
            Selector::default()
        },
        first_last: dice.rare(2),
        disabled: dice.rare(5),
    }
}

fn some_request(dice: &mut Dice, key: &str) -> Request {
    let mut notes = Vec::new();
    if dice.rare(3) {
        notes.push((
            "lbipam.cilium.io/ips",
            dice.pick(&["10.0.0.1", "10.0.0.5,fd00::1", "192.0.2.1", "x"]),
        ));
    }
    if dice.rare(2) {
        notes.push(("lbipam.cilium.io/sharing-key", dice.pick(&["k", "l"])));
    }
    if dice.rare(2) {
        notes.push(("lbipam.cilium.io/sharing-cross-namespace", "*"));
    }
    Request {
        created: dice.below(4) as i64,
        labels: labels(&[("color", dice.pick(&["red", "blue"]))]),
        load_balancer: !dice.rare(6),
        families: [
            Families::Single,
            Families::PreferDual,
            Families::RequireDual,
        ][dice.below(3)],
        ipv6: vec![dice.rare(3)],
        ports: vec![(Protocol::Tcp, 80 + dice.below(3) as u16)],
        ingress: if dice.rare(4) {
            vec![ip(dice.pick(&["10.0.0.2", "10.0.0.3", "203.0.113.1"]))]
        } else {
            Vec::new()
        },
        ..request(key, &notes)
    }
}

#[derive(Default)]
struct World {
    pools: BTreeMap<String, Pool>,
    requests: BTreeMap<String, Request>,
}

fn step(dice: &mut Dice, world: &mut World) -> Change {
    if dice.rare(4) {
        let name = dice.pick(&["p0", "p1", "p2"]);
        let pool = (!dice.rare(4)).then(|| some_pool(dice, name));
        crate::model::World::put(&mut world.pools, name, pool.clone());
        return Change::Pool(Text::from(name), pool);
    }
    let key = dice.pick(&["a/0", "a/1", "a/2", "b/3", "b/4", "b/5"]);
    let request = (!dice.rare(5)).then(|| some_request(dice, key));
    crate::model::World::put(&mut world.requests, key, request.clone());
    Change::Service(Text::from(key), request)
}

/// Whether two services may have an address in common, written a second time.
fn may_share(a: &Request, b: &Request) -> bool {
    let key = |request: &Request| {
        request
            .annotations
            .get("lbipam.cilium.io/sharing-key")
            .map(str::to_owned)
    };
    let open = |request: &Request| {
        request
            .annotations
            .get("lbipam.cilium.io/sharing-cross-namespace")
            .is_some()
    };
    let same_namespace = a.key.as_bytes()[0] == b.key.as_bytes()[0];
    key(a).is_some()
        && key(a) == key(b)
        && (same_namespace || open(a) && open(b))
        && a.ports != b.ports
}

fn check(
    manager: &Manager,
    world: &World,
    unsatisfied: &BTreeSet<String>,
) -> Result<(), TestCaseError> {
    let mut holders: BTreeMap<IpAddr, Vec<&Request>> = BTreeMap::new();
    for request in world.requests.values() {
        let addresses = manager.addresses(&request.key);
        prop_assert!(request.load_balancer || addresses.is_empty());
        for ip in addresses {
            let mut pools = world.pools.values();
            prop_assert!(
                pools.any(|pool| pool.contains(ip) && pool.selects(request)),
                "{} has {ip}",
                request.key
            );
            if let Some(asked) = request.annotations.get("lbipam.cilium.io/ips") {
                prop_assert!(asked.split(',').any(|asked| asked == ip.to_string()));
            }
            for other in holders.entry(ip).or_default() {
                prop_assert!(
                    may_share(request, other),
                    "{} and {} have {ip}",
                    request.key,
                    other.key
                );
            }
            holders.entry(ip).or_default().push(request);
        }
    }
    // Nobody goes without while there is something for it.
    let mut sound: Vec<&Pool> = world.pools.values().collect();
    sound.sort_by_key(|pool| (pool.created, pool.name.clone()));
    let mut used: Vec<&Pool> = Vec::new();
    for pool in sound {
        let blocks = |pool: &Pool| pool.blocks.clone();
        let own = blocks(pool);
        let inner = own
            .iter()
            .enumerate()
            .any(|(i, block)| own[..i].iter().any(|other| other.overlaps(block)));
        if !inner
            && !used.iter().any(|other| {
                blocks(other)
                    .iter()
                    .any(|block| own.iter().any(|mine| mine.overlaps(block)))
            })
        {
            used.push(pool);
        }
    }
    for key in unsatisfied {
        let request = &world.requests[key];
        if request.annotations.get("lbipam.cilium.io/ips").is_some() {
            continue;
        }
        let families = if request.families == Families::Single {
            request.ipv6.clone()
        } else {
            vec![false, true]
        };
        let lacking = families.into_iter().filter(|ipv6| {
            !manager
                .addresses(key)
                .iter()
                .any(|ip| ip.is_ipv6() == *ipv6)
        });
        let mut lacking = lacking.peekable();
        prop_assert!(
            lacking.peek().is_some(),
            "{key} has all and is called unsatisfied"
        );
        for ipv6 in lacking {
            let all = (0..8)
                .map(|n| {
                    ip(&if ipv6 {
                        format!("fd00::{n}")
                    } else {
                        format!("10.0.0.{n}")
                    })
                })
                .chain([ip("10.0.1.0")]);
            for free in all.filter(|ip| ip.is_ipv6() == ipv6 && !holders.contains_key(ip)) {
                let fits = used
                    .iter()
                    .find(|pool| !pool.disabled && pool.contains(free) && pool.selects(request));
                prop_assert!(
                    fits.is_none(),
                    "{key} lacks an address while {free} is free"
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn addresses_are_given_once_and_to_whoever_can_have_them(seed in any::<u64>(), steps in 1..50_usize) {
        let mut dice = Dice::new(seed);
        let (mut manager, mut world) = (Manager::new(SETUP), World::default());
        let mut unsatisfied = BTreeSet::new();
        for _ in 0..steps {
            manager.apply(step(&mut dice, &mut world));
            if dice.rare(3) {
                continue;
            }
            for write in manager.flush() {
                if let Write::Service { key, ingress, outcome } = write {
                    prop_assert_eq!(&ingress, &manager.addresses(&key));
                    match outcome {
                        Some(Err(_)) => unsatisfied.insert(key.to_string()),
                        _ => unsatisfied.remove(&*key),
                    };
                }
            }
            unsatisfied.retain(|key| world.requests.contains_key(key));
            check(&manager, &world, &unsatisfied)?;
        }
        manager.flush();
        // A new manager that is told all at once changes no address.
        let mut next = Manager::new(SETUP);
        for (name, pool) in &world.pools {
            next.apply(Change::Pool(Text::from(name.as_str()), Some(pool.clone())));
        }
        if world.pools.is_empty() {
            return Ok(());
        }
        for request in world.requests.values() {
            let ingress = manager.addresses(&request.key);
            next.apply(put(Request { ingress, ..request.clone() }));
        }
        next.flush();
        for key in world.requests.keys() {
            let (old, new) = (manager.addresses(key), next.addresses(key));
            prop_assert!(old.iter().all(|ip| new.contains(ip)), "{key} had {old:?} and has {new:?}");
        }
    }
}
