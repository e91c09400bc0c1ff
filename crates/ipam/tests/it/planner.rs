//! Ranges of nodes, by example and under random histories: never two nodes with overlapping ranges.

use std::collections::{BTreeMap, BTreeSet};

use hypha_ipam::{BlockError, Held, NodeClaim, Planner, Space, Want, Written, addresses, overlap};
use ipnet::IpNet;
use proptest::prelude::*;

use crate::net;

fn space(ranges: &[&str], mask: u8) -> Space {
    Space::new(ranges.iter().map(|text| net(text)).collect(), mask).unwrap()
}

fn spaces(list: &[(&str, &[&str], u8)]) -> BTreeMap<(String, bool), Space> {
    list.iter()
        .map(|(pool, ranges, mask)| {
            let space = space(ranges, *mask);
            (((*pool).to_owned(), space.is_ipv6()), space)
        })
        .collect()
}

fn want(pool: &str, ipv6: bool, addresses: u128) -> Want {
    Want {
        pool: pool.to_owned(),
        ipv6,
        addresses,
    }
}

fn node(name: &str, has: &[&str]) -> NodeClaim {
    NodeClaim {
        name: name.to_owned(),
        has: has.iter().map(|text| (String::new(), net(text))).collect(),
        wants: vec![want("", false, 1)],
        ..NodeClaim::default()
    }
}

#[test]
fn spaces_that_make_no_sense_are_refused_with_the_reason() {
    let refused = |ranges: &[&str], mask| {
        let ranges = ranges.iter().map(|text| net(text)).collect();
        Space::new(ranges, mask).unwrap_err().to_string()
    };
    assert_eq!(
        refused(&["10.0.0.0/8", "10.1.0.0/16"], 24),
        "10.0.0.0/8 and 10.1.0.0/16 overlap"
    );
    assert_eq!(
        refused(&["10.0.0.0/24"], 16),
        "mask size 16 does not fit 10.0.0.0/24; accepted: 24 to 32"
    );
    assert!(refused(&["10.0.0.0/24", "fd00::/64"], 28).contains("different families"));
    assert!(refused(&[], 24).contains("no range"));
    assert_eq!(space(&["10.0.0.0/16", "10.2.0.0/23"], 24).capacity(), 258);
    assert_eq!(space(&["fd00::/104"], 120).capacity(), 1 << 16);
}

#[test]
fn a_part_that_was_given_back_is_given_last() {
    let pool = space(&["10.0.0.0/30"], 32);
    let mut held = Held::new();
    for (holder, part) in [("a", "10.0.0.0/32"), ("b", "10.0.0.1/32")] {
        assert_eq!(held.allocate(&pool, holder), Ok(net(part)));
    }
    assert!(held.release(&net("10.0.0.0/32"), "a"));
    assert!(!held.release(&net("10.0.0.1/32"), "a"), "it is b's");
    for part in ["10.0.0.2/32", "10.0.0.3/32", "10.0.0.0/32"] {
        assert_eq!(held.allocate(&pool, "c"), Ok(net(part)));
    }
    assert!(matches!(
        held.allocate(&pool, "d"),
        Err(BlockError::Exhausted { .. })
    ));
    assert_eq!(held.used(&pool), 4);
    assert_eq!(held.release_all("c").len(), 3);
}

#[test]
fn parts_go_around_what_is_held_in_other_sizes() {
    let pool = space(&["10.0.0.0/22"], 24);
    let mut held = Held::new();
    held.occupy(net("10.0.0.64/26"), "a").unwrap();
    held.occupy(net("10.0.2.0/23"), "b").unwrap();
    assert_eq!(held.allocate(&pool, "c"), Ok(net("10.0.1.0/24")));
    assert!(held.allocate(&pool, "c").is_err());
    let error = held.occupy(net("10.0.1.128/25"), "d").unwrap_err();
    assert_eq!(error.to_string(), "10.0.1.128/25 overlaps 10.0.1.0/24 of c");
}

#[test]
fn what_nodes_have_is_taken_first_and_disputes_are_left_to_people() {
    let mut planner = Planner::new();
    planner.set_spaces(spaces(&[("", &["10.0.0.0/22"], 24)]));
    let mut late = node("late", &["10.0.0.0/24"]);
    late.created = 5;
    let nodes = [
        late,
        node("new", &[]),
        node("old", &["10.0.0.0/24"]),
        node("other", &["172.16.0.0/24"]),
    ];
    let plans = planner.plan(&nodes);
    assert_eq!(plans[0].give, []);
    assert_eq!(
        plans[0].error,
        "10.0.0.0/24 overlaps 10.0.0.0/24 of node old; delete the CiliumNode of one of the two and restart its agent"
    );
    assert_eq!(plans[1].give, [(String::new(), net("10.0.1.0/24"))]);
    assert!(plans[2].give.is_empty() && plans[2].error.is_empty());
    assert!(
        plans[3].give.is_empty(),
        "a range of elsewhere is a range, too"
    );
}

#[test]
fn an_exhausted_pool_is_reported_and_served_again_once_a_node_goes() {
    let mut planner = Planner::new();
    planner.set_spaces(spaces(&[("", &["10.0.0.0/25"], 26)]));
    let mut nodes = vec![
        node("a", &["10.0.0.0/26"]),
        node("b", &["10.0.0.64/26"]),
        node("c", &[]),
    ];
    assert_eq!(
        planner.plan(&nodes)[2].error,
        "pool : no /26 is left in 10.0.0.0/25"
    );
    nodes.remove(0);
    let plan = planner.plan(&nodes).remove(1);
    assert_eq!(
        (plan.give, plan.error.as_str()),
        (vec![(String::new(), net("10.0.0.0/26"))], "")
    );
}

#[test]
fn a_range_stays_the_nodes_while_its_object_is_seen_late() {
    let mut planner = Planner::new();
    planner.set_spaces(spaces(&[("", &["10.0.0.0/22"], 24)]));
    let old = [node("a", &[]), node("b", &[])];
    let plans = planner.plan(&old);
    planner.written(&plans[0], Written::Done(7));
    planner.written(&plans[1], Written::Unknown);
    let again = planner.plan(&old);
    assert!(again[0].give.is_empty(), "written");
    assert_eq!(again[1].give, plans[1].give, "perhaps not written");
    planner.written(&again[1], Written::Refused);
    let third = planner.plan(&old);
    assert_ne!(third[1].give, plans[0].give);
    let mut seen = node("a", &[]);
    seen.version = 8;
    assert_eq!(
        planner.plan(&[seen])[0].give.len(),
        1,
        "given and gone again: it gets another one"
    );
}

#[test]
fn pools_are_served_by_need() {
    let mut planner = Planner::new();
    planner.set_spaces(spaces(&[
        ("default", &["10.0.0.0/16"], 28),
        ("red", &["10.1.0.0/16"], 32),
        ("red", &["fd00::/112"], 120),
    ]));
    let nodes = [NodeClaim {
        name: "a".to_owned(),
        has: vec![("default".to_owned(), net("10.0.0.0/28"))],
        wants: vec![
            want("default", false, 20),
            want("red", false, 2),
            want("red", true, 1),
            want("blue", false, 1),
        ],
        ..NodeClaim::default()
    }];
    let plan = planner.plan(&nodes).remove(0);
    let given = |pool: &str, text: &str| (pool.to_owned(), net(text));
    assert_eq!(
        plan.give,
        [
            given("default", "10.0.0.16/28"),
            given("red", "10.1.0.0/32"),
            given("red", "10.1.0.1/32"),
            given("red", "fd00::/120"),
        ]
    );
    assert_eq!(plan.error, "there is no pool blue with IPv4 ranges");
}

/// What happens to a cluster.
#[derive(Debug, Clone)]
enum Step {
    Join(u8),
    Leave(u8),
    /// The operator sees the cluster as it is now.
    See,
    /// It decides; each write ends as told: done, refused, done but not known, not done and not known.
    Plan(Vec<u8>),
    /// It starts anew, and sees the cluster as it is now.
    Restart,
    /// A node gives one of its ranges back.
    GiveBack(u8),
    /// A node wants more.
    Grow(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8u8).prop_map(Step::Join),
        2 => (0..8u8).prop_map(Step::Leave),
        3 => Just(Step::See),
        6 => prop::collection::vec(0..4u8, 8).prop_map(Step::Plan),
        1 => Just(Step::Restart),
        1 => (0..8u8).prop_map(Step::GiveBack),
        2 => (0..8u8).prop_map(Step::Grow),
    ]
}

/// The API server.
#[derive(Debug, Default)]
struct Store {
    nodes: BTreeMap<String, NodeClaim>,
    version: u64,
}

impl Store {
    fn change(&mut self, name: &str, work: impl FnOnce(&mut NodeClaim)) -> Option<u64> {
        let node = self.nodes.get_mut(name)?;
        self.version += 1;
        node.version = self.version;
        work(node);
        Some(self.version)
    }

    fn join(&mut self, number: u8) {
        let name = format!("n{number}");
        if self.nodes.contains_key(&name) {
            return;
        }
        self.version += 1;
        let wants = vec![want("", false, 1), want("", true, 1)];
        let node = NodeClaim {
            name: name.clone(),
            version: self.version,
            created: self.version as i64,
            has: Vec::new(),
            wants,
        };
        self.nodes.insert(name, node);
    }

    fn overlap(&self) -> Option<(String, String)> {
        let all: Vec<(&str, IpNet)> = self
            .nodes
            .values()
            .flat_map(|node| node.has.iter().map(|(_, net)| (node.name.as_str(), *net)))
            .collect();
        for (index, (a, first)) in all.iter().enumerate() {
            for (b, second) in &all[..index] {
                if overlap(first, second) {
                    return Some((format!("{a} {first}"), format!("{b} {second}")));
                }
            }
        }
        None
    }
}

fn fresh() -> Planner {
    let mut planner = Planner::new();
    planner.set_spaces(spaces(&[
        ("", &["10.0.0.0/27", "10.0.1.0/28"], 29),
        ("", &["fd00::/121"], 124),
    ]));
    planner
}

fn carry_out(store: &mut Store, planner: &mut Planner, view: &[NodeClaim], ends: &[u8]) {
    let plans = planner.plan(view);
    for (plan, end) in plans.iter().zip(ends.iter().cycle()) {
        if plan.give.is_empty() {
            continue;
        }
        // The object must be the one that the plan was made from, as far as the API server knows.
        let same = store
            .nodes
            .get(&plan.name)
            .is_some_and(|node| node.version == plan.version);
        let write = |store: &mut Store| {
            store.change(&plan.name, |node| {
                node.has.extend(plan.give.iter().cloned())
            })
        };
        let outcome = match end {
            _ if !same => Written::Refused,
            0 => write(store).map_or(Written::Refused, Written::Done),
            1 => Written::Refused,
            2 => {
                write(store);
                Written::Unknown
            }
            _ => Written::Unknown,
        };
        planner.written(plan, outcome);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn never_two_nodes_with_overlapping_ranges(steps in prop::collection::vec(step(), 0..120)) {
        let mut store = Store::default();
        let mut planner = fresh();
        let mut view: Vec<NodeClaim> = Vec::new();
        let see = |store: &Store| store.nodes.values().cloned().collect::<Vec<_>>();
        for step in steps {
            match step {
                Step::Join(number) => store.join(number),
                Step::Leave(number) => drop(store.nodes.remove(&format!("n{number}"))),
                Step::See => view = see(&store),
                Step::Plan(ends) => carry_out(&mut store, &mut planner, &view, &ends),
                Step::Restart => {
                    planner = fresh();
                    view = see(&store);
                }
                Step::GiveBack(number) => drop(store.change(&format!("n{number}"), |node| drop(node.has.pop()))),
                Step::Grow(number) => drop(store.change(&format!("n{number}"), |node| node.wants[0].addresses += 7)),
            }
            prop_assert_eq!(store.overlap(), None);
        }
        // Left alone, everybody gets what there is: after a few rounds nobody lacks anything while parts are free.
        for _ in 0..4 {
            view = see(&store);
            carry_out(&mut store, &mut planner, &view, &[0]);
        }
        view = see(&store);
        let plans = planner.plan(&view);
        prop_assert!(plans.iter().all(|plan| plan.give.is_empty()));
        for (node, plan) in view.iter().zip(&plans) {
            let have: u128 = node.has.iter().filter(|(_, net)| net.addr().is_ipv4()).map(|(_, net)| addresses(net)).sum();
            prop_assert!(have >= node.wants[0].addresses || plan.error.contains("no /29 is left"), "{:?}", plan);
        }
        let held: BTreeSet<&str> = planner.held().holders().collect();
        prop_assert!(held.iter().all(|name| store.nodes.contains_key(*name)), "nothing is held for who is gone");
    }
}
