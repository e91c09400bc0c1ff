use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use hypha_tables::reconcile::{Config, Engine};
use hypha_tables::{ChangeKind, ChangeTracker, Read, Revision, block_on_timeout};

use crate::rows::{Item, Items, db_with_items, seen};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(5);

#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_watch_wakes_once_for_its_own_tables_only() {
    let (db, items) = db_with_items();
    let others = Items::register(&db, "others");
    let counter = Arc::new(Counter::default());
    let waker = Waker::from(counter.clone());
    let mut cx = Context::from_waker(&waker);

    let mut changed = pin!(items.table.watch().changed(db.snapshot().revision()));
    assert_eq!(changed.as_mut().poll(&mut cx), Poll::Pending);
    assert_eq!(changed.as_mut().poll(&mut cx), Poll::Pending);
    others.put(&db, Item::new(1, 0));
    assert_eq!(counter.0.load(Ordering::Relaxed), 0);
    drop(db.write());
    let mut any = pin!(db.watch().changed(db.snapshot().revision()));
    assert_eq!(any.as_mut().poll(&mut cx), Poll::Pending);
    db.write().commit();
    assert_eq!(counter.0.load(Ordering::Relaxed), 0, "nothing was written");
    any.set(db.watch().changed(db.snapshot().revision()));
    items.put(&db, Item::new(1, 0));
    assert_eq!(counter.0.load(Ordering::Relaxed), 1);
    assert_eq!(changed.as_mut().poll(&mut cx), Poll::Ready(()));
    items.put(&db, Item::new(1, 0));
    assert_eq!(counter.0.load(Ordering::Relaxed), 1);
}

#[test]
fn everybody_who_waits_is_woken() {
    let (db, items) = db_with_items();
    let counters: [Arc<Counter>; 3] = Default::default();
    let mut waits: Vec<_> = counters
        .iter()
        .map(|_| Box::pin(items.table.watch().changed(Revision::ZERO)))
        .collect();
    for (wait, counter) in waits.iter_mut().zip(&counters) {
        let waker = Waker::from(counter.clone());
        assert_eq!(
            wait.as_mut().poll(&mut Context::from_waker(&waker)),
            Poll::Pending
        );
    }
    drop(waits.remove(1));
    items.put(&db, Item::new(1, 0));
    assert_eq!(
        counters.map(|counter| counter.0.load(Ordering::Relaxed)),
        [1, 0, 1]
    );
}

#[test]
fn a_dropped_wait_is_forgotten() {
    let (db, items) = db_with_items();
    let counter = Arc::new(Counter::default());
    let waker = Waker::from(counter.clone());
    {
        let mut changed = pin!(items.table.watch().changed(Revision::ZERO));
        assert_eq!(
            changed.as_mut().poll(&mut Context::from_waker(&waker)),
            Poll::Pending
        );
    }
    items.put(&db, Item::new(1, 0));
    assert_eq!(counter.0.load(Ordering::Relaxed), 0);
    drop(waker);
    assert_eq!(Arc::strong_count(&counter), 1);
}

#[test]
fn waits_end_by_change_by_time_or_at_once() {
    let (db, items) = db_with_items();
    let others = Items::register(&db, "others");
    let both = items.table.watch().and(others.table.watch());
    let start = db.snapshot().revision();
    assert!(!both.wait_timeout(start, SHORT));
    assert!(!db.watch().wait_timeout(start, SHORT));
    let (writer_db, writer) = (db.clone(), others.clone());
    let thread = thread::spawn(move || writer.put(&writer_db, Item::new(1, 0)));
    assert!(both.wait_timeout(start, LONG));
    assert!(
        both.wait_timeout(start, Duration::ZERO),
        "it is a level, not an edge"
    );
    let written = thread.join().unwrap();
    assert!(db.watch().is_changed(start) && others.table.watch().is_changed(start));
    assert!(!items.table.watch().is_changed(start));
    assert_eq!(both.revision(), written);
    assert_eq!(block_on_timeout(std::future::pending::<()>(), SHORT), None);
}

/// Writers and followers on several threads: a follower that waits, then reads what is new, ends up with the last
/// state, and sees revisions only rise.
#[test]
fn followers_on_other_threads_miss_nothing() {
    const WRITES: u64 = 400;
    let (db, items) = db_with_items();
    let barrier = Arc::new(Barrier::new(4));
    let follow = |mut place: ChangeTracker<Item>| {
        let (db, items, barrier) = (db.clone(), items.clone(), barrier.clone());
        thread::spawn(move || {
            barrier.wait();
            let mut rows = BTreeMap::new();
            loop {
                let snapshot = db.snapshot();
                apply(&mut rows, seen(&mut place, &snapshot));
                if rows.contains_key(&1000) && rows.contains_key(&1001) {
                    return rows;
                }
                assert!(items.table.watch().wait_timeout(snapshot.revision(), LONG));
            }
        })
    };
    let followers = [
        follow(db.track(&items.table)),
        follow(db.track(&items.table)),
    ];
    let write = |first: u32| {
        let (db, items, barrier) = (db.clone(), items.clone(), barrier.clone());
        thread::spawn(move || {
            barrier.wait();
            for value in 0..WRITES {
                let id = first + (value % 7) as u32 * 2;
                if value % 3 == 0 {
                    items.remove(&db, id)
                } else {
                    items.put(&db, Item::new(id, value))
                };
            }
            items.put(&db, Item::new(1000 + first, 0));
        })
    };
    [write(0), write(1)]
        .into_iter()
        .for_each(|writer| writer.join().unwrap());
    let now = db.snapshot();
    let expected: BTreeMap<_, _> = items
        .table
        .iter(&now)
        .map(|row| (row.id, row.value))
        .collect();
    for follower in followers {
        assert_eq!(follower.join().unwrap(), expected);
    }
}

#[test]
fn handles_go_where_they_are_needed() {
    fn shared<S: Send + Sync + 'static>(_: &S) {}
    fn sent<S: Send + 'static>(_: &S) {}
    let (db, items) = db_with_items();
    let engine = Engine::new(&db, &items.table, Config::default());
    shared(&(
        db.clone(),
        db.snapshot(),
        items.table.clone(),
        items.by_label.clone(),
    ));
    shared(&(items.table.watch(), engine.observer()));
    sent(&items.table.watch().changed(Revision::ZERO));
    sent(&engine.observer().row_realized(1, Revision::ZERO));
    sent(&(db.track(&items.table), engine));
}

/// Trackers made while rows come and go: what each builds from its changes is always what the snapshot has.
#[test]
fn a_tracker_made_during_writes_misses_no_deletion() {
    let (db, items) = db_with_items();
    let done = Arc::new(AtomicUsize::new(0));
    let writer = {
        let (db, items, done) = (db.clone(), items.clone(), done.clone());
        thread::spawn(move || {
            for value in 0_u32..20_000 {
                let id = value.wrapping_mul(7919) % 5;
                match value % 2 {
                    0 => items.put(&db, Item::new(id, value.into())),
                    _ => items.remove(&db, id),
                };
            }
            done.store(1, Ordering::Release);
        })
    };
    while done.load(Ordering::Acquire) == 0 {
        let mut tracker = db.track(&items.table);
        let mut rows = BTreeMap::new();
        for _ in 0..3 {
            let snapshot = db.snapshot();
            apply(&mut rows, seen(&mut tracker, &snapshot));
            let expected = items.table.iter(&snapshot).map(|row| (row.id, row.value));
            assert_eq!(rows, expected.collect());
        }
    }
    writer.join().unwrap();
}

fn apply(rows: &mut BTreeMap<u32, u64>, changes: Vec<(ChangeKind, u32, u64)>) {
    for (kind, id, value) in changes {
        match kind {
            ChangeKind::Upsert => _ = rows.insert(id, value),
            ChangeKind::Delete => _ = rows.remove(&id),
        }
    }
}
