//! What people do, done as they do it: `kubectl`, new and old, through every verb; the topics of the walkthrough; a second,
//! independent client. One lab per test, everything in order. What is not shown yet stands in docs/walkthrough.md.

mod changes;
mod components;
mod inside;
mod introspection;
mod ipam;
mod looks;
mod masquerade;
mod nodes;
mod paths;
mod python;
mod services;
mod settings;
pub mod shell;
mod table;

use std::panic::{AssertUnwindSafe, catch_unwind};

use hypha_e2e::cluster::Cluster;
use testkit::{LabBuilder, skip_unless_root};

use shell::{Release, Shell};

/// The parts of a test. One that fails does not keep the others from being tried: a run shows all that is wrong.
#[derive(Default)]
struct Parts {
    failed: Vec<String>,
}

impl Parts {
    /// Does one; says how long it took, so that a slow suite tells where it is slow.
    fn run(&mut self, name: &str, work: impl FnOnce()) {
        let start = std::time::Instant::now();
        let done = catch_unwind(AssertUnwindSafe(work));
        let how = if done.is_ok() { "" } else { "FAILED after " };
        eprintln!("{name}: {how}{:?}", start.elapsed());
        if done.is_err() {
            self.failed.push(name.to_owned());
        }
    }

    #[track_caller]
    fn finish(self) {
        assert!(
            self.failed.is_empty(),
            "failed: {:?}; see above",
            self.failed
        );
    }
}

/// A lab with cluster DNS.
fn up(prefix: &str, args: &[&str]) -> Cluster {
    let _ = hypha_e2e::program("hypha-cni");
    Cluster::of(
        LabBuilder::new(hypha_e2e::program("hypha"), prefix)
            .args(args)
            .up(),
    )
}

/// Encapsulation, nodes named as in the notes with one on another network; every verb.
#[test]
fn e2e_acceptance_kubectl_and_overlay() {
    if skip_unless_root() {
        return;
    }
    let cluster = up("e2e-accept", &["--node-names", "k8s-ctr,k8s-w1,k8s-w0"]);
    let Some(sh) = Shell::new(&cluster, Release::New) else {
        return;
    };
    let parts = &mut Parts::default();
    parts.run("sample application", || paths::deploy(&sh));
    looks::all(&sh, parts);
    parts.run("overlay paths", || paths::overlay(&sh, &cluster));
    parts.run("settings", || settings::all(&sh));
    introspection::all(&sh, &cluster, parts);
    services::all(&sh, &cluster, parts);
    inside::all(&sh, parts);
    changes::all(&sh, parts);
    nodes::all(&sh, parts);
    components::all(&sh, parts);
    if let Some(old) = Shell::new(&cluster, Release::Old) {
        parts.run("old kubectl: looking", || looks::old(&old));
        parts.run("old kubectl: changing", || changes::old(&old));
        parts.run("old kubectl: inside containers", || inside::old(&old));
        parts.run("old kubectl: nodes", || nodes::old(&old));
    }
    parts.run("Python client", || python::all(&cluster));
    parts.run("nothing wrong is left", || cluster.assert_clean());
    std::mem::take(parts).finish();
}

/// Native routing, IPv4, the nodes of the other notes: routes, masquerade, and where addresses come from.
#[test]
fn e2e_acceptance_native_and_addresses() {
    if skip_unless_root() {
        return;
    }
    let parts = &mut Parts::default();
    let args = [
        "--node-names",
        "k8s-s,k8s-w1,k8s-w2",
        "--routing",
        "native",
        "--ipv4",
    ];
    let cluster = up("e2e-accept2", &args);
    let Some(sh) = Shell::new(&cluster, Release::New) else {
        return;
    };
    parts.run("native paths", || paths::native(&sh, &cluster));
    parts.run("masquerade", || masquerade::all(&sh, &cluster));
    ipam::all(&sh, &cluster, parts);
    parts.run("nothing wrong is left", || cluster.assert_clean());
    std::mem::take(parts).finish();
}
