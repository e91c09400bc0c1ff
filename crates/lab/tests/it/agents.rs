//! How the lab looks after agents and operator: pods of the chart. The program in them is a script: what a real one does is
//! tested elsewhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use hypha_lab::leftovers::leftovers;
use testkit::{LabBuilder, LabGuard, skip_unless_root, unique_name, wait_until};

use crate::kubectl::LIMIT;

const HYPHA: &str = env!("CARGO_BIN_EXE_hypha-lab");

/// Does a node's steps, and then what agent and operator do: writes a network configuration, says that it is well, and waits.
const GOOD: &str = r#"#!/bin/sh
[ "$1" != node-setup ] || exit 0
echo "started $K8S_NODE_NAME $*"
token=/var/run/secrets/kubernetes.io/serviceaccount/token
curl -sk -o /dev/null -w 'API server: %{http_code}\n' -H "Authorization: Bearer $(cat $token)" \
    "https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/api/v1/nodes"
port=9234
if [ "$1" = agent ]; then
    port=9879
    echo '{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"none"}]}' > /host/etc/cni/net.d/05-x.conflist
fi
LAB lab internal serve --http $port --echo $((port + 1000)) --whoami $((port + 2000)) &
trap 'echo told to end; exit 0' TERM
while :; do sleep 0.05; done
"#;

fn script(text: &str) -> (tempfile::TempDir, PathBuf) {
    // Containers have a /tmp of their own, and the build may stand below it.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (path, program) = (dir.path().join("program"), dir.path().join("lab"));
    fs::hard_link(HYPHA, &program)
        .or_else(|_| fs::copy(HYPHA, &program).map(drop))
        .unwrap();
    fs::write(&path, text.replace("LAB", program.to_str().unwrap())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (dir, path)
}

fn log(lab: &LabGuard, node: &str) -> String {
    lab.lab("logs", &[node]).stdout
}

#[test]
fn lab_agents_are_started_again_stopped_and_told() {
    if skip_unless_root() {
        return;
    }
    let (_dir, program) = script(GOOD);
    let lab = LabBuilder::new(HYPHA, "agents").args(&["--nodes", "2", "--routing", "native"]);
    let lab = lab.args(&["--agent-config", "debug=true", "--cluster-dns", "none"]);
    // What stands in for an agent makes no place for a proxy.
    let lab = lab.args(&["--agent-config", "enable-l7-proxy=false"]);
    let lab = lab.args(&["--max-restart-pause", "0"]);
    let lab = lab.env("HYPHA_LAB_AGENT", &program).up();
    let said = log(&lab, "node2");
    for part in [
        "started node2 agent ",
        "--config-map=cilium-config",
        "API server: 200",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let settings = lab.get("/api/v1/namespaces/kube-system/configmaps/cilium-config");
    let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
    for (key, value) in [
        ("debug", "true"),
        ("routing-mode", "native"),
        ("devices", "eth0"),
    ] {
        assert_eq!(settings["data"][key], value);
    }
    assert!(lab.status()["nodes"][1]["ready"] == true);
    let pod = lab.status()["nodes"][0]["agent"]["pod"].clone();
    for _ in 0..20 {
        let before = lab.agent_pid("node1").unwrap();
        lab.kill_agent("node1");
        assert_ne!(lab.agent_pid("node1").unwrap(), before);
    }
    let agent = || lab.status()["nodes"][0]["agent"].clone();
    wait_until("all of them are counted", LIMIT, || {
        (agent()["restarts"] == 20).then_some(())
    });
    assert_eq!(agent()["pod"], pod, "in the same pod");
    let cgroup = format!("/proc/{}/cgroup", lab.agent_pid("node1").unwrap());
    let cgroup = fs::read_to_string(cgroup).unwrap();
    assert!(cgroup.contains("/node1/kubepods/pod"), "{cgroup}");
    lab.stop_agent("node2");
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(lab.agent_pid("node2"), None, "it stays stopped");
    lab.start_agent("node2");
    assert!(lab.agent_pid("node2").is_some());
    let run = lab.lab("agent", &["restart", "node1"]);
    assert!(
        run.ok() && agent()["pod"] != pod,
        "another pod: {}",
        run.stderr
    );
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
    let (_dir, program) =
        script("#!/bin/sh\necho INFO hello\necho 'x ERROR the sky has fallen'\nexit 3\n");
    let name = unique_name("bad");
    let up = |program: &Path, more: &[&str]| {
        let mut command = Command::new(HYPHA);
        command
            .args(["lab", "up", "--name", &name, "--nodes", "2"])
            .args(["--cluster-dns", "none"])
            .args(more)
            .env("HYPHA_LAB_AGENT", program);
        let output = command.output().unwrap();
        assert!(!output.status.success());
        assert_eq!(leftovers(&name.parse().unwrap(), &[]), []);
        String::from_utf8(output.stderr).unwrap()
    };
    let said = up(&program, &[]);
    assert!(
        said.contains("ends again and again (exit code 3), saying: the sky has fallen"),
        "{said}"
    );
    let said = up(Path::new("/no/such/program"), &[]);
    assert!(
        said.contains("does not start") && said.contains("/no/such/program"),
        "{said}"
    );
    let said = up(&program, &["--agent-config", "mtu=x"]);
    assert!(said.contains("mtu=\"x\" is not accepted"), "{said}");
}
