//! All nodes, from node objects and from what agents and operator say of them.
use model::{CiliumNode, KUBERNETES, Node, Tables};
use runtime::{health::Component, settings::IpamMode, stop::Stop};
use std::{collections::BTreeMap, time::Duration};
use tables::{Read, Snapshot};

/// Between two computations: nodes that change together are taken together.
const REST: Duration = Duration::from_millis(2);

/// All nodes, by name. A node is what its `CiliumNode` says; where there is none, and for what it does not say, its node object.
///
/// The pod ranges of node objects count in the kubernetes mode alone. For `own`, the node of this agent, they count before
/// those of the `CiliumNode`, which this agent writes itself.
#[must_use]
pub fn nodes(tables: &Tables, snapshot: &Snapshot, mode: IpamMode, own: &str) -> Vec<Node> {
    let mut all: BTreeMap<&str, Node> = BTreeMap::new();
    let by_objects = mode == IpamMode::Kubernetes;
    for object in tables.node_objects.iter(snapshot) {
        let mut node = Node::clone(object);
        if !by_objects {
            node.pod_cidrs.clear();
        }
        all.insert(&object.name, node);
    }
    for said in tables.cilium_nodes.iter(snapshot) {
        let node = all.entry(&said.name).or_insert_with(|| Node {
            name: said.name.clone(),
            ..Node::default()
        });
        let keep_ranges = by_objects && said.name == own;
        overlay(node, said, keep_ranges);
    }
    all.into_values().collect()
}

fn overlay(node: &mut Node, said: &CiliumNode, keep_ranges: bool) {
    if !said.addresses.is_empty() {
        node.addresses.clone_from(&said.addresses);
    }
    for ip in &said.external {
        if !node.external.contains(ip) {
            node.external.push(*ip);
        }
    }
    let ranges: Vec<_> = said.ranges().collect();
    if !keep_ranges && !ranges.is_empty() {
        node.pod_cidrs = ranges;
    }
}

/// Keeps the table of nodes in step with its inputs until `stop`.
pub async fn follow(tables: Tables, mode: IpamMode, own: String, health: Component, stop: Stop) {
    let watch = tables.node_objects.watch().and(tables.cilium_nodes.watch());
    loop {
        let snapshot = tables.db.snapshot();
        let seen = snapshot.revision();
        let complete = tables.node_objects.initialized(&snapshot)
            && tables.cilium_nodes.initialized(&snapshot);
        let rows = nodes(&tables, &snapshot, mode, &own);
        // While the lists are under way, only this node is of interest: it must not wait for the others.
        if complete || rows.iter().any(|node| node.name == own) {
            health.ok(format!("{} nodes", rows.len()));
            let mut txn = tables.db.write();
            match tables.nodes.replace_all(&mut txn, rows) {
                Ok(_) => {
                    if complete {
                        tables.nodes.finish_initializer(&mut txn, KUBERNETES);
                    }
                    txn.commit();
                }
                Err(error) => health.degraded(error.to_string()),
            }
        }
        let next = async {
            tokio::time::sleep(REST).await;
            watch.changed(seen).await;
        };
        if stop.or(next).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> Tables {
        let tables = Tables::new().unwrap();
        let mut txn = tables.db.write();
        for n in [1, 2, 3] {
            let node = Node {
                name: format!("n{n}"),
                addresses: vec![format!("192.0.2.{n}").parse().unwrap()],
                pod_cidrs: vec![format!("10.244.{n}.0/24").parse().unwrap()],
                ..Node::default()
            };
            tables.node_objects.insert(&mut txn, node).unwrap();
        }
        for (name, range) in [
            ("n1", "10.0.1.0/24"),
            ("n2", "10.0.2.0/24"),
            ("gone", "10.0.9.0/24"),
        ] {
            let said = CiliumNode {
                name: name.to_owned(),
                pod_cidrs: vec![range.parse().unwrap()],
                ..CiliumNode::default()
            };
            tables.cilium_nodes.insert(&mut txn, said).unwrap();
        }
        txn.commit();
        tables
    }

    fn ranges(mode: IpamMode) -> Vec<String> {
        let tables = tables();
        let row = |node: Node| {
            let ranges: Vec<String> = node.pod_cidrs.iter().map(ToString::to_string).collect();
            format!("{} {}", node.name, ranges.join(" "))
        };
        nodes(&tables, &tables.db.snapshot(), mode, "n1")
            .into_iter()
            .map(row)
            .collect()
    }

    #[test]
    fn ranges_come_from_where_the_mode_says() {
        assert_eq!(
            ranges(IpamMode::Kubernetes),
            [
                "gone 10.0.9.0/24",
                "n1 10.244.1.0/24",
                "n2 10.0.2.0/24",
                "n3 10.244.3.0/24"
            ]
        );
        assert_eq!(
            ranges(IpamMode::ClusterPool),
            [
                "gone 10.0.9.0/24",
                "n1 10.0.1.0/24",
                "n2 10.0.2.0/24",
                "n3 "
            ]
        );
    }
}
