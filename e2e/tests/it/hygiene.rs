//! A lab leaves nothing behind, labs do not disturb each other, and what `make lab` does.

use std::collections::BTreeSet;
use std::time::Duration;

use hypha_e2e::cluster::Cluster;
use hypha_e2e::kernel;
use lab::leftovers::leftovers;
use lab::spec::LabName;
use lab::state::StateDir;
use nix::sys::signal::Signal;
use testkit::{LabBuilder, skip_unless_root, wait_until};

const SOON: Duration = Duration::from_secs(10);

/// What is in the machine's own namespaces and could be a lab's.
fn machine() -> BTreeSet<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let devices = read("/proc/net/dev");
    let links = devices
        .lines()
        .filter_map(|line| Some(format!("link {}", line.split_once(':')?.0.trim())));
    let mounts = read("/proc/self/mountinfo");
    let mounts = mounts
        .lines()
        .filter_map(|line| Some(format!("mount {}", line.split(' ').nth(4)?)));
    links
        .chain(mounts)
        .filter(|line| {
            line.contains("cilium") || line.contains("lxc") || line.contains("hypha-lab")
        })
        .collect()
}

fn namespaces(cluster: &Cluster) -> Vec<u64> {
    let status = cluster.lab.status();
    let nodes = status["nodes"].as_array().unwrap().iter();
    nodes
        .chain([&status["router"]])
        .filter_map(|machine| machine["netInode"].as_u64())
        .collect()
}

#[track_caller]
fn assert_gone(name: &str, inodes: &[u64], programs: &BTreeSet<u32>) {
    let name: LabName = name.parse().unwrap();
    assert_eq!(leftovers(&name, inodes), []);
    // The kernel frees programs with their namespaces, a little later.
    wait_until("the programs go", SOON, || {
        let loaded: BTreeSet<u32> = aya::programs::loaded_programs()
            .filter_map(Result::ok)
            .map(|program| program.id())
            .collect();
        loaded.is_disjoint(programs).then_some(())
    });
}

#[test]
fn e2e_hygiene_down_leaves_nothing() {
    if skip_unless_root() {
        return;
    }
    let before = machine();
    let cluster = Cluster::up("e2e-gone", &["--nodes", "2", "--sample"]);
    let (name, inodes) = (cluster.lab.name().to_owned(), namespaces(&cluster));
    let programs: BTreeSet<u32> = ["node1", "node2"]
        .iter()
        .flat_map(|node| kernel::loaded(&cluster, node))
        .collect();
    assert!(
        inodes.len() == 3 && programs.len() > 8,
        "{inodes:?} {programs:?}"
    );
    assert_eq!(
        machine(),
        before,
        "a lab makes nothing in the machine's own namespaces"
    );
    cluster.lab.down();
    assert_gone(&name, &inodes, &programs);
    assert_eq!(machine(), before);
}

#[test]
fn e2e_hygiene_up_again_after_a_crash() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-crash", &["--nodes", "2", "--sample"]);
    let (name, inodes) = (cluster.lab.name().to_owned(), namespaces(&cluster));
    let programs: BTreeSet<u32> = ["node1", "node2"]
        .iter()
        .flat_map(|node| kernel::loaded(&cluster, node))
        .collect();
    let supervisor = StateDir::of(&name.parse().unwrap()).supervisor().unwrap();
    assert!(supervisor.signal(Signal::SIGKILL) && supervisor.wait_gone(SOON));
    let run = cluster.lab.lab("up", &["--nodes", "2", "--sample"]);
    assert!(
        run.ok() && run.stdout.contains("cleaned what an earlier lab"),
        "{}{}",
        run.stdout,
        run.stderr
    );
    let again = Cluster::of(cluster.lab);
    again.assert_connected(&[]);
    again.assert_clean();
    let both: Vec<u64> = namespaces(&again).into_iter().chain(inodes).collect();
    again.lab.down();
    assert_gone(&name, &both, &programs);
}

#[test]
fn e2e_hygiene_labs_side_by_side() {
    if skip_unless_root() {
        return;
    }
    let one = Cluster::up("e2e-left", &["--nodes", "2", "--sample"]);
    let two = Cluster::up(
        "e2e-right",
        &["--nodes", "2", "--sample", "--routing", "native"],
    );
    let count = one.assert_connected(&[]).len();
    assert_eq!(two.assert_connected(&[]).len(), count);
    one.lab.down();
    assert_eq!(two.assert_connected(&[]).len(), count);
    two.assert_clean();
}

/// What `make lab` runs: up, sample pods, matrix; the exit status is the matrix's, and the lab stays.
#[test]
fn e2e_hygiene_make_lab() {
    if skip_unless_root() {
        return;
    }
    let args = ["--nodes", "2", "--sample", "--test"];
    let lab = LabBuilder::new(hypha_e2e::program("hypha"), "e2e-make")
        .args(&["--nodes", "2"])
        .up();
    let run = lab.lab("up", &args);
    assert!(run.ok(), "{}{}", run.stdout, run.stderr);
    for part in [
        "runs already: 2 nodes",
        "pod → outside host",
        "lab status --name",
        "lab exec --name",
        "dbg monitor --name",
        "lab down --name",
    ] {
        assert!(run.stdout.contains(part), "no `{part}` in {}", run.stdout);
    }
    // A destination without a way makes cells fail.
    lab.sh("node1", "ip route add blackhole 10.10.2.200/32");
    let run = lab.lab("up", &args);
    assert_eq!(run.code, 1, "{}{}", run.stdout, run.stderr);
    assert!(
        run.stdout.contains("10.10.2.200") && run.stdout.contains("lab down --name"),
        "{}",
        run.stdout
    );
    assert_eq!(
        lab.status()["nodes"].as_array().unwrap().len(),
        2,
        "the lab stays"
    );
    let run = lab.lab("up", &["--nodes", "2"]);
    assert!(
        !run.ok() && run.stderr.contains("runs already"),
        "without --test it is a mistake: {}",
        run.stderr
    );
}
