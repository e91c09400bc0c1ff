//! Random histories: after every flush the kernel means what the model says, and what a new planner would have written; on the
//! way there, no write leaves a gap.
use crate::generate::{Dice, change, settings};
use crate::model::{Expected, World};
use crate::sim::{Sim, Whole};
use hypha_lb::rows::{Op, Row};
use hypha_lb::{Change, Planner, Settings};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn cases() -> u32 {
    std::env::var("LB_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(150)
}

/// A new planner that is told all at once.
fn from_scratch(
    settings: &Settings,
    world: &World,
    rows: Vec<Row>,
    part: bool,
) -> (Planner, Vec<Op>) {
    let mut planner = Planner::new(settings.clone(), rows);
    for (key, redirect) in &world.redirects {
        planner.apply(Change::Redirect(
            key.as_str().into(),
            Some(redirect.clone()),
        ));
    }
    for (key, mark) in &world.marks {
        planner.apply(Change::Mark(*key, Some(*mark)));
    }
    for (key, pod) in &world.pods {
        planner.apply(Change::Pod(key.as_str().into(), Some(pod.clone())));
    }
    for (key, slice) in &world.slices {
        planner.apply(Change::Slice(key.as_str().into(), Some(slice.clone())));
    }
    for (key, service) in &world.services {
        planner.apply(Change::Service(key.as_str().into(), Some(service.clone())));
    }
    planner.apply(Change::Node(world.node.clone()));
    let ops = planner.flush_part(if part { 3 } else { usize::MAX }).ops;
    (planner, ops)
}

/// What the planner says it serves, in the model's words.
fn served(planner: &Planner) -> Expected {
    let all = planner.frontends().map(|frontend| {
        let used = frontend.selection.used.iter().map(|backend| backend.key);
        (
            frontend.key,
            (
                frontend.kind,
                frontend.owner.clone(),
                used.collect::<BTreeSet<_>>(),
            ),
        )
    });
    all.collect()
}

/// Flushes, now and then in small parts, until there is no more.
fn settle(planner: &mut Planner, sim: &mut Sim, dice: &mut Dice) {
    let most = if dice.rare(3) {
        1 + dice.below(5)
    } else {
        usize::MAX
    };
    for _ in 0..1000 {
        let diff = planner.flush_part(most);
        sim.run(&diff.ops);
        if !diff.again {
            return;
        }
    }
    panic!("it never ends");
}

/// Rows in an order, without the contents of tables.
fn texts(rows: Vec<Row>) -> BTreeSet<String> {
    let shown = |row| match row {
        Row::Maglev(id, ipv6, _) => format!("table {id} {ipv6}"),
        row => format!("{row:?}"),
    };
    rows.into_iter().map(shown).collect()
}

fn meaning(ops: &[Op]) -> Whole {
    let mut sim = Sim::default();
    sim.run(ops);
    sim.whole()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn step_by_step_is_as_all_at_once(seed in any::<u64>(), steps in 1..60_usize) {
        let mut dice = Dice::new(seed);
        let (settings, mut world, mut sim) = (settings(&mut dice), World::default(), Sim::default());
        let mut planner = Planner::new(settings.clone(), Vec::new());
        for _ in 0..steps {
            planner.apply(change(&mut dice, &mut world));
            if dice.rare(3) {
                continue;
            }
            settle(&mut planner, &mut sim, &mut dice);
            prop_assert_eq!(served(&planner), world.expected(&settings));
            let whole = sim.whole();
            for frontend in planner.frontends() {
                let used: BTreeSet<_> = frontend.selection.used.iter().map(|backend| backend.key).collect();
                prop_assert_eq!(&whole.frontends[&frontend.key].backends, &used);
            }
            if dice.rare(4) {
                planner.tick();
            }
        }
        settle(&mut planner, &mut sim, &mut dice);
        let (scratch, ops) = from_scratch(&settings, &world, Vec::new(), false);
        prop_assert_eq!(sim.whole(), meaning(&ops));
        prop_assert_eq!(texts(planner.rows()), texts(sim.rows()));
        prop_assert_eq!(planner.usage(), sim.usage());
        prop_assert!(planner.frontends().eq(scratch.frontends()));
        prop_assert_eq!(planner.problems(), scratch.problems());
        prop_assert!(planner.flush().ops.is_empty(), "nothing changed, nothing is written");
    }

    #[test]
    fn a_restart_writes_only_what_changed_and_keeps_numbers(seed in any::<u64>(), steps in 1..40_usize, torn in any::<bool>()) {
        let mut dice = Dice::new(seed);
        let (settings, mut world, mut sim) = (settings(&mut dice), World::default(), Sim::default());
        let mut planner = Planner::new(settings.clone(), Vec::new());
        for _ in 0..steps {
            planner.apply(change(&mut dice, &mut world));
        }
        sim.run(&planner.flush().ops);
        // Killed half-way through the writes of further changes.
        for _ in 0..usize::from(torn) * 5 {
            planner.apply(change(&mut dice, &mut world));
        }
        let ops = planner.flush().ops;
        sim.run(&ops[..dice.below(ops.len() + 1)]);
        let numbers: Vec<_> = sim.masters.iter().map(|(key, master)| (*key, master.id)).collect();
        let ids: Vec<_> = sim.backends.iter().map(|(id, (key, _))| (*id, *key)).collect();
        let (mut next, ops) = from_scratch(&settings, &world, sim.rows(), dice.rare(2));
        let mut after = sim.clone();
        after.run(&ops);
        prop_assert_eq!((texts(next.rows()), next.usage()), (texts(after.rows()), after.usage()));
        let tables_only = |op: &Op| matches!(op, Op::Put(Row::Maglev(..)));
        if !torn {
            prop_assert!(ops.iter().all(tables_only), "{ops:?}");
        }
        sim.run(&ops);
        settle(&mut next, &mut sim, &mut dice);
        prop_assert_eq!(sim.whole(), meaning(&from_scratch(&settings, &world, Vec::new(), false).1));
        for (key, id) in numbers {
            prop_assert!(next.row(&key).is_none_or(|row| row.id == id));
        }
        for (id, key) in ids {
            prop_assert!(next.backend_id(&key).is_none_or(|now| now == id));
        }
    }

    #[test]
    fn clients_are_never_let_in_by_what_was_neither_before_nor_after(seed in any::<u64>()) {
        let mut dice = Dice::new(seed);
        let nets = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "192.0.2.0/24", "0.0.0.0/0"];
        let clients = ["10.0.0.1", "10.1.0.1", "10.1.2.3", "192.0.2.7", "203.0.113.9"].map(crate::kit::ip);
        let key = crate::kit::key("198.51.100.1:80");
        let service = |dice: &mut Dice| {
            let mut service = crate::kit::balanced(crate::kit::service("a/s", &["10.96.0.1"], &[("http", 80, 0)]), &["198.51.100.1"]);
            service.source_ranges = (0..dice.below(4)).map(|_| dice.pick(&nets).into()).collect();
            service.annotations = crate::kit::labels(&[("service.cilium.io/src-ranges-policy", dice.pick(&["allow", "deny"]))]);
            crate::kit::put_service(service)
        };
        let (mut planner, ops) = crate::kit::planned(Settings::default(), [service(&mut dice)]);
        let mut sim = Sim::default();
        sim.run(&ops);
        for _ in 0..6 {
            let before = clients.map(|client| sim.admits(&key, client));
            planner.apply(service(&mut dice));
            let mut states = Vec::new();
            for op in planner.flush().ops {
                sim.apply(&op);
                states.push(clients.map(|client| sim.admits(&key, client)));
            }
            let after = clients.map(|client| sim.admits(&key, client));
            for state in states {
                for index in 0..clients.len() {
                    let (was, is, now) = (before[index], after[index], state[index]);
                    prop_assert!(was != is || now == was, "{} was {was} and is {is}, but {now} in between", clients[index]);
                }
            }
        }
    }
}
