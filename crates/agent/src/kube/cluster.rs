//! All nodes, from node objects and from what agents and operator say of them.
use model::{CiliumNode, KUBERNETES, Node, Tables};
use runtime::{health::Component, settings::IpamMode, stop::Stop};
use std::{collections::BTreeSet, time::Duration};
use tables::{ChangeTracker, Read, Snapshot};

/// Between two computations: nodes that change together are taken together.
const REST: Duration = Duration::from_millis(2);

/// A node: what its `CiliumNode` says; where there is none, and for what it does not say, its node object.
///
/// The pod ranges of node objects count in the kubernetes mode alone. For `own`, the node of this agent, they count before
/// those of the `CiliumNode`, which this agent writes itself.
#[must_use]
pub fn node(
    tables: &Tables,
    snapshot: &Snapshot,
    mode: IpamMode,
    own: &str,
    name: &str,
) -> Option<Node> {
    let by_objects = mode == IpamMode::Kubernetes;
    let object = tables.node_objects.get(snapshot, name);
    let said = tables.cilium_nodes.get(snapshot, name);
    if object.is_none() && said.is_none() {
        return None;
    }
    let mut node = object.map_or_else(
        || Node {
            name: name.to_owned(),
            ..Node::default()
        },
        |object| Node::clone(object),
    );
    if !by_objects {
        node.pod_cidrs.clear();
    }
    if let Some(said) = said {
        overlay(&mut node, said, by_objects && name == own);
    }
    Some(node)
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

/// Follows the inputs of the table of nodes.
struct Changed {
    objects: ChangeTracker<Node>,
    said: ChangeTracker<CiliumNode>,
}

impl Changed {
    /// The nodes of which something is new.
    fn names(&mut self, snapshot: &Snapshot) -> BTreeSet<String> {
        let objects = self
            .objects
            .changes(snapshot)
            .map(|one| one.row.name.clone());
        let mut names: BTreeSet<String> = objects.collect();
        names.extend(self.said.changes(snapshot).map(|one| one.row.name.clone()));
        names
    }
}

/// Keeps the table of nodes in step with its inputs until `stop`.
pub async fn follow(tables: Tables, mode: IpamMode, own: String, health: Component, stop: Stop) {
    let watch = tables.node_objects.watch().and(tables.cilium_nodes.watch());
    let mut changed = Changed {
        objects: tables.db.track(&tables.node_objects),
        said: tables.db.track(&tables.cilium_nodes),
    };
    let mut open = BTreeSet::new();
    loop {
        let snapshot = tables.db.snapshot();
        let seen = snapshot.revision();
        open.append(&mut changed.names(&snapshot));
        write(&tables, &snapshot, mode, &own, &mut open);
        drop(snapshot);
        let now = tables.db.snapshot();
        health.ok(format!("{} nodes", tables.nodes.len(&now)));
        drop(now);
        let next = async {
            tokio::time::sleep(REST).await;
            watch.changed(seen).await;
        };
        if stop.or(next).await.is_none() {
            return;
        }
    }
}

/// Writes these nodes as they are now; what is left is written once the table is complete, with its inputs. Of one input alone a
/// node is not what it is; but this node must not wait for the list of all others once its object has its ranges.
fn write(
    tables: &Tables,
    snapshot: &Snapshot,
    mode: IpamMode,
    own: &str,
    names: &mut BTreeSet<String>,
) {
    let complete =
        tables.node_objects.initialized(snapshot) && tables.cilium_nodes.initialized(snapshot);
    let by_object = tables
        .node_objects
        .get(snapshot, own)
        .is_some_and(|object| mode == IpamMode::Kubernetes && !object.pod_cidrs.is_empty());
    let is_known = |name: &str| complete || by_object && name == own;
    let mut txn = tables.db.write();
    let mut changed = false;
    for name in names.iter().filter(|name| is_known(name)) {
        changed |= match node(tables, snapshot, mode, own, name) {
            // The table has no unique index that could refuse.
            Some(node) => tables
                .nodes
                .insert_if_changed(&mut txn, node)
                .unwrap_or(false),
            None => tables.nodes.delete(&mut txn, name).is_some(),
        };
    }
    if complete {
        names.clear();
    }
    if complete && !tables.nodes.initialized(&txn) {
        tables.nodes.finish_initializer(&mut txn, KUBERNETES);
        changed = true;
    }
    if changed {
        txn.commit();
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
        let names = ["gone", "n1", "n2", "n3", "never"].map(str::to_owned);
        let mut names: BTreeSet<String> = names.into_iter().collect();
        write(&tables, &tables.db.snapshot(), mode, "n1", &mut names);
        let early = usize::from(mode == IpamMode::Kubernetes);
        assert_eq!(tables.nodes.len(&tables.db.snapshot()), early, "n1 alone");
        let mut txn = tables.db.write();
        tables.node_objects.finish_initializer(&mut txn, KUBERNETES);
        tables.cilium_nodes.finish_initializer(&mut txn, KUBERNETES);
        txn.commit();
        write(&tables, &tables.db.snapshot(), mode, "n1", &mut names);
        assert!(names.is_empty());
        let now = tables.db.snapshot();
        let rows: Vec<String> = tables
            .nodes
            .iter(&now)
            .map(|node| row(Node::clone(node)))
            .collect();
        rows
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
