//! The Python client, against the whole lab: pods that really run.

use std::process::Command;

use hypha_e2e::cluster::Cluster;

use super::shell::tools;

pub fn all(cluster: &Cluster) {
    let python = tools().join("python-kubernetes/bin/python");
    if !python.is_file() {
        eprintln!(
            "skipped: there is no {}; `cargo xtask setup` makes it",
            python.display()
        );
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/acceptance/client.py");
    let output = Command::new("timeout")
        .args(["90"])
        .arg(python)
        .arg(script)
        .env("KUBECONFIG", cluster.lab.dir().join("kubeconfig"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.ends_with("all well\n"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
