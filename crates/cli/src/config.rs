//! `hypha config`: the settings that agents and operator share.
use std::collections::BTreeMap;
use std::fmt::Write as _;

use ::kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use anyhow::{Context, Result, anyhow};
use clap::{ArgAction, Args, Subcommand};
use k8s::Client;
use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, Pod},
    },
    jiff::Timestamp,
};
use serde_json::{Value, json};

use crate::kube::{ClusterArgs, answer, block_on};
use crate::output;

/// The ConfigMap.
const MAP: &str = "cilium-config";
/// The agents' DaemonSet, and what selects their pods.
const AGENTS: &str = "cilium";
const AGENT_PODS: &str = "k8s-app=cilium";
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
                change(&client, namespace, key, value.clone().into()).await?;
                apply(&client, namespace, restart).await
            }
            ConfigCommand::Delete { key, restart } => {
                if !read(&client, namespace).await?.contains_key(key) {
                    return Err(anyhow!("ConfigMap {namespace}/{MAP} has no key {key}"));
                }
                output::write_out(&format!("✨ Removing {key} from ConfigMap {MAP}...\n"))?;
                change(&client, namespace, key, Value::Null).await?;
                apply(&client, namespace, restart).await
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

async fn change(client: &Client, namespace: &str, key: &str, value: Value) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let patch = Patch::Merge(json!({"data": {key: value}}));
    answer(maps.patch(MAP, &PatchParams::default(), &patch))
        .await
        .map(drop)
        .with_context(|| format!("cannot change ConfigMap {namespace}/{MAP}"))
}

async fn apply(client: &Client, namespace: &str, restart: &Restart) -> Result<()> {
    if !restart.restart {
        return output::write_out("⚠️  Restart the agents to use the new value\n");
    }
    output::write_out(restart_agents(client, namespace).await?)
}

/// Starts a new rollout of the DaemonSet; where the agents' pods are of none, they are deleted. What was done, as a line.
async fn restart_agents(client: &Client, namespace: &str) -> Result<&'static str> {
    const DONE: &str = "♻️  Restarted Cilium pods\n";
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    if answer(sets.get_opt(AGENTS)).await?.is_some() {
        let annotations = json!({RESTARTED: Timestamp::now().to_string()});
        let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
        let params = PatchParams::default();
        answer(sets.patch(AGENTS, &params, &Patch::Merge(patch)))
            .await
            .context("cannot restart the agents' DaemonSet")?;
        return Ok(DONE);
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let ours = answer(pods.list(&ListParams::default().labels(AGENT_PODS))).await?;
    for pod in &ours.items {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        answer(pods.delete(name, &DeleteParams::default())).await?;
    }
    Ok(if ours.items.is_empty() {
        "⚠️  No agent pods were found; restart the agents to use the new value\n"
    } else {
        DONE
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
