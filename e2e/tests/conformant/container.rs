//! The containers of the chart's DaemonSet in a real runtime, with what it grants them and no more.

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
    let pod = Pod::of(&cluster, dir.path());
    for (number, runtime) in runtimes.iter().enumerate() {
        if number > 0 {
            // Nothing to take over: maps and programs are made anew.
            cluster
                .lab
                .sh(NODE, "rm -rf /sys/fs/bpf/cilium /sys/fs/bpf/tc");
        }
        pod.sets_up(runtime);
        pod.runs(runtime, number);
    }
    cluster.lab.start_agent(NODE);
    cluster.wait_replaced(NODE, None);
    cluster.assert_clean();
}

fn call<'a>(runtime: &[&'a str], words: &[&'a str]) -> Vec<&'a str> {
    [runtime, &["--root", STATE], words].concat()
}

/// The DaemonSet's pod, with what its containers need on the test's disk.
struct Pod<'a> {
    cluster: &'a Cluster,
    spec: Value,
    account: String,
    dir: &'a Path,
}

impl<'a> Pod<'a> {
    fn of(cluster: &'a Cluster, dir: &'a Path) -> Self {
        let sets = cluster.list("/apis/apps/v1/namespaces/kube-system/daemonsets");
        let spec = sets[0]["spec"]["template"]["spec"].clone();
        assert_eq!(spec["hostNetwork"], true, "{spec}");
        for volume in spec["volumes"].as_array().unwrap() {
            if volume["hostPath"]["type"] == "DirectoryOrCreate" {
                let path = volume["hostPath"]["path"].as_str().unwrap();
                cluster.lab.sh(NODE, &format!("mkdir -p {path}"));
            }
        }
        root(&dir.join("rootfs"));
        Self {
            cluster,
            spec,
            account: account(cluster, dir),
            dir,
        }
    }

    /// What there is of the volume of this name on the node.
    fn host_path(&self, name: &str) -> &str {
        let volumes = self.spec["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == name);
        volume.unwrap()["hostPath"]["path"].as_str().unwrap()
    }

    fn write_config(&self, container: &Value) {
        let config = bundle(self, container);
        fs::write(self.dir.join("config.json"), config.to_string()).unwrap();
    }

    fn on_node(&self, words: &[&str]) -> String {
        let run = self.cluster.lab.exec(NODE, words);
        assert!(run.ok(), "{words:?}: {}{}", run.stdout, run.stderr);
        run.stdout.trim().to_owned()
    }

    /// The init containers do to a bare node what the agent needs, and nothing to one that has it.
    fn sets_up(&self, runtime: &[&str]) {
        let plugins = self.host_path("cni-path");
        let groups = format!("{}/cgroupv2", self.host_path("cilium-cgroup"));
        let plugin = format!("{plugins}/hypha-cni");
        self.cluster
            .lab
            .sh(NODE, &format!("umount {groups}; rm -f {plugin}"));
        let containers = self.spec["initContainers"].as_array().unwrap();
        assert!(containers.len() >= 3, "{containers:?}");
        for again in [false, true] {
            for container in containers {
                self.write_config(container);
                let name = container["name"].as_str().unwrap();
                let bundle = self.dir.to_str().unwrap();
                let words = call(runtime, &["run", "--bundle", bundle, name]);
                let said = self.on_node(&words);
                let changed = ["mounted", "installed"].map(|word| said.starts_with(word));
                assert!(
                    !again || changed == [false; 2],
                    "{runtime:?} {name}: {said}"
                );
            }
            // What was mounted in there is the node's, too.
            let kind = |path: &str| self.on_node(&["stat", "-f", "-c", "%T", path]);
            assert_eq!(kind(&groups), "cgroup2fs", "{runtime:?}");
            assert_eq!(kind(self.host_path("bpf-maps")), "bpf_fs", "{runtime:?}");
            self.on_node(&["test", "-x", &plugin]);
        }
    }

    /// The agent starts, connects pods, answers in its container, and takes over what another one left that was killed.
    fn runs(&self, runtime: &[&str], number: usize) {
        self.write_config(&self.spec["containers"][0]);
        let cluster = self.cluster;
        let mut agent = self.start(runtime);
        let pod = format!("late-{number}");
        cluster.lab.apply(&pod_yaml(&pod, NODE));
        cluster.assert_connected(&[]);
        let status = agent.exec(&["cilium-dbg", "status", "--brief"]);
        assert_eq!(status, "OK", "{runtime:?}: {}", agent.said());
        agent.may_lock_memory();

        let before = agent.endpoints();
        assert!(before.len() >= 2, "{before:?}");
        agent.end("KILL");
        let mut agent = self.start(runtime);
        assert_eq!(agent.endpoints(), before, "{runtime:?}");
        cluster.assert_connected(&[]);
        cluster.lab.delete_pod(&pod);
        agent.end("TERM");
        assert!(
            !agent.said().contains("WARN"),
            "{runtime:?}: {}",
            agent.said()
        );
    }

    fn start<'b>(&'b self, runtime: &'b [&'b str]) -> Agent<'b> {
        let bundle = self.dir.to_str().unwrap();
        let words = call(runtime, &["run", "--bundle", bundle, "agent"]);
        let mut command = self.cluster.lab.exec_command(NODE, &words);
        let log = fs::File::create(self.dir.join("log")).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut agent = Agent {
            pod: self,
            runtime,
            child: Ends(command.spawn().unwrap()),
        };
        wait_until("the agent in its container", LIMIT, || {
            let ended = agent.child.0.try_wait().unwrap();
            assert!(ended.is_none(), "{runtime:?}: {}", agent.said());
            let ask = ["curl", "-sf", "-m", "2", "http://127.0.0.1:9879/healthz"];
            self.cluster.lab.exec(NODE, &ask).ok().then_some(())
        });
        agent
    }
}

/// A running container of the agent.
struct Agent<'a> {
    pod: &'a Pod<'a>,
    runtime: &'a [&'a str],
    child: Ends,
}

impl Agent<'_> {
    fn said(&self) -> String {
        fs::read_to_string(self.pod.dir.join("log")).unwrap_or_default()
    }

    fn exec(&self, words: &[&str]) -> String {
        let words = [&["exec", "agent"][..], words].concat();
        self.pod.on_node(&call(self.runtime, &words))
    }

    /// Numbers and pods of the endpoints that the agent answers for.
    fn endpoints(&self) -> Vec<(u64, String)> {
        let all = self.exec(&["cilium-dbg", "endpoint", "list", "-o", "json"]);
        let all: Value = serde_json::from_str(&all).unwrap();
        let row = |one: &Value| {
            let names = &one["status"]["external-identifiers"];
            let pod = names["k8s-pod-name"].as_str().unwrap_or_default();
            (one["id"].as_u64().unwrap(), pod.to_owned())
        };
        let mut rows: Vec<_> = all.as_array().unwrap().iter().map(row).collect();
        rows.sort();
        rows
    }

    /// Older kernels count maps as locked memory, of which a container may have little until the agent says otherwise.
    fn may_lock_memory(&self) {
        let state = self.pod.on_node(&call(self.runtime, &["state", "agent"]));
        let state: Value = serde_json::from_str(&state).unwrap();
        let limits = format!("/proc/{}/limits", state["pid"]);
        let limits = self.pod.on_node(&["cat", &limits]);
        let locked = limits
            .lines()
            .find(|line| line.starts_with("Max locked memory"));
        let unlimited = locked.unwrap().matches("unlimited").count() == 2;
        let container = &self.pod.spec["containers"][0]["securityContext"]["capabilities"];
        let may = capabilities(&container["add"]).contains(&"CAP_SYS_RESOURCE".to_owned());
        assert_eq!(unlimited, may, "{limits}");
    }

    fn end(&mut self, signal: &str) {
        let words = call(self.runtime, &["kill", "agent", signal]);
        self.pod.on_node(&words);
        wait_until("the container's end", LIMIT, || {
            self.child.0.try_wait().unwrap().map(drop)
        });
        // Some runtimes keep what is left of one that was killed.
        let words = call(self.runtime, &["delete", "--force", "agent"]);
        let _ = self.pod.cluster.lab.exec(NODE, &words);
    }
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

/// A container as a kubelet would ask a runtime for it.
fn bundle(pod: &Pod<'_>, container: &Value) -> Value {
    let security = &container["securityContext"];
    let privileged = security["privileged"] == true;
    let granted = if privileged {
        all_capabilities()
    } else {
        assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
        capabilities(&security["capabilities"]["add"])
    };
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
    let capabilities = json!({"bounding": granted, "effective": granted, "permitted": granted});
    let namespaces = ["pid", "ipc", "mount"].map(|kind| json!({"type": kind}));
    let mut linux = json!({"namespaces": namespaces, "rootfsPropagation": "rslave", "cgroupsPath": format!("/{}", pod.cluster.lab.name())});
    if list(&container["volumeMounts"])
        .iter()
        .any(|mount| mount["mountPropagation"] == "Bidirectional")
    {
        linux["rootfsPropagation"] = json!("rshared");
    }
    if !privileged {
        linux["maskedPaths"] = json!(MASKED);
        linux["readonlyPaths"] = json!(READ_ONLY);
    }
    json!({
        "ociVersion": "1.0.2",
        "process": {"terminal": false, "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": words, "env": env,
            "capabilities": capabilities, "noNewPrivileges": false,
            "rlimits": [{"type": "RLIMIT_MEMLOCK", "soft": 65536, "hard": 65536}]},
        "root": {"path": "rootfs"},
        "mounts": mounts(pod, container),
        "linux": linux,
    })
}

/// The bounding set of this machine, as bits.
fn bounding() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    u64::from_str_radix(bounding.unwrap().trim(), 16).unwrap()
}

/// Those that are asked for, without those that this machine gives nobody: no runtime could pass them on.
fn capabilities(add: &Value) -> Vec<String> {
    let mut granted = Vec::new();
    for name in add
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        let all = all_capabilities();
        let name = format!("CAP_{name}");
        if all.contains(&name) {
            granted.push(name);
        } else {
            println!("without {name}: this machine does not have it");
        }
    }
    granted
}

/// All that this machine gives anybody.
fn all_capabilities() -> Vec<String> {
    let bounding = bounding();
    let all = caps::all().into_iter();
    let there = all.filter(|one| bounding & one.bitmask() != 0);
    there.map(|one| one.to_string()).collect()
}

fn mounts(pod: &Pod<'_>, container: &Value) -> Vec<Value> {
    let kernel = |kind: &str, at: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
    let writable = container["securityContext"]["privileged"] == true;
    let sys = [
        "nosuid",
        "noexec",
        "nodev",
        if writable { "rw" } else { "ro" },
    ];
    let mut mounts = vec![
        kernel("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        kernel("tmpfs", "/dev", &["nosuid", "mode=755", "size=65536k"]),
        kernel("sysfs", "/sys", &sys),
        json!({"destination": "/var/run/secrets/kubernetes.io/serviceaccount", "type": "bind", "source": pod.account, "options": ["rbind", "ro"]}),
    ];
    for mount in container["volumeMounts"].as_array().unwrap() {
        let name = mount["name"].as_str().unwrap();
        let shared = match mount["mountPropagation"].as_str() {
            Some("HostToContainer") => "rslave",
            Some("Bidirectional") => "rshared",
            _ => "rprivate",
        };
        mounts.push(json!({"destination": mount["mountPath"], "type": "bind", "source": pod.host_path(name), "options": ["rbind", shared]}));
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
