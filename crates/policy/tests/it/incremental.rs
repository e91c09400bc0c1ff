//! Step by step comes to the same as all at once, and no step opens more than it should on the way.
use crate::generate::{asks, group, object, settings, some_service};
use crate::world::{Ask, Remote, World, members, plain, policy, proxy_rules};
use hypha_policy::Settings;
use hypha_policy::kernel::{ANYBODY, Key, Map, Question, Verdict};
use hypha_policy::resolve::{Change, Diff, Op, Subject, transition};
use hypha_policy::rule::{Direction, L7Kind, NamedPorts};
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    Policy(serde_json::Value),
    Change(Box<Change>),
    DropPolicy(prop::sample::Index),
    ForgetMember(prop::sample::Index),
    LearnMember(prop::sample::Index, bool),
    DropSubject(prop::sample::Index),
    AddSubject(prop::sample::Index, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let change = |change| Step::Change(Box::new(change));
    let pick = any::<prop::sample::Index>;
    prop_oneof![
        6 => object().prop_map(Step::Policy),
        2 => pick().prop_map(Step::DropPolicy),
        2 => pick().prop_map(Step::ForgetMember),
        3 => (pick(), any::<bool>()).prop_map(|(pick, ports)| Step::LearnMember(pick, ports)),
        1 => pick().prop_map(Step::DropSubject),
        2 => (pick(), any::<bool>()).prop_map(|(pick, ports)| Step::AddSubject(pick, ports)),
        1 => group().prop_map(move |group| change(Change::Group(group))),
        1 => some_service().prop_map(move |service| change(Change::Service(service))),
        1 => prop::sample::select(vec!["g1", "g2"]).prop_map(move |name| change(Change::GroupGone(name.to_owned()))),
        1 => settings().prop_map(move |settings| change(Change::Settings(settings))),
    ]
}

fn change(world: &World, step: Step) -> Option<Change> {
    let members = members();
    let member = |pick: &prop::sample::Index| members[pick.index(members.len())].clone();
    let ports = |own: NamedPorts, with: bool| if with { own } else { NamedPorts::new() };
    Some(match step {
        Step::Policy(object) => Change::Policy(policy(&object)),
        Step::Change(change) => *change,
        Step::DropPolicy(pick) => {
            let names: Vec<_> = world.known.policies.keys().cloned().collect();
            if names.is_empty() {
                return None;
            }
            Change::PolicyGone(names[pick.index(names.len())].clone())
        }
        Step::ForgetMember(pick) => Change::IdentityGone(member(&pick).id),
        Step::LearnMember(pick, with) => {
            let member = member(&pick);
            Change::Identity(member.id, member.labels, ports(member.ports, with))
        }
        Step::DropSubject(pick) => Change::SubjectGone(member(&pick).id),
        Step::AddSubject(pick, with) => {
            let member = member(&pick);
            if !member.is_subject {
                return None;
            }
            let subject = Subject {
                labels: member.labels,
                ports: ports(member.ports, with),
            };
            Change::Subject(member.id, subject)
        }
    })
}

/// Does the writes one by one and looks at the map in between.
fn check_every_moment(before: &Map, diff: &Diff, questions: &[Question]) -> Result<(), String> {
    let mut after = before.clone();
    diff.write(&mut after);
    // Passing by way of the proxy is another thing than passing past it.
    let passes = |map: &Map, question: &Question| {
        let outcome = map.ask(question);
        (outcome.verdict == Verdict::Allow, outcome.l7)
    };
    let fixed: Vec<(&Question, (bool, Option<L7Kind>))> = questions
        .iter()
        .filter_map(|question| {
            let verdict = passes(before, question);
            (passes(&after, question) == verdict).then_some((question, verdict))
        })
        .collect();
    let mut map = before.clone();
    for op in &diff.ops {
        match op {
            Op::Put(key, value) => map.put(*key, *value),
            Op::Delete(key) => map.delete(key),
        }
        let (Op::Put(key, _) | Op::Delete(key)) = op;
        let touched = |question: &Question| {
            (key.subject, key.direction) == (question.subject, question.direction)
        };
        for (question, verdict) in fixed.iter().filter(|(question, _)| touched(question)) {
            if passes(&map, question) != *verdict {
                let concerns = |key: &Key| {
                    (key.subject, key.direction) == (question.subject, question.direction)
                        && [ANYBODY, question.remote].contains(&key.remote)
                };
                let ops: Vec<&Op> = diff
                    .ops
                    .iter()
                    .filter(|(Op::Put(key, _) | Op::Delete(key))| concerns(key))
                    .collect();
                return Err(format!(
                    "{question:?} is {verdict:?} before and after, but not after {op:?}\n{ops:#?}"
                ));
            }
        }
    }
    Ok(())
}

fn question(world: &World, ask: &Ask) -> Question {
    Question {
        subject: ask.subject,
        direction: ask.direction,
        remote: match ask.remote {
            Remote::Member(id) => id,
            Remote::Address(address) => world.identity_of(address),
        },
        protocol: ask.packet.protocol,
        port: Some(ask.packet.port),
    }
}

fn subjects(world: &World) -> impl Iterator<Item = u32> {
    let all: Vec<u32> = world.engine.subjects().map(|(number, _)| number).collect();
    all.into_iter()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::world::cases(120), max_shrink_iters: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn step_by_step_is_the_same_as_at_once(
        settings in settings(),
        steps in prop::collection::vec(step(), 1..14),
        asks in asks(40),
    ) {
        let mut world = World::new(settings, true);
        for step in steps {
            let Some(change) = change(&world, step) else { continue };
            let before = world.map.clone();
            let told: BTreeMap<u32, _> = subjects(&world).map(|one| (one, world.engine.proxy_rules(one))).collect();
            let diff = world.apply(vec![change]);
            for subject in told.keys().copied().chain(subjects(&world)).filter(|one| !world.told.contains(one)) {
                let before = told.get(&subject).cloned().unwrap_or_default();
                prop_assert_eq!(before, world.engine.proxy_rules(subject), "changed untold");
            }
            let questions: Vec<Question> = asks.0.iter().map(|ask| question(&world, ask)).collect();
            check_every_moment(&before, &diff, &questions).map_err(TestCaseError::fail)?;
            prop_assert_eq!(&world.map, &world.engine.map());
        }
        let fresh = world.known.fresh();
        prop_assert_eq!(plain(&world.engine), plain(&fresh));
        prop_assert_eq!(proxy_rules(&world.engine), proxy_rules(&fresh));
        // Whoever starts anew finds the rows as they should be.
        prop_assert!(transition(world.engine.rows(), fresh.rows()).is_empty());
        prop_assert_eq!(world.engine.origins(), fresh.origins());
        prop_assert!(world.engine.prefixes().eq(fresh.prefixes()));
        for ask in &asks.0 {
            world.compare(ask).map_err(TestCaseError::fail)?;
        }
        // Whoever goes takes everything along.
        let names: Vec<_> = world.known.policies.keys().cloned().collect();
        world.apply(names.into_iter().map(Change::PolicyGone).collect());
        prop_assert_eq!(world.engine.origins(), 0);
        prop_assert!(proxy_rules(&world.engine).is_empty());
        prop_assert_eq!(world.engine.selectors().count(), 0);
        prop_assert_eq!(world.engine.prefixes().count(), 0);
    }
}

/// Two steps whose writes in a worse order would let a packet through or cut one on the way.
#[test]
fn exceptions_come_first_and_what_is_overruled_goes_early() {
    let cilium = |spec: serde_json::Value| {
        Change::Policy(policy(&json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "p", "namespace": "a"}, "spec": spec,
        })))
    };
    let admin = Change::Policy(policy(&json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy", "metadata": {"name": "p"},
        "spec": {"priority": 1, "subject": {"namespaces": {}}, "ingress": [
            {"action": "Allow", "from": [{"namespaces": {}}], "ports": [{"portNumber": {"protocol": "TCP", "port": 80}}]},
            {"action": "Deny", "from": [{"namespaces": {}}]},
        ]},
    })));
    let ports = |port: &str| json!([{"ports": [{"port": port, "protocol": "TCP"}]}]);
    let (all, web, from) = (
        ports("0"),
        ports("80"),
        json!([{"matchLabels": {"app": "db"}}]),
    );
    let question = Question {
        subject: 1000,
        direction: Direction::Ingress,
        remote: 1002,
        protocol: 6,
        port: Some(80),
    };
    let mut world = World::new(Settings::default(), true);
    let mut step = |change: Change| {
        let before = world.map.clone();
        let diff = world.apply(vec![change]);
        if let Err(moment) = check_every_moment(&before, &diff, &[question]) {
            panic!("{moment}");
        }
        world.map.ask(&question).verdict
    };
    let name = |change: &Change| match change {
        Change::Policy(policy) => Change::PolicyGone(policy.name.clone()),
        other => other.clone(),
    };
    assert_eq!(step(admin.clone()), Verdict::Allow);
    assert_eq!(step(name(&admin)), Verdict::Allow);
    let first = json!({"endpointSelector": {}, "ingress": [{"fromEndpoints": from, "toPorts": web}], "ingressDeny": [{"toPorts": all}]});
    assert_eq!(step(cilium(first)), Verdict::Deny);
    let second = json!({"endpointSelector": {}, "ingress": [{"toPorts": web}], "ingressDeny": [{"fromEndpoints": from, "toPorts": all}]});
    assert_eq!(step(cilium(second)), Verdict::Deny);
}
