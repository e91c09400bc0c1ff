//! The agent in a container of a real runtime, with what the chart's DaemonSet grants it and no more.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hypha_e2e::cluster::{Cluster, pod_yaml};
use serde_json::{Value, json};
use testkit::{skip_unless_root, wait_until};

const LIMIT: Duration = Duration::from_secs(30);
const NODE: &str = "node2";
/// Where runtimes keep what they know.
const STATE: &str = "/run/oci";
/// Paths of /proc and /sys that container engines hide from containers that are not privileged, and those that are read-only.
const MASKED: [&str; 6] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Programs that run containers, with what they need where nobody delegates control groups.
fn runtimes() -> Vec<Vec<&'static str>> {
    let all = [vec!["crun", "--cgroup-manager=disabled"], vec!["runc"]];
    let there = |words: &Vec<&str>| {
        let run = Command::new(words[0]).arg("--version").output();
        run.is_ok_and(|out| out.status.success())
    };
    all.into_iter().filter(there).collect()
}

#[test]
#[ignore = "needs a container runtime: cargo xtask test-conformance"]
fn e2e_conformant_container() {
    if skip_unless_root() {
        return;
    }
    let runtimes = runtimes();
    if runtimes.is_empty() {
        println!("skipped: neither crun nor runc is installed");
        return;
    }
    let cluster = Cluster::up("e2e-oci", &["--nodes", "2", "--sample"]);
    cluster.lab.stop_agent(NODE);
    wait_until("the agent's end", LIMIT, || {
        cluster.agent_process(NODE).is_none().then_some(())
    });
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    root(&dir.path().join("rootfs"));
    let config = bundle(&cluster, dir.path());
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    for (number, runtime) in runtimes.iter().enumerate() {
        if number > 0 {
            // Nothing to take over: maps and programs are made anew.
            cluster
                .lab
                .sh(NODE, "rm -rf /sys/fs/bpf/cilium /sys/fs/bpf/tc");
        }
        runs(&cluster, runtime, dir.path(), number);
    }
    cluster.lab.start_agent(NODE);
    cluster.wait_replaced(NODE, None);
    cluster.assert_clean();
}

fn call<'a>(runtime: &[&'a str], words: &[&'a str]) -> Vec<&'a str> {
    [runtime, &["--root", STATE], words].concat()
}

/// The agent starts, connects pods, and answers in its container.
fn runs(cluster: &Cluster, runtime: &[&str], bundle: &Path, number: usize) {
    let bundle = bundle.to_str().unwrap();
    let mut command = cluster
        .lab
        .exec_command(NODE, &call(runtime, &["run", "--bundle", bundle, "agent"]));
    let log = fs::File::create(Path::new(bundle).join("log")).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    let mut child = Ends(command.spawn().unwrap());
    let said = || fs::read_to_string(Path::new(bundle).join("log")).unwrap_or_default();
    wait_until("the agent in its container", LIMIT, || {
        let ended = child.0.try_wait().unwrap();
        assert!(ended.is_none(), "{runtime:?}: {}", said());
        let run = cluster.lab.exec(
            NODE,
            &["curl", "-sf", "-m", "2", "http://127.0.0.1:9879/healthz"],
        );
        run.ok().then_some(())
    });
    let pod = format!("late-{number}");
    cluster.lab.apply(&pod_yaml(&pod, NODE));
    cluster.assert_connected(&[]);
    let run = cluster.lab.exec(
        NODE,
        &call(
            runtime,
            &["exec", "agent", "cilium-dbg", "status", "--brief"],
        ),
    );
    assert_eq!(run.stdout.trim(), "OK", "{runtime:?}: {}", said());
    cluster.lab.delete_pod(&pod);
    cluster
        .lab
        .exec(NODE, &call(runtime, &["kill", "agent", "TERM"]));
    wait_until("the container's end", LIMIT, || {
        child.0.try_wait().unwrap().map(drop)
    });
    assert!(!said().contains("WARN"), "{runtime:?}: {}", said());
}

/// Killed when dropped: the container goes with its runtime's process.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the image has: the programs, their other names, and the libraries that they are linked with.
fn root(root: &Path) {
    for dir in [
        "proc",
        "sys",
        "dev",
        "etc",
        "tmp",
        "run",
        "var/run",
        "host",
        "usr/local/bin",
    ] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let hypha = hypha_e2e::program("hypha");
    let out = Command::new("ldd").arg(&hypha).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let libraries = text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(|path| (Path::new(path).to_owned(), path.trim_start_matches('/')));
    for (from, to) in libraries {
        let to = root.join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    }
    let bin = root.join("usr/local/bin");
    fs::copy(&hypha, bin.join("hypha")).unwrap();
    fs::copy(hypha_e2e::program("hypha-cni"), bin.join("hypha-cni")).unwrap();
    std::os::unix::fs::symlink("hypha", bin.join("cilium-dbg")).unwrap();
}

/// A container as a kubelet would ask a runtime for it: the agent's of the DaemonSet.
fn bundle(cluster: &Cluster, dir: &Path) -> Value {
    let sets = cluster.list("/apis/apps/v1/namespaces/kube-system/daemonsets");
    let pod = &sets[0]["spec"]["template"]["spec"];
    assert_eq!(pod["hostNetwork"], true, "{pod}");
    let container = &pod["containers"][0];
    let security = &container["securityContext"];
    assert!(security["privileged"].is_null(), "{security}");
    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(security["seccompProfile"]["type"], "Unconfined");

    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let words = [list(&container["command"]), list(&container["args"])].concat();
    let mut env =
        vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    for one in list(&container["env"]) {
        let value = match one["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("spec.nodeName") => NODE,
            Some("metadata.namespace") => "kube-system",
            Some(other) => panic!("the test does not know {other}"),
            None => one["value"].as_str().unwrap_or_default(),
        };
        env.push(format!("{}={value}", one["name"].as_str().unwrap()));
    }
    let granted = capabilities(&security["capabilities"]["add"]);
    let capabilities = json!({"bounding": granted, "effective": granted, "permitted": granted});
    let namespaces = ["pid", "ipc", "mount"].map(|kind| json!({"type": kind}));
    json!({
        "ociVersion": "1.0.2",
        "process": {"terminal": false, "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": words, "env": env,
            "capabilities": capabilities, "noNewPrivileges": false},
        "root": {"path": "rootfs"},
        "mounts": mounts(cluster, pod, dir),
        "linux": {"namespaces": namespaces, "maskedPaths": MASKED, "readonlyPaths": READ_ONLY, "rootfsPropagation": "rslave",
            "cgroupsPath": format!("/{}", cluster.lab.name())},
    })
}

/// Those that are asked for, without those that this machine gives nobody: no runtime could pass them on.
fn capabilities(add: &Value) -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bounding = u64::from_str_radix(bounding.unwrap().trim(), 16).unwrap();
    let number = |name: &str| match name {
        "NET_ADMIN" => 12,
        "SETPCAP" => 8,
        "SYS_ADMIN" => 21,
        "SYS_RESOURCE" => 24,
        "PERFMON" => 38,
        "BPF" => 39,
        other => panic!("the test does not know {other}"),
    };
    let mut granted = Vec::new();
    for name in add.as_array().unwrap().iter().filter_map(Value::as_str) {
        if bounding >> number(name) & 1 == 1 {
            granted.push(format!("CAP_{name}"));
        } else {
            println!("without {name}: this machine does not have it");
        }
    }
    granted
}

fn mounts(cluster: &Cluster, pod: &Value, dir: &Path) -> Vec<Value> {
    let kernel = |kind: &str, at: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
    let account = account(cluster, dir);
    let mut mounts = vec![
        kernel("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        kernel("tmpfs", "/dev", &["nosuid", "mode=755", "size=65536k"]),
        kernel("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
        json!({"destination": "/var/run/secrets/kubernetes.io/serviceaccount", "type": "bind", "source": account, "options": ["rbind", "ro"]}),
    ];
    let volumes = pod["volumes"].as_array().unwrap();
    for mount in pod["containers"][0]["volumeMounts"].as_array().unwrap() {
        let volume = volumes.iter().find(|v| v["name"] == mount["name"]).unwrap();
        let Some(source) = volume["hostPath"]["path"].as_str() else {
            continue;
        };
        let shared = match mount["mountPropagation"].as_str() {
            Some("HostToContainer") => "rslave",
            Some("Bidirectional") => "rshared",
            _ => "rprivate",
        };
        mounts.push(json!({"destination": mount["mountPath"], "type": "bind", "source": source, "options": ["rbind", shared]}));
    }
    mounts
}

/// The folder of the agent's service account.
fn account(cluster: &Cluster, dir: &Path) -> String {
    let folder = dir.join("account");
    fs::create_dir_all(&folder).unwrap();
    let ask = dir.join("request.json");
    let request = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":3600}}"#;
    fs::write(&ask, request).unwrap();
    let path = "/api/v1/namespaces/kube-system/serviceaccounts/cilium/token";
    let made = cluster.kubectl(&["create", "--raw", path, "-f", ask.to_str().unwrap()]);
    let made: Value = serde_json::from_str(&made).unwrap();
    let kubeconfig = cluster.kubectl(&["config", "view", "--raw", "-o", "json"]);
    let kubeconfig: Value = serde_json::from_str(&kubeconfig).unwrap();
    let authority = &kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"];
    let authority = BASE64_STANDARD.decode(authority.as_str().unwrap()).unwrap();
    fs::write(
        folder.join("token"),
        made["status"]["token"].as_str().unwrap(),
    )
    .unwrap();
    fs::write(folder.join("ca.crt"), authority).unwrap();
    fs::write(folder.join("namespace"), "kube-system").unwrap();
    folder.display().to_string()
}
