//! Finding a lab, its nodes and its pods.
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use lab::spec::LabName;
use lab::state::{LabState, PodRecord, StateDir, lab_names};

use crate::error::Usage;

/// A lab that runs.
pub struct RunningLab {
    /// Its name.
    pub name: LabName,
    /// Its directory.
    pub dir: StateDir,
    /// What it says of itself.
    pub state: LabState,
}

/// The lab that `wanted` names, or the only one that runs.
///
/// # Errors
/// If none runs; [`Usage`] with those that run, if none of them or several fit.
pub fn find(wanted: Option<&str>) -> Result<RunningLab> {
    let running: Vec<LabName> = lab_names()
        .into_iter()
        .filter(|name| StateDir::of(name).running())
        .collect();
    let name = choose(wanted, &running).map_err(|text| {
        // With labs to choose from it is the choice that was wrong.
        if running.is_empty() {
            anyhow!(text)
        } else {
            Usage(text).into()
        }
    })?;
    open(name)
}

/// Whether any lab runs on this machine.
#[must_use]
pub fn any() -> bool {
    lab_names().iter().any(|name| StateDir::of(name).running())
}

fn choose(wanted: Option<&str>, running: &[LabName]) -> Result<LabName, String> {
    let names: Vec<&str> = running.iter().map(LabName::as_str).collect();
    match (wanted, running) {
        (Some(wanted), _) => match running.iter().find(|name| name.as_str() == wanted) {
            Some(name) => Ok(name.clone()),
            None if running.is_empty() => Err(format!(
                "lab `{wanted}` does not run; `hypha lab up --name {wanted}` starts it"
            )),
            None => Err(format!(
                "lab `{wanted}` does not run; accepted: {}",
                names.join(", ")
            )),
        },
        (None, [only]) => Ok(only.clone()),
        (None, []) => Err("no lab runs; `hypha lab up` starts one".into()),
        (None, _) => Err(format!(
            "several labs run; choose one with --name: {}",
            names.join(", ")
        )),
    }
}

fn open(name: LabName) -> Result<RunningLab> {
    let dir = StateDir::of(&name);
    let state = dir.read()?.with_context(|| {
        format!(
            "lab `{name}` is still coming up, it has no state yet; `hypha lab status` shows how far"
        )
    })?;
    Ok(RunningLab { name, dir, state })
}

impl RunningLab {
    /// Names of its nodes, in order.
    #[must_use]
    pub fn node_names(&self) -> Vec<&str> {
        self.state
            .nodes
            .iter()
            .map(|node| node.name.as_str())
            .collect()
    }

    /// The pods that run, by namespace and name.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub fn pods(&self) -> Result<Vec<PodRecord>> {
        self.dir.pods()
    }
}

/// The file of a process's network namespace.
#[must_use]
pub fn netns(pid: i32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labs(names: &[&str]) -> Vec<LabName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn the_only_lab_needs_no_name() {
        assert_eq!(choose(None, &labs(&["a"])).unwrap().as_str(), "a");
        assert_eq!(choose(Some("b"), &labs(&["a", "b"])).unwrap().as_str(), "b");
    }

    #[test]
    fn otherwise_the_labs_are_listed() {
        assert_eq!(
            choose(None, &labs(&["a", "b"])).unwrap_err(),
            "several labs run; choose one with --name: a, b"
        );
        assert_eq!(
            choose(Some("c"), &labs(&["a", "b"])).unwrap_err(),
            "lab `c` does not run; accepted: a, b"
        );
        assert!(choose(None, &[]).unwrap_err().contains("hypha lab up"));
        assert!(
            choose(Some("c"), &[])
                .unwrap_err()
                .contains("hypha lab up --name c")
        );
    }
}
