//! What the kernel holds of a node: programs, pins, links.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use aya::maps::MapInfo;
use aya::programs::{ProgramInfo, loaded_programs};

use crate::cluster::Cluster;

const MAPS: &str = "/sys/fs/bpf/tc/globals";
const PROGRAMS: &str = "/sys/fs/bpf/cilium/programs";

/// Names and kernel ids of a node's pinned programs.
///
/// # Panics
/// If a pin cannot be read.
#[must_use]
#[track_caller]
pub fn pinned_programs(cluster: &Cluster, node: &str) -> BTreeMap<String, u32> {
    let dir = cluster.path(node, PROGRAMS);
    let id = |name: &String| {
        ProgramInfo::from_pin(dir.join(name))
            .unwrap_or_else(|e| panic!("pin {name}: {e}"))
            .id()
    };
    names(&dir)
        .into_iter()
        .map(|name| (name.clone(), id(&name)))
        .collect()
}

/// Ids of all programs of the machine that use a map of this node, pinned or not.
///
/// # Panics
/// If the kernel does not tell.
#[must_use]
#[track_caller]
pub fn loaded(cluster: &Cluster, node: &str) -> BTreeSet<u32> {
    let dir = cluster.path(node, MAPS);
    let maps: BTreeSet<u32> = names(&dir)
        .iter()
        .filter_map(|name| Some(MapInfo::from_pin(dir.join(name)).ok()?.id()))
        .collect();
    assert!(!maps.is_empty(), "node {node} has no pinned maps");
    let ours = |program: &ProgramInfo| {
        // A program that goes away meanwhile has no maps to tell.
        program
            .map_ids()
            .ok()
            .flatten()
            .is_some_and(|ids| ids.iter().any(|id| maps.contains(id)))
    };
    loaded_programs()
        .filter_map(Result::ok)
        .filter(ours)
        .map(|program| program.id())
        .collect()
}

/// Everything of a node that pods could leave behind: links, pins, network namespaces, routes, neighbours.
///
/// # Panics
/// If the node is gone.
#[must_use]
#[track_caller]
pub fn inventory(cluster: &Cluster, node: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let script = "ip -o link | sed 's/^[0-9]*: \\([^:@]*\\).*/link \\1/'; ip route show table all | sed 's/ *expires.*//'; \
        ip -6 route show table all | sed 's/ *expires.*//'; ip rule; ip -6 rule; ls /run/netns | sed 's/^/netns /'";
    all.extend(
        cluster
            .lab
            .sh(node, script)
            .lines()
            .map(|line| line.trim_end().to_owned()),
    );
    walk(&cluster.path(node, "/sys/fs/bpf"), "", &mut all);
    all.extend(
        names(&cluster.path(node, "/run/cilium/deleteQueue"))
            .iter()
            .map(|name| format!("queued {name}")),
    );
    all
}

fn walk(dir: &Path, below: &str, all: &mut BTreeSet<String>) {
    for name in names(dir) {
        let (path, shown) = (dir.join(&name), format!("{below}/{name}"));
        if path.is_dir() {
            walk(&path, &shown, all);
        }
        all.insert(format!("pin {shown}"));
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
