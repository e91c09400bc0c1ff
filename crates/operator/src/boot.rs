//! The start: lead, install, watch, work.
use crate::{
    addresses, certificates,
    controller::{self, Context},
    follow, identities,
    metrics::Metrics,
    nodes, policies, pools,
    rounds::Rounds,
    serve, slices,
    tables::{Tables, Wanted},
    unmanaged,
};
use anyhow::{Context as _, Result, bail};
use k8s::{
    ApiServer, Client, Rate, Watcher, config,
    crd::{self, Installed},
    error::{is_conflict, says},
    events::{About, Events},
    lease::{Elector, LeaseSettings, Try},
    write::Objects,
};
use runtime::{
    health::Health,
    settings::{IpamMode, OperatorSettings, Remote},
    stop::{self, Stop},
};
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// Who speaks in events.
const COMPONENT: &str = "cilium-operator";
/// The lease of the leader.
const LEASE: &str = "cilium-operator-resource-lock";
/// How long the search for what an event is about may take.
const EVENT_LIMIT: Duration = Duration::from_secs(5);
/// How long giving the lease back may take.
const RELEASE_LIMIT: Duration = Duration::from_millis(500);

/// Runs the operator until it gets a signal.
///
/// # Errors
/// Whatever prevents the start, and the loss of leadership.
pub(crate) fn run(settings: OperatorSettings) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the async runtime")?;
    runtime.block_on(async {
        let (stopper, stop) = stop::channel();
        let client = k8s::client(&api_server(&settings), rate(&settings)).await?;
        let work = run_until(settings, client, stop);
        tokio::pin!(work);
        tokio::select! {
            signal = stop::signalled() => {
                tracing::info!(signal = signal.context("installing signal handlers")?, "stopping");
                stopper.stop();
                work.await
            }
            outcome = &mut work => outcome,
        }
    })
}

fn api_server(settings: &OperatorSettings) -> ApiServer {
    if !settings.k8s_api_server.is_empty() {
        ApiServer::Url(settings.k8s_api_server.clone())
    } else if !settings.k8s_kubeconfig_path.is_empty() {
        ApiServer::Kubeconfig(settings.k8s_kubeconfig_path.clone())
    } else {
        ApiServer::InCluster
    }
}

fn rate(settings: &OperatorSettings) -> Rate {
    Rate {
        qps: settings.operator_k8s_client_qps,
        burst: settings.operator_k8s_client_burst,
    }
}

/// Says of the ConfigMap that the settings name that the operator does not start with what it has, as an event.
pub(crate) fn tell(settings: &OperatorSettings, why: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        let client = k8s::client(&api_server(settings), rate(settings)).await;
        if let Ok(client) = client {
            tell_by(&client, settings, why).await;
        }
    });
}

/// As [`tell`], by this client.
pub async fn tell_by(client: &Client, settings: &OperatorSettings, why: &str) {
    let (namespace, name) = (&settings.k8s_namespace, &settings.config_map);
    let maps = Objects::core(client, "ConfigMap", "configmaps", Some(namespace));
    let found = tokio::time::timeout(EVENT_LIMIT, maps.get(name)).await;
    if let Ok(Ok(Some(map))) = found {
        let about = About {
            kind: "ConfigMap",
            api_version: "v1".to_owned(),
            namespace: namespace.clone(),
            name: name.clone(),
            uid: map.metadata.uid.unwrap_or_default(),
        };
        Events::new(client, COMPONENT)
            .warn(&about, "InvalidSettings", why)
            .await;
    }
}

/// The ConfigMap that the settings name.
///
/// # Errors
/// There is none, or the API server does not answer.
pub(crate) fn remote_settings(settings: &OperatorSettings) -> Result<Remote, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("starting the async runtime: {error}"))?;
    runtime.block_on(async {
        let client = k8s::client(&api_server(settings), rate(settings))
            .await
            .map_err(|error| error.to_string())?;
        let map = config::config_map(&client, &settings.k8s_namespace, &settings.config_map).await;
        Ok(Remote {
            config_map: Some(map.map_err(|error| error.to_string())?),
            node_configs: Vec::new(),
        })
    })
}

/// Runs the operator with `client` until `stop`: waits until it leads, then works.
///
/// # Errors
/// The settings make no sense, an address is in use, or leadership was lost: then everything has ended, and whoever called may
/// call again.
pub async fn run_until(settings: OperatorSettings, client: Client, stop: Stop) -> Result<()> {
    check(&settings)?;
    let (health, metrics) = (Health::default(), Metrics::default());
    serve::start(&settings, &health, &metrics, &stop).await?;
    let identity = identity()?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        identity,
        ipam = settings_text(&settings),
        "operator starting"
    );
    let mut elector = Elector::new(client.clone(), lease(&settings, identity));
    let component = health.component("leader-election");
    let mut last = None;
    let told = |outcome: &Try| {
        match outcome {
            Try::Leading => component.ok("this process leads"),
            Try::Following(holder) => component.ok(format!("{holder} leads")),
            Try::Failed(error) => component.degraded(error.clone()),
        }
        if last.as_ref() != Some(outcome) {
            tracing::info!(?outcome, "leader election");
            last = Some(outcome.clone());
        }
    };
    if stop.or(elector.acquire(told)).await.is_none() {
        return Ok(());
    }
    metrics.leading(true);
    // Ends with this function, whichever way.
    let (_stopper, own_stop) = stop::channel();
    let context = Context {
        events: Events::new(&client, COMPONENT),
        client,
        settings: Arc::new(settings),
        tables: Tables::new().context("making the tables")?,
        health: health.clone(),
        metrics: metrics.clone(),
    };
    let outcome = tokio::select! {
        () = stop.stopped() => Ok(()),
        why = elector.keep() => Err(anyhow::anyhow!("leadership is lost: {why}")),
        outcome = lead(context, &own_stop) => outcome,
    };
    metrics.leading(false);
    if outcome.is_ok() {
        let _ = tokio::time::timeout(RELEASE_LIMIT, elector.release()).await;
    }
    outcome
}

fn settings_text(settings: &OperatorSettings) -> String {
    settings.get("ipam").unwrap_or_default()
}

/// What can be said of the settings before anything is asked of the API server.
///
/// # Errors
/// Ranges or pools that make no sense together: what is accepted.
pub fn check(settings: &OperatorSettings) -> Result<()> {
    if settings.ipam == IpamMode::ClusterPool
        && let Err(error) = nodes::cluster_spaces(settings)
    {
        bail!("{error}");
    }
    if let Err(error) = pools::wanted(&settings.auto_create_cilium_pod_ip_pools) {
        bail!("{error}");
    }
    if let Err(error) = identities::labeller(settings) {
        bail!("{error}");
    }
    Ok(())
}

/// The host's name, and something that no other process has.
fn identity() -> Result<String> {
    let mut random = [0u8; 5];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let host = nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let suffix: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{host}-{suffix}"))
}

fn lease(settings: &OperatorSettings, identity: String) -> LeaseSettings {
    LeaseSettings {
        namespace: settings.k8s_namespace.clone(),
        name: LEASE.to_owned(),
        identity,
        duration: settings.leader_election_lease_duration,
        renew_deadline: settings.leader_election_renew_deadline,
        retry_period: settings.leader_election_retry_period,
    }
}

async fn lead(context: Context, stop: &Stop) -> Result<()> {
    prepare(&context).await;
    let settings = &context.settings;
    let watcher = Watcher::new(&context.client, &context.tables.db, &context.health, stop);
    context.tables.watch(&watcher, &Wanted::by(settings));
    futures::join!(
        controller::give_ranges(context.clone(), stop.clone()),
        controller::collect_garbage(context.clone(), stop.clone()),
        follow::nodes(context.clone(), stop.clone()),
        identities::give(context.clone(), stop.clone()),
        policies::judge(context.clone(), stop.clone()),
        addresses::give(context.clone(), stop.clone()),
        slices::write(context.clone(), stop.clone()),
        unmanaged::restart(context.clone(), stop.clone()),
        certificates::renew(context.clone(), stop.clone()),
        // The election goes on even if there is nothing to do.
        std::future::pending::<()>(),
    );
    Ok(())
}

/// Installs kinds and pools; tries until that has worked.
async fn prepare(context: &Context) {
    let component = context.health.component("custom-resources");
    let mut rounds = Rounds::new();
    while let Err(error) = install(context).await {
        tracing::warn!("{error:#}");
        component.degraded(format!("{error:#}"));
        rounds.after_failure().await;
    }
    component.ok("installed");
}

async fn install(context: &Context) -> Result<()> {
    let (client, settings) = (&context.client, &context.settings);
    if !settings.skip_crd_creation {
        for crd in crd::ALL {
            let name = crd.name();
            match crd::install(client, crd).await? {
                Installed::Current => {}
                Installed::Newer(version) => {
                    tracing::info!(name, version, "custom resource of a later version stays");
                }
                outcome => tracing::info!(name, ?outcome, "custom resource installed"),
            }
        }
    }
    if settings.ipam == IpamMode::MultiPool {
        create_pools(client, settings).await?;
    }
    Ok(())
}

/// Makes the pools that the settings ask for; one that is there stays as it is.
async fn create_pools(client: &Client, settings: &OperatorSettings) -> Result<()> {
    let wanted = pools::wanted(&settings.auto_create_cilium_pod_ip_pools)
        .map_err(|error| anyhow::anyhow!(error))?;
    let Some(crd) = crd::ALL.iter().find(|crd| crd.kind == "CiliumPodIPPool") else {
        return Ok(());
    };
    let objects = Objects::of(client, crd);
    for (name, spec) in wanted {
        let value = json!({"metadata": {"name": name}, "spec": spec});
        match objects.create(value).await {
            Ok(_) => tracing::info!(pool = name, "pool made"),
            Err(error) if is_conflict(&error) => {}
            Err(error) => bail!("CiliumPodIPPool {name}: {}", says(&error)),
        }
    }
    Ok(())
}
