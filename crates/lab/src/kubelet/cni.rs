//! The runtime's side of the CNI protocol: configuration lists, plugin calls, results.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::node::Node;

/// How long one plugin call may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Where a node keeps its network configuration.
pub const CONFIG_DIR: &str = "/etc/cni/net.d";

/// Why a CNI operation failed; its text goes into the pod's event.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// The node has no configuration yet.
    #[error("no network configuration in {CONFIG_DIR}: is the agent of this node up?")]
    NoConfig,
    /// The configuration is not readable.
    #[error("network configuration {file} in {CONFIG_DIR}: {message}")]
    BadConfig {
        /// Which file.
        file: String,
        /// What is wrong.
        message: String,
    },
    /// The plugin's program is missing or does not start.
    #[error("plugin {plugin:?} cannot be started: {message}")]
    NoPlugin {
        /// Its type.
        plugin: String,
        /// Why.
        message: String,
    },
    /// The plugin took too long.
    #[error("plugin {plugin:?} did not answer {command} within {LIMIT:?}")]
    TimedOut {
        /// Its type.
        plugin: String,
        /// What it was to do.
        command: &'static str,
    },
    /// The plugin refused.
    #[error("plugin {plugin:?} failed ({command}): {message} (code {code}){details}")]
    Refused {
        /// Its type.
        plugin: String,
        /// What it was to do.
        command: &'static str,
        /// The CNI error code.
        code: u64,
        /// Its message.
        message: String,
        /// Its details, if any.
        details: String,
    },
}

/// A configuration list.
#[derive(Clone, Debug, Deserialize)]
pub struct ConfList {
    #[serde(rename = "cniVersion", default)]
    version: String,
    name: String,
    plugins: Vec<Value>,
}

impl ConfList {
    /// Reads the first list of a directory, by file name.
    fn load(dir: &Path) -> Result<ConfList, CniError> {
        let entries = fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path());
        let known = |p: &PathBuf| {
            p.extension()
                .is_some_and(|e| e == "conflist" || e == "conf" || e == "json")
        };
        let file = entries.filter(known).min().ok_or(CniError::NoConfig)?;
        let text = fs::read_to_string(&file).map_err(|_| CniError::NoConfig)?;
        Self::parse(&text).map_err(|e| CniError::BadConfig {
            file: file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            message: e.to_string(),
        })
    }

    /// A list, or a single plugin's configuration, which counts as a list of one.
    fn parse(text: &str) -> Result<ConfList, serde_json::Error> {
        let value: Value = serde_json::from_str(text)?;
        if value.get("plugins").is_some() {
            return serde_json::from_value(value);
        }
        let list =
            json!({"cniVersion": value["cniVersion"], "name": value["name"], "plugins": [value]});
        serde_json::from_value(list)
    }

    fn knows_status(&self) -> bool {
        let mut numbers = self.version.split('.').map(|n| n.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        (next(), next()) >= (1, 1)
    }

    /// What one plugin gets on standard input.
    fn input(&self, plugin: &Value, previous: Option<&Value>) -> Value {
        let mut config = plugin.clone();
        config["cniVersion"] = json!(self.version);
        config["name"] = json!(self.name);
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        config
    }
}

/// The pod interface an operation is about.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Sandbox id.
    pub container_id: String,
    /// Path of the network namespace, inside the node.
    pub netns: PathBuf,
    /// `K8S_…` arguments.
    pub args: String,
}

impl Attachment {
    /// For a pod's sandbox.
    pub fn new(
        container_id: &str,
        netns: &Path,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Attachment {
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={container_id};K8S_POD_UID={uid}"
        );
        Attachment {
            container_id: container_id.to_owned(),
            netns: netns.to_owned(),
            args,
        }
    }

    fn environment(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("CNI_CONTAINERID", self.container_id.clone()),
            ("CNI_NETNS", self.netns.display().to_string()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_ARGS", self.args.clone()),
        ])
    }
}

/// The addresses in a result, in order.
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let list = result["ips"].as_array().into_iter().flatten();
    let text = list.filter_map(|ip| ip["address"].as_str()?.split('/').next());
    text.filter_map(|ip| ip.parse().ok()).collect()
}

/// CNI on one node.
#[derive(Debug)]
pub struct Cni {
    node: Arc<Node>,
    path: Vec<PathBuf>,
}

impl Cni {
    /// `path` are the directories with plugins.
    pub fn new(node: Arc<Node>, path: Vec<PathBuf>) -> Cni {
        Cni { node, path }
    }

    /// The node's list as it is now.
    pub(super) fn config(&self) -> Result<ConfList, CniError> {
        ConfList::load(&self.node.path(CONFIG_DIR))
    }

    /// Attaches a pod: every plugin of the list in order. The result of the last one.
    pub async fn add(&self, list: &ConfList, pod: &Attachment) -> Result<Value, CniError> {
        let mut result = None;
        for plugin in &list.plugins {
            let input = list.input(plugin, result.as_ref());
            result = Some(self.call("ADD", plugin, pod.environment(), &input).await?);
        }
        Ok(result.unwrap_or_default())
    }

    /// Detaches a pod: the list backwards, with the result of its ADD.
    pub async fn del(&self, pod: &Attachment, added: Option<&Value>) -> Result<(), CniError> {
        let list = self.config()?;
        for plugin in list.plugins.iter().rev() {
            let input = list.input(plugin, added);
            self.call("DEL", plugin, pod.environment(), &input).await?;
        }
        Ok(())
    }

    /// Whether the network takes pods. Plugins are asked from CNI 1.1.0 on; before, a configuration that is there says yes.
    pub async fn status(&self) -> Result<(), CniError> {
        let list = self.config()?;
        if !list.knows_status() {
            return Ok(());
        }
        for plugin in &list.plugins {
            let input = list.input(plugin, None);
            self.call("STATUS", plugin, BTreeMap::new(), &input).await?;
        }
        Ok(())
    }

    fn find(&self, plugin: &str) -> Result<PathBuf, CniError> {
        let refuse = |message: String| CniError::NoPlugin {
            plugin: plugin.to_owned(),
            message,
        };
        if plugin.is_empty() || plugin.contains('/') {
            return Err(refuse("its type is no plain file name".into()));
        }
        let found = self
            .path
            .iter()
            .map(|d| d.join(plugin))
            .find(|p| self.node.path(p).is_file());
        found.ok_or_else(|| refuse(format!("there is no such program in {}", self.cni_path())))
    }

    fn cni_path(&self) -> String {
        let dirs: Vec<String> = self.path.iter().map(|d| d.display().to_string()).collect();
        dirs.join(":")
    }

    async fn call(
        &self,
        command: &'static str,
        plugin: &Value,
        environment: BTreeMap<&'static str, String>,
        input: &Value,
    ) -> Result<Value, CniError> {
        let kind = plugin["type"].as_str().unwrap_or_default();
        let program = self.find(kind)?;
        let refuse = |message: String| CniError::NoPlugin {
            plugin: kind.to_owned(),
            message,
        };
        let mut process = Command::new(&program);
        process
            .env_clear()
            .envs(environment)
            .env("CNI_COMMAND", command)
            .env("CNI_PATH", self.cni_path());
        process
            .env("PATH", super::DEFAULT_PATH)
            .env(crate::init::LAB_ENV, self.node.lab.as_str());
        process
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let child = self
            .node
            .spawn(process)
            .await
            .map_err(|e| refuse(e.to_string()))?;
        let answered = tokio::time::timeout(LIMIT, talk(child, input)).await;
        let output = answered.map_err(|_| CniError::TimedOut {
            plugin: kind.to_owned(),
            command,
        })?;
        let output = output.map_err(|e| refuse(e.to_string()))?;
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null));
        }
        Err(refusal(kind, command, &output))
    }
}

async fn talk(mut child: Child, input: &Value) -> std::io::Result<std::process::Output> {
    if let Some(mut pipe) = child.stdin.take() {
        // A plugin that needs no input may have gone already.
        let _ = pipe.write_all(input.to_string().as_bytes()).await;
    }
    child.wait_with_output().await
}

/// A plugin's error: JSON on standard output, or at least what it wrote.
fn refusal(plugin: &str, command: &'static str, output: &std::process::Output) -> CniError {
    let error: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let raw = || {
        let text = String::from_utf8_lossy(if output.stderr.is_empty() {
            &output.stdout
        } else {
            &output.stderr
        });
        format!("{}: {}", output.status, text.trim())
    };
    CniError::Refused {
        plugin: plugin.to_owned(),
        command,
        code: error["code"].as_u64().unwrap_or(999),
        message: error["msg"].as_str().map_or_else(raw, str::to_owned),
        details: error["details"]
            .as_str()
            .filter(|d| !d.is_empty())
            .map(|d| format!(": {d}"))
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_single_plugins() {
        let list =
            r#"{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"a","k":1},{"type":"b"}]}"#;
        let list = ConfList::parse(list).unwrap();
        let input = list.input(&list.plugins[0], Some(&json!({"ips": []})));
        assert_eq!(
            input,
            json!({"cniVersion":"1.1.0","name":"n","type":"a","k":1,"prevResult":{"ips":[]}})
        );
        let single = ConfList::parse(r#"{"cniVersion":"0.4.0","name":"s","type":"x"}"#).unwrap();
        assert_eq!(single.plugins.len(), 1);
        assert!(ConfList::parse("{").is_err());
        let knows = |version: &str| {
            let text = format!(r#"{{"cniVersion":"{version}","name":"v","plugins":[]}}"#);
            ConfList::parse(&text).unwrap().knows_status()
        };
        assert!(
            knows("1.1.0") && knows("2.0.0") && !knows("1.0.0") && !knows("0.3.1") && !knows("")
        );
    }

    #[test]
    fn the_first_file_by_name_wins() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            ConfList::load(dir.path()),
            Err(CniError::NoConfig)
        ));
        fs::write(
            dir.path().join("10-b.conflist"),
            r#"{"name":"b","plugins":[]}"#,
        )
        .unwrap();
        fs::write(
            dir.path().join("05-a.conflist"),
            r#"{"name":"a","plugins":[]}"#,
        )
        .unwrap();
        fs::write(dir.path().join("01-x.conf.bak"), "nonsense").unwrap();
        assert_eq!(ConfList::load(dir.path()).unwrap().name, "a");
        fs::write(dir.path().join("00-bad.conf"), "nonsense").unwrap();
        let text = ConfList::load(dir.path()).unwrap_err().to_string();
        assert!(
            text.contains("00-bad.conf") && text.contains("line 1 column"),
            "{text}"
        );
    }

    #[test]
    fn addresses_of_a_result() {
        let result = json!({"ips": [{"address": "10.244.1.7/32"}, {"address": "fd00::7/128"}, {"address": "x"}]});
        let ips: Vec<String> = addresses(&result).iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.244.1.7", "fd00::7"]);
    }
}
