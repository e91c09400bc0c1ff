use super::*;
use model::service::{Endpoint, Slice};
use serde_json::json;

fn service(value: Value) -> model::Service {
    serde_json::from_value::<Service>(value).unwrap().into()
}

fn slice(value: Value) -> Slice {
    serde_json::from_value::<EndpointSlice>(value)
        .unwrap()
        .into()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn everything_a_service_can_say() {
    let row = service(json!({
        "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}, "creationTimestamp": "1970-01-01T00:01:40Z",
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "…", "service.cilium.io/type": "NodePort",
                "lbipam.cilium.io/ips": "192.0.2.7", "io.cilium/lb-ipam-sharing-key": "a"}},
        "spec": {
            "type": "LoadBalancer", "selector": {"app": "web"}, "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
            "externalIPs": ["192.0.2.1"], "ports": [
                {"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080}, {"name": "dns", "protocol": "UDP", "port": 53}],
            "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster", "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}, "loadBalancerSourceRanges": ["10.0.0.0/8"],
            "publishNotReadyAddresses": true, "healthCheckNodePort": 30999, "loadBalancerClass": "io.cilium/node",
            "loadBalancerIP": "192.0.2.8", "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6", "IPv4"]},
        "status": {"loadBalancer": {"ingress": [
            {"ip": "192.0.2.9", "ipMode": "Proxy"}, {"hostname": "lb.example"}, {"ip": "fd00::9", "ipMode": "VIP"}]}}
    }));
    assert_eq!(row.problems, Vec::<String>::new());
    let annotations: Vec<_> = row.annotations.iter().map(|(key, _)| key).collect();
    assert_eq!(
        annotations,
        [
            "io.cilium/lb-ipam-sharing-key",
            "lbipam.cilium.io/ips",
            "service.cilium.io/type"
        ]
    );
    let port = |name: &str, protocol, port, node_port| ServicePort {
        name: name.into(),
        protocol,
        port,
        node_port,
    };
    let want = model::Service {
        key: "shop/web".into(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        annotations: row.annotations.clone(),
        created: 100,
        kind: ServiceType::LoadBalancer,
        selector: [("app".to_owned(), "web".to_owned())].into(),
        cluster_ips: vec![ip("10.96.0.7"), ip("fd00::7")],
        external_ips: vec![ip("192.0.2.1")],
        ingress: vec![
            Ingress {
                address: ip("192.0.2.9"),
                proxy: true,
            },
            Ingress {
                address: ip("fd00::9"),
                proxy: false,
            },
        ],
        ports: vec![
            port("http", Protocol::Tcp, 80, 30080),
            port("dns", Protocol::Udp, 53, 0),
        ],
        external_policy: TrafficPolicy::Local,
        internal_policy: TrafficPolicy::Cluster,
        affinity: Some(600),
        source_ranges: vec!["10.0.0.0/8".into()],
        publish_not_ready: true,
        health_check_port: 30999,
        class: "io.cilium/node".into(),
        wanted_address: "192.0.2.8".into(),
        families: Families::PreferDual,
        ipv6: vec![true, false],
        problems: Vec::new(),
    };
    assert_eq!(row, want);
}

#[test]
fn headless_and_bare_services() {
    let headless = service(json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}));
    assert!(headless.cluster_ips.is_empty() && headless.problems.is_empty());
    let old = service(json!({"spec": {"clusterIP": "10.96.0.1", "sessionAffinity": "ClientIP"}}));
    assert_eq!(old.cluster_ips, [ip("10.96.0.1")]);
    assert_eq!(old.affinity, Some(AFFINITY));
    let bare = service(json!({"metadata": {"name": "x", "namespace": "y"}}));
    assert_eq!(bare.key.as_str(), "y/x");
    assert!(bare.problems.is_empty() && bare.affinity.is_none());
    let name = service(
        json!({"spec": {"type": "ExternalName", "externalName": "a.example", "sessionAffinity": "None"}}),
    );
    assert_eq!(
        (name.kind, name.affinity),
        (ServiceType::ExternalName, None)
    );
}

#[test]
fn what_of_a_service_is_odd_is_left_out_and_told() {
    let row = service(json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"type": "Magic", "clusterIPs": ["10.96.0.7", "10.96.0.777"], "externalIPs": "192.0.2.1",
            "ports": [{"port": 80}, {"port": 70000}, {"port": 81, "protocol": "ICMP"}, 7, {"port": 82, "nodePort": "x"}],
            "externalTrafficPolicy": "Near", "publishNotReadyAddresses": "yes", "selector": {"a": 1}, "sessionAffinity": 1},
        "status": [],
    }));
    assert_eq!(row.cluster_ips, [ip("10.96.0.7")]);
    let ports: Vec<u16> = row.ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [80, 82]);
    for part in [
        "spec.type: \"Magic\" is not understood; accepted: ClusterIP, NodePort",
        "spec.clusterIPs[1]: \"10.96.0.777\" is not understood",
        "spec.externalIPs: is no list",
        "spec.ports[1]: 70000 is not understood; accepted: a port from 1 to 65535",
        "spec.ports[2]: \"ICMP\" is not understood; accepted: TCP, UDP, SCTP",
        "spec.ports[3]: is no object",
        "spec.ports[3]: no port",
        "spec.ports[4]: \"x\" is not understood",
        "spec.externalTrafficPolicy: \"Near\"",
        "spec.publishNotReadyAddresses: \"yes\"",
        "spec.selector.a: 1 is no text",
        "spec.sessionAffinity: 1 is not understood",
        "status: is no object",
    ] {
        let told = row.problems.iter().any(|line| line.starts_with(part));
        assert!(told, "{part} is not in {:#?}", row.problems);
    }
    assert_eq!(row.problems.len(), 13);
}

#[test]
fn everything_a_slice_can_say() {
    let row = slice(json!({
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {SERVICE_NAME: "web"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "now", "service.cilium.io/weight": "7"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "all", "port": null}],
        "endpoints": [
            {"addresses": ["10.1.0.1", "10.1.0.2"], "nodeName": "n1", "zone": "z1",
                "hints": {"forZones": [{"name": "z1"}, {"name": "z2"}], "forNodes": [{"name": "n1"}]}},
            {"addresses": ["10.1.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.1.0.4"], "conditions": {"ready": false}},
            {"addresses": []}]
    }));
    assert_eq!(row.problems, Vec::<String>::new());
    assert_eq!((&*row.key, &*row.service), ("shop/web-1", "shop/web"));
    let annotations: Vec<_> = row.annotations.iter().collect();
    assert_eq!(annotations, [("service.cilium.io/weight", "7")]);
    assert_eq!(row.ports.len(), 1);
    let first = Endpoint {
        zone: "z1".into(),
        zones: ["z1".into(), "z2".into()].into(),
        nodes: ["n1".into()].into(),
        ..Endpoint::ready(ip("10.1.0.1"), "n1")
    };
    assert_eq!(row.endpoints[0], first);
    let states = |one: &Endpoint| (one.ready, one.serving, one.terminating);
    let states: Vec<_> = row.endpoints.iter().map(states).collect();
    assert_eq!(
        states,
        [
            (true, true, false),
            (false, true, true),
            (false, false, false)
        ]
    );
}

#[test]
fn names_of_hosts_and_slices_of_nobody_are_no_mistake() {
    let row = slice(
        json!({"metadata": {"name": "x", "namespace": "y"}, "addressType": "FQDN", "ports": null,
        "endpoints": [{"addresses": ["a.example"]}]}),
    );
    assert!(row.endpoints.is_empty() && row.problems.is_empty() && row.service.is_empty());
}

#[test]
fn what_of_a_slice_is_odd_is_left_out_and_told() {
    let row = slice(json!({
        "metadata": {"name": "web-1", "namespace": "shop"}, "addressType": "IPv6",
        "ports": [{"port": -1}, {"port": 80}],
        "endpoints": [{"addresses": ["10.1.0.1"]}, {"addresses": ["x"]}, null, "y", {"addresses": 7},
            {"addresses": ["fd00::1"], "conditions": {"ready": "no"}, "nodeName": {}, "hints": []}]
    }));
    assert_eq!(row.endpoints, [Endpoint::ready(ip("fd00::1"), "")]);
    assert_eq!(row.ports.len(), 1);
    assert_eq!(row.problems.len(), 8, "{:#?}", row.problems);
    assert_eq!(
        row.problems[1],
        "endpoints[0].addresses: 10.1.0.1 is of the other family; accepted: an IPv6 address"
    );
    let broken = slice(json!({"metadata": {"name": "x"}, "addressType": 4, "endpoints": {}}));
    assert_eq!(broken.problems.len(), 2);
}

#[test]
fn addresses_that_no_other_machine_has_are_no_backends() {
    for (kind, bad) in [
        ("IPv4", "127.0.0.1"),
        ("IPv4", "0.0.0.0"),
        ("IPv4", "169.254.1.1"),
        ("IPv4", "224.0.0.1"),
        ("IPv4", "255.255.255.255"),
        ("IPv6", "::1"),
        ("IPv6", "::"),
        ("IPv6", "fe80::1"),
        ("IPv6", "ff02::1"),
        ("IPv6", "::ffff:10.1.0.1"),
    ] {
        let good = if kind == "IPv4" {
            "10.1.0.1"
        } else {
            "fd00::1"
        };
        let row = slice(json!({
            "metadata": {"name": "x"},
            "addressType": kind,
            "endpoints": [{"addresses": [bad]}, {"addresses": [good]}],
        }));
        let addresses: Vec<_> = row
            .endpoints
            .iter()
            .map(|e| e.address.to_string())
            .collect();
        assert_eq!(addresses, [good], "{bad}");
        let said = format!(
            "endpoints[0].addresses: {bad} is no backend's; accepted: an address that another machine can have"
        );
        assert_eq!(row.problems, [said.as_str()]);
    }
}

#[test]
fn beta_slices_have_node_and_zone_in_their_topology() {
    let object = json!({
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "", "protocol": "TCP", "port": 80}],
        "endpoints": [
            {"addresses": ["10.1.0.1"], "conditions": {"ready": true},
                "topology": {"kubernetes.io/hostname": "n1", "topology.kubernetes.io/zone": "z1", "topology.kubernetes.io/region": "r"}},
            {"addresses": ["10.1.0.2"], "nodeName": "n2", "topology": null},
            {"addresses": ["10.1.0.3"], "topology": {"kubernetes.io/hostname": 7}},
        ],
    });
    let row = Slice::from(serde_json::from_value::<EndpointSlice<true>>(object).unwrap());
    let places: Vec<_> = row.endpoints.iter().map(|e| (&*e.node, &*e.zone)).collect();
    assert_eq!(places, [("n1", "z1"), ("n2", ""), ("", "")]);
    assert_eq!(row.problems.len(), 1, "{:?}", row.problems);
    assert_eq!(
        EndpointSlice::<true>::url_path(&(), None),
        "/apis/discovery.k8s.io/v1beta1/endpointslices"
    );
}

#[test]
fn a_list_with_a_malformed_object_is_read() {
    let list: Vec<EndpointSlice> = serde_json::from_value(json!([
        {"metadata": {"name": "bad"}, "addressType": {}, "ports": true, "endpoints": "none"},
        {"metadata": {"name": "good"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.1.0.1"]}]},
    ]))
    .unwrap();
    let rows: Vec<Slice> = list.into_iter().map(Slice::from).collect();
    assert_eq!(rows[0].problems.len(), 3);
    assert_eq!(rows[1].endpoints.len(), 1);
}

#[test]
fn declared_objects_keep_what_they_say() {
    let object: Object<crate::policy::Redirect> = serde_json::from_value(json!({
        "metadata": {"name": "dns", "namespace": "kube-system", "uid": "u", "creationTimestamp": "1970-01-01T00:00:05Z"},
        "spec": {"description": "x"}, "status": {"conditions": [{"type": "a"}]},
    }))
    .unwrap();
    let row = model::Declared::from(object);
    assert_eq!((&*row.key, row.created), ("kube-system/dns", 5));
    assert_eq!(
        (&*row.spec, &*row.conditions),
        (r#"{"description":"x"}"#, r#"[{"type":"a"}]"#)
    );
}
