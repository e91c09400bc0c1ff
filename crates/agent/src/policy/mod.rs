//! Policy on this node: one engine, fed from the tables, whose rows are written as soon as anything changes.
//!
//! A task of its own follows the tables ([`core::Core::step`]). New endpoints do not wait for it: they ask for their rows
//! themselves ([`Policy::realise`]), which is a look-up where pods of the identity run already.
mod core;
mod explain;
mod files;
mod former;
mod inputs;
mod layer7;
mod older;
mod proposal;
mod report;
mod subjects;
mod writer;

pub use core::AddressCache;
pub use files::follow as follow_files;
pub use layer7::{Announce, Layer7};
pub use older::adopt as adopt_older;
pub use subjects::{HOST as HOST_SUBJECT, HOST_ENDPOINT};

use crate::{
    endpoint::{Enforcer, Grant},
    fqdn::Names,
};
use abi::endpoint_flags::{POLICY_AUDIT, POLICY_LOCKDOWN};
use core::{Core, Options};
use datapath::Datapath;
use model::{Endpoint, Tables};
use policy::{Mode, kernel, parse, rule::Direction};
use prometheus_client::metrics::histogram::Histogram;
use runtime::{
    health::Component,
    settings::{AllowLocalhost, PolicyMode, Settings},
    stop::Stop,
};
use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tables::{Read, Revision};
use tokio::sync::watch;

/// How long a new pod waits for the first policies.
const BEGIN: Duration = Duration::from_secs(3);

/// Policy on this node; cheap to clone.
#[derive(Clone, Debug)]
pub struct Policy(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tables: Tables,
    core: Mutex<Core>,
    /// Where former versions of policies are kept that are in force.
    former: Option<PathBuf>,
    /// Up to which revision of the tables identities have their rows.
    progress: watch::Sender<Revision>,
    /// The revision of the policies that is enforced for everybody.
    realized: watch::Sender<u64>,
    times: Times,
}

/// How long things took.
#[derive(Clone, Debug)]
pub struct Times {
    /// From a change to its enforcement.
    pub delay: Histogram,
    /// Working out and writing what changed.
    pub update: Histogram,
}

impl Default for Times {
    fn default() -> Self {
        let steps = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];
        Self {
            delay: Histogram::new(steps),
            update: Histogram::new(steps),
        }
    }
}

/// Tells how far policy has come with the tables: of identities that are in them up to that revision, the kernel has the rows.
#[derive(Clone, Debug)]
pub struct Progress(watch::Receiver<Revision>);

impl Progress {
    /// Ends once policy has come as far as `revision`; false if it has ended.
    pub async fn wait(&mut self, revision: Revision) -> bool {
        let reached = self.0.wait_for(|reached| *reached >= revision);
        reached.await.is_ok()
    }
}

impl Policy {
    /// Policy with nothing known yet: the kernel enforces what it did before.
    ///
    /// # Errors
    /// The datapath has no such maps.
    pub fn new(
        tables: &Tables,
        datapath: &Datapath,
        settings: &Settings,
    ) -> datapath::Result<Self> {
        let maps = writer::Maps {
            rows: datapath.policy()?,
            epoch: datapath.policy_epoch()?,
        };
        let cache = Box::new(datapath.ipcache()?);
        let mut core = Core::new(
            tables,
            Box::new(maps),
            cache,
            options(settings),
            Instant::now(),
        );
        let former = former::path(settings);
        if let Some(path) = &former {
            core.inputs.remember(tables, former::read(path));
        }
        Ok(Self::of(tables, core, former))
    }

    fn of(tables: &Tables, core: Core, former: Option<PathBuf>) -> Self {
        Self(Arc::new(Shared {
            tables: tables.clone(),
            core: Mutex::new(core),
            former,
            progress: watch::Sender::new(Revision::ZERO),
            realized: watch::Sender::new(0),
            times: Times::default(),
        }))
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.0.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far policy has come with the tables.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress(self.0.progress.subscribe())
    }

    /// Waits until the policies are known once.
    pub async fn known(&self) {
        let mut progress = self.0.progress.subscribe();
        let _ = progress.wait_for(|reached| *reached > Revision::ZERO).await;
    }

    /// Waits, not for ever, until the policies are known once: before that a new pod gets nothing but what the node sends.
    pub async fn begun(&self) {
        let mut progress = self.0.progress.subscribe();
        let begun = progress.wait_for(|reached| *reached > Revision::ZERO);
        let _ = tokio::time::timeout(BEGIN, begun).await;
    }

    /// The revision that is enforced for everybody, as it grows.
    #[must_use]
    pub fn realized(&self) -> watch::Receiver<u64> {
        self.0.realized.subscribe()
    }

    /// What policies say above the transport, as it changes: told before the rows that follow from it are written.
    #[must_use]
    pub fn layer7(&self) -> watch::Receiver<Arc<Layer7>> {
        self.core().layer7.subscribe()
    }

    /// Has `announce` see to it that the proxy knows such rules before connections are sent to it.
    pub fn announce_by(&self, announce: Arc<dyn Announce>) {
        self.core().layer7.announce_by(announce);
    }

    /// Rules by name mean what `names` knows. To be said before the first step.
    pub fn name_by(&self, names: Names) {
        self.core().names = Some(names);
    }

    /// How long things took.
    #[must_use]
    pub fn times(&self) -> &Times {
        &self.0.times
    }

    /// Follows the tables until `stop`, in a thread of its own: nothing else waits while much is worked out. `refresh` is told
    /// the endpoints whose flags are others now.
    ///
    /// # Errors
    /// There is no further thread.
    pub fn spawn(
        &self,
        refresh: impl Fn(&BTreeSet<u16>) + Send + 'static,
        health: Component,
        stop: Stop,
    ) -> std::io::Result<()> {
        let (policy, runtime) = (self.clone(), tokio::runtime::Handle::current());
        let work = move || {
            let run = || runtime.block_on(policy.run(&refresh, &health, &stop));
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                // What the kernel enforces holds on, but nothing that changes is heard any longer.
                health
                    .failed("the policy task has ended by a defect; the agent has to be restarted");
            }
        };
        std::thread::Builder::new()
            .name("policy".to_owned())
            .spawn(work)
            .map(drop)
    }

    async fn run(&self, refresh: &impl Fn(&BTreeSet<u16>), health: &Component, stop: &Stop) {
        let tables = &self.0.tables;
        let sources = inputs::sources(tables);
        let watch = sources
            .into_iter()
            .map(tables::Table::watch)
            .reduce(tables::Watch::and)
            .unwrap_or_else(|| tables.identities.watch())
            .and(tables.policies.services.watch())
            .and(tables.policies.manual_endpoints.watch())
            .and(tables.identities.watch())
            .and(tables.cilium_endpoints.watch())
            .and(tables.endpoints.watch())
            .and(tables.local_node.watch());
        loop {
            let snapshot = tables.db.snapshot();
            let seen = snapshot.revision();
            let next = self.step(&snapshot, health);
            drop(snapshot);
            if !next.refresh.is_empty() {
                refresh(&next.refresh);
            }
            let more = async {
                match next.again {
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

    fn step(&self, snapshot: &tables::Snapshot, health: &Component) -> core::Next {
        let started = Instant::now();
        let mut core = self.core();
        let steps = core.counts.steps;
        let next = core.step(&self.0.tables, snapshot, started);
        report::health(&core, health);
        let (realized, worked) = (core.realized_by_all(), core.counts.steps > steps);
        // Before all is known, what the file holds may still be needed.
        let complete = core.is_complete();
        let former = complete.then(|| core.inputs.take_former(&self.0.tables));
        drop(core);
        if let (Some(path), Some(former)) = (&self.0.former, former.flatten()) {
            former::write(path, &former);
        }
        if next.settled {
            self.0.progress.send_replace(snapshot.revision());
        }
        self.0.realized.send_if_modified(|known| {
            let changed = *known != realized;
            *known = realized;
            changed
        });
        let took = started.elapsed().as_secs_f64();
        if worked {
            self.0.times.update.observe(took);
        }
        if next.revisions > 0 {
            self.0.times.delay.observe(took);
        }
        next
    }
}

impl Enforcer for Policy {
    fn realise(&self, endpoint: &Endpoint) -> Grant {
        let ports = subjects::named_ports(&endpoint.ports);
        let mut core = self.core();
        let Endpoint {
            identity,
            labels,
            subject: before,
            ..
        } = endpoint;
        let (subject, hold) = core.realise(&self.0.tables, *identity, labels, ports, *before);
        let mut flags = 0;
        if endpoint.policy_audit.unwrap_or(core.options.audit) {
            flags |= POLICY_AUDIT;
        }
        if core.is_locked(subject) {
            flags |= POLICY_LOCKDOWN;
        }
        Grant {
            subject,
            flags,
            enforcing: core.enforcing(subject),
            settled: core.is_complete(),
            hold: Some(Box::new(hold)),
        }
    }

    fn ask_again(&self) {
        self.core().writer.raise();
    }
}

fn options(settings: &Settings) -> Options {
    Options {
        settings: policy::Settings {
            mode: match settings.enable_policy {
                PolicyMode::Default => Mode::Default,
                PolicyMode::Always => Mode::Always,
                PolicyMode::Never => Mode::Never,
            },
            allow_localhost: settings.allow_localhost != AllowLocalhost::Policy,
            cluster: settings.cluster_name.clone(),
        },
        parse: parse::Options {
            node_selector_labels: settings.enable_node_selector_labels,
            always_default_deny: !settings.enable_non_default_deny_policies,
            l7: settings.enable_l7_proxy,
        },
        host_firewall: settings.enable_host_firewall,
        lockdown: settings.enable_endpoint_lockdown_on_policy_overflow,
        audit: settings.policy_audit_mode,
        files: !settings.static_cnp_path.is_empty(),
        families: [settings.enable_ipv4, settings.enable_ipv6],
    }
}

/// The host as a subject, before its programs ask: what was enforced before holds on; where nothing was, everything passes
/// until the policies are known, since they come through the host.
///
/// # Errors
/// The map cannot be read or written.
pub fn open_host(rows: &datapath::maps::PolicyMap) -> datapath::Result<()> {
    let known = rows.dump()?;
    if known.iter().any(|(key, _)| key.subject == HOST_SUBJECT) {
        return Ok(());
    }
    let all = Direction::BOTH.map(|direction| {
        let key = kernel::Key {
            subject: HOST_SUBJECT,
            direction,
            remote: kernel::ANYBODY,
            l4: kernel::L4::ALL,
        };
        let value = kernel::Value {
            verdict: kernel::Verdict::Allow,
            l7: None,
            precedence: 0,
            origin: policy::resolve::DEFAULT_ALLOW,
        };
        (key.to_abi(), value.to_abi(key.l4))
    });
    rows.put_all(&all).map(drop)
}

#[cfg(test)]
mod tests;
