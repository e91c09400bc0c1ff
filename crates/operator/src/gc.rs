//! Garbage: objects that nobody needs any more. Pure: what was found at the last look and what there is now, in; what to remove, out.
use crate::tables::Tables;
use model::Labels;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tables::Snapshot;

/// An object to be removed, if it is still this one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Garbage {
    /// Namespace; empty for cluster-wide kinds.
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Version that it must have, where that matters.
    pub version: Option<String>,
}

/// Remembers what was found at the last look: what is found twice is garbage. Objects that depend on each other are seen by
/// different watches, and one look could come between them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Twice(BTreeSet<Garbage>);

impl Twice {
    /// What was found now and at the last look.
    pub fn again(&mut self, found: Vec<Garbage>) -> Vec<Garbage> {
        let found: BTreeSet<Garbage> = found.into_iter().collect();
        let both = self.0.intersection(&found).cloned().collect();
        self.0 = found;
        both
    }
}

/// Endpoints whose pod is gone, or is another one by now.
pub(crate) fn endpoints(tables: &Tables, snapshot: &Snapshot) -> Vec<Garbage> {
    if !tables.pods.initialized(snapshot) || !tables.endpoints.initialized(snapshot) {
        return Vec::new();
    }
    tables
        .endpoints
        .iter(snapshot)
        .filter(|row| match tables.pods.get(snapshot, &row.pod()) {
            Some(pod) => pod.finished || (!row.owner.is_empty() && row.owner != pod.uid),
            None => true,
        })
        .map(|row| Garbage {
            namespace: row.namespace.clone(),
            name: row.name.clone(),
            uid: row.uid.clone(),
            version: None,
        })
        .collect()
}

/// `CiliumNode`s without a node.
pub(crate) fn nodes(tables: &Tables, snapshot: &Snapshot) -> Vec<Garbage> {
    if !tables.nodes.initialized(snapshot) || !tables.cilium_nodes.initialized(snapshot) {
        return Vec::new();
    }
    tables
        .cilium_nodes
        .iter(snapshot)
        .filter(|row| !row.keep && tables.nodes.get(snapshot, &row.said.name).is_none())
        .map(|row| Garbage {
            namespace: String::new(),
            name: row.said.name.clone(),
            uid: row.said.uid.clone(),
            version: None,
        })
        .collect()
}

/// When each identity was last seen in use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heartbeats(BTreeMap<String, Duration>);

impl Heartbeats {
    /// Takes a look at `now`, the time since any fixed moment: identities that nobody has used for `timeout`, at most `limit`,
    /// those that are unused for the longest first. An identity that is seen for the first time counts as used, and so does one
    /// of `wanted` labels, which pods have.
    pub fn look(
        &mut self,
        tables: &Tables,
        snapshot: &Snapshot,
        wanted: &BTreeSet<Labels>,
        (now, timeout): (Duration, Duration),
        limit: usize,
    ) -> Vec<Garbage> {
        if !tables.identities.initialized(snapshot) || !tables.endpoints.initialized(snapshot) {
            return Vec::new();
        }
        let mut used: BTreeSet<String> = tables
            .endpoints
            .iter(snapshot)
            .map(|row| row.identity.to_string())
            .collect();
        let all = tables.identities.iter(snapshot);
        let of_pods = all.filter(|row| wanted.contains(&row.labels));
        used.extend(of_pods.map(|row| row.name.clone()));
        let mut next = BTreeMap::new();
        let mut dead = Vec::new();
        for row in tables.identities.iter(snapshot) {
            let seen = match self.0.get(&row.name) {
                Some(seen) if !used.contains(&row.name) => *seen,
                _ => now,
            };
            if now.saturating_sub(seen) >= timeout && !used.contains(&row.name) {
                dead.push((seen, row.clone()));
            }
            next.insert(row.name.clone(), seen);
        }
        self.0 = next;
        dead.sort_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
        dead.into_iter()
            .take(limit)
            .map(|(_, row)| Garbage {
                namespace: String::new(),
                name: row.name.clone(),
                uid: row.uid.clone(),
                version: Some(row.version.clone()),
            })
            .collect()
    }

    /// Identities that are known, and those of them that were not used at the last look.
    pub fn known(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{EndpointRow, IdentityRow, KUBERNETES, NodeObject, NodeRow, PodRow};

    fn endpoint(name: &str, owner: &str, identity: u32) -> EndpointRow {
        EndpointRow {
            namespace: "ns".to_owned(),
            name: name.to_owned(),
            uid: format!("cep-{name}"),
            owner: owner.to_owned(),
            identity,
            entry: Default::default(),
        }
    }

    fn pod(name: &str, uid: &str, finished: bool) -> PodRow {
        PodRow {
            key: format!("ns/{name}"),
            uid: uid.to_owned(),
            finished,
        }
    }

    fn names(garbage: &[Garbage]) -> Vec<&str> {
        garbage.iter().map(|one| one.name.as_str()).collect()
    }

    #[test]
    fn endpoints_go_with_their_pods_when_found_twice() {
        let tables = Tables::new().unwrap();
        let mut txn = tables.db.write();
        for (name, owner) in [("lives", "1"), ("other", "2"), ("gone", "3"), ("done", "4")] {
            tables
                .endpoints
                .insert(&mut txn, endpoint(name, owner, 0))
                .unwrap();
        }
        for row in [
            pod("lives", "1", false),
            pod("other", "9", false),
            pod("done", "4", true),
        ] {
            tables.pods.insert(&mut txn, row).unwrap();
        }
        txn.commit();
        let mut twice = Twice::default();
        assert!(
            endpoints(&tables, &tables.db.snapshot()).is_empty(),
            "nothing is garbage before everything is known"
        );
        let mut txn = tables.db.write();
        tables.endpoints.finish_initializer(&mut txn, KUBERNETES);
        tables.pods.finish_initializer(&mut txn, KUBERNETES);
        txn.commit();
        let found = endpoints(&tables, &tables.db.snapshot());
        assert_eq!(names(&found), ["done", "gone", "other"]);
        assert!(twice.again(found.clone()).is_empty());
        assert_eq!(twice.again(found).len(), 3);
        assert!(twice.again(Vec::new()).is_empty());
    }

    #[test]
    fn nodes_go_unless_people_want_them() {
        let tables = Tables::new().unwrap();
        let row = |name: &str, keep| NodeRow {
            labels: Default::default(),
            said: model::CiliumNode {
                name: name.to_owned(),
                ..model::CiliumNode::default()
            },
            created: 0,
            keep,
            deleted: false,
        };
        let mut txn = tables.db.write();
        for row in [row("a", false), row("b", true), row("c", false)] {
            tables.cilium_nodes.insert(&mut txn, row).unwrap();
        }
        tables
            .nodes
            .insert(
                &mut txn,
                NodeObject {
                    name: "c".to_owned(),
                    ..NodeObject::default()
                },
            )
            .unwrap();
        tables.nodes.finish_initializer(&mut txn, KUBERNETES);
        tables.cilium_nodes.finish_initializer(&mut txn, KUBERNETES);
        txn.commit();
        assert_eq!(names(&nodes(&tables, &tables.db.snapshot())), ["a"]);
    }

    #[test]
    fn identities_go_when_nobody_used_them_for_long_enough() {
        let tables = Tables::new().unwrap();
        let mut txn = tables.db.write();
        for name in ["1000", "1001", "1002"] {
            let row = IdentityRow {
                name: name.to_owned(),
                uid: name.to_owned(),
                version: "7".to_owned(),
                labels: [format!("k8s:n={name}")].into_iter().collect(),
            };
            tables.identities.insert(&mut txn, row).unwrap();
        }
        tables
            .endpoints
            .insert(&mut txn, endpoint("a", "1", 1001))
            .unwrap();
        tables.identities.finish_initializer(&mut txn, KUBERNETES);
        tables.endpoints.finish_initializer(&mut txn, KUBERNETES);
        txn.commit();
        let mut beats = Heartbeats::default();
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let mut wanted = BTreeSet::new();
        let mut look_for = |wanted: &BTreeSet<Labels>, now: u64, limit| {
            let snapshot = tables.db.snapshot();
            beats.look(
                &tables,
                &snapshot,
                wanted,
                (minutes(now), minutes(30)),
                limit,
            )
        };
        let none = BTreeSet::new();
        let mut look = |now: u64, limit| look_for(&none, now, limit);
        assert!(look(0, 9).is_empty());
        assert!(look(15, 9).is_empty());
        assert_eq!(names(&look(30, 9)), ["1000", "1002"]);
        assert_eq!(names(&look(45, 1)), ["1000"], "no more than allowed");
        let mut txn = tables.db.write();
        tables.endpoints.delete(&mut txn, "ns/a");
        tables
            .endpoints
            .insert(&mut txn, endpoint("b", "2", 1000))
            .unwrap();
        txn.commit();
        assert_eq!(names(&look(50, 9)), ["1002"], "in use again");
        assert_eq!(names(&look(75, 9)), ["1002", "1001"]);
        wanted.insert(["k8s:n=1001".to_owned()].into_iter().collect());
        assert_eq!(
            names(&look_for(&wanted, 80, 9)),
            ["1002"],
            "pods have its labels"
        );
    }
}
