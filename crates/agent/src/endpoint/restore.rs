//! Taking endpoints over from before a restart.
use super::Manager;
use anyhow::{Context, Result};
use datapath::Owner;
use model::{Departure, Endpoint, EndpointState, RESTORE};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What a restore found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Endpoints that go on as they were.
    pub kept: usize,
    /// Endpoints whose device is gone.
    pub gone: usize,
    /// Rows and attachments of the kernel that belong to no endpoint.
    pub stray: usize,
}

impl Manager {
    /// Takes `saved` over: what has its device goes on untouched, the rest is cleaned away, and so is what the kernel has of
    /// endpoints that are not in `saved`. Finishes the table's initialiser.
    ///
    /// # Errors
    /// Devices or maps cannot be listed.
    pub fn restore(&self, saved: Vec<Endpoint>, departures: Vec<Departure>) -> Result<Restored> {
        let mut ids = self.lock();
        let links = netlink::Handle::new()
            .and_then(|mut handle| handle.links())
            .context("listing devices")?;
        let devices: BTreeMap<u32, &str> = links
            .iter()
            .map(|link| (link.index, link.name.as_str()))
            .collect();
        let present =
            |endpoint: &Endpoint| devices.get(&endpoint.ifindex) == Some(&endpoint.ifname.as_str());
        let (alive, gone): (Vec<Endpoint>, Vec<Endpoint>) = saved.into_iter().partition(present);
        for endpoint in &alive {
            ids.claim(endpoint.id);
        }
        let mut restored = Restored {
            kept: alive.len(),
            gone: gone.len(),
            stray: 0,
        };
        for departure in departures {
            ids.claim(departure.id);
            self.depart(departure);
        }
        self.take_over(alive);
        for endpoint in gone {
            tracing::info!(endpoint = endpoint.id, pod = %endpoint.pod, device = endpoint.ifname, "device is gone; endpoint removed");
            if let Err(error) = self.withdraw(endpoint.id, endpoint.ifindex) {
                tracing::warn!(endpoint = endpoint.id, %error, "the kernel keeps a part of a removed endpoint");
            }
            ids.claim(endpoint.id);
            self.depart(endpoint.departure());
        }
        restored.stray = self.remove_strays()?;
        let mut txn = self.tables.db.write();
        self.tables.endpoints.finish_initializer(&mut txn, RESTORE);
        txn.commit();
        drop(ids);
        self.state.save().context("writing the state file")?;
        Ok(restored)
    }

    fn take_over(&self, alive: Vec<Endpoint>) {
        for mut endpoint in alive {
            if endpoint.state != EndpointState::WaitingForIdentity {
                endpoint.state = EndpointState::Ready;
            }
            let (pod, key) = (endpoint.pod.to_string(), endpoint.attachment.to_string());
            if let Err(error) = self.addresses.restore(endpoint.addresses(), &pod, &key) {
                tracing::warn!(endpoint = endpoint.id, pod, %error, "an address of a running pod is another pod's too");
            }
            let current =
                self.maps.get(endpoint.ifindex).ok().flatten() == Some(endpoint.abi_local());
            let outcome = if current {
                self.attach(&endpoint)
            } else {
                self.apply(&endpoint)
            };
            if let Err(error) = outcome {
                tracing::error!(endpoint = endpoint.id, pod = %endpoint.pod, %error, "a running pod could not be taken over whole");
                endpoint.state = EndpointState::Restoring;
            }
            let mut txn = self.tables.db.write();
            match self.tables.endpoints.insert(&mut txn, Arc::new(endpoint)) {
                Ok(_) => drop(txn.commit()),
                Err(error) => {
                    tracing::error!(%error, "two saved endpoints share a key; the later one is dropped")
                }
            }
        }
    }

    /// Removes map rows and attachments whose endpoint is unknown: a creation or deletion that a kill cut in two.
    fn remove_strays(&self) -> Result<usize> {
        let snapshot = self.tables.db.snapshot();
        let known: BTreeMap<u16, u32> = self
            .tables
            .endpoints
            .iter(&snapshot)
            .map(|e| (e.id, e.ifindex))
            .collect();
        let mut strays: BTreeSet<u16> = BTreeSet::new();
        for row in self.maps.dump().context("listing the endpoint map")? {
            if known.get(&row.info.id) != Some(&row.info.ifindex) {
                self.maps
                    .remove(row.info.ifindex)
                    .context("removing a stray row")?;
                strays.insert(row.info.id);
                self.depart(stray(&row));
            }
        }
        for attachment in self.datapath.attachments().context("listing attachments")? {
            if let Owner::Endpoint(id) = attachment.owner
                && !known.contains_key(&id)
                && self.tables.departures.get(&snapshot, &id).is_none()
            {
                self.datapath
                    .detach_endpoint(id)
                    .context("detaching a stray program")?;
                strays.insert(id);
            }
        }
        if !strays.is_empty() {
            tracing::info!(endpoints = ?strays, "removed what the kernel had of endpoints that do not exist");
        }
        Ok(strays.len())
    }
}

/// A row of an endpoint that nobody knows. Its device is left alone (a plugin may be about to ask again for it): index zero
/// is no device.
fn stray(row: &abi::LocalEndpoint) -> Departure {
    Departure {
        id: row.info.id,
        ifname: String::new(),
        ifindex: 0,
        addresses: addresses(row),
    }
}

fn addresses(row: &abi::LocalEndpoint) -> Vec<std::net::IpAddr> {
    let v4 = (row.ipv4 != [0; 4]).then(|| row.ipv4.into());
    let v6 = (row.ipv6 != [0; 16]).then(|| row.ipv6.into());
    v4.into_iter().chain(v6).collect()
}
