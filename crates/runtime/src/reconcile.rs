//! The loop that drives a reconcile engine: waits for changes and deadlines, does the work, says how it went.
use crate::{health::Component, stop::Stop};
use std::time::{Duration, Instant};
use tables::{
    Db, Row, Table,
    reconcile::{Config, Counters, Engine, Observer, Target},
};
use tokio::time::sleep;

/// Name, counters and one line about what is not applied, of any reconciler.
pub trait Watched: Send + Sync {
    /// Name of the table.
    fn name(&self) -> &'static str;
    /// The engine's numbers.
    fn counters(&self) -> Counters;
    /// Row statuses as JSON, in the order of the keys.
    fn statuses(&self) -> Vec<tables::reconcile::StatusRow>;
}

impl<T: Row> Watched for Observer<T> {
    fn name(&self) -> &'static str {
        self.table().name()
    }

    fn counters(&self) -> Counters {
        Observer::counters(self)
    }

    fn statuses(&self) -> Vec<tables::reconcile::StatusRow> {
        self.dump()
    }
}

/// Starts reconciling `table` into `target` on the current runtime; ends with `stop`.
pub fn spawn<T, G>(
    db: &Db,
    table: &Table<T>,
    config: Config,
    target: G,
    health: Component,
    stop: Stop,
) -> Observer<T>
where
    T: Row,
    G: Target<T> + Send + 'static,
{
    let engine = Engine::new(db, table, config);
    let observer = engine.observer();
    let work = run(db.clone(), table.clone(), engine, target, health);
    tokio::spawn(async move { stop.or(work).await });
    observer
}

async fn run<T: Row, G: Target<T>>(
    db: Db,
    table: Table<T>,
    mut engine: Engine<T>,
    mut target: G,
    health: Component,
) {
    // Engines count time from any fixed moment.
    let start = Instant::now();
    let observer = engine.observer();
    let watch = table.watch();
    loop {
        let snapshot = db.snapshot();
        let seen = table.revision(&snapshot);
        let deadline = engine.step(&snapshot, start.elapsed(), &mut target);
        report(&observer, &health);
        let pause = deadline.map(|at| at.saturating_sub(start.elapsed()));
        match pause {
            Some(Duration::ZERO) => tokio::task::yield_now().await,
            Some(pause) => {
                tokio::select! {
                    () = watch.changed(seen) => {}
                    () = sleep(pause) => {}
                }
            }
            None => watch.changed(seen).await,
        }
    }
}

pub(crate) fn report<T: Row>(observer: &Observer<T>, health: &Component) {
    let counters = observer.counters();
    if let Some(error) = observer.prune_error() {
        health.degraded(format!("stale rows could not be removed: {error}"));
    } else if counters.failing == 0 {
        health.ok(format!("{} rows", counters.rows));
    } else {
        let first = observer.first_error();
        let failing = first.map(|(key, message)| format!("{key}: {message}"));
        health.degraded(format!(
            "{} of {} rows not applied; {}",
            counters.failing,
            counters.rows,
            failing.unwrap_or_default()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{health::Health, stop};
    use serde::Serialize;
    use std::{
        collections::BTreeSet,
        sync::{Arc, Mutex},
    };
    use tables::{Snapshot, TableDef};

    #[derive(Serialize)]
    struct Number(u32);

    impl Row for Number {
        type Key = u32;

        fn key(&self) -> u32 {
            self.0
        }
    }

    #[derive(Clone, Default)]
    struct Set(Arc<Mutex<BTreeSet<u32>>>);

    impl Target<Number> for Set {
        type Error = String;

        fn update(&mut self, _: &Snapshot, row: &Number) -> Result<(), String> {
            self.0.lock().unwrap().insert(row.0);
            if row.0 == 13 {
                Err("unlucky".to_owned())
            } else {
                Ok(())
            }
        }

        fn delete(&mut self, _: &Snapshot, row: &Number) -> Result<(), String> {
            self.0.lock().unwrap().remove(&row.0);
            Ok(())
        }

        fn prune(
            &mut self,
            _: &Snapshot,
            rows: &mut dyn Iterator<Item = &Number>,
        ) -> Result<(), String> {
            let keep: BTreeSet<u32> = rows.map(|row| row.0).collect();
            self.0.lock().unwrap().retain(|n| keep.contains(n));
            Ok(())
        }
    }

    #[tokio::test]
    async fn rows_reach_the_target_and_failures_the_health() {
        let db = Db::new();
        let table = db.register(TableDef::new("numbers")).unwrap();
        let (stopper, stop) = stop::channel();
        let target = Set::default();
        target.0.lock().unwrap().insert(99);
        let health = Health::default();
        let component = health.component("numbers");
        let observer = spawn(
            &db,
            &table,
            Config::default(),
            target.clone(),
            component,
            stop,
        );
        let insert = |n| {
            let mut txn = db.write();
            table.insert(&mut txn, Number(n)).unwrap();
            txn.commit()
        };
        let revision = insert(1);
        tokio::time::timeout(Duration::from_secs(5), observer.realized(revision))
            .await
            .unwrap();
        insert(13);
        while !health.reports()[0].message.contains("unlucky") {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(
            *target.0.lock().unwrap(),
            BTreeSet::from([1, 13]),
            "99 was pruned"
        );
        stopper.stop();
    }
}
