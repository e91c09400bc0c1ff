//! DNS under load, by clients that others have written: thousands of names that rules speak of, each new, and what is bounded and kept meanwhile.

use std::net::TcpListener;
use std::process::Command;
use std::thread;

use api::FqdnQuery;
use hypha_e2e::cluster::{Cluster, Place};
use testkit::{LabBuilder, skip_unless_root};

use crate::acceptance::shell::{Release, Shell};
use crate::pods::{SCRIPTS, bring, pod};

/// Where everybody outside serves.
const PORT: u16 = 8099;
/// Names that are asked for; an endpoint may have a few less.
const NAMES: usize = 12_000;
const NAMES_MAX: usize = 10_000;
/// Resident memory that agent and proxy may take, with all these names, as unoptimised builds do.
const AGENT_MAX: u64 = 400 << 20;
const PROXY_MAX: u64 = 100 << 20;

const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: load}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toEndpoints: [{matchLabels: {app: names}}]
    toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules: {dns: [{matchPattern: "*.load.test"}]}
  - toFQDNs: [{matchPattern: "*.load.test"}]
    toPorts: [{ports: [{port: "8099", protocol: TCP}]}]
"#;

/// The server of names, and a client of it.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/layer7_load/names.py");

/// What is missing here of what others have written.
fn missing() -> bool {
    let lacks = ["dnsperf", "dig"].into_iter().find(|program| {
        let folders = ["/usr/bin", "/usr/local/bin"].iter();
        !folders
            .into_iter()
            .any(|dir| std::path::Path::new(dir).join(program).is_file())
    });
    if let Some(program) = lacks {
        eprintln!("skipped: there is no {program}; `cargo xtask setup` installs it");
    }
    lacks.is_some()
}

/// Everybody that the names stand for, on the lab's router.
fn serve_outside(router: &Place) {
    let routes = "ip route add local 198.18.0.0/16 dev lo && ip -6 route add local 2001:db8:c612::/48 dev lo";
    let added = router
        .netns
        .run(|| Command::new("sh").args(["-c", routes]).status());
    assert!(added.unwrap().unwrap().success());
    let bind = || TcpListener::bind(("::", PORT));
    let listener = router.netns.run(bind).unwrap().unwrap();
    thread::spawn(move || listener.incoming().for_each(drop));
}

fn stage(cluster: &Cluster) -> Option<(Shell, Vec<String>)> {
    let sh = Shell::new(cluster, Release::New)?;
    serve_outside(&cluster.host("router"));
    let names = format!("python3 -u {SCRIPTS}/names.py serve");
    let idle = "sleep infinity";
    let pods = pod("names", "names", "node2", &names)
        + &pod("loud", "client", "node1", idle)
        + &pod("quiet", "client", "node1", idle);
    bring(&sh, PROGRAM);
    sh.file("pods.yaml", &pods);
    sh.file("policy.yaml", POLICY);
    sh.ok("kubectl create -f pods.yaml");
    sh.ok("kubectl -n kube-system rollout status ds/cilium-envoy --timeout 60s");
    sh.ok("kubectl wait --for=condition=Ready pod --all --timeout 60s");
    sh.until("kubectl logs names", &["serving"]);
    sh.ok("kubectl apply -f policy.yaml");
    sh.until("kubectl get cnp", &["load", "True"]);
    sh.ok("hypha dbg --name $LAB --node node1 policy wait --max-wait-time 30");
    let ips = sh.ok("kubectl get pod names -o jsonpath='{.status.podIPs[*].ip}'");
    let ips: Vec<String> = ips.split_whitespace().map(str::to_owned).collect();
    assert_eq!(ips.len(), 2, "{ips:?}");
    Some((sh, ips))
}

/// What a client of many years asks and gets: over UDP in parts, cut, and over TCP.
fn dig(sh: &Shell, server: &str) {
    let dig = |words: &str| format!("kubectl exec quiet -- dig @{server} big.load.test {words}");
    for kind in ["A", "AAAA"] {
        let parts = sh.has(
            &dig(&format!("{kind} +notcp +ignore +bufsize=8192")),
            &["ANSWER: 200", "(UDP)"],
        );
        assert!(!parts.contains(" tc "), "{parts}");
        sh.has(
            &dig(&format!("{kind} +ignore +bufsize=1232")),
            &[" tc ", "ANSWER: 0"],
        );
        sh.has(
            &dig(&format!("{kind} +bufsize=1232")),
            &["ANSWER: 200", "(TCP)"],
        );
        let refused = format!("kubectl exec quiet -- dig @{server} other.test {kind}");
        sh.has(&refused, &["status: REFUSED"]);
    }
}

/// Bytes of a process that are in memory.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn e2e_layer7_names_under_load() {
    if skip_unless_root() || missing() {
        return;
    }
    let _ = hypha_e2e::program("hypha-cni");
    let lab = LabBuilder::new(hypha_e2e::program("hypha"), "e2e-l7-load").args(&[
        "--nodes",
        "2",
        "--agent-config",
        "enable-l7-proxy=true",
        // Machines that run tests are busy; nobody is to connect before the kernel knows.
        "--agent-config",
        "tofqdns-proxy-response-max-delay=8s",
    ]);
    let cluster = Cluster::of(lab.up());
    let Some((sh, ips)) = stage(&cluster) else {
        return;
    };
    for ip in &ips {
        dig(&sh, ip);
    }
    // Each name is asked for once.
    let load = sh.start(&format!(
        "kubectl exec loud -- sh -c 'seq -f \"n%.0f.load.test A\" {NAMES} | dnsperf -s {} -q 200 -t 10'",
        ips[0]
    ));
    // Meanwhile others look up and connect, by both families, at the first try.
    for (ip, seed) in ips.iter().zip([20_000, 30_000]) {
        let connect = format!(
            "kubectl exec quiet -- python3 {SCRIPTS}/names.py connect {ip} {PORT} 100 {seed}"
        );
        sh.has(&connect, &["200 connected"]);
    }
    let said = load.says("Queries per second");
    println!("{said}");
    assert!(
        said.contains(&format!("Queries completed:    {NAMES} (100.00%)"))
            && said.contains(&format!("NOERROR {NAMES} (100.00%)")),
        "{said}"
    );
    let known = cluster
        .agent("node1")
        .fqdn_cache(&FqdnQuery::default())
        .unwrap();
    let endpoints = cluster.agent("node1").endpoints().unwrap();
    let loud = endpoints.iter().find(|one| one.pod.name == "loud").unwrap();
    let own = known
        .iter()
        .filter(|one| one.endpoint_id == u32::from(loud.id));
    assert_eq!(own.count(), NAMES_MAX);
    let agent = cluster.agent_process("node1").unwrap();
    let proxy = cluster.proxy_process("node1").unwrap();
    let memory = [resident(agent.pid), resident(proxy.pid)];
    println!("agent and proxy have {memory:?} bytes in memory");
    assert!(memory[0] < AGENT_MAX && memory[1] < PROXY_MAX, "{memory:?}");
    // What was beyond the limit is told.
    let metrics = cluster
        .lab
        .sh("node1", "curl -s -f http://127.0.0.1:9962/metrics");
    let beyond = format!("cilium_fqdn_refused_answers_total {}", NAMES - NAMES_MAX);
    assert!(metrics.contains(&beyond), "no {beyond} in\n{metrics}");
    cluster.assert_clean();
}
