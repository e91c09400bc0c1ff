use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use super::ledger::Task;
use super::observer::{Board, BoardState, Counters, Observer, OpCounters};
use super::{Config, Desired, Op, OpKind, Ticket};
use crate::sync::lock;
use crate::{ChangeTracker, Db, Read, Revision, Row, Snapshot, Table};

/// Decides what to do so that the outside becomes equal to a table. See the [module](super) for the whole picture.
pub struct Engine<T: Row> {
    config: Config,
    tracker: ChangeTracker<T>,
    board: Arc<Board<T>>,
    in_flight: BTreeMap<Ticket, Flight<T::Key>>,
    tickets: u64,
    prune: Prune,
    refresh: Refresh<T::Key>,
    /// The time of the last call.
    now: Duration,
    /// The last snapshot has changes that were not taken up.
    backlog: bool,
}

/// An operation under way.
struct Flight<K> {
    work: Work<K>,
    started: Duration,
}

enum Work<K> {
    Row {
        key: K,
        revision: Revision,
        deleted: bool,
    },
    Prune,
}

#[derive(Default)]
struct Prune {
    /// All initialisers of the table were done in the last snapshot.
    allowed: bool,
    due: Option<Duration>,
    attempts: u32,
}

enum Refresh<K> {
    /// Nothing was polled yet.
    Unplanned,
    Due(Option<Duration>),
    /// Rows up to and including this key have been dealt with.
    Running(Option<K>),
}

impl<T: Row> Engine<T> {
    /// An engine for `table`. It keeps the table's deletions from being forgotten until it has taken them up.
    pub fn new(db: &Db, table: &Table<T>, config: Config) -> Self {
        Self {
            config: Config {
                batch: config.batch.max(1),
                ..config
            },
            tracker: db.track(table),
            board: Arc::new(Board::new()),
            in_flight: BTreeMap::new(),
            tickets: 0,
            prune: Prune {
                due: Some(Duration::ZERO),
                ..Prune::default()
            },
            refresh: Refresh::Unplanned,
            now: Duration::ZERO,
            backlog: true,
        }
    }

    /// A handle for looking at this engine from anywhere.
    pub fn observer(&self) -> Observer<T> {
        Observer {
            table: self.tracker.table().clone(),
            board: self.board.clone(),
        }
    }

    /// Plans a full compare and a prune for the next poll: for when something else is known to have been at work.
    pub fn request_full_compare(&mut self) {
        self.refresh = Refresh::Running(None);
        self.prune.due = Some(self.now);
    }

    /// Takes up what has changed and returns what to do now. Operations of one call are in revision order, but none
    /// depends on another: they may run at once and end in any order.
    ///
    /// Call it when the table has changed, when operations have been completed, and at the [deadline](Self::deadline).
    pub fn poll(&mut self, snapshot: &Snapshot, now: Duration) -> Vec<Op<T>> {
        self.now = now;
        let board = self.board.clone();
        let mut state = lock(&board.state);
        self.absorb(snapshot, &mut state);
        state.ledger.wake_retries(now);
        self.plan_refresh();
        let ops = if self.prune_is_due() {
            Vec::from_iter(self.start_prune(snapshot))
        } else {
            self.start_rows(&mut state)
        };
        drop(state);
        board.steps.bump();
        ops
    }

    /// Takes the outcome of an operation.
    pub fn complete<E: Display>(&mut self, ticket: Ticket, now: Duration, outcome: Result<(), E>) {
        self.now = now;
        let Some(flight) = self.in_flight.remove(&ticket) else {
            return;
        };
        let outcome = outcome.map_err(|error| format!("{error:#}"));
        let mut state = lock(&self.board.state);
        flight
            .counters(&mut state.counters)
            .count(outcome.is_ok(), now.saturating_sub(flight.started));
        match flight.work {
            Work::Row { key, revision, .. } => {
                state
                    .ledger
                    .settle(&key, revision, outcome, now, &self.config)
            }
            Work::Prune => {
                self.prune.settle(outcome.is_ok(), now, &self.config);
                state.prune_error = outcome.err();
            }
        }
        drop(state);
        self.board.steps.bump();
    }

    /// When to poll next if nothing changes and nothing is completed before; a time not after the last call's means
    /// at once, none means never.
    pub fn deadline(&self) -> Option<Duration> {
        let state = lock(&self.board.state);
        let prune = self.prune.due.filter(|_| self.prune.allowed);
        if prune.is_some_and(|due| due <= self.now) {
            return self.in_flight.is_empty().then_some(self.now);
        }
        let refreshing = matches!(self.refresh, Refresh::Running(_));
        let at_once = self.room() > 0 && (self.backlog || refreshing || state.ledger.ready() > 0);
        let refresh = match self.refresh {
            Refresh::Due(due) => due,
            Refresh::Unplanned | Refresh::Running(_) => None,
        };
        let times = [
            at_once.then_some(self.now),
            prune,
            refresh,
            state.ledger.next_retry(),
        ];
        times.into_iter().flatten().min()
    }

    /// Takes up as many changes as can be acted on.
    fn absorb(&mut self, snapshot: &Snapshot, state: &mut BoardState<T>) {
        let room = self.config.batch.saturating_sub(state.ledger.ready());
        for change in self.tracker.changes(snapshot).take(room) {
            state.ledger.absorb(&change, self.now);
        }
        state.absorbed = self.tracker.position();
        self.backlog = state.absorbed < snapshot.revision();
        // An older snapshot than the last one may lack rows that have been realised since.
        let recent = state.absorbed.max(self.tracker.start()) <= snapshot.revision();
        self.prune.allowed = recent && self.tracker.table().initialized(snapshot);
    }

    fn prune_is_due(&self) -> bool {
        self.prune.allowed && self.prune.due.is_some_and(|due| due <= self.now)
    }

    /// The prune, unless something else is still under way; until that has ended nothing new is started.
    fn start_prune(&mut self, snapshot: &Snapshot) -> Option<Op<T>> {
        let idle = self.in_flight.is_empty();
        let desired = Desired {
            table: self.tracker.table().clone(),
            snapshot: snapshot.clone(),
        };
        idle.then(|| self.issue(Work::Prune, OpKind::Prune(desired)))
    }

    fn start_rows(&mut self, state: &mut BoardState<T>) -> Vec<Op<T>> {
        let mut ops = Vec::new();
        while self.room() > 0
            && let Some(task) = state.ledger.start_ready()
        {
            ops.push(self.issue_task(task));
        }
        while self.room() > 0
            && let Some(task) = self.next_refresh(state)
        {
            ops.push(self.issue_task(task));
        }
        ops
    }

    /// Starts a full compare that is due.
    fn plan_refresh(&mut self) {
        match self.refresh {
            Refresh::Unplanned => {
                self.refresh =
                    Refresh::Due(self.config.refresh_interval.map(|pause| self.now + pause))
            }
            Refresh::Due(Some(due)) if due <= self.now => self.refresh = Refresh::Running(None),
            Refresh::Due(_) | Refresh::Running(_) => {}
        }
    }

    fn next_refresh(&mut self, state: &mut BoardState<T>) -> Option<Task<T>> {
        let Refresh::Running(after) = &self.refresh else {
            return None;
        };
        let task = state.ledger.start_refresh(after.as_ref());
        self.refresh = match &task {
            Some(task) => Refresh::Running(Some(task.key.clone())),
            None => {
                state.counters.refreshes += 1;
                Refresh::Due(self.config.refresh_interval.map(|pause| self.now + pause))
            }
        };
        task
    }

    fn issue_task(&mut self, task: Task<T>) -> Op<T> {
        let Task {
            key,
            revision,
            row,
            deleted,
        } = task;
        let kind = if deleted {
            OpKind::Delete(row)
        } else {
            OpKind::Update(row)
        };
        self.issue(
            Work::Row {
                key,
                revision,
                deleted,
            },
            kind,
        )
    }

    fn issue(&mut self, work: Work<T::Key>, kind: OpKind<T>) -> Op<T> {
        self.tickets += 1;
        self.in_flight.insert(
            Ticket(self.tickets),
            Flight {
                work,
                started: self.now,
            },
        );
        Op {
            ticket: Ticket(self.tickets),
            kind,
        }
    }

    fn room(&self) -> usize {
        self.config.batch.saturating_sub(self.in_flight.len())
    }
}

impl<K> Flight<K> {
    fn counters<'c>(&self, counters: &'c mut Counters) -> &'c mut OpCounters {
        match self.work {
            Work::Row { deleted: false, .. } => &mut counters.update,
            Work::Row { deleted: true, .. } => &mut counters.delete,
            Work::Prune => &mut counters.prune,
        }
    }
}

impl OpCounters {
    fn count(&mut self, succeeded: bool, time: Duration) {
        self.time += time;
        match succeeded {
            true => self.succeeded += 1,
            false => self.failed += 1,
        }
    }
}

impl Prune {
    fn settle(&mut self, succeeded: bool, now: Duration, config: &Config) {
        self.attempts = if succeeded {
            0
        } else {
            self.attempts.saturating_add(1)
        };
        self.due = match succeeded {
            true => config.prune_interval.map(|pause| now + pause),
            false => Some(now + config.backoff(self.attempts)),
        };
    }
}
