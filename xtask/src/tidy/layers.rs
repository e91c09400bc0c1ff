//! The layer rule: a crate depends only downwards, and the pure ones never on what does I/O.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Findings, crate_names};
use crate::proc;

/// Every crate and its layer: it may depend on lower layers.
const LAYERS: [(&str, u32); 24] = [
    ("abi", 0),
    ("wire", 1),
    ("tables", 1),
    ("netlink", 1),
    ("model", 2),
    ("api", 3),
    ("runtime", 3),
    ("ipam", 4),
    ("routing", 4),
    ("policy", 4),
    ("lb", 4),
    ("datapath", 5),
    ("flow", 5),
    ("controllers", 5),
    ("k8s", 5),
    ("testkit", 5),
    ("proxy", 5),
    ("install", 6),
    ("apiserver", 6),
    ("agent", 6),
    ("cni", 6),
    ("operator", 7),
    ("lab", 7),
    ("cli", 8),
];

/// Crates that must stay smaller than their layer would allow: started for every pod.
const NARROW: [(&str, &[&str]); 1] = [("cni", &["api", "netlink"])];

/// No I/O, no clock, no async runtime: these and what they depend on among our crates.
const PURE: [&str; 8] = [
    "abi", "wire", "tables", "model", "ipam", "routing", "policy", "lb",
];
/// What makes a crate impure.
const EFFECTS: [&str; 12] = [
    "tokio",
    "aya",
    "kube",
    "axum",
    "hyper",
    "hyper-util",
    "tower",
    "nix",
    "netlink-sys",
    "libc",
    "rand",
    "tokio-stream",
];
/// Crates that carry the runtime of the others and may not reach the CNI plugin.
const HEAVY: [&str; 6] = ["tokio", "kube", "aya", "axum", "hyper", "clap"];
/// Only for tests.
const DEV_ONLY: [&str; 1] = ["testkit"];

/// Checks what cargo says about the members' dependencies.
pub fn check(root: &Path, findings: &mut Findings) -> Result<()> {
    let mut cargo = proc::cargo();
    cargo
        .current_dir(root)
        .args(["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&proc::output(&mut cargo)?)
        .context("`cargo metadata` printed something that is not JSON")?;
    let dependencies = dependencies(&metadata);
    for name in crate_names(root)? {
        match dependencies.get(&name) {
            Some(list) => check_crate(&name, list, findings),
            None => findings.error(format!(
                "crates/{name}: its package is not called hypha-{name}"
            )),
        }
    }
    Ok(())
}

/// Normal and build dependencies of each of our crates, ours without their prefix.
fn dependencies(metadata: &Value) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let Some(name) = package["name"]
            .as_str()
            .and_then(|name| name.strip_prefix("hypha-"))
        else {
            continue;
        };
        let listed = package["dependencies"].as_array().into_iter().flatten();
        let shipped = listed.filter(|dependency| dependency["kind"].as_str() != Some("dev"));
        let names = shipped.filter_map(|dependency| dependency["name"].as_str().map(str::to_owned));
        all.insert(name.to_owned(), names.collect());
    }
    all
}

fn check_crate(name: &str, dependencies: &[String], findings: &mut Findings) {
    let Some(layer) = layer(name) else {
        findings.error(format!(
            "crates/{name}: has no layer yet; give it one in xtask/src/tidy/layers.rs"
        ));
        return;
    };
    let narrow = NARROW
        .iter()
        .find(|(narrow, _)| *narrow == name)
        .map(|(_, list)| *list);
    for dependency in dependencies {
        let Some(ours) = dependency.strip_prefix("hypha-") else {
            check_external(name, dependency, narrow.is_some(), findings);
            continue;
        };
        let wrong = |why: &str| format!("crates/{name} must not depend on crates/{ours}: {why}");
        if self::layer(ours).is_none_or(|below| below >= layer) {
            findings.error(wrong("it is not in a lower layer"));
        } else if narrow.is_some_and(|list| !list.contains(&ours)) {
            findings.error(wrong("the plugin stays small"));
        } else if PURE.contains(&name) && !PURE.contains(&ours) {
            findings.error(wrong("a pure crate needs pure ones"));
        } else if DEV_ONLY.contains(&ours) {
            findings.error(wrong("it is for tests only"));
        }
    }
}

fn check_external(name: &str, dependency: &str, narrow: bool, findings: &mut Findings) {
    if PURE.contains(&name) && EFFECTS.contains(&dependency) {
        findings.error(format!(
            "crates/{name} is pure and must not depend on {dependency}"
        ));
    }
    if narrow && HEAVY.contains(&dependency) {
        findings.error(format!(
            "crates/{name} stays small and must not depend on {dependency}"
        ));
    }
}

fn layer(name: &str) -> Option<u32> {
    LAYERS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, layer)| *layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(name: &str, dependencies: &[&str]) -> Vec<String> {
        let mut findings = Findings::default();
        let dependencies: Vec<_> = dependencies.iter().map(|name| (*name).to_owned()).collect();
        check_crate(name, &dependencies, &mut findings);
        findings.errors
    }

    #[test]
    fn downwards_is_allowed() {
        assert!(errors("agent", &["hypha-datapath", "hypha-tables", "tokio", "aya"]).is_empty());
        assert!(errors("cni", &["hypha-api", "hypha-netlink", "serde_json"]).is_empty());
    }

    #[test]
    fn upwards_sideways_and_impure_are_not() {
        assert_eq!(errors("model", &["hypha-agent"]).len(), 1);
        assert_eq!(errors("datapath", &["hypha-k8s"]).len(), 1);
        assert_eq!(errors("routing", &["tokio", "hypha-netlink"]).len(), 2);
        assert_eq!(errors("cni", &["tokio", "hypha-model"]).len(), 2);
        assert_eq!(errors("agent", &["hypha-testkit"]).len(), 1);
        assert_eq!(errors("unheard-of", &[]).len(), 1);
    }
}
