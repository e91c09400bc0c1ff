//! Random histories against a naive model: plain maps, copied for every transaction and snapshot.

use std::collections::BTreeMap;

use hypha_tables::{ChangeKind, ChangeTracker, Db, Read, Revision, Snapshot, WriteTxn};
use proptest::prelude::*;

use crate::rows::{Item, Items};

const TABLES: usize = 2;
const NAMES: [&str; TABLES] = ["first", "second"];
const LABELS: [&str; 3] = ["red", "green", "blue"];

#[derive(Clone, Debug)]
enum Write {
    Insert(usize, Item),
    InsertIfChanged(usize, Item),
    Delete(usize, u32),
    ReplaceAll(usize, Vec<Item>),
}

#[derive(Clone, Debug)]
enum Step {
    /// Writes, and whether they are committed.
    Txn(Vec<Write>, bool),
    TakeSnapshot,
    Track(usize),
    /// A tracker, and the most changes it reads.
    Follow(prop::sample::Index, usize),
    Untrack(prop::sample::Index),
}

fn item() -> impl Strategy<Value = Item> {
    let labels = prop::sample::subsequence(LABELS.to_vec(), 0..=3);
    (0..12_u32, labels, prop::option::of(0..8_u32), 0..4_u64).prop_map(
        |(id, labels, address, value)| Item {
            id,
            labels,
            address,
            value,
        },
    )
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        6 => (0..TABLES, item()).prop_map(|(table, item)| Write::Insert(table, item)),
        2 => (0..TABLES, item()).prop_map(|(table, item)| Write::InsertIfChanged(table, item)),
        4 => (0..TABLES, 0..12_u32).prop_map(|(table, id)| Write::Delete(table, id)),
        1 => (0..TABLES, prop::collection::vec(item(), 0..8)).prop_map(|(table, items)| Write::ReplaceAll(table, items)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (prop::collection::vec(write(), 0..6), prop::bool::weighted(0.8)).prop_map(|(w, c)| Step::Txn(w, c)),
        1 => Just(Step::TakeSnapshot),
        1 => (0..TABLES).prop_map(Step::Track),
        4 => (any::<prop::sample::Index>(), 0..10_usize).prop_map(|(tracker, most)| Step::Follow(tracker, most)),
        1 => any::<prop::sample::Index>().prop_map(Step::Untrack),
    ]
}

/// The naive table: rows with the revision that wrote them.
type Rows = BTreeMap<u32, (Item, u64)>;

#[derive(Clone, Default)]
struct Model {
    tables: [Rows; TABLES],
    revision: u64,
}

impl Model {
    fn clashes(rows: &Rows, item: &Item) -> bool {
        let same = |other: &Item| {
            other.id != item.id && item.address.is_some() && other.address == item.address
        };
        rows.values().any(|(other, _)| same(other))
    }

    fn insert(&mut self, table: usize, item: &Item) -> bool {
        if Self::clashes(&self.tables[table], item) {
            return false;
        }
        self.revision += 1;
        self.tables[table].insert(item.id, (item.clone(), self.revision));
        true
    }

    /// The rows after a replacement, revisions aside; none if it must be refused.
    fn replaced(items: &[Item]) -> Option<BTreeMap<u32, Item>> {
        let rows: BTreeMap<u32, Item> = items.iter().map(|item| (item.id, item.clone())).collect();
        let mut addresses: Vec<u32> = rows.values().filter_map(|item| item.address).collect();
        addresses.sort_unstable();
        let all = addresses.len();
        addresses.dedup();
        (addresses.len() == all).then_some(rows)
    }
}

/// A tracker and what its consumer has built from the changes.
struct Follower {
    table: usize,
    tracker: ChangeTracker<Item>,
    rows: BTreeMap<u32, Item>,
}

struct World {
    db: Db,
    items: [Items; TABLES],
    model: Model,
    snapshots: Vec<(Snapshot, Model)>,
    followers: Vec<Follower>,
}

impl World {
    fn new() -> Self {
        let db = Db::new();
        let items = NAMES.map(|name| Items::register(&db, name));
        Self {
            db,
            items,
            model: Model::default(),
            snapshots: Vec::new(),
            followers: Vec::new(),
        }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Txn(writes, commit) => self.transact(writes, *commit),
            Step::TakeSnapshot => self
                .snapshots
                .push((self.db.snapshot(), self.model.clone())),
            Step::Track(table) => self.followers.push(Follower {
                table: *table,
                tracker: self.db.track(&self.items[*table].table),
                rows: BTreeMap::new(),
            }),
            Step::Follow(index, most) if !self.followers.is_empty() => {
                let follower = index.index(self.followers.len());
                follow(&mut self.followers[follower], &self.db.snapshot(), *most);
            }
            Step::Untrack(index) if !self.followers.is_empty() => {
                drop(
                    self.followers
                        .swap_remove(index.index(self.followers.len())),
                );
            }
            Step::Follow(..) | Step::Untrack(_) => {}
        }
    }

    fn transact(&mut self, writes: &[Write], commit: bool) {
        let mut model = self.model.clone();
        let mut txn = self.db.write();
        for write in writes {
            self.write(&mut txn, &mut model, write);
            (0..TABLES)
                .for_each(|table| check_rows(&txn, &self.items[table], &model.tables[table]));
        }
        if !commit {
            return;
        }
        let revision = txn.commit();
        assert_eq!(self.db.snapshot().revision(), revision);
        self.model = model;
    }

    fn write(&self, txn: &mut WriteTxn<'_>, model: &mut Model, write: &Write) {
        match write {
            Write::Insert(table, item) => {
                let outcome = self.items[*table].table.insert(txn, item.clone());
                assert_eq!(outcome.is_ok(), model.insert(*table, item));
            }
            Write::InsertIfChanged(table, item) => {
                let outcome = self.items[*table]
                    .table
                    .insert_if_changed(txn, item.clone());
                let same = model.tables[*table]
                    .get(&item.id)
                    .is_some_and(|(present, _)| present == item);
                let expected = if same {
                    Ok(false)
                } else {
                    model.insert(*table, item).then_some(true).ok_or(())
                };
                assert_eq!(outcome.map_err(drop), expected);
            }
            Write::Delete(table, id) => {
                let deleted = self.items[*table].table.delete(txn, id);
                let expected = model.tables[*table].remove(id);
                model.revision += u64::from(expected.is_some());
                assert_eq!(deleted.as_deref(), expected.as_ref().map(|(item, _)| item));
            }
            Write::ReplaceAll(table, items) => {
                let handle = &self.items[*table].table;
                let outcome = handle.replace_all(txn, items.iter().cloned());
                let expected = Model::replaced(items);
                assert_eq!(outcome.is_ok(), expected.is_some());
                // Which revisions a replacement takes is its own affair, but unchanged rows keep theirs.
                let rows = &mut model.tables[*table];
                for (id, item) in expected.iter().flatten() {
                    let revision = handle.revision_of(txn, id).unwrap().get();
                    let same = rows.get(id).is_some_and(|(present, _)| present == item);
                    assert_eq!(same, revision <= model.revision);
                    rows.insert(*id, (item.clone(), revision));
                }
                rows.retain(|id, _| {
                    expected
                        .as_ref()
                        .is_none_or(|expected| expected.contains_key(id))
                });
                model.revision = txn.revision().get();
            }
        }
    }

    fn check(&self) {
        for (table, items) in self.items.iter().enumerate() {
            check_rows(&self.db.snapshot(), items, &self.model.tables[table]);
            for (snapshot, model) in &self.snapshots {
                check_rows(snapshot, items, &model.tables[table]);
            }
        }
    }

    /// A graveyard holds at most what some follower still lacks, and nothing once all have caught up.
    fn finish(&mut self) {
        self.db.write().commit();
        let now = self.db.snapshot();
        for follower in &mut self.followers {
            follow(follower, &now, usize::MAX);
            let expected: BTreeMap<u32, Item> = self.model.tables[follower.table]
                .iter()
                .map(|(id, (item, _))| (*id, item.clone()))
                .collect();
            assert_eq!(follower.rows, expected);
        }
        self.db.write().commit();
        assert!(
            self.db
                .snapshot()
                .tables()
                .iter()
                .all(|table| table.graveyard == 0)
        );
    }
}

fn follow(follower: &mut Follower, snapshot: &Snapshot, most: usize) {
    let mut last = follower.tracker.position();
    for change in follower.tracker.changes(snapshot).take(most) {
        assert!(change.revision > last, "revisions rise");
        last = change.revision;
        match change.kind {
            ChangeKind::Upsert => {
                drop(follower.rows.insert(change.row.id, Item::clone(change.row)))
            }
            ChangeKind::Delete => drop(follower.rows.remove(&change.row.id)),
        }
    }
    assert!(follower.tracker.position() >= last);
}

fn check_rows(from: &impl Read, items: &Items, expected: &Rows) {
    let rows = items.table.iter(from).map(|row| {
        let revision = items
            .table
            .revision_of(from, &row.id)
            .map(Revision::get)
            .unwrap();
        (row.id, (Item::clone(row), revision))
    });
    assert_eq!(&rows.collect::<Rows>(), expected);
    assert_eq!(items.table.len(from), expected.len());
    for label in LABELS {
        let found: Vec<u32> = items.by_label.get(from, label).map(|row| row.id).collect();
        let with_label = expected
            .values()
            .filter(|(item, _)| item.labels.contains(&label));
        assert_eq!(
            found,
            with_label.map(|(item, _)| item.id).collect::<Vec<_>>()
        );
    }
    let by_address: BTreeMap<u32, u32> = items
        .by_address
        .range::<_, _, u32>(from, ..)
        .map(|(address, row)| (*address, row.id))
        .collect();
    let addresses = expected
        .values()
        .filter_map(|(item, _)| Some((item.address?, item.id)));
    assert_eq!(by_address, addresses.collect());
}

proptest! {
    #[test]
    fn any_history_agrees_with_the_model(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
        world.check();
        world.finish();
    }
}
