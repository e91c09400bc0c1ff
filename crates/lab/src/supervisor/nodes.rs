//! The cluster's first objects, and the nodes' Ready condition.

use std::time::Duration;

use anyhow::{Context, bail};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::hosts::Network;
use crate::kubelet::cni::CniError;
use crate::kubelet::{self, status};
use crate::spec::LabName;
use crate::state::StateDir;
use crate::topology::Machine;

/// Pause between checks of a network that is not configured yet: that costs nothing.
const SOON: Duration = Duration::from_millis(20);
/// The longest pause between checks of one that is in trouble; every check starts a plugin.
const TROUBLE: Duration = Duration::from_millis(320);
/// Pause between checks of one that is.
const LATER: Duration = Duration::from_secs(5);

/// A kubeconfig for the lab's API server.
pub(super) fn kubeconfig(name: &LabName, url: &str) -> String {
    let id = format!("hypha-lab-{name}");
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {id}\nclusters:\n- name: {id}\n  cluster:\n    server: {url}\ncontexts:\n\
         - name: {id}\n  context:\n    cluster: {id}\n    user: {id}\n    namespace: default\nusers:\n- name: {id}\n  user: {{}}\n"
    )
}

fn node_object(machine: &Machine) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": machine.name, "labels": {
            "kubernetes.io/hostname": machine.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": arch(),
        }},
        "spec": {"podCIDR": machine.pod_cidrs.first(), "podCIDRs": machine.pod_cidrs, "providerID": format!("lab://{}", machine.name)},
    })
}

/// The machine's architecture by the name Kubernetes gives it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn node_status(machine: &Machine) -> Value {
    let ips = machine
        .addresses()
        .map(|ip| json!({"type": "InternalIP", "address": ip}));
    let addresses: Vec<Value> = ips
        .chain([json!({"type": "Hostname", "address": machine.name})])
        .collect();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "addresses": addresses,
        "capacity": {"pods": "250"}, "allocatable": {"pods": "250"},
        "nodeInfo": {
            "kernelVersion": kernel.trim(), "operatingSystem": "linux", "architecture": arch(), "osImage": "hypha lab",
            "kubeletVersion": concat!("v", env!("CARGO_PKG_VERSION")), "containerRuntimeVersion": concat!("lab://", env!("CARGO_PKG_VERSION")),
            "kubeProxyVersion": "", "machineID": "", "systemUUID": "", "bootID": "",
        },
        "conditions": [status::condition("Ready", false, "NetworkPluginNotReady", None, Timestamp::now())],
    })
}

/// Creates namespaces and nodes.
pub(super) async fn create(client: &Client, network: &Network) -> anyhow::Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in ["default", "kube-system"] {
        let object = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        match namespaces.create(&PostParams::default(), &object).await {
            // The server may have them from the start.
            Err(kube::Error::Api(e)) if e.code == 409 => {}
            other => drop(other.with_context(|| format!("namespace {name}"))?),
        }
    }
    let nodes: Api<Node> = Api::all(client.clone());
    for machine in &network.topology.nodes {
        let object = serde_json::from_value(node_object(machine))?;
        nodes
            .create(&PostParams::default(), &object)
            .await
            .with_context(|| format!("node {}", machine.name))?;
        let status = Patch::Merge(json!({"status": node_status(machine)}));
        nodes
            .patch_status(&machine.name, &PatchParams::default(), &status)
            .await
            .with_context(|| format!("node {}", machine.name))?;
    }
    Ok(())
}

/// How a node's network is: `None` is well.
pub(super) struct NodeHealth {
    name: String,
    trouble: watch::Receiver<Option<String>>,
}

/// Keeps the Ready condition of a node in step with its network.
pub(super) fn keep_condition(
    client: Client,
    name: String,
    network: kubelet::Network,
) -> NodeHealth {
    let (tell, trouble) = watch::channel(Some("not checked yet".to_owned()));
    let node = name.clone();
    tokio::spawn(async move {
        let (mut written, mut pause) = (None, SOON);
        loop {
            let checked = network.check().await;
            pause = match &checked {
                Ok(()) => LATER,
                Err(CniError::NoConfig) => SOON,
                Err(_) => (pause * 2).clamp(SOON, TROUBLE),
            };
            let now = checked.err().map(|e| e.to_string());
            if written.as_ref() != Some(&now) {
                if write_condition(&client, &node, now.as_deref()).await {
                    written = Some(now.clone());
                    tell.send_replace(now);
                } else {
                    pause = TROUBLE;
                }
            }
            tokio::time::sleep(pause).await;
        }
    });
    NodeHealth { name, trouble }
}

async fn write_condition(client: &Client, node: &str, trouble: Option<&str>) -> bool {
    let (reason, message) = match trouble {
        None => ("KubeletReady", "the network takes pods"),
        Some(text) => ("NetworkPluginNotReady", text),
    };
    let mut condition =
        status::condition("Ready", trouble.is_none(), reason, None, Timestamp::now());
    condition["reason"] = json!(reason);
    condition["message"] = json!(message);
    // Strategic: other conditions, of the agent for one, stay.
    let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
    let nodes: Api<Node> = Api::all(client.clone());
    match nodes
        .patch_status(node, &PatchParams::default(), &patch)
        .await
    {
        Ok(_) => true,
        Err(e) => {
            tracing::warn!(node, "cannot write the condition of a node: {e}");
            false
        }
    }
}

/// Waits until every node is ready; the error names those that are not, and why.
pub(super) async fn wait_ready(
    mut nodes: Vec<NodeHealth>,
    limit: Duration,
    dir: &StateDir,
) -> anyhow::Result<()> {
    let all = async {
        for node in &mut nodes {
            let _ = node.trouble.wait_for(Option::is_none).await;
        }
    };
    if tokio::time::timeout(limit, all).await.is_ok() {
        return Ok(());
    }
    let late = nodes
        .iter()
        .filter_map(|n| Some(format!("{}: {}", n.name, n.trouble.borrow().as_ref()?)));
    let late: Vec<String> = late.collect();
    bail!(
        "not ready after {limit:?}: {}; the first node's agent said last: {}",
        late.join("; "),
        nodes
            .iter()
            .find(|n| n.trouble.borrow().is_some())
            .map(|n| last_words(dir, &n.name))
            .unwrap_or_default()
    )
}

/// The last error in the log of a node's agent, or its last line.
pub(super) fn last_words(dir: &StateDir, node: &str) -> String {
    let text = std::fs::read_to_string(dir.agent_log(node)).unwrap_or_default();
    let error = text.lines().rev().find(|l| l.contains("ERROR"));
    let line = error.or(text.lines().next_back()).unwrap_or("nothing");
    let line = line.split_once("ERROR").map_or(line, |(_, words)| words);
    line.trim().to_owned()
}
