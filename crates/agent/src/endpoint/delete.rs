//! The end of an endpoint.
use super::Manager;
use api::{ApiError, path::EndpointId};
use model::Endpoint;
use std::sync::Arc;

impl Manager {
    /// Deletes the endpoint that `id` names; whether there was one. Its device, its connections and then its addresses follow in
    /// the background: the kernel takes 10 to 40 ms to remove a device.
    ///
    /// # Errors
    /// The state file cannot be written; the endpoint is gone all the same.
    pub fn delete(&self, id: &EndpointId) -> Result<bool, ApiError> {
        let deleted =
            self.delete_where(|snapshot| self.find(snapshot, id).into_iter().collect())?;
        if let EndpointId::Attachment { .. } = id {
            self.addresses.release_of(&id.to_string());
        }
        Ok(deleted > 0)
    }

    /// Deletes every endpoint of a container; how many there were.
    ///
    /// # Errors
    /// As [`Manager::delete`].
    pub fn delete_container(&self, container: &str) -> Result<usize, ApiError> {
        let all = |snapshot: &tables::Snapshot| {
            self.tables
                .endpoints_by_container
                .get(snapshot, container)
                .cloned()
                .collect()
        };
        let deleted = self.delete_where(all)?;
        self.addresses
            .release_of(&format!("cni-attachment-id:{container}:"));
        Ok(deleted)
    }

    fn delete_where(
        &self,
        find: impl Fn(&tables::Snapshot) -> Vec<Arc<Endpoint>>,
    ) -> Result<usize, ApiError> {
        let found = {
            let _ids = self.lock();
            let found = find(&self.tables.db.snapshot());
            for endpoint in &found {
                self.remove_locked(endpoint);
                tracing::info!(endpoint = endpoint.id, pod = %endpoint.pod, "endpoint deleted");
            }
            found.len()
        };
        if found > 0 {
            self.save()?;
        }
        Ok(found)
    }

    /// Removes an endpoint from kernel and tables. What the kernel refuses is logged and found by the consistency check: a
    /// deletion must always come to its end.
    pub(super) fn remove_locked(&self, endpoint: &Endpoint) {
        if let Err(error) = self.withdraw(endpoint.id, endpoint.ifindex) {
            tracing::warn!(endpoint = endpoint.id, device = endpoint.ifname, %error, "the kernel keeps a part of a deleted endpoint");
        }
        let mut txn = self.tables.db.write();
        self.tables.endpoints.delete(&mut txn, &endpoint.id);
        txn.commit();
        self.depart(endpoint.departure());
    }
}
