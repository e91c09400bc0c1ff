//! Labels and identities of endpoints, as pods, namespaces and numbers change.
use super::Manager;
use crate::kube::identity::Identities;
use abi::identity::INIT;
use api::{ApiError, ErrorCode, path::EndpointId};
use model::{Endpoint, EndpointState, Identity, Labels, NamedPort, Namespace, Pod, PodRef, Tables};
use policy::identity::Scope;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tables::{ChangeTracker, Snapshot};

/// Finds the endpoints that changes concern.
pub struct Concerned {
    pods: ChangeTracker<Pod>,
    namespaces: ChangeTracker<Namespace>,
    endpoints: ChangeTracker<Endpoint>,
    identities: ChangeTracker<Identity>,
}

impl Concerned {
    /// Follows `tables`; everything that is there is new.
    #[must_use]
    pub fn new(tables: &Tables) -> Self {
        Self {
            pods: tables.db.track(&tables.pods),
            namespaces: tables.db.track(&tables.namespaces),
            endpoints: tables.db.track(&tables.endpoints),
            identities: tables.db.track(&tables.identities),
        }
    }

    /// The endpoints whose labels or number may be other than at the last call.
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
        let mut by_number: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
        let mut by_labels: BTreeMap<&Labels, Vec<u16>> = BTreeMap::new();
        for endpoint in all() {
            by_number
                .entry(endpoint.identity)
                .or_default()
                .push(endpoint.id);
            by_labels
                .entry(&endpoint.labels)
                .or_default()
                .push(endpoint.id);
        }
        for change in self.identities.changes(snapshot) {
            let number = by_number.get(&change.row.id);
            let labels = by_labels.get(&change.row.labels);
            found.extend(number.into_iter().chain(labels).flatten());
        }
        found
    }
}

/// What an endpoint should be, as far as its pod and the numbers are known.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Relabelled {
    /// The endpoints as they should be.
    pub(crate) rows: Vec<Endpoint>,
    /// Endpoints to be looked at again: something about them is not known yet, or not due.
    pub(crate) open: BTreeSet<u16>,
}

/// What these endpoints should be. Numbers that are missing are asked for.
#[must_use]
pub(crate) fn relabel(
    tables: &Tables,
    snapshot: &Snapshot,
    identities: &Identities,
    endpoints: &BTreeSet<u16>,
) -> Relabelled {
    let mut out = Relabelled::default();
    let found = endpoints.iter();
    for endpoint in found.filter_map(|id| tables.endpoints.get(snapshot, id)) {
        let (labels, ports) = match pod_of(tables, snapshot, &endpoint.pod) {
            Some(pod) => (identities.labels(snapshot, pod), pod.ports.to_vec()),
            // Its labels are those that were known last.
            None if endpoint.identity != INIT => (endpoint.labels.clone(), endpoint.ports.clone()),
            None => {
                out.rows.push(Endpoint::clone(endpoint));
                continue;
            }
        };
        let (next, is_open) = next(snapshot, identities, endpoint, labels, ports);
        if is_open {
            out.open.insert(endpoint.id);
        }
        out.rows.push(next);
    }
    out
}

/// What an endpoint with these labels should be now, and whether that will not be all.
fn next(
    snapshot: &Snapshot,
    identities: &Identities,
    endpoint: &Arc<Endpoint>,
    labels: Labels,
    ports: Vec<NamedPort>,
) -> (Endpoint, bool) {
    let mut next = Endpoint::clone(endpoint);
    next.ports = ports;
    let before = endpoint.identity;
    if identities.may_keep(snapshot, &labels, before) {
        next.state = EndpointState::Ready;
        next.labels = labels;
        return (next, false);
    }
    let waiting = |mut next: Endpoint| {
        next.state = EndpointState::WaitingForIdentity;
        (next, true)
    };
    let Some(identity) = identities.lookup(snapshot, &labels) else {
        let same = (labels == endpoint.labels).then_some(before);
        identities.ask(&labels, same, Some(&endpoint.pod));
        return waiting(next);
    };
    // Other nodes must hear of a new number before packets have it; of a pod that had none nobody knows anything anyway.
    let had_one = matches!(Scope::of(before), Some(Scope::Cluster | Scope::Fixed));
    if had_one && !identities.grace_left(identity).is_zero() {
        return waiting(next);
    }
    next.labels = labels;
    next.identity = identity;
    next.state = EndpointState::Ready;
    (next, false)
}

/// The object of a pod, if it is that of this incarnation. Without its namespace a pod has other labels than it will
/// have: then it is not known yet.
pub(super) fn pod_of<'s>(
    tables: &Tables,
    snapshot: &'s Snapshot,
    wanted: &PodRef,
) -> Option<&'s Arc<Pod>> {
    let pod = tables.pods.get(snapshot, wanted.to_string().as_str())?;
    tables.namespaces.get(snapshot, pod.namespace())?;
    let same = wanted.uid.is_empty() || pod.uid.is_empty() || *pod.uid == *wanted.uid;
    same.then_some(pod)
}

impl Manager {
    /// Makes these endpoints what their pods' labels, the numbers and policy say; those that have to be looked at again. Blocks for
    /// some system calls.
    pub fn refresh(&self, endpoints: &BTreeSet<u16>) -> BTreeSet<u16> {
        let mut changed = false;
        let mut open = {
            let _ids = self.lock();
            let snapshot = self.tables.db.snapshot();
            let relabelled = relabel(&self.tables, &snapshot, &self.identities, endpoints);
            let mut open = relabelled.open;
            for next in relabelled.rows {
                let Some(before) = self.tables.endpoints.get(&snapshot, &next.id) else {
                    continue;
                };
                match self.become_what_it_should(before, next) {
                    Become::Same => {}
                    Become::Changed => changed = true,
                    Become::Again => drop(open.insert(before.id)),
                }
            }
            open
        };
        if changed && let Err(error) = self.save() {
            tracing::warn!(%error, "new identities are in the kernel but not in the state file");
            open.extend(endpoints);
        }
        open
    }

    /// Whether what policy denies of an endpoint is forwarded from now on, and after a restart; the endpoint. Its connections are
    /// asked about again.
    ///
    /// # Errors
    /// There is none; the policies are not known yet; the state file cannot be written.
    pub fn set_audit(&self, id: &EndpointId, audit: bool) -> Result<Arc<Endpoint>, ApiError> {
        let _ids = self.lock();
        let missing = || ApiError::not_found(format!("endpoint {id}"));
        let before = self
            .find(&self.tables.db.snapshot(), id)
            .ok_or_else(missing)?;
        let next = Endpoint {
            policy_audit: Some(audit),
            ..Endpoint::clone(&before)
        };
        if let Become::Again = self.become_what_it_should(&before, next) {
            return Err(ApiError::new(
                ErrorCode::NotReady,
                format!("endpoint {id} cannot be changed before the agent knows all policies"),
            ));
        }
        self.save()?;
        self.find(&self.tables.db.snapshot(), id)
            .ok_or_else(missing)
    }

    /// Writes an endpoint as it should be, once policy has its rows. The old identity stays until then.
    fn become_what_it_should(&self, before: &Arc<Endpoint>, mut next: Endpoint) -> Become {
        let grant = self.enforcer().realise(&next);
        if !grant.settled {
            return Become::Again;
        }
        next.subject = grant.subject;
        next.flags = grant.flags;
        next.enforcing = grant.enforcing;
        if next == **before {
            return Become::Same;
        }
        if next.abi_local() != before.abi_local()
            && let Err(error) = self.maps.upsert(&next.abi_local())
        {
            tracing::warn!(endpoint = next.id, %error, "the identity could not be set; it is tried again");
            return Become::Again;
        }
        if next.flags != before.flags {
            // Connections may have passed because the node only watched.
            self.enforcer().ask_again();
        }
        if next.identity != before.identity {
            tracing::info!(endpoint = next.id, pod = %next.pod, identity = next.identity, before = before.identity, "identity set");
        }
        let mut txn = self.tables.db.write();
        // The row's unique keys are those of the row it replaces.
        if self.tables.endpoints.insert(&mut txn, next).is_ok() {
            txn.commit();
        }
        drop(grant.hold);
        Become::Changed
    }
}

/// What came of a try to change an endpoint.
enum Become {
    Same,
    Changed,
    Again,
}
