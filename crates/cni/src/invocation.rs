//! The environment of an invocation.

use std::path::PathBuf;

use api::{PodRef, delete_queue::Deletion, path::EndpointId};

use crate::{CniError, code};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Command {
    /// Attach a pod.
    Add,
    /// Detach a pod.
    Del,
    /// Compare a pod's network with what ADD made.
    Check,
    /// Can pods be attached?
    Status,
    /// Detach what is not wanted any more.
    Gc,
    /// Which versions are spoken?
    Version,
}

impl Command {
    const ALL: [Self; 6] = [
        Self::Add,
        Self::Del,
        Self::Check,
        Self::Status,
        Self::Gc,
        Self::Version,
    ];

    /// As it stands in `CNI_COMMAND`.
    pub fn text(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }

    pub(crate) fn from_env(env: &impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let text = env("CNI_COMMAND").unwrap_or_default();
        Self::ALL
            .into_iter()
            .find(|c| c.text() == text)
            .ok_or_else(|| {
                let known = Self::ALL.map(Self::text).join(", ");
                bad_env("CNI_COMMAND", &text, &format!("must be one of {known}"))
            })
    }
}

/// What `CNI_ARGS` says about the pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodArgs {
    /// `K8S_POD_NAMESPACE`
    pub namespace: String,
    /// `K8S_POD_NAME`
    pub name: String,
    /// `K8S_POD_UID`
    pub uid: String,
}

/// The environment, read and checked. Fields that a command does not need may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// What to do.
    pub command: Command,
    /// Container (sandbox) id.
    pub container_id: String,
    /// Interface inside the container.
    pub interface: String,
    /// Network namespace of the container; DEL may come without.
    pub netns: Option<PathBuf>,
    /// The pod.
    pub pod: PodRef,
}

impl Invocation {
    /// Reads the environment as far as the command needs it.
    pub fn from_env(
        command: Command,
        env: &impl Fn(&str) -> Option<String>,
    ) -> Result<Self, CniError> {
        let get = |name: &str| env(name).unwrap_or_default();
        let mut found = Self {
            command,
            container_id: get("CNI_CONTAINERID"),
            interface: get("CNI_IFNAME"),
            netns: Some(get("CNI_NETNS"))
                .filter(|p| !p.is_empty())
                .map(PathBuf::from),
            pod: PodRef::default(),
        };
        if matches!(command, Command::Add | Command::Del | Command::Check) {
            check_container(&found.container_id)?;
            check_interface(&found.interface)?;
        }
        if matches!(command, Command::Add | Command::Check) {
            check_netns(found.netns.as_ref())?;
        }
        if command == Command::Add {
            let args = parse_args(&get("CNI_ARGS"))?;
            found.pod = PodRef {
                namespace: args.namespace,
                name: args.name,
                uid: args.uid,
            };
            for (name, value) in [
                ("K8S_POD_NAMESPACE", &found.pod.namespace),
                ("K8S_POD_NAME", &found.pod.name),
            ] {
                if value.is_empty() {
                    return Err(bad_env(
                        "CNI_ARGS",
                        &get("CNI_ARGS"),
                        &format!("has no {name}"),
                    ));
                }
            }
        }
        Ok(found)
    }

    /// The endpoint's name in the agent's API.
    pub fn endpoint(&self) -> EndpointId {
        EndpointId::attachment(&self.container_id, &self.interface)
    }

    /// For the queue of deletions.
    pub fn deletion(&self) -> Deletion {
        Deletion {
            container_id: self.container_id.clone(),
            interface: self.interface.clone(),
        }
    }
}

/// Reads `CNI_ARGS`: `KEY=value` pairs joined by semicolons; keys that are not ours are skipped.
pub fn parse_args(text: &str) -> Result<PodArgs, CniError> {
    let mut args = PodArgs::default();
    if text.len() > 8192 {
        return Err(bad_env("CNI_ARGS", "…", "is longer than 8192 bytes"));
    }
    for pair in text.split(';').filter(|p| !p.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(bad_env(
                "CNI_ARGS",
                pair,
                "must be KEY=value pairs joined by semicolons",
            ));
        };
        let (field, max) = match key {
            "K8S_POD_NAMESPACE" => (&mut args.namespace, 63),
            "K8S_POD_NAME" => (&mut args.name, 253),
            "K8S_POD_UID" => (&mut args.uid, 128),
            _ => continue,
        };
        if value.len() > max
            || !value
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        {
            return Err(bad_env(
                "CNI_ARGS",
                pair,
                &format!("{key} is not a Kubernetes name of at most {max} bytes"),
            ));
        }
        *field = value.to_owned();
    }
    Ok(args)
}

fn check_container(id: &str) -> Result<(), CniError> {
    let first = id.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if first
        && id.len() <= 128
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    {
        return Ok(());
    }
    let what = "must be set, of at most 128 letters, digits, `_`, `.` or `-`, and start with a letter or digit";
    Err(bad_env("CNI_CONTAINERID", id, what))
}

fn check_interface(name: &str) -> Result<(), CniError> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.chars().any(bad) {
        return Err(bad_env(
            "CNI_IFNAME",
            name,
            "must be set to an interface name of at most 15 bytes",
        ));
    }
    Ok(())
}

fn check_netns(path: Option<&PathBuf>) -> Result<(), CniError> {
    let Some(path) = path else {
        return Err(bad_env(
            "CNI_NETNS",
            "",
            "must be set to the path of the pod's network namespace",
        ));
    };
    if !path.is_absolute() || path.as_os_str().len() > 4095 {
        return Err(bad_env(
            "CNI_NETNS",
            &path.to_string_lossy(),
            "must be an absolute path",
        ));
    }
    Ok(())
}

fn bad_env(name: &str, value: &str, what: &str) -> CniError {
    let shown: String = value.chars().take(100).collect();
    CniError::new(code::INVALID_ENVIRONMENT, format!("{name} {what}"))
        .details(format!("{name} is {shown:?}"))
}
