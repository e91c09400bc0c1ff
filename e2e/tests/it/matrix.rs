//! The connectivity matrix in every way that the datapath can be set up.

use std::collections::BTreeMap;

use hypha_e2e::cluster::Cluster;
use testkit::skip_unless_root;

/// Protocols times sizes.
const PER_PATH_AND_FAMILY: usize = 9;

/// All cells work at the first try, and they are as many as the paths say: a path that is not tested does not count as green.
#[track_caller]
fn check(args: &[&str], test: &[&str], paths: usize, families: usize) -> Cluster {
    let cluster = Cluster::up("e2e-matrix", &[args, &["--sample"]].concat());
    let rows = cluster.assert_connected(test);
    let mut per_path: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &rows {
        *per_path.entry(row["path"].as_str().unwrap()).or_default() += 1;
    }
    assert_eq!(
        rows.len(),
        paths * families * PER_PATH_AND_FAMILY,
        "{per_path:#?}"
    );
    cluster.assert_clean();
    cluster
}

/// From two nodes of one network there are twelve paths each, from the node behind the router nine (no neighbour).
const FROM_ALL: usize = 12 + 12 + 9;

#[test]
fn e2e_matrix_vxlan() {
    if skip_unless_root() {
        return;
    }
    check(&["--routing", "vxlan"], &["--all-nodes"], FROM_ALL, 2);
}

#[test]
fn e2e_matrix_native() {
    if skip_unless_root() {
        return;
    }
    check(&["--routing", "native"], &["--all-nodes"], FROM_ALL, 2);
}

/// Two nodes: no pod is behind the router, but its address there is.
const TWO_NODES: usize = 10;

#[test]
fn e2e_matrix_ipv4_only() {
    if skip_unless_root() {
        return;
    }
    check(&["--ipv4", "--nodes", "2"], &[], TWO_NODES, 1);
}

#[test]
fn e2e_matrix_ipv6_only() {
    if skip_unless_root() {
        return;
    }
    check(
        &["--ipv6", "--nodes", "2", "--routing", "native"],
        &[],
        TWO_NODES,
        1,
    );
}

/// Through the node's network stack instead of past it.
#[test]
fn e2e_matrix_host_stack() {
    if skip_unless_root() {
        return;
    }
    check(
        &["--agent-config", "enable-host-legacy-routing=true"],
        &[],
        12,
        2,
    );
}

#[test]
fn e2e_matrix_host_stack_native() {
    if skip_unless_root() {
        return;
    }
    check(
        &[
            "--routing",
            "native",
            "--agent-config",
            "enable-host-legacy-routing=true",
        ],
        &[],
        12,
        2,
    );
}

/// As on kernels before 6.6.
#[test]
fn e2e_matrix_clsact() {
    if skip_unless_root() {
        return;
    }
    let cluster = check(&["--agent-config", "enable-tcx=false"], &[], 12, 2);
    let status = cluster.agent("node1").healthz().unwrap();
    assert!(status.attach_mode == "Legacy TC", "{}", status.attach_mode);
}
