//! Waiting for a revision to be passed: as a future for any runtime, or blocking.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::Revision;
use crate::sync::lock;

/// A revision that only grows, and the wakers of those who wait for it to pass theirs.
#[derive(Default)]
pub(crate) struct Signal(Mutex<SignalState>);

#[derive(Default)]
struct SignalState {
    revision: Revision,
    next_waiter: u64,
    waiters: BTreeMap<u64, (Revision, Waker)>,
}

impl Signal {
    /// Moves to `revision` and wakes those who waited for less. A lower revision than the present one is ignored.
    pub fn advance(&self, revision: Revision) {
        self.move_to(|present| present.max(revision));
    }

    /// Moves on by one, for what counts steps of its own.
    pub fn bump(&self) {
        self.move_to(Revision::next);
    }

    fn move_to(&self, revision: impl FnOnce(Revision) -> Revision) {
        let woken: Vec<_> = {
            let mut state = lock(&self.0);
            state.revision = revision(state.revision);
            let passed = state.revision;
            state
                .waiters
                .extract_if(.., |_, (since, _)| *since < passed)
                .collect()
        };
        woken.into_iter().for_each(|(_, (_, waker))| waker.wake());
    }

    pub fn revision(&self) -> Revision {
        lock(&self.0).revision
    }

    /// Whether `since` is passed; if not, `waker` is called when it is, in place of the one registered as `waiter`.
    fn poll(&self, since: Revision, waiter: &mut Option<u64>, waker: &Waker) -> bool {
        let mut state = lock(&self.0);
        if state.revision > since {
            return true;
        }
        let id = *waiter.get_or_insert(state.next_waiter);
        state.next_waiter = state.next_waiter.max(id + 1);
        state.waiters.insert(id, (since, waker.clone()));
        false
    }

    fn forget(&self, waiter: u64) {
        lock(&self.0).waiters.remove(&waiter);
    }
}

/// Watches one or more tables (or the progress of a reconciler) for passing a revision.
///
/// It is level-triggered: take a snapshot, work on it, then wait for a change since the snapshot's revision; a commit
/// in between ends the wait at once.
#[derive(Clone)]
pub struct Watch {
    signals: Vec<Arc<Signal>>,
}

impl Watch {
    pub(crate) fn new(signal: Arc<Signal>) -> Self {
        Self {
            signals: vec![signal],
        }
    }

    /// A watch on everything that this one or the other watches.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.signals.extend(other.signals);
        self
    }

    /// The latest revision of anything watched.
    pub fn revision(&self) -> Revision {
        self.signals
            .iter()
            .map(|signal| signal.revision())
            .max()
            .unwrap_or_default()
    }

    /// Whether anything watched has changed since `since`.
    pub fn is_changed(&self, since: Revision) -> bool {
        self.revision() > since
    }

    /// A future that ends when anything watched has changed since `since`. Dropping it costs nothing and loses nothing.
    pub fn changed(&self, since: Revision) -> Changed {
        let signals = self
            .signals
            .iter()
            .map(|signal| (signal.clone(), None))
            .collect();
        Changed { signals, since }
    }

    /// Blocks until anything watched has changed since `since`, at most for `timeout`; says whether it has.
    pub fn wait_timeout(&self, since: Revision, timeout: Duration) -> bool {
        block_on_timeout(self.changed(since), timeout).is_some()
    }
}

/// Future of [`Watch::changed`].
#[must_use = "a future does nothing unless awaited"]
pub struct Changed {
    signals: Vec<(Arc<Signal>, Option<u64>)>,
    since: Revision,
}

impl Future for Changed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let since = self.since;
        let changed = self
            .signals
            .iter_mut()
            .any(|(signal, waiter)| signal.poll(since, waiter, cx.waker()));
        if changed {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        for (signal, waiter) in &self.signals {
            if let Some(waiter) = waiter {
                signal.forget(*waiter);
            }
        }
    }
}

/// Runs a future on this thread until it ends or `timeout` has passed. For callers without an async runtime.
pub fn block_on_timeout<F: Future>(future: F, timeout: Duration) -> Option<F::Output> {
    let parker = Arc::new(Parker::default());
    let waker = Waker::from(parker.clone());
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    // A blocking wait is about the real clock by nature; everything else in this crate is told the time.
    let start = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        parker.park(timeout.checked_sub(start.elapsed())?);
    }
}

#[derive(Default)]
struct Parker {
    woken: Mutex<bool>,
    condition: Condvar,
}

impl Parker {
    fn park(&self, timeout: Duration) {
        let woken = lock(&self.woken);
        let waited = self
            .condition
            .wait_timeout_while(woken, timeout, |woken| !*woken);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        *lock(&self.woken) = true;
        self.condition.notify_one();
    }
}
