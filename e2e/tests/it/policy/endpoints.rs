//! Policy of single endpoints: audit of one, files of one node, a pod that moves from one policy to another, a pod without identity.
//! Agents tell each other of endpoints by slices here.

use std::fs;
use std::time::Duration;

use hypha_e2e::policy::expect::Rules;
use hypha_e2e::policy::hammer::{Hammer, Ports};
use hypha_e2e::policy::objects::{self, cnp, wait_in_force};
use hypha_e2e::policy::stage::Stage;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::{skip_unless_root, wait_until};

use super::theatre::Theatre;
use crate::acceptance::shell::{Release, Shell};

const SOON: Duration = Duration::from_secs(20);
/// Port of the hammers.
const PORT: u16 = 7500;
/// The directory of policy files, as nodes see it.
const FILES: &str = "/run/cilium/policies";

#[test]
fn e2e_policy_single_endpoints() {
    if skip_unless_root() {
        return;
    }
    let files = format!("static-cnp-path={FILES}");
    let args = [
        "--agent-config",
        "enable-cilium-endpoint-slice=true",
        "--agent-config",
        "identity-management-mode=operator",
        "--agent-config",
        &files,
    ];
    let mut theatre = Theatre::up("e2e-endpoints", &args, &[true, false]);
    let cluster = &theatre.stage.cluster;
    fs::create_dir_all(cluster.path("node1", FILES)).unwrap();
    let path = "/apis/cilium.io/v2alpha1/ciliumendpointslices";
    wait_until("slices of endpoints", SOON, || {
        (!cluster.list(path).is_empty()).then_some(())
    });
    theatre.expect("no policy", &Rules::default());
    let Some(sh) = Shell::new(&theatre.stage.cluster, Release::New) else {
        return;
    };
    audit(&mut theatre, &sh);
    policy_files(&mut theatre, &sh);
    moves(&theatre);
    without_identity(&theatre);
    theatre.stage.cluster.assert_clean();
}

/// Databases of namespace `a` answer web servers.
fn database() -> Value {
    cnp(
        "a",
        "db",
        &json!({"endpointSelector": {"matchLabels": {"app": "db"}},
            "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "web"}}]}]}),
    )
}

#[track_caller]
fn hammer(stage: &Stage, from: &str, to: &str, port: u16, ports: Ports) -> Hammer {
    let actor = |name| &stage.actors[stage.find(name)];
    let (from, to) = (actor(from), actor(to));
    let target = to.ip(true).expect("an IPv4 address");
    let name = format!("{} → {} port {port}", from.name, to.name);
    Hammer::start(&name, &from.netns, &to.netns, target, port, ports)
}

/// One endpoint is watched, the others are not; a restart changes nothing of that; what had passed meanwhile is cut.
#[track_caller]
fn audit(theatre: &mut Theatre, sh: &Shell) {
    let created = theatre.server.create(&[
        database(),
        cnp(
            "a",
            "client",
            &json!({"endpointSelector": {"matchLabels": {"app": "client"}}, "ingress": [{}]}),
        ),
    ]);
    wait_in_force(&theatre.stage, &created);
    let rules = objects::rules(&created).unwrap();
    theatre.expect("before the audit", &rules);

    let dbg = "hypha dbg --name $LAB --node node1";
    let config = format!("{dbg} endpoint config pod-name:a/y");
    sh.has(&config, &["PolicyAuditMode                   : Disabled"]);
    let monitor = sh.start(&format!("{dbg} monitor -t policy-verdict -t drop"));
    monitor.says("Press Ctrl-C");
    sh.has(
        &format!("{config} PolicyAuditMode=Enabled"),
        &["Endpoint pod-name:a/y configuration updated successfully"],
    );
    let audited = Rules {
        audited: ["a/y".to_owned()].into(),
        ..rules.clone()
    };
    theatre.expect("one endpoint is audited", &audited);
    monitor.says_such("an audited verdict", |text| {
        text.contains("ingress, action audit, auth: disabled, match none")
    });
    sh.has(&config, &["PolicyAuditMode                   : Enabled"]);
    sh.has(
        &format!("{dbg} endpoint list | grep -A9 'Disabled (Audit)'"),
        &["k8s:app=db"],
    );
    sh.has(
        &format!("{dbg} endpoint get pod-name:a/y"),
        &[
            "\"PolicyAuditMode\": \"Enabled\"",
            "\"policy-enabled\": \"audit-ingress\"",
        ],
    );

    let old = theatre.stage.cluster.kill_agent("node1");
    theatre.stage.cluster.wait_replaced("node1", Some(&old));
    wait_in_force(&theatre.stage, &created);
    sh.has(&config, &["PolicyAuditMode                   : Enabled"]);
    let lives = hammer(&theatre.stage, "a/z", "a/y", PORT, Ports::One);
    lives.wait_for_more(100);
    theatre.expect("one endpoint is audited after a restart", &audited);

    sh.ok(&format!("{config} PolicyAuditMode=Disabled"));
    let since = lives.sent() + 1;
    lives.wait_for_more(200);
    lives.finish().assert_cut_at(since, "the audit ends");
    theatre.expect("after the audit", &rules);
    refusals(sh, dbg);
    theatre.server.delete(&created);
    wait_in_force(&theatre.stage, &[]);
}

/// What is wrong is said in one line.
fn refusals(sh: &Shell, dbg: &str) {
    for (line, said) in [
        (
            "endpoint config pod-name:a/y PolicyAuditMode",
            "`PolicyAuditMode` is not of the form OPTION=VALUE",
        ),
        (
            "endpoint config pod-name:a/y PolicyAuditMode=perhaps",
            "`perhaps` is no switch; accepted: Enabled, Disabled",
        ),
        (
            "endpoint config pod-name:a/y Debug=Enabled",
            "Debug cannot be changed while the agent runs; accepted: PolicyAuditMode=",
        ),
        (
            "endpoint config pod-name:a/y Colour=Blue",
            "`Colour` is no option of an endpoint; accepted: PolicyAuditMode=",
        ),
        (
            "endpoint config pod-name:a/nobody",
            "endpoint pod-name:a/nobody",
        ),
        (
            "endpoint config nobody",
            "`nobody` does not name an endpoint",
        ),
        ("endpoint config 1", "while enable-host-firewall is off"),
    ] {
        let run = sh.run(&format!("{dbg} {line}"));
        let lines = run.stderr.trim_end().lines().count();
        assert!(
            !run.ok() && run.stdout.is_empty() && lines == 1 && run.stderr.contains(said),
            "$ {line}\n{run:?}"
        );
    }
}

/// Policies of one node's files come, change and go.
#[track_caller]
fn policy_files(theatre: &mut Theatre, sh: &Shell) {
    let path = theatre.stage.cluster.path("node1", FILES);
    let text = |app: &str| {
        format!(
            "# Of this node alone.\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: local, namespace: a}}\n\
             spec:\n  endpointSelector: {{matchLabels: {{app: db}}}}\n  ingress:\n  - fromEndpoints:\n    - matchLabels: {{app: {app}}}\n"
        )
    };
    let meaning = |app: &str| {
        let object = cnp(
            "a",
            "local",
            &json!({"endpointSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"app": app}}]}]}),
        );
        objects::rules(&[object]).unwrap()
    };
    for app in ["web", "client"] {
        // In one step, as whoever cares writes such a file.
        fs::write(path.join("new"), text(app)).unwrap();
        fs::rename(path.join("new"), path.join("local.yaml")).unwrap();
        theatre.expect(&format!("a file for {app}"), &meaning(app));
    }
    sh.has(
        "hypha dbg --name $LAB --node node1 policy get",
        &["\"app\": \"client\"", "local (file local.yaml)"],
    );
    sh.has("hypha dbg --name $LAB --node node2 policy get", &["[]"]);
    sh.file("local.yaml", &text("client"));
    sh.fails(
        "hypha policy why --name $LAB -f local.yaml a/x a/y 7080/TCP",
        &[
            "a/local: spec.ingress[0] (local.yaml:8)",
            "allows this port, but not this peer",
        ],
    );
    fs::remove_file(path.join("local.yaml")).unwrap();
    theatre.expect("no file", &Rules::default());
}

/// A pod of one policy becomes one of another, on all nodes, and never is more than either.
#[track_caller]
fn moves(theatre: &Theatre) {
    let (stage, server) = (&theatre.stage, &theatre.server);
    let from = |app: &str, ports: &[u16]| {
        let ports: Vec<Value> = ports
            .iter()
            .map(|port| json!({"port": port.to_string(), "protocol": "UDP"}))
            .collect();
        json!({"fromEndpoints": [{"matchLabels": {"app": app}}], "toPorts": [{"ports": ports}]})
    };
    let (old, new, both, none) = (PORT, PORT + 1, PORT + 2, PORT + 3);
    let ingress = [from("client", &[old, both]), from("web", &[new, both])];
    let spec = json!({"endpointSelector": {"matchLabels": {"app": "db"}}, "ingress": ingress});
    let created = server.create(&[cnp("a", "db", &spec), cnp("b", "db", &spec)]);
    wait_in_force(stage, &created);
    // Pods of two nodes, and of one.
    for (from, to) in [("a/z", "a/y"), ("b/z", "b/y")] {
        let start = |port| hammer(stage, from, to, port, Ports::Fresh);
        let hammers = [old, new, both, none].map(start);
        hammers.iter().for_each(|hammer| hammer.wait_for_more(100));
        let moved_at = std::time::Instant::now();
        let (namespace, name) = from.split_once('/').unwrap();
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name}});
        server.merge(&pod, &json!({"metadata": {"labels": {"app": "web"}}}));
        wait_for_label(stage, from, "k8s:app=web");
        let since = hammers[0].sent() + 1;
        hammers.iter().for_each(|hammer| hammer.wait_for_more(200));
        let during = format!("{from} moves");
        let [old, new, both, none] = hammers.map(Hammer::finish);
        none.assert_nothing(&during);
        both.assert_all(&during);
        old.assert_cut_at(since, &during);
        let first = new.arrived.first().map(|(_, at)| *at);
        assert!(
            first.is_some_and(|first| first >= moved_at),
            "{during}: what only the new labels may passes before, or never: {first:?}"
        );
    }
    server.delete(&created);
    wait_in_force(stage, &[]);
}

/// Waits until a pod has this label in its identity and every node knows that.
#[track_caller]
fn wait_for_label(stage: &Stage, pod: &str, label: &str) {
    let actor = &stage.actors[stage.find(pod)];
    let mut identity = 0;
    wait_until(&format!("{pod} with {label}"), SOON, || {
        let endpoint = endpoint(stage, &actor.node, pod)?;
        identity = endpoint.identity;
        (endpoint.state.text() == "ready" && endpoint.labels.iter().any(|own| own == label))
            .then_some(())
    });
    for node in &stage.nodes {
        let ip = actor.ip(true).expect("an address");
        wait_until(&format!("{node} knows the identity of {pod}"), SOON, || {
            let known = stage.cluster.agent(node).ips().ok()?;
            let mut rows = known.iter().filter(|row| row.prefix.addr() == ip);
            rows.any(|row| row.identity == identity).then_some(())
        });
    }
}

fn endpoint(stage: &Stage, node: &str, pod: &str) -> Option<api::Endpoint> {
    let (namespace, name) = pod.split_once('/')?;
    let id = api::path::EndpointId::Pod(namespace.to_owned(), name.to_owned());
    stage.cluster.agent(node).endpoint(&id).ok()
}

/// A pod whose labels get no number works as `init`: nothing passes but what policies about `init` allow, and the host.
#[track_caller]
fn without_identity(theatre: &Theatre) {
    let (stage, server) = (&theatre.stage, &theatre.server);
    let init = objects::ccnp(
        "init",
        &json!({"endpointSelector": {"matchLabels": {"reserved:init": ""}},
            "egress": [{"toEntities": ["all"], "toPorts": [{"ports": [{"port": PORT.to_string(), "protocol": "UDP"}]}]}]}),
    );
    let created = server.create(&[init]);
    wait_in_force(stage, &created);
    let operator = stage.cluster.operator_process().expect("an operator");
    assert!(operator.signal(Signal::SIGSTOP));
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "new", "namespace": "a", "labels": {"app": "never-seen"}},
        "spec": {"nodeName": "node1", "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "hypha/echo"}]}});
    server.create(std::slice::from_ref(&pod));
    wait_until("the pod without identity", SOON, || {
        (server.get(&pod)["status"]["phase"] == "Running").then_some(())
    });
    let found = endpoint(stage, "node1", "a/new").expect("an endpoint");
    assert_eq!(
        (found.identity, found.labels.as_slice()),
        (5, &["reserved:init".to_owned()][..])
    );
    assert!(found.policy_ingress && found.policy_egress, "{found:?}");
    let new = stage.pod("a", "new");
    let peer = &stage.actors[stage.find("a/x")];
    let ip = |actor: &hypha_e2e::policy::stage::Actor| actor.ip(true).expect("an IPv4 address");
    let send =
        |from: &hypha_e2e::policy::stage::Actor, to: &hypha_e2e::policy::stage::Actor, port| {
            let name = format!("{} → {} port {port}", from.name, to.name);
            Hammer::start(&name, &from.netns, &to.netns, ip(to), port, Ports::Fresh)
        };
    let node = &stage.actors[stage.find("node1")];
    let may = [send(&new, peer, PORT), send(node, &new, PORT)];
    let may_not = [send(&new, peer, PORT + 1), send(peer, &new, PORT + 2)];
    for hammer in may.iter().chain(&may_not) {
        hammer.wait_for_more(100);
    }
    for hammer in may {
        hammer.finish().assert_all("while it is init");
    }
    for hammer in may_not {
        hammer.finish().assert_nothing("while it is init");
    }
    assert!(operator.signal(Signal::SIGCONT));
    wait_until("its identity", SOON, || {
        let found = endpoint(stage, "node1", "a/new")?;
        (found.identity >= 256 && found.state.text() == "ready").then_some(())
    });
    let later = send(peer, &new, PORT + 2);
    later.wait_for_more(100);
    later.finish().assert_all("once it has its labels");
    server.delete(&[pod]);
    server.delete(&created);
    wait_in_force(stage, &[]);
}
