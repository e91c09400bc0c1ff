//! The probes of a container that runs.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::sync::mpsc;

use tokio::time::Instant;

use super::Context;
use super::events::About;
use super::probe::{Asker, Judge, initial_delay, period};
use super::process::Inside;

/// The least pause before a container that is not ready yet is asked again, in the hope that it is soon. It grows with the time that
/// has passed, of which it is this part.
const EAGER: Duration = Duration::from_millis(10);
const EAGER_PART: u32 = 10;

/// What probes of a run say.
pub(super) enum Said {
    Started,
    Ready(bool),
    Dead(&'static str),
}

/// The probes of one run.
pub(super) struct Prober {
    pub(super) context: Arc<Context>,
    pub(super) about: About,
    pub(super) container: Container,
    pub(super) inside: Inside,
    pub(super) ip: Option<IpAddr>,
}

impl Prober {
    pub(super) async fn run(self, say: mpsc::UnboundedSender<Said>) {
        if let Some(probe) = &self.container.startup_probe {
            let mut judge = Judge::new(probe);
            let startup = self.repeat(probe, "Startup", |good| match judge.take(good) {
                Some(true) => Some(Said::Started),
                Some(false) => Some(Said::Dead("startup")),
                None => None,
            });
            if let Some(said) = startup.await {
                let dead = matches!(said, Said::Dead(_));
                if say.send(said).is_err() || dead {
                    return;
                }
            }
        }
        tokio::join!(self.readiness(&say), self.liveness(&say));
        // Nothing more to say, but the channel stays open: its end would mean something else.
        std::future::pending::<()>().await;
    }

    async fn readiness(&self, say: &mpsc::UnboundedSender<Said>) {
        let Some(probe) = &self.container.readiness_probe else {
            return;
        };
        let (mut judge, mut ready) = (Judge::new(probe), false);
        self.repeat(probe, "Readiness", |good| {
            if let Some(now) = judge.take(good).filter(|now| *now != ready) {
                ready = now;
                let _ = say.send(Said::Ready(now));
            }
            None
        })
        .await;
    }

    async fn liveness(&self, say: &mpsc::UnboundedSender<Said>) {
        let Some(probe) = &self.container.liveness_probe else {
            return;
        };
        let mut judge = Judge::new(probe);
        let dead = self.repeat(probe, "Liveness", |good| {
            (judge.take(good) == Some(false)).then_some(Said::Dead("liveness"))
        });
        if let Some(dead) = dead.await {
            let _ = say.send(dead);
        }
    }

    /// Asks in the probe's rhythm until `take` has something to say. Until the first success it is asked more often, and
    /// failures between the times of the rhythm do not count; a liveness probe is for what was well before.
    async fn repeat(
        &self,
        probe: &Probe,
        name: &str,
        mut take: impl FnMut(bool) -> Option<Said>,
    ) -> Option<Said> {
        let asker = Asker {
            node: &self.context.node,
            container: &self.container,
            inside: &self.inside,
            ip: self.ip,
        };
        tokio::time::sleep(initial_delay(probe)).await;
        let began = Instant::now();
        let mut eager = (name != "Liveness").then_some(EAGER);
        let mut due = began;
        loop {
            let counts = Instant::now() >= due;
            if counts {
                due += period(probe);
            }
            let asked = asker.probe(probe).await;
            if asked.is_ok() {
                eager = None;
            }
            if let (Err(e), None) = (&asked, eager) {
                let message = format!("{name} probe failed: {e}");
                self.context.events.warning(
                    &self.about,
                    Some(&self.container.name),
                    "Unhealthy",
                    message,
                );
            }
            let said = (counts || asked.is_ok()).then(|| take(asked.is_ok()));
            if let Some(said) = said.flatten() {
                return Some(said);
            }
            match eager {
                Some(pause) => tokio::time::sleep(pause).await,
                None => {
                    // As the runtime was away for a while, the rhythm begins anew.
                    due = due.max(Instant::now());
                    tokio::time::sleep_until(due).await;
                }
            }
            let pause = EAGER.max(began.elapsed() / EAGER_PART);
            eager = eager.map(|_| pause).filter(|e| *e < period(probe));
        }
    }
}
