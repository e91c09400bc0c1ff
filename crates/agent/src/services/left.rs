//! Clients of backends that are gone: what has no end of its own is ended here, so that it does not talk to nobody for ever.
//!
//! Connections by packets are forgotten, the next packet finds another backend. Sockets that are connected to a backend by a
//! service get an error, and whoever has them connects again.
use crate::namespaces::{Namespaces, end_here};
use anyhow::{Context, Result};
use datapath::{
    Datapath,
    maps::{Connection, Conntrack, LbMap, LbMaps},
};
use lb::{Left, frontend::State, input::Protocol};
use model::Tables;
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

/// Ends what talks to backends that are gone.
#[derive(Debug)]
pub struct Cleaner {
    conntrack: Conntrack,
    maps: LbMaps,
    tables: Tables,
    namespaces: Namespaces,
}

impl Cleaner {
    /// A cleaner of this node.
    ///
    /// # Errors
    /// The datapath has no such maps.
    pub fn new(datapath: &Datapath, tables: &Tables, namespaces: Namespaces) -> Result<Self> {
        Ok(Self {
            conntrack: datapath.conntrack()?,
            maps: datapath.services()?,
            tables: tables.clone(),
            namespaces,
        })
    }

    /// Ends what talks to these backends by the frontends that have lost them.
    ///
    /// # Errors
    /// What cannot be done, in one line.
    pub fn clean(&self, left: &[Left]) -> Result<(), String> {
        let ends = |left: &&Left| {
            left.backend.protocol == Protocol::Udp
                && left.kept.is_none_or(|state| state == State::Maintenance)
        };
        let gone: Vec<&Left> = left.iter().filter(ends).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let forgotten = self
            .conntrack
            .remove_where(|connection, scope| {
                gone.iter().any(|left| is_of(connection, scope, left))
            })
            .map_err(|error| format!("connections to backends that are gone stay: {error}"))?;
        let sockets = self.sockets(&gone).map_err(|error| format!("{error:#}"))?;
        let ended = self.end(&sockets);
        tracing::debug!(
            backends = gone.len(),
            forgotten,
            sockets = sockets.len(),
            "clients of backends that are gone"
        );
        ended
    }

    /// Cookies of sockets that mean these frontends by these backends.
    fn sockets(&self, gone: &[&Left]) -> Result<BTreeSet<u64>> {
        let pairs: BTreeSet<(u16, SocketAddr)> = gone
            .iter()
            .filter_map(|left| {
                let place = SocketAddr::new(left.backend.address, left.backend.port);
                Some((left.id?, place))
            })
            .collect();
        let mut cookies = BTreeSet::new();
        for (key, frontend) in dump(&self.maps.v4.sockets)? {
            let place = SocketAddr::new(IpAddr::from(key.addr), u16::from_be_bytes(key.port));
            if pairs.contains(&(frontend.id, place)) {
                cookies.insert(key.cookie);
            }
        }
        for (key, frontend) in dump(&self.maps.v6.sockets)? {
            let place = SocketAddr::new(IpAddr::from(key.addr), u16::from_be_bytes(key.port));
            if pairs.contains(&(frontend.id, place)) {
                cookies.insert(key.cookie);
            }
        }
        Ok(cookies)
    }

    /// Ends these sockets where they are: on the host, and in the pods.
    fn end(&self, cookies: &BTreeSet<u64>) -> Result<(), String> {
        if cookies.is_empty() {
            return Ok(());
        }
        let mut open = cookies.clone();
        let ended = end_here(&open)?;
        open.retain(|cookie| !ended.contains(cookie));
        let snapshot = self.tables.db.snapshot();
        let mut hidden = None;
        for endpoint in self.tables.endpoints.iter(&snapshot) {
            if open.is_empty() {
                return Ok(());
            }
            match self.namespaces.end(&endpoint.netns, &open) {
                Ok(ended) => open.retain(|cookie| !ended.contains(cookie)),
                Err(why) => hidden = Some(why),
            }
        }
        // What is left has been closed, or is in a namespace that nobody may enter.
        hidden.map_or(Ok(()), |why| {
            Err(format!(
                "connected UDP sockets of pods to backends that are gone stay as they are: {why}"
            ))
        })
    }
}

fn dump<K, V>(map: &LbMap<K, V>) -> Result<Vec<(K, V)>>
where
    K: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + Copy,
    V: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + Copy,
{
    map.dump().context("reading sockets of services")
}

/// Whether a connection is one by the frontend to the backend, or remembers the backend for the frontend.
fn is_of(connection: &Connection, scope: u8, left: &Left) -> bool {
    let Some(id) = left.id else { return false };
    if connection.proto != Protocol::Udp.number() || connection.entry.rev_nat != id {
        return false;
    }
    match scope {
        abi::ct_scope::SERVICE => left.backend_id == Some(connection.entry.dst_id),
        _ => {
            (connection.destination, connection.destination_port)
                == (left.backend.address, left.backend.port)
        }
    }
}
