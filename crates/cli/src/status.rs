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
use crate::install::workloads::{self, Component, Workloads};
use crate::kube::{ClusterArgs, block_on};
use crate::labs;
use crate::operator::{self, OperatorState};
use crate::output::{self, Format};
use crate::settings::{self, Problems};
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
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cluster {
    nodes: Vec<NodeState>,
    /// Pods that run, where that is known.
    pods: Option<usize>,
    /// The operator, where there is one.
    operator: Option<OperatorState>,
    /// What the API server says of our pods; none if nothing of us runs in pods.
    workloads: Option<Workloads>,
    /// What is wrong with the settings, where they could be read.
    settings: Problems,
}

impl Cluster {
    /// A part of what runs in pods.
    fn part(&self, name: &str) -> Option<&Component> {
        self.workloads
            .iter()
            .flat_map(|all| &all.components)
            .find(|part| part.name == name)
    }

    /// How much is wrong with the pods of a part.
    fn wrong(&self, name: &str) -> usize {
        self.part(name).map_or(0, |part| part.errors.len())
    }

    fn sum(&self, what: impl Fn(&NodeState) -> usize) -> usize {
        self.nodes.iter().map(what).sum()
    }

    fn good(&self, ignore_warnings: bool) -> bool {
        let operator = self.operator.as_ref();
        self.sum(|node| node.errors.len())
            + self.settings.errors.len()
            + self.wrong("cilium")
            + self.wrong("cilium-operator")
            + self.wrong("cilium-envoy")
            + self.wrong("hubble-relay")
            == 0
            && operator.is_none_or(|operator| operator.errors.is_empty())
            && (ignore_warnings
                || self.sum(|node| node.warnings.len()) + self.settings.warnings.len() == 0)
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
    let end = Instant::now() + args.wait_duration;
    let cluster = loop {
        let looked = look(args);
        let over = !args.wait || Instant::now() >= end;
        match looked {
            Ok(cluster) if over || cluster.good(args.ignore_warnings) => break cluster,
            Err(error) if over => return Err(error),
            // A cluster that is just coming up.
            _ => thread::sleep(Duration::from_millis(500)),
        }
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

/// Who asks one agent does not ask the cluster; a lab's agents can be asked beside it.
fn look(args: &StatusArgs) -> Result<Cluster> {
    let local = args.name.is_none() && args.cluster.kubeconfig.is_none() && on_node();
    if args.host.is_some() || local {
        return agents(args, false);
    }
    let of = args.cluster.of(args.name.as_deref());
    let path = of.path()?;
    let is_lab = labs::any()
        && labs::find(args.name.as_deref()).is_ok_and(|lab| lab.dir.kubeconfig() == path);
    let namespace = &args.cluster.namespace;
    let workloads = block_on(async {
        let client = of.client().await?;
        let found = workloads::look(&client, namespace).await?;
        Ok((found, settings::look(&client, namespace).await?))
    });
    let mut cluster = if is_lab {
        agents(args, true)?
    } else {
        Cluster::default()
    };
    // A lab's agents can be asked while its API server is away.
    match workloads {
        Ok((found, problems)) => (cluster.workloads, cluster.settings) = (found, problems),
        Err(_) if is_lab => {}
        Err(error) => return Err(error),
    }
    if cluster.workloads.is_none() && !is_lab {
        anyhow::bail!(
            "nothing is installed in namespace {namespace}: there is no DaemonSet cilium; `hypha install` makes it"
        );
    }
    cluster.operator = operator::look(&of);
    Ok(cluster)
}

fn agents(args: &StatusArgs, all_nodes: bool) -> Result<Cluster> {
    let target = TargetArgs {
        name: args.name.clone(),
        node: None,
        all_nodes,
        host: args.host.clone(),
    };
    let mut agents = target.agents()?;
    let pods = if all_nodes {
        Some(labs::find(args.name.as_deref())?.pods()?.len())
    } else {
        None
    };
    Ok(Cluster {
        nodes: agents.iter_mut().map(node_state).collect(),
        pods,
        ..Cluster::default()
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
    let mut text = String::new();
    for (label, value) in [
        ("Cilium:", component(cluster)),
        ("Operator:", operator_line(cluster)),
        ("Envoy DaemonSet:", part_line(cluster, "cilium-envoy")),
        ("Hubble Relay:", part_line(cluster, "hubble-relay")),
        ("ClusterMesh:", "disabled".into()),
    ] {
        let _ = writeln!(text, "{:19}{label:<20}{value}", "");
    }
    let mut rows = match &cluster.workloads {
        Some(workloads) => workload_rows(workloads),
        None => process_rows(cluster),
    };
    rows.push_str(&list(
        "Nodes:",
        cluster.nodes.iter().map(node_line).collect(),
    ));
    let mut errors = problems(cluster, |node| &node.errors);
    for part in cluster.workloads.iter().flat_map(|all| &all.components) {
        let line = |(pod, text): &(String, String)| format!("{}\t{pod}\t{text}", part.name);
        errors.extend(part.errors.iter().map(line));
    }
    if let Some(operator) = &cluster.operator {
        let line = |text: &String| format!("cilium-operator\t{}\t{text}", operator.leader);
        errors.extend(operator.errors.iter().map(line));
    }
    let line = |(object, text): &(String, String)| format!("settings\t{object}\t{text}");
    errors.extend(cluster.settings.errors.iter().map(line));
    let mut warnings = problems(cluster, |node| &node.warnings);
    warnings.extend(cluster.settings.warnings.iter().map(line));
    rows.push_str(&list("Errors:", errors));
    rows.push_str(&list("Warnings:", warnings));
    text + &align(&rows)
}

/// What runs in pods.
fn workload_rows(workloads: &Workloads) -> String {
    let mut rows = "\n".to_owned();
    for part in &workloads.components {
        let Component {
            kind,
            name,
            desired,
            ready,
            available,
            ..
        } = part;
        let _ = writeln!(
            rows,
            "{kind}\t{name}\tDesired: {desired}, Ready: {ready}/{desired}, Available: {available}/{desired}"
        );
    }
    let running = |part: &Component| format!("{}\tRunning: {}", part.name, part.running);
    rows.push_str(&list(
        "Containers:",
        workloads.components.iter().map(running).collect(),
    ));
    let _ = writeln!(
        rows,
        "Cluster Pods:\t{}/{} managed by Cilium",
        workloads.managed, workloads.pods
    );
    if !workloads.chart.is_empty() {
        let _ = writeln!(rows, "Helm chart version:\t{}", workloads.chart);
    }
    let images = workloads.components.iter().flat_map(|part| {
        let line = |(image, count): (&String, &usize)| format!("{}\t{image}: {count}", part.name);
        part.images.iter().map(line)
    });
    rows + &list("Image versions", images.collect())
}

/// The same where agents and operator are no pods.
fn process_rows(cluster: &Cluster) -> String {
    let total = cluster.nodes.len();
    let answering = cluster.nodes.iter().filter(|node| node.agent.is_some());
    let running = answering.clone().count();
    let ready = answering.filter(|node| node.errors.is_empty()).count();
    let mut rows = format!(
        "\nDaemonSet\tcilium\tDesired: {total}, Ready: {ready}/{total}, Available: {ready}/{total}\n"
    );
    let leads = cluster
        .operator
        .as_ref()
        .map(|operator| usize::from(!operator.leader.is_empty()));
    if let Some(ready) = leads {
        let _ = writeln!(
            rows,
            "Deployment\tcilium-operator\tDesired: 1, Ready: {ready}/1, Available: {ready}/1"
        );
    }
    let _ = writeln!(rows, "Containers:\tcilium\tRunning: {running}");
    if let Some(running) = leads {
        let _ = writeln!(rows, "\tcilium-operator\tRunning: {running}");
    }
    if let Some(pods) = cluster.pods {
        let managed = cluster.managed();
        let _ = writeln!(rows, "Cluster Pods:\t{managed}/{pods} managed by Cilium");
    }
    let version = |(version, count)| format!("cilium\thypha v{version}: {count}");
    rows + &list(
        "Image versions",
        versions(cluster).into_iter().map(version).collect(),
    )
}

/// `OK`, or how much is wrong.
fn component(cluster: &Cluster) -> String {
    let count = |number: usize, word: &str| {
        (number > 0).then(|| format!("{number} {word}{}", if number == 1 { "" } else { "s" }))
    };
    let parts = [
        count(
            cluster.sum(|node| node.errors.len())
                + cluster.settings.errors.len()
                + cluster.wrong("cilium"),
            "error",
        ),
        count(
            cluster.sum(|node| node.warnings.len()) + cluster.settings.warnings.len(),
            "warning",
        ),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() {
        "OK".into()
    } else {
        parts.join(", ")
    }
}

/// As [`component`], for the operator.
fn operator_line(cluster: &Cluster) -> String {
    let said = cluster
        .operator
        .as_ref()
        .map(|operator| operator.errors.len());
    if said.is_none() && cluster.part("cilium-operator").is_none() {
        return "disabled".into();
    }
    errors(said.unwrap_or(0) + cluster.wrong("cilium-operator"))
}

/// As [`component`], for what is nothing but pods.
fn part_line(cluster: &Cluster, name: &str) -> String {
    match cluster.part(name) {
        Some(part) => errors(part.errors.len()),
        None => "disabled".into(),
    }
}

fn errors(number: usize) -> String {
    match number {
        0 => "OK".into(),
        1 => "1 error".into(),
        number => format!("{number} errors"),
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
mod tests;
