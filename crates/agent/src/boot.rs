//! The start, in order: machine, node, devices, datapath, endpoints, then everything that runs on.
use crate::{
    addresses::Addresses,
    agent::{Agent, Facts},
    caps,
    endpoint::Manager,
    fqdn::Names,
    kube::{
        Follow,
        identity::{Identities, Keeper, KeeperOptions, Labeller},
        ranges::Shared,
    },
    machine,
    namespaces::Namespaces,
    node, plan,
    policy::Policy,
    remote::{self, Heard},
    serve,
    services::Services,
    setup,
    state::{self, StateFile},
};
use anyhow::{Context, Result, bail};
use datapath::{
    Datapath,
    probes::Feature,
    proxy::{self, ProxyNetns},
};
use k8s::{ApiServer, Client, Connection, Rate};
use model::{LocalNode, Tables};
use nix::sys::resource::{Resource, setrlimit};
use runtime::{
    health::Health,
    settings::{CidrMatchMode, IpamMode, Loaded, Settings},
    stop::{self, Stop},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{runtime::Builder, sync::watch};

/// Name of the state directory's part that holds the state file.
pub const STATE: &str = "state";
/// How long everything may take to end after a signal, before the process goes without waiting.
const STOP_LIMIT: Duration = Duration::from_millis(700);
/// Threads for calls that block: endpoint creation, map dumps.
const BLOCKING_THREADS: usize = 4;

/// Runs the agent with what it `heard` of the API server.
///
/// # Errors
/// Whatever prevents the start, and settings that turn out to be out of date.
pub fn run(loaded: Loaded, heard: Heard, started: Instant) -> Result<()> {
    prepare(&loaded.settings)?;
    let namespaces = helper(&loaded.settings);
    let proxy = proxy_netns(&loaded.settings)?;
    let kept = caps::drop_unneeded(loaded.settings.enable_hubble_capture)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        kernel = machine::kernel(),
        capabilities = kept,
        "agent starting"
    );
    datapath::share_heap();
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()
        .context("starting the async runtime")?;
    let outcome = runtime.block_on(async {
        let (stopper, stop) = stop::channel();
        let signal = stop::signalled();
        let client = k8s::client(&api_server(&loaded.settings), rate(&loaded.settings)).await?;
        let changed = remote::changed(heard.clone(), loaded.settings.clone(), client.clone());
        let helpers = (namespaces, proxy);
        let work = start(loaded, heard, client, helpers, started, stop);
        tokio::select! {
            name = signal => {
                tracing::info!(signal = name.context("installing signal handlers")?, "stopping; the datapath goes on without the agent");
                stopper.stop();
                // Servers finish what they are answering.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(())
            }
            outcome = work => outcome,
            why = changed => Err(anyhow::anyhow!(why)),
        }
    });
    runtime.shutdown_timeout(STOP_LIMIT);
    outcome
}

/// What needs more capabilities than the agent keeps.
fn prepare(settings: &Settings) -> Result<()> {
    crate::l2::prepare(settings);
    state::private_dir(Path::new(&settings.state_dir))?;
    state::private_dir(&Path::new(&settings.state_dir).join(STATE))?;
    datapath::ensure_bpffs(Path::new(&settings.bpf_root))
        .context("the bpf file system holds what must survive a restart")?;
    // Before Linux 5.11 maps count as locked memory. Refused without CAP_SYS_RESOURCE, which newer kernels do not need.
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, u64::MAX, u64::MAX) {
        tracing::debug!(%error, "the limit of locked memory stays");
    }
    Ok(())
}

/// What enters the pods' namespaces for the agent; without it, clients in pods of backends that are gone are not helped.
fn helper(settings: &Settings) -> Namespaces {
    if !settings.kube_proxy_replacement {
        return Namespaces::default();
    }
    Namespaces::start().unwrap_or_else(|error| {
        tracing::warn!("{error:#}");
        Namespaces::default()
    })
}

/// The proxy's place, if there is to be a proxy: entered once, here, since the agent may not enter namespaces later.
fn proxy_netns(settings: &Settings) -> Result<Option<ProxyNetns>> {
    if !settings.enable_l7_proxy {
        return Ok(None);
    }
    ProxyNetns::open(Path::new(proxy::NETNS))
        .map(Some)
        .with_context(|| {
            format!(
                "enable-l7-proxy: the proxy's network namespace {}",
                proxy::NETNS
            )
        })
}

async fn start(
    loaded: Loaded,
    heard: Heard,
    client: Client,
    (namespaces, mut proxy): (Namespaces, Option<ProxyNetns>),
    started: Instant,
    stop: Stop,
) -> Result<()> {
    let settings = &loaded.settings;
    let health = Health::default();
    let tables = Tables::new().context("making the tables")?;
    plan::check_device_kind(settings.datapath_mode, || Feature::Netkit.is_there())?;
    for line in plan::advice(settings) {
        tracing::warn!("{line}");
    }
    let state_path = PathBuf::from(&settings.state_dir)
        .join(STATE)
        .join("state.json");
    let saved = state::read(&state_path).unwrap_or_default();
    let (sender, connection) = watch::channel(Connection::Connecting);
    let shared = Shared::default();
    let identities = identities(settings, &tables, &health, &stop)?;
    let mut follow = Some(Follow {
        client: client.clone(),
        tables: tables.clone(),
        settings: settings.clone(),
        name: node_name(settings)?,
        identities: identities.clone(),
        addresses: shared.clone(),
        health: health.clone(),
        connection: sender,
        stop: stop.clone(),
    });
    let mut begin = || follow.take().map_or((), Follow::start);
    let policy_audit = saved.node.as_ref().and_then(|saved| saved.policy_audit);
    let before = match saved.node {
        Some(saved) => node::resume(settings, &client, saved, heard).await?,
        None => Err(Vec::new()),
    };
    let own = match before {
        Ok(own) => Some(own),
        Err(routers) => {
            begin();
            node::find(settings, &tables, routers, &health, &stop).await?
        }
    };
    let Some(own) = own else { return Ok(()) };
    let plan = plan::routing_plan(settings);
    let machine = machine::inspect(settings)?;
    let local = LocalNode {
        policy_audit,
        ..node::local(&plan, own, machine)?
    };
    let mut txn = tables.db.write();
    tables
        .devices
        .replace_all(&mut txn, local.devices.clone())
        .context("filling the device table")?;
    tables
        .local_node
        .insert(&mut txn, local.clone())
        .context("filling the node table")?;
    txn.commit();
    let endpoints = if settings.restore {
        saved.endpoints
    } else {
        Vec::new()
    };
    let kernel = setup::datapath(settings, &plan, &local, &endpoints, proxy.as_mut())?;
    tracing::info!(
        adopted = kernel.report.adopted, attach = %kernel.datapath.mechanism(), elapsed_ms = started.elapsed().as_millis() as u64,
        devices = ?local.devices.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), "datapath in place"
    );
    let facts = Facts {
        started,
        plan,
        mtus: kernel.mtus,
        pair: kernel.pair,
    };
    let agent = assemble(
        loaded,
        tables,
        health,
        kernel.datapath,
        local,
        facts,
        state_path,
        identities,
        namespaces,
        connection,
    )?;
    let departed = agent.1;
    if agent.0.loaded.settings.ipam == IpamMode::MultiPool {
        agent.0.addresses.let_grow();
    }
    shared.set(agent.0.addresses.clone());
    let restored = agent
        .0
        .manager
        .restore(endpoints, saved.departures)
        .context("taking endpoints over")?;
    tracing::info!(
        kept = restored.kept,
        gone = restored.gone,
        stray = restored.stray,
        "endpoints restored"
    );
    serve::run(agent.0, departed, client, follow, stop).await
}

/// Who has which number: what is known from before a restart, then what the tables say.
fn identities(
    settings: &Settings,
    tables: &Tables,
    health: &Health,
    stop: &Stop,
) -> Result<Identities> {
    let labeller = Labeller::new(settings).map_err(|error| anyhow::anyhow!(error))?;
    let identities = Identities::new(tables, labeller, settings.identity_change_grace_period);
    let options = KeeperOptions {
        ipv4: settings.enable_ipv4,
        ipv6: settings.enable_ipv6,
        nodes_by_cidr: settings.policy_cidr_match_mode == CidrMatchMode::Nodes,
        grace: settings.identity_restore_grace_period,
        directory: Some(Path::new(&settings.state_dir).join(STATE)),
    };
    let keeper = Keeper::new(tables, identities.clone(), options);
    tokio::spawn(keeper.run(health.component("controller/identity-table"), stop.clone()));
    Ok(identities)
}

type Assembled = (
    Arc<Agent>,
    tokio::sync::mpsc::UnboundedReceiver<model::Departure>,
);

#[expect(
    clippy::too_many_arguments,
    reason = "the one place where the parts meet"
)]
fn assemble(
    loaded: Loaded,
    tables: Tables,
    health: Health,
    datapath: Arc<Datapath>,
    local: LocalNode,
    facts: Facts,
    state_path: PathBuf,
    identities: Identities,
    namespaces: Namespaces,
    connection: watch::Receiver<Connection>,
) -> Result<Assembled> {
    let addresses = Arc::new(Addresses::new(tables.clone(), &local));
    let state = StateFile::new(
        state_path,
        tables.clone(),
        loaded.settings.get("ipam").unwrap_or_default(),
    );
    let (manager, departed) = Manager::new(
        tables.clone(),
        datapath.clone(),
        addresses.clone(),
        state,
        identities,
    )?;
    let policy = Policy::new(&tables, &datapath, &loaded.settings)?;
    manager.enforce_by(Arc::new(policy.clone()));
    let names = names(&tables, &datapath, &loaded.settings)?;
    names.iter().for_each(|names| policy.name_by(names.clone()));
    let services = Services::new(&tables, &datapath, &loaded.settings, namespaces)?;
    services.attach_sockets(&datapath, &loaded.settings);
    let agent = Agent::new(
        loaded,
        tables,
        health,
        datapath,
        addresses,
        Arc::new(manager),
        policy,
        services,
        names,
        facts,
        connection,
    );
    Ok((Arc::new(agent), departed))
}

/// Names that pods were told of, where there is a proxy that hears of them.
fn names(tables: &Tables, datapath: &Datapath, settings: &Settings) -> Result<Option<Names>> {
    if !settings.enable_l7_proxy {
        return Ok(None);
    }
    let kernel = Box::new(datapath.ipcache()?);
    Ok(Some(Names::open(tables, kernel, settings)))
}

/// Where the API server is.
#[must_use]
pub fn api_server(settings: &Settings) -> ApiServer {
    if !settings.k8s_api_server.is_empty() {
        ApiServer::Url(settings.k8s_api_server.clone())
    } else if !settings.k8s_kubeconfig_path.is_empty() {
        ApiServer::Kubeconfig(settings.k8s_kubeconfig_path.clone())
    } else {
        ApiServer::InCluster
    }
}

/// How fast the API server is asked.
#[must_use]
pub fn rate(settings: &Settings) -> Rate {
    Rate {
        qps: settings.k8s_client_qps,
        burst: settings.k8s_client_burst,
    }
}

/// The name that the node's object has.
///
/// # Errors
/// Neither settings nor machine tell.
pub fn node_name(settings: &Settings) -> Result<String> {
    let name = if settings.node_name.is_empty() {
        machine::hostname()
    } else {
        settings.node_name.clone()
    };
    if name.is_empty() {
        bail!("the node has no name: give node-name or K8S_NODE_NAME");
    }
    Ok(name)
}
