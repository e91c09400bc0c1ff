//! Pods that look after their node: its network, mounts and files, before there is a pod network; and this project's own image.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hypha_lab::state::StateDir;
use nix::sys::signal::Signal;
use testkit::{skip_unless_root, wait_until};

use crate::kubectl::LIMIT;
use crate::network::bare;

const KEEPER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: keeper}
spec:
  nodeName: node1
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  initContainers:
  - name: mounts
    image: busybox
    command: [sh, -c, 'cd /var/run/keeper && mkdir fs cgroup && mount -t tmpfs kept fs && mount -t cgroup2 none cgroup']
    securityContext: {privileged: true}
    volumeMounts: [{name: run, mountPath: /var/run/keeper, mountPropagation: Bidirectional}]
  containers:
  - name: main
    image: busybox
    command: [sleep, '10000']
    startupProbe: {httpGet: {host: 127.0.0.1, path: /, port: 8080}, periodSeconds: 30, failureThreshold: 1}
    securityContext: {capabilities: {drop: [ALL], add: [NET_ADMIN]}}
    volumeMounts:
    - {name: run, mountPath: /var/run/keeper, mountPropagation: HostToContainer}
    - {name: run, mountPath: /alone}
    - {name: sysctls, mountPath: /host/proc/sys/net}
    - {name: bpf, mountPath: /bpf}
  - {name: web, image: hypha/echo}
  volumes:
  - {name: run, hostPath: {path: /var/run/keeper, type: DirectoryOrCreate}}
  - {name: sysctls, hostPath: {path: /proc/sys/net, type: Directory}}
  - {name: bpf, hostPath: {path: /sys/fs/bpf}}
"#;

#[test]
fn lab_pods_of_a_node_share_its_mounts_as_they_ask() {
    if skip_unless_root() {
        return;
    }
    let lab = bare("keeper").args(&["--nodes", "1"]).up();
    lab.apply(KEEPER);
    assert!(lab.status()["nodes"][0]["ready"] == false, "no network yet");
    // What an init container mounted stays, on the node and for the next container.
    let kept = |at: &str| format!("grep -c ' {at} .* tmpfs kept ' /proc/self/mountinfo");
    assert_eq!(lab.sh("node1", &kept("/run/keeper/fs")), "1\n");
    assert_eq!(lab.sh("keeper", &kept("/run/keeper/fs")), "1\n");
    let groups = lab.sh("keeper", "ls /run/keeper/cgroup");
    assert!(groups.contains("kubepods"), "the node's own: {groups}");
    // What the node mounts later comes where that is asked for.
    lab.sh(
        "node1",
        "cd /run/keeper && mkdir late && mount -t tmpfs late late && touch late/here",
    );
    assert!(
        lab.exec("keeper", &["test", "-e", "/var/run/keeper/late/here"])
            .ok()
    );
    assert!(!lab.exec("keeper", &["test", "-e", "/alone/late/here"]).ok());
    let mine = "for p in /proc/[0-9]*; do ! grep -q ^sleep $p/comm || grep CapEff $p/status; done; ls -d /bpf; cat /host/proc/sys/net/ipv4/ip_forward";
    assert_eq!(
        lab.sh("keeper", mine),
        "CapEff:\t0000000000001000\n/bpf\n1\n"
    );
    // Nodes write to their own files alone.
    lab.sh("node1", "touch /opt/cni/bin/of-the-node /etc/of-the-node");
    assert!(
        !Path::new("/opt/cni/bin/of-the-node").exists() && !Path::new("/etc/of-the-node").exists()
    );
    lab.delete_pod("keeper");
    assert_eq!(lab.sh("node1", &kept("/run/keeper/fs")), "1\n");
    let own = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!own.contains("keeper"), "{own}");
}

/// Says by which name and as which process it was started.
const PROGRAM: &str = "#!/bin/sh\necho \"$0 $1 is $$\"\n[ \"$1\" != agent ] || exec sleep 10000\n";

#[test]
fn lab_own_image_has_its_programs_and_starts_again_at_once() {
    if skip_unless_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program");
    fs::write(&program, PROGRAM).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let lab = bare("own")
        .args(&["--nodes", "1", "--max-restart-pause", "0"])
        .env("HYPHA_LAB_AGENT", &program)
        .up();
    let pod = |name: &str, rest: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: node1, hostNetwork: true, containers: [{{name: c, image: 'ghcr.io/hypha/hypha:v1', {rest}}}]}}}}"
        )
    };
    lab.apply(&pod("own", "args: [agent]"));
    assert_eq!(
        lab.lab("logs", &["own"]).stdout,
        "/usr/local/bin/hypha agent is 1\n"
    );
    assert_eq!(
        lab.sh("own", "cilium-dbg x | sed 's/ is .*//'"),
        "/usr/local/bin/cilium-dbg x\n"
    );
    let restarts = || lab.status()["pods"][0]["restarts"].as_u64();
    for times in 1..=20 {
        let record = StateDir::of(&lab.name().parse().unwrap()).read_pod("default", "own");
        let process = record.unwrap().unwrap().containers[0].process.clone();
        assert!(process.signal(Signal::SIGKILL));
        wait_until("it runs again", LIMIT, || {
            (restarts()? == times).then_some(())
        });
    }
    assert!(lab.try_apply(&pod("wrong", "command: [/no/such]")).ok());
    wait_until("why it does not start is said", LIMIT, || {
        let text = lab.get("/api/v1/namespaces/default/events");
        text.contains("cannot start \\\"/no/such\\\"").then_some(())
    });
}
