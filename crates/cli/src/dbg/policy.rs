//! `policy get|selectors|wait` and `bpf policy get`.
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use api::path::{self, EndpointId};
use api::{MapRow, PolicyInfo, PolicyList, PolicyMapRow, PolicyRevision, SelectorInfo};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::error::Usage;
use crate::output::OutputArgs;
use crate::table::align;
use crate::target::{Agent, show};

/// The map that all endpoints' rows stand in.
const MAP: &str = "cilium_policy";
/// Where it is pinned.
const PIN: &str = "/sys/fs/bpf/tc/globals/cilium_policy";
/// Longest wait that one request asks for.
const STEP: Duration = Duration::from_secs(5);

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// The rules that this node enforces, or those with labels
    Get {
        /// Labels of the rules, as k8s:io.cilium.k8s.policy.name=web
        labels: Vec<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Selectors of peers: who uses them, whom they select
    Selectors {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Wait until the policies of a revision are enforced
    Wait {
        /// The revision; without it, the one of now
        revision: Option<u64>,
        /// Seconds to wait at most
        #[arg(long, value_name = "SECONDS", default_value_t = 360)]
        max_wait_time: u64,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Subcommand)]
pub enum BpfPolicyCommand {
    /// The rows of one endpoint, or of all
    Get(GetArgs),
}

#[derive(Debug, Args)]
pub struct GetArgs {
    /// The endpoint: its number, or ipv4:, ipv6:, pod-name: with a value
    #[arg(value_name = "ENDPOINT", required_unless_present = "all")]
    endpoint: Option<String>,
    /// Every endpoint
    #[arg(long, conflicts_with = "endpoint")]
    all: bool,
    /// Identities as numbers
    #[arg(short = 'n', long)]
    numeric: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(agents: &mut [Agent], command: &PolicyCommand) -> Result<()> {
    match command {
        PolicyCommand::Get { labels, output } => {
            show(agents, output, |agent| get(agent, labels), rules)
        }
        PolicyCommand::Selectors { output } => show(
            agents,
            output,
            |agent| Ok(agent.client.selectors()?),
            |found| selectors(found),
        ),
        PolicyCommand::Wait {
            revision,
            max_wait_time,
            output,
        } => {
            let limit = Duration::from_secs(*max_wait_time);
            show(
                agents,
                output,
                |agent| wait(agent, *revision, limit),
                |at| format!("Revision: {}\n", at.realized),
            )
        }
    }
}

fn get(agent: &mut Agent, labels: &[String]) -> Result<PolicyList> {
    let mut list = agent.client.policies()?;
    list.policies
        .retain(|policy| super::has_labels(&policy.labels, labels));
    Ok(list)
}

/// The rules as JSON, then the revision. What is refused is told beside, where it is not in the way of what reads the rules.
fn rules(list: &PolicyList) -> String {
    for policy in list
        .policies
        .iter()
        .filter(|policy| !policy.problems.is_empty())
    {
        let says = if policy.former {
            "is refused as it stands, its last version that was not stays in force"
        } else {
            "is not in force"
        };
        for problem in &policy.problems {
            eprintln!(
                "{} {says}: {}: {}; accepted: {}",
                title(policy),
                problem.path,
                problem.what,
                problem.accepted
            );
        }
    }
    for policy in list.policies.iter().filter(|one| !one.conflict.is_empty()) {
        eprintln!(
            "{} has no effect in part: {}",
            title(policy),
            policy.conflict
        );
    }
    let rules: Vec<_> = list
        .policies
        .iter()
        .filter(|policy| policy.problems.is_empty() || policy.former)
        .flat_map(|policy| &policy.rules)
        .collect();
    let text = serde_json::to_string_pretty(&rules).unwrap_or_default();
    format!("{text}\nRevision: {}\n", list.revision)
}

fn title(policy: &PolicyInfo) -> String {
    match policy.namespace.as_str() {
        "" => format!("{} {}", policy.kind, policy.name),
        namespace => format!("{} {namespace}/{}", policy.kind, policy.name),
    }
}

fn selectors(selectors: &[SelectorInfo]) -> String {
    let mut text = String::from("SELECTOR\tLABELS\tUSERS\tIDENTITIES\n");
    for selector in selectors {
        let identities = selector.identities.iter().map(ToString::to_string);
        let (mut identities, mut policies) = (identities, selector.policies.iter().cloned());
        let mut line = (identities.next(), policies.next());
        let mut first = Some((&selector.selector, selector.users.to_string()));
        while first.is_some() || line.0.is_some() || line.1.is_some() {
            let (name, users) = match first.take() {
                Some((name, users)) => (name.as_str(), users),
                None => ("", String::new()),
            };
            text.push_str(&format!(
                "{name}\t{}\t{users}\t{}\n",
                line.1.unwrap_or_default(),
                line.0.unwrap_or_default()
            ));
            line = (identities.next(), policies.next());
        }
    }
    align(&text)
}

fn wait(agent: &mut Agent, revision: Option<u64>, limit: Duration) -> Result<PolicyRevision> {
    let end = Instant::now() + limit;
    let wanted = match revision {
        Some(revision) => revision,
        None => agent.client.policy_revision()?.revision,
    };
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let step = left.min(STEP).as_secs();
        let at: PolicyRevision = agent.client.get(&path::policy_wait(wanted, step))?;
        if at.realized >= wanted {
            return Ok(at);
        }
        if left.is_zero() {
            bail!(
                "revision {wanted} is not enforced after {} s: the node is at {} of {}",
                limit.as_secs(),
                at.realized,
                at.revision
            );
        }
    }
}

/// The rows of one endpoint.
#[derive(Debug, Serialize)]
struct Rows {
    endpoint: u16,
    rows: Vec<PolicyMapRow>,
}

pub fn run_bpf(agents: &mut [Agent], BpfPolicyCommand::Get(args): &BpfPolicyCommand) -> Result<()> {
    let endpoint = args
        .endpoint
        .as_deref()
        .map(str::parse::<EndpointId>)
        .transpose()
        .map_err(|error| Usage(error.to_string()))?;
    show(
        agents,
        &args.output,
        |agent| match &endpoint {
            Some(endpoint) => one(agent, endpoint),
            None => all(agent),
        },
        |rows| {
            let blocks: Vec<String> = rows.iter().map(|rows| block(rows, args)).collect();
            blocks.join("\n")
        },
    )
}

fn one(agent: &mut Agent, endpoint: &EndpointId) -> Result<Vec<Rows>> {
    let endpoint = agent.client.endpoint(endpoint)?;
    let rows: Vec<MapRow> = agent.client.get(&path::policy_map(endpoint.subject))?;
    Ok(vec![Rows {
        endpoint: endpoint.id,
        rows: typed(&rows)?,
    }])
}

fn all(agent: &mut Agent) -> Result<Vec<Rows>> {
    let mut blocks: BTreeMap<u16, Vec<PolicyMapRow>> = BTreeMap::new();
    for endpoint in agent.client.endpoints()? {
        blocks.insert(endpoint.id, Vec::new());
    }
    for row in typed(&agent.client.map(MAP)?)? {
        for endpoint in &row.endpoints {
            blocks.entry(*endpoint).or_default().push(row.clone());
        }
    }
    let rows = blocks
        .into_iter()
        .map(|(endpoint, rows)| Rows { endpoint, rows });
    Ok(rows.collect())
}

fn typed(rows: &[MapRow]) -> Result<Vec<PolicyMapRow>> {
    Ok(rows
        .iter()
        .map(PolicyMapRow::of)
        .collect::<Result<_, _>>()?)
}

fn block(rows: &Rows, args: &GetArgs) -> String {
    let table = table(&rows.rows, args.numeric);
    match args.all {
        true => format!("Endpoint ID: {}\nPath: {PIN}\n\n{table}", rows.endpoint),
        false => table,
    }
}

fn table(rows: &[PolicyMapRow], numeric: bool) -> String {
    let who = if numeric {
        "IDENTITY"
    } else {
        "LABELS (source:key[=value])"
    };
    let mut text = format!(
        "POLICY\tDIRECTION\t{who}\tPORT/PROTO\tPROXY PORT\tAUTH TYPE\tBYTES\tPACKETS\tPREFIX\tRULES\n"
    );
    for row in rows {
        let mut labels = match (numeric, row.remote) {
            (true, remote) => vec![remote.to_string()],
            (false, 0) => vec!["ANY".to_owned()],
            (false, remote) if row.labels.is_empty() => vec![remote.to_string()],
            (false, _) => row.labels.clone(),
        }
        .into_iter();
        let mut rules = row.rules.iter();
        // What passes is counted by reason and direction, not by row: a row counts what it decides on as that begins.
        text.push_str(&format!(
            "{}\t{}\t{}\t{}\t{}\tdisabled\t-\t{}\t{}\t{}\n",
            if row.verdict == "allow" {
                "Allow"
            } else {
                "Deny"
            },
            if row.direction == "egress" {
                "Egress"
            } else {
                "Ingress"
            },
            labels.next().unwrap_or_default(),
            row.traffic,
            match row.proxy_port {
                0 => "NONE".to_owned(),
                port => port.to_string(),
            },
            row.decided,
            row.prefix,
            rules.next().map(String::as_str).unwrap_or_default(),
        ));
        let (mut label, mut rule) = (labels.next(), rules.next());
        while label.is_some() || rule.is_some() {
            text.push_str(&format!(
                "\t\t{}\t\t\t\t\t\t\t{}\n",
                label.unwrap_or_default(),
                rule.map(String::as_str).unwrap_or_default()
            ));
            (label, rule) = (labels.next(), rules.next());
        }
    }
    align(&text)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_of_the_map() {
        let row = |remote, labels: &[&str], verdict: &str, traffic: &str, rules: &[&str]| {
            let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
            PolicyMapRow {
                subject: 7,
                endpoints: vec![904],
                direction: "ingress".into(),
                remote,
                labels: texts(labels),
                traffic: traffic.into(),
                prefix: 24,
                verdict: verdict.into(),
                rules: texts(rules),
                proxy_port: if remote == 0 { 0 } else { 15001 },
                decided: remote / 1000,
                ..PolicyMapRow::default()
            }
        };
        let rows = [
            row(
                0,
                &[],
                "deny",
                "53/UDP",
                &["CiliumNetworkPolicy shop/dns: spec.ingressDeny[0]"],
            ),
            row(
                21565,
                &["k8s:app=cart", "k8s:io.kubernetes.pod.namespace=shop"],
                "allow",
                "80/TCP",
                &["CiliumNetworkPolicy shop/web: spec.ingress[0]"],
            ),
        ];
        expect![[r#"
            POLICY   DIRECTION   LABELS (source:key[=value])            PORT/PROTO   PROXY PORT   AUTH TYPE   BYTES   PACKETS   PREFIX   RULES
            Deny     Ingress     ANY                                    53/UDP       NONE         disabled    -       0         24       CiliumNetworkPolicy shop/dns: spec.ingressDeny[0]
            Allow    Ingress     k8s:app=cart                           80/TCP       15001        disabled    -       21        24       CiliumNetworkPolicy shop/web: spec.ingress[0]
                                 k8s:io.kubernetes.pod.namespace=shop
        "#]].assert_eq(&table(&rows, false));
        expect![[r#"
            POLICY   DIRECTION   IDENTITY   PORT/PROTO   PROXY PORT   AUTH TYPE   BYTES   PACKETS   PREFIX   RULES
            Deny     Ingress     0          53/UDP       NONE         disabled    -       0         24       CiliumNetworkPolicy shop/dns: spec.ingressDeny[0]
            Allow    Ingress     21565      80/TCP       15001        disabled    -       21        24       CiliumNetworkPolicy shop/web: spec.ingress[0]
        "#]].assert_eq(&table(&rows, true));
    }

    #[test]
    fn rules_and_their_revision() {
        let list = PolicyList {
            revision: 7,
            policies: vec![
                PolicyInfo {
                    rules: vec![json!({"endpointSelector": {}})],
                    ..PolicyInfo::default()
                },
                // Nothing of it is in force.
                PolicyInfo {
                    rules: vec![json!({"endpointSelector": 7})],
                    problems: vec![api::PolicyProblem::default()],
                    ..PolicyInfo::default()
                },
            ],
        };
        expect![[r#"
            [
              {
                "endpointSelector": {}
              }
            ]
            Revision: 7
        "#]]
        .assert_eq(&rules(&list));
        assert_eq!(rules(&PolicyList::default()), "[]\nRevision: 0\n");
    }

    #[test]
    fn selectors_with_their_users() {
        let selector = SelectorInfo {
            selector: "any:app=cart,k8s:io.kubernetes.pod.namespace=shop".into(),
            users: 3,
            policies: vec!["shop/web".into(), "shop/db".into()],
            identities: vec![21565, 21566, 31007],
        };
        let nobody = SelectorInfo {
            selector: "any:app=none".into(),
            users: 1,
            ..SelectorInfo::default()
        };
        expect![[r#"
            SELECTOR                                            LABELS     USERS   IDENTITIES
            any:app=cart,k8s:io.kubernetes.pod.namespace=shop   shop/web   3       21565
                                                                shop/db            21566
                                                                                   31007
            any:app=none                                                   1
        "#]]
        .assert_eq(&selectors(&[selector, nobody]));
    }
}
