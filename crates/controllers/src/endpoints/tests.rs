use k8s_openapi::api::{
    core::v1::Endpoints,
    discovery::v1::{Endpoint, EndpointSlice},
};
use serde_json::{Value, json};

use crate::{Kind, meta, sim::Sim};

fn service(extra: Value) -> Value {
    let mut service = json!({
        "metadata": {"name": "web", "labels": {"team": "red"}},
        "spec": {
            "selector": {"app": "web"},
            "clusterIP": "10.96.0.7",
            "ipFamilies": ["IPv4", "IPv6"],
            "ports": [{"name": "http", "port": 80, "targetPort": "web"}],
        },
    });
    for (key, value) in extra.as_object().unwrap() {
        service["spec"][key] = value.clone();
    }
    service
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
    })
}

fn with_pods(count: usize, extra: Value) -> Sim {
    let mut sim = Sim::new();
    sim.nodes(1);
    sim.edit(Kind::Node, "n1", |n| {
        n["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("z1")
    });
    sim.apply(Kind::Service, service(extra));
    for i in 0..count {
        sim.apply(Kind::Pod, pod(&format!("p{i:03}")));
    }
    sim.run_all();
    sim
}

fn slices(sim: &Sim, family: &str) -> Vec<EndpointSlice> {
    let all = sim.all::<EndpointSlice>().into_iter();
    all.filter(|slice| slice.address_type == family).collect()
}

fn endpoints(sim: &Sim) -> Vec<Endpoint> {
    slices(sim, "IPv4")
        .into_iter()
        .flat_map(|s| s.endpoints.unwrap_or_default())
        .collect()
}

#[test]
fn a_slice_per_family_with_everything_about_the_pods() {
    let sim = with_pods(2, json!({}));
    for family in ["IPv4", "IPv6"] {
        let slices = slices(&sim, family);
        assert_eq!(slices.len(), 1);
        let slice = &slices[0];
        let labels = slice.metadata.labels.as_ref().unwrap();
        assert_eq!(labels["kubernetes.io/service-name"], "web");
        assert_eq!(
            labels["endpointslice.kubernetes.io/managed-by"],
            "endpointslice-controller.k8s.io"
        );
        assert_eq!(labels["team"], "red");
        assert!(meta::name(&slice.metadata).starts_with("web-"));
        let port = &slice.ports.as_ref().unwrap()[0];
        assert_eq!(
            (port.name.as_deref(), port.port, port.protocol.as_deref()),
            (Some("http"), Some(8080), Some("TCP"))
        );
        let all = slice.endpoints.as_ref().unwrap();
        assert_eq!(all.len(), 2);
        let conditions = all[0].conditions.as_ref().unwrap();
        assert_eq!(
            (conditions.ready, conditions.serving, conditions.terminating),
            (Some(true), Some(true), Some(false))
        );
        assert_eq!(
            (all[0].node_name.as_deref(), all[0].zone.as_deref()),
            (Some("n1"), Some("z1"))
        );
        assert_eq!(
            all[0].target_ref.as_ref().unwrap().name.as_deref(),
            Some("p000")
        );
    }
    let old = sim.get::<Endpoints>("web").unwrap();
    let subset = &old.subsets.as_ref().unwrap()[0];
    assert_eq!(subset.addresses.as_ref().unwrap().len(), 2);
    assert_eq!(subset.ports.as_ref().unwrap()[0].port, 8080);
}

#[test]
fn pods_that_are_unready_or_end_stay_with_their_conditions() {
    let mut sim = with_pods(2, json!({}));
    sim.run_pod("p000", false);
    sim.edit(Kind::Pod, "p001", |p| {
        p["metadata"]["deletionTimestamp"] = json!("2027-01-15T08:00:00Z")
    });
    sim.settle();
    let states: Vec<_> = endpoints(&sim)
        .into_iter()
        .map(|e| {
            let c = e.conditions.unwrap();
            (c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap())
        })
        .collect();
    assert_eq!(states, [(false, false, false), (false, true, true)]);
    let subset = sim
        .get::<Endpoints>("web")
        .unwrap()
        .subsets
        .unwrap()
        .remove(0);
    assert_eq!(subset.addresses, None);
    assert_eq!(
        subset.not_ready_addresses.unwrap().len(),
        1,
        "the older form leaves ending pods out"
    );
}

#[test]
fn unready_pods_can_be_published() {
    let mut sim = with_pods(
        1,
        json!({"publishNotReadyAddresses": true, "clusterIP": "None"}),
    );
    sim.run_pod("p000", false);
    sim.settle();
    assert_eq!(
        endpoints(&sim)[0].conditions.as_ref().unwrap().ready,
        Some(true)
    );
    let labels = slices(&sim, "IPv4")[0].metadata.labels.clone().unwrap();
    assert_eq!(labels["service.kubernetes.io/headless"], "");
    assert!(
        sim.get::<Endpoints>("web").unwrap().subsets.unwrap()[0]
            .addresses
            .is_some()
    );
}

#[test]
fn no_slice_has_more_than_a_hundred_and_endpoints_stay_where_they_are() {
    let mut sim = with_pods(230, json!({"ipFamilies": ["IPv4"]}));
    let sizes = |sim: &Sim| {
        let mut sizes: Vec<_> = slices(sim, "IPv4")
            .iter()
            .map(|s| s.endpoints.as_ref().unwrap().len())
            .collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes(&sim), [30, 100, 100]);
    let before: Vec<_> = slices(&sim, "IPv4")
        .iter()
        .map(|s| s.metadata.resource_version.clone())
        .collect();
    sim.run_pod("p000", false);
    sim.settle();
    let after: Vec<_> = slices(&sim, "IPv4")
        .iter()
        .map(|s| s.metadata.resource_version.clone())
        .collect();
    assert_eq!(
        before.iter().zip(&after).filter(|(a, b)| a != b).count(),
        1,
        "one slice is written"
    );
    assert_eq!(endpoints(&sim).len(), 230);
}

#[test]
fn pods_with_other_port_numbers_have_slices_of_their_own() {
    let mut sim = with_pods(1, json!({"ipFamilies": ["IPv4"]}));
    let mut other = pod("other");
    other["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(9090);
    sim.apply(Kind::Pod, other);
    sim.run_all();
    let mut ports: Vec<_> = slices(&sim, "IPv4")
        .iter()
        .map(|s| s.ports.as_ref().unwrap()[0].port)
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, [Some(8080), Some(9090)]);
}

#[test]
fn a_service_without_pods_has_an_empty_slice() {
    let mut sim = with_pods(0, json!({"ipFamilies": ["IPv4"]}));
    assert_eq!(slices(&sim, "IPv4").len(), 1);
    assert!(endpoints(&sim).is_empty());
    sim.apply(Kind::Pod, pod("p"));
    sim.run_all();
    assert_eq!(
        (slices(&sim, "IPv4").len(), endpoints(&sim).len()),
        (1, 1),
        "the placeholder is gone"
    );
    let key = crate::Key::new("default", "p");
    sim.remove(Kind::Pod, &key);
    sim.settle();
    assert_eq!((slices(&sim, "IPv4").len(), endpoints(&sim).len()), (1, 0));
}

#[test]
fn finished_pods_and_others_slices_do_not_count() {
    let mut sim = with_pods(2, json!({"ipFamilies": ["IPv4"]}));
    sim.apply(
        Kind::EndpointSlice,
        json!({
            "metadata": {"name": "by-hand", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": [],
        }),
    );
    sim.edit(Kind::Pod, "p000", |p| {
        p["status"]["phase"] = json!("Succeeded")
    });
    sim.settle();
    assert_eq!(endpoints(&sim).len(), 1);
    assert!(sim.get::<EndpointSlice>("by-hand").is_some());
}

#[test]
fn names_of_pods_below_the_service() {
    let mut sim = with_pods(0, json!({"clusterIP": "None", "ipFamilies": ["IPv4"]}));
    let mut named = pod("db-0");
    named["spec"]["hostname"] = json!("db-0");
    named["spec"]["subdomain"] = json!("web");
    sim.apply(Kind::Pod, named);
    sim.run_all();
    assert_eq!(endpoints(&sim)[0].hostname.as_deref(), Some("db-0"));
}

#[test]
fn what_was_made_for_a_service_goes_with_it() {
    let mut sim = with_pods(1, json!({}));
    sim.remove(Kind::Service, &crate::Key::new("default", "web"));
    sim.settle();
    assert!(
        sim.get::<Endpoints>("web").is_none(),
        "slices have an owner, endpoints have none"
    );
}

/// The node of an endpoint, and the zones and nodes that it is for.
type Hinted = (String, Vec<String>, Vec<String>);

/// Two nodes in zone z1, one in z2, a pod on each, and what is said of their endpoints.
fn hinted(edit: impl FnOnce(&mut Value)) -> (Sim, impl Fn(&Sim) -> Vec<Hinted>) {
    let mut sim = Sim::new();
    sim.nodes(3);
    for (node, zone) in [("n1", "z1"), ("n2", "z1"), ("n3", "z2")] {
        sim.edit(Kind::Node, node, |n| {
            n["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!(zone)
        });
    }
    let mut service = service(json!({"ipFamilies": ["IPv4"]}));
    edit(&mut service);
    sim.apply(Kind::Service, service);
    for i in 1..=3 {
        let mut pod = pod(&format!("p{i}"));
        pod["spec"]["nodeName"] = json!(format!("n{i}"));
        sim.apply(Kind::Pod, pod);
    }
    sim.run_all();
    let shown = |sim: &Sim| {
        let mut all: Vec<_> = endpoints(sim)
            .into_iter()
            .map(|endpoint| {
                let hints = endpoint.hints.unwrap_or_default();
                let zones = hints.for_zones.into_iter().flatten().map(|zone| zone.name);
                let nodes = hints.for_nodes.into_iter().flatten().map(|node| node.name);
                let node = endpoint.node_name.unwrap();
                (node, zones.collect(), nodes.collect())
            })
            .collect();
        all.sort();
        all
    };
    (sim, shown)
}

fn of(node: &str, zones: &[&str], nodes: &[&str]) -> Hinted {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    (node.to_owned(), texts(zones), texts(nodes))
}

#[test]
fn close_endpoints_are_hinted_at_where_the_service_prefers_them() {
    for value in ["PreferClose", "PreferSameZone"] {
        let (mut sim, shown) = hinted(|s| s["spec"]["trafficDistribution"] = json!(value));
        assert_eq!(
            shown(&sim),
            [
                of("n1", &["z1"], &[]),
                of("n2", &["z1"], &[]),
                of("n3", &["z2"], &[])
            ]
        );
        // Whoever is not ready has no hint; a node may move; the wish may end.
        sim.run_pod("p1", false);
        sim.edit(Kind::Node, "n2", |n| {
            n["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("z3")
        });
        sim.settle();
        assert_eq!(
            shown(&sim),
            [
                of("n1", &[], &[]),
                of("n2", &["z3"], &[]),
                of("n3", &["z2"], &[])
            ]
        );
        sim.edit(Kind::Service, "web", |s| {
            s["spec"]["trafficDistribution"] = Value::Null
        });
        sim.settle();
        assert_eq!(
            shown(&sim),
            ["n1", "n2", "n3"].map(|node| of(node, &[], &[]))
        );
    }
    let (sim, shown) = hinted(|s| s["spec"]["trafficDistribution"] = json!("PreferSameNode"));
    assert_eq!(
        shown(&sim),
        [
            of("n1", &["z1"], &["n1"]),
            of("n2", &["z1"], &["n2"]),
            of("n3", &["z2"], &["n3"])
        ]
    );
}

#[test]
fn endpoints_are_balanced_between_zones_by_their_processors() {
    let mode = "service.kubernetes.io/topology-mode";
    let (mut sim, shown) = hinted(|s| {
        s["metadata"]["annotations"] = json!({mode: "Auto"});
        s["spec"]["trafficDistribution"] = json!("PreferSameNode");
    });
    let own = [
        of("n1", &["z1"], &[]),
        of("n2", &["z1"], &[]),
        of("n3", &["z2"], &[]),
    ];
    assert_eq!(shown(&sim), own, "two of three processors are in z1");
    // Now a half is in each: three endpoints are too few for that.
    sim.edit(Kind::Node, "n3", |n| {
        n["status"]["allocatable"]["cpu"] = json!("8")
    });
    sim.settle();
    assert_eq!(
        shown(&sim),
        ["n1", "n2", "n3"].map(|node| of(node, &[], &[]))
    );
    let mut fourth = pod("p4");
    fourth["spec"]["nodeName"] = json!("n1");
    sim.apply(Kind::Pod, fourth);
    sim.run_all();
    let zones: Vec<_> = shown(&sim)
        .into_iter()
        .flat_map(|(_, zones, _)| zones)
        .collect();
    assert_eq!(
        zones.iter().filter(|zone| *zone == "z2").count(),
        2,
        "{zones:?}"
    );
    assert_eq!(zones.len(), 4);
    // A node that says nothing of its processors.
    sim.edit(Kind::Node, "n2", |n| {
        n["status"]["allocatable"]["cpu"] = json!("0")
    });
    sim.settle();
    let zones: Vec<_> = shown(&sim)
        .into_iter()
        .flat_map(|(_, zones, _)| zones)
        .collect();
    assert!(zones.is_empty(), "{zones:?}");
}
