//! `hypha-cni` called by the CNI protocol inside a node, as a container runtime does.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lab::ns::Namespaces;
use netlink::{Handle, netns};
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// The plugin on one node.
#[derive(Debug)]
pub struct Plugin {
    inside: Namespaces,
    program: PathBuf,
    /// What it gets on standard input.
    pub config: Value,
}

/// A pod's sandbox: an id and a network namespace in the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sandbox {
    /// CNI_CONTAINERID.
    pub id: String,
    /// CNI_NETNS, as the node sees it.
    pub netns: PathBuf,
    /// K8S_POD_NAME.
    pub pod: String,
}

/// What the plugin refused with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The code of the specification.
    pub code: u64,
    /// Message and details.
    pub text: String,
}

impl Plugin {
    /// That of a node, with the configuration that its agent wrote.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn on(cluster: &Cluster, node: &str) -> Plugin {
        let inside = cluster.inside(node);
        let read = || std::fs::read_to_string("/etc/cni/net.d/05-cilium.conflist");
        let text = inside
            .run(read)
            .expect("entering the node")
            .expect("the CNI configuration");
        let list: Value = serde_json::from_str(&text).expect("the CNI configuration is JSON");
        let mut config = list["plugins"][0].clone();
        config["cniVersion"] = list["cniVersion"].clone();
        config["name"] = list["name"].clone();
        Plugin {
            inside,
            program: crate::program("hypha-cni"),
            config,
        }
    }

    /// Makes the network namespace of a sandbox.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[must_use]
    #[track_caller]
    pub fn sandbox(&self, id: &str) -> Sandbox {
        let netns = Path::new("/run/netns").join(format!("e2e-{id}"));
        let made = self.inside.run(|| {
            let ns = netns::create_at(&netns)?;
            Handle::in_netns(&ns)?.link_up("lo")
        });
        made.expect("entering the node")
            .expect("a network namespace");
        Sandbox {
            id: id.to_owned(),
            netns,
            pod: format!("e2e-{id}"),
        }
    }

    /// Removes the network namespace of a sandbox.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[track_caller]
    pub fn forget(&self, sandbox: &Sandbox) {
        self.inside
            .run(|| netns::delete_at(&sandbox.netns))
            .expect("entering the node")
            .expect("removing a network namespace");
    }

    /// Calls the plugin.
    ///
    /// # Errors
    /// What it refused with.
    ///
    /// # Panics
    /// If it does not speak the protocol.
    #[track_caller]
    pub fn call(&self, verb: &str, sandbox: &Sandbox) -> Result<Value, Refused> {
        let output = self.raw(verb, Some(sandbox), &[], self.config.to_string().as_bytes());
        let shown = || {
            format!(
                "{verb}: {} {}{}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        };
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null));
        }
        let error: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("no CNI error ({e}): {}", shown()));
        let code = error["code"]
            .as_u64()
            .unwrap_or_else(|| panic!("an error without code: {}", shown()));
        let part = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        Err(Refused {
            code,
            text: format!("{}: {}", part("msg"), part("details")),
        })
    }

    /// Starts it with these variables and this input; how it ended.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn raw(
        &self,
        verb: &str,
        sandbox: Option<&Sandbox>,
        env: &[(&str, &str)],
        input: &[u8],
    ) -> Output {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", "/opt/cni/bin");
        if let Some(sandbox) = sandbox {
            let args = json!({"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": sandbox.pod, "K8S_POD_UID": sandbox.id});
            let args = args
                .as_object()
                .into_iter()
                .flatten()
                .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()));
            command
                .env("CNI_CONTAINERID", &sandbox.id)
                .env("CNI_NETNS", &sandbox.netns)
                .env("CNI_IFNAME", "eth0");
            command.env(
                "CNI_ARGS",
                format!("IgnoreUnknown=1;{}", args.collect::<Vec<_>>().join(";")),
            );
        }
        command.envs(env.iter().copied());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = self
            .inside
            .run(|| command.spawn())
            .expect("entering the node");
        let mut child = child.expect("starting hypha-cni");
        if let Some(mut pipe) = child.stdin.take() {
            // One that needs no input may have ended already.
            let _ = pipe.write_all(input);
        }
        child.wait_with_output().expect("waiting for hypha-cni")
    }
}

/// The addresses in a result.
#[must_use]
pub fn addresses(result: &Value) -> Vec<String> {
    let list = result["ips"].as_array().into_iter().flatten();
    list.filter_map(|ip| Some(ip["address"].as_str()?.split('/').next()?.to_owned()))
        .collect()
}
