//! Everything that runs on after the start: reconcilers, controllers, servers.
use crate::{
    agent::Agent,
    controllers,
    endpoint::Manager,
    follow::Follower,
    kube::{Follow, endpoints::EndpointObjects},
    layer7, metrics, observe,
    policy::follow_files,
    rest,
    services::{serve_checks, serve_healthz},
    sweep::Sweeper,
    targets::{IpcacheTarget, RouteTarget},
};
use anyhow::{Context, Result};
use api::{
    conflist::Conflist,
    delete_queue::{DIRECTORY, DeleteQueue},
};
use k8s::Client;
use model::Departure;
use runtime::{
    health::{Component, Level},
    reconcile::{self, Watched},
    reconcile_async,
    stop::Stop,
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};
use tables::reconcile::Config;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::mpsc,
};

/// How long the agent waits for the plugin to let go of the deletion queue.
const QUEUE_WAIT: Duration = Duration::from_secs(2);
/// How often the deletion queue is looked at after the start, for what came in while the agent hung.
const QUEUE_AGAIN: Duration = Duration::from_secs(60);

/// How many endpoints are written to the API server at the same time.
const ENDPOINT_OBJECTS: usize = 16;

/// How often to look for attachments to settle, and the pause between two.
const SETTLE_LOOK: Duration = Duration::from_secs(1);
const SETTLE_PAUSE: Duration = Duration::from_millis(50);

/// How often to look whether there is memory to give back, and how much more than at the last time makes it worth while.
const TRIM_LOOK: Duration = Duration::from_secs(5);
const TRIM_WORTH: u64 = 2 << 20;

/// Runs everything until `stop`. `follow` begins once the agent serves; none: it has begun.
///
/// # Errors
/// A socket cannot be made.
pub async fn run(
    agent: Arc<Agent>,
    departed: mpsc::UnboundedReceiver<Departure>,
    client: Client,
    follow: Option<Follow>,
    stop: Stop,
) -> Result<()> {
    // Set once, here.
    let _ = agent.server.set(client.clone());
    crate::l2::start(&agent, &client, &stop);
    reconcilers(&agent, client, &stop)?;
    background(&agent, departed, &stop)?;
    let socket = listen(&agent).await?;
    let server = tokio::spawn(rest::serve(agent.clone(), socket, stop.clone()));
    side_servers(&agent, &stop).await?;
    let queue = agent.clone();
    tokio::spawn({
        let stop = stop.clone();
        async move { stop.or(drain_queue(queue)).await }
    });
    write_cni_config(&agent);
    let ready = agent.facts.started.elapsed();
    // Set once, here.
    let _ = agent.ready_after.set(ready.as_secs_f64());
    tracing::info!(
        elapsed_ms = ready.as_millis() as u64,
        memory_mib = crate::machine::resident() >> 20,
        "agent ready"
    );
    if let Some(follow) = follow {
        follow.start();
    }
    server.await.context("the API server ended")?
}

fn reconcilers(agent: &Arc<Agent>, client: Client, stop: &Stop) -> Result<()> {
    let tables = &agent.tables;
    let component = |name: &str| agent.health.component(&format!("reconciler/{name}"));
    let ipcache = IpcacheTarget(agent.datapath.ipcache()?);
    let prefixes = reconcile::spawn(
        &tables.db,
        &tables.prefixes,
        Config::default(),
        ipcache,
        component("ipcache"),
        stop.clone(),
    );
    if let Some(names) = &agent.names {
        names.written_by(prefixes.watch());
    }
    let routes = reconcile::spawn(
        &tables.db,
        &tables.routes,
        Config::default(),
        RouteTarget::default(),
        component("routes"),
        stop.clone(),
    );
    let mut all: Vec<Box<dyn Watched>> = vec![Box::new(prefixes), Box::new(routes)];
    if !agent.loaded.settings.disable_endpoint_crd {
        let objects = EndpointObjects::new(client, tables.clone());
        // Nothing but this agent changes them, and their number is the cluster's: they are not compared again and again.
        let config = Config {
            batch: ENDPOINT_OBJECTS,
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(10),
            refresh_interval: None,
            prune_interval: None,
        };
        all.push(Box::new(reconcile_async::spawn(
            &tables.db,
            &tables.endpoints,
            config,
            objects,
            component("endpoint-objects"),
            stop.clone(),
        )));
    }
    // Set once, here.
    let _ = agent.reconcilers.set(all);
    Ok(())
}

fn background(
    agent: &Arc<Agent>,
    departed: mpsc::UnboundedReceiver<Departure>,
    stop: &Stop,
) -> Result<()> {
    let settings = &agent.loaded.settings;
    let tables = agent.tables.clone();
    let component = |name: &str| agent.health.component(name);
    tokio::spawn(controllers::plan_loop(
        tables.clone(),
        agent.facts.plan.clone(),
        Some(gate(agent)),
        component("controller/plan"),
        stop.clone(),
    ));
    tokio::spawn(controllers::identity_loop(
        tables.clone(),
        agent.manager.clone(),
        component("controller/identities"),
        stop.clone(),
    ));
    tokio::spawn(controllers::node_loop(
        tables,
        settings.ipam,
        component("controller/node"),
        stop.clone(),
    ));
    let manager = agent.manager.clone();
    let refresh = move |endpoints: &BTreeSet<u16>| drop(manager.refresh(endpoints));
    agent
        .policy
        .spawn(refresh, component("policy"), stop.clone())
        .context("starting the policy task")?;
    agent
        .services
        .spawn(&agent.datapath, component("services"), stop.clone())
        .context("starting the task of services")?;
    let sockets = agent.services.clone().keep_sockets(
        agent.datapath.clone(),
        settings.clone(),
        component("sockets"),
        stop.clone(),
    );
    tokio::spawn(sockets);
    if settings.kube_proxy_replacement && settings.enable_health_check_nodeport {
        let checks = component("health-check-ports");
        tokio::spawn(serve_checks(agent.services.clone(), checks, stop.clone()));
    }
    if !settings.static_cnp_path.is_empty() {
        tokio::spawn(follow_files(
            agent.tables.clone(),
            settings.static_cnp_path.clone().into(),
            component("policy-files"),
            stop.clone(),
        ));
    }
    let sweeper = Sweeper {
        conntrack: agent.datapath.conntrack()?,
        datapath: agent.datapath.clone(),
        manager: agent.manager.clone(),
        addresses: agent.addresses.clone(),
        interval: settings.conntrack_gc_interval,
        stats: agent.sweeps.clone(),
        health: component("conntrack-gc"),
    };
    tokio::spawn(sweeper.run(departed, stop.clone()));
    if let Some(names) = &agent.names {
        let conntrack = agent.datapath.conntrack()?;
        let health = component("names");
        tokio::spawn(names.clone().run(conntrack, health, stop.clone()));
    }
    let settle = component("controller/attachments");
    tokio::spawn(settle_loop(agent.manager.clone(), settle, stop.clone()));
    tokio::spawn(trim_loop(stop.clone()));
    let follower = Follower {
        tables: agent.tables.clone(),
        datapath: agent.datapath.clone(),
        pair: agent.facts.pair,
        settings: settings.clone(),
        health: component("machine"),
    };
    tokio::spawn(follower.run(stop.clone()));
    let events = component("monitor");
    let mut records = None;
    match agent.datapath.events() {
        Ok(reader) => {
            events.ok("reads the event ring");
            let policy = agent.policy.clone();
            let services = agent.services.clone();
            let mut flows = observe::start(agent, stop);
            if let Some(flows) = flows.as_mut().filter(|_| observe::wants_requests(settings)) {
                let (sender, requests) = layer7::Requests::channel();
                flows.take_requests(requests);
                records = Some(sender);
            }
            let run = agent
                .monitor
                .clone()
                .run(reader, policy, services, flows, stop.clone());
            tokio::spawn(run);
        }
        Err(error) => events.degraded(format!("no live events: {error}")),
    }
    layer7::start(agent, records, stop);
    Ok(())
}

/// Keeps the planner from telling the kernel of identities for which it has no rows.
fn gate(agent: &Agent) -> controllers::Gate {
    let policy = agent.policy.clone();
    Box::new(move |revision| {
        let mut progress = policy.progress();
        Box::pin(async move {
            // Without a policy task, which ends with the agent, there is nobody to wait for.
            progress.wait(revision).await;
        })
    })
}

/// Gives endpoints their final attachments, one after the other, when nothing else is going on.
async fn settle_loop(manager: Arc<Manager>, health: Component, stop: Stop) {
    health.ok("final attachments follow when no pod comes");
    loop {
        let one = manager.clone();
        let more = tokio::task::spawn_blocking(move || one.settle_one())
            .await
            .unwrap_or(false);
        let pause = if more { SETTLE_PAUSE } else { SETTLE_LOOK };
        if stop.or(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

/// Gives back what the start, or a burst of changes, took for a moment: heap, and code that is not called any longer.
async fn trim_loop(stop: Stop) {
    let mut usual = 0;
    while stop.or(tokio::time::sleep(TRIM_LOOK)).await.is_some() {
        if crate::machine::resident() <= usual + TRIM_WORTH {
            continue;
        }
        datapath::unload_code();
        let trimmed = tokio::task::spawn_blocking(datapath::trim_heap).await;
        // What is called all the time is soon back.
        if trimmed.is_err() || stop.or(tokio::time::sleep(TRIM_LOOK)).await.is_none() {
            return;
        }
        usual = crate::machine::resident();
    }
}

/// The API socket, for root alone. One that a dead agent left is replaced.
async fn listen(agent: &Agent) -> Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let path = socket_path(agent);
    if tokio::net::UnixStream::connect(&path).await.is_ok() {
        anyhow::bail!(
            "another agent answers at {}; two would fight over the node",
            path.display()
        );
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error)
                .with_context(|| format!("removing the old socket {}", path.display()));
        }
        _ => {}
    }
    // The directory lets nobody else in, so the moment before the mode is set harms nobody.
    let listener =
        UnixListener::bind(&path).with_context(|| format!("listening at {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("protecting {}", path.display()))?;
    Ok(listener)
}

fn socket_path(agent: &Agent) -> PathBuf {
    let settings = &agent.loaded.settings;
    if settings.socket_path.is_empty() {
        Path::new(&settings.state_dir).join("cilium.sock")
    } else {
        PathBuf::from(&settings.socket_path)
    }
}

async fn side_servers(agent: &Arc<Agent>, stop: &Stop) -> Result<()> {
    let settings = &agent.loaded.settings;
    if settings.agent_health_port != 0 {
        let address = ("127.0.0.1", settings.agent_health_port);
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!(
                "listening at 127.0.0.1:{} (agent-health-port)",
                settings.agent_health_port
            )
        })?;
        tokio::spawn(rest::serve_health(agent.clone(), listener, stop.clone()));
    }
    let healthz = &settings.kube_proxy_replacement_healthz_bind_address;
    if settings.kube_proxy_replacement && !healthz.is_empty() {
        let address = runtime::listen_address(healthz);
        let listener = TcpListener::bind(&address).await.with_context(|| {
            format!("listening at {address} (kube-proxy-replacement-healthz-bind-address)")
        })?;
        tokio::spawn(serve_healthz(
            agent.services.clone(),
            listener,
            stop.clone(),
        ));
    }
    if !settings.prometheus_serve_addr.is_empty() {
        let address = runtime::listen_address(&settings.prometheus_serve_addr);
        let listener = TcpListener::bind(&address)
            .await
            .with_context(|| format!("listening at {address} (prometheus-serve-addr)"))?;
        tokio::spawn(metrics::serve(agent.clone(), listener, stop.clone()));
    }
    Ok(())
}

/// Does what the CNI plugin could not hand over. The agent listens by now, so no deletion can fall between.
async fn drain_queue(agent: Arc<Agent>) {
    let dir = Path::new(&agent.loaded.settings.state_dir).join(DIRECTORY);
    let component = agent.health.component("delete-queue");
    loop {
        let (agent, dir) = (agent.clone(), dir.clone());
        let drained = tokio::task::spawn_blocking(move || {
            let queue = DeleteQueue::lock(&dir, QUEUE_WAIT)?;
            queue.drain(|deletion| agent.manager.delete(&deletion.endpoint()).is_ok())
        })
        .await;
        match drained {
            Ok(Ok(drained)) => {
                if drained.done + drained.kept + drained.unreadable > 0 {
                    tracing::info!(
                        done = drained.done,
                        kept = drained.kept,
                        unreadable = drained.unreadable,
                        "deletions from while the agent was down"
                    );
                }
                component.ok(format!("{} deletions done at the last look", drained.done));
            }
            Ok(Err(error)) => component.degraded(error.to_string()),
            Err(_) => return,
        }
        tokio::time::sleep(QUEUE_AGAIN).await;
    }
}

fn write_cni_config(agent: &Agent) {
    let settings = &agent.loaded.settings;
    let component = agent.health.component("cni-config");
    let text = if settings.write_cni_conf_when_ready.is_empty() {
        component.ok("not asked for");
        "not written (write-cni-conf-when-ready is empty)".to_owned()
    } else {
        let target = Path::new(&settings.write_cni_conf_when_ready);
        let dir = target.parent().unwrap_or(Path::new("/"));
        match conflist(agent).write(dir) {
            Ok(path) => {
                component.ok("written");
                format!(
                    "successfully wrote CNI configuration file to {}",
                    path.display()
                )
            }
            Err(error) => {
                component.degraded(error.to_string());
                error.to_string()
            }
        }
    };
    *agent
        .cni_config
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = text;
}

fn conflist(agent: &Agent) -> Conflist {
    let settings = &agent.loaded.settings;
    let log = match settings.cni_log_file.as_str() {
        "" => format!("{}/cilium-cni.log", settings.state_dir),
        path => path.to_owned(),
    };
    let socket = socket_path(agent);
    let usual = socket == Path::new(api::DEFAULT_SOCKET);
    Conflist {
        log_file: log,
        debug: settings.debug,
        agent_socket: (!usual).then(|| socket.display().to_string()),
        exclusive: settings.cni_exclusive,
    }
}

/// True while no component has failed.
#[must_use]
pub fn healthy(agent: &Agent) -> bool {
    agent.health.worst() < Level::Failed
}
