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
use lb::{
    Left, Planner,
    frontend::{BackendKey, State},
    input::Protocol,
};
use model::Tables;
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

/// Whose datagrams go nowhere: pairs of a frontend and a backend.
#[derive(Clone, Debug, Default)]
pub struct Gone {
    /// By number of the frontend and place of the backend.
    places: BTreeSet<(u16, SocketAddr)>,
    /// By their numbers.
    numbers: BTreeSet<(u16, u32)>,
    /// They are all others but these.
    but: bool,
    /// Frontends of other protocols, about which nothing is said.
    other: BTreeSet<u16>,
}

impl Gone {
    /// Those that have lost each other.
    #[must_use]
    pub fn lost(left: &[Left]) -> Self {
        let mut gone = Self::default();
        for left in left {
            let ends = left.kept.is_none_or(|state| state == State::Maintenance);
            let (Some(id), true) = (left.id, ends && left.backend.protocol == Protocol::Udp) else {
                continue;
            };
            gone.add(id, &left.backend, left.backend_id);
        }
        gone
    }

    /// All but those that the planner knows: for what went while no agent ran.
    #[must_use]
    pub fn all_but(planner: &Planner) -> Self {
        let mut gone = Self {
            but: true,
            ..Self::default()
        };
        for frontend in planner.frontends() {
            let Some(row) = planner.row(&frontend.key) else {
                continue;
            };
            if frontend.key.protocol != Protocol::Udp {
                gone.other.insert(row.id);
                continue;
            }
            let selection = &frontend.selection;
            for backend in selection.used.iter().chain(&selection.kept) {
                gone.add(row.id, &backend.key, planner.backend_id(&backend.key));
            }
        }
        gone
    }

    fn add(&mut self, id: u16, backend: &BackendKey, number: Option<u32>) {
        let place = SocketAddr::new(backend.address, backend.port);
        self.places.insert((id, place));
        self.numbers.extend(number.map(|number| (id, number)));
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty() && !self.but
    }

    /// Puts later ones to those.
    pub fn extend(&mut self, other: Self) {
        if other.but {
            // What went before is not among those that are known.
            *self = other;
            return;
        }
        self.places.extend(other.places);
        self.numbers.extend(other.numbers);
    }

    /// Whether these are all but some: such stand alone.
    #[must_use]
    pub const fn is_all_but(&self) -> bool {
        self.but
    }

    fn has_place(&self, id: u16, place: SocketAddr) -> bool {
        !self.other.contains(&id) && self.places.contains(&(id, place)) != self.but
    }

    /// Whether a connection is one by the frontend to the backend, or remembers the backend for the frontend.
    fn has(&self, connection: &Connection, scope: u8) -> bool {
        let id = connection.entry.rev_nat;
        let is_ours = id != 0 && id != abi::DIRECT_FRONTEND;
        if connection.proto != Protocol::Udp.number() || !is_ours {
            return false;
        }
        match scope {
            abi::ct_scope::SERVICE => {
                let pair = (id, connection.entry.dst_id);
                !self.other.contains(&id) && self.numbers.contains(&pair) != self.but
            }
            _ => {
                let place = SocketAddr::new(connection.destination, connection.destination_port);
                self.has_place(id, place)
            }
        }
    }
}

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
    pub fn clean(&self, gone: &Gone) -> Result<(), String> {
        let forgotten = self
            .conntrack
            .remove_where(|connection, scope| gone.has(connection, scope))
            .map_err(|error| format!("connections to backends that are gone stay: {error}"))?;
        let sockets = self.sockets(gone).map_err(|error| format!("{error:#}"))?;
        let ended = self.end(&sockets);
        tracing::debug!(
            forgotten,
            sockets = sockets.len(),
            "clients of backends that are gone"
        );
        ended
    }

    /// Cookies of sockets that mean these frontends by these backends.
    fn sockets(&self, gone: &Gone) -> Result<BTreeSet<u64>> {
        let mut cookies = BTreeSet::new();
        for (key, frontend) in dump(&self.maps.v4.sockets)? {
            let place = SocketAddr::new(IpAddr::from(key.addr), u16::from_be_bytes(key.port));
            if gone.has_place(frontend.id, place) {
                cookies.insert(key.cookie);
            }
        }
        for (key, frontend) in dump(&self.maps.v6.sockets)? {
            let place = SocketAddr::new(IpAddr::from(key.addr), u16::from_be_bytes(key.port));
            if gone.has_place(frontend.id, place) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use abi::{CtEntry, ct_scope};

    fn connection(id: u16, to: &str, backend: u32) -> Connection {
        let to: SocketAddr = to.parse().unwrap();
        Connection {
            source: "10.0.0.1".parse().unwrap(),
            source_port: 4000,
            destination: to.ip(),
            destination_port: to.port(),
            proto: Protocol::Udp.number(),
            entry: CtEntry {
                rev_nat: id,
                dst_id: backend,
                ..CtEntry::default()
            },
        }
    }

    fn lost(kept: Option<State>) -> Left {
        Left {
            frontend: "10.96.0.10:53/UDP".parse().unwrap(),
            id: Some(7),
            backend: BackendKey {
                address: "10.0.0.9".parse().unwrap(),
                port: 5353,
                protocol: Protocol::Udp,
            },
            backend_id: Some(70),
            kept,
        }
    }

    #[test]
    fn only_those_that_lost_each_other_are_ended() {
        let gone = Gone::lost(&[lost(None)]);
        assert!(gone.has(&connection(7, "10.0.0.9:5353", 0), ct_scope::CONNECTION));
        assert!(gone.has(&connection(7, "10.96.0.10:53", 70), ct_scope::SERVICE));
        for (id, to, backend, scope) in [
            (7, "10.0.0.8:5353", 0, ct_scope::CONNECTION),
            (8, "10.0.0.9:5353", 0, ct_scope::CONNECTION),
            (0, "10.0.0.9:5353", 0, ct_scope::CONNECTION),
            (7, "10.96.0.10:53", 71, ct_scope::SERVICE),
        ] {
            assert!(!gone.has(&connection(id, to, backend), scope), "{id} {to}");
        }
        let mut tcp = connection(7, "10.0.0.9:5353", 0);
        tcp.proto = Protocol::Tcp.number();
        assert!(!gone.has(&tcp, ct_scope::CONNECTION));
        // Who is about to end keeps its clients; who is in maintenance does not.
        assert!(Gone::lost(&[lost(Some(State::Terminating))]).is_empty());
        assert!(!Gone::lost(&[lost(Some(State::Maintenance))]).is_empty());
    }

    #[test]
    fn after_a_start_all_are_ended_that_nobody_knows() {
        let mut known = Gone {
            but: true,
            other: [9].into(),
            ..Gone::default()
        };
        known.add(7, &lost(None).backend, Some(70));
        assert!(!known.is_empty() && known.is_all_but());
        assert!(!known.has(&connection(7, "10.0.0.9:5353", 0), ct_scope::CONNECTION));
        assert!(!known.has(&connection(7, "10.96.0.10:53", 70), ct_scope::SERVICE));
        assert!(!known.has(&connection(9, "10.0.0.1:1", 0), ct_scope::CONNECTION));
        assert!(!known.has(&connection(0, "10.0.0.1:1", 0), ct_scope::CONNECTION));
        assert!(known.has(&connection(7, "10.0.0.8:5353", 0), ct_scope::CONNECTION));
        assert!(known.has(&connection(8, "10.96.0.11:53", 70), ct_scope::SERVICE));
    }
}
