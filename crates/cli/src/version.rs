//! `hypha version`.
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use ::install::chart;
use ::kube::api::{Api, ListParams};
use anyhow::{Result, anyhow};
use clap::Args;
use k8s_openapi::api::core::v1::Pod;

use crate::error::one_line;
use crate::kube::{ClusterArgs, answer, block_on};
use crate::output;

/// This binary's version.
pub const NUMBER: &str = env!("CARGO_PKG_VERSION");
/// How long the cluster may take: without it, too, there is a version.
const LIMIT: Duration = Duration::from_secs(3);

/// Options of `hypha version`.
#[derive(Clone, Debug, Args)]
pub struct VersionArgs {
    /// Only this binary's version
    #[arg(long)]
    client: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Prints the version, the image that an installation takes, and those that run.
///
/// # Errors
/// If standard output cannot be written.
pub fn run(args: &VersionArgs) -> Result<()> {
    if args.client {
        return output::write_out(&client());
    }
    let running = block_on(async {
        let limited = tokio::time::timeout(LIMIT, running(&args.cluster)).await;
        limited.map_err(|_| anyhow!("the API server did not answer in {} s", LIMIT.as_secs()))?
    });
    output::write_out(&(client() + &images(running)))
}

/// The images' lines.
fn images(running: Result<BTreeSet<String>>) -> String {
    let ours = chart::metadata()
        .map(|chart| chart.app_version)
        .unwrap_or_default();
    let mut text = String::new();
    for which in ["default", "stable"] {
        let _ = writeln!(text, "cilium image ({which}): v{ours}");
    }
    match running {
        Ok(images) if images.is_empty() => {
            text += "cilium image (running): none; no agent runs in the cluster\n"
        }
        Ok(images) => {
            for image in images {
                let _ = writeln!(text, "cilium image (running): {image}");
            }
        }
        Err(error) => {
            let _ = writeln!(
                text,
                "cilium image (running): unknown; {}",
                one_line(&error)
            );
        }
    }
    text
}

/// Images of the agents' pods.
async fn running(cluster: &ClusterArgs) -> Result<BTreeSet<String>> {
    let client = cluster.client().await?;
    let pods: Api<Pod> = Api::namespaced(client, &cluster.namespace);
    let pods = answer(pods.list(&ListParams::default().labels("k8s-app=cilium"))).await?;
    let images = pods.items.into_iter().filter_map(|pod| {
        let containers = pod.spec?.containers;
        containers
            .into_iter()
            .find(|one| one.name == "cilium-agent")?
            .image
    });
    Ok(images.collect())
}

/// This binary's line.
#[must_use]
pub fn client() -> String {
    format!(
        "hypha: v{NUMBER} on {}/{}\n",
        std::env::consts::OS,
        architecture()
    )
}

/// The processor as images and release files call it.
const fn architecture() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        "amd64"
    } else if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        std::env::consts::ARCH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_told_or_why_not() {
        let line = |running| {
            images(running)
                .lines()
                .last()
                .unwrap_or_default()
                .to_owned()
        };
        assert_eq!(
            line(Ok(["a/b:1".to_owned()].into())),
            "cilium image (running): a/b:1"
        );
        assert_eq!(
            line(Err(anyhow!("no cluster"))),
            "cilium image (running): unknown; no cluster"
        );
        assert!(
            images(Ok(BTreeSet::new()))
                .starts_with(&format!("cilium image (default): v{NUMBER}\n"))
        );
    }
}
