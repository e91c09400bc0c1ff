//! Endpoints of other nodes from slices: the table of endpoints as the slices together say.
use model::{EndpointSlice, KUBERNETES, RemoteEndpoint, Tables, Text};
use runtime::stop::Stop;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tables::{ChangeKind, ChangeTracker, Read, Snapshot};

/// Between two computations.
const REST: Duration = Duration::from_millis(1);

/// Follows slices.
pub struct Slices {
    tables: Tables,
    changed: ChangeTracker<EndpointSlice>,
    /// The slices that each endpoint is in; the last that changed comes last. While an endpoint moves it is in two.
    places: BTreeMap<Text, Vec<String>>,
    /// The endpoints of each slice.
    members: BTreeMap<String, BTreeSet<Text>>,
}

impl Slices {
    /// A follower that has seen nothing.
    #[must_use]
    pub fn new(tables: &Tables) -> Self {
        Self {
            changed: tables.db.track(&tables.endpoint_slices),
            tables: tables.clone(),
            places: BTreeMap::new(),
            members: BTreeMap::new(),
        }
    }

    /// Follows until `stop`.
    pub async fn run(mut self, stop: Stop) {
        let watch = self.tables.endpoint_slices.watch();
        loop {
            let snapshot = self.tables.db.snapshot();
            let seen = snapshot.revision();
            self.step(&snapshot);
            drop(snapshot);
            let next = async {
                tokio::time::sleep(REST).await;
                watch.changed(seen).await;
            };
            if stop.or(next).await.is_none() {
                return;
            }
        }
    }

    /// Brings the table in step with a snapshot.
    pub fn step(&mut self, snapshot: &Snapshot) {
        let mut touched: BTreeSet<Text> = BTreeSet::new();
        for change in self.changed.changes(snapshot) {
            let slice = change.row;
            let now: BTreeSet<Text> = match change.kind {
                ChangeKind::Upsert => slice.endpoints.iter().map(|one| one.key.clone()).collect(),
                ChangeKind::Delete => BTreeSet::new(),
            };
            for key in &now {
                let places = self.places.entry(key.clone()).or_default();
                places.retain(|place| *place != slice.name);
                places.push(slice.name.clone());
            }
            let before = self.members.insert(slice.name.clone(), now.clone());
            let before = before.unwrap_or_default();
            for key in before.difference(&now) {
                if let Some(places) = self.places.get_mut(key) {
                    places.retain(|place| *place != slice.name);
                    if places.is_empty() {
                        self.places.remove(key);
                    }
                }
            }
            if now.is_empty() {
                self.members.remove(&slice.name);
            }
            touched.extend(before);
            touched.extend(now);
        }
        self.write(snapshot, &touched);
    }

    fn write(&self, snapshot: &Snapshot, touched: &BTreeSet<Text>) {
        let tables = &self.tables;
        let table = &tables.cilium_endpoints;
        let mut txn = tables.db.write();
        let mut changed = false;
        for key in touched {
            changed |= match self.endpoint(snapshot, key) {
                // The table has no unique index that could refuse.
                Some(row) => table.insert_if_changed(&mut txn, row).unwrap_or(false),
                None => table.delete(&mut txn, key).is_some(),
            };
        }
        if tables.endpoint_slices.initialized(snapshot) && !table.initialized(&txn) {
            table.finish_initializer(&mut txn, KUBERNETES);
            changed = true;
        }
        if changed {
            txn.commit();
        }
    }

    fn endpoint(&self, snapshot: &Snapshot, key: &Text) -> Option<RemoteEndpoint> {
        let place = self.places.get(key)?.last()?;
        let slice = self.tables.endpoint_slices.get(snapshot, place)?;
        slice.endpoints.iter().find(|one| one.key == *key).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(name: &str, endpoints: &[(&str, u32)]) -> EndpointSlice {
        let row = |(pod, identity): &(&str, u32)| RemoteEndpoint {
            key: format!("shop/{pod}").into(),
            identity: *identity,
            ..RemoteEndpoint::default()
        };
        EndpointSlice {
            name: name.to_owned(),
            endpoints: endpoints.iter().map(row).collect(),
        }
    }

    #[test]
    fn an_endpoint_that_moves_is_never_missing() {
        let tables = Tables::new().unwrap();
        let mut slices = Slices::new(&tables);
        let mut put = |rows: Vec<EndpointSlice>, gone: &[&str]| {
            let mut txn = tables.db.write();
            for row in rows {
                tables.endpoint_slices.insert(&mut txn, row).unwrap();
            }
            for name in gone {
                tables.endpoint_slices.delete(&mut txn, *name);
            }
            txn.commit();
            slices.step(&tables.db.snapshot());
            let now = tables.db.snapshot();
            let rows = tables.cilium_endpoints.iter(&now);
            rows.map(|row| (row.key.to_string(), row.identity))
                .collect::<Vec<_>>()
        };
        let both = |a, b| [("shop/a".to_owned(), a), ("shop/b".to_owned(), b)];
        assert_eq!(
            put(vec![slice("s1", &[("a", 1), ("b", 2)])], &[]),
            both(1, 2)
        );
        // It comes into the second slice before it leaves the first.
        assert_eq!(put(vec![slice("s2", &[("a", 3)])], &[]), both(3, 2));
        assert_eq!(put(vec![slice("s1", &[("b", 2)])], &[]), both(3, 2));
        assert_eq!(put(Vec::new(), &["s1"]), [("shop/a".to_owned(), 3)]);
        assert_eq!(put(vec![slice("s2", &[])], &[]), []);
    }
}
