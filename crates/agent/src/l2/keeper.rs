//! From tables to the leases that this node stands for.
use super::told;
use lb::{
    input::{Node, TrafficPolicy},
    l2::{BAD_SERVICE_SELECTOR, Change, Lease, Leases, Policy, lease},
};
use model::{Declared, Device, Service, Tables, Text, service::Slice};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tables::{ChangeKind, ChangeTracker, Snapshot};

/// Follows services and policies.
pub(super) struct Keeper {
    leases: Leases,
    policies: BTreeMap<Text, Policy>,
    /// Policies that cannot be read, and why.
    refused: BTreeMap<Text, String>,
    /// What the status of policies says wrongly: what it should say, nothing for those that can be used.
    wrongly_said: BTreeMap<Text, Option<String>>,
    services: ChangeTracker<Service>,
    slices: ChangeTracker<Slice>,
    changed: ChangeTracker<Declared>,
    node: Node,
    devices: BTreeMap<Text, Device>,
    names: Vec<Text>,
}

impl Keeper {
    pub fn new(tables: &Tables) -> Self {
        let services = &tables.services;
        Self {
            leases: Leases::default(),
            policies: BTreeMap::new(),
            refused: BTreeMap::new(),
            wrongly_said: BTreeMap::new(),
            services: tables.db.track(&services.services),
            slices: tables.db.track(&services.slices),
            changed: tables.db.track(&services.l2_policies),
            node: Node::default(),
            devices: BTreeMap::new(),
            names: Vec::new(),
        }
    }

    /// Devices of the node by name.
    pub fn devices(&self) -> &BTreeMap<Text, Device> {
        &self.devices
    }

    /// Policies that cannot be read, and why.
    pub fn refused(&self) -> impl Iterator<Item = (&Text, &String)> {
        self.refused.iter()
    }

    /// Policies whose status should say something else: why they cannot be used, or nothing.
    pub fn wrongly_said(&self) -> Vec<(Text, Option<String>)> {
        let all = self.wrongly_said.iter();
        all.map(|(name, why)| (name.clone(), why.clone())).collect()
    }

    /// Takes that a lease was won, or lost.
    pub fn hold(&mut self, name: &str, held: bool) -> Change {
        self.leases.hold(name, held)
    }

    /// What changes with what is new in `snapshot`; nothing before everything is known: leases would be given back that this node
    /// has from before a restart.
    pub fn hear(&mut self, tables: &Tables, snapshot: &Snapshot) -> Option<Change> {
        let rows = &tables.services;
        let complete = rows.services.initialized(snapshot)
            && rows.l2_policies.initialized(snapshot)
            && rows.slices.initialized(snapshot);
        if !complete {
            return None;
        }
        let policies = self.hear_policies(snapshot);
        let all = self.hear_node(tables, snapshot) || policies;
        let mut keys: BTreeSet<Text> = BTreeSet::new();
        for change in self.services.changes(snapshot) {
            keys.insert(change.row.key.clone());
        }
        for change in self.slices.changes(snapshot) {
            keys.insert(change.row.service.clone());
        }
        if all {
            keys.extend(rows.services.iter(snapshot).map(|row| row.key.clone()));
        }
        let mut whole = Change::default();
        for key in keys {
            let wanted = self.wanted(tables, snapshot, &key);
            let change = self.leases.set(&key, wanted);
            whole.stand.extend(change.stand);
            whole.drop.extend(change.drop);
            whole.announce.extend(change.announce);
            whole.withdraw.extend(change.withdraw);
        }
        // What one service gives up another may have taken: only the outcome counts.
        let now: BTreeSet<_> = self.leases.announced().cloned().collect();
        whole.announce.retain(|entry| now.contains(entry));
        whole.withdraw.retain(|entry| !now.contains(entry));
        Some(whole)
    }

    fn wanted(&self, tables: &Tables, snapshot: &Snapshot, key: &Text) -> Option<Lease> {
        let rows = &tables.services;
        let service = rows.services.get(snapshot, key.as_str())?;
        if service.external_policy == TrafficPolicy::Local {
            // Others would drop what comes.
            let mut slices = rows.slices_by_service.get(snapshot, key.as_str());
            let here = slices.any(|slice| {
                let mut endpoints = slice.endpoints.iter();
                endpoints.any(|one| {
                    one.node == self.node.name && (one.ready || service.publish_not_ready)
                })
            });
            if !here {
                return None;
            }
        }
        lease(service, self.policies.values(), &self.node, &self.names)
    }

    fn hear_policies(&mut self, snapshot: &Snapshot) -> bool {
        let mut any = false;
        for change in self.changed.changes(snapshot) {
            any = true;
            let row = change.row;
            self.policies.remove(&row.key);
            self.refused.remove(&row.key);
            self.wrongly_said.remove(&row.key);
            if change.kind == ChangeKind::Delete {
                continue;
            }
            let why = match lb::parse::l2_policy_of(row) {
                Ok(policy) => {
                    self.policies.insert(row.key.clone(), policy);
                    None
                }
                Err(wrong) => {
                    let why = wrong.to_string();
                    self.refused.insert(row.key.clone(), why.clone());
                    Some(why)
                }
            };
            if told(row) != why {
                self.wrongly_said.insert(row.key.clone(), why);
            }
        }
        any
    }

    /// Whether the node or its devices have changed.
    fn hear_node(&mut self, tables: &Tables, snapshot: &Snapshot) -> bool {
        let local = tables.local_node.iter(snapshot).next();
        let node = local.map(|local| Node::new(&local.node, Vec::new()));
        let node = node.unwrap_or_default();
        let rows = tables.devices.iter(snapshot);
        let devices: BTreeMap<Text, Device> = rows
            .map(|device| (Text::shared(&device.name), Device::clone(device)))
            .collect();
        let changed = node != self.node || !devices.keys().eq(self.devices.keys());
        self.node = node;
        self.names = devices.keys().cloned().collect();
        self.devices = devices;
        changed
    }
}

/// The conditions of a policy.
pub(super) fn conditions(why: Option<&str>) -> Vec<Value> {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let bad = why.map(|why| {
        json!({"type": BAD_SERVICE_SELECTOR, "status": "True", "reason": "error", "message": why,
            "lastTransitionTime": now.to_string()})
    });
    bad.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{
        KUBERNETES, LocalNode,
        service::{Endpoint, Ingress, ServiceType},
    };

    fn world() -> (Tables, Keeper) {
        let tables = Tables::new().unwrap();
        let keeper = Keeper::new(&tables);
        let mut txn = tables.db.write();
        for name in ["eth0", "eth1"] {
            let device = Device {
                name: name.to_owned(),
                ..Device::default()
            };
            tables.devices.insert(&mut txn, device).unwrap();
        }
        let mut local = LocalNode::default();
        local.node.name = "n1".to_owned();
        local.node.labels = [("rack".to_owned(), "1".to_owned())].into();
        tables.local_node.insert(&mut txn, local).unwrap();
        txn.commit();
        (tables, keeper)
    }

    fn complete(tables: &Tables) {
        let rows = &tables.services;
        let mut txn = tables.db.write();
        rows.services.finish_initializer(&mut txn, KUBERNETES);
        rows.slices.finish_initializer(&mut txn, KUBERNETES);
        rows.l2_policies.finish_initializer(&mut txn, KUBERNETES);
        txn.commit();
    }

    fn policy(tables: &Tables, spec: &Value, conditions: &str) {
        let row = Declared {
            key: "all".into(),
            spec: spec.to_string().into(),
            conditions: conditions.into(),
            ..Declared::default()
        };
        let mut txn = tables.db.write();
        tables.services.l2_policies.insert(&mut txn, row).unwrap();
        txn.commit();
    }

    fn service(tables: &Tables, address: &str, external_policy: TrafficPolicy) {
        let row = Service {
            key: "shop/web".into(),
            kind: ServiceType::LoadBalancer,
            ingress: vec![Ingress {
                address: address.parse().unwrap(),
                proxy: false,
            }],
            external_policy,
            ..Service::default()
        };
        let mut txn = tables.db.write();
        tables.services.services.insert(&mut txn, row).unwrap();
        txn.commit();
    }

    fn texts(entries: &[(std::net::IpAddr, Text)]) -> Vec<String> {
        let text = |(ip, device): &(std::net::IpAddr, Text)| format!("{ip} {device}");
        entries.iter().map(text).collect()
    }

    const LEASE: &str = "cilium-l2announce-shop-web";

    #[test]
    fn a_service_is_announced_while_its_lease_is_held() {
        let (tables, mut keeper) = world();
        policy(
            &tables,
            &json!({"loadBalancerIPs": true, "interfaces": ["^eth0$"]}),
            "",
        );
        service(&tables, "192.0.2.7", TrafficPolicy::Cluster);
        assert_eq!(
            keeper.hear(&tables, &tables.db.snapshot()),
            None,
            "not all is known"
        );
        complete(&tables);
        let change = keeper.hear(&tables, &tables.db.snapshot()).unwrap();
        assert_eq!(
            (change.stand.as_slice(), change.announce.len()),
            (&[LEASE.to_owned()][..], 0)
        );
        assert_eq!(
            texts(&keeper.hold(LEASE, true).announce),
            ["192.0.2.7 eth0"]
        );
        // Another address: no other lease.
        service(&tables, "192.0.2.8", TrafficPolicy::Cluster);
        let change = keeper.hear(&tables, &tables.db.snapshot()).unwrap();
        assert!(change.stand.is_empty() && change.drop.is_empty());
        assert_eq!(texts(&change.announce), ["192.0.2.8 eth0"]);
        assert_eq!(texts(&change.withdraw), ["192.0.2.7 eth0"]);
        // The policy no longer names this node.
        let other =
            json!({"loadBalancerIPs": true, "nodeSelector": {"matchLabels": {"rack": "2"}}});
        policy(&tables, &other, "");
        let change = keeper.hear(&tables, &tables.db.snapshot()).unwrap();
        assert_eq!(change.drop, [LEASE]);
        assert_eq!(texts(&change.withdraw), ["192.0.2.8 eth0"]);
    }

    #[test]
    fn only_nodes_that_can_serve_stand_for_local_services() {
        let (tables, mut keeper) = world();
        complete(&tables);
        policy(&tables, &json!({"loadBalancerIPs": true}), "");
        service(&tables, "192.0.2.7", TrafficPolicy::Local);
        let change = keeper.hear(&tables, &tables.db.snapshot()).unwrap();
        assert_eq!(change, Change::default());
        let slice = |node: &str| {
            let row = Slice {
                key: "shop/web-1".into(),
                service: "shop/web".into(),
                endpoints: vec![Endpoint::ready("10.0.0.1".parse().unwrap(), node)],
                ..Slice::default()
            };
            let mut txn = tables.db.write();
            tables.services.slices.insert(&mut txn, row).unwrap();
            txn.commit();
        };
        slice("n1");
        let change = keeper.hear(&tables, &tables.db.snapshot()).unwrap();
        assert_eq!(change.stand, [LEASE]);
        slice("n2");
        let change = keeper.hear(&tables, &tables.db.snapshot()).unwrap();
        assert_eq!(change.drop, [LEASE]);
    }

    #[test]
    fn what_is_wrong_with_a_policy_is_said_once() {
        let (tables, mut keeper) = world();
        complete(&tables);
        let bad =
            json!({"serviceSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}});
        policy(&tables, &bad, "");
        assert!(keeper.hear(&tables, &tables.db.snapshot()).is_some());
        let said = keeper.wrongly_said();
        let why = said[0].1.clone().unwrap();
        assert!(
            why.starts_with("spec.serviceSelector.matchExpressions[0]"),
            "{why}"
        );
        assert_eq!(keeper.refused().count(), 1);
        let conditions = json!(conditions(Some(&why))).to_string();
        policy(&tables, &bad, &conditions);
        keeper.hear(&tables, &tables.db.snapshot());
        assert!(keeper.wrongly_said().is_empty());
        // It is right now: the condition goes.
        policy(&tables, &json!({"loadBalancerIPs": true}), &conditions);
        keeper.hear(&tables, &tables.db.snapshot());
        assert_eq!(keeper.wrongly_said(), [("all".into(), None)]);
    }
}
