//! A second client that has nothing in common with `kubectl`: the Python package `kubernetes`.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::server::Running;
use crate::{folder, tools};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_watches_patches_and_applies() {
    let python = tools().join("python-kubernetes/bin/python");
    if !python.is_file() {
        eprintln!(
            "skipped: there is no {}; `cargo xtask setup` makes it",
            python.display()
        );
        return;
    }
    let running = Running::start().await;
    let run = Command::new(python)
        .arg(folder().join("client.py"))
        .arg(running.kubeconfig())
        .env_clear()
        .env("HOME", running.home.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(120), run)
        .await
        .unwrap()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && out.trim_end().ends_with("all well"),
        "{out}\n{err}"
    );
}
