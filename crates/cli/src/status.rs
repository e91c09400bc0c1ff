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
use crate::kube::ClusterArgs;
use crate::labs;
use crate::operator::{self, OperatorState};
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
    #[command(flatten)]
    cluster: StatusCluster,
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

/// Options that choose the API server to ask for the operator.
#[derive(Clone, Debug, Args)]
struct StatusCluster {
    /// Kubeconfig of the cluster that is asked for the operator; by default the lab's
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<std::path::PathBuf>,
    /// Namespace of agent and operator
    #[arg(
        short = 'n',
        long,
        value_name = "NAMESPACE",
        default_value = "kube-system"
    )]
    namespace: String,
}

impl StatusCluster {
    fn of(&self, lab: Option<&str>) -> ClusterArgs {
        ClusterArgs {
            kubeconfig: self.kubeconfig.clone(),
            context: None,
            name: lab.filter(|_| self.kubeconfig.is_none()).map(str::to_owned),
            namespace: self.namespace.clone(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StatusFormat {
    Json,
    Summary,
}

/// A time as people write it: 90s, 5m, 1h.
pub fn parse_wait(text: &str) -> Result<Duration, String> {
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
    /// The operator, where there is one.
    operator: Option<OperatorState>,
}

impl Cluster {
    fn sum(&self, what: impl Fn(&NodeState) -> usize) -> usize {
        self.nodes.iter().map(what).sum()
    }

    fn good(&self, ignore_warnings: bool) -> bool {
        let operator = self.operator.as_ref();
        self.sum(|node| node.errors.len()) == 0
            && operator.is_none_or(|operator| operator.errors.is_empty())
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
        let mut cluster = look(&target)?;
        // Whoever asks one agent does not ask the cluster.
        if args.host.is_none() && (all_nodes || args.cluster.kubeconfig.is_some()) {
            cluster.operator = operator::look(&args.cluster.of(args.name.as_deref()));
        }
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
        operator: None,
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
        ("Operator:", operator_line(cluster.operator.as_ref())),
        ("Envoy DaemonSet:", "disabled".into()),
        ("Hubble Relay:", "disabled".into()),
        ("ClusterMesh:", "disabled".into()),
    ] {
        let _ = writeln!(text, "{:19}{label:<20}{value}", "");
    }
    let mut rows = format!(
        "\nDaemonSet\tcilium\tDesired: {total}, Ready: {ready}/{total}, Available: {ready}/{total}\n"
    );
    if let Some(operator) = &cluster.operator {
        let ready = usize::from(!operator.leader.is_empty());
        let _ = writeln!(
            rows,
            "Deployment\tcilium-operator\tDesired: 1, Ready: {ready}/1, Available: {ready}/1"
        );
    }
    let running = cluster
        .nodes
        .iter()
        .filter(|node| node.agent.is_some())
        .count();
    let _ = writeln!(rows, "Containers:\tcilium\tRunning: {running}");
    if let Some(operator) = &cluster.operator {
        let running = usize::from(!operator.leader.is_empty());
        let _ = writeln!(rows, "\tcilium-operator\tRunning: {running}");
    }
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
    let mut errors = problems(cluster, |node| &node.errors);
    if let Some(operator) = &cluster.operator {
        let line = |text: &String| format!("cilium-operator\t{}\t{text}", operator.leader);
        errors.extend(operator.errors.iter().map(line));
    }
    rows.push_str(&list("Errors:", errors));
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

/// As [`component`], for the operator.
fn operator_line(operator: Option<&OperatorState>) -> String {
    match operator.map(|operator| operator.errors.len()) {
        None => "disabled".into(),
        Some(0) => "OK".into(),
        Some(1) => "1 error".into(),
        Some(number) => format!("{number} errors"),
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
            operator: None,
        }
    }

    #[test]
    fn the_operator_has_its_lines() {
        let mut cluster = cluster();
        cluster.operator = Some(OperatorState {
            leader: "n1-77".into(),
            errors: vec!["node n2: no /24 is left in 10.0.0.0/23".into()],
        });
        assert!(!cluster.good(true));
        let text = summary(&cluster);
        for line in [
            "Operator:           1 error",
            "Deployment       cilium-operator   Desired: 1, Ready: 1/1, Available: 1/1",
            "                 cilium-operator   Running: 1",
            "Errors:          cilium-operator   n1-77   node n2: no /24 is left in 10.0.0.0/23",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
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
