use std::time::Duration;

use hypha_ipam::{AllocateError, Families, NodeIpam, Owner};

use crate::ip;

const BOTH: Families = Families { v4: true, v6: true };
const T0: Duration = Duration::ZERO;

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn node(v4: &str, v6: &str) -> NodeIpam {
    let mut node = NodeIpam::new();
    node.set_v4(Some(v4.parse().unwrap()));
    node.set_v6(Some(v6.parse().unwrap()));
    node
}

#[test]
fn both_families_or_none() {
    let mut node = node("10.0.0.0/24", "fd00::/127");
    let owner = |i: u8| Owner::from(format!("ns/p{i}").as_str());
    for i in 0..2 {
        let given = node.allocate(BOTH, &owner(i), T0, None).unwrap();
        assert_eq!(given.iter().count(), 2);
    }
    let error = node.allocate(BOTH, &owner(2), T0, None).unwrap_err();
    assert!(error.to_string().contains("fd00::/127"), "{error}");
    assert_eq!(
        node.v4().unwrap().allocated(),
        2,
        "the IPv4 address was given back"
    );
    let only = node
        .allocate(
            Families {
                v4: true,
                v6: false,
            },
            &owner(2),
            T0,
            None,
        )
        .unwrap();
    assert_eq!(only.v6, None);
}

#[test]
fn a_family_without_a_range_is_an_error() {
    let mut node = NodeIpam::new();
    let error = node.allocate(BOTH, &"x".into(), T0, None).unwrap_err();
    assert_eq!(error, AllocateError::NoPool("IPv4"));
    assert_eq!(
        node.families(),
        Families {
            v4: false,
            v6: false
        }
    );
}

#[test]
fn unused_addresses_fall_back_and_used_ones_stay() {
    let mut node = node("10.0.0.0/30", "fd00::/126");
    let (a, b) = (Owner::new("ns/a", "ka"), Owner::new("ns/b", "kb"));
    let used = node.allocate(BOTH, &a, T0, Some(seconds(60))).unwrap();
    let idle = node
        .allocate(BOTH, &b, seconds(10), Some(seconds(70)))
        .unwrap();
    assert_eq!(node.next_expiry(), Some(seconds(60)));
    for ip in used.iter() {
        assert!(node.put_to_use(ip, "kb").is_err());
        node.put_to_use(ip, "ka").unwrap();
    }
    assert!(node.expire(seconds(69)).is_empty());
    assert!(
        node.allocate(BOTH, &"c".into(), seconds(69), None).is_err(),
        "IPv4 is full"
    );
    let next = node.allocate(BOTH, &"c".into(), seconds(70), None).unwrap();
    assert_eq!(next.v4, idle.v4);
    let late = node.put_to_use(idle.v4.unwrap().into(), "kb").unwrap_err();
    assert!(
        late.to_string()
            .ends_with("is not allocated to kb but to c"),
        "{late}"
    );
    assert_eq!(node.next_expiry(), None);
    assert_eq!(
        node.iter().filter(|(_, owner)| owner.key == "ka").count(),
        2
    );
}

#[test]
fn a_new_range_leaves_old_pods_their_addresses() {
    let mut node = node("10.0.0.0/24", "fd00::/112");
    let given = node.allocate(BOTH, &"ns/old".into(), T0, None).unwrap();
    let old = given.v4.unwrap().into();
    node.set_v4(Some("10.0.0.0/24".parse().unwrap()));
    assert_eq!(
        node.v4().unwrap().allocated(),
        1,
        "the same range changes nothing"
    );
    node.set_v4(Some("10.9.0.0/24".parse().unwrap()));
    assert_eq!(
        node.v4().unwrap().summary(),
        "0/254 allocated from 10.9.0.0/24"
    );
    assert_eq!(node.owner(old).map(|o| o.name.as_str()), Some("ns/old"));
    assert!(node.allocate_specific(old, &"thief".into()).is_err());
    node.set_v4(Some("10.0.0.0/16".parse().unwrap()));
    assert_eq!(
        node.v4().unwrap().allocated(),
        1,
        "and back in, where it fits again"
    );
    assert!(node.release(old, "ns/old").is_released());
    assert!(!node.release(old, "ns/old").is_released());
}

#[test]
fn restore_takes_what_pods_have() {
    let mut node = NodeIpam::new();
    node.restore(ip("10.0.0.7"), &"ns/a".into()).unwrap();
    node.set_v4(Some("10.0.0.0/24".parse().unwrap()));
    assert_eq!(node.v4().unwrap().allocated(), 1);
    node.restore(ip("10.0.0.7"), &"ns/a".into()).unwrap();
    node.restore(ip("172.16.0.1"), &"ns/b".into()).unwrap();
    assert!(node.restore(ip("10.0.0.7"), &"ns/c".into()).is_err());
    assert!(node.restore(ip("172.16.0.1"), &"ns/c".into()).is_err());
    assert_eq!(node.iter().count(), 2);
    assert_eq!(node.release_all_of("ns/b"), [ip("172.16.0.1")]);
    assert_eq!(node.iter().count(), 1);
}
