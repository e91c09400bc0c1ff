//! The small kubelet: pods through CNI (a plugin of the tests' own), their processes, their end, and what it says when
//! something is wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use testkit::{LabGuard, skip_unless_root, wait_until};

use crate::network::bare;

const LIMIT: Duration = Duration::from_secs(60);
const LIST: &str = r#"{"cniVersion":"1.1.0","name":"test","plugins":[{"type":"fake-cni","step":1},{"type":"fake-noop"}]}"#;
/// The second of a list: hands on the address it was given.
const NOOP: &str = r#"#!/bin/sh
address=$(grep -o '"address":"[^"]*"' | head -1)
[ -z "$address" ] || echo "{\"cniVersion\":\"1.1.0\",\"ips\":[{$address}]}"
"#;

/// A lab of one node whose network is the test's plugin. The directory holds the plugin.
pub(crate) fn lab(list: &str) -> (LabGuard, tempfile::TempDir) {
    lab_with(list, &[])
}

/// As [`lab`], with more options of `lab up`.
pub(crate) fn lab_with(list: &str, args: &[&str]) -> (LabGuard, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("fake-cni", include_str!("fake-cni.sh")),
        ("fake-noop", NOOP),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let lab = bare("pods")
        .args(&["--nodes", "1"])
        .args(args)
        .env("HYPHA_LAB_CNI_PATH", dir.path())
        .up();
    lab.sh(
        "node1",
        &format!("mkdir -p /run/fakecni && cat > /etc/cni/net.d/10-test.conflist <<'X'\n{list}\nX"),
    );
    (lab, dir)
}

pub(crate) const ONE_PLUGIN: &str =
    r#"{"cniVersion":"1.1.0","name":"test","plugins":[{"type":"fake-cni","step":1}]}"#;

fn pod(name: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 2\n  containers:\n  - {container}\n"
    )
}

fn status_of(lab: &LabGuard, name: &str) -> serde_json::Value {
    let status = lab.status();
    status["pods"]
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["name"] == name)
        .cloned()
        .unwrap_or_default()
}

#[test]
fn lab_pod_lives_and_dies_through_cni() {
    if skip_unless_root() {
        return;
    }
    let (lab, _dir) = lab(ONE_PLUGIN);
    lab.apply(&pod("web", "{name: c, image: hypha/echo}"));
    let client = "{name: c, image: host, command: [sh, -c, 'echo hello $WHO; exec sleep 1000'], env: [{name: WHO, value: you}], workingDir: /usr}";
    lab.apply(&pod("client", client));
    let ip = lab.pod_ips("web")[0].clone();
    let answer = lab.sh("client", &format!("curl -s http://{ip}:8080/"));
    assert!(
        answer.contains("Hostname: web")
            && answer.contains(&format!("RemoteAddr: {}:", lab.pod_ips("client")[0])),
        "{answer}"
    );
    // Namespaces of its own.
    assert_eq!(
        lab.sh(
            "client",
            "hostname; pwd; ls /sys/class/net; ls /run; cat /proc/1/comm"
        ),
        "client\n/usr\neth0\nlo\nsecrets\nhypha-lab\n"
    );
    assert_eq!(lab.sh("client", "echo $WHO $HOSTNAME").trim(), "you client");
    assert!(lab.sh("client", "cat /etc/hosts").contains("client"));
    assert_eq!(lab.lab("logs", &["client"]).stdout, "hello you\n");
    // The protocol.
    let log = lab.sh("node1", "cat /run/fakecni/log");
    let add = log
        .lines()
        .find(|l| l.starts_with("ADD") && l.contains("K8S_POD_NAME=web"))
        .unwrap();
    for part in [
        "if=eth0",
        "netns=/run/netns/cni-",
        "K8S_POD_NAMESPACE=default",
        "K8S_POD_UID=",
        "K8S_POD_INFRA_CONTAINER_ID=",
        "\"step\":1",
        "\"name\":\"test\"",
    ] {
        assert!(add.contains(part), "{part} in {add}");
    }
    // The end: DEL with the result of ADD, nothing stays.
    lab.sh("node1", "touch /run/fakecni/stuck");
    let began = Instant::now();
    lab.delete_pod("web");
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "the built-in server ends at once: {:?}",
        began.elapsed()
    );
    lab.delete_pod("client");
    let log = lab.sh("node1", "cat /run/fakecni/log");
    let dels: Vec<&str> = log.lines().filter(|l| l.starts_with("DEL")).collect();
    assert_eq!(
        dels.len(),
        3,
        "one of them was refused and repeated: {dels:?}"
    );
    assert!(dels.iter().all(|d| d.contains("\"prevResult\"")));
    assert_eq!(
        lab.sh(
            "node1",
            "ls /run/netns /run/fakecni/ips; find /sys/fs/cgroup/kubepods -name 'pod*'"
        ),
        "/run/fakecni/ips:\n\n/run/netns:\n"
    );
    assert!(
        fs::read_dir(lab.dir().join("pods"))
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn lab_plugins_of_a_list_are_chained() {
    if skip_unless_root() {
        return;
    }
    let (lab, _dir) = lab(LIST);
    lab.apply(&pod("web", "{name: c, image: hypha/echo}"));
    assert_eq!(lab.pod_ips("web"), ["10.244.1.2"]);
}

#[test]
fn lab_full_pool_is_said_in_an_event_and_recovers() {
    if skip_unless_root() {
        return;
    }
    let (lab, _dir) = lab(ONE_PLUGIN);
    lab.sh("node1", "touch /run/fakecni/full");
    assert!(
        lab.try_apply(&pod("web", "{name: c, image: hypha/echo}"))
            .ok()
    );
    let events = || lab.get("/api/v1/namespaces/default/events");
    wait_until("an event says it", LIMIT, || {
        let text = events();
        (text.contains("FailedCreatePodSandBox")
            && text.contains("no address left in pool default"))
        .then_some(())
    });
    lab.sh("node1", "rm /run/fakecni/full");
    wait_until("the pod starts", LIMIT, || {
        (status_of(&lab, "web")["ready"] == 1).then_some(())
    });
    assert_eq!(
        lab.sh("node1", "ls /run/netns | wc -l").trim(),
        "1",
        "failed attempts leave no namespace"
    );
}

#[test]
fn lab_restart_policies_and_exit_codes() {
    if skip_unless_root() {
        return;
    }
    let (lab, _dir) = lab(ONE_PLUGIN);
    let once =
        "{name: c, image: host, command: [sh, -c, 'echo one; exit 3']}\n  restartPolicy: Never";
    let good = "{name: c, image: host, command: ['true']}\n  restartPolicy: OnFailure";
    let again = "{name: c, image: host, command: [sh, -c, 'echo again; exit 1']}";
    let bad = "{name: c, image: host, command: [/no/such/program]}";
    for (name, container) in [
        ("once", once),
        ("good", good),
        ("again", again),
        ("bad", bad),
    ] {
        assert!(lab.try_apply(&pod(name, container)).ok());
    }
    wait_until("exit 3 ends it", LIMIT, || {
        (status_of(&lab, "once")["phase"] == "Failed").then_some(())
    });
    wait_until("exit 0 ends it", LIMIT, || {
        (status_of(&lab, "good")["phase"] == "Succeeded").then_some(())
    });
    wait_until("both gave their networks back", LIMIT, || {
        (lab.sh("node1", "ls /run/fakecni/ips | wc -l").trim() == "2").then_some(())
    });
    wait_until("it starts again", LIMIT, || {
        (status_of(&lab, "again")["restarts"].as_u64()? >= 2).then_some(())
    });
    wait_until("it cannot start", LIMIT, || {
        (status_of(&lab, "bad")["waiting"] == "CrashLoopBackOff").then_some(())
    });
    assert!(
        lab.lab("logs", &["again"])
            .stdout
            .starts_with("again\nagain\n")
    );
}

#[test]
fn lab_wrong_pods_say_what_is_wrong() {
    if skip_unless_root() {
        return;
    }
    let (lab, _dir) = lab(ONE_PLUGIN);
    assert!(
        lab.try_apply(&pod(
            "image",
            "{name: c, image: 'ghcr.io/nobody/nothing:1.27'}"
        ))
        .ok()
    );
    wait_until("no such image", LIMIT, || {
        (status_of(&lab, "image")["waiting"] == "ErrImagePull").then_some(())
    });
    lab.delete_pod("image");
    let cases = [
        ("a: [", "-:1:"),
        (
            "apiVersion: v1\nkind: Pot\nmetadata: {name: x}\n",
            "-:1: unknown kind \"Pot\"",
        ),
        (
            "apiVersion: foo/v9\nkind: Pod\nmetadata: {name: x}\n",
            "unknown kind",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: c, image: host, comand: [x]}]}\n",
            "comand",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: X}\nspec: {containers: [{name: c, image: host}]}\n",
            "metadata.name",
        ),
        ("---\n# nothing\n", "there is no object"),
    ];
    for (yaml, part) in cases {
        let run = lab.try_apply(yaml);
        assert!(
            !run.ok() && run.stderr.contains(part),
            "{yaml:?}: {}{}",
            run.stdout,
            run.stderr
        );
        assert_eq!(run.stderr.lines().count(), 1, "one line: {}", run.stderr);
    }
}

#[test]
fn lab_pods_that_do_not_end_are_killed() {
    if skip_unless_root() {
        return;
    }
    let (lab, _dir) = lab(ONE_PLUGIN);
    lab.apply(&pod("deaf", "{name: c, image: host, command: [sh, -c, 'trap : TERM; while :; do sleep 1 & wait; done']}"));
    let began = Instant::now();
    lab.delete_pod("deaf");
    assert!(
        (2..8).contains(&began.elapsed().as_secs()),
        "{:?}",
        began.elapsed()
    );
    // Deleted while its network is still refused.
    lab.sh("node1", "touch /run/fakecni/full");
    assert!(
        lab.try_apply(&pod("early", "{name: c, image: hypha/echo}"))
            .ok()
    );
    lab.delete_pod("early");
    // The same name again, at once.
    lab.sh("node1", "rm /run/fakecni/full");
    lab.apply(&pod("early", "{name: c, image: hypha/echo}"));
    assert_eq!(lab.sh("early", "hostname").trim(), "early");
}

/// The process of which a pod's first process is a copy.
fn starter(lab: &LabGuard) -> i32 {
    let stat = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let records = fs::read_dir(lab.dir().join("pods")).unwrap().flatten();
    let text = fs::read_to_string(records.last().unwrap().path()).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    let first = record["containers"][0]["process"]["pid"].to_string();
    let stat = stat(&first);
    let parent = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap();
    let line = fs::read_to_string(format!("/proc/{parent}/cmdline")).unwrap();
    assert_eq!(line.rsplit('\0').nth(1), Some("starter"), "{line:?}");
    parent.parse().unwrap()
}

#[test]
fn lab_pods_outlive_their_nodes_starter() {
    if skip_unless_root() {
        return;
    }
    let (lab, _dir) = lab(ONE_PLUGIN);
    lab.apply(&pod("old", "{name: c, image: hypha/echo}"));
    let first = starter(&lab);
    let kill = || {
        let pid = nix::unistd::Pid::from_raw(starter(&lab));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    };
    kill();
    // Those that are there go on, new ones start from a new one.
    lab.apply(&pod("new", "{name: c, image: hypha/echo}"));
    lab.delete_pod("old");
    assert_ne!(starter(&lab), first);
    let ip = lab.pod_ips("new")[0].clone();
    let answer = lab.sh("node1", &format!("curl -s http://{ip}:8080/"));
    assert!(answer.contains("Hostname: new"), "{answer}");
    assert_eq!(status_of(&lab, "new")["restarts"], 0);
    kill();
    // One whose starter is gone is seen to end, and starts again.
    lab.sh("new", "kill 1");
    wait_until("it starts again", LIMIT, || {
        (status_of(&lab, "new")["restarts"].as_u64()? == 1).then_some(())
    });
    assert_eq!(lab.sh("new", "hostname").trim(), "new");
}
