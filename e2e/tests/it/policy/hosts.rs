//! The host firewall: policies about nodes, chosen by their labels.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use hypha_e2e::policy::expect::Rules;
use hypha_e2e::policy::objects::{self, ccnp, wait_in_force};
use hypha_e2e::policy::probe;
use serde_json::{Value, json};
use testkit::{skip_unless_root, wait_until};

use super::theatre::Theatre;
use crate::acceptance::shell::{Release, Shell};

const SOON: Duration = Duration::from_secs(20);

/// A policy about the second node; the API server is on the first.
fn about_node2(name: &str, mut spec: Value) -> Value {
    spec["nodeSelector"] = json!({"matchLabels": {"kubernetes.io/hostname": "node2"}});
    ccnp(name, &spec)
}

fn tcp(port: u16) -> Value {
    json!([{"ports": [{"port": port.to_string(), "protocol": "TCP"}]}])
}

/// The API server reaches the kubelet.
fn kubelet() -> Value {
    json!({"fromEntities": ["kube-apiserver"], "toPorts": tcp(10250)})
}

#[test]
fn e2e_policy_host_firewall() {
    if skip_unless_root() {
        return;
    }
    let args = ["--agent-config", "enable-host-firewall=true"];
    let mut theatre = Theatre::up("e2e-hosts", &args, &[true, false]);
    theatre.ask_about_nodes();
    // The agent's connections to the API server are older than the programs, and go on: policies come by them from here on.
    let mut agent = theatre.stage.cluster.agent("node2");
    wait_until("the API server's identity", SOON, || {
        let node1 = &theatre.stage.actors[theatre.stage.find("node1")];
        let known = agent.ips().ok()?;
        let mut rows = known.iter();
        rows.any(|row| node1.ips.contains(&row.prefix.addr()) && row.identity == 7)
            .then_some(())
    });
    let nodes = |rules: Rules| Rules {
        host_firewall: true,
        ..rules
    };
    theatre.expect("no policy", &nodes(Rules::default()));
    let remote_node = json!({"fromEntities": ["remote-node"], "toPorts": tcp(7080)});
    for (what, spec) in [
        (
            "one port from other nodes",
            json!({"ingress": [remote_node, kubelet()]}),
        ),
        (
            "one port from the world",
            json!({"ingress": [{"fromEntities": ["world"], "toPorts": tcp(7090)}, kubelet()]}),
        ),
        (
            "pods of the node reach it by ping",
            json!({"ingress": [{"fromEndpoints": [{"matchLabels": {"app": "web"}}], "icmps": [{"fields": [{"type": 8}, {"type": 128, "family": "IPv6"}]}]}, kubelet()]}),
        ),
        (
            "only a port of other nodes is denied",
            json!({"enableDefaultDeny": {"ingress": false}, "ingressDeny": [{"fromEntities": ["remote-node"], "toPorts": tcp(7090)}]}),
        ),
        (
            "only to the API server and one port of other nodes",
            json!({"egress": [{"toEntities": ["kube-apiserver"], "toPorts": tcp(6443)}, {"toEntities": ["remote-node"], "toPorts": tcp(7090)}]}),
        ),
        (
            "pods are denied to the node",
            json!({"enableDefaultDeny": {"egress": false}, "egressDeny": [{"toEndpoints": [{"matchLabels": {"app": "db"}}]}]}),
        ),
    ] {
        theatre.try_out(what, &[about_node2("node", spec)], nodes);
    }
    lives_on(&theatre);
    if let Some(sh) = Shell::new(&theatre.stage.cluster, Release::New) {
        locked(&mut theatre, &sh);
    }
    theatre.stage.cluster.assert_clean();
}

/// A connection to the node ends with its next packet, one from the node goes on in both directions.
#[track_caller]
fn lives_on(theatre: &Theatre) {
    let stage = &theatre.stage;
    let (node2, node3) = (stage.find("node2"), stage.find("node3"));
    let (mut to, mut at) = probe::connection(stage, node3, node2, true).unwrap();
    let (mut from, mut there) = probe::connection(stage, node2, node3, true).unwrap();
    let created = theatre
        .server
        .create(&[about_node2("closed", json!({"ingress": [kubelet()]}))]);
    wait_in_force(stage, &created);
    let mut seen = [0; 5];
    for _ in 0..2 {
        from.write_all(b"there").unwrap();
        there.read_exact(&mut seen).unwrap();
        there.write_all(b"back!").unwrap();
        from.read_exact(&mut seen).unwrap();
    }
    at.set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    to.write_all(b"more!").unwrap();
    let read = at.read(&mut seen).map_err(|error| error.kind());
    assert!(
        matches!(read, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)),
        "{read:?}"
    );
    theatre.server.delete(&created);
    wait_in_force(stage, &[]);
    at.set_read_timeout(Some(SOON)).unwrap();
    at.read_exact(&mut seen).unwrap();
}

/// A policy that forgets something is survived: the agent is asked on the node, the API server still reaches the kubelet, and the
/// node's audit mode opens it again.
#[track_caller]
fn locked(theatre: &mut Theatre, sh: &Shell) {
    let wanted = [about_node2("locked", json!({"ingress": [kubelet()]}))];
    let created = theatre.server.create(&wanted);
    wait_in_force(&theatre.stage, &created);
    let rules = Rules {
        host_firewall: true,
        ..objects::rules(&wanted).unwrap()
    };
    theatre.expect("nothing enters the node", &rules);
    let agent = "kubectl -n kube-system get pods -l k8s-app=cilium --field-selector spec.nodeName=node2 -o name";
    sh.has(
        &format!("kubectl -n kube-system logs $({agent}) --tail 1"),
        &[],
    );
    sh.has(
        &format!("kubectl -n kube-system exec $({agent}) -- cilium-dbg endpoint list"),
        &["reserved:host"],
    );
    let dbg = "hypha dbg --name $LAB --node node2";
    sh.has(
        &format!("{dbg} endpoint list"),
        &[
            "Enabled            Disabled          1          k8s:",
            "reserved:host",
        ],
    );
    let monitor = sh.start(&format!("{dbg} monitor -t policy-verdict"));
    monitor.says("Press Ctrl-C");
    sh.ok(&format!("{dbg} endpoint config 1 PolicyAuditMode=Enabled"));
    let audited = Rules {
        audited: ["node2".to_owned()].into(),
        ..rules.clone()
    };
    theatre.expect("the node is audited", &audited);
    monitor.says_such("an audited verdict of the node", |text| {
        text.lines()
            .any(|line| line.contains("local EP ID 1, ") && line.contains("action audit"))
    });
    let old = theatre.stage.cluster.kill_agent("node2");
    theatre.stage.cluster.wait_replaced("node2", Some(&old));
    wait_in_force(&theatre.stage, &created);
    sh.has(&format!("{dbg} endpoint list"), &["Disabled (Audit)"]);
    // Nothing passes, as far as the answer's status is concerned.
    let why = "hypha policy why --name $LAB a/x node/node2 7080/TCP || true";
    sh.until(why, &["denied, but passes: audit mode is on"]);
    theatre.expect("the node is audited after a restart", &audited);
    sh.ok(&format!("{dbg} endpoint config 1 PolicyAuditMode=Disabled"));
    let why = "hypha policy why --name $LAB a/x node/node2 7080/TCP | grep -v passes";
    sh.until(why, &["7080/TCP: denied"]);
    theatre.expect("the node is no longer audited", &rules);
    theatre.server.delete(&created);
    wait_in_force(&theatre.stage, &[]);
}
