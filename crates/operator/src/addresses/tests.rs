use super::keeper::{Keeper, Kind, Open};
use super::{Known, NodeRow, ServiceRow};
use k8s::{
    policy::{LoadBalancerPool, Object},
    service::{EndpointSlice, Service},
};
use model::KUBERNETES;
use runtime::settings::OperatorSettings;
use serde_json::{Value, json};

struct World {
    known: Known,
    keeper: Keeper,
}

impl World {
    fn new(pairs: &[(&str, &str)]) -> Self {
        let known = Known::new().unwrap();
        let mut txn = known.db.write();
        known.services.finish_initializer(&mut txn, KUBERNETES);
        known.pools.finish_initializer(&mut txn, KUBERNETES);
        known.nodes.finish_initializer(&mut txn, KUBERNETES);
        known.slices.finish_initializer(&mut txn, KUBERNETES);
        txn.commit();
        let mut settings = OperatorSettings::default();
        for (key, value) in pairs {
            settings.set(key, value, "test").unwrap();
        }
        let keeper = Keeper::new(&known, &settings);
        Self { known, keeper }
    }

    fn service(&self, name: &str, spec: Value, status: Value) {
        let mut object = json!({"metadata": {"name": name, "namespace": "shop", "uid": name}, "spec": spec, "status": status});
        object["spec"]["type"] = "LoadBalancer".into();
        let object: Service = serde_json::from_value(object).unwrap();
        let mut txn = self.known.db.write();
        let row = ServiceRow::from(object);
        self.known.services.insert(&mut txn, row).unwrap();
        txn.commit();
    }

    fn pool(&self, name: &str, blocks: Value, conditions: Value) {
        let object: Object<LoadBalancerPool> = serde_json::from_value(json!({
            "metadata": {"name": name}, "spec": {"blocks": blocks}, "status": {"conditions": conditions}}))
        .unwrap();
        let mut txn = self.known.db.write();
        self.known
            .pools
            .insert(&mut txn, model::Declared::from(object))
            .unwrap();
        txn.commit();
    }

    fn node(&self, name: &str, labels: Value, addresses: Value, taints: Value) {
        let object: k8s::Node = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}, "status": {"addresses": addresses}}))
        .unwrap();
        let mut txn = self.known.db.write();
        let row = NodeRow::from(object);
        self.known.nodes.insert(&mut txn, row).unwrap();
        txn.commit();
    }

    /// What is written now, by kind and name.
    fn writes(&mut self) -> Vec<(Kind, String, Value)> {
        assert!(self.keeper.look(&self.known, &self.known.db.snapshot()));
        let open = std::mem::take(&mut self.keeper.open);
        open.into_iter()
            .map(|((kind, key), open)| match open {
                Open::Service { status, .. } | Open::Pool { status, .. } => {
                    (kind, key.to_string(), status)
                }
            })
            .collect()
    }
}

fn range() -> Value {
    json!([{"cidr": "192.0.2.0/30"}])
}

#[test]
fn nothing_is_given_before_everything_is_known() {
    let known = Known::new().unwrap();
    let mut keeper = Keeper::new(&known, &OperatorSettings::default());
    assert!(!keeper.look(&known, &known.db.snapshot()));
    assert!(keeper.open.is_empty());
}

#[test]
fn what_is_right_is_not_written_again_and_a_new_leader_writes_nothing() {
    let mut world = World::new(&[]);
    world.service("web", json!({}), json!({}));
    assert_eq!(world.writes(), [], "there is no pool");
    world.pool("blue", range(), json!([]));
    let writes = world.writes();
    assert_eq!(writes.len(), 2);
    let (_, _, pool) = &writes[0];
    assert_eq!(pool["conditions"][0]["type"], "cilium.io/PoolConflict");
    assert_eq!(pool["conditions"][3]["message"], "1");
    let (_, key, status) = &writes[1];
    assert_eq!(key, "shop/web");
    assert_eq!(
        status["loadBalancer"]["ingress"],
        json!([{"ip": "192.0.2.0"}])
    );
    assert_eq!(status["conditions"][0]["reason"], "satisfied");
    let (pool, status) = (pool["conditions"].clone(), status.clone());
    world.service("web", json!({}), status.clone());
    world.pool("blue", range(), pool.clone());
    assert_eq!(world.writes(), []);

    let mut next = World::new(&[]);
    next.service("web", json!({}), status.clone());
    next.pool("blue", range(), pool.clone());
    assert_eq!(next.writes(), []);
    // Somebody takes the address away: it comes back, the condition stays.
    let mut without = status.clone();
    without["loadBalancer"] = json!({});
    next.service("web", json!({}), without);
    let writes = next.writes();
    assert_eq!(
        writes,
        [(
            Kind::Service,
            "shop/web".to_owned(),
            json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.0"}]}})
        )]
    );
    // Another class: it is another's.
    next.service("web", json!({"loadBalancerClass": "example.com/x"}), status);
    let writes = next.writes();
    let (_, _, status) = &writes[1];
    assert_eq!(status["loadBalancer"], json!({"ingress": null}));
    assert_eq!(status["conditions"][0]["$patch"], "delete");
}

#[test]
fn a_condition_that_stays_as_it_is_keeps_its_time() {
    let mut world = World::new(&[]);
    let said = |reason: &str| {
        json!({"conditions": [{"type": "cilium.io/IPAMRequestSatisfied", "status": "False", "reason": reason,
        "message": "x", "lastTransitionTime": "2020-01-01T00:00:00Z"}]})
    };
    world.pool("blue", json!([{"cidr": "192.0.2.0/32"}]), json!([]));
    let ask = json!({"loadBalancerIP": "198.51.100.1"});
    world.service("web", ask.clone(), said("out_of_ips"));
    let writes = world.writes();
    let condition = &writes[1].2["conditions"][0];
    assert_eq!(condition["reason"], "no_pool");
    assert_eq!(condition["lastTransitionTime"], "2020-01-01T00:00:00Z");
    world.service("web", json!({}), said("no_pool"));
    let condition = &world.writes()[1].2["conditions"][0];
    assert_eq!(condition["status"], "True");
    assert_ne!(condition["lastTransitionTime"], "2020-01-01T00:00:00Z");
}

#[test]
fn a_pool_that_cannot_be_read_is_told_and_keeps_what_it_gave() {
    let mut world = World::new(&[]);
    world.service("web", json!({}), json!({}));
    world.pool("blue", range(), json!([]));
    assert_eq!(world.writes().len(), 2);
    world.pool(
        "blue",
        json!([{"start": "192.0.2.9", "stop": "192.0.2.1"}]),
        json!([]),
    );
    let writes = world.writes();
    assert_eq!(writes.len(), 1, "the service keeps its address: {writes:?}");
    let condition = &writes[0].2["conditions"][0];
    assert_eq!(
        (&condition["status"], &condition["reason"]),
        (&json!("True"), &json!("invalid"))
    );
    let text = condition["message"].as_str().unwrap();
    assert!(
        text.starts_with("spec.blocks[0]: 192.0.2.9 - 192.0.2.1 is no range"),
        "{text}"
    );
    world.pool(
        "blue",
        json!([{"start": "192.0.2.9", "stop": "192.0.2.1"}]),
        writes[0].2["conditions"].clone(),
    );
    assert_eq!(world.writes(), []);
}

#[test]
fn a_new_leader_takes_nothing_away_on_account_of_a_pool_that_it_cannot_read() {
    let mut world = World::new(&[]);
    let has = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.9"}]}, "conditions": [
        {"type": "cilium.io/IPAMRequestSatisfied", "status": "True", "reason": "satisfied"}]});
    world.service("web", json!({}), has);
    world.service("late", json!({}), json!({}));
    world.pool(
        "red",
        json!([{"start": "192.0.2.9", "stop": "fd00::1"}]),
        json!([]),
    );
    let writes = world.writes();
    let of: Vec<_> = writes.iter().map(|(_, key, _)| key.as_str()).collect();
    assert_eq!(of, ["red", "shop/late"]);
    assert_eq!(writes[1].2["conditions"][0]["reason"], "no_pool");
    assert_eq!(writes[1].2["loadBalancer"], Value::Null);
}

#[test]
fn services_with_addresses_of_nodes() {
    let mut world = World::new(&[("enable-node-ipam", "true"), ("enable-ipv6", "false")]);
    let address = |kind: &str, ip: &str| json!([{"type": kind, "address": ip}]);
    world.node(
        "a",
        json!({"rack": "1"}),
        address("InternalIP", "192.0.2.11"),
        json!([]),
    );
    world.node(
        "b",
        json!({}),
        address("InternalIP", "192.0.2.12"),
        json!([]),
    );
    world.node(
        "c",
        json!({}),
        address("InternalIP", "192.0.2.13"),
        json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]),
    );
    let spec = json!({"loadBalancerClass": "io.cilium/node"});
    world.service("web", spec.clone(), json!({}));
    let ips = |writes: &[(Kind, String, Value)]| writes[0].2["loadBalancer"]["ingress"].clone();
    let writes = world.writes();
    assert_eq!(
        ips(&writes),
        json!([{"ip": "192.0.2.11"}, {"ip": "192.0.2.12"}])
    );
    world.service("web", spec, writes[0].2.clone());
    assert_eq!(world.writes(), []);
    // A node with an address outside comes: the outer addresses count.
    world.node(
        "d",
        json!({}),
        address("ExternalIP", "203.0.113.4"),
        json!([]),
    );
    assert_eq!(ips(&world.writes()), json!([{"ip": "203.0.113.4"}]));
    // Only nodes with endpoints.
    let local = json!({"loadBalancerClass": "io.cilium/node", "externalTrafficPolicy": "Local"});
    world.service("near", local, json!({}));
    assert_eq!(world.writes(), [], "none has endpoints");
    let slice: EndpointSlice =
        serde_json::from_value(json!({"metadata": {"name": "near-1", "namespace": "shop",
        "labels": {"kubernetes.io/service-name": "near"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "b"}]}))
        .unwrap();
    let mut txn = world.known.db.write();
    world
        .known
        .slices
        .insert(&mut txn, model::service::Slice::from(slice))
        .unwrap();
    txn.commit();
    assert_eq!(ips(&world.writes()), json!([{"ip": "192.0.2.12"}]));
}

#[test]
fn figures_of_pools_and_services() {
    let mut world = World::new(&[]);
    world.service("web", json!({}), json!({}));
    world.service("rude", json!({"loadBalancerIP": "203.0.113.9"}), json!({}));
    world.pool("blue", range(), json!([]));
    world.writes();
    let metrics = crate::metrics::Metrics::default();
    metrics.addresses(world.keeper.totals(), world.keeper.pools());
    let text = runtime::metrics::text(&metrics.registry()).unwrap();
    for line in [
        "cilium_lbipam_conflicting_pools_total 0",
        "cilium_lbipam_services_matching_total 2",
        "cilium_lbipam_services_unsatisfied_total 1",
        "cilium_lbipam_ips_available_total{pool=\"blue\"} 3",
        "cilium_lbipam_ips_used_total{pool=\"blue\"} 1",
        "cilium_operator_leader 0",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}\n{text}");
    }
}
