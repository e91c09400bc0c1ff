//! The most important test: what the kernel finds in the map is what the policies mean.
use crate::generate::{asks, group, object, settings, some_service};
use crate::world::{World, cases, policy};
use hypha_policy::reference::Decision;
use hypha_policy::resolve::Change;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Questions for each set of policies.
const QUESTIONS: usize = 250;

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(240), max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn the_map_says_what_the_model_says(
        settings in settings(),
        both_families: bool,
        objects in prop::collection::vec(object(), 1..8),
        groups in prop::collection::vec(group(), 0..3),
        services in prop::collection::vec(some_service(), 0..3),
        asks in asks(QUESTIONS),
    ) {
        let mut world = World::new(settings, both_families);
        let mut changes: Vec<Change> = objects.iter().map(|object| Change::Policy(policy(object))).collect();
        changes.extend(groups.into_iter().map(Change::Group));
        changes.extend(services.into_iter().map(Change::Service));
        world.apply(changes);
        for ask in &asks.0 {
            if let Err(difference) = world.compare(ask) {
                let rows: Vec<String> = world
                    .map
                    .iter()
                    .filter(|(key, _)| key.subject == ask.subject && key.direction == ask.direction)
                    .map(|(key, value)| format!("{} {}: {:?} {:?} {:x}", key.remote, key.l4, value.verdict, value.l7, value.precedence))
                    .collect();
                return Err(TestCaseError::fail(format!("{difference}\n{rows:#?}")));
            }
        }
    }
}

/// A generator that hardly ever finds a rule that decides would prove nothing.
#[test]
fn the_questions_reach_every_kind_of_decision() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    let inputs = (
        settings(),
        prop::collection::vec(object(), 1..8),
        asks(QUESTIONS),
    );
    for _ in 0..100 {
        let (settings, objects, asks) = inputs.new_tree(&mut runner).unwrap().current();
        let mut world = World::new(settings, true);
        world.apply(
            objects
                .iter()
                .map(|object| Change::Policy(policy(object)))
                .collect(),
        );
        for ask in &asks.0 {
            let kind = match world.compare(ask).unwrap() {
                Decision::Localhost => "localhost",
                Decision::Allowed(rules) => match rules[0].policy.kind.text() {
                    kind if kind.contains("Admin") => "allowed by admin",
                    _ => "allowed",
                },
                Decision::AllowedVia(via) => match (via.kind, via.all) {
                    _ if !via.conflicts.is_empty() => "conflict",
                    (_, true) => "by way of the proxy, everything",
                    (kind, false) => kind.text(),
                },
                Decision::Denied(rules) => match rules[0].policy.kind.text() {
                    kind if kind.contains("Admin") => "denied by admin",
                    _ => "denied",
                },
                Decision::NotAllowed => "not allowed",
                Decision::NotEnforced => "not enforced",
            };
            *seen.entry(kind).or_default() += 1;
        }
    }
    assert_eq!(seen.len(), 13, "{seen:?}");
    assert!(seen.values().all(|count| *count > 10), "{seen:?}");
}
