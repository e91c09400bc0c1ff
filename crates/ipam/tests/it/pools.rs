use std::time::Duration;

use hypha_ipam::{AllocateError, Families, NodeIpam, Owner, Pool, needed, surplus};

use crate::{ip, net};

const V4: Families = Families {
    v4: true,
    v6: false,
};

fn take(node: &mut NodeIpam, pool: &str, owner: &str) -> Result<std::net::IpAddr, AllocateError> {
    let given = node.allocate_from([pool; 2], V4, &Owner::from(owner), Duration::ZERO, None)?;
    Ok(given.v4.map(Into::into).unwrap())
}

#[test]
fn each_pool_gives_from_its_own_ranges() {
    let mut node = NodeIpam::new();
    node.set_ranges("default", &[net("10.0.0.0/32"), net("10.0.0.1/32")]);
    node.set_ranges("red", &[net("10.1.0.0/31"), net("fd00::/120")]);
    assert_eq!(take(&mut node, "default", "a"), Ok(ip("10.0.0.0")));
    assert_eq!(take(&mut node, "default", "b"), Ok(ip("10.0.0.1")));
    let error = take(&mut node, "default", "c").unwrap_err();
    assert_eq!(
        error.to_string(),
        "no IPv4 address left in pool default: all 2 are allocated"
    );
    assert_eq!(take(&mut node, "red", "c"), Ok(ip("10.1.0.0")));
    assert_eq!(
        take(&mut node, "blue", "c").unwrap_err().to_string(),
        "pool blue has no IPv4 range on this node yet"
    );
    assert_eq!(node.owner(ip("10.1.0.0")).unwrap().name, "c");
    assert!(node.release(ip("10.1.0.0"), "c").is_released());
}

#[test]
fn a_range_that_goes_leaves_its_pods_their_addresses() {
    let mut node = NodeIpam::new();
    node.set_ranges("default", &[net("10.0.0.0/30"), net("10.0.0.4/30")]);
    take(&mut node, "default", "a").unwrap();
    node.set_ranges("default", &[net("10.0.0.4/30")]);
    assert_eq!(node.owner(ip("10.0.0.1")).unwrap().name, "a");
    assert_eq!(take(&mut node, "default", "b"), Ok(ip("10.0.0.5")));
    node.set_ranges("default", &[net("10.0.0.0/29")]);
    let names: Vec<_> = node.iter().map(|(ip, by)| format!("{ip} {by}")).collect();
    assert_eq!(names, ["10.0.0.1 a", "10.0.0.5 b"]);
    assert!(matches!(
        node.allocate_specific(ip("10.0.0.5"), &"x".into()),
        Err(AllocateError::Taken { .. })
    ));
}

#[test]
fn reserves_are_kept_in_steps() {
    for (in_use, reserve, want) in [
        (0, 8, 8),
        (1, 8, 16),
        (8, 8, 16),
        (9, 8, 24),
        (3, 0, 3),
        (5, 1, 6),
    ] {
        assert_eq!(needed(in_use, reserve), want, "{in_use} {reserve}");
    }
}

#[test]
fn only_what_is_not_needed_goes_back() {
    let mut used = Pool::new(net("10.0.0.8/29"));
    used.allocate("a").unwrap();
    let ranges = [
        Pool::new(net("10.0.0.0/29")),
        used,
        Pool::new(net("10.0.0.16/29")),
        Pool::new(net("fd00::/120")),
    ];
    assert_eq!(surplus(&ranges, false, 13), []);
    assert_eq!(surplus(&ranges, false, 12), [net("10.0.0.16/29")]);
    assert_eq!(
        surplus(&ranges, false, 0),
        [net("10.0.0.16/29"), net("10.0.0.0/29")]
    );
    assert_eq!(surplus(&ranges, true, 0), [net("fd00::/120")]);
}
