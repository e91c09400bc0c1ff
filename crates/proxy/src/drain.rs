//! Going away without cutting anybody off: everybody is asked to finish, and after a deadline those who are left are ended.
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Asks for the end, and waits for it.
#[derive(Debug)]
pub struct Drainer {
    asked: watch::Sender<Phase>,
    left: mpsc::Receiver<()>,
}

/// Held by everything that has to finish; cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain {
    asked: watch::Receiver<Phase>,
    _left: mpsc::Sender<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Draining,
    Over,
}

/// A new pair.
#[must_use]
pub fn channel() -> (Drainer, Drain) {
    let (asked, receiver) = watch::channel(Phase::Serving);
    let (sender, left) = mpsc::channel(1);
    let drainer = Drainer { asked, left };
    let drain = Drain {
        asked: receiver,
        _left: sender,
    };
    (drainer, drain)
}

impl Drainer {
    /// Asks everybody to finish and waits until they have; true if nobody had to be ended at the deadline.
    pub async fn drain(mut self, deadline: Duration) -> bool {
        self.asked.send_replace(Phase::Draining);
        let finished = tokio::time::timeout(deadline, self.left.recv())
            .await
            .is_ok();
        if !finished {
            self.asked.send_replace(Phase::Over);
            self.left.recv().await;
        }
        finished
    }
}

impl Drain {
    /// Ends when it is time to take nothing new and to finish what is under way.
    pub async fn asked(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Ends when it is time to break off.
    pub async fn over(&self) {
        self.reached(Phase::Over).await;
    }

    /// True once it is time to take nothing new.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        *self.asked.borrow() >= Phase::Draining
    }

    async fn reached(&self, phase: Phase) {
        let mut asked = self.asked.clone();
        if asked.wait_for(|now| *now >= phase).await.is_err() {
            // Nobody is left to say anything: that is no request to stop.
            std::future::pending::<()>().await;
        }
    }
}
