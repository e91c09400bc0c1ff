//! Addresses and ports of services.

use serde_json::{Value, json};

use crate::api::{Api, MERGE};

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "selector": { "app": "x" }, "ports": [{ "port": 80 }] } });
    for (field, value) in spec.as_object().unwrap() {
        service["spec"][field] = value.clone();
    }
    service
}

#[tokio::test]
async fn defaults_are_those_of_a_real_cluster() {
    let api = Api::new();
    let made = api.post(SERVICES, service("a", json!({}))).await.good();
    let spec = &made["spec"];
    let ip = spec["clusterIP"].as_str().unwrap();
    assert!(ip.starts_with("10.96."), "{ip}");
    let expected = json!({ "clusterIP": ip, "clusterIPs": [ip], "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack", "ports": [{ "port": 80, "protocol": "TCP", "targetPort": 80 }],
        "selector": { "app": "x" }, "sessionAffinity": "None", "type": "ClusterIP" });
    assert_eq!(*spec, expected);
    assert_eq!(made["status"], json!({ "loadBalancer": {} }));
    // The server's own service cannot be lost.
    api.delete(&format!("{SERVICES}/kubernetes"), Value::Null)
        .await
        .good();
    let own = api.get(&format!("{SERVICES}/kubernetes")).await.good();
    assert_eq!(own["spec"]["clusterIP"], "10.96.0.1");
}

#[tokio::test]
async fn families() {
    let api = Api::new();
    let dual = api
        .post(
            SERVICES,
            service("dual", json!({ "ipFamilyPolicy": "PreferDualStack" })),
        )
        .await
        .good();
    assert_eq!(dual["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert!(
        dual["spec"]["clusterIPs"][1]
            .as_str()
            .unwrap()
            .starts_with("fd00:96::")
    );
    let six = api
        .post(SERVICES, service("six", json!({ "ipFamilies": ["IPv6"] })))
        .await
        .good();
    assert!(
        six["spec"]["clusterIP"]
            .as_str()
            .unwrap()
            .starts_with("fd00:96::")
    );
    // Another family can come and go.
    let path = format!("{SERVICES}/six");
    let both = json!({ "spec": { "ipFamilyPolicy": "RequireDualStack" } });
    let both = api.patch(&path, MERGE, both).await.good();
    assert_eq!(both["spec"]["ipFamilies"], json!(["IPv6", "IPv4"]));
    assert_eq!(both["spec"]["clusterIPs"][0], six["spec"]["clusterIP"]);
    let single = json!({ "spec": { "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"],
        "clusterIPs": [six["spec"]["clusterIP"]] } });
    let single = api.patch(&path, MERGE, single).await.good();
    assert_eq!(single["spec"]["clusterIPs"], six["spec"]["clusterIPs"]);

    let headless = api
        .post(
            SERVICES,
            service("headless", json!({ "clusterIP": "None" })),
        )
        .await
        .good();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    assert_eq!(headless["spec"]["ipFamilies"], json!(["IPv4"]));
    let external = json!({ "type": "ExternalName", "externalName": "example.org", "ports": [] });
    let external = api
        .post(SERVICES, service("external", external))
        .await
        .good();
    assert_eq!(
        (
            &external["spec"]["clusterIP"],
            &external["spec"]["ipFamilies"]
        ),
        (&Value::Null, &Value::Null)
    );
}

#[tokio::test]
async fn asked_for_addresses_are_given_once_and_inside_the_range() {
    let api = Api::new();
    let dns = service("dns", json!({ "clusterIP": "10.96.0.10" }));
    api.post(SERVICES, dns).await.good();
    let again = api
        .post(
            SERVICES,
            service("again", json!({ "clusterIP": "10.96.0.10" })),
        )
        .await
        .refused(422);
    let why = "Service \"again\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.10\"]: \
               failed to allocate IP 10.96.0.10: provided IP is already allocated";
    assert_eq!(again, why);
    let outside = api
        .post(
            SERVICES,
            service("outside", json!({ "clusterIP": "10.0.0.10" })),
        )
        .await
        .refused(422);
    assert!(
        outside.ends_with("The range of valid IPs is 10.96.0.0/16"),
        "{outside}"
    );
    let moved = json!({ "spec": { "clusterIP": "10.96.0.11", "clusterIPs": ["10.96.0.11"] } });
    let moved = api
        .patch(&format!("{SERVICES}/dns"), MERGE, moved)
        .await
        .refused(422);
    assert!(moved.contains("may not change once set"), "{moved}");
    // What is deleted is free again.
    api.delete(&format!("{SERVICES}/dns"), Value::Null)
        .await
        .good();
    api.post(
        SERVICES,
        service("again", json!({ "clusterIP": "10.96.0.10" })),
    )
    .await
    .good();
}

#[tokio::test]
async fn node_ports() {
    let api = Api::new();
    let ports = json!([{ "name": "t", "port": 53 }, { "name": "u", "port": 53, "protocol": "UDP" }, { "name": "w", "port": 80 }]);
    let made = api
        .post(
            SERVICES,
            service("n", json!({ "type": "NodePort", "ports": ports })),
        )
        .await
        .good();
    let given = |service: &Value| -> Vec<Option<u64>> {
        service["spec"]["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["nodePort"].as_u64())
            .collect()
    };
    let first = given(&made);
    assert!(
        first
            .iter()
            .all(|p| (30_000..=32_767).contains(&p.unwrap())),
        "{first:?}"
    );
    assert_eq!(first[0], first[1]);
    assert_ne!(first[0], first[2]);
    assert_eq!(made["spec"]["externalTrafficPolicy"], "Cluster");

    let wanted =
        |port: u16| json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": port }] });
    let taken = u16::try_from(first[2].unwrap()).unwrap();
    let twice = api
        .post(SERVICES, service("twice", wanted(taken)))
        .await
        .refused(422);
    assert!(twice.contains(&format!(
        "spec.ports[0].nodePort: Invalid value: {taken}: provided port is already allocated"
    )));
    let outside = api
        .post(SERVICES, service("outside", wanted(80)))
        .await
        .refused(422);
    assert!(
        outside.ends_with("The range of valid ports is 30000-32767"),
        "{outside}"
    );

    // A manifest without the given values can be applied again and again.
    let path = format!("{SERVICES}/n");
    let replaced = api
        .put(
            &path,
            service("n", json!({ "type": "NodePort", "ports": ports })),
        )
        .await
        .good();
    assert_eq!(
        (given(&replaced), &replaced["spec"]["clusterIP"]),
        (first.clone(), &made["spec"]["clusterIP"])
    );
    // Another type has no use for them, and they are free.
    let plain = api
        .patch(&path, MERGE, json!({ "spec": { "type": "ClusterIP" } }))
        .await
        .good();
    assert_eq!(given(&plain), [None, None, None]);
    assert_eq!(plain["spec"]["externalTrafficPolicy"], Value::Null);
    api.post(SERVICES, service("twice", wanted(taken)))
        .await
        .good();
}

#[tokio::test]
async fn load_balancers_with_local_traffic_have_a_health_port() {
    let api = Api::new();
    let spec = json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local" });
    let made = api.post(SERVICES, service("lb", spec)).await.good();
    let port = made["spec"]["healthCheckNodePort"].as_u64().unwrap();
    assert!(
        (30_000..=32_767).contains(&port) && made["spec"]["allocateLoadBalancerNodePorts"] == true
    );
    let path = format!("{SERVICES}/lb");
    let cluster = json!({ "spec": { "externalTrafficPolicy": "Cluster" } });
    assert_eq!(
        api.patch(&path, MERGE, cluster).await.good()["spec"]["healthCheckNodePort"],
        Value::Null
    );
    let without = json!({ "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false });
    let without = api.post(SERVICES, service("without", without)).await.good();
    assert_eq!(without["spec"]["ports"][0]["nodePort"], Value::Null);
}

#[tokio::test]
async fn faults_are_named() {
    let api = Api::new();
    let refused = async |spec: Value| api.post(SERVICES, service("x", spec)).await.refused(422);
    assert!(
        refused(json!({ "ports": [] }))
            .await
            .ends_with("spec.ports: Required value")
    );
    let unnamed = refused(json!({ "ports": [{ "port": 1 }, { "port": 2 }] })).await;
    assert!(
        unnamed.contains("spec.ports[0].name: Required value, spec.ports[1].name: Required value"),
        "{unnamed}"
    );
    let mistyped = refused(json!({ "type": "Nodeport" })).await;
    let list = "\"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"";
    assert!(
        mistyped.ends_with(&format!(
            "spec.type: Unsupported value: \"Nodeport\": supported values: {list}"
        )),
        "{mistyped}"
    );
    let unused = refused(json!({ "ports": [{ "port": 80, "nodePort": 30_000 }] })).await;
    assert!(
        unused.contains(
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"
        ),
        "{unused}"
    );
    assert!(
        refused(json!({ "ports": [{ "port": 0 }] }))
            .await
            .contains("must be between 1 and 65535, inclusive")
    );
    // Nothing was taken by what was refused or only tried.
    let dry = api
        .post(
            &format!("{SERVICES}?dryRun=All"),
            service("x", json!({ "type": "NodePort" })),
        )
        .await
        .good();
    assert!(dry["spec"]["ports"][0]["nodePort"].is_u64());
    assert_eq!(api.names(SERVICES).await, ["kubernetes"]);
}

#[tokio::test]
async fn nobody_gets_what_another_has() {
    let api = Api::new();
    let mut seen = std::collections::BTreeSet::new();
    for i in 0..300 {
        let spec = json!({ "type": "NodePort", "ipFamilyPolicy": "RequireDualStack" });
        let made = api
            .post(SERVICES, service(&format!("s{i}"), spec))
            .await
            .good();
        for address in made["spec"]["clusterIPs"].as_array().unwrap() {
            assert!(seen.insert(address.to_string()));
        }
        assert!(seen.insert(made["spec"]["ports"][0]["nodePort"].to_string()));
    }
    assert_eq!(seen.len(), 900);
}
