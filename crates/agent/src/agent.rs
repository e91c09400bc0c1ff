//! The agent's parts, for whoever serves or shows them.
use crate::{
    addresses::Addresses, endpoint::Manager, fqdn::Names, layer7::Proxy, metrics::Requests,
    monitor::Monitor, policy::Policy, services::Services, sweep::SharedStats,
};
use datapath::Datapath;
use k8s::{Client, Connection};
use model::Tables;
use routing::{HostPair, Mtus, Plan};
use runtime::{health::Health, reconcile::Watched, settings::Loaded};
use std::{
    sync::{Arc, Mutex, OnceLock},
    time::Instant,
};
use tokio::sync::watch;

/// What is decided once at start.
#[derive(Clone, Debug)]
pub struct Facts {
    /// When the process began.
    pub started: Instant,
    /// What routing is planned by.
    pub plan: Plan,
    /// Packet sizes.
    pub mtus: Mtus,
    /// Our devices.
    pub pair: HostPair,
}

/// The parts.
pub struct Agent {
    /// Settings with their origins.
    pub loaded: Loaded,
    /// All tables.
    pub tables: Tables,
    /// How the components are.
    pub health: Health,
    /// The kernel's side.
    pub datapath: Arc<Datapath>,
    /// Addresses.
    pub addresses: Arc<Addresses>,
    /// Endpoints.
    pub manager: Arc<Manager>,
    /// Who may talk to whom.
    pub policy: Policy,
    /// Services.
    pub services: Services,
    /// Names that pods were told of, where rules may speak of them.
    pub names: Option<Names>,
    /// The line to the proxy, where there is to be one.
    pub proxy: Option<Proxy>,
    /// What was decided at start.
    pub facts: Facts,
    /// The API server.
    pub connection: watch::Receiver<Connection>,
    /// The API server, to be asked for one object.
    pub server: OnceLock<Client>,
    /// Live events.
    pub monitor: Monitor,
    /// The node's flows, where they are wanted.
    pub observer: OnceLock<flow::Observer>,
    /// Times of API requests.
    pub requests: Requests,
    /// What the sweeper did.
    pub sweeps: SharedStats,
    /// The reconcilers, once they run.
    pub reconcilers: OnceLock<Vec<Box<dyn Watched>>>,
    /// What became of the CNI configuration.
    pub cni_config: Mutex<String>,
    /// Seconds from the start of the process until it served, for metrics.
    pub ready_after: OnceLock<f64>,
}

impl Agent {
    /// The parts together.
    #[expect(
        clippy::too_many_arguments,
        reason = "the one place where the parts meet"
    )]
    #[must_use]
    pub fn new(
        loaded: Loaded,
        tables: Tables,
        health: Health,
        datapath: Arc<Datapath>,
        addresses: Arc<Addresses>,
        manager: Arc<Manager>,
        policy: Policy,
        services: Services,
        names: Option<Names>,
        facts: Facts,
        connection: watch::Receiver<Connection>,
    ) -> Self {
        let of = |names: &Names| Proxy::new(tables.clone(), names.clone(), &loaded.settings);
        let proxy = names.as_ref().map(of);
        Self {
            names,
            proxy,
            loaded,
            tables,
            health,
            datapath,
            addresses,
            manager,
            policy,
            services,
            facts,
            connection,
            server: OnceLock::new(),
            monitor: Monitor::new(),
            observer: OnceLock::new(),
            requests: Requests::default(),
            sweeps: SharedStats::default(),
            reconcilers: OnceLock::new(),
            cni_config: Mutex::new("not written yet".to_owned()),
            ready_after: OnceLock::new(),
        }
    }
}
