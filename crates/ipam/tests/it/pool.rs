use std::{collections::BTreeSet, time::Instant};

use hypha_ipam::{AllocateError, Owner, Pool, Release};

use crate::{ip, net};

#[test]
fn capacity_follows_the_prefix() {
    let cases = [
        ("10.7.1.0/24", 254, "10.7.1.1"),
        ("10.7.1.77/24", 254, "10.7.1.1"),
        ("10.0.0.0/16", 65_534, "10.0.0.1"),
        ("10.0.0.0/30", 2, "10.0.0.1"),
        ("10.0.0.0/31", 2, "10.0.0.0"),
        ("10.0.0.9/32", 1, "10.0.0.9"),
        ("fd00::/112", 65_535, "fd00::1"),
        ("fd00::/64", (1 << 64) - 1, "fd00::1"),
        ("fd00::/127", 2, "fd00::"),
        ("fd00::5/128", 1, "fd00::5"),
        ("::/0", u128::MAX, "::1"),
        ("0.0.0.0/0", (1 << 32) - 2, "0.0.0.1"),
    ];
    for (cidr, capacity, first) in cases {
        let mut pool = Pool::new(net(cidr));
        assert_eq!(
            (pool.capacity(), pool.first()),
            (capacity, ip(first)),
            "{cidr}"
        );
        assert_eq!(pool.allocate("x").unwrap(), ip(first), "{cidr}");
    }
}

#[test]
fn every_address_once_then_exhausted_with_the_pools_name() {
    let mut pool = Pool::new(net("10.7.1.0/24"));
    let given: BTreeSet<_> = (0..254)
        .map(|i| pool.allocate(format!("ns/pod{i}").as_str()).unwrap())
        .collect();
    assert_eq!((given.len(), pool.is_full()), (254, true));
    assert!(!given.contains(&ip("10.7.1.0")) && !given.contains(&ip("10.7.1.255")));
    let error = pool.allocate("ns/late").unwrap_err();
    assert_eq!(
        error.to_string(),
        "no address left in 10.7.1.0/24: all 254 are allocated"
    );
    pool.release_any(ip("10.7.1.9"));
    assert_eq!(pool.allocate("ns/late").unwrap(), ip("10.7.1.9"));
}

#[test]
fn a_released_address_comes_back_last() {
    let mut pool = Pool::new(net("10.0.0.0/29"));
    let first = pool.allocate("a").unwrap();
    pool.release(first, "a");
    let next: Vec<_> = (0..6).map(|_| pool.allocate("b").unwrap()).collect();
    assert_eq!(next.iter().position(|n| *n == first), Some(5));
}

#[test]
fn release_is_safe_to_repeat_and_for_the_holder_only() {
    let mut pool = Pool::new(net("10.0.0.0/24"));
    let a = pool.allocate(Owner::new("ns/db-0", "c1:eth0")).unwrap();
    assert_eq!(
        pool.release(a, "c2:eth0"),
        Release::NotOwner(Owner::new("ns/db-0", "c1:eth0"))
    );
    assert!(pool.release(a, "c1:eth0").is_released());
    assert_eq!(pool.release(a, "c1:eth0"), Release::NotAllocated);
    pool.allocate_specific(a, Owner::new("ns/db-0", "c2:eth0"))
        .unwrap();
    assert_eq!(
        pool.release(a, "c1:eth0"),
        Release::NotOwner(Owner::new("ns/db-0", "c2:eth0"))
    );
    assert_eq!(
        pool.release(ip("192.168.0.1"), "c1:eth0"),
        Release::NotAllocated
    );
    assert_eq!(
        pool.release(ip("fd00::1"), "c1:eth0"),
        Release::NotAllocated
    );
}

#[test]
fn specific_addresses_are_refused_with_a_reason() {
    let mut pool = Pool::new(net("10.0.0.0/24"));
    pool.allocate_specific(ip("10.0.0.1"), "router").unwrap();
    pool.reserve(ip("10.0.0.9"), "excluded").unwrap();
    let refused = |pool: &mut Pool, text: &str| pool.allocate_specific(ip(text), "x").unwrap_err();
    assert!(
        matches!(refused(&mut pool, "10.0.0.1"), AllocateError::Taken { by, .. } if by.name == "router")
    );
    for (address, why) in [
        ("10.0.0.0", "network address"),
        ("10.0.0.255", "broadcast address"),
        ("10.0.0.9", "excluded"),
    ] {
        assert!(refused(&mut pool, address).to_string().contains(why));
    }
    assert!(matches!(
        refused(&mut pool, "10.0.1.1"),
        AllocateError::NotInPool { .. }
    ));
    assert!(pool.reserve(ip("10.0.0.1"), "late").is_err());
    assert_eq!(pool.summary(), "1/253 allocated from 10.0.0.0/24");
}

#[test]
fn iteration_is_sorted() {
    let mut pool = Pool::new(net("fd00::/64"));
    for text in ["fd00::9", "fd00::2", "fd00::ffff:0:0:1"] {
        pool.allocate_specific(ip(text), text).unwrap();
    }
    let seen: Vec<_> = pool
        .iter()
        .map(|(ip, owner)| (ip.to_string(), owner.name.clone()))
        .collect();
    assert_eq!(
        seen.iter().map(|s| s.0.as_str()).collect::<Vec<_>>(),
        ["fd00::2", "fd00::9", "fd00::ffff:0:0:1"]
    );
    assert!(seen.iter().all(|(ip, name)| ip == name));
}

#[test]
fn a_full_sixteen_is_quick() {
    let start = Instant::now();
    let mut pool = Pool::new(net("10.0.0.0/16"));
    while pool.allocate("x").is_ok() {}
    for last in (1..=254).step_by(2) {
        pool.release_any(ip(&format!("10.0.7.{last}")));
    }
    assert_eq!(
        (0..).take_while(|_| pool.allocate("y").is_ok()).count(),
        127
    );
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}
