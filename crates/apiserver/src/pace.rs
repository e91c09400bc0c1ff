//! New pods wait while there is work, so that what has begun comes to its end.
//!
//! A pod that is made is the beginning of work for others, which in a lab have the same processors as the server. If a hundred
//! come at once and all are taken in at once, they are worked on by turns, and each is as late as the last one. So they are let in one
//! by one, whenever a processor has nothing else to do: a thread of the lowest priority finds out. Where processors never rest (others
//! may use them, too) each waits for its turn, and then not longer than [`LIMIT`].

use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

/// How long the first in the line waits at most.
const LIMIT: Duration = Duration::from_millis(10);
/// The lowest priority.
const LOWEST: i32 = 19;

/// The line in which new pods wait.
pub(super) struct Pace {
    /// Held by the first in the line; the others wait for it in the order in which they came.
    asks: Mutex<mpsc::Sender<oneshot::Sender<()>>>,
}

impl Pace {
    /// Starts the thread, which ends with the value.
    pub(super) fn start() -> Self {
        let (ask, hear) = mpsc::channel::<oneshot::Sender<()>>();
        let answer = move || {
            if let Err(error) = rustix::process::nice(LOWEST) {
                tracing::debug!(%error, "new pods do not wait for others");
            }
            for asked in hear {
                // Whoever waited too long is gone.
                let _ = asked.send(());
            }
        };
        // Without the thread nobody answers, and everybody goes on at once.
        let thread = std::thread::Builder::new().name("pace".to_owned());
        if let Err(error) = thread.spawn(answer) {
            tracing::warn!(%error, "new pods do not wait for others");
        }
        Self {
            asks: Mutex::new(ask),
        }
    }

    /// Waits for a processor that has nothing to do.
    pub(super) async fn wait(&self) {
        let asks = self.asks.lock().await;
        let (ask, answer) = oneshot::channel();
        if asks.send(ask).is_ok() {
            let _ = timeout(LIMIT, answer).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn everybody_comes_in() {
        let pace = Arc::new(Pace::start());
        let waits = (0..20).map(|_| {
            let pace = Arc::clone(&pace);
            tokio::spawn(async move { pace.wait().await })
        });
        for wait in waits.collect::<Vec<_>>() {
            wait.await.unwrap();
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_a_thread_that_is_not_there() {
        let (ask, hear) = mpsc::channel();
        drop(hear);
        let pace = Pace {
            asks: Mutex::new(ask),
        };
        pace.wait().await;
        let (ask, hear) = mpsc::channel();
        let pace = Pace {
            asks: Mutex::new(ask),
        };
        // It hears, and never answers.
        pace.wait().await;
        drop(hear);
    }
}
