//! Malformed input of every kind ends with one clear line that has the place, the value and what is accepted.

use std::fs;
use std::path::Path;
use std::process::Command;

use hypha_e2e::cluster::Cluster;
use hypha_e2e::load::{Load, Route};
use hypha_e2e::plugin::Plugin;
use nix::sys::signal::Signal;
use testkit::{LabBuilder, skip_unless_root};

use crate::acceptance::shell::{Release, Shell};

/// Runs `hypha agent` with these flags and variables; it must end with status 2 and one line that contains all of `parts`.
#[track_caller]
fn agent(args: &[&str], env: &[(&str, &str)], parts: &[&str]) {
    let output = Command::new(hypha_e2e::program("hypha"))
        .arg("agent")
        .args(args)
        .envs(env.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?} {env:?}: {text}");
    assert_eq!(
        text.trim_end().lines().count(),
        1,
        "{args:?} {env:?}: {text}"
    );
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}

fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn e2e_input_agent_flags_and_environment() {
    agent(
        &["--enable-ipv4=maybe"],
        &[],
        &["--enable-ipv4", "\"maybe\"", "true or false"],
    );
    agent(
        &["--routing-mode", "sideways"],
        &[],
        &["--routing-mode", "\"sideways\"", "tunnel or native"],
    );
    agent(
        &["--conntrack-gc-interval=soon"],
        &[],
        &["--conntrack-gc-interval", "\"soon\"", "5s"],
    );
    agent(
        &["--ipv4-native-routing-cidr=10.0.0.0/33"],
        &[],
        &["\"10.0.0.0/33\"", "10.0.0.0/8"],
    );
    agent(
        &["--monitor-aggregation=lots"],
        &[],
        &["monitor-aggregation", "\"lots\"", "medium"],
    );
    agent(
        &["--enable-ipv4=false", "--enable-ipv6=false"],
        &[],
        &["enable-ipv4", "enable-ipv6"],
    );
    agent(&["--mtu"], &[], &["--mtu", "value"]);
    agent(&["--no-such-flag"], &[], &["--no-such-flag", "--help"]);
    agent(
        &[],
        &[("CILIUM_MTU", "12x")],
        &["environment", "CILIUM_MTU", "\"12x\"", "number"],
    );
    agent(
        &[],
        &[("CILIUM_ENABLE_TCX", "si")],
        &["CILIUM_ENABLE_TCX", "\"si\"", "true or false"],
    );
}

#[test]
fn e2e_input_agent_files() {
    let dir = tempfile::tempdir().unwrap();
    let config = |name: &str, text: &str| format!("--config={}", file(dir.path(), name, text));
    agent(
        &[&config("a.yaml", "routing-mode: sideways\n")],
        &[],
        &["a.yaml", "routing-mode", "\"sideways\"", "tunnel or native"],
    );
    agent(
        &[&config("b.yaml", "mtu: 1400\nrouting-mode: [a\n")],
        &[],
        &["b.yaml", "line 2"],
    );
    agent(
        &[&config("c.yaml", "no-such-key: 1\n")],
        &[],
        &["c.yaml", "\"no-such-key\"", "--help"],
    );
    agent(
        &["--config=/none.yaml"],
        &[],
        &["/none.yaml", "No such file"],
    );
    let many = dir.path().join("many");
    fs::create_dir(&many).unwrap();
    file(&many, "bpf-ct-global-tcp-max", "many\n");
    let many = format!("--config-dir={}", many.display());
    agent(
        &[&many],
        &[],
        &["bpf-ct-global-tcp-max", "\"many\"", "number"],
    );
    agent(&["--config-dir=/none"], &[], &["/none", "No such file"]);
}

#[test]
fn e2e_input_lab_flags_and_manifests() {
    if skip_unless_root() {
        return;
    }
    let hypha = hypha_e2e::program("hypha");
    let one_line = |args: &[&str], parts: &[&str]| {
        let output = Command::new(&hypha).args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && text.trim_end().lines().count() == 1,
            "{args:?}: {text}"
        );
        parts
            .iter()
            .for_each(|part| assert!(text.contains(part), "no `{part}` in: {text}"));
    };
    one_line(
        &["lab", "up", "--nodes", "99"],
        &["'99'", "--nodes", "1..=20"],
    );
    one_line(
        &["lab", "up", "--routing", "ipsec"],
        &["'ipsec'", "vxlan", "native"],
    );
    one_line(
        &["lab", "up", "--agent-config", "x"],
        &["\"x\"", "key=value"],
    );
    one_line(
        &["connectivity", "test", "--timeout", "soon"],
        &["'soon'", "seconds"],
    );
    one_line(&["dbg", "status", "--nod", "x"], &["--nod", "--node"]);

    let lab = LabBuilder::new(&hypha, "e2e-yaml")
        .args(&["--nodes", "1", "--no-agents"])
        .up();
    let refused = |yaml: &str, parts: &[&str]| {
        let run = lab.try_apply(yaml);
        assert!(
            !run.ok() && run.stderr.trim_end().lines().count() == 1,
            "{yaml}: {}{}",
            run.stdout,
            run.stderr
        );
        parts
            .iter()
            .for_each(|part| assert!(run.stderr.contains(part), "no `{part}` in: {}", run.stderr));
    };
    refused(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x\n",
        &["3:11", "unclosed"],
    );
    refused(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: 5}\n",
        &["containers"],
    );
    refused(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: UPPER}\nspec: {containers: [{name: c, image: host}]}\n",
        &["UPPER", "metadata.name"],
    );
    refused("apiVersion: v1\nkind: Pud\nmetadata: {name: x}\n", &["Pud"]);
    refused("kind: Pod\n", &["apiVersion"]);
}

/// The agent's own mistakes reach the one who starts a lab.
#[test]
fn e2e_input_lab_with_a_bad_agent_setting() {
    if skip_unless_root() {
        return;
    }
    let name = testkit::unique_name("e2e-bad");
    let args = [
        "lab",
        "up",
        "--name",
        &name,
        "--nodes",
        "1",
        "--agent-config",
        "mtu=x",
    ];
    let output = Command::new(hypha_e2e::program("hypha"))
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("mtu=\"x\" is not accepted"),
        "{text}"
    );
    assert_eq!(lab::leftovers::leftovers(&name.parse().unwrap(), &[]), []);
}

#[test]
fn e2e_input_cni_configuration() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-cni", &["--nodes", "1"]);
    let plugin = Plugin::on(&cluster, "node1");
    let sandbox = plugin.sandbox("input");
    let before = hypha_e2e::kernel::inventory(&cluster, "node1");
    let refused = |env: &[(&str, &str)], config: &str, code: u64, parts: &[&str]| {
        let output = plugin.raw("ADD", Some(&sandbox), env, config.as_bytes());
        let text = String::from_utf8_lossy(&output.stdout);
        let error: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("no CNI error ({e}): {text}"));
        assert!(
            !output.status.success() && error["code"] == code,
            "{config} {env:?}: {text}"
        );
        parts
            .iter()
            .for_each(|part| assert!(text.contains(part), "no `{part}` in: {text}"));
    };
    let good = plugin.config.to_string();
    let with = |key: &str, value: serde_json::Value| {
        let mut config = plugin.config.clone();
        config[key] = value;
        config.to_string()
    };
    refused(
        &[],
        "{\"cniVersion\": \"1.1.0\",\n \"name\": }",
        6,
        &["line 2"],
    );
    refused(&[], "", 6, &["empty"]);
    refused(&[], &with("cniVersion", "9.9.9".into()), 1, &["9.9.9"]);
    refused(
        &[],
        &with("name", 5.into()),
        6,
        &["column", "expected a string"],
    );
    refused(
        &[("CNI_IFNAME", "a-name-that-is-too-long")],
        &good,
        4,
        &["CNI_IFNAME"],
    );
    refused(&[("CNI_CONTAINERID", "")], &good, 4, &["CNI_CONTAINERID"]);
    refused(&[("CNI_ARGS", "K8S_POD_NAME")], &good, 4, &["CNI_ARGS"]);
    refused(
        &[("CNI_NETNS", "/run/netns/none")],
        &good,
        3,
        &["/run/netns/none"],
    );
    refused(
        &[("CNI_NETNS", "/proc/self/ns/net")],
        &good,
        8,
        &["/proc/self/ns/net"],
    );
    assert_eq!(hypha_e2e::kernel::inventory(&cluster, "node1"), before);
    plugin.forget(&sandbox);
    cluster.assert_clean();
}

/// One that cannot work with its settings comes and goes by itself.
fn restart_operator(cluster: &Cluster) {
    let limit = std::time::Duration::from_secs(20);
    let running = testkit::wait_until("an operator", limit, || cluster.operator_process());
    running.signal(Signal::SIGTERM);
}

/// Settings, pools and ranges that make no sense are told where one looks: by the command, in objects, in events; what runs
/// goes on as it was.
#[test]
fn e2e_input_settings_pools_and_ranges() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-ranges", &["--nodes", "2", "--sample", "--ipv4"]);
    let Some(sh) = Shell::new(&cluster, Release::New) else {
        return;
    };
    let (near, far) = (cluster.pod("echo-node2-a"), cluster.pod("echo-node1-a"));
    let load = Load::start(&[Route::new(&far, &near, true)]);
    let before = sh.ok("cilium config view");
    for (key, value, accepted) in [
        ("routing-mode", "sideways", "tunnel or native"),
        ("enable-ipv4", "maybe", "true or false"),
        ("ipam", "somewhere", "cluster-pool"),
        ("cluster-pool-ipv4-mask-size", "40", "from 1 to 32"),
        ("cluster-pool-ipv4-cidr", "10.60.0.0/33", "10.0.0.0/8"),
        ("mtu", "100", "1280"),
        ("operator-prometheus-serve-addr", "9963", "127.0.0.1:9962"),
    ] {
        sh.fails(
            &format!("cilium config set {key} {value}"),
            &[key, value, accepted],
        );
    }
    assert_eq!(sh.ok("cilium config view"), before);

    sh.has("cilium status --wait", &["Cilium:             OK"]);

    // What came into the settings by another way, everybody says.
    let patch = |key: &str, value: &str| {
        sh.ok(&format!(r#"kubectl patch configmap cilium-config -n kube-system --type=merge -p '{{"data":{{"{key}":"{value}"}}}}'"#));
    };
    let told = "kubectl get events -n kube-system --field-selector reason=InvalidSettings,involvedObject.name=cilium-config";
    patch("cluster-pool-ipv4-mask-size", "40");
    sh.fails(
        "cilium status",
        &[
            "settings",
            "cluster-pool-ipv4-mask-size=\"40\"",
            "from 1 to 32",
        ],
    );
    restart_operator(&cluster);
    sh.until(told, &["mask-size", "40"]);
    patch("cluster-pool-ipv4-mask-size", "24");

    // What only makes no sense together, the operator says.
    let set = |settings: &str| {
        sh.ok(&format!("for s in {settings}; do cilium config set ${{s%%=*}} \"${{s#*=}}\" --restart=false || exit 1; done"));
        restart_operator(&cluster);
    };
    let mode = "ipam=cluster-pool";
    set(&format!("cluster-pool-ipv4-cidr=10.60.0.0/24 {mode}"));
    for (key, value, why) in [
        ("cluster-pool-ipv4-mask-size", "20", "24 to 32"),
        (
            "cluster-pool-ipv4-cidr",
            "'10.60.0.0/23 10.60.1.0/24'",
            "overlap",
        ),
    ] {
        sh.fails(
            &format!("cilium config set {key} {value}"),
            &["nothing is changed", why],
        );
    }
    patch("cluster-pool-ipv4-cidr", "10.60.0.0/23 10.60.1.0/24");
    restart_operator(&cluster);
    sh.until(told, &["10.60.1.0/24", "overlap"]);
    sh.fails("cilium status", &["settings", "10.60.1.0/24", "overlap"]);

    // One range for two nodes: the second one has none, and says why.
    set(&format!("{mode} cluster-pool-ipv4-cidr=10.60.0.0/24"));
    let restart = |node: &str| {
        let old = cluster.kill_agent(node);
        testkit::wait_until("another agent", std::time::Duration::from_secs(20), || {
            cluster.agent_process(node).filter(|new| *new != old)
        });
    };
    // In the new mode a node keeps its range for as long as its object is there.
    for node in ["node1", "node2"] {
        restart(node);
        cluster.wait_replaced(node, None);
    }
    for node in ["node1", "node2"] {
        sh.ok(&format!("kubectl delete ciliumnode {node}"));
        restart(node);
    }
    let told = sh.until(
        "kubectl get ciliumnodes -o jsonpath='{range .items[*]}{.metadata.name} {.spec.ipam.podCIDRs} {.status.ipam.operator-status.error}{\"\\n\"}{end}'",
        &["[\"10.60.0.0/24\"]", "no /24 is left in 10.60.0.0/24"],
    );
    let without: Vec<&str> = told.lines().filter(|line| !line.contains('[')).collect();
    assert_eq!(without.len(), 1, "{told}");
    sh.until(
        "kubectl get events -A --field-selector reason=NoPodAddresses",
        &["ciliumnode/", "10.60.0.0/24"],
    );

    // Pools that overlap, or cannot be cut.
    set("ipam=multi-pool");
    let pool = |name: &str, cidr: &str, size: u8| {
        format!(
            "apiVersion: cilium.io/v2alpha1\nkind: CiliumPodIPPool\nmetadata: {{name: {name}}}\nspec: {{ipv4: {{cidrs: [{cidr}], maskSize: {size}}}}}\n"
        )
    };
    sh.file("first.yaml", &pool("first", "10.70.0.0/16", 24));
    sh.file("second.yaml", &pool("second", "10.70.8.0/24", 27));
    sh.ok("kubectl apply -f first.yaml && kubectl apply -f second.yaml");
    sh.until(
        "kubectl describe ciliumpodippool second",
        &[
            "PoolNotUsed",
            "10.70.8.0/24 overlaps 10.70.0.0/16 of pool first",
        ],
    );
    sh.file("third.yaml", &pool("third", "10.80.0.0/28", 24));
    sh.ok("kubectl apply -f third.yaml");
    sh.until(
        "kubectl describe cpip third",
        &["PoolNotUsed", "10.80.0.0/28"],
    );
    sh.file("fourth.yaml", &pool("fourth", "ten", 24));
    sh.run("kubectl apply -f fourth.yaml");
    sh.until(
        "kubectl describe cpip fourth || kubectl apply -f fourth.yaml 2>&1 | grep cidrs",
        &["ten"],
    );
    load.finish()
        .assert_whole(&cluster, "settings that make no sense");
}
