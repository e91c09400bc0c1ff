//! `hypha install`, `upgrade`, `uninstall`, and what pods do to their nodes first.
mod flags;
pub mod node;
pub mod workloads;

use std::time::Duration;

use ::install::apply::{History, Release, wait};
use ::install::{Request, chart, notes, release, values};
use ::kube::api::{Api, ListParams};
use anyhow::{Context, Result, anyhow, bail};
use k8s::Client;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::kube::{ClusterArgs, answer, block_on};
use crate::output;

pub use flags::{InstallArgs, UninstallArgs, UpgradeArgs};
use flags::{ReleaseArgs, ValuesArgs};

/// `hypha install`.
///
/// # Errors
/// There is a release already; values are wrong; the API server does not answer or refuses.
pub fn install(args: &InstallArgs) -> Result<()> {
    if only_versions(&args.values)? {
        return Ok(());
    }
    block_on(async {
        let given = args.values.given.merged()?;
        if args.values.dry_run && !can_reach(&args.release.cluster) {
            return printed(&args.values, &args.release, &given, 1);
        }
        let client = args.release.cluster.client().await?;
        let values = with_defaults(&client, given).await?;
        let mut report = report;
        let mut release = args
            .release
            .release(client, args.values.force_conflicts, &mut report);
        let history = release.history().await?;
        if let Some(there) = history.deployed() {
            bail!(
                "release {} is in namespace {} already (revision {}); `hypha upgrade` changes it",
                there.name,
                there.namespace,
                there.version
            );
        }
        carry_out(&mut release, history, values, &args.values, "install").await
    })
}

/// `hypha upgrade`.
///
/// # Errors
/// There is no release; values are wrong; the API server does not answer or refuses.
pub fn upgrade(args: &UpgradeArgs) -> Result<()> {
    if only_versions(&args.values)? {
        return Ok(());
    }
    block_on(async {
        let given = args.values.given.merged()?;
        let client = args.release.cluster.client().await?;
        let mut report = report;
        let mut release = args
            .release
            .release(client, args.values.force_conflicts, &mut report);
        let history = release.history().await?;
        let Some(last) = history.deployed().or(history.last()) else {
            if args.install {
                let values = with_defaults(&release.client, given).await?;
                return carry_out(&mut release, history, values, &args.values, "install").await;
            }
            bail!(
                "there is no release {} in namespace {}; `hypha install` makes one",
                release.name,
                release.namespace
            );
        };
        // As Helm: who gives no values means those of before.
        let nothing = given.as_object().is_none_or(serde_json::Map::is_empty);
        let reuse = args.reuse_values || (nothing && !args.reset_values);
        let values = if reuse {
            let mut values = last.config.clone();
            if values.is_null() {
                values = json!({});
            }
            values::merge(&mut values, given);
            values
        } else {
            given
        };
        carry_out(&mut release, history, values, &args.values, "upgrade").await
    })
}

/// `hypha uninstall`.
///
/// # Errors
/// There is no release; the API server does not answer or refuses.
pub fn uninstall(args: &UninstallArgs) -> Result<()> {
    block_on(async {
        let client = args.release.cluster.client().await?;
        let mut report = report;
        let mut release = args.release.release(client, false, &mut report);
        let removed = release.remove().await?;
        let mut text = String::new();
        for left in &removed.left {
            text += &format!("⚠️  {left} stays\n");
        }
        text += "ℹ️  Custom resource definitions and their objects stay: kubectl delete crd -l io.cilium.k8s.crd.schema.version\n";
        text += "ℹ️  Nodes keep what pods use, services as they were, and the CNI configuration: hypha node-setup uninstall-cni and release-sockets on a node take that away\n";
        output::write_out(&text)?;
        if args.wait {
            gone(&release.client, release.namespace, args.wait_duration).await?;
        }
        output::write_out(&format!("✅ Release {} is gone\n", release.name))
    })
}

fn report(step: &str) {
    // If the reader is gone the work goes on.
    let _ = output::write_out(&format!("✨ {step}\n"));
}

/// `--version` and `--list-versions`: this program has one chart. Whether that was all that was asked for.
fn only_versions(args: &ValuesArgs) -> Result<bool> {
    let ours = chart::metadata().map_err(|error| anyhow!(error))?.version;
    if args.list_versions {
        output::write_out(&format!("v{ours} (default)\n"))?;
        return Ok(true);
    }
    match args
        .version
        .as_deref()
        .map(|version| version.trim_start_matches('v'))
    {
        Some(version) if version != ours => {
            bail!("this program installs v{ours}, not v{version}; use the program of that version")
        }
        _ => Ok(false),
    }
}

/// What is only printed needs no cluster.
fn can_reach(cluster: &ClusterArgs) -> bool {
    cluster.path().is_ok()
}

async fn carry_out(
    release: &mut Release<'_>,
    history: History,
    values: Value,
    args: &ValuesArgs,
    verb: &str,
) -> Result<()> {
    if args.dry_run_helm_values {
        return output::write_out(&(::install::template::to_yaml(&values) + "\n"));
    }
    let plan = release.plan(history, values).await?;
    if args.dry_run {
        return output::write_out(&plan.manifest());
    }
    let (revision, text) = (plan.revision(), plan.notes.clone());
    let workloads = plan.workloads();
    output::write_out(&format!(
        "🔮 {verb} {} as revision {revision}\n",
        release.name
    ))?;
    release.carry_out(plan).await?;
    if args.wait {
        output::write_out("⌛ Waiting for agents and operator...\n")?;
        let waited = wait(
            &release.client,
            release.namespace,
            &workloads,
            args.wait_duration,
        )
        .await;
        waited
            .map_err(|text| anyhow!("{text}; everything is applied, `hypha status` tells more"))?;
    }
    output::write_out(&format!("✅ Revision {revision} is in place\n\n{text}"))
}

fn printed(args: &ValuesArgs, release: &ReleaseArgs, values: &Value, revision: u32) -> Result<()> {
    if args.dry_run_helm_values {
        return output::write_out(&(::install::template::to_yaml(values) + "\n"));
    }
    let rendered = notes(&Request {
        release: release.helm_release_name.clone(),
        namespace: release.cluster.namespace.clone(),
        values: values.clone(),
        kube_version: None,
        revision,
        there: Vec::new(),
    })?;
    output::write_out(&release::manifest(&rendered.objects))
}

/// Values that depend on the cluster, where nobody has given them: one node has room for one operator.
async fn with_defaults(client: &Client, given: Value) -> Result<Value> {
    if !given["operator"]["replicas"].is_null() {
        return Ok(given);
    }
    let nodes: Api<Node> = Api::all(client.clone());
    let some = answer(nodes.list_metadata(&ListParams::default().limit(2))).await;
    let some = some.context("cannot count the nodes")?;
    if some.items.len() != 1 {
        return Ok(given);
    }
    output::write_out("ℹ️  The cluster has one node: operator.replicas=1\n")?;
    let mut values = json!({"operator": {"replicas": 1}});
    values::merge(&mut values, given);
    Ok(values)
}

async fn gone(client: &Client, namespace: &str, limit: Duration) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let ours = ListParams::default().labels("app.kubernetes.io/part-of=cilium");
    let end = std::time::Instant::now() + limit;
    loop {
        let left = answer(pods.list_metadata(&ours)).await?.items.len();
        if left == 0 {
            return Ok(());
        }
        if std::time::Instant::now() >= end {
            bail!("{left} pods are still there after {} s", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
