//! Labels and identities of endpoints, as pods and namespaces change.
use super::Manager;
use model::{Endpoint, EndpointState, Labels, Pod, PodLabels, Tables, identity_of};
use std::{collections::BTreeMap, sync::Arc};
use tables::Snapshot;

/// The security-relevant labels of a pod, and their identity.
#[must_use]
pub fn identity_of_pod(
    tables: &Tables,
    snapshot: &Snapshot,
    cluster: &str,
    pod: &Pod,
) -> (Labels, u32) {
    let none = BTreeMap::new();
    let namespace = tables.namespaces.get(snapshot, &pod.namespace);
    let labels = Labels::of_pod(&PodLabels {
        cluster,
        namespace: &pod.namespace,
        namespace_labels: namespace.map_or(&none, |namespace| &namespace.labels),
        service_account: &pod.service_account,
        labels: &pod.labels,
    });
    let identity = identity_of(&labels);
    (labels, identity)
}

/// The endpoints whose labels are other than their pods' objects say, with the new ones.
#[must_use]
pub fn relabel(tables: &Tables, snapshot: &Snapshot, cluster: &str) -> Vec<Endpoint> {
    let changed = |endpoint: &Arc<Endpoint>| {
        let pod = tables.pods.get(snapshot, &endpoint.pod.to_string())?;
        if !endpoint.pod.uid.is_empty() && pod.uid != endpoint.pod.uid {
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
    tables
        .endpoints
        .iter(snapshot)
        .filter_map(changed)
        .collect()
}

impl Manager {
    /// Gives every endpoint the identity of its pod's labels; how many changed. Blocks for some system calls.
    pub fn refresh_identities(&self) -> usize {
        let changed = {
            let _ids = self.lock();
            let snapshot = self.tables.db.snapshot();
            let changed = relabel(&self.tables, &snapshot, &self.options.cluster);
            for endpoint in &changed {
                self.set_identity(endpoint);
            }
            changed.len()
        };
        if changed > 0
            && let Err(error) = self.save()
        {
            tracing::warn!(%error, "new identities are in the kernel but not in the state file");
        }
        changed
    }

    fn set_identity(&self, endpoint: &Endpoint) {
        if let Err(error) = self.maps.upsert(&endpoint.abi_local()) {
            tracing::warn!(endpoint = endpoint.id, %error, "the identity could not be set; it is tried again with the next change");
            return;
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
    }
}
