//! The network of a lab without agents: who reaches whom, and that nothing stays.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use hypha_lab::leftovers::{leftovers, namespaces_of};
use hypha_lab::spec::LabName;
use hypha_lab::state::StateDir;
use testkit::{LabBuilder, LabGuard, skip_unless_root, unique_name, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn bare(prefix: &str) -> LabBuilder {
    LabBuilder::new(env!("CARGO_BIN_EXE_hypha-lab"), prefix).args(&["--no-agents"])
}

fn lab_name(lab: &LabGuard) -> LabName {
    lab.name().parse().unwrap()
}

/// Network namespaces of a running lab.
fn namespaces(name: &LabName) -> Vec<u64> {
    namespaces_of(&StateDir::of(name).read().unwrap().unwrap())
}

/// Links and mounts of the root namespaces: a lab changes neither.
fn root_view() -> (Vec<String>, usize) {
    let links = std::fs::read_dir("/sys/class/net")
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut links: Vec<String> = links.collect();
    links.sort();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    (
        links,
        mounts.lines().filter(|l| l.contains("hypha-lab")).count(),
    )
}

fn ping(lab: &LabGuard, from: &str, to: &str) {
    let run = lab.exec(from, &["ping", "-c1", "-W2", "-q", to]);
    assert!(run.ok(), "{from} → {to}: {}{}", run.stdout, run.stderr);
}

#[test]
fn lab_everybody_reaches_everybody_and_nothing_stays() {
    if skip_unless_root() {
        return;
    }
    let before = root_view();
    let lab = bare("net").up();
    let name = lab_name(&lab);
    let known = namespaces(&name);
    assert_eq!(known.len(), 5);
    assert!(
        !leftovers(&name, &known).is_empty(),
        "the check sees a lab that runs"
    );
    let node_addresses = [
        "192.168.10.100",
        "192.168.10.101",
        "192.168.20.100",
        "fd00:10::100",
        "fd00:10::101",
        "fd00:20::100",
    ];
    let outside = [
        "192.168.10.200",
        "192.168.20.200",
        "10.10.1.200",
        "10.10.2.200",
        "fd00:10::200",
        "fd00:10:1::200",
        "fd00:10:2::200",
    ];
    for from in ["node1", "node2", "node3"] {
        for to in node_addresses.iter().chain(&outside) {
            ping(&lab, from, to);
        }
    }
    for to in node_addresses {
        ping(&lab, "router", to);
    }
    assert_eq!(root_view(), before, "nothing in the root namespaces");
    lab.down();
    assert_eq!(leftovers(&name, &known), []);
}

#[test]
fn lab_machines_have_views_of_their_own() {
    if skip_unless_root() {
        return;
    }
    let lab = bare("views").args(&["--nodes", "2"]).up();
    lab.sh("node1", "mkdir -p /var/run/cilium /sys/fs/bpf/tc && echo x > /run/cilium/mark && echo x > /etc/cni/net.d/mark && echo x > /etc/mark");
    for file in [
        "/run/cilium/mark",
        "/etc/cni/net.d/mark",
        "/etc/mark",
        "/sys/fs/bpf/tc",
    ] {
        lab.sh("node1", &format!("test -e {file}"));
        assert!(
            !lab.exec("node2", &["test", "-e", file]).ok(),
            "{file} is node1's alone"
        );
    }
    assert!(
        !std::path::Path::new("/etc/mark").exists(),
        "the host's /etc stays as it is"
    );
    assert_eq!(
        lab.sh(
            "node2",
            "cat /proc/sys/kernel/hostname; cat /proc/sys/net/ipv4/ip_forward; ls /sys/class/net"
        ),
        "node2\n1\neth0\nlo\n"
    );
    assert_eq!(lab.exec("node1", &["/no/such/program"]).code, 127);
    assert_eq!(lab.exec("node1", &["sh", "-c", "exit 7"]).code, 7);
    assert!(
        lab.sh("node1", "cat /proc/self/cgroup")
            .contains("0::/exec")
    );
}

#[test]
fn lab_outside_host_says_who_asks_and_echoes() {
    if skip_unless_root() {
        return;
    }
    let lab = bare("outside").args(&["--nodes", "3"]).up();
    let asked = lab.sh("node3", "curl -sg http://10.10.1.200:8080/json");
    assert!(asked.contains("\"client\":\"192.168.20.100\""), "{asked}");
    let asked = lab.sh("node1", "curl -sg 'http://[fd00:10:2::200]/'");
    assert!(
        asked.contains("RemoteAddr: [fd00:10::100]:") && asked.contains("Hostname: router"),
        "{asked}"
    );
    let udp = r#"exec 3<>/dev/udp/10.10.2.200/8080; echo >&3; timeout 2 head -c14 <&3; exec 4<>/dev/udp/fd00:10:1::200/7; echo 6 >&4; timeout 2 head -1 <&4"#;
    let run = lab.exec("node1", &["bash", "-c", udp]);
    assert_eq!(run.stdout, "192.168.10.1006\n", "{}", run.stderr);
    assert_eq!(
        lab.sh("node2", "curl -s 10.10.2.200/bytes/100000 | wc -c")
            .trim(),
        "100000"
    );
}

#[test]
fn lab_one_family_alone() {
    if skip_unless_root() {
        return;
    }
    let v4 = bare("four").args(&["--nodes", "1", "--ipv4"]).up();
    ping(&v4, "node1", "10.10.1.200");
    assert_eq!(v4.sh("node1", "ip -6 addr show dev eth0"), "");
    drop(v4);
    let v6 = bare("six").args(&["--nodes", "3", "--ipv6"]).up();
    ping(&v6, "node3", "fd00:10::101");
    ping(&v6, "node1", "fd00:10:2::200");
    assert_eq!(v6.sh("node1", "ip -4 addr show dev eth0"), "");
    assert!(
        v6.status()["apiUrlInside"]
            .as_str()
            .unwrap()
            .contains("[fd00:10::100]:6443")
    );
    v6.sh(
        "node3",
        "curl -sfgk 'https://[fd00:10::100]:6443/readyz' >/dev/null",
    );
}

#[test]
fn lab_several_side_by_side() {
    if skip_unless_root() {
        return;
    }
    let (a, b) = (
        bare("a").args(&["--nodes", "1"]).up(),
        bare("b").args(&["--nodes", "1"]).up(),
    );
    a.sh("node1", "touch /run/a");
    assert!(!b.exec("node1", &["test", "-e", "/run/a"]).ok());
    let name = lab_name(&a);
    let known = namespaces(&name);
    a.down();
    assert_eq!(leftovers(&name, &known), []);
    ping(&b, "node1", "192.168.10.200");
    let again = b.lab("up", &["--no-agents"]);
    assert!(
        !again.ok() && again.stderr.contains("runs already"),
        "{}",
        again.stderr
    );
    ping(&b, "node1", "192.168.10.200");
}

#[test]
fn lab_cleans_up_after_a_crash() {
    if skip_unless_root() {
        return;
    }
    let lab = bare("crash").args(&["--nodes", "2"]).up();
    let name = lab_name(&lab);
    let known = namespaces(&name);
    let supervisor = StateDir::of(&name).read().unwrap().unwrap().supervisor;
    assert!(supervisor.signal(nix::sys::signal::Signal::SIGKILL));
    assert!(supervisor.wait_gone(LIMIT));
    assert!(lab.lab("list", &[]).stdout.contains("crashed"));
    let run = lab.lab("up", &["--no-agents", "--nodes", "1"]);
    assert!(
        run.ok() && run.stdout.contains("cleaned what an earlier lab"),
        "{}{}",
        run.stdout,
        run.stderr
    );
    let second = namespaces(&name);
    let old: Vec<u64> = known.into_iter().filter(|n| !second.contains(n)).collect();
    let still = leftovers(&name, &old);
    assert!(
        !still
            .iter()
            .any(|l| matches!(l, hypha_lab::leftovers::Leftover::Namespace { .. })),
        "{still:?}"
    );
    lab.down();
    assert_eq!(leftovers(&name, &second), []);
}

#[test]
fn lab_api_is_for_the_owner_alone() {
    if skip_unless_root() {
        return;
    }
    let lab = bare("owner").args(&["--nodes", "1"]).up();
    assert!(lab.get("/api/v1/nodes").contains("node1"));
    let server = lab.status()["apiUrl"].as_str().unwrap().to_owned();
    let stranger = |path: &str| {
        let mut command = Command::new("curl");
        command.args(["-sk", "--max-time", "5", &format!("{server}{path}")]);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert_eq!(stranger("/readyz"), "ok");
    let refused = stranger("/api/v1/nodes");
    assert!(
        refused.contains("Unauthorized") && !refused.contains("node1"),
        "{refused}"
    );
    let kubeconfig = fs::metadata(lab.dir().join("kubeconfig")).unwrap();
    assert_eq!(kubeconfig.permissions().mode() & 0o777, 0o600);
}

/// `up` interrupted at a random moment, by Ctrl-C or by being killed itself.
#[test]
fn lab_interrupted_up_leaves_nothing() {
    if skip_unless_root() {
        return;
    }
    for (millis, signal) in [
        (0, "INT"),
        (5, "INT"),
        (10, "KILL"),
        (15, "INT"),
        (20, "TERM"),
        (40, "KILL"),
        (70, "INT"),
        (110, "TERM"),
        (150, "INT"),
    ] {
        let name: LabName = unique_name("int").parse().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hypha-lab"));
        command.args([
            "lab",
            "--name",
            name.as_str(),
            "up",
            "--nodes",
            "5",
            "--no-agents",
        ]);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
        let status = child.wait().unwrap();
        if status.success() {
            // It was faster.
            let down = Command::new(env!("CARGO_BIN_EXE_hypha-lab"))
                .args(["lab", "--name", name.as_str(), "down"])
                .status();
            assert!(down.unwrap().success());
        }
        wait_until(
            &format!(
                "SIG{signal} after {millis} ms leaves nothing: {:?}",
                leftovers(&name, &[])
            ),
            LIMIT,
            || leftovers(&name, &[]).is_empty().then_some(()),
        );
    }
}

#[test]
fn lab_messages_for_people() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_hypha-lab"))
            .arg("lab")
            .args(args)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let name = unique_name("absent");
    let (code, text) = run(&["status", "--name", &name]);
    assert!(
        code == Some(1) && text.contains("is not running") && text.lines().count() == 1,
        "{text}"
    );
    let (code, text) = run(&["up", "--nodes", "99"]);
    assert!(
        code == Some(2) && text.contains("99 is not in 1..=20"),
        "{text}"
    );
    let (code, _) = run(&["down", "--name", &name]);
    assert_eq!(code, Some(0), "down of what is not there is fine");
}
