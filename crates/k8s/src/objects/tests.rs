//! Objects become rows.
use super::*;
use serde_json::json;

#[test]
fn nodes_keep_addresses_and_ranges() {
    let object: Node = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1", "managedFields": []},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:244:1::/112"], "taints": []},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "192.168.10.100"}, {"type": "Hostname", "address": "node1"},
            {"type": "InternalIP", "address": "fd00:10::100"}, {"type": "ExternalIP", "address": "203.0.113.1"}]}
    }))
    .unwrap();
    let node = model::Node::from(object);
    assert_eq!(node.name, "node1");
    assert_eq!(node.addresses.len(), 2);
    assert_eq!(node.external, ["203.0.113.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(node.pod_cidrs.len(), 2);
}

#[test]
fn what_else_a_node_is_called_does_not_matter() {
    let ip = |text: &str| json!({"type": "InternalIP", "address": text});
    let (first, second) = (ip("192.0.2.1"), ip("2001:db8::1"));
    let host = json!({"type": "Hostname", "address": "127.0.0.1"});
    let outer = json!({"type": "ExternalIP", "address": "203.0.113.1"});
    let orders = [
        [&first, &second, &host, &outer],
        [&host, &outer, &first, &second],
        [&outer, &first, &host, &second],
        [&first, &host, &second, &outer],
    ];
    let rows = orders.map(|addresses| {
        let object = json!({"metadata": {"name": "n"}, "status": {"addresses": addresses}});
        model::Node::from(serde_json::from_value::<Node>(object).unwrap())
    });
    assert_eq!(rows[0].addresses.len(), 2);
    assert_eq!(rows[0].addresses[0].to_string(), "192.0.2.1");
    assert!(rows.iter().all(|row| *row == rows[0]));
}

#[test]
fn published_endpoints_say_who_is_where() {
    let networking =
        json!({"addressing": [{"ipv4": "10.0.0.1", "ipv6": "fd00::1"}], "node": "192.0.2.1"});
    let ports = json!([{"name": "web", "port": 80, "protocol": "TCP"}]);
    let object: PublishedEndpoint = serde_json::from_value(json!({
        "metadata": {"name": "a", "namespace": "shop"},
        "status": {"id": 3, "identity": {"id": 4711, "labels": []}, "networking": networking, "named-ports": ports}
    }))
    .unwrap();
    let row = RemoteEndpoint::from(object);
    assert_eq!(
        (row.key.as_str(), row.identity, row.addresses.len()),
        ("shop/a", 4711, 2)
    );
    let slice: crd::CiliumEndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "ces-x"}, "namespace": "shop",
        "endpoints": [{"name": "a", "id": 4711, "networking": networking, "named-ports": ports}]
    }))
    .unwrap();
    assert_eq!(model::EndpointSlice::from(slice).endpoints[0], row);
    let bare: PublishedEndpoint =
        serde_json::from_value(json!({"metadata": {"name": "b"}})).unwrap();
    assert_eq!(RemoteEndpoint::from(bare).identity, 0);
    let identity: crd::CiliumIdentity = serde_json::from_value(
        json!({"metadata": {"name": "300"}, "security-labels": {"k8s:app": "a"}}),
    )
    .unwrap();
    let identity = model::ClusterIdentity::from(identity);
    assert_eq!(
        (identity.id, identity.labels.to_string().as_str()),
        (300, "k8s:app=a")
    );
}

#[test]
fn pods_keep_what_is_read_and_survive_what_is_missing() {
    let object: Pod = serde_json::from_value(json!({
        "metadata": {"name": "a", "namespace": "shop", "uid": "u", "labels": {"app": "cart"}},
        "spec": {"nodeName": "node1", "containers": [{"name": "x"}, {"name": "y", "ports": [
            {"name": "web", "containerPort": 80, "protocol": "TCP"}, {"containerPort": 81}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}]},
        "status": {"phase": "Running", "podIP": "10.244.1.5", "podIPs": [{"ip": "10.244.1.5"}, {"ip": "fd00::5"}]}
    }))
    .unwrap();
    let pod = model::Pod::from(object);
    assert_eq!(
        (pod.key.as_str(), pod.node.as_str(), pod.addresses.len()),
        ("shop/a", "node1", 2)
    );
    assert!(!pod.finished && !pod.host_network);
    let ports: Vec<_> = pod
        .ports
        .iter()
        .map(|p| (&*p.name, p.protocol, p.port))
        .collect();
    assert_eq!(ports, [("dns", 17, 53), ("web", 6, 80)]);
    let bare: Pod = serde_json::from_value(json!({"metadata": {"name": "b"}})).unwrap();
    assert!(model::Pod::from(bare).node.is_empty());
}

#[test]
fn a_pod_is_a_part_of_what_people_made() {
    let owner = |kind: &str, name: &str| {
        let pod: Pod = serde_json::from_value(json!({"metadata": {
            "name": "p", "labels": {"pod-template-hash": "6d9"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Other", "name": "o", "uid": "1"},
                {"apiVersion": "v1", "kind": kind, "name": name, "uid": "2", "controller": true}
            ]
        }}))
        .unwrap();
        model::Pod::from(pod).owner.to_string()
    };
    assert_eq!(owner("ReplicaSet", "cart-6d9"), "Deployment/cart");
    assert_eq!(owner("ReplicaSet", "cart"), "ReplicaSet/cart");
    assert_eq!(owner("Job", "report-29380140"), "CronJob/report");
    assert_eq!(owner("Job", "report-1"), "Job/report-1");
    assert_eq!(owner("DaemonSet", "log-6d9"), "DaemonSet/log-6d9");
    let bare: Pod = serde_json::from_value(json!({"metadata": {"name": "b"}})).unwrap();
    assert!(model::Pod::from(bare).owner.is_empty());
}
