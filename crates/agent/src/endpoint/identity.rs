//! Labels and identities of endpoints, as pods and namespaces change.
use super::Manager;
use crate::planner::identity_of_pod;
use model::{Endpoint, EndpointState, Namespace, Pod, Tables};
use std::{collections::BTreeSet, sync::Arc};
use tables::{ChangeTracker, Snapshot};

/// Finds the endpoints that changes concern.
pub struct Concerned {
    pods: ChangeTracker<Pod>,
    namespaces: ChangeTracker<Namespace>,
    endpoints: ChangeTracker<Endpoint>,
}

impl Concerned {
    /// Follows `tables`; everything that is there is new.
    #[must_use]
    pub fn new(tables: &Tables) -> Self {
        Self {
            pods: tables.db.track(&tables.pods),
            namespaces: tables.db.track(&tables.namespaces),
            endpoints: tables.db.track(&tables.endpoints),
        }
    }

    /// The endpoints whose labels may be other than at the last call.
    pub fn endpoints(&mut self, tables: &Tables, snapshot: &Snapshot) -> BTreeSet<u16> {
        let mut found = BTreeSet::new();
        let all = || tables.endpoints.iter(snapshot);
        found.extend(self.endpoints.changes(snapshot).map(|change| change.row.id));
        for change in self.pods.changes(snapshot) {
            let of_pod = tables
                .endpoints_by_pod
                .get(snapshot, change.row.key.as_str());
            found.extend(of_pod.map(|endpoint| endpoint.id));
        }
        for change in self.namespaces.changes(snapshot) {
            let within = all().filter(|one| one.pod.namespace == change.row.name);
            found.extend(within.map(|endpoint| endpoint.id));
        }
        found
    }
}

/// Of these endpoints those whose labels are other than their pods' objects say, with the new ones.
#[must_use]
pub fn relabel(
    tables: &Tables,
    snapshot: &Snapshot,
    cluster: &str,
    endpoints: &BTreeSet<u16>,
) -> Vec<Endpoint> {
    let changed = |endpoint: &Arc<Endpoint>| {
        let pod = tables
            .pods
            .get(snapshot, endpoint.pod.to_string().as_str())?;
        if !endpoint.pod.uid.is_empty() && *pod.uid != *endpoint.pod.uid {
            return None;
        }
        let (labels, identity) = identity_of_pod(tables, snapshot, cluster, pod);
        let state = EndpointState::Ready;
        let next = Endpoint {
            labels,
            identity,
            state,
            ..Endpoint::clone(endpoint)
        };
        (next != **endpoint).then_some(next)
    };
    endpoints
        .iter()
        .filter_map(|id| changed(tables.endpoints.get(snapshot, id)?))
        .collect()
}

impl Manager {
    /// Gives these endpoints the identities of their pods' labels; those that could not be set. Blocks for some system calls.
    pub fn refresh_identities(&self, endpoints: &BTreeSet<u16>) -> BTreeSet<u16> {
        let (mut changed, mut failed) = (0, BTreeSet::new());
        {
            let _ids = self.lock();
            let snapshot = self.tables.db.snapshot();
            for endpoint in relabel(&self.tables, &snapshot, &self.options.cluster, endpoints) {
                if self.set_identity(&endpoint) {
                    changed += 1;
                } else {
                    failed.insert(endpoint.id);
                }
            }
        }
        if changed > 0
            && let Err(error) = self.save()
        {
            tracing::warn!(%error, "new identities are in the kernel but not in the state file");
        }
        failed
    }

    fn set_identity(&self, endpoint: &Endpoint) -> bool {
        if let Err(error) = self.maps.upsert(&endpoint.abi_local()) {
            tracing::warn!(endpoint = endpoint.id, %error, "the identity could not be set; it is tried again");
            return false;
        }
        let mut txn = self.tables.db.write();
        // The row's unique keys are those of the row it replaces.
        if self
            .tables
            .endpoints
            .insert(&mut txn, endpoint.clone())
            .is_ok()
        {
            txn.commit();
        }
        tracing::info!(endpoint = endpoint.id, pod = %endpoint.pod, identity = endpoint.identity, "identity set");
        true
    }
}
