//! Services on this node: one planner, fed from the tables, whose rows are written as soon as anything changes.
//!
//! A thread of its own follows the tables ([`core::Core::step`]). It begins with the rows that are pinned, and removes nothing
//! before all inputs are known once; with the API server away everything stays as it is.
mod checks;
mod core;
mod inputs;
mod kernel;
mod left;
mod report;
pub mod settings;
mod sockets;
mod sources;

pub use checks::{serve as serve_checks, serve_healthz};
pub use report::{kind, words};

use self::core::{Core, Next};
use crate::namespaces::Namespaces;
use anyhow::{Context, Result};
use datapath::Datapath;
use inputs::Inputs;
use lb::health::HealthCheck;
use left::{Cleaner, Gone};
use model::{Endpoint, Tables};
use prometheus_client::metrics::histogram::Histogram;
use runtime::{health::Component, settings::Settings, stop::Stop};
use sources::Sources;
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tables::{Read, Revision};
use tokio::sync::{mpsc, watch};

/// Least time between two looks at how everything is.
const TELL: Duration = Duration::from_millis(250);

/// What the health-check node ports answer, by port.
pub type Checks = Arc<BTreeMap<u16, HealthCheck>>;

/// Services on this node; cheap to clone.
#[derive(Clone, Debug)]
pub struct Services(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tables: Tables,
    core: Mutex<Core>,
    enabled: bool,
    /// From a change that was heard to the rows in the kernel.
    delay: Histogram,
    checks: watch::Sender<Checks>,
    /// Up to which revision of the tables the kernel has everything.
    settled: watch::Sender<Revision>,
    namespaces: Namespaces,
    sources: Mutex<Sources>,
    /// Why programs are not at sockets as they should be; none if they are.
    sockets: Mutex<Option<String>>,
    /// What cannot be done for clients of backends that are gone; empty where everything can.
    clients: Mutex<String>,
}

impl Services {
    /// Services with nothing known yet: the kernel goes on with what it has.
    ///
    /// # Errors
    /// Settings that mean nothing, or maps that cannot be read.
    pub fn new(
        tables: &Tables,
        datapath: &Datapath,
        settings: &Settings,
        namespaces: Namespaces,
    ) -> Result<Self> {
        let maps = datapath.services()?;
        let places = settings.bpf_lb_maglev_table_size as usize;
        let inputs = Inputs::new(tables, settings.nodeport_addresses.clone());
        let enabled = settings.kube_proxy_replacement;
        let core = Core::new(
            Box::new(kernel::Maps::new(maps, places)),
            settings::planner(settings)?,
            inputs,
            namespaces.clone(),
            enabled,
            Instant::now(),
        );
        let core = core
            .map_err(|why| anyhow::anyhow!(why.0))
            .context("reading the maps of services")?;
        Ok(Self::of(tables, core, namespaces, enabled))
    }

    fn of(tables: &Tables, core: Core, namespaces: Namespaces, enabled: bool) -> Self {
        let steps = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];
        Self(Arc::new(Shared {
            tables: tables.clone(),
            core: Mutex::new(core),
            enabled,
            delay: Histogram::new(steps),
            checks: watch::Sender::default(),
            settled: watch::Sender::new(Revision::ZERO),
            sources: Mutex::new(Sources::new(tables, namespaces.clone())),
            namespaces,
            sockets: Mutex::default(),
            clients: Mutex::default(),
        }))
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.0.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The endpoint of a network namespace, by the number that programs at sockets tell; none for the host's.
    #[must_use]
    pub fn socket_owner(&self, netns: u64) -> Option<Arc<Endpoint>> {
        let sources = self.0.sources.lock();
        let mut sources = sources.unwrap_or_else(PoisonError::into_inner);
        sources.endpoint(netns)
    }

    /// What the health-check node ports answer, as it changes.
    #[must_use]
    pub fn checks(&self) -> watch::Receiver<Checks> {
        self.0.checks.subscribe()
    }

    /// What this machine cannot do, a line each.
    fn limits(&self) -> Vec<String> {
        let told = self
            .0
            .clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Vec::from_iter((!told.is_empty()).then(|| told.clone()))
    }

    /// Up to which revision of the tables the kernel has everything, as it grows.
    #[must_use]
    pub fn settled(&self) -> watch::Receiver<Revision> {
        self.0.settled.subscribe()
    }

    /// Times from a change that was heard to the rows in the kernel.
    #[must_use]
    pub fn delay(&self) -> &Histogram {
        &self.0.delay
    }

    /// Follows the tables until `stop`, in a thread of its own: nothing else waits while much is worked out.
    ///
    /// # Errors
    /// There is no further thread, or the connections' maps are not there.
    pub fn spawn(&self, datapath: &Arc<Datapath>, health: Component, stop: Stop) -> Result<()> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let cleaner = Cleaner::new(datapath, &self.0.tables, self.0.namespaces.clone())?;
        tokio::spawn(self.clone().clean(cleaner, receiver, stop.clone()));
        let (services, runtime) = (self.clone(), tokio::runtime::Handle::current());
        let work = move || {
            let run = || runtime.block_on(services.run(&sender, &health, &stop));
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                // What the kernel holds goes on, but nothing that changes is heard any longer.
                health.failed(
                    "the task of services has ended by a defect; the agent has to be restarted",
                );
            }
        };
        std::thread::Builder::new()
            .name("services".to_owned())
            .spawn(work)
            .map(drop)
            .context("starting a thread")
    }

    async fn run(&self, left: &mpsc::UnboundedSender<Gone>, health: &Component, stop: &Stop) {
        let tables = &self.0.tables;
        let watch = tables
            .services
            .services
            .watch()
            .and(tables.services.slices.watch())
            .and(tables.services.redirects.watch())
            .and(tables.pods.watch())
            .and(tables.endpoints.watch())
            .and(tables.local_node.watch());
        let mut told: Option<Instant> = None;
        loop {
            let snapshot = tables.db.snapshot();
            let seen = snapshot.revision();
            let mut next = self.step(&snapshot);
            drop(snapshot);
            if !next.gone.is_empty() {
                // Only the end of the agent ends the receiver.
                let _ = left.send(std::mem::take(&mut next.gone));
            }
            if next.again != Some(Duration::ZERO) {
                // It looks through everything: not after every single change.
                let rest = told.map_or(Duration::ZERO, |at| TELL.saturating_sub(at.elapsed()));
                if rest.is_zero() {
                    report::health(&mut self.core(), self.0.enabled, health);
                    told = Some(Instant::now());
                } else {
                    next.again = Some(next.again.map_or(rest, |again| again.min(rest)));
                }
            }
            let more = async {
                match next.again {
                    Some(Duration::ZERO) => {}
                    Some(pause) => {
                        tokio::select! {
                            () = watch.changed(seen) => {}
                            () = tokio::time::sleep(pause) => {}
                        }
                    }
                    None => watch.changed(seen).await,
                }
            };
            if stop.or(more).await.is_none() {
                return;
            }
        }
    }

    fn step(&self, snapshot: &tables::Snapshot) -> Next {
        let started = Instant::now();
        let mut core = self.core();
        let next = core.step(&self.0.tables, snapshot, started);
        let settled = next.again.is_none();
        let complete = core.missing().is_none();
        let checks = (next.wrote || !core.inputs.checked.is_empty()).then(|| core.health_checks());
        drop(core);
        if let Some(checks) = checks {
            self.0.checks.send_if_modified(|known| {
                let changed = **known != checks;
                *known = Arc::new(checks);
                changed
            });
        }
        if settled && complete {
            self.0.settled.send_replace(snapshot.revision());
        }
        if next.wrote {
            self.0.delay.observe(started.elapsed().as_secs_f64());
        }
        next
    }

    /// Ends what still talks to backends that are gone.
    async fn clean(self, cleaner: Cleaner, mut left: mpsc::UnboundedReceiver<Gone>, stop: Stop) {
        let cleaner = Arc::new(cleaner);
        while let Some(Some(mut all)) = stop.or(left.recv()).await {
            while !all.is_all_but()
                && let Ok(more) = left.try_recv()
            {
                all.extend(more);
            }
            let cleaner = cleaner.clone();
            let work = move || cleaner.clean(&all);
            // A defect there is told in the log, and the next ones are cleaned all the same.
            let Ok(outcome) = tokio::task::spawn_blocking(work).await else {
                continue;
            };
            let mut told = self
                .0
                .clients
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let text = outcome.err().unwrap_or_default();
            if !text.is_empty() && *told != text {
                tracing::warn!("{text}");
            }
            *told = text;
        }
    }
}

#[cfg(test)]
mod tests;
