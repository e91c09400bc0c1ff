//! What is found in a kernel is taken over: written by a planner before, perhaps only in part.
use super::{Held, Installed, Kernel, family};
use crate::frontend::{BackendKey, FrontendKey, State};
use crate::rows::{BackendId, FrontendId, Master, Row, RowKey};
use std::collections::BTreeMap;

impl Kernel {
    /// What a kernel holds that somebody else has written, perhaps only in part.
    pub(crate) fn restore(&mut self, rows: Vec<Row>) {
        let mut owners: BTreeMap<FrontendId, FrontendKey> = BTreeMap::new();
        for row in &rows {
            match row {
                Row::Backend(id, key, state) => self.restore_backend(*id, *key, *state),
                Row::Frontend(key, master) => self.restore_frontend(*key, *master, &mut owners),
                Row::Address(address) => self.use_address(*address).written = true,
                _ => {}
            }
        }
        for row in rows {
            self.restore_part(row, &owners);
        }
        for frontend in self.frontends.values() {
            let Some(master) = frontend.master else {
                continue;
            };
            for id in frontend.slots.iter().filter(|id| **id != 0) {
                if let Some(held) = self
                    .names
                    .get(id)
                    .and_then(|key| self.backends.get_mut(key))
                {
                    held.users[master.serving as usize] += 1;
                }
            }
        }
    }

    fn restore_backend(&mut self, id: BackendId, key: BackendKey, state: State) {
        if self.backends.contains_key(&key) || !self.backend_ids.adopt(id) {
            return self
                .orphans
                .push(RowKey::Backend(id, key.address.is_ipv6()));
        }
        self.rows.backends[family(key.address)] += 1;
        self.names.insert(id, key);
        let held = Held {
            id,
            users: [0; 4],
            written: Some(state),
        };
        self.backends.insert(key, held);
    }

    fn restore_frontend(
        &mut self,
        key: FrontendKey,
        master: Master,
        owners: &mut BTreeMap<FrontendId, FrontendKey>,
    ) {
        if !self.ids.adopt(u32::from(master.id)) {
            return self.orphans.push(RowKey::Frontend(key));
        }
        self.rows.services[family(key.address)] += usize::from(master.count) + 1;
        self.use_address(key.address).users += 1;
        owners.insert(master.id, key);
        let installed = Installed {
            master: Some(master),
            slots: vec![0; usize::from(master.count)],
            ..Installed::default()
        };
        self.frontends.insert(key, installed);
    }

    fn restore_part(&mut self, row: Row, owners: &BTreeMap<FrontendId, FrontendKey>) {
        let owner = |id: FrontendId| owners.get(&id).copied();
        match row {
            Row::Backend(..) | Row::Frontend(..) | Row::Address(_) => {}
            Row::Skip(pod, key) => {
                self.skips.insert((pod, key));
            }
            Row::Slot(key, slot, backend) => {
                let known = self.names.contains_key(&backend);
                let frontend = self.frontends.get_mut(&key);
                let place = frontend
                    .and_then(|frontend| frontend.slots.get_mut(usize::from(slot).wrapping_sub(1)));
                match place {
                    Some(place) => *place = if known { backend } else { 0 },
                    None => self.orphans.push(RowKey::Slot(key, slot)),
                }
            }
            Row::Reverse(id, address, port) => {
                let own = owner(id).filter(|key| key.address.is_ipv6() == address.is_ipv6());
                self.adopt(
                    own,
                    RowKey::Reverse(id, address.is_ipv6()),
                    |key, frontend| {
                        // Another frontend's address under this number is written over.
                        frontend.reverse = (key.address, key.port) == (address, port);
                    },
                );
            }
            Row::Affinity(id, backend) => {
                let key = RowKey::Affinity(id, backend);
                let adopted = self.adopt(owner(id), key, |_, frontend| {
                    frontend.affinity.insert(backend);
                });
                self.rows.affinity += usize::from(adopted);
            }
            Row::Source(id, net, allow) => {
                let own = owner(id).filter(|key| key.address.is_ipv6() == net.addr().is_ipv6());
                let adopted = self.adopt(own, RowKey::Source(id, net), |_, frontend| {
                    frontend.ranges.insert(net, allow);
                });
                self.rows.sources[family(net.addr())] += usize::from(adopted);
            }
            Row::Maglev(id, ipv6, _) => {
                let own = owner(id).filter(|key| key.address.is_ipv6() == ipv6);
                let adopted = self.adopt(own, RowKey::Maglev(id, ipv6), |_, frontend| {
                    frontend.maglev = Some(None);
                });
                self.rows.tables[usize::from(ipv6)] += usize::from(adopted);
            }
        }
    }

    /// Gives a row to the frontend it belongs to, if there is one; one that belongs to none is removed.
    fn adopt(
        &mut self,
        owner: Option<FrontendKey>,
        row: RowKey,
        give: impl FnOnce(&FrontendKey, &mut Installed),
    ) -> bool {
        match owner.and_then(|key| Some((key, self.frontends.get_mut(&key)?))) {
            Some((key, frontend)) => {
                give(&key, frontend);
                true
            }
            None => {
                self.orphans.push(row);
                false
            }
        }
    }
}
