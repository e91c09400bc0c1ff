//! Nothing is lost while agents die and programs are replaced.

use std::fs;
use std::path::Path;
use std::time::Duration;

use hypha_e2e::cluster::{Cluster, pod_yaml};
use hypha_e2e::kernel;
use hypha_e2e::load::{Load, Route};
use testkit::{skip_unless_root, wait_until};

/// Traffic goes on this long before, between and after restarts.
const CALM: Duration = Duration::from_millis(100);

/// Pod to pod on the same node, on another node, and out of the cluster, where the source is translated.
fn routes(cluster: &Cluster) -> Vec<Route> {
    let client = cluster.pod("echo-node1-a");
    let targets = [
        cluster.pod("echo-node1-b"),
        cluster.pod("echo-node2-a"),
        cluster.host("router"),
    ];
    let both = |to| [true, false].map(|ipv4| Route::new(&client, to, ipv4));
    targets.iter().flat_map(both).collect()
}

#[track_caller]
fn twenty_kills(routing: &str) {
    let cluster = Cluster::up(
        "e2e-restart",
        &["--nodes", "2", "--routing", routing, "--sample"],
    );
    let programs = ["node1", "node2"].map(|node| kernel::loaded(&cluster, node));
    let load = Load::start(&routes(&cluster));
    std::thread::sleep(CALM);
    let mut times = Vec::new();
    for round in 0..20 {
        let node = if round % 2 == 0 { "node1" } else { "node2" };
        let old = cluster.kill_agent(node);
        times.push(cluster.wait_replaced(node, Some(&old)));
        std::thread::sleep(CALM);
    }
    let report = load.finish();
    times.sort();
    eprintln!(
        "killed to healthy: median {:?}, slowest {:?}",
        times[10], times[19]
    );
    report.assert_whole(&cluster, &format!("20 kills, {routing}"));
    let after = ["node1", "node2"].map(|node| kernel::loaded(&cluster, node));
    assert_eq!(
        after, programs,
        "a restart with the same settings loads no program"
    );
    cluster.assert_clean();
}

#[test]
fn e2e_restart_vxlan_twenty_kills_lose_nothing() {
    if skip_unless_root() {
        return;
    }
    twenty_kills("vxlan");
}

#[test]
fn e2e_restart_native_twenty_kills_lose_nothing() {
    if skip_unless_root() {
        return;
    }
    twenty_kills("native");
}

/// Other settings of the programs make other programs: they are loaded anew and take the place of the old ones.
#[test]
fn e2e_restart_replaced_programs_lose_nothing() {
    if skip_unless_root() {
        return;
    }
    let levels = ["none", "medium", "maximum", "low", "none", "medium"];
    replaced_programs(
        "e2e-replace",
        &levels.map(|level| ("monitor-aggregation", level)),
    );
}

/// The same for a rebuilt object: as an upgrade brings it, and back.
#[test]
fn e2e_restart_rebuilt_object_loses_nothing() {
    if skip_unless_root() {
        return;
    }
    let (rebuilt, built_in) = (("bpf-object", REBUILT), ("bpf-object", ""));
    replaced_programs("e2e-object", &[rebuilt, built_in, rebuilt, built_in]);
}

/// Where nodes have it, and agents see it.
const REBUILT: &str = "/run/cilium/rebuilt.o";

/// The object that is built in, but with another licence text of the same length: other bytes, the same behaviour.
fn another_object() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/hypha.bpf.o");
    let mut object = fs::read(path).unwrap();
    let (from, to) = (b"Dual MIT/GPL", b"Dual BSD/GPL");
    let at = object.windows(from.len()).position(|w| w == from).unwrap();
    object[at..at + to.len()].copy_from_slice(to);
    object
}

/// Agents get one configuration after the other, each of which makes new programs, under load.
fn replaced_programs(name: &str, settings: &[(&str, &str)]) {
    let cluster = Cluster::up(name, &["--nodes", "2", "--sample"]);
    for node in ["node1", "node2"] {
        fs::write(cluster.path(node, REBUILT), another_object()).unwrap();
    }
    let load = Load::start(&routes(&cluster));
    std::thread::sleep(CALM);
    for setting in settings {
        cluster.configure(&[*setting]);
        for node in ["node1", "node2"] {
            let before = kernel::pinned_programs(&cluster, node);
            let old = cluster.kill_agent(node);
            cluster.wait_replaced(node, Some(&old));
            let after = kernel::pinned_programs(&cluster, node);
            let kept: Vec<_> = after
                .iter()
                .filter(|(name, id)| before.get(*name) == Some(id))
                .collect();
            assert!(
                kept.is_empty() && !after.is_empty(),
                "{setting:?} on {node}: not replaced: {kept:?}"
            );
            assert!(before.keys().eq(after.keys()), "{before:?} {after:?}");
            std::thread::sleep(CALM);
        }
    }
    let what = format!("{} replacements of all programs", 2 * settings.len());
    load.finish().assert_whole(&cluster, &what);
    for node in ["node1", "node2"] {
        let pinned = kernel::pinned_programs(&cluster, node).len();
        wait_until("the old programs go", Duration::from_secs(5), || {
            (kernel::loaded(&cluster, node).len() == pinned).then_some(())
        });
    }
    cluster.assert_clean();
}

/// Pods of agents and operator are replaced as people do it.
#[test]
fn e2e_restart_rollouts_lose_nothing() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-rollout", &["--nodes", "2", "--sample"]);
    let load = Load::start(&routes(&cluster));
    std::thread::sleep(CALM);
    let system = |args: &[&str]| cluster.kubectl(&[&["-n", "kube-system"], args].concat());
    let settled = || {
        for workload in ["ds/cilium", "deploy/cilium-operator"] {
            system(&["rollout", "status", workload, "--timeout=60s"]);
        }
        std::thread::sleep(CALM);
    };
    let pods = || system(&["get", "pods", "-o=name", "-l", "k8s-app=cilium"]);
    let before = pods();
    system(&["rollout", "restart", "ds/cilium", "deploy/cilium-operator"]);
    settled();
    system(&["delete", "pod", "-l", "k8s-app=cilium"]);
    settled();
    let run = cluster.lab.hypha(&["config", "set", "debug", "true"]);
    assert!(run.ok(), "{}{}", run.stdout, run.stderr);
    settled();
    let after = pods();
    assert!(
        after.lines().count() == 2 && after.lines().all(|pod| !before.contains(pod)),
        "{before} {after}"
    );
    assert!(system(&["logs", "ds/cilium", "-c", "cilium-agent"]).contains("DEBUG"));
    load.finish()
        .assert_whole(&cluster, "pods of agents replaced three times");
    cluster.assert_clean();
}

/// A pod is map rows, a device and a link to programs that are there.
#[test]
fn e2e_restart_pods_load_no_programs() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-noload", &["--nodes", "1", "--sample"]);
    let before = kernel::loaded(&cluster, "node1");
    let yaml: Vec<String> = (0..20)
        .map(|n| pod_yaml(&format!("more-{n}"), "node1"))
        .collect();
    cluster.lab.apply(&yaml.join("---\n"));
    assert_eq!(cluster.agent("node1").endpoints().unwrap().len(), 22);
    assert_eq!(
        kernel::loaded(&cluster, "node1"),
        before,
        "20 pods load no program"
    );
    let old = cluster.kill_agent("node1");
    cluster.wait_replaced("node1", Some(&old));
    assert_eq!(
        kernel::loaded(&cluster, "node1"),
        before,
        "a restart loads no program"
    );
    cluster.assert_clean();
}
