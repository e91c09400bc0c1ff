//! The policy task of an agent in a large cluster, from the tables that the watches fill to the rows in the kernel's map: in a
//! process of its own, which holds nothing else.
use std::{
    env, process,
    time::{Duration, Instant},
};

use agent::scale::{Enforcer, Policy};
use anyhow::{Context, Result, ensure};
use datapath::{AttachMode, Datapath, MapSizes, Object, OpenOptions};
use model::{
    Endpoint, Identity, IdentityKind, KUBERNETES, LocalNode, PolicyObject, RESTORE, RemoteEndpoint,
    Tables,
};
use nix::mount::{MntFlags, umount2};
use runtime::{health::Health, settings::Settings, stop};
use serde::{Deserialize, Serialize};
use tables::{Read, Revision};
use zerocopy::FromZeros;

use super::{IDENTITIES, LABEL_CHANGES, POLICIES, SUBJECTS, add, labels, millis, written};
use crate::report::{Report, percentile};

/// How long the task may take before the bench gives up.
const LIMIT: Duration = Duration::from_secs(60);
/// Changes of one policy that are timed.
const POLICY_CHANGES: u32 = 200;
/// Changes of a policy with many rows.
const LARGE_CHANGES: u32 = 41;

/// What the process measured: milliseconds, and MB.
#[derive(Default, Serialize, Deserialize)]
struct Measured {
    cold: f64,
    rows: u64,
    label_changes: Vec<f64>,
    policy_changes: Vec<f64>,
    large_changes: Vec<f64>,
    memory: f64,
}

/// Adds the figures.
///
/// # Errors
/// The process fails.
pub fn measure(report: &mut Report) -> Result<()> {
    let output = process::Command::new(env::current_exe()?)
        .arg("drive-policy")
        .stdin(process::Stdio::null())
        .stderr(process::Stdio::inherit())
        .output()?;
    ensure!(
        output.status.success(),
        "the policy task failed: {}",
        output.status
    );
    let m: Measured = serde_json::from_slice(&output.stdout)?;
    ensure!(m.rows > 0, "no row was written");
    let rows = [
        ("cold", "ms", m.cold, 1000.0),
        (
            "label-change/p50",
            "ms",
            percentile(&m.label_changes, 0.5),
            50.0,
        ),
        (
            "label-change/p99",
            "ms",
            percentile(&m.label_changes, 0.99),
            50.0,
        ),
        (
            "policy-change/p50",
            "ms",
            percentile(&m.policy_changes, 0.5),
            5.0,
        ),
        (
            "policy-change/p99",
            "ms",
            percentile(&m.policy_changes, 0.99),
            50.0,
        ),
        (
            "3000-entries-replaced/p50",
            "ms",
            percentile(&m.large_changes, 0.5),
            15.0,
        ),
        ("memory", "MB", m.memory, 150.0),
    ];
    for (name, unit, value, goal) in rows {
        add(report, &format!("policy/task/{name}"), unit, value, goal);
    }
    Ok(())
}

/// Runs in the process: prints what it measured.
///
/// # Errors
/// The datapath cannot be opened, or the task does not get through.
pub fn drive() -> Result<()> {
    datapath::share_heap();
    let bpffs = env::temp_dir().join(format!("hypha-bench-{}-policy", process::id()));
    datapath::ensure_bpffs(&bpffs)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the async runtime")?;
    let options = OpenOptions {
        bpffs: bpffs.clone(),
        config: abi::DatapathConfig::new_zeroed(),
        sizes: MapSizes {
            conntrack: 1024,
            nat: 1024,
            ..MapSizes::default()
        },
        attach: AttachMode::Auto,
        object: Object::embedded(),
    };
    let measured = netlink::netns::create_unnamed()?
        .run(|| Datapath::open(&options))?
        .map_err(anyhow::Error::from)
        .and_then(|(datapath, _)| runtime.block_on(task(&datapath)));
    // Lazy: the maps are still open in this process.
    let _ = umount2(&bpffs, MntFlags::MNT_DETACH);
    let _ = std::fs::remove_dir(&bpffs);
    println!("{}", serde_json::to_string(&measured?)?);
    Ok(())
}

async fn task(datapath: &Datapath) -> Result<Measured> {
    let cluster = Cluster::new(datapath)?;
    let (health, (stopper, stop)) = (Health::default(), stop::channel());
    let mut m = Measured::default();
    let began = Instant::now();
    cluster
        .policy
        .spawn(|_| {}, health.component("policy"), stop)?;
    cluster
        .enforced(cluster.tables.db.snapshot().revision())
        .await?;
    m.cold = millis(began);
    let status = cluster.policy.status();
    ensure!(status.complete, "the task did not get through: {status:?}");
    ensure!(
        status.policies == u64::from(POLICIES),
        "policies are missing: {status:?}"
    );
    m.rows = status.rows;
    for round in 0..LABEL_CHANGES {
        // Half of them are pods of this node.
        m.label_changes.push(if round % 2 == 0 {
            cluster.relabel_own(round, round % SUBJECTS).await?
        } else {
            let others = IDENTITIES - SUBJECTS;
            cluster
                .relabel_other(round, SUBJECTS + round * 37 % others)
                .await?
        });
    }
    for round in 0..POLICY_CHANGES {
        m.policy_changes.push(cluster.change_policy(round).await?);
    }
    m.memory = crate::scale::resident();
    for round in 0..LARGE_CHANGES {
        m.large_changes.push(cluster.replace_large(round).await?);
    }
    // The first one is new: nothing is replaced.
    m.large_changes.remove(0);
    stopper.stop();
    Ok(m)
}

/// The tables of an agent, and its policy.
struct Cluster {
    tables: Tables,
    policy: Policy,
}

impl Cluster {
    /// As it is after the lists are complete: all that is known stands in the tables.
    fn new(datapath: &Datapath) -> Result<Self> {
        let tables = Tables::new().context("making the tables")?;
        let policy = Policy::new(&tables, datapath, &Settings::default())?;
        let mut txn = tables.db.write();
        let reserved = (1..=9).map(|id| Identity {
            id,
            labels: [format!("reserved:number-{id}")].into_iter().collect(),
            kind: IdentityKind::Reserved,
        });
        let cluster = (0..IDENTITIES).map(|n| known(256 + n, n, 0));
        tables
            .identities
            .replace_all(&mut txn, reserved.chain(cluster))?;
        for n in 0..SUBJECTS {
            tables
                .endpoints
                .insert(&mut txn, endpoint(256 + n, n, 0)?)?;
        }
        for n in SUBJECTS..IDENTITIES {
            tables
                .cilium_endpoints
                .insert(&mut txn, remote(256 + n, n)?)?;
        }
        for n in 0..POLICIES {
            tables
                .policies
                .cilium
                .insert(&mut txn, object(n, &[80, 443]))?;
        }
        tables.local_node.insert(&mut txn, LocalNode::default())?;
        for table in tables.policies.policies().chain([&tables.policies.groups]) {
            table.finish_initializer(&mut txn, KUBERNETES);
        }
        let policies = &tables.policies;
        policies.services.finish_initializer(&mut txn, KUBERNETES);
        policies
            .manual_endpoints
            .finish_initializer(&mut txn, KUBERNETES);
        tables.identities.finish_initializer(&mut txn, KUBERNETES);
        tables
            .cilium_endpoints
            .finish_initializer(&mut txn, KUBERNETES);
        tables.endpoints.finish_initializer(&mut txn, RESTORE);
        txn.commit();
        Ok(Self { tables, policy })
    }

    /// Waits until the kernel has the rows of everything up to this revision.
    async fn enforced(&self, revision: Revision) -> Result<()> {
        let mut progress = self.policy.progress();
        let reached = tokio::time::timeout(LIMIT, progress.wait(revision)).await;
        ensure!(reached == Ok(true), "the policy task does not get through");
        Ok(())
    }

    /// A pod of this node gets other labels: their number comes, and the endpoint takes it once its rows stand.
    async fn relabel_own(&self, round: u32, n: u32) -> Result<f64> {
        let id = 256 + IDENTITIES + round;
        let began = Instant::now();
        let mut txn = self.tables.db.write();
        self.tables
            .identities
            .insert(&mut txn, known(id, n, round + 1))?;
        txn.commit();
        let mut next = endpoint(id, n, round + 1)?;
        let snapshot = self.tables.db.snapshot();
        let before = self.tables.endpoints.get(&snapshot, &next.id);
        next.subject = before.context("an endpoint")?.subject;
        let grant = self.policy.realise(&next);
        next.subject = grant.subject;
        let mut txn = self.tables.db.write();
        self.tables.endpoints.insert(&mut txn, next)?;
        let revision = txn.commit();
        drop(grant);
        self.enforced(revision).await?;
        Ok(millis(began))
    }

    /// A pod of another node does.
    async fn relabel_other(&self, round: u32, n: u32) -> Result<f64> {
        let id = 256 + IDENTITIES + round;
        let began = Instant::now();
        let mut txn = self.tables.db.write();
        self.tables
            .identities
            .insert(&mut txn, known(id, n, round + 1))?;
        self.tables
            .cilium_endpoints
            .insert(&mut txn, remote(id, n)?)?;
        let revision = txn.commit();
        self.enforced(revision).await?;
        Ok(millis(began))
    }

    /// A policy about one pod of this node with many rows gets all others.
    async fn replace_large(&self, round: u32) -> Result<f64> {
        let first = 10_000 + usize::try_from(round % 2)?;
        let mut object = super::large("large", super::LARGE, first);
        object["metadata"]["namespace"] = "team-0".into();
        object["spec"]["endpointSelector"] = serde_json::json!({"matchLabels": {"pod": "0"}});
        let row = PolicyObject {
            key: "team-0/large".into(),
            kind: "CiliumNetworkPolicy".into(),
            json: object.to_string().into(),
        };
        let began = Instant::now();
        let mut txn = self.tables.db.write();
        self.tables.policies.cilium.insert(&mut txn, row)?;
        let revision = txn.commit();
        self.enforced(revision).await?;
        Ok(millis(began))
    }

    /// A policy about pods of this node gets another port.
    async fn change_policy(&self, round: u32) -> Result<f64> {
        let port = u16::try_from(1000 + round)?;
        let row = object(round % SUBJECTS, &[80, port]);
        let began = Instant::now();
        let mut txn = self.tables.db.write();
        self.tables.policies.cilium.insert(&mut txn, row)?;
        let revision = txn.commit();
        self.enforced(revision).await?;
        Ok(millis(began))
    }
}

fn known(id: u32, n: u32, version: u32) -> Identity {
    Identity {
        id,
        labels: labels(n, version),
        kind: IdentityKind::Cluster,
    }
}

fn endpoint(identity: u32, n: u32, version: u32) -> Result<Endpoint> {
    let mut endpoint: Endpoint = serde_json::from_value(serde_json::json!({
        "id": 100 + n, "state": "ready", "attachment": format!("cni-attachment-id:container-{n}:eth0"),
        "pod": {"namespace": format!("team-{}", n % 100), "name": format!("pod-{n}"), "uid": n.to_string()},
        "labels": [], "identity": identity, "subject": identity, "ipv4": format!("10.0.{}.{}", n / 200, n % 200 + 2),
        "ipv6": null, "ifname": format!("lxc{n}"), "ifindex": 1000 + n, "host_mac": "02:00:00:00:00:01",
        "container_mac": "02:00:00:00:00:02", "netns": format!("/run/netns/{n}"),
    }))?;
    endpoint.labels = labels(n, version);
    Ok(endpoint)
}

fn remote(identity: u32, n: u32) -> Result<RemoteEndpoint> {
    Ok(RemoteEndpoint {
        key: format!("team-{}/pod-{n}", n % 100).into(),
        addresses: [format!("10.1.{}.{}", n / 250, n % 250 + 1).parse()?].into(),
        identity,
        node: "192.0.2.1".parse().ok(),
        ports: [].into(),
    })
}

fn object(number: u32, ports: &[u16]) -> PolicyObject {
    let mut object = written(number);
    let numbers = ports.iter();
    let numbers =
        numbers.map(|port| serde_json::json!({"port": port.to_string(), "protocol": "TCP"}));
    object["spec"]["ingress"][0]["toPorts"][0]["ports"] = numbers.collect();
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    PolicyObject {
        key: format!("{}/{}", text("namespace"), text("name")).into(),
        kind: "CiliumNetworkPolicy".into(),
        json: object.to_string().into(),
    }
}
