//! Random changes, a target that fails at random, meddlers outside: in the end it has exactly the desired rows.

use std::collections::BTreeMap;
use std::time::Duration;

use hypha_tables::reconcile::{Config, Engine, Op, OpKind, Status, Target};
use hypha_tables::{Db, Row, Snapshot};
use proptest::prelude::*;

use crate::rows::{Item, Items, db_with_items};

/// A faulty outside: fails as told, sometimes after having done the work.
#[derive(Default)]
struct Outside {
    rows: BTreeMap<u32, u64>,
    faults: Vec<Fault>,
    calls: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Before,
    After,
}

impl Outside {
    fn act(&mut self, work: impl FnOnce(&mut BTreeMap<u32, u64>)) -> Result<(), String> {
        let fault = self.faults.get(self.calls).copied().unwrap_or(Fault::None);
        self.calls += 1;
        if fault != Fault::Before {
            work(&mut self.rows);
        }
        if fault == Fault::None {
            Ok(())
        } else {
            Err(format!("fault in call {}", self.calls))
        }
    }
}

impl Target<Item> for Outside {
    type Error = String;

    fn update(&mut self, _: &Snapshot, row: &Item) -> Result<(), String> {
        self.act(|rows| _ = rows.insert(row.id, row.value))
    }

    fn delete(&mut self, _: &Snapshot, row: &Item) -> Result<(), String> {
        self.act(|rows| _ = rows.remove(&row.id))
    }

    fn prune(
        &mut self,
        _: &Snapshot,
        desired: &mut dyn Iterator<Item = &Item>,
    ) -> Result<(), String> {
        let keys: Vec<u32> = desired.map(Row::key).collect();
        self.act(|rows| rows.retain(|id, _| keys.contains(id)))
    }
}

#[derive(Clone, Debug)]
enum Event {
    Put(u32, u64),
    Remove(u32),
    /// Somebody else changes the outside.
    Meddle(u32, u64),
    Work,
    Wait(u64),
    /// An operation under way ends.
    End(prop::sample::Index),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => (0..10_u32, 0..5_u64).prop_map(|(id, value)| Event::Put(id, value)),
        3 => (0..10_u32).prop_map(Event::Remove),
        1 => (0..14_u32, 90..95_u64).prop_map(|(id, value)| Event::Meddle(id, value)),
        4 => Just(Event::Work),
        2 => (0..400_u64).prop_map(Event::Wait),
        6 => any::<prop::sample::Index>().prop_map(Event::End),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![3 => Just(Fault::None), 2 => Just(Fault::Before), 2 => Just(Fault::After)]
}

fn config(batch: usize) -> Config {
    Config {
        batch,
        retry_min: Duration::from_millis(10),
        retry_max: Duration::from_millis(200),
        refresh_interval: Some(Duration::from_millis(500)),
        prune_interval: Some(Duration::from_millis(700)),
    }
}

struct World {
    db: Db,
    items: Items,
    engine: Engine<Item>,
    outside: Outside,
    under_way: Vec<(Op<Item>, Snapshot)>,
    now: Duration,
}

impl World {
    fn new(batch: usize, faults: Vec<Fault>) -> Self {
        let (db, items) = db_with_items();
        let engine = Engine::new(&db, &items.table, config(batch));
        let left_over = BTreeMap::from([(3, 80), (20, 80)]);
        let outside = Outside {
            rows: left_over,
            faults,
            calls: 0,
        };
        Self {
            db,
            items,
            engine,
            outside,
            under_way: Vec::new(),
            now: Duration::ZERO,
        }
    }

    fn run(&mut self, event: &Event) {
        match event {
            Event::Put(id, value) => _ = self.items.put(&self.db, Item::new(*id, *value)),
            Event::Remove(id) => _ = self.items.remove(&self.db, *id),
            Event::Meddle(id, value) => _ = self.outside.rows.insert(*id, *value),
            Event::Work => self.poll(),
            Event::Wait(millis) => self.now += Duration::from_millis(*millis),
            Event::End(index) if !self.under_way.is_empty() => {
                self.end(index.index(self.under_way.len()))
            }
            Event::End(_) => {}
        }
    }

    fn poll(&mut self) {
        let snapshot = self.db.snapshot();
        let ops = self.engine.poll(&snapshot, self.now);
        self.under_way
            .extend(ops.into_iter().map(|op| (op, snapshot.clone())));
        let prunes = self
            .under_way
            .iter()
            .filter(|(op, _)| matches!(op.kind, OpKind::Prune(_)))
            .count();
        assert!(
            prunes == 0 || self.under_way.len() == 1,
            "a prune runs alone"
        );
        let mut keys: Vec<u32> = self
            .under_way
            .iter()
            .filter_map(|(op, _)| key(op))
            .collect();
        let all = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), all, "one operation per row at a time");
    }

    fn end(&mut self, index: usize) {
        let (op, snapshot) = self.under_way.swap_remove(index);
        let outcome = match &op.kind {
            OpKind::Update(row) => self.outside.update(&snapshot, row),
            OpKind::Delete(row) => self.outside.delete(&snapshot, row),
            OpKind::Prune(rows) => self
                .outside
                .prune(&snapshot, &mut rows.iter().map(AsRef::as_ref)),
        };
        self.engine.complete(op.ticket, self.now, outcome);
    }

    /// No more faults from here: follows the deadlines until two full compares and a prune are over.
    fn settle(&mut self) {
        self.outside.faults.clear();
        while !self.under_way.is_empty() {
            self.end(0);
        }
        let observer = self.engine.observer();
        let counters = observer.counters();
        let (refreshes, prunes) = (counters.refreshes + 2, counters.prune.succeeded + 1);
        for _ in 0..10_000 {
            let counters = observer.counters();
            if counters.refreshes >= refreshes && counters.prune.succeeded >= prunes {
                return;
            }
            let snapshot = self.db.snapshot();
            let deadline = self.engine.step(&snapshot, self.now, &mut self.outside);
            self.now = self
                .now
                .max(deadline.expect("refresh and prune come again"));
        }
        panic!("does not settle");
    }

    fn check(&self) {
        let now = self.db.snapshot();
        let desired: BTreeMap<u32, u64> = self
            .items
            .table
            .iter(&now)
            .map(|row| (row.id, row.value))
            .collect();
        assert_eq!(self.outside.rows, desired);
        let observer = self.engine.observer();
        let done = |status: &Status| matches!(status, Status::Done { .. });
        assert!(
            observer
                .dump()
                .iter()
                .all(|row| done(&row.status) && !row.deleted)
        );
        assert_eq!(observer.dump().len(), desired.len());
        assert!(observer.is_realized(hypha_tables::Read::revision(&now)));
        assert_eq!(
            (observer.counters().pending, observer.counters().failing),
            (0, 0)
        );
    }
}

fn key(op: &Op<Item>) -> Option<u32> {
    match &op.kind {
        OpKind::Update(row) | OpKind::Delete(row) => Some(row.id),
        OpKind::Prune(_) => None,
    }
}

proptest! {
    #[test]
    fn a_faulty_target_ends_up_with_the_desired_rows(
        events in prop::collection::vec(event(), 1..120),
        faults in prop::collection::vec(fault(), 0..120),
        batch in 1..6_usize,
    ) {
        let mut world = World::new(batch, faults);
        for event in &events {
            world.run(event);
        }
        world.settle();
        world.check();
    }
}
