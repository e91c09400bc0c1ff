//! The line to the node's proxy: it gets the rules before connections are sent to it, and tells what it saw.
//!
//! ```text
//! policy's thread ─ announced ─┐
//! tables, rules, time ─────────┴→ Plan (what it shall have) ─ sent with a growing number ─→ proxy ─ Taken ─→ policy goes on
//! flows, monitor ←─ records ─── proxy
//! ```
mod plan;
mod records;
mod redirects;
mod secrets;

#[cfg(test)]
pub(crate) use plan::dns as dns_rule;
pub use records::Requests;

use crate::{
    agent::Agent,
    fqdn::Names,
    policy::{Announce, Layer7, Policy},
};
use api::ProxyStatus;
use plan::Plan;
use policy::resolve::ProxyRules;
use proxy::{
    config::{self, Snapshot},
    control::{
        Line, LineReader, LineWriter,
        frame::{FromProxy, ToProxy},
    },
    record::Record,
};
use redirects::Redirects;
use runtime::{
    health::Component,
    settings::{DnsRefusal, Settings},
    stop::Stop,
};
use secrets::Secrets;
use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tables::Read as _;
use tokio::sync::{mpsc, watch};

/// How long policy waits for the proxy.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause before the proxy is looked for again.
const AGAIN: Duration = Duration::from_millis(200);
/// How long rules wait for Secrets after the start, and how often to look whether they are known: meanwhile the proxy has what it had.
const SECRETS: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(50);
/// How long changes are gathered.
const GATHER: Duration = Duration::from_millis(5);

/// What the proxy is told, and how far it is; cheap to clone.
#[derive(Clone)]
pub struct Proxy(Arc<Shared>);

struct Shared {
    tables: model::Tables,
    /// What is denied passes where endpoints do not say otherwise.
    audit: bool,
    names: Names,
    /// The only namespace that Secrets are read of.
    secrets: String,
    started: Instant,
    /// What holds for all endpoints, but for names.
    settings: config::Settings,
    socket: PathBuf,
    state: Mutex<State>,
    redirects: Mutex<Redirects>,
    /// Told when the proxy has taken something, or the line ended.
    taken: Condvar,
    /// Number of the plan that the proxy shall have.
    wanted: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    plan: Plan,
    connected: bool,
    /// Number of the plan that the proxy has.
    has: u64,
    problems: Vec<String>,
    /// What rules lack of Secrets.
    lacking: BTreeSet<String>,
}

impl State {
    /// Notes what rules lack of Secrets, and tells what is new.
    fn lacks(&mut self, lacking: BTreeSet<String>) {
        for line in lacking.difference(&self.lacking) {
            tracing::warn!("{line}");
        }
        self.lacking = lacking;
    }
}

impl Proxy {
    /// A proxy that is not known to be there yet.
    pub fn new(tables: model::Tables, names: Names, settings: &Settings) -> Self {
        let delay = settings.tofqdns_proxy_response_max_delay.as_millis();
        Self(Arc::new(Shared {
            tables,
            audit: settings.policy_audit_mode,
            names,
            secrets: settings.policy_secrets_namespace.clone(),
            started: Instant::now(),
            settings: config::Settings {
                dns_refusal: match settings.tofqdns_dns_reject_response_code {
                    DnsRefusal::Refused => config::Refusal::Refused,
                    DnsRefusal::NameError => config::Refusal::NameError,
                },
                names: Vec::new(),
                names_wait: Some(u32::try_from(delay).unwrap_or(u32::MAX)),
            },
            socket: Path::new(&settings.state_dir).join("proxy/control.sock"),
            state: Mutex::default(),
            redirects: Mutex::default(),
            taken: Condvar::new(),
            wanted: watch::Sender::new(0),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn redirects(&self) -> MutexGuard<'_, Redirects> {
        let redirects = self.0.redirects.lock();
        redirects.unwrap_or_else(PoisonError::into_inner)
    }

    /// Works out what the proxy shall have; the number under which that is known, and when to look again.
    fn work_out(&self, layer7: &Layer7) -> (u64, Option<Instant>) {
        let snapshot = self.0.tables.db.snapshot();
        let secrets = &self.0.tables.policies.secrets;
        let secrets = Secrets::new(secrets, &snapshot, &self.0.secrets);
        if !secrets.are_known()
            && self.0.started.elapsed() < SECRETS
            && secrets::are_needed(rules(layer7))
        {
            return (self.state().plan.number(), Some(Instant::now() + LOOK));
        }
        let endpoints = self.0.tables.endpoints.iter(&snapshot);
        let endpoints = endpoints.map(|one| &**one);
        let fresh = plan::endpoints(layer7, endpoints, secrets, self.0.audit);
        self.redirects().renew(&fresh);
        let names = self.0.names.rules();
        let names: Vec<_> = names.borrow().iter().map(plan::dns).collect();
        let settings = config::Settings {
            // A proxy of before these fields refuses them.
            names_wait: self.0.settings.names_wait.filter(|_| !names.is_empty()),
            names,
            ..self.0.settings.clone()
        };
        let mut state = self.state();
        state.lacks(secrets.lacking(rules(layer7)));
        let number = state.plan.renew(settings, fresh, Instant::now());
        let again = state.plan.again();
        drop(state);
        self.0.wanted.send_if_modified(|wanted| {
            let newer = *wanted < number;
            *wanted = number.max(*wanted);
            newer
        });
        (number, again)
    }

    /// How it is.
    pub fn status(&self) -> ProxyStatus {
        let redirects = self.redirects();
        let (list, [names, requests]) = (redirects.list(), redirects.totals());
        drop(redirects);
        let state = self.state();
        ProxyStatus {
            connected: state.connected,
            redirects: list.len(),
            list,
            names,
            requests,
            behind: state.has < state.plan.number(),
            problems: state
                .problems
                .iter()
                .chain(&state.lacking)
                .cloned()
                .collect(),
        }
    }

    /// Follows rules and endpoints until `stop`.
    async fn follow(self, policy: Policy, stop: Stop) {
        // What the proxy has holds until all policies are known.
        if stop.or(policy.known()).await.is_none() {
            return;
        }
        let mut rules = policy.layer7();
        let mut names = self.0.names.rules();
        let tables = &self.0.tables;
        let watch = tables
            .endpoints
            .watch()
            .and(tables.policies.secrets.watch());
        loop {
            let seen = self.0.tables.db.snapshot().revision();
            let layer7 = rules.borrow_and_update().clone();
            names.mark_unchanged();
            let (_, again) = self.work_out(&layer7);
            let next = async {
                tokio::time::sleep(GATHER).await;
                let later = async {
                    match again {
                        Some(at) => tokio::time::sleep_until(at.into()).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    changed = rules.changed() => changed.is_ok(),
                    changed = names.changed() => changed.is_ok(),
                    () = watch.changed(seen) => true,
                    () = later => true,
                }
            };
            if stop.or(next).await != Some(true) {
                return;
            }
        }
    }

    /// Keeps the line until `stop`.
    async fn keep(self, reports: records::Reports, health: Component, stop: Stop) {
        let reports = Arc::new(reports);
        loop {
            let why = match stop.or(Line::connect(&self.0.socket)).await {
                None => return,
                Some(Ok(line)) => {
                    health.ok("the proxy is there");
                    let ended = stop.or(self.talk(line, &reports)).await;
                    let mut state = self.state();
                    state.connected = false;
                    drop(state);
                    self.0.taken.notify_all();
                    match ended {
                        None => return,
                        Some(error) => format!("the line to the proxy ended: {error}"),
                    }
                }
                Some(Err(error)) => {
                    format!("no proxy answers at {}: {error}", self.0.socket.display())
                }
            };
            if *self.0.wanted.borrow() > 0 && self.redirects().len() > 0 {
                health.degraded(format!("{why}; what policies send to it does not pass"));
            } else {
                health.ok(format!("{why}; nothing is sent to it"));
            }
            if stop.or(tokio::time::sleep(AGAIN)).await.is_none() {
                return;
            }
        }
    }

    /// Talks to the proxy until the line ends; why it did.
    async fn talk(&self, line: Line, reports: &Arc<records::Reports>) -> std::io::Error {
        let known = line.version;
        let (reader, writer) = line.split();
        let (answers, heard) = mpsc::channel(64);
        // A message that has begun to come is read to its end: that is not to be broken off.
        let reading = Reading(tokio::spawn(read(reader, answers)));
        let ended = self.converse(writer, heard, known, reports).await;
        drop(reading);
        ended
            .err()
            .unwrap_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
    }

    async fn converse(
        &self,
        mut writer: LineWriter,
        mut heard: mpsc::Receiver<std::io::Result<FromProxy>>,
        known: u64,
        reports: &Arc<records::Reports>,
    ) -> std::io::Result<()> {
        let mut wanted = self.0.wanted.subscribe();
        let mut version = known;
        // By the version under which it was sent.
        let mut sent = (0, 0);
        // Before the first rules are known, the proxy keeps those that it has.
        let mut due = *wanted.borrow_and_update() > 0;
        let (realised, mut known_names) = mpsc::unbounded_channel();
        self.state().connected = true;
        loop {
            if due {
                let (number, settings, endpoints) = {
                    let state = self.state();
                    let plan = &state.plan;
                    (plan.number(), plan.settings(), plan.all())
                };
                version = now().max(version + 1);
                sent = (version, number);
                let snapshot = Snapshot {
                    version,
                    settings,
                    endpoints,
                };
                writer.say(&ToProxy::Snapshot(snapshot)).await?;
                due = false;
            }
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    due = true;
                }
                Some(id) = known_names.recv() => writer.say(&ToProxy::Known { id }).await?,
                message = heard.recv() => {
                    let Some(message) = message else { return Ok(()) };
                    match message? {
                        FromProxy::Taken { version, problems } => {
                            if version == sent.0 {
                                self.has(sent.1, problems);
                            }
                        }
                        FromProxy::Refused { version: stays, why } => {
                            tracing::error!("the proxy refuses its rules: {why}");
                            self.state().problems = vec![why];
                            // Somebody has given it a greater number: it gets a greater one still.
                            due = stays >= version;
                            version = version.max(stays);
                        }
                        FromProxy::Names { id, age, learned } => {
                            self.0.names.learn(&learned, age);
                            if self.0.names.is_realised(&learned.ips) {
                                writer.say(&ToProxy::Known { id }).await?;
                            } else {
                                self.realise(id, learned.ips, realised.clone());
                            }
                        }
                        FromProxy::Records { records, lost } => {
                            self.count(&records);
                            reports.tell(records, lost);
                        }
                        FromProxy::Hello { .. } => {}
                    }
                }
            }
        }
    }

    /// Has the proxy told once connections to addresses are let through: that takes other tasks a moment.
    fn realise(&self, id: u64, ips: Vec<IpAddr>, told: mpsc::UnboundedSender<u64>) {
        let names = self.0.names.clone();
        tokio::spawn(async move {
            names.realised(&ips).await;
            // A line that has ended by now is told again by the next one.
            let _ = told.send(id);
        });
    }

    fn count(&self, records: &[Record]) {
        let mut redirects = self.redirects();
        records.iter().for_each(|record| redirects.count(record));
    }

    fn has(&self, number: u64, problems: Vec<String>) {
        for problem in &problems {
            tracing::warn!("the proxy: {problem}");
        }
        let mut state = self.state();
        state.has = state.has.max(number);
        state.problems = problems;
        drop(state);
        self.0.taken.notify_all();
    }
}

/// All rules of this node.
fn rules(layer7: &Layer7) -> impl Iterator<Item = &ProxyRules> {
    layer7.subjects.values().flat_map(|rules| rules.iter())
}

impl Announce for Proxy {
    /// Ends once the proxy has the rules. Without a proxy there is nothing to wait for: what is sent to it does not pass.
    fn announced(&self, layer7: &Arc<Layer7>) {
        let (number, _) = self.work_out(layer7);
        let state = self.state();
        let waits = |state: &mut State| state.connected && state.has < number;
        let waited = self.0.taken.wait_timeout_while(state, PATIENCE, waits);
        if waited.is_ok_and(|(_, time)| time.timed_out()) {
            tracing::warn!("the proxy has not taken its rules in {PATIENCE:?}; policy goes on");
        }
    }
}

/// A task that ends with its owner.
struct Reading(tokio::task::JoinHandle<()>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn read(mut reader: LineReader, answers: mpsc::Sender<std::io::Result<FromProxy>>) {
    while let Some(message) = reader.hear().await.transpose() {
        let ended = message.is_err();
        if answers.send(message).await.is_err() || ended {
            return;
        }
    }
}

/// Microseconds since 1970: grows over restarts, too.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// Keeps the proxy informed until `stop`, where it is wanted; records go to `requests`.
pub fn start(agent: &Arc<Agent>, requests: Option<mpsc::Sender<records::Batch>>, stop: &Stop) {
    let Some(proxy) = &agent.proxy else { return };
    let health = agent.health.component("proxy");
    health.ok("looking for the proxy");
    let reports = records::Reports::new(agent.tables.clone(), agent.monitor.clone(), requests);
    agent.policy.announce_by(Arc::new(proxy.clone()));
    if let Some(run) = proxy.0.socket.parent()
        && let Err(error) = proxy::keeper::keep(run)
    {
        tracing::warn!(%error, "a proxy that is killed turns connections away until the next one serves: its sockets cannot be kept");
    }
    tokio::spawn(proxy.clone().follow(agent.policy.clone(), stop.clone()));
    tokio::spawn(proxy.clone().keep(reports, health, stop.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Monitor;
    use model::Endpoint;
    use policy::rule;
    use proxy::{control::Control, record, store::Store};
    use runtime::{health::Health, stop};

    /// An address cache that nobody asks.
    struct Unasked;

    impl crate::policy::AddressCache for Unasked {
        fn identity(&self, _: &model::Prefix) -> Option<u32> {
            None
        }
    }

    fn rules() -> ProxyRules {
        ProxyRules {
            direction: rule::Direction::Ingress,
            transport: rule::Protocol::Tcp,
            first: 80,
            last: 80,
            peers: None,
            rules: Some(Arc::new(rule::L7Rules::Http(Vec::new()))),
            policy: None,
            origin: "test".into(),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_proxy_has_rules_before_policy_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("proxy")).unwrap();
        let socket = dir.path().join("proxy/control.sock");
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let (_recorder, records) = record::channel(8);
        let store = Store::open(&dir.path().join("store")).unwrap();
        let (control, _) = Control::new(store, records);
        tokio::spawn(control.clone().serve(listener));
        let tables = model::Tables::new().unwrap();
        let endpoint: Endpoint = serde_json::from_value(serde_json::json!({
            "id": 9, "state": "ready", "attachment": "cni-attachment-id:c9:eth0", "labels": [], "identity": 300,
            "pod": {"namespace": "shop", "name": "web", "uid": ""}, "ipv4": "10.0.0.9", "ipv6": null, "ifname": "lxc9",
            "ifindex": 9, "host_mac": "02:00:00:00:00:01", "container_mac": "02:00:00:00:00:02", "netns": "", "subject": 7,
        }))
        .unwrap();
        let mut txn = tables.db.write();
        tables.endpoints.insert(&mut txn, endpoint).unwrap();
        txn.commit();
        let settings = Settings {
            state_dir: dir.path().to_str().unwrap().to_owned(),
            restore: false,
            ..Settings::default()
        };
        let names = Names::open(&tables, Box::new(Unasked), &settings);
        let proxy = Proxy::new(tables.clone(), names, &settings);
        let layer7 = Layer7 {
            subjects: [(7, [rules()].into())].into(),
        };
        let layer7 = Arc::new(layer7);
        // Without a proxy nobody is waited for.
        proxy.announced(&layer7);
        assert!(proxy.status().behind && !proxy.status().connected);
        let (_stopper, stop) = stop::channel();
        let reports = records::Reports::new(tables, Monitor::new(), None);
        let health = Health::default().component("proxy");
        tokio::spawn(proxy.clone().keep(reports, health, stop));
        while !proxy.status().connected {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let other = proxy.clone();
        let waiting = tokio::task::spawn_blocking(move || other.announced(&layer7));
        waiting.await.unwrap();
        assert!(control.policy().borrow().version() > 0);
        let status = proxy.status();
        assert_eq!((status.redirects, status.behind), (1, false));
    }
}
