//! The engine's behaviour, one operation at a time.

use std::time::Duration;

use hypha_tables::reconcile::{Config, Engine, Op, OpKind, Status};
use hypha_tables::{Db, Revision, Table, TableDef, block_on_timeout};

use crate::rows::{Item, Items, db_with_items};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn config() -> Config {
    Config {
        batch: 4,
        retry_min: ms(100),
        retry_max: ms(1000),
        refresh_interval: None,
        prune_interval: None,
    }
}

/// An engine past its first prune, at time zero.
fn engine(db: &Db, table: &Table<Item>, config: Config) -> Engine<Item> {
    let mut engine = Engine::new(db, table, config);
    let mut ops = engine.poll(&db.snapshot(), ms(0));
    assert_eq!(names(&ops), ["prune 0"]);
    engine.complete(ops.remove(0).ticket, ms(0), ok());
    engine
}

fn ok() -> Result<(), &'static str> {
    Ok(())
}

fn name(op: &Op<Item>) -> String {
    match &op.kind {
        OpKind::Update(row) => format!("update {}={}", row.id, row.value),
        OpKind::Delete(row) => format!("delete {}", row.id),
        OpKind::Prune(rows) => format!("prune {}", rows.iter().count()),
    }
}

fn names(ops: &[Op<Item>]) -> Vec<String> {
    ops.iter().map(name).collect()
}

/// Polls and completes everything, failing the operations named.
fn turn(engine: &mut Engine<Item>, db: &Db, now: Duration, failing: &[&str]) -> Vec<String> {
    let ops = engine.poll(&db.snapshot(), now);
    let names = names(&ops);
    for (op, name) in ops.into_iter().zip(&names) {
        let outcome = if failing.contains(&name.as_str()) {
            Err("no room in map m1")
        } else {
            Ok(())
        };
        engine.complete(op.ticket, now, outcome);
    }
    names
}

#[test]
fn changes_are_carried_out_in_bounded_batches_in_revision_order() {
    let (db, items) = db_with_items();
    let mut engine = engine(&db, &items.table, config());
    for id in [5, 3, 4, 1, 2] {
        items.put(&db, Item::new(id, 0));
    }
    items.put(&db, Item::new(3, 1));
    items.remove(&db, 4);
    assert_eq!(
        turn(&mut engine, &db, ms(1), &[]),
        ["update 5=0", "update 1=0", "update 2=0", "update 3=1"]
    );
    assert_eq!(engine.deadline(), Some(ms(1)));
    assert_eq!(turn(&mut engine, &db, ms(1), &[]), ["delete 4"]);
    assert_eq!(turn(&mut engine, &db, ms(1), &[]), [""; 0]);
    assert_eq!(engine.deadline(), None);
    assert_eq!(engine.observer().progress(), Revision::new(7));
}

#[test]
fn failures_are_retried_with_growing_pauses() {
    let (db, items) = db_with_items();
    let mut engine = engine(&db, &items.table, config());
    items.put(&db, Item::new(1, 0));
    items.put(&db, Item::new(2, 0));
    let fails = ["update 1=0"];
    assert_eq!(
        turn(&mut engine, &db, ms(0), &fails),
        ["update 1=0", "update 2=0"]
    );
    for (failed_at, next) in [(0, 100), (100, 300), (300, 700), (700, 1500), (1500, 2500)] {
        assert_eq!(
            engine.deadline(),
            Some(ms(next)),
            "after the failure at {failed_at} ms"
        );
        assert_eq!(turn(&mut engine, &db, ms(next - 1), &fails), [""; 0]);
        assert_eq!(turn(&mut engine, &db, ms(next), &fails), fails);
    }
    assert_eq!(engine.observer().progress(), Revision::ZERO);
    assert_eq!(turn(&mut engine, &db, ms(3500), &[]), fails);
    assert_eq!(engine.observer().progress(), Revision::new(2));
    assert_eq!(
        engine.observer().status(&1),
        Some(Status::Done { since: ms(3500) })
    );
}

#[test]
fn a_changed_row_is_tried_at_once_and_only_once_at_a_time() {
    let (db, items) = db_with_items();
    let mut engine = engine(&db, &items.table, config());
    items.put(&db, Item::new(1, 0));
    assert_eq!(
        turn(&mut engine, &db, ms(0), &["update 1=0"]),
        ["update 1=0"]
    );
    items.put(&db, Item::new(1, 1));
    let mut first = engine.poll(&db.snapshot(), ms(1));
    assert_eq!(
        names(&first),
        ["update 1=1"],
        "the pause was for another revision"
    );

    items.put(&db, Item::new(1, 2));
    assert_eq!(
        turn(&mut engine, &db, ms(2), &[]),
        [""; 0],
        "the earlier one is under way"
    );
    engine.complete(first.remove(0).ticket, ms(3), ok());
    assert_eq!(
        engine.observer().status(&1),
        Some(Status::Pending { since: ms(2) })
    );
    assert_eq!(turn(&mut engine, &db, ms(3), &[]), ["update 1=2"]);

    items.put(&db, Item::new(1, 3));
    let mut late = engine.poll(&db.snapshot(), ms(4));
    items.remove(&db, 1);
    assert_eq!(turn(&mut engine, &db, ms(5), &[]), [""; 0]);
    engine.complete(late.remove(0).ticket, ms(5), Err("too late"));
    assert_eq!(turn(&mut engine, &db, ms(5), &["delete 1"]), ["delete 1"]);
    assert_eq!(engine.observer().dump().len(), 1);
    assert_eq!(turn(&mut engine, &db, ms(105), &[]), ["delete 1"]);
    assert_eq!(engine.observer().dump(), []);
}

#[test]
fn prune_waits_for_initialisation_runs_alone_and_comes_back() {
    let db = Db::new();
    let mut def = TableDef::<Item>::new("items");
    def.initializer("source");
    let table = db.register(def).unwrap();
    let config = Config {
        prune_interval: Some(ms(5000)),
        ..config()
    };
    let mut engine = Engine::new(&db, &table, config);
    let commit = |id: u32| {
        let mut txn = db.write();
        table.insert(&mut txn, Item::new(id, 0)).unwrap();
        txn.commit();
    };
    commit(1);
    assert_eq!(turn(&mut engine, &db, ms(0), &[]), ["update 1=0"]);
    assert_eq!(
        engine.deadline(),
        None,
        "only the initialiser is waited for"
    );

    commit(2);
    let mut under_way = engine.poll(&db.snapshot(), ms(1));
    let mut txn = db.write();
    table.finish_initializer(&mut txn, "source");
    txn.commit();
    commit(3);
    assert_eq!(
        turn(&mut engine, &db, ms(2), &[]),
        [""; 0],
        "not beside an update"
    );
    assert_eq!(engine.deadline(), None);
    engine.complete(under_way.remove(0).ticket, ms(3), ok());
    assert_eq!(engine.deadline(), Some(ms(3)));
    let mut prune = engine.poll(&db.snapshot(), ms(3));
    assert_eq!(names(&prune), ["prune 3"]);
    assert_eq!(
        engine.poll(&db.snapshot(), ms(3)).len(),
        0,
        "no update beside it"
    );
    engine.complete(prune.remove(0).ticket, ms(4), Err("map is gone"));
    assert_eq!(
        engine.observer().prune_error().as_deref(),
        Some("map is gone")
    );
    assert_eq!(
        turn(&mut engine, &db, ms(4), &[]),
        ["update 3=0"],
        "a failed prune holds nothing up"
    );
    assert_eq!(engine.deadline(), Some(ms(104)));
    assert_eq!(turn(&mut engine, &db, ms(104), &[]), ["prune 3"]);
    assert_eq!(engine.observer().prune_error(), None);
    assert_eq!(engine.deadline(), Some(ms(5104)));
    assert_eq!(turn(&mut engine, &db, ms(5104), &[]), ["prune 3"]);
}

#[test]
fn a_full_compare_comes_behind_other_work() {
    let (db, items) = db_with_items();
    let config = Config {
        batch: 2,
        refresh_interval: Some(ms(1000)),
        ..config()
    };
    let mut engine = engine(&db, &items.table, config);
    (1..=3).for_each(|id| _ = items.put(&db, Item::new(id, 0)));
    assert_eq!(
        turn(&mut engine, &db, ms(0), &[]),
        ["update 1=0", "update 2=0"]
    );
    assert_eq!(turn(&mut engine, &db, ms(0), &[]), ["update 3=0"]);
    assert_eq!(engine.deadline(), Some(ms(1000)));
    items.put(&db, Item::new(4, 0));
    assert_eq!(
        turn(&mut engine, &db, ms(1000), &["update 1=0"]),
        ["update 4=0", "update 1=0"]
    );
    assert_eq!(
        engine.observer().progress(),
        Revision::ZERO,
        "row 1 is found not to be realised any more"
    );
    assert_eq!(
        turn(&mut engine, &db, ms(1000), &[]),
        ["update 2=0", "update 3=0"]
    );
    assert_eq!(turn(&mut engine, &db, ms(1000), &[]), ["update 4=0"]);
    assert_eq!(engine.observer().counters().refreshes, 1);
    assert_eq!(turn(&mut engine, &db, ms(1100), &[]), ["update 1=0"]);
    assert_eq!(engine.deadline(), Some(ms(2000)));
    engine.request_full_compare();
    assert_eq!(turn(&mut engine, &db, ms(1200), &[]), ["prune 4"]);
    assert_eq!(
        turn(&mut engine, &db, ms(1200), &[]),
        ["update 1=0", "update 2=0"]
    );
}

#[test]
fn a_full_compare_leaves_rows_under_way_alone() {
    let (db, items) = db_with_items();
    let config = Config {
        refresh_interval: Some(ms(1000)),
        ..config()
    };
    let mut engine = engine(&db, &items.table, config);
    (1..=2).for_each(|id| _ = items.put(&db, Item::new(id, 0)));
    turn(&mut engine, &db, ms(0), &[]);
    let mut slow = engine.poll(&db.snapshot(), ms(1000));
    assert_eq!(names(&slow), ["update 1=0", "update 2=0"]);
    engine.complete(slow.remove(1).ticket, ms(1000), ok());
    assert_eq!(turn(&mut engine, &db, ms(2000), &[]), ["update 2=0"]);
    engine.request_full_compare();
    assert_eq!(
        turn(&mut engine, &db, ms(2001), &[]),
        [""; 0],
        "the prune waits"
    );
    engine.complete(slow.remove(0).ticket, ms(2001), ok());
    assert_eq!(turn(&mut engine, &db, ms(2001), &[]), ["prune 2"]);
    assert_eq!(
        turn(&mut engine, &db, ms(2001), &[]),
        ["update 1=0", "update 2=0"]
    );
}

#[test]
fn an_older_snapshot_never_prunes_what_is_newer() {
    let (db, items) = db_with_items();
    let old = db.snapshot();
    let mut engine = engine(&db, &items.table, config());
    items.put(&db, Item::new(1, 0));
    turn(&mut engine, &db, ms(0), &[]);
    engine.request_full_compare();
    assert_eq!(names(&engine.poll(&old, ms(1))), ["update 1=0"]);
    items.put(&db, Item::new(2, 0));
    let mut other = Engine::new(&db, &items.table, config());
    assert_eq!(names(&other.poll(&old, ms(1))), [""; 0]);
}

#[test]
fn a_wait_ends_when_the_revision_is_realised() {
    let (db, items) = db_with_items();
    let others = Items::register(&db, "others");
    let mut engine = engine(&db, &items.table, config());
    let observer = engine.observer();
    let broken = items.put(&db, Item::new(1, 0));
    let good = items.put(&db, Item::new(2, 0));
    let elsewhere = others.put(&db, Item::new(9, 0));
    let realized = |revision| observer.wait_realized(revision, Duration::ZERO);
    let row = |id, revision| {
        block_on_timeout(observer.row_realized(id, revision), Duration::ZERO).is_some()
    };
    assert!(!realized(broken) && !row(2, good));

    turn(&mut engine, &db, ms(0), &["update 1=0"]);
    assert!(row(2, good) && !row(1, broken) && !realized(good));
    assert!(matches!(
        observer.status(&1),
        Some(Status::Error { attempts: 1, .. })
    ));
    let waiting = observer.clone();
    let waiter =
        std::thread::spawn(move || waiting.wait_realized(elsewhere, Duration::from_secs(60)));
    turn(&mut engine, &db, ms(100), &[]);
    assert!(waiter.join().unwrap());

    let elsewhere = others.put(&db, Item::new(9, 1));
    assert!(
        realized(elsewhere),
        "no poll is needed for a change of another table"
    );
    let gone = items.remove(&db, 2);
    assert!(!row(2, gone));
    turn(&mut engine, &db, ms(100), &[]);
    assert!(row(2, gone) && realized(gone));
}

#[test]
fn status_and_counters_read_well() {
    let (db, items) = db_with_items();
    let mut engine = engine(&db, &items.table, config());
    (1..=4).for_each(|id| _ = items.put(&db, Item::new(id, 0)));
    turn(&mut engine, &db, ms(10), &["update 2=0"]);
    turn(&mut engine, &db, ms(110), &["update 2=0"]);
    items.remove(&db, 3);
    items.put(&db, Item::new(4, 1));
    let under_way = engine.poll(&db.snapshot(), ms(120));
    assert_eq!(names(&under_way), ["delete 3", "update 4=1"]);
    let observer = engine.observer();
    let dump: Vec<String> = observer
        .dump()
        .iter()
        .map(|row| serde_json::to_string(row).unwrap())
        .collect();
    expect_test::expect![[r#"
        {"key":"1","revision":1,"deleted":false,"state":"done","since":0.01}
        {"key":"2","revision":2,"deleted":false,"state":"error","message":"no room in map m1","since":0.01,"attempts":2,"retry_at":0.31}
        {"key":"3","revision":5,"deleted":true,"state":"pending","since":0.12}
        {"key":"4","revision":6,"deleted":false,"state":"pending","since":0.12}"#]].assert_eq(&dump.join("\n"));
    for op in under_way {
        engine.complete(op.ticket, ms(150), ok());
    }
    expect_test::expect![[r#"
        {
          "update": {
            "succeeded": 4,
            "failed": 2,
            "time": 0.03
          },
          "delete": {
            "succeeded": 1,
            "failed": 0,
            "time": 0.03
          },
          "prune": {
            "succeeded": 1,
            "failed": 0,
            "time": 0.0
          },
          "refreshes": 0,
          "rows": 3,
          "pending": 1,
          "failing": 1
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&observer.counters()).unwrap());
}
