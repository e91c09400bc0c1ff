//! `hypha status`: the whole cluster at a glance.
use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use api::{AgentStatus, ComponentState};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::dbg::duration;
use crate::error::Findings;
use crate::labs;
use crate::output::{self, Format};
use crate::table::align;
use crate::target::{Agent, TargetArgs, on_node};

/// Options of `hypha status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The lab; by default the only one that runs
    #[arg(long, value_name = "LAB")]
    name: Option<String>,
    /// The agent's unix socket, instead of a lab
    #[arg(short = 'H', long, value_name = "SOCKET", conflicts_with = "name")]
    host: Option<std::path::PathBuf>,
    /// Wait until everything is OK
    #[arg(long)]
    wait: bool,
    /// How long to wait, as 90s or 5m
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_wait)]
    wait_duration: Duration,
    /// Warnings are no reason to wait or to fail
    #[arg(long)]
    ignore_warnings: bool,
    /// json, or summary
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "summary")]
    output: StatusFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StatusFormat {
    Json,
    Summary,
}

fn parse_wait(text: &str) -> Result<Duration, String> {
    let wrong = || "accepted: a number with s, m or h, as 90s or 5m".to_owned();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    Ok(Duration::from_secs(
        number.saturating_mul(unit).min(7 * 86_400),
    ))
}

/// One node's line.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeState {
    name: String,
    /// What its agent said; none if it could not be asked.
    agent: Option<AgentStatus>,
    errors: Vec<String>,
    warnings: Vec<String>,
}

/// What is known of the cluster.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cluster {
    nodes: Vec<NodeState>,
    /// Pods that run, where that is known.
    pods: Option<usize>,
}

impl Cluster {
    fn sum(&self, what: impl Fn(&NodeState) -> usize) -> usize {
        self.nodes.iter().map(what).sum()
    }

    fn good(&self, ignore_warnings: bool) -> bool {
        self.sum(|node| node.errors.len()) == 0
            && (ignore_warnings || self.sum(|node| node.warnings.len()) == 0)
    }

    fn managed(&self) -> u64 {
        self.nodes
            .iter()
            .filter_map(|node| node.agent.as_ref())
            .flat_map(|agent| agent.endpoints.values())
            .sum()
    }
}

/// Prints the state of the cluster.
///
/// # Errors
/// [`Findings`] if something is not OK.
pub fn run(args: &StatusArgs) -> Result<()> {
    let all_nodes = args.host.is_none() && (args.name.is_some() || !on_node() && labs::any());
    let target = TargetArgs {
        name: args.name.clone(),
        node: None,
        all_nodes,
        host: args.host.clone(),
    };
    let end = Instant::now() + args.wait_duration;
    let cluster = loop {
        let cluster = look(&target)?;
        if !args.wait || cluster.good(args.ignore_warnings) || Instant::now() >= end {
            break cluster;
        }
        thread::sleep(Duration::from_millis(500));
    };
    match args.output {
        StatusFormat::Json => output::write_out(&output::render(&Format::Json, &cluster)?)?,
        StatusFormat::Summary => output::write_out(&summary(&cluster))?,
    }
    // Only who waits for everything to be well takes a warning for a failure.
    if cluster.good(args.ignore_warnings || !args.wait) {
        Ok(())
    } else {
        Err(Findings.into())
    }
}

fn look(target: &TargetArgs) -> Result<Cluster> {
    let mut agents = target.agents()?;
    let pods = if target.all_nodes {
        Some(labs::find(target.name.as_deref())?.pods()?.len())
    } else {
        None
    };
    Ok(Cluster {
        nodes: agents.iter_mut().map(node_state).collect(),
        pods,
    })
}

fn node_state(agent: &mut Agent) -> NodeState {
    let name = agent.node.clone();
    match agent.client.healthz() {
        Ok(status) => {
            let of = |state| {
                status
                    .components
                    .iter()
                    .filter(move |part| part.state == state)
                    .map(|part| format!("{}: {}", part.name, part.message))
            };
            let mut errors: Vec<String> = of(ComponentState::Failure).collect();
            let warnings = of(ComponentState::Warning).collect();
            if errors.is_empty()
                && matches!(
                    status.state,
                    ComponentState::Failure | ComponentState::Unknown
                )
            {
                errors.push(status.message.clone());
            }
            NodeState {
                name: name.unwrap_or_else(|| status.node.clone()),
                agent: Some(status),
                errors,
                warnings,
            }
        }
        Err(error) => NodeState {
            name: name.unwrap_or_default(),
            agent: None,
            errors: vec![error.to_string()],
            warnings: Vec::new(),
        },
    }
}

fn summary(cluster: &Cluster) -> String {
    let total = cluster.nodes.len();
    let ready = cluster
        .nodes
        .iter()
        .filter(|node| node.agent.is_some() && node.errors.is_empty())
        .count();
    let mut text = String::new();
    for (label, value) in [
        ("Cilium:", component(cluster)),
        ("Operator:", "disabled".into()),
        ("Envoy DaemonSet:", "disabled".into()),
        ("Hubble Relay:", "disabled".into()),
        ("ClusterMesh:", "disabled".into()),
    ] {
        let _ = writeln!(text, "{:19}{label:<20}{value}", "");
    }
    let mut rows = format!(
        "\nDaemonSet\tcilium\tDesired: {total}, Ready: {ready}/{total}, Available: {ready}/{total}\n"
    );
    let running = cluster
        .nodes
        .iter()
        .filter(|node| node.agent.is_some())
        .count();
    let _ = writeln!(rows, "Containers:\tcilium\tRunning: {running}");
    if let Some(pods) = cluster.pods {
        let _ = writeln!(
            rows,
            "Cluster Pods:\t{}/{pods} managed by Cilium",
            cluster.managed()
        );
    }
    for (index, (version, count)) in versions(cluster).into_iter().enumerate() {
        let _ = writeln!(
            rows,
            "{}\tcilium\thypha v{version}: {count}",
            if index == 0 { "Image versions" } else { "" }
        );
    }
    rows.push_str(&list(
        "Nodes:",
        cluster.nodes.iter().map(node_line).collect(),
    ));
    rows.push_str(&list("Errors:", problems(cluster, |node| &node.errors)));
    rows.push_str(&list("Warnings:", problems(cluster, |node| &node.warnings)));
    text + &align(&rows)
}

/// `OK`, or how much is wrong.
fn component(cluster: &Cluster) -> String {
    let count = |number: usize, word: &str| {
        (number > 0).then(|| format!("{number} {word}{}", if number == 1 { "" } else { "s" }))
    };
    let parts = [
        count(cluster.sum(|node| node.errors.len()), "error"),
        count(cluster.sum(|node| node.warnings.len()), "warning"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() {
        "OK".into()
    } else {
        parts.join(", ")
    }
}

fn versions(cluster: &Cluster) -> std::collections::BTreeMap<String, usize> {
    let mut versions = std::collections::BTreeMap::new();
    for agent in cluster.nodes.iter().filter_map(|node| node.agent.as_ref()) {
        *versions
            .entry(agent.version.trim_start_matches('v').to_owned())
            .or_default() += 1;
    }
    versions
}

fn node_line(node: &NodeState) -> String {
    let Some(agent) = &node.agent else {
        return format!("{}\tno answer", node.name);
    };
    let endpoints: u64 = agent.endpoints.values().sum();
    let routing = if agent.routing.tunnel_protocol.is_empty() {
        &agent.routing.mode
    } else {
        &agent.routing.tunnel_protocol
    };
    let plural = if endpoints == 1 { "" } else { "s" };
    format!(
        "{}\t{}, {endpoints} endpoint{plural}, {routing}, up {}",
        node.name,
        agent.state.text(),
        duration(agent.uptime_seconds)
    )
}

fn problems(cluster: &Cluster, of: impl Fn(&NodeState) -> &Vec<String>) -> Vec<String> {
    cluster
        .nodes
        .iter()
        .flat_map(|node| {
            of(node)
                .iter()
                .map(|text| format!("cilium\t{}\t{text}", node.name))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Lines of which only the first has the label.
fn list(label: &str, lines: Vec<String>) -> String {
    lines
        .iter()
        .enumerate()
        .map(|(index, line)| format!("{}\t{line}\n", if index == 0 { label } else { "" }))
        .collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn node(name: &str, agent: serde_json::Value) -> NodeState {
        NodeState {
            name: name.into(),
            agent: serde_json::from_value(agent).unwrap(),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn cluster() -> Cluster {
        let agent = json!({
            "state": "ok", "version": "9.9.9", "node": "n1", "uptimeSeconds": 200, "endpoints": {"ready": 2, "creating": 1},
            "routing": {"mode": "tunnel", "tunnelProtocol": "vxlan", "host": "BPF"},
        });
        Cluster {
            nodes: vec![node("n1", agent.clone()), node("n2", agent)],
            pods: Some(6),
        }
    }

    #[test]
    fn all_is_well() {
        expect![[r#"
                               Cilium:             OK
                               Operator:           disabled
                               Envoy DaemonSet:    disabled
                               Hubble Relay:       disabled
                               ClusterMesh:        disabled

            DaemonSet        cilium   Desired: 2, Ready: 2/2, Available: 2/2
            Containers:      cilium   Running: 2
            Cluster Pods:    6/6 managed by Cilium
            Image versions   cilium   hypha v9.9.9: 2
            Nodes:           n1       Ok, 3 endpoints, vxlan, up 3m20s
                             n2       Ok, 3 endpoints, vxlan, up 3m20s
        "#]]
        .assert_eq(&summary(&cluster()));
    }

    #[test]
    fn errors_and_warnings() {
        let mut cluster = cluster();
        cluster.nodes[0]
            .warnings
            .push("monitor: 7 events lost".into());
        cluster.nodes[1].agent = None;
        cluster.nodes[1]
            .errors
            .push("cannot reach the agent".into());
        assert!(!cluster.good(true));
        expect![[r#"
                               Cilium:             1 error, 1 warning
                               Operator:           disabled
                               Envoy DaemonSet:    disabled
                               Hubble Relay:       disabled
                               ClusterMesh:        disabled

            DaemonSet        cilium   Desired: 2, Ready: 1/2, Available: 1/2
            Containers:      cilium   Running: 1
            Cluster Pods:    3/6 managed by Cilium
            Image versions   cilium   hypha v9.9.9: 1
            Nodes:           n1       Ok, 3 endpoints, vxlan, up 3m20s
                             n2       no answer
            Errors:          cilium   n2   cannot reach the agent
            Warnings:        cilium   n1   monitor: 7 events lost
        "#]]
        .assert_eq(&summary(&cluster));
    }

    #[test]
    fn waits_as_people_write_them() {
        assert_eq!(parse_wait("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_wait("90"), Ok(Duration::from_secs(90)));
        for bad in ["", "m", "5x", "-1s"] {
            assert!(parse_wait(bad).is_err(), "{bad}");
        }
    }
}
