//! The pods that the matrix runs between: the lab's sample pods.
use std::time::Duration;

use anyhow::{Context, Result};
use lab::state::PodRecord;
use lab::supervisor::sample;

use crate::labs::RunningLab;

/// How long new pods may take to be ready.
const READY: Duration = Duration::from_secs(30);

/// The sample pods, by node and name; those that are missing are created first.
///
/// # Errors
/// If they cannot be created or do not become ready.
pub fn ready(lab: &RunningLab) -> Result<Vec<PodRecord>> {
    let pods = present(lab)?;
    if lab
        .node_names()
        .iter()
        .all(|node| pods.iter().filter(|pod| pod.node == *node).count() >= 2)
    {
        return Ok(pods);
    }
    eprintln!("creating the sample pods …");
    create(lab).with_context(|| format!("cannot create the sample pods of lab `{}`", lab.name))?;
    present(lab)
}

fn present(lab: &RunningLab) -> Result<Vec<PodRecord>> {
    let mut pods = lab.pods()?;
    pods.retain(|pod| {
        is_sample(pod)
            && pod
                .containers
                .iter()
                .any(|container| container.process.alive())
    });
    Ok(pods)
}

/// Their names tell: `echo-<node>-a` and so on, in namespace `default`.
fn is_sample(pod: &PodRecord) -> bool {
    pod.namespace == "default" && pod.name.starts_with(&format!("echo-{}-", pod.node))
}

fn create(lab: &RunningLab) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let client = lab::client::connect(&lab.dir.kubeconfig())?;
        let names = sample::create(&client, &lab.state).await?;
        sample::wait_ready(&client, &names, READY).await
    })
}
