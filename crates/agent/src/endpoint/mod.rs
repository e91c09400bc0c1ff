//! The endpoint manager: the one writer of endpoints, in the tables, the maps, the attachments and the state file.
mod create;
mod delete;
mod enforce;
mod identity;
mod restore;

pub use create::pod_ref;
pub use enforce::{Enforcer, Grant, Nobody};
pub use identity::Concerned;
#[cfg(test)]
pub(crate) use identity::relabel;

use crate::{addresses::Addresses, kube::identity::Identities, state::StateFile};
use api::{ApiError, path::EndpointId};
use datapath::{Datapath, maps};
use model::{Departure, Endpoint, Tables};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use tables::Snapshot;
use tokio::sync::mpsc;

/// Numbers from here on are for pods: 0 is none, 1 the node itself.
const FIRST_ID: u16 = 2;

/// How long no endpoint must have come before the quick attachments are replaced.
const QUIET: Duration = Duration::from_secs(2);

/// The endpoint manager.
#[derive(Debug)]
pub struct Manager {
    tables: Tables,
    datapath: Arc<Datapath>,
    maps: maps::Endpoints,
    addresses: Arc<Addresses>,
    state: StateFile,
    identities: Identities,
    enforcer: OnceLock<Arc<dyn Enforcer>>,
    departed: mpsc::UnboundedSender<Departure>,
    provisional: Mutex<Provisional>,
    /// Held by whoever changes endpoints. The work under it is a few system calls.
    ids: Mutex<Ids>,
}

impl Manager {
    /// A manager; deleted endpoints are announced on the receiver.
    ///
    /// # Errors
    /// The datapath has no endpoint maps.
    pub fn new(
        tables: Tables,
        datapath: Arc<Datapath>,
        addresses: Arc<Addresses>,
        state: StateFile,
        identities: Identities,
    ) -> datapath::Result<(Self, mpsc::UnboundedReceiver<Departure>)> {
        let (departed, receiver) = mpsc::unbounded_channel();
        let maps = datapath.endpoints()?;
        let (ids, provisional) = (Mutex::default(), Mutex::default());
        Ok((
            Self {
                tables,
                datapath,
                maps,
                addresses,
                state,
                identities,
                enforcer: OnceLock::new(),
                departed,
                provisional,
                ids,
            },
            receiver,
        ))
    }

    /// The endpoint that `id` names.
    #[must_use]
    pub fn find(&self, snapshot: &Snapshot, id: &EndpointId) -> Option<Arc<Endpoint>> {
        let tables = &self.tables;
        match id {
            EndpointId::Number(number) => tables.endpoints.get(snapshot, number).cloned(),
            EndpointId::Attachment {
                container,
                interface,
            } => {
                let key = model::Attachment {
                    container: container.clone(),
                    interface: interface.clone(),
                };
                tables
                    .endpoints_by_attachment
                    .first(snapshot, &key)
                    .cloned()
            }
            EndpointId::Container(container) => tables
                .endpoints_by_container
                .first(snapshot, container)
                .cloned(),
            EndpointId::Pod(namespace, name) => tables
                .endpoints_by_pod
                .first(snapshot, &format!("{namespace}/{name}"))
                .cloned(),
            EndpointId::Ip(ip) => tables.endpoints_by_address.first(snapshot, ip).cloned(),
        }
    }

    /// From now on `enforcer` is asked before an endpoint's record is written. To be said once, before endpoints are restored.
    pub fn enforce_by(&self, enforcer: Arc<dyn Enforcer>) {
        // A second one would be a mistake of the start; the first stays.
        let _ = self.enforcer.set(enforcer);
    }

    fn enforcer(&self) -> &dyn Enforcer {
        self.enforcer.get().map_or(&Nobody, AsRef::as_ref)
    }

    fn lock(&self) -> MutexGuard<'_, Ids> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the kernel's side of an endpoint equal to the row.
    fn apply(&self, endpoint: &Endpoint) -> datapath::Result<()> {
        self.maps.upsert(&endpoint.abi_local())?;
        self.attach(endpoint)
    }

    /// Attaches the endpoint's program in the way that is quick; a better one may follow when there is time.
    fn attach(&self, endpoint: &Endpoint) -> datapath::Result<()> {
        let Endpoint {
            id,
            ifindex,
            ifname,
            ..
        } = endpoint;
        if endpoint.device.is_netkit() {
            return self
                .datapath
                .attach_endpoint_netkit(*id, *ifindex, ifname, false)
                .map(drop);
        }
        if self
            .datapath
            .attach_endpoint_at_once(*id, *ifindex, ifname)?
        {
            let mut provisional = self.provisional();
            provisional.endpoints.insert(*id);
            provisional.since = Some(Instant::now());
        }
        Ok(())
    }

    fn provisional(&self) -> MutexGuard<'_, Provisional> {
        self.provisional
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives one endpoint its final attachment if none was made for a while; whether there may be more to do. Blocks for a
    /// grace period of the kernel.
    pub fn settle_one(&self) -> bool {
        let _ids = self.lock();
        let id = {
            let mut provisional = self.provisional();
            if provisional
                .since
                .is_none_or(|since| since.elapsed() < QUIET)
            {
                return false;
            }
            match provisional.endpoints.pop_first() {
                Some(id) => id,
                None => return false,
            }
        };
        let snapshot = self.tables.db.snapshot();
        if let Some(endpoint) = self.tables.endpoints.get(&snapshot, &id) {
            let Endpoint {
                id,
                ifindex,
                ifname,
                ..
            } = &**endpoint;
            if let Err(error) = self.datapath.attach_endpoint(*id, *ifindex, ifname, false) {
                tracing::warn!(endpoint = id, device = ifname, %error, "the endpoint keeps its filter; a link could not be made");
            }
        }
        true
    }

    /// Takes an endpoint out of the maps: whatever it still sends is dropped by its program. The device, and with it the
    /// program, goes later.
    fn withdraw(&self, id: u16, ifindex: u32) -> datapath::Result<()> {
        // The device number may be another endpoint's by now.
        let own = self.maps.get(ifindex)?.is_some_and(|row| row.info.id == id);
        if own {
            self.maps.remove(ifindex).map(drop)
        } else {
            Ok(())
        }
    }

    /// Hands what is left of an endpoint to the sweeper. Its addresses stay taken until that is done.
    fn depart(&self, departure: Departure) {
        self.addresses.retire(departure.addresses.iter().copied());
        let mut txn = self.tables.db.write();
        // The table has no unique index that could refuse.
        let _ = self.tables.departures.insert(&mut txn, departure.clone());
        txn.commit();
        // The receiver is gone when the agent stops; the state file has the departure then.
        let _ = self.departed.send(departure);
    }

    /// The sweeper is done with an endpoint: its addresses are free, its number can be used again.
    pub fn departed(&self, departures: &[Departure]) {
        let mut txn = self.tables.db.write();
        for departure in departures {
            self.tables.departures.delete(&mut txn, &departure.id);
        }
        txn.commit();
        self.addresses.release_retired(
            departures
                .iter()
                .flat_map(|departure| departure.addresses.iter().copied()),
        );
        let mut ids = self.lock();
        departures
            .iter()
            .for_each(|departure| ids.free(departure.id));
    }

    /// Writes what the tables have into the state file.
    pub(crate) fn save(&self) -> Result<(), ApiError> {
        self.state
            .save()
            .map_err(|error| internal(format!("{error:#}")))
    }
}

/// An error that is nobody's mistake but ours.
fn internal(message: String) -> ApiError {
    ApiError::new(api::ErrorCode::Internal, message)
}

/// Endpoints whose attachment is the quick one.
#[derive(Debug, Default)]
struct Provisional {
    endpoints: BTreeSet<u16>,
    /// When the last one was added.
    since: Option<Instant>,
}

/// Numbers in use, and where to look for the next one: a number is not used again soon.
#[derive(Debug, Default)]
struct Ids {
    used: BTreeSet<u16>,
    last: u16,
}

impl Ids {
    fn take(&mut self) -> Option<u16> {
        let after = (self.last.max(FIRST_ID - 1)).checked_add(1);
        let upper = after.and_then(|start| (start..=u16::MAX).find(|id| !self.used.contains(id)));
        let id = upper.or_else(|| (FIRST_ID..=self.last).find(|id| !self.used.contains(id)))?;
        self.used.insert(id);
        self.last = id;
        Some(id)
    }

    /// Marks a number as used by an endpoint from before a restart.
    fn claim(&mut self, id: u16) {
        self.used.insert(id);
        self.last = self.last.max(id);
    }

    fn free(&mut self, id: u16) {
        self.used.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_not_used_again_soon_and_run_out_cleanly() {
        let mut ids = Ids::default();
        assert_eq!((ids.take(), ids.take()), (Some(2), Some(3)));
        ids.free(2);
        assert_eq!(ids.take(), Some(4));
        ids.claim(u16::MAX);
        assert_eq!(ids.take(), Some(2), "wraps to the lowest free one");
        let mut full = Ids {
            used: (FIRST_ID..=u16::MAX).collect(),
            last: 77,
        };
        assert_eq!(full.take(), None);
        full.free(50);
        assert_eq!(full.take(), Some(50));
    }
}
