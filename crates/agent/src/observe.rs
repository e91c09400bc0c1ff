//! The node's flows: what makes them, and where they are served.
//!
//! Off, nothing of it is there. On, the task that reads the event ring ([`crate::monitor`]) hands every event to a feeder, too.
mod events;
mod metrics;

use crate::{agent::Agent, fqdn::Names, layer7::Requests, policy::Policy, services::Services};
use abi::{EventKind, FlowEvent};
use api::{ComponentState, HubbleStatus};
use datapath::maps::Metrics;
use flow::{
    Feeder, Observer,
    directory::Facts,
    export::{
        Collector, Export, ExportError, Rotation, Target,
        dynamic::{Dynamic, Standing},
        filters,
    },
    metrics::{DynamicItems, Metrics as Counts},
    proto::flow::{LostEventSource, Policy as Named},
    record::About,
    redact::{Headers, Redaction},
    serve::{Listen, NodeServer, Peers, TlsFiles, serve},
};
use runtime::{
    health::{Component, Level},
    settings::Settings,
    stop::Stop,
};
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tables::Read as _;
use tokio::sync::watch;

/// How long to wait before the server for relays is tried again: its certificates may come later.
const AGAIN: Duration = Duration::from_secs(5);
/// How often to look for events that found the ring full.
const LOSSES: Duration = Duration::from_secs(1);
/// Name under which the health of the flows is told.
const HEALTH: &str = "hubble";
/// Name under which the health of their metrics is told.
const METRICS: &str = "hubble-metrics";

/// What the agent knows beside its tables.
struct Known {
    policy: Policy,
    services: Services,
    names: Option<Names>,
    realized: watch::Receiver<u64>,
}

impl Facts for Known {
    fn policy_revision(&self) -> u64 {
        *self.realized.borrow()
    }

    fn policies(&self, origin: u32) -> Vec<Named> {
        let revision = self.policy_revision();
        let names = self.policy.origin_policies(origin).into_iter();
        names.map(|name| named(&name, revision)).collect()
    }

    fn socket_owner(&self, netns: u64) -> Option<Arc<model::Endpoint>> {
        self.services.socket_owner(netns)
    }

    fn names(&self, address: IpAddr) -> Vec<String> {
        let names = self.names.as_ref();
        names.map(|names| names.of(address)).unwrap_or_default()
    }
}

/// Brings every event of the ring to the observer, and what was lost on the way.
pub struct Flows {
    feeder: Feeder,
    metrics: Option<Metrics>,
    requests: Option<Requests>,
    /// Events that found the ring full, as far as they were told.
    lost: u64,
    looked: Instant,
}

impl Flows {
    fn new(feeder: Feeder, metrics: Option<Metrics>) -> Self {
        let mut flows = Self {
            feeder,
            metrics,
            requests: None,
            lost: 0,
            looked: Instant::now(),
        };
        // What was lost before is nobody's any more.
        flows.lost = flows.lost_so_far();
        flows
    }

    fn lost_so_far(&self) -> u64 {
        let count = self.metrics.as_ref().map(Metrics::lost_events);
        count.and_then(Result::ok).unwrap_or(self.lost)
    }

    /// What the proxy saw comes from there.
    pub fn take_requests(&mut self, requests: Requests) {
        self.requests = Some(requests);
    }

    /// To be called before the ring is read.
    pub fn begin(&mut self) {
        self.feeder.begin();
        while let Some((requests, lost)) = self.requests.as_mut().and_then(Requests::ready) {
            if lost > 0 {
                self.feeder.lost(LostEventSource::ObserverEventsQueue, lost);
            }
            for request in requests {
                self.feeder.request(request);
            }
        }
        if self.looked.elapsed() < LOSSES {
            return;
        }
        self.looked = Instant::now();
        let lost = self.lost_so_far();
        if lost > self.lost {
            self.feeder
                .lost(LostEventSource::PerfEventRingBuffer, lost - self.lost);
            self.lost = lost;
        }
    }

    /// An event of the ring.
    pub fn event(&mut self, event: &FlowEvent) {
        self.feeder.event(event);
    }

    /// To be called after the ring was read.
    pub fn end(&mut self) {
        self.feeder.end();
    }
}

fn named(name: &policy::rule::PolicyName, revision: u64) -> Named {
    const PREFIX: &str = "k8s:io.cilium.k8s.policy";
    let kind = name.kind.text();
    let mut labels = vec![
        format!("{PREFIX}.derived-from={kind}"),
        format!("{PREFIX}.name={}", name.name),
    ];
    if !name.namespace.is_empty() {
        labels.push(format!("{PREFIX}.namespace={}", name.namespace));
    }
    Named {
        name: name.name.clone(),
        namespace: name.namespace.clone(),
        labels,
        revision,
        kind: kind.to_owned(),
    }
}

/// The observer of this node, and what brings events into it; none where flows are not wanted.
fn observer(agent: &Agent) -> Option<(Observer, Flows)> {
    let settings = &agent.loaded.settings;
    if !settings.enable_hubble {
        return None;
    }
    let snapshot = agent.tables.db.snapshot();
    let node = agent.tables.local_node.iter(&snapshot).next();
    let name = node.map(|node| node.node.name.as_str()).unwrap_or_default();
    let mut seed = [0; 8];
    // Without randomness flows have numbers all the same.
    let _ = getrandom::fill(&mut seed);
    let about = About {
        node_name: format!("{}/{name}", settings.cluster_name),
        node_labels: Vec::new(),
        seed: u64::from_ne_bytes(seed),
    };
    let observer = Observer::new(settings.hubble_event_buffer_capacity as usize, about);
    let mut feeder = named_by(agent, &observer);
    if !settings.hubble_monitor_events.is_empty() {
        feeder.only(kinds(&settings.hubble_monitor_events));
    }
    if settings.hubble_redact_enabled {
        feeder.redact(redaction(settings));
    }
    Some((observer, Flows::new(feeder, agent.datapath.metrics().ok())))
}

/// One that names what comes by what this agent knows.
fn named_by(agent: &Agent, observer: &Observer) -> Feeder {
    let known = Known {
        policy: agent.policy.clone(),
        services: agent.services.clone(),
        names: agent.names.clone(),
        realized: agent.policy.realized(),
    };
    let cluster = &agent.loaded.settings.cluster_name;
    observer.feeder(agent.tables.clone(), cluster, Arc::new(known))
}

/// What names packets that are no events; none where flows are not wanted.
#[must_use]
pub fn feeder(agent: &Agent) -> Option<Feeder> {
    Some(named_by(agent, agent.observer.get()?))
}

/// How the flows are; none where they are not wanted.
pub fn status(agent: &Agent) -> Option<HubbleStatus> {
    let status = agent.observer.get()?.status();
    let reports = agent.health.reports();
    let report = reports.iter().find(|report| report.name == HEALTH);
    let metrics = match reports.iter().find(|report| report.name == METRICS) {
        None => "Disabled".to_owned(),
        Some(report) if report.level == Level::Ok => "Ok".to_owned(),
        Some(report) => report.message.clone(),
    };
    let (state, message) = match report {
        Some(report) if report.level == Level::Ok => (ComponentState::Ok, String::new()),
        Some(report) => (ComponentState::Warning, report.message.clone()),
        None => (ComponentState::Warning, "starting".to_owned()),
    };
    Some(HubbleStatus {
        state,
        message,
        flows: status.flows,
        max_flows: status.capacity,
        seen_flows: status.seen,
        flows_rate: status.rate,
        metrics,
    })
}

/// What nobody is to read of requests.
fn redaction(settings: &Settings) -> Redaction {
    let headers = Headers::of(
        &settings.hubble_redact_http_headers_allow,
        &settings.hubble_redact_http_headers_deny,
    );
    Redaction {
        query: settings.hubble_redact_http_urlquery,
        password: settings.hubble_redact_http_userinfo,
        // Settings that do not go together were refused: nothing is shown by a mistake.
        headers: headers.unwrap_or_default(),
        api_key: settings.hubble_redact_kafka_apikey,
    }
}

/// Counts flows, where that is wanted.
fn count(agent: &Arc<Agent>, flows: &mut Flows, stop: &Stop) -> Option<Counts> {
    let settings = &agent.loaded.settings;
    let health = || agent.health.component(METRICS);
    let file = &settings.hubble_dynamic_metrics_config_path;
    let exemplars = settings.enable_hubble_open_metrics;
    let counts = match metrics::wanted(&settings.hubble_metrics, exemplars, file) {
        Ok(counts) => counts?,
        Err(error) => {
            health().degraded(format!("hubble-metrics: {error}"));
            return None;
        }
    };
    flows.feeder.tap(counts.tap());
    let address = settings.hubble_metrics_server.clone();
    let run = metrics::run(
        agent.clone(),
        counts.clone(),
        address,
        health(),
        stop.clone(),
    );
    tokio::spawn(run);
    if !file.is_empty() {
        let health = agent.health.component("hubble-dynamic-metrics");
        let told = move |done: Result<(), String>| match done {
            Ok(()) => health.ok("what is counted is as the file says"),
            Err(error) => health.degraded(error),
        };
        let items = DynamicItems::new(file.into(), counts.clone(), exemplars);
        tokio::spawn(items.run(told, stop.clone()));
    }
    Some(counts)
}

/// Exports flows as a file asks for, where there is one.
fn dynamic(agent: &Arc<Agent>, observer: &Observer, counts: Option<Counts>, stop: &Stop) {
    let settings = &agent.loaded.settings;
    let path = &settings.hubble_flowlogs_config_path;
    if path.is_empty() {
        return;
    }
    let health = agent.health.component("hubble-dynamic-export");
    let told = move |standing: &Standing| {
        if let Some(counts) = &counts {
            counts.exporters(standing);
        }
        let written = standing.exports.values().filter(|up| **up).count();
        match &standing.trouble {
            None => health.ok(format!("{written} exports are written")),
            Some(trouble) => health.degraded(trouble.clone()),
        }
    };
    let exports = Dynamic::new(path.into(), rotation(settings), observer.clone());
    tokio::spawn(exports.run(told, stop.clone()));
}

fn rotation(settings: &Settings) -> Rotation {
    Rotation {
        size: u64::from(settings.hubble_export_file_max_size_mb) << 20,
        backups: settings.hubble_export_file_max_backups as usize,
    }
}

/// Kinds of events by their names; what no program writes has none.
fn kinds(names: &[String]) -> Vec<EventKind> {
    let kind = |name: &String| match name.as_str() {
        "drop" => Some(EventKind::Drop),
        "trace" => Some(EventKind::Trace),
        "policy-verdict" => Some(EventKind::PolicyVerdict),
        "trace-sock" => Some(EventKind::TraceSock),
        _ => None,
    };
    names.iter().filter_map(kind).collect()
}

/// Whether what the proxy sees becomes flows.
#[must_use]
pub fn wants_requests(settings: &Settings) -> bool {
    let kinds = &settings.hubble_monitor_events;
    settings.enable_hubble && (kinds.is_empty() || kinds.iter().any(|kind| kind == "l7"))
}

/// Keeps and serves the node's flows until `stop`, where they are wanted; what is to get the events.
pub fn start(agent: &Arc<Agent>, stop: &Stop) -> Option<Flows> {
    let (observer, mut flows) = observer(agent)?;
    let settings = &agent.loaded.settings;
    let counts = count(agent, &mut flows, stop);
    let wanted = &settings.hubble_monitor_events;
    if wanted.is_empty() || wanted.iter().any(|kind| kind == "agent") {
        tokio::spawn(events::run(agent.clone(), observer.clone(), stop.clone()));
    }
    tokio::spawn(labels(agent.clone(), observer.clone(), stop.clone()));
    tokio::spawn(export(agent.clone(), observer.clone(), stop.clone()));
    tokio::spawn(collect(agent.clone(), observer.clone(), stop.clone()));
    dynamic(agent, &observer, counts, stop);
    let health = agent.health.component(HEALTH);
    tokio::spawn(run(agent.clone(), observer.clone(), health, stop.clone()));
    // Set once, here.
    let _ = agent.observer.set(observer);
    Some(flows)
}

async fn run(agent: Arc<Agent>, observer: Observer, health: Component, stop: Stop) {
    let settings = &agent.loaded.settings;
    let server = NodeServer::new(observer, stop.clone());
    let tls = tls(settings);
    let peers = Peers::new(
        agent.tables.clone(),
        &settings.cluster_name,
        port(&settings.hubble_listen_address),
        tls.is_some(),
        settings.hubble_prefer_ipv6,
        stop.clone(),
    );
    let socket = Listen {
        socket: Some(socket(settings)),
        ..Listen::default()
    };
    let address = &settings.hubble_listen_address;
    let address = Listen {
        address: (!address.is_empty()).then(|| runtime::listen_address(address)),
        tls,
        ..Listen::default()
    };
    for listen in [&socket, &address] {
        while let Err(error) = serve(server.clone(), peers.clone(), listen, &stop).await {
            health.degraded(error.to_string());
            if stop.or(tokio::time::sleep(AGAIN)).await.is_none() {
                return;
            }
        }
    }
    health.ok("flows are served");
}

/// What is exported by the settings.
fn wanted(settings: &Settings) -> Result<Export, ExportError> {
    let export = Export {
        target: Target::parse(&settings.hubble_export_file_path),
        rotation: rotation(settings),
        wanted: filters(&settings.hubble_export_allowlist)?,
        unwanted: filters(&settings.hubble_export_denylist)?,
        fields: settings.hubble_export_fieldmask.clone(),
    };
    export.check()?;
    Ok(export)
}

/// Exports flows to a file, where that is wanted.
async fn export(agent: Arc<Agent>, observer: Observer, stop: Stop) {
    let settings = &agent.loaded.settings;
    if settings.hubble_export_file_path.is_empty() {
        return;
    }
    let health = agent.health.component("hubble-export");
    let exported = async {
        let export = wanted(settings)?;
        health.ok("flows are exported");
        export.run(observer, Arc::default(), stop).await
    };
    if let Err(error) = exported.await {
        health.degraded(format!("flows are not exported: {error}"));
    }
}

/// Exports flows to a collector, where that is wanted.
async fn collect(agent: Arc<Agent>, observer: Observer, stop: Stop) {
    let settings = &agent.loaded.settings;
    let endpoint = &settings.hubble_export_otlp_endpoint;
    if endpoint.is_empty() {
        return;
    }
    let health = agent.health.component("hubble-export-otlp");
    let exported = async {
        let collector: Collector = endpoint.parse()?;
        let export = wanted(settings).map_err(|error| error.to_string())?;
        health.ok(format!("flows are sent to {collector}"));
        let sent = export.send(collector, observer, Arc::default(), stop).await;
        sent.map_err(|error| error.to_string())
    };
    let outcome: Result<(), String> = exported.await;
    if let Err(error) = outcome {
        health.degraded(format!("flows are not exported: {error}"));
    }
}

/// Keeps the labels of the node as flows show them.
async fn labels(agent: Arc<Agent>, observer: Observer, stop: Stop) {
    let tables = &agent.tables;
    loop {
        let snapshot = tables.db.snapshot();
        let local = tables.local_node.iter(&snapshot).next();
        let node = local.and_then(|local| tables.nodes.get(&snapshot, local.node.name.as_str()));
        let labels = node.iter().flat_map(|node| node.labels.iter());
        observer.set_node_labels(
            labels
                .map(|(key, value)| format!("{key}={value}"))
                .collect(),
        );
        let changed = tables.nodes.watch().changed(snapshot.revision());
        drop(snapshot);
        if stop.or(changed).await.is_none() {
            return;
        }
    }
}

fn socket(settings: &Settings) -> PathBuf {
    match settings.hubble_socket_path.as_str() {
        "" => Path::new(&settings.state_dir).join("hubble.sock"),
        path => path.into(),
    }
}

/// The port that relays find every node at.
fn port(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}

fn tls(settings: &Settings) -> Option<TlsFiles> {
    let wanted = !settings.hubble_disable_tls && !settings.hubble_listen_address.is_empty();
    wanted.then(|| TlsFiles {
        certificate: (&settings.hubble_tls_cert_file).into(),
        key: (&settings.hubble_tls_key_file).into(),
        client_authorities: settings
            .hubble_tls_client_ca_files
            .iter()
            .map(PathBuf::from)
            .collect(),
    })
}
