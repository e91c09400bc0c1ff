//! `hypha lab status` and `list`.

use anyhow::Context;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::{Lab, Output, block_on, table};
use crate::state::{AGENT, COMPONENTS, Phase, StateDir, lab_names};

/// What the API server knows.
struct Cluster {
    nodes: Vec<Node>,
    pods: Vec<Pod>,
}

async fn cluster(lab: &Lab) -> anyhow::Result<Cluster> {
    let client = lab.client()?;
    let nodes = Api::<Node>::all(client.clone())
        .list(&Default::default())
        .await
        .context("cannot list nodes")?;
    let pods = Api::<Pod>::all(client)
        .list(&Default::default())
        .await
        .context("cannot list pods")?;
    Ok(Cluster {
        nodes: nodes.items,
        pods: pods.items,
    })
}

fn node_ready(cluster: &Cluster, name: &str) -> bool {
    let node = cluster.nodes.iter().find(|n| n.name_any() == name);
    let conditions = node
        .and_then(|n| n.status.as_ref())
        .and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn pod_json(pod: &Pod) -> Value {
    let status = pod.status.as_ref();
    let containers = status
        .and_then(|s| s.container_statuses.as_deref())
        .unwrap_or_default();
    let waiting = containers
        .iter()
        .filter_map(|c| c.state.as_ref()?.waiting.as_ref()?.reason.clone())
        .next();
    let ips = status
        .and_then(|s| s.pod_ips.as_deref())
        .unwrap_or_default();
    json!({
        "namespace": pod.namespace(), "name": pod.name_any(),
        "node": pod.spec.as_ref().and_then(|s| s.node_name.clone()),
        "phase": status.and_then(|s| s.phase.clone()),
        "deleting": pod.metadata.deletion_timestamp.is_some(),
        "waiting": waiting,
        "ready": containers.iter().filter(|c| c.ready).count(), "containers": pod.spec.as_ref().map_or(0, |s| s.containers.len()),
        "restarts": containers.iter().map(|c| c.restart_count).sum::<i32>(),
        "ips": ips.iter().map(|ip| ip.ip.clone()).collect::<Vec<_>>(),
    })
}

/// A node's agent: its pod, its process while it runs, how often it was started again there.
fn agent_json(lab: &Lab, cluster: &Cluster, node: &str) -> anyhow::Result<Value> {
    let ours = |pod: &&Pod| {
        let spec = pod.spec.as_ref();
        let here = spec.and_then(|s| s.node_name.as_deref()) == Some(node);
        let containers = spec.into_iter().flat_map(|s| &s.containers);
        here && pod.namespace().as_deref() == Some(COMPONENTS)
            && containers.into_iter().any(|c| c.name == AGENT)
    };
    let Some(pod) = cluster.pods.iter().find(ours) else {
        return Ok(Value::Null);
    };
    let running = lab.dir.container(AGENT, Some(node))?;
    Ok(json!({
        "pod": pod.name_any(), "restarts": pod_json(pod)["restarts"],
        "process": running.map(|(_, container)| container.process),
    }))
}

fn status_json(lab: &Lab, cluster: &Cluster) -> anyhow::Result<Value> {
    let machine = |m| serde_json::to_value(m).context("cannot write a machine");
    let mut nodes = Vec::new();
    for node in &lab.state.nodes {
        let mut value = machine(node)?;
        value["ready"] = json!(node_ready(cluster, &node.name));
        value["agent"] = agent_json(lab, cluster, &node.name)?;
        nodes.push(value);
    }
    Ok(json!({
        "name": lab.state.spec.name, "phase": lab.state.phase, "routing": lab.state.spec.routing,
        "families": lab.state.spec.families, "apiUrl": lab.state.api_url, "apiUrlInside": lab.state.api_url_inside,
        "kubeconfig": lab.kubeconfig(), "stateDir": lab.dir.path(), "supervisor": lab.state.supervisor,
        "nodes": nodes, "router": machine(&lab.state.router)?,
        "pods": cluster.pods.iter().map(pod_json).collect::<Vec<_>>(),
    }))
}

fn text(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

fn node_row(node: &Value) -> Vec<String> {
    let agent = match (
        &node["agent"]["process"]["pid"],
        node["agent"]["restarts"].as_u64(),
    ) {
        (Value::Number(pid), Some(0)) => format!("pid {pid}"),
        (Value::Number(pid), Some(n)) => format!("pid {pid}, {n} restarts"),
        (_, Some(n)) => format!("stopped, {n} restarts"),
        _ => "-".into(),
    };
    let ready = if node["ready"] == true {
        "Ready"
    } else {
        "NotReady"
    };
    vec![
        text(&node["name"]),
        ready.into(),
        text(&node["addresses"]),
        text(&node["podCidrs"]),
        agent,
    ]
}

fn pod_row(pod: &Value) -> Vec<String> {
    let state = if pod["deleting"] == true {
        "Terminating".into()
    } else {
        text(if pod["waiting"].is_null() {
            &pod["phase"]
        } else {
            &pod["waiting"]
        })
    };
    let ready = format!("{}/{}", pod["ready"], pod["containers"]);
    vec![
        text(&pod["namespace"]),
        text(&pod["name"]),
        ready,
        state,
        text(&pod["restarts"]),
        text(&pod["node"]),
        text(&pod["ips"]),
    ]
}

pub(super) fn status(lab: &Lab, output: Output) -> anyhow::Result<()> {
    let cluster = block_on(cluster(lab))?;
    let value = status_json(lab, &cluster)?;
    if output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(());
    }
    let spec = &lab.state.spec;
    println!(
        "lab {:?}: {}, routing {}, {}",
        spec.name.as_str(),
        text(&value["phase"]),
        spec.routing,
        spec.families
    );
    println!(
        "API server {} (inside: {}), kubeconfig {}\n",
        lab.state.api_url,
        lab.state.api_url_inside,
        lab.kubeconfig().display()
    );
    let rows = |key: &str, row: fn(&Value) -> Vec<String>| {
        value[key]
            .as_array()
            .into_iter()
            .flatten()
            .map(row)
            .collect::<Vec<_>>()
    };
    print!(
        "{}",
        table::render(
            &["NODE", "STATUS", "ADDRESSES", "POD CIDRS", "AGENT"],
            &rows("nodes", node_row)
        )
    );
    let router = vec![vec![
        "router".to_owned(),
        text(&value["router"]["addresses"]),
    ]];
    print!("\n{}", table::render(&["OUTSIDE", "ADDRESSES"], &router));
    let pods = rows("pods", pod_row);
    if !pods.is_empty() {
        let header = [
            "NAMESPACE",
            "POD",
            "READY",
            "STATUS",
            "RESTARTS",
            "NODE",
            "IPS",
        ];
        print!("\n{}", table::render(&header, &pods));
    }
    Ok(())
}

pub(super) fn list(output: Output) -> anyhow::Result<()> {
    let labs = lab_names().into_iter().map(|name| {
        let dir = StateDir::of(&name);
        let state = dir.read().ok().flatten();
        let phase = match (dir.running(), &state) {
            (false, _) => "crashed",
            (true, Some(s)) if s.phase == Phase::Ready => "ready",
            (true, Some(s)) if s.phase == Phase::Stopping => "stopping",
            _ => "starting",
        };
        json!({"name": name, "phase": phase, "nodes": state.as_ref().map(|s| s.nodes.len()),
            "routing": state.as_ref().map(|s| s.spec.routing), "families": state.as_ref().map(|s| s.spec.families)})
    });
    let labs: Vec<Value> = labs.collect();
    if output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&labs)?);
        return Ok(());
    }
    let columns = ["name", "phase", "nodes", "routing", "families"];
    let rows: Vec<Vec<String>> = labs
        .iter()
        .map(|l| columns.iter().map(|c| text(&l[*c])).collect())
        .collect();
    print!(
        "{}",
        table::render(&["NAME", "STATUS", "NODES", "ROUTING", "FAMILIES"], &rows)
    );
    Ok(())
}
