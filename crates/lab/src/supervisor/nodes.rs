//! The cluster's first objects, and the nodes' Ready condition.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::components::last_words_of_agent;
use crate::hosts::Network;
use crate::kubelet::cni::CniError;
use crate::kubelet::{self, status};
use crate::state::StateDir;
use crate::topology::Machine;

use super::outside::Joined;
use super::owned::LABEL;

/// Pause between checks of a network that is not configured yet: that costs nothing.
const SOON: Duration = Duration::from_millis(20);
/// After so many of them it may be that nobody will.
const EARLY: u32 = 500;
/// The longest pause between checks of one that is in trouble; every check starts a plugin.
const TROUBLE: Duration = Duration::from_millis(320);
/// Pause between checks of one that is.
const LATER: Duration = Duration::from_secs(5);
/// How often a node says that it lives, and how long its word counts.
const HEARTBEAT: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
/// Where it says so.
pub(super) const LEASES: &str = "kube-node-lease";

/// The API server's certificate authority, as the kubeconfig has it.
pub(super) fn root_ca(kubeconfig: &std::path::Path) -> Option<String> {
    let text = std::fs::read_to_string(kubeconfig).ok()?;
    let config: Value = serde_saphyr::from_str(&text).ok()?;
    let cluster = &config["clusters"][0]["cluster"];
    if let Some(path) = cluster["certificate-authority"].as_str() {
        return std::fs::read_to_string(path).ok();
    }
    let data = cluster["certificate-authority-data"].as_str()?;
    let decoded = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, data).ok()?;
    String::from_utf8(decoded).ok()
}

/// Pods per node.
const MAX_PODS: &str = "250";
/// The version of Kubernetes whose ways the kubelet follows, and its own.
const KUBELET_VERSION: &str = concat!("v1.32.4+lab", env!("CARGO_PKG_VERSION"));

fn id(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim().to_owned()
}

/// What a node says of itself before its network is known.
fn conditions(machine: &Machine) -> Vec<Value> {
    let now = Timestamp::now();
    let pressure = [
        ("MemoryPressure", "KubeletHasSufficientMemory", "memory"),
        ("DiskPressure", "KubeletHasNoDiskPressure", "disk space"),
        ("PIDPressure", "KubeletHasSufficientPID", "process ids"),
    ];
    let pressure = pressure.map(|(kind, reason, what)| {
        let mut made = status::condition(kind, false, reason, None, now);
        made["message"] = json!(format!("{} has {what}", machine.name));
        made["lastHeartbeatTime"] = json!(status::time(now));
        made
    });
    let mut ready = status::condition("Ready", false, "NetworkPluginNotReady", None, now);
    ready["lastHeartbeatTime"] = json!(status::time(now));
    pressure.into_iter().chain([ready]).collect()
}

fn node_object(machine: &Machine, joined: Option<&Joined>) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": machine.name, "labels": {
            "kubernetes.io/hostname": machine.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": arch(),
            "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": arch(),
        }},
        "spec": {"podCIDR": machine.pod_cidrs.first(), "podCIDRs": machine.pod_cidrs, "providerID": format!("lab://{}", machine.name)},
    });
    if let Some(joined) = joined {
        object["metadata"]["labels"][LABEL] = json!(joined.owner);
    }
    object
}

/// The machine's architecture by the name Kubernetes gives it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn node_status(machine: &Machine, joined: Option<&Joined>) -> Value {
    let ips = machine
        .addresses()
        .map(|ip| json!({"type": "InternalIP", "address": ip}));
    // API servers try the host name first: one that is not inside finds the kubelet by what stands there.
    let way = joined.and_then(|joined| joined.kubelets.get(&machine.name));
    let host = way.map_or_else(|| machine.name.clone(), |way| way.ip().to_string());
    let port = way.map_or(kubelet::serve::PORT, SocketAddr::port);
    let addresses: Vec<Value> = ips
        .chain([json!({"type": "Hostname", "address": host})])
        .collect();
    let (cpus, memory) = kubelet::machine_size();
    let size = json!({
        "cpu": cpus.to_string(), "memory": format!("{}Ki", memory >> 10), "pods": MAX_PODS, "ephemeral-storage": "10Gi",
        "hugepages-2Mi": "0", "hugepages-1Gi": "0",
    });
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "addresses": addresses,
        "capacity": size, "allocatable": size, "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": {
            "kernelVersion": kernel.trim(), "operatingSystem": "linux", "architecture": arch(), "osImage": "hypha lab",
            "kubeletVersion": KUBELET_VERSION, "containerRuntimeVersion": concat!("lab://", env!("CARGO_PKG_VERSION")),
            "kubeProxyVersion": "", "machineID": id("/etc/machine-id"), "systemUUID": machine.name, "bootID": id("/proc/sys/kernel/random/boot_id"),
        },
        "conditions": conditions(machine),
    })
}

/// Creates the nodes, and in the lab's own cluster the first namespaces.
pub(super) async fn create(
    client: &Client,
    network: &Network,
    joined: Option<&Joined>,
) -> anyhow::Result<()> {
    if joined.is_none() {
        create_namespaces(client).await?;
    }
    let nodes: Api<Node> = Api::all(client.clone());
    let known = nodes.list(&Default::default()).await.context("nodes")?;
    for node in known.items {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        match (is_ours(&node, joined), network.machine(name)) {
            // Of an earlier life of the lab, which had more of them.
            (true, None) => drop(nodes.delete(name, &Default::default()).await),
            (true, Some(_)) => {}
            (false, Some(_)) => bail!(
                "the cluster has a node {name:?} that is not of this lab: --node-names gives the lab's others"
            ),
            (false, None) => check_ranges(&node, network)?,
        }
    }
    for machine in &network.topology.nodes {
        let object = serde_json::from_value(node_object(machine, joined))?;
        match nodes.create(&PostParams::default(), &object).await {
            // From before a restart of the lab.
            Err(kube::Error::Api(e)) if e.code == 409 => {}
            made => drop(made.with_context(|| format!("node {}", machine.name))?),
        }
        let status = Patch::Merge(json!({"status": node_status(machine, joined)}));
        nodes
            .patch_status(&machine.name, &PatchParams::default(), &status)
            .await
            .with_context(|| format!("node {}", machine.name))?;
    }
    Ok(())
}

fn is_ours(node: &Node, joined: Option<&Joined>) -> bool {
    let label = node.metadata.labels.as_ref().and_then(|l| l.get(LABEL));
    joined.is_none_or(|joined| label == Some(&joined.owner))
}

/// An error where a node of somebody else has pods in a range of the lab's.
fn check_ranges(node: &Node, network: &Network) -> anyhow::Result<()> {
    let spec = node.spec.as_ref();
    let theirs = spec.iter().flat_map(|s| s.pod_cidrs.iter().flatten());
    for theirs in theirs.filter_map(|text| text.parse::<IpNet>().ok()) {
        let ours = network.topology.nodes.iter();
        let ours = ours.flat_map(|m| m.pod_cidrs.iter().map(move |range| (m, range)));
        for (machine, range) in ours {
            if range.contains(&theirs.addr()) || theirs.contains(&range.addr()) {
                bail!(
                    "pods of {} would have addresses of {range}, but node {:?} of the cluster has {theirs}",
                    machine.name,
                    node.metadata.name.as_deref().unwrap_or_default()
                );
            }
        }
    }
    Ok(())
}

async fn create_namespaces(client: &Client) -> anyhow::Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in ["default", "kube-system", "kube-public", LEASES] {
        let object = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        match namespaces.create(&PostParams::default(), &object).await {
            // The server may have them from the start.
            Err(kube::Error::Api(e)) if e.code == 409 => {}
            other => drop(other.with_context(|| format!("namespace {name}"))?),
        }
    }
    Ok(())
}

/// Renews the lease by which others see that a node lives.
pub(super) async fn heartbeat(client: Client, name: String) {
    let leases: Api<Lease> = Api::namespaced(client, LEASES);
    let mut failed = false;
    loop {
        let now = Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
            .to_string();
        let spec = json!({"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now});
        let patch = Patch::Merge(json!({"spec": spec}));
        let renewed = match leases.patch(&name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(e)) if e.code == 404 => {
                let made =
                    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}));
                match made {
                    Ok(lease) => leases
                        .create(&PostParams::default(), &lease)
                        .await
                        .map(drop),
                    Err(e) => Err(kube::Error::SerdeError(e)),
                }
            }
            other => other.map(drop),
        };
        if let (Err(e), false) = (&renewed, failed) {
            tracing::warn!(node = name, "cannot renew the lease of a node: {e}");
        }
        failed = renewed.is_err();
        tokio::time::sleep(if failed {
            Duration::from_secs(1)
        } else {
            HEARTBEAT
        })
        .await;
    }
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
        let (mut written, mut pause, mut early) = (None, SOON, 0);
        loop {
            let checked = network.check().await;
            early += 1;
            pause = match &checked {
                Ok(()) => LATER,
                Err(CniError::NoConfig) if early < EARLY => SOON,
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
    condition["lastHeartbeatTime"] = json!(status::time(Timestamp::now()));
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
            .map(|n| last_words_of_agent(dir, &n.name))
            .unwrap_or_default()
    )
}
