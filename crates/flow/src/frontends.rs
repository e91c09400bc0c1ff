//! Services by the addresses and ports at which they serve.
use api::hubble::flow::Service;
use model::{Tables, Text};
use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};
use tables::{ChangeKind, ChangeTracker, Snapshot};

/// A service's place at an address.
struct Frontend {
    port: u16,
    service: Arc<Service>,
}

/// Services by frontend; follows the table of services.
pub struct Frontends {
    tracker: ChangeTracker<model::Service>,
    at: HashMap<IpAddr, Vec<Frontend>>,
    node_ports: HashMap<u16, Arc<Service>>,
    /// What each service has in the other two.
    of: HashMap<Text, (BTreeSet<IpAddr>, BTreeSet<u16>)>,
    node: Vec<IpAddr>,
}

impl Frontends {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(tables: &Tables) -> Self {
        Self {
            tracker: tables.db.track(&tables.services.services),
            at: HashMap::new(),
            node_ports: HashMap::new(),
            of: HashMap::new(),
            node: Vec::new(),
        }
    }

    /// Takes over what has changed.
    pub fn follow(&mut self, tables: &Tables, snapshot: &Snapshot) {
        self.node.clear();
        for node in tables.local_node.iter(snapshot) {
            self.node.extend(&node.addresses);
        }
        let changes: Vec<_> = self
            .tracker
            .changes(snapshot)
            .map(|change| (change.kind, change.row.clone()))
            .collect();
        for (kind, row) in changes {
            self.forget(&row.key);
            if kind != ChangeKind::Delete {
                self.learn(&row);
            }
        }
    }

    fn forget(&mut self, key: &Text) {
        let Some((addresses, ports)) = self.of.remove(key) else {
            return;
        };
        let (namespace, name) = model::service::names(key);
        let is_its = |service: &Service| service.namespace == namespace && service.name == name;
        for address in addresses {
            if let Some(all) = self.at.get_mut(&address) {
                all.retain(|frontend| !is_its(&frontend.service));
                if all.is_empty() {
                    self.at.remove(&address);
                }
            }
        }
        for port in ports {
            if self.node_ports.get(&port).is_some_and(|one| is_its(one)) {
                self.node_ports.remove(&port);
            }
        }
    }

    fn learn(&mut self, row: &model::Service) {
        let (namespace, name) = row.names();
        let service = Arc::new(Service {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
        });
        let addresses: BTreeSet<IpAddr> = row
            .cluster_ips
            .iter()
            .chain(&row.external_ips)
            .copied()
            .chain(row.ingress.iter().map(|ingress| ingress.address))
            .collect();
        for address in &addresses {
            let all = self.at.entry(*address).or_default();
            all.extend(row.ports.iter().map(|port| Frontend {
                port: port.port,
                service: service.clone(),
            }));
        }
        let ports: BTreeSet<u16> = row.ports.iter().map(|port| port.node_port).collect();
        for port in ports.iter().filter(|port| **port != 0) {
            self.node_ports.insert(*port, service.clone());
        }
        self.of.insert(row.key.clone(), (addresses, ports));
    }

    /// The service that serves at an address and port.
    #[must_use]
    pub fn get(&self, address: IpAddr, port: u16) -> Option<Arc<Service>> {
        if let Some(all) = self.at.get(&address) {
            let found = all.iter().find(|frontend| frontend.port == port);
            return found.map(|frontend| frontend.service.clone());
        }
        let service = self.node_ports.get(&port)?;
        self.node.contains(&address).then(|| service.clone())
    }
}
