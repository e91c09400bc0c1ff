//! Whose socket it is, by the number of its network namespace: all that the programs at sockets can tell.
use crate::namespaces::Namespaces;
use model::{Endpoint, Tables};
use std::{collections::BTreeMap, sync::Arc};
use tables::{Revision, Snapshot};

/// An endpoint, and the path of its namespace.
type Home = (u16, String);

/// The endpoints of network namespaces. Each is asked for once, when somebody wants to know.
#[derive(Debug)]
pub struct Sources {
    tables: Tables,
    namespaces: Namespaces,
    /// As of this change of the endpoints.
    revision: Revision,
    /// Numbers of namespaces, as far as somebody can tell.
    asked: BTreeMap<Home, Option<u64>>,
    known: BTreeMap<u64, u16>,
}

impl Sources {
    /// Nobody has been asked for yet.
    #[must_use]
    pub fn new(tables: &Tables, namespaces: Namespaces) -> Self {
        Self {
            tables: tables.clone(),
            namespaces,
            revision: Revision::ZERO,
            asked: BTreeMap::new(),
            known: BTreeMap::new(),
        }
    }

    /// The endpoint of a namespace; none for the host's, and where the kernel has no such numbers.
    #[must_use]
    pub fn endpoint(&mut self, netns: u64) -> Option<Arc<Endpoint>> {
        let snapshot = self.tables.db.snapshot();
        let revision = self.tables.endpoints.revision(&snapshot);
        if self.revision != revision {
            self.revision = revision;
            self.ask(&snapshot);
        }
        let id = self.known.get(&netns)?;
        self.tables.endpoints.get(&snapshot, id).cloned()
    }

    fn ask(&mut self, snapshot: &Snapshot) {
        let mut former = std::mem::take(&mut self.asked);
        self.known.clear();
        for endpoint in self.tables.endpoints.iter(snapshot) {
            let home = (endpoint.id, endpoint.netns.clone());
            let number = match former.remove(&home) {
                Some(number) => number,
                None => self.namespaces.cookie(&home.1),
            };
            self.known.extend(number.map(|number| (number, home.0)));
            self.asked.insert(home, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::endpoint, *};
    use std::os::fd::{AsFd, AsRawFd};

    #[test]
    fn a_namespace_is_its_endpoints_as_long_as_that_is_there() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let ns = netlink::netns::create_unnamed().unwrap();
        let Some(number) = ns.run(datapath::netns_cookie).unwrap().unwrap() else {
            eprintln!("skipped: this kernel does not number network namespaces (Linux 5.14)");
            return;
        };
        let tables = Tables::new().unwrap();
        let mut sources = Sources::new(&tables, Namespaces::default());
        assert_eq!(sources.endpoint(number), None);
        let write = |endpoint: Endpoint| {
            let mut txn = tables.db.write();
            tables.endpoints.insert(&mut txn, endpoint).unwrap();
            txn.commit();
        };
        let path = format!("/proc/self/fd/{}", ns.as_fd().as_raw_fd());
        write(endpoint(7, &path));
        assert_eq!(sources.endpoint(number).unwrap().id, 7);
        assert_eq!(sources.endpoint(number + 1), None);
        // What changes of it is known, and a namespace that cannot be entered harms nobody.
        write(Endpoint {
            identity: 4711,
            ..endpoint(7, &path)
        });
        write(endpoint(8, "/nowhere"));
        assert_eq!(sources.endpoint(number).unwrap().identity, 4711);
        let mut txn = tables.db.write();
        tables.endpoints.delete(&mut txn, &7);
        txn.commit();
        assert_eq!(sources.endpoint(number), None);
    }
}
