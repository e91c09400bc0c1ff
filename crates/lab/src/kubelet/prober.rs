//! The probes of a container that runs.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::sync::mpsc;

use super::Context;
use super::events::About;
use super::probe::{Asker, Judge, initial_delay, period};
use super::process::Inside;

/// How often an unready container is asked at first, in the hope that it is ready soon.
const EAGER: Duration = Duration::from_millis(50);

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

    /// Asks in the probe's rhythm until `take` has something to say. Until the first success of a probe that can do no
    /// harm it is asked more often.
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
        let mut eager = (name == "Readiness").then_some(EAGER);
        loop {
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
            if let Some(said) = take(asked.is_ok()) {
                return Some(said);
            }
            let pause = eager.unwrap_or_else(|| period(probe)).min(period(probe));
            tokio::time::sleep(pause).await;
            eager = eager.map(|e| e * 2).filter(|e| *e < period(probe));
        }
    }
}
