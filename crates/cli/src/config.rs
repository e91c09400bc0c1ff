//! `hypha config`: the settings that agents and operator share.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use ::install::apply::{Workload, wait};
use ::kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use anyhow::{Context, Result, anyhow, bail};
use clap::{ArgAction, Args, Subcommand};
use k8s::Client;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        core::v1::{ConfigMap, Pod},
    },
    jiff::Timestamp,
};
use runtime::settings::{Key, OperatorSettings, Settings};
use serde_json::{Value, json};

use crate::kube::{ClusterArgs, answer, block_on};
use crate::output;
use crate::settings::{self, MAP};

/// The agents' DaemonSet, and what selects their pods.
const AGENTS: &str = "cilium";
const AGENT_PODS: &str = "k8s-app=cilium";
/// The operator's Deployment.
const OPERATOR: &str = "cilium-operator";
/// How long a restart may take.
const RESTART_LIMIT: Duration = Duration::from_secs(300);
/// What `kubectl rollout restart` sets.
const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";

/// `hypha config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print all settings
    View,
    /// Change a setting, and restart the agents
    Set {
        /// Key
        key: String,
        /// Value
        value: String,
        #[command(flatten)]
        restart: Restart,
    },
    /// Take a setting out, and restart the agents
    Delete {
        /// Key
        key: String,
        #[command(flatten)]
        restart: Restart,
    },
}

#[derive(Debug, Args)]
struct Restart {
    /// Restart the agents, so that they use the change
    #[arg(
        short = 'r',
        long,
        value_name = "true|false",
        action = ArgAction::Set,
        default_value = "true",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true
    )]
    restart: bool,
}

/// Runs the command.
///
/// # Errors
/// The API server does not answer or refuses.
pub fn run(args: &ConfigArgs) -> Result<()> {
    block_on(async {
        let client = args.cluster.client().await?;
        let namespace = &args.cluster.namespace;
        match &args.command {
            ConfigCommand::View => output::write_out(&view(&read(&client, namespace).await?)),
            ConfigCommand::Set {
                key,
                value,
                restart,
            } => {
                output::write_out(&format!(
                    "✨ Patching ConfigMap {MAP} with {key}={value}...\n"
                ))?;
                change(&client, namespace, key, Some(value)).await?;
                apply(&client, namespace, key, restart).await
            }
            ConfigCommand::Delete { key, restart } => {
                if !read(&client, namespace).await?.contains_key(key) {
                    return Err(anyhow!("ConfigMap {namespace}/{MAP} has no key {key}"));
                }
                output::write_out(&format!("✨ Removing {key} from ConfigMap {MAP}...\n"))?;
                change(&client, namespace, key, None).await?;
                apply(&client, namespace, key, restart).await
            }
        }
    })
}

async fn read(client: &Client, namespace: &str) -> Result<BTreeMap<String, String>> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let found = answer(maps.get_opt(MAP))
        .await
        .context("cannot read the settings")?;
    let map = found.ok_or_else(|| anyhow!("ConfigMap {namespace}/{MAP} does not exist"))?;
    Ok(map.data.unwrap_or_default())
}

/// `key`, blanks, `value`, sorted; further lines of a value stand below its first.
fn view(settings: &BTreeMap<String, String>) -> String {
    let width = settings.keys().map(String::len).max().unwrap_or(0) + 4;
    let mut text = String::new();
    for (key, value) in settings {
        let value = value.trim_end().replace('\n', &format!("\n{:width$}", ""));
        let line = format!("{key:width$}{value}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// Changes one key, unless agent or operator would refuse what comes of it.
async fn change(client: &Client, namespace: &str, key: &str, value: Option<&str>) -> Result<()> {
    if let Some(problem) = value.and_then(|value| settings::refused_value(key, value)) {
        bail!(problem);
    }
    let before = read(client, namespace).await?;
    let mut after = before.clone();
    match value {
        Some(value) => after.insert(key.to_owned(), value.to_owned()),
        None => after.remove(key),
    };
    if let Some(problem) = refused(key, &before, &after) {
        bail!("nothing is changed: {problem}");
    }
    if let Some(problem) = settings::refused(&after) {
        output::write_out(&format!("⚠️  More has to change: {problem}\n"))?;
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let patch = Patch::Merge(json!({"data": {key: value}}));
    answer(maps.patch(MAP, &params(), &patch))
        .await
        .map(drop)
        .with_context(|| format!("cannot change ConfigMap {namespace}/{MAP}"))
}

/// Why a change is refused: it makes settings wrong that were right. What was wrong before can be mended one by one, and a mode may be
/// chosen before its ranges are given.
fn refused(key: &str, before: &settings::Values, after: &settings::Values) -> Option<String> {
    if ::install::refused_settings(before).is_none()
        && let Some(problem) = ::install::refused_settings(after)
    {
        return Some(problem);
    }
    let was_wrong = key == "ipam" || settings::refused_ranges(before, true).is_some();
    settings::refused_ranges(after, true).filter(|_| !was_wrong)
}

/// An upgrade may take back what this command has set.
fn params() -> PatchParams {
    PatchParams {
        field_manager: Some("hypha-config".to_owned()),
        ..PatchParams::default()
    }
}

async fn apply(client: &Client, namespace: &str, key: &str, restart: &Restart) -> Result<()> {
    let whose = Readers::of(key);
    if whose == Readers::Nobody {
        output::write_out(&format!("⚠️  Neither agent nor operator knows {key}\n"))?;
    }
    if !restart.restart {
        return output::write_out("⚠️  Restart the agents to use the new value\n");
    }
    let mut restarted = Vec::new();
    if whose != Readers::Operator {
        match restart_agents(client, namespace).await? {
            Restarted::Rollout => restarted.push(Workload::DaemonSet(AGENTS.to_owned())),
            Restarted::Pods => output::write_out("♻️  Restarted Cilium pods\n")?,
            Restarted::Nothing => {
                output::write_out(
                    "⚠️  No agent pods were found; restart the agents to use the new value\n",
                )?;
            }
        }
    }
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let reads = matches!(whose, Readers::Operator | Readers::Both);
    if reads && answer(deployments.get_opt(OPERATOR)).await?.is_some() {
        answer(deployments.patch(OPERATOR, &params(), &rollout()))
            .await
            .context("cannot restart the operator's Deployment")?;
        restarted.push(Workload::Deployment(OPERATOR.to_owned()));
    }
    if restarted.is_empty() {
        return Ok(());
    }
    wait(client, namespace, &restarted, RESTART_LIMIT)
        .await
        .map_err(|text| anyhow!("{text}; `hypha status` tells more"))?;
    let what = match restarted.as_slice() {
        [Workload::Deployment(_)] => "the operator",
        [_] => "Cilium pods",
        _ => "Cilium pods and the operator",
    };
    output::write_out(&format!("♻️  Restarted {what}\n"))
}

/// Who reads a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readers {
    Agent,
    Operator,
    Both,
    Nobody,
}

impl Readers {
    fn of(key: &str) -> Self {
        let knows = |keys: &[Key]| keys.iter().any(|one| one.name == key);
        match (knows(Settings::KEYS), knows(OperatorSettings::KEYS)) {
            (true, true) => Self::Both,
            (true, false) => Self::Agent,
            (false, true) => Self::Operator,
            (false, false) => Self::Nobody,
        }
    }
}

/// How the agents were restarted.
enum Restarted {
    Rollout,
    Pods,
    Nothing,
}

/// What `kubectl rollout restart` does.
fn rollout() -> Patch<Value> {
    let annotations = json!({RESTARTED: Timestamp::now().to_string()});
    Patch::Merge(json!({"spec": {"template": {"metadata": {"annotations": annotations}}}}))
}

/// Starts a new rollout of the DaemonSet; where the agents' pods are of none, they are deleted.
async fn restart_agents(client: &Client, namespace: &str) -> Result<Restarted> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    if answer(sets.get_opt(AGENTS)).await?.is_some() {
        answer(sets.patch(AGENTS, &params(), &rollout()))
            .await
            .context("cannot restart the agents' DaemonSet")?;
        return Ok(Restarted::Rollout);
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let ours = answer(pods.list(&ListParams::default().labels(AGENT_PODS))).await?;
    for pod in &ours.items {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        answer(pods.delete(name, &DeleteParams::default())).await?;
    }
    Ok(if ours.items.is_empty() {
        Restarted::Nothing
    } else {
        Restarted::Pods
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use expect_test::expect;

    use super::*;

    #[test]
    fn settings_are_sorted_and_aligned() {
        let settings = [
            ("routing-mode", "native"),
            ("ipam", "cluster-pool"),
            ("metrics", "drop\nflow\n"),
            ("devices", ""),
        ];
        let settings = settings
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        expect![[r"
            devices
            ipam            cluster-pool
            metrics         drop
                            flow
            routing-mode    native
        "]]
        .assert_eq(&view(&settings));
    }

    #[test]
    fn who_reads_a_key_is_restarted() {
        assert_eq!(Readers::of("routing-mode"), Readers::Agent);
        assert_eq!(Readers::of("cluster-pool-ipv4-cidr"), Readers::Operator);
        assert_eq!(Readers::of("ipam"), Readers::Both);
        assert_eq!(Readers::of("no-such-key"), Readers::Nobody);
    }

    #[test]
    fn a_change_is_refused_where_it_makes_things_wrong() {
        let with = |list: &[(&str, &str)]| -> settings::Values {
            let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            list.iter().map(own).collect()
        };
        let (cidr, mask) = ("cluster-pool-ipv4-cidr", "cluster-pool-ipv4-mask-size");
        let good = with(&[(cidr, "10.0.0.0/16"), (mask, "24")]);
        let bad = with(&[(cidr, "10.0.0.0/16"), (mask, "12")]);
        assert!(refused(mask, &good, &bad).is_some_and(|why| why.contains("16 to 32")));
        assert_eq!(refused(cidr, &bad, &bad), None, "step by step");
        let chosen = with(&[("ipam", "cluster-pool")]);
        assert_eq!(refused("ipam", &with(&[]), &chosen), None);
        let neither = with(&[("enable-ipv4", "false"), ("enable-ipv6", "false")]);
        let one = with(&[("enable-ipv4", "false")]);
        assert!(refused("enable-ipv6", &one, &neither).is_some());
    }

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ConfigArgs,
    }

    #[test]
    fn agents_are_restarted_unless_people_say_no() {
        let restart = |words: &[&str]| {
            let line = ["config", "set", "debug", "true"].iter().chain(words);
            match Line::parse_from(line).args.command {
                ConfigCommand::Set { restart, .. } => restart.restart,
                _ => panic!("another command"),
            }
        };
        assert!(restart(&[]) && restart(&["-r"]) && restart(&["--restart=true"]));
        assert!(!restart(&["-r=false"]) && !restart(&["--restart=false"]));
    }
}
