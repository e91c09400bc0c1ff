//! What a lab may not do in a cluster of somebody else, and what it says then.

use serde_json::{Value, json};
use testkit::Run;

use crate::server::{Manager, Server};
use crate::{items, join, names, ok};

fn node(name: &str, range: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDR": range, "podCIDRs": [range]}}).to_string()
}

/// Runs `lab up` with options of its own; what it says.
#[track_caller]
fn refused(lab: &testkit::LabGuard, args: &[&str]) -> String {
    let run: Run = lab.up_again(args);
    assert!(!run.ok(), "{args:?}: {}", run.stdout);
    run.stderr
}

#[test]
#[ignore = "needs a real API server: cargo xtask test-conformance"]
fn e2e_conformant_refusals() {
    let server = Server::start(Manager::None);
    let config = server.admin();
    let lab = join(
        &server,
        &["--nodes", "1", "--cluster-dns", "none", "--no-agents"],
    )
    .up();
    let joined = server.kubeconfig("lab-owner", Some("system:masters"));
    let joined = joined.to_str().unwrap();
    let before = items(&config, &["nodes"])[0]["metadata"]["uid"].clone();
    let run = lab.lab("down", &["--keep"]);
    assert!(run.ok(), "{}", run.stderr);

    // Kept there: another cluster is refused, and so is one of its own.
    assert_eq!(items(&config, &["nodes"])[0]["metadata"]["uid"], before);
    let said = refused(&lab, &["--nodes", "1"]);
    assert!(
        said.contains("still has its nodes in the cluster at https://127.0.0.1"),
        "{said}"
    );
    // The same comes back to the same nodes.
    let again = lab.up_again(&[
        "--nodes",
        "1",
        "--cluster-dns",
        "none",
        "--no-agents",
        "--kubeconfig",
        joined,
    ]);
    assert!(again.ok(), "{}", again.stderr);
    assert_eq!(items(&config, &["nodes"])[0]["metadata"]["uid"], before);
    let run = lab.lab("down", &[]);
    assert!(
        run.ok() && items(&config, &["nodes"]).is_empty(),
        "{}",
        run.stderr
    );

    let theirs = server.write("theirs.json", &node("node2", "10.99.0.0/24"));
    ok(&config, &["create", "-f", theirs.to_str().unwrap()]);
    let said = refused(&lab, &["--kubeconfig", joined]);
    assert!(
        said.contains("node \"node2\" that is not of this lab"),
        "{said}"
    );
    assert_eq!(
        names(&items(&config, &["nodes"])),
        ["node2"],
        "nothing is half made"
    );

    ok(&config, &["delete", "node", "node2"]);
    let theirs = server.write("theirs.json", &node("elsewhere", "10.244.2.0/25"));
    ok(&config, &["create", "-f", theirs.to_str().unwrap()]);
    let said = refused(&lab, &["--kubeconfig", joined]);
    assert!(
        said.contains("10.244.2.0/25") && said.contains("elsewhere"),
        "{said}"
    );

    let said = refused(&lab, &["--kubeconfig", joined, "--context", "none"]);
    assert!(
        said.contains("no \"none\" in its contexts; there are: real"),
        "{said}"
    );
    let mut away: Value = serde_json::from_slice(&std::fs::read(joined).unwrap()).unwrap();
    away["clusters"][0]["cluster"]["server"] = json!("https://127.0.0.1:9");
    let away = server.write("away.kubeconfig", &away.to_string());
    let said = refused(&lab, &["--kubeconfig", away.to_str().unwrap()]);
    assert!(
        said.contains("the API server at https://127.0.0.1:9"),
        "{said}"
    );
    assert_eq!(names(&items(&config, &["nodes"])), ["elsewhere"]);
}
