//! Endpoints: by address and by host-side device.
use abi::{EndpointInfo, EndpointKey, LocalEndpoint};

use super::TypedMap;
use crate::Result;

/// The two endpoint maps, kept in step.
#[derive(Clone, Debug)]
pub struct Endpoints {
    by_address: TypedMap<EndpointKey, EndpointInfo>,
    by_device: TypedMap<u32, LocalEndpoint>,
}

/// The keys under which an endpoint's addresses stand.
fn address_keys(endpoint: &LocalEndpoint) -> impl Iterator<Item = EndpointKey> {
    let v4 = (endpoint.ipv4 != [0; 4]).then(|| EndpointKey::v4(endpoint.ipv4));
    let v6 = (endpoint.ipv6 != [0; 16]).then(|| EndpointKey::v6(endpoint.ipv6));
    v4.into_iter().chain(v6)
}

impl Endpoints {
    pub(super) fn new(
        by_address: TypedMap<EndpointKey, EndpointInfo>,
        by_device: TypedMap<u32, LocalEndpoint>,
    ) -> Self {
        Self {
            by_address,
            by_device,
        }
    }

    /// Writes an endpoint with a device of its own. First the device, so that the pod can send before it is sent to; then
    /// the addresses. Addresses it had before and has no more are removed.
    ///
    /// # Errors
    /// When a map is full or the kernel refuses.
    pub fn upsert(&self, endpoint: &LocalEndpoint) -> Result<()> {
        let before = self.by_device.get(&endpoint.info.ifindex)?;
        self.by_device.put(&endpoint.info.ifindex, endpoint)?;
        for key in address_keys(endpoint) {
            self.by_address.put(&key, &endpoint.info)?;
        }
        match before {
            Some(before) if before != *endpoint => self.remove_addresses(&before, Some(endpoint)),
            _ => Ok(()),
        }
    }

    /// Removes an endpoint by its device; what was there. An address that another endpoint has taken over stays.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&self, ifindex: u32) -> Result<Option<LocalEndpoint>> {
        let Some(endpoint) = self.by_device.get(&ifindex)? else {
            return Ok(None);
        };
        self.remove_addresses(&endpoint, None)?;
        self.by_device.remove(&ifindex)?;
        Ok(Some(endpoint))
    }

    fn remove_addresses(&self, of: &LocalEndpoint, but: Option<&LocalEndpoint>) -> Result<()> {
        for key in address_keys(of) {
            let kept = but.is_some_and(|b| address_keys(b).any(|k| k == key));
            let own = self
                .by_address
                .get(&key)?
                .is_some_and(|info| info.ifindex == of.info.ifindex);
            if own && !kept {
                self.by_address.remove(&key)?;
            }
        }
        Ok(())
    }

    /// Writes an address without a device of its own: one of the node.
    ///
    /// # Errors
    /// When the map is full or the kernel refuses.
    pub fn upsert_address(&self, key: &EndpointKey, info: &EndpointInfo) -> Result<()> {
        self.by_address.put(key, info)
    }

    /// Removes an address; whether it was there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_address(&self, key: &EndpointKey) -> Result<bool> {
        self.by_address.remove(key)
    }

    /// The entry of an address.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn address(&self, key: &EndpointKey) -> Result<Option<EndpointInfo>> {
        self.by_address.get(key)
    }

    /// The endpoint behind a device.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn get(&self, ifindex: u32) -> Result<Option<LocalEndpoint>> {
        self.by_device.get(&ifindex)
    }

    /// Every endpoint with a device, in the order of the endpoints' numbers.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn dump(&self) -> Result<Vec<LocalEndpoint>> {
        let mut all: Vec<_> = self
            .by_device
            .dump()?
            .into_iter()
            .map(|(_, endpoint)| endpoint)
            .collect();
        all.sort_by_key(|e| (e.info.id, e.info.ifindex));
        Ok(all)
    }

    /// Every address, those of the node among them, sorted.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn dump_addresses(&self) -> Result<Vec<(EndpointKey, EndpointInfo)>> {
        let mut all = self.by_address.dump()?;
        all.sort_by_key(|(key, _)| (key.family, *key));
        Ok(all)
    }
}
