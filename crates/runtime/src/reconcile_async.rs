//! The loop that drives a reconcile engine whose target is far away: many operations wait at the same time.
use crate::{health::Component, reconcile::report, stop::Stop};
use futures::{StreamExt, stream::FuturesUnordered};
use std::time::{Duration, Instant};
use tables::{
    Db, Row, Snapshot, Table,
    reconcile::{Config, Engine, Observer, Op, OpKind, Ticket},
};
use tokio::time::sleep;

/// Carries operations out, each idempotent, several at the same time but never two of one row.
pub trait AsyncTarget<T: Row>: Send + Sync {
    /// Carries one out; the error is a line for people.
    fn carry_out(
        &self,
        snapshot: &Snapshot,
        work: &OpKind<T>,
    ) -> impl Future<Output = Result<(), String>> + Send;
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
    G: AsyncTarget<T> + 'static,
{
    let engine = Engine::new(db, table, config);
    let observer = engine.observer();
    let work = run(db.clone(), table.clone(), engine, target, health);
    tokio::spawn(async move { stop.or(work).await });
    observer
}

async fn run<T: Row, G: AsyncTarget<T>>(
    db: Db,
    table: Table<T>,
    mut engine: Engine<T>,
    target: G,
    health: Component,
) {
    // Engines count time from any fixed moment.
    let start = Instant::now();
    let observer = engine.observer();
    let watch = table.watch();
    let mut running = FuturesUnordered::new();
    loop {
        let snapshot = db.snapshot();
        let seen = table.revision(&snapshot);
        for op in engine.poll(&snapshot, start.elapsed()) {
            running.push(perform(&target, snapshot.clone(), op));
        }
        report(&observer, &health);
        let pause = engine
            .deadline()
            .map_or(Duration::MAX, |at| at.saturating_sub(start.elapsed()));
        tokio::select! {
            Some((ticket, outcome)) = running.next() => {
                engine.complete(ticket, start.elapsed(), outcome);
            }
            () = watch.changed(seen) => {}
            () = sleep(pause) => {}
        }
    }
}

async fn perform<T: Row, G: AsyncTarget<T>>(
    target: &G,
    snapshot: Snapshot,
    op: Op<T>,
) -> (Ticket, Result<(), String>) {
    let outcome = target.carry_out(&snapshot, &op.kind).await;
    (op.ticket, outcome)
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
    use tables::TableDef;

    #[derive(Serialize)]
    struct Number(u32);

    impl Row for Number {
        type Key = u32;

        fn key(&self) -> u32 {
            self.0
        }
    }

    /// Refuses every number once, and keeps others waiting while 1 is under way.
    #[derive(Clone, Default)]
    struct Slow {
        there: Arc<Mutex<BTreeSet<u32>>>,
        refused: Arc<Mutex<BTreeSet<u32>>>,
    }

    impl AsyncTarget<Number> for Slow {
        async fn carry_out(&self, _: &Snapshot, work: &OpKind<Number>) -> Result<(), String> {
            match work {
                OpKind::Update(row) => {
                    if row.0 == 1 {
                        // The others are not kept waiting by this one.
                        while self.there.lock().unwrap().len() < 2 {
                            sleep(Duration::from_millis(1)).await;
                        }
                    }
                    if self.refused.lock().unwrap().insert(row.0) {
                        return Err("not yet".to_owned());
                    }
                    self.there.lock().unwrap().insert(row.0);
                }
                OpKind::Delete(row) => drop(self.there.lock().unwrap().remove(&row.0)),
                OpKind::Prune(_) => {}
            }
            Ok(())
        }
    }

    #[tokio::test]
    async fn operations_run_side_by_side_and_are_tried_again() {
        let db = Db::new();
        let table = db.register(TableDef::new("numbers")).unwrap();
        let (_stopper, stop) = stop::channel();
        let target = Slow::default();
        let component = Health::default().component("numbers");
        let observer = spawn(
            &db,
            &table,
            Config::default(),
            target.clone(),
            component,
            stop,
        );
        let mut txn = db.write();
        for n in [1, 2, 3] {
            table.insert(&mut txn, Number(n)).unwrap();
        }
        let revision = txn.commit();
        tokio::time::timeout(Duration::from_secs(5), observer.realized(revision))
            .await
            .unwrap();
        let mut txn = db.write();
        table.delete(&mut txn, &2);
        let revision = txn.commit();
        tokio::time::timeout(Duration::from_secs(5), observer.realized(revision))
            .await
            .unwrap();
        assert_eq!(*target.there.lock().unwrap(), BTreeSet::from([1, 3]));
    }
}
