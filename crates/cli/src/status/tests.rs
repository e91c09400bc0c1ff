//! What `status` prints of clusters in different states.
use expect_test::expect;
use serde_json::json;

use super::*;

fn node(name: &str, agent: serde_json::Value) -> NodeState {
    NodeState {
        name: name.into(),
        agent: serde_json::from_value(agent).unwrap(),
        errors: Vec::new(),
        warnings: Vec::new(),
    }
}

fn cluster() -> Cluster {
    let agent = json!({
        "state": "ok", "version": "9.9.9", "node": "n1", "uptimeSeconds": 200, "endpoints": {"ready": 2, "creating": 1},
        "routing": {"mode": "tunnel", "tunnelProtocol": "vxlan", "host": "BPF"},
    });
    Cluster {
        nodes: vec![node("n1", agent.clone()), node("n2", agent)],
        pods: Some(6),
        ..Cluster::default()
    }
}

#[test]
fn pods_have_their_lines() {
    let part = |kind: &str, name: &str, number: i32| Component {
        kind: kind.into(),
        name: name.into(),
        desired: number,
        ready: number,
        available: number,
        complete: true,
        running: number.unsigned_abs() as usize,
        images: [(
            "reg.example/hypha:v9".to_owned(),
            number.unsigned_abs() as usize,
        )]
        .into(),
        errors: Vec::new(),
    };
    let mut cluster = Cluster {
        workloads: Some(Workloads {
            components: vec![
                part("DaemonSet", "cilium", 3),
                part("Deployment", "cilium-operator", 1),
                part("Deployment", "hubble-relay", 1),
            ],
            chart: "9.9.9".into(),
            pods: 6,
            managed: 5,
        }),
        ..Cluster::default()
    };
    assert!(cluster.good(false));
    expect![[r#"
                           Cilium:             OK
                           Operator:           OK
                           Envoy DaemonSet:    disabled
                           Hubble Relay:       OK
                           ClusterMesh:        disabled

        DaemonSet             cilium            Desired: 3, Ready: 3/3, Available: 3/3
        Deployment            cilium-operator   Desired: 1, Ready: 1/1, Available: 1/1
        Deployment            hubble-relay      Desired: 1, Ready: 1/1, Available: 1/1
        Containers:           cilium            Running: 3
                              cilium-operator   Running: 1
                              hubble-relay      Running: 1
        Cluster Pods:         5/6 managed by Cilium
        Helm chart version:   9.9.9
        Image versions        cilium            reg.example/hypha:v9: 3
                              cilium-operator   reg.example/hypha:v9: 1
                              hubble-relay      reg.example/hypha:v9: 1
    "#]]
    .assert_eq(&summary(&cluster));
    let agents = cluster
        .workloads
        .as_mut()
        .and_then(|all| all.components.first_mut());
    agents
        .unwrap()
        .errors
        .push(("cilium-x".into(), "cilium-agent: ErrImagePull".into()));
    assert!(!cluster.good(true));
    let text = summary(&cluster);
    assert!(text.contains("Cilium:             1 error"), "{text}");
    assert!(
        text.contains(
            "Errors:               cilium            cilium-x   cilium-agent: ErrImagePull"
        ),
        "{text}"
    );
}

#[test]
fn wrong_settings_are_told() {
    let one = |object: &str, text: &str| vec![(object.to_owned(), text.to_owned())];
    let mut cluster = cluster();
    cluster.settings.warnings = one("cilium-config", "routing-mod is ignored");
    assert!(cluster.good(true) && !cluster.good(false));
    cluster.settings.errors = one("CiliumNodeConfig n", "mtu=7 is not accepted");
    assert!(!cluster.good(true));
    let text = summary(&cluster);
    for line in [
        "Cilium:             1 error, 1 warning",
        "settings   CiliumNodeConfig n   mtu=7 is not accepted",
        "settings   cilium-config   routing-mod is ignored",
    ] {
        let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            flat(&text).contains(&flat(line)),
            "{line} is not in\n{text}"
        );
    }
}

#[test]
fn the_operator_has_its_lines() {
    let mut cluster = cluster();
    cluster.operator = Some(OperatorState {
        leader: "n1-77".into(),
        errors: vec!["node n2: no /24 is left in 10.0.0.0/23".into()],
    });
    assert!(!cluster.good(true));
    let text = summary(&cluster);
    for line in [
        "Operator:           1 error",
        "Deployment       cilium-operator   Desired: 1, Ready: 1/1, Available: 1/1",
        "                 cilium-operator   Running: 1",
        "Errors:          cilium-operator   n1-77   node n2: no /24 is left in 10.0.0.0/23",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn all_is_well() {
    expect![[r#"
                           Cilium:             OK
                           Operator:           disabled
                           Envoy DaemonSet:    disabled
                           Hubble Relay:       disabled
                           ClusterMesh:        disabled

        DaemonSet        cilium   Desired: 2, Ready: 2/2, Available: 2/2
        Containers:      cilium   Running: 2
        Cluster Pods:    6/6 managed by Cilium
        Image versions   cilium   hypha v9.9.9: 2
        Nodes:           n1       Ok, 3 endpoints, vxlan, up 3m20s
                         n2       Ok, 3 endpoints, vxlan, up 3m20s
    "#]]
    .assert_eq(&summary(&cluster()));
}

#[test]
fn errors_and_warnings() {
    let mut cluster = cluster();
    cluster.nodes[0]
        .warnings
        .push("monitor: 7 events lost".into());
    cluster.nodes[1].agent = None;
    cluster.nodes[1]
        .errors
        .push("cannot reach the agent".into());
    assert!(!cluster.good(true));
    expect![[r#"
                           Cilium:             1 error, 1 warning
                           Operator:           disabled
                           Envoy DaemonSet:    disabled
                           Hubble Relay:       disabled
                           ClusterMesh:        disabled

        DaemonSet        cilium   Desired: 2, Ready: 1/2, Available: 1/2
        Containers:      cilium   Running: 1
        Cluster Pods:    3/6 managed by Cilium
        Image versions   cilium   hypha v9.9.9: 1
        Nodes:           n1       Ok, 3 endpoints, vxlan, up 3m20s
                         n2       no answer
        Errors:          cilium   n2   cannot reach the agent
        Warnings:        cilium   n1   monitor: 7 events lost
    "#]]
    .assert_eq(&summary(&cluster));
}

#[test]
fn waits_as_people_write_them() {
    assert_eq!(parse_wait("5m"), Ok(Duration::from_secs(300)));
    assert_eq!(parse_wait("90"), Ok(Duration::from_secs(90)));
    for bad in ["", "m", "5x", "-1s"] {
        assert!(parse_wait(bad).is_err(), "{bad}");
    }
}
