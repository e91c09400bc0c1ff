//! Cost of table operations on 100,000 rows: `cargo bench -p hypha-tables`.

use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;

use divan::{Bencher, counter::ItemsCount};
use hypha_tables::reconcile::{Config, Engine, Target};
use hypha_tables::{Db, Index, Row, Snapshot, Table, TableDef};
use serde::Serialize;

const ROWS: u32 = 100_000;

/// Like the rows of a real table: named, on a node, with an address.
#[derive(Clone, Serialize)]
struct Pod {
    name: String,
    node: u32,
    address: [u8; 16],
}

impl Row for Pod {
    type Key = String;

    fn key(&self) -> String {
        self.name.clone()
    }
}

struct Pods {
    table: Table<Pod>,
    by_node: Index<Pod, u32>,
    by_address: Index<Pod, [u8; 16]>,
}

fn pod(number: u32) -> Pod {
    let scattered = (u64::from(number) * 2_654_435_761 % u64::from(ROWS)) as u32;
    let mut address = [0xfd; 16];
    address[12..].copy_from_slice(&scattered.to_be_bytes());
    Pod {
        name: format!("namespace-{}/pod-{scattered:06}", number % 50),
        node: number % 100,
        address,
    }
}

fn pods() -> Vec<Pod> {
    (0..ROWS).map(pod).collect()
}

fn register(db: &Db) -> Pods {
    let mut def = TableDef::<Pod>::new("pods");
    let by_node = def.index("node", |pod: &Pod| [pod.node]);
    let by_address = def.unique_index("address", |pod: &Pod| [pod.address]);
    Pods {
        table: db.register(def).expect("a fresh database"),
        by_node,
        by_address,
    }
}

fn fill(db: &Db, table: &Table<Pod>, rows: Vec<Pod>) {
    let mut txn = db.write();
    for row in rows {
        table.insert(&mut txn, row).expect("addresses are unique");
    }
    txn.commit();
}

fn filled() -> (Db, Pods) {
    let db = Db::new();
    let tables = register(&db);
    fill(&db, &tables.table, pods());
    (db, tables)
}

mod insert {
    use super::*;

    #[divan::bench(sample_count = 20)]
    fn one_transaction_no_index(bencher: Bencher<'_, '_>) {
        let input = || {
            let db = Db::new();
            let table = db
                .register(TableDef::<Pod>::new("pods"))
                .expect("a fresh database");
            (db, table, pods())
        };
        bencher
            .counter(ItemsCount::new(ROWS))
            .with_inputs(input)
            .bench_values(|(db, table, rows)| {
                fill(&db, &table, rows);
                (db, table)
            });
    }

    #[divan::bench(sample_count = 20)]
    fn one_transaction_two_indexes(bencher: Bencher<'_, '_>) {
        let input = || {
            let db = Db::new();
            (register(&db), db, pods())
        };
        bencher
            .counter(ItemsCount::new(ROWS))
            .with_inputs(input)
            .bench_values(|(tables, db, rows)| {
                fill(&db, &tables.table, rows);
                (db, tables)
            });
    }

    #[divan::bench(sample_count = 10)]
    fn a_transaction_and_snapshot_each_two_indexes(bencher: Bencher<'_, '_>) {
        let input = || {
            let db = Db::new();
            (register(&db), db, pods())
        };
        bencher
            .counter(ItemsCount::new(ROWS))
            .with_inputs(input)
            .bench_values(|(tables, db, rows)| {
                for row in rows {
                    let _reader = db.snapshot();
                    fill(&db, &tables.table, vec![row]);
                }
                (db, tables)
            });
    }

    #[divan::bench]
    fn one_row_into_the_full_table(bencher: Bencher<'_, '_>) {
        let (db, tables) = filled();
        let mut number = 0;
        bencher.bench_local(|| {
            number += 1;
            fill(&db, &tables.table, vec![pod(number % ROWS)]);
        });
    }
}

mod read {
    use super::*;

    #[divan::bench(sample_count = 20)]
    fn lookup_by_primary_key(bencher: Bencher<'_, '_>) {
        let (db, tables) = filled();
        let (snapshot, keys) = (db.snapshot(), pods());
        bencher.counter(ItemsCount::new(ROWS)).bench(|| {
            keys.iter()
                .filter(|key| tables.table.get(&snapshot, &key.name).is_some())
                .count()
        });
    }

    #[divan::bench(sample_count = 20)]
    fn lookup_by_unique_index(bencher: Bencher<'_, '_>) {
        let (db, tables) = filled();
        let (snapshot, keys) = (db.snapshot(), pods());
        bencher.counter(ItemsCount::new(ROWS)).bench(|| {
            keys.iter()
                .filter(|key| tables.by_address.first(&snapshot, &key.address).is_some())
                .count()
        });
    }

    #[divan::bench(sample_count = 20)]
    fn all_rows_by_index(bencher: Bencher<'_, '_>) {
        let (db, tables) = filled();
        let snapshot = db.snapshot();
        bencher.counter(ItemsCount::new(ROWS)).bench(|| {
            (0..100)
                .map(|node| tables.by_node.get(&snapshot, &node).map(black_box).count())
                .sum::<usize>()
        });
    }

    #[divan::bench(sample_count = 20)]
    fn all_rows(bencher: Bencher<'_, '_>) {
        let (db, tables) = filled();
        let snapshot = db.snapshot();
        bencher
            .counter(ItemsCount::new(ROWS))
            .bench(|| tables.table.iter(&snapshot).map(black_box).count());
    }

    #[divan::bench]
    fn snapshot(bencher: Bencher<'_, '_>) {
        let (db, _tables) = filled();
        bencher.bench(|| db.snapshot());
    }
}

mod changes {
    use super::*;

    #[divan::bench(sample_count = 20)]
    fn follow_all(bencher: Bencher<'_, '_>) {
        let (db, tables) = filled();
        let snapshot = db.snapshot();
        let input = || db.track(&tables.table);
        bencher
            .counter(ItemsCount::new(ROWS))
            .with_inputs(input)
            .bench_refs(|tracker| tracker.changes(&snapshot).map(black_box).count());
    }

    #[divan::bench]
    fn write_one_row_and_follow(bencher: Bencher<'_, '_>) {
        let (db, tables) = filled();
        let mut tracker = db.track(&tables.table);
        tracker.changes(&db.snapshot()).for_each(drop);
        let mut number = 0;
        bencher.bench_local(|| {
            number += 1;
            fill(&db, &tables.table, vec![pod(number % ROWS)]);
            assert_eq!(tracker.changes(&db.snapshot()).count(), 1);
        });
    }

    #[divan::bench(sample_count = 20)]
    fn reconcile_all(bencher: Bencher<'_, '_>) {
        let (db, tables) = filled();
        let snapshot = db.snapshot();
        let input = || {
            Engine::new(
                &db,
                &tables.table,
                Config {
                    refresh_interval: None,
                    ..Config::default()
                },
            )
        };
        bencher
            .counter(ItemsCount::new(ROWS))
            .with_inputs(input)
            .bench_values(|mut engine| {
                while engine.step(&snapshot, Duration::ZERO, &mut Nothing) == Some(Duration::ZERO) {
                }
                assert_eq!(
                    engine.observer().progress(),
                    hypha_tables::Read::revision(&snapshot)
                );
                engine
            });
    }

    /// A target for which everything costs nothing.
    struct Nothing;

    impl Target<Pod> for Nothing {
        type Error = Infallible;

        fn update(&mut self, _: &Snapshot, row: &Pod) -> Result<(), Infallible> {
            black_box(row);
            Ok(())
        }

        fn delete(&mut self, _: &Snapshot, _: &Pod) -> Result<(), Infallible> {
            Ok(())
        }

        fn prune(
            &mut self,
            _: &Snapshot,
            rows: &mut dyn Iterator<Item = &Pod>,
        ) -> Result<(), Infallible> {
            rows.for_each(|row| _ = black_box(row));
            Ok(())
        }
    }
}

fn main() {
    divan::main();
}
