//! How the lab looks after its agents. The agent is a script: what a real one does is tested elsewhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use hypha_lab::leftovers::leftovers;
use testkit::{LabBuilder, LabGuard, skip_unless_root, unique_name, wait_until};

const LIMIT: Duration = Duration::from_secs(20);
const HYPHA: &str = env!("CARGO_BIN_EXE_hypha-lab");

/// Writes a network configuration and waits.
const GOOD: &str = r#"#!/bin/sh
echo "started $K8S_NODE_NAME $*"
echo '{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"none"}]}' > /etc/cni/net.d/05-x.conflist
trap 'echo told to end; exit 0' TERM
while :; do sleep 0.05; done
"#;

fn script(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (dir, path)
}

fn log(lab: &LabGuard, node: &str) -> String {
    lab.lab("logs", &[node]).stdout
}

#[test]
fn lab_agents_are_started_again_held_and_told() {
    if skip_unless_root() {
        return;
    }
    let (_dir, agent) = script(GOOD);
    let lab = LabBuilder::new(HYPHA, "agents").args(&[
        "--nodes",
        "2",
        "--routing",
        "native",
        "--agent-config",
        "debug=true",
        "--cluster-dns",
        "none",
    ]);
    let lab = lab.env("HYPHA_LAB_AGENT", &agent).up();
    let said = log(&lab, "node2");
    for part in [
        "started node2 agent ",
        "--config-map=cilium-config",
        "--k8s-kubeconfig-path=/var/lib/hypha-lab/",
        "--debug=true",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(lab.status()["nodes"][1]["ready"] == true);
    for _ in 0..20 {
        let before = lab.agent_pid("node1").unwrap();
        lab.kill_agent("node1");
        assert_ne!(lab.agent_pid("node1").unwrap(), before);
    }
    assert_eq!(lab.status()["nodes"][0]["agent"]["restarts"], 20);
    lab.stop_agent("node2");
    assert!(log(&lab, "node2").contains("told to end"));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(lab.agent_pid("node2"), None, "it stays stopped");
    lab.start_agent("node2");
    assert!(lab.agent_pid("node2").is_some());
    let cgroup = format!("/proc/{}/cgroup", lab.agent_pid("node1").unwrap());
    wait_until("the agent is in its node's cgroup", LIMIT, || {
        fs::read_to_string(&cgroup)
            .ok()?
            .contains("/node1/agent")
            .then_some(())
    });
    let run = lab.lab("agent", &["stop", "node9"]);
    assert!(
        !run.ok() && run.stderr.contains("no node \"node9\""),
        "{}",
        run.stderr
    );
}

#[test]
fn lab_with_an_agent_that_fails_says_so_and_leaves_nothing() {
    if skip_unless_root() {
        return;
    }
    let (_dir, agent) =
        script("#!/bin/sh\necho INFO hello\necho 'x ERROR the sky has fallen'\nexit 3\n");
    let name = unique_name("bad");
    let up = |agent: &PathBuf| {
        let mut command = Command::new(HYPHA);
        command
            .args([
                "lab",
                "up",
                "--name",
                &name,
                "--nodes",
                "2",
                "--cluster-dns",
                "none",
            ])
            .env("HYPHA_LAB_AGENT", agent);
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = up(&agent);
    assert!(
        said.contains("again and again (exit status: 3), saying: the sky has fallen"),
        "{said}"
    );
    assert_eq!(leftovers(&name.parse().unwrap(), &[]), []);
    let said = up(&PathBuf::from("/no/such/agent"));
    assert!(said.contains("cannot start /no/such/agent"), "{said}");
    assert_eq!(leftovers(&name.parse().unwrap(), &[]), []);
}
