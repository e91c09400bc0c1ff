//! All that is known, and who depends on what.
use crate::annotations;
use crate::frontend::{BackendKey, Owner};
use crate::input::{Mark, Node, Pod, Service, ServicePort, Slice, names};
use crate::redirect::{From, Redirect};
use crate::select::{Candidate, Condition};
use crate::settings::Settings;
use model::Text;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) node: Node,
    pub(crate) services: BTreeMap<Text, Arc<Service>>,
    slices: BTreeMap<Text, Arc<Slice>>,
    by_service: BTreeMap<Text, BTreeSet<Text>>,
    pub(crate) pods: BTreeMap<Text, Arc<Pod>>,
    pub(crate) redirects: BTreeMap<Text, Arc<Redirect>>,
    marks: BTreeMap<BackendKey, Mark>,
}

impl World {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            node: Node::default(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            by_service: BTreeMap::new(),
            pods: BTreeMap::new(),
            redirects: BTreeMap::new(),
            marks: BTreeMap::new(),
        }
    }

    /// Takes a service, or that it is gone; gives those whom it concerns.
    pub(crate) fn service(&mut self, key: &Text, service: Option<Arc<Service>>) -> Vec<Owner> {
        let old = put(&mut self.services, key, service);
        if old.as_deref() == self.services.get(key).map(|service| &**service) {
            return Vec::new();
        }
        let named = self
            .redirects
            .values()
            .filter(|redirect| matches!(&redirect.from, From::Service(service) if service == key));
        let redirects = named.map(|redirect| Owner::Redirect(redirect.key.clone()));
        redirects.chain([Owner::Service(key.clone())]).collect()
    }

    pub(crate) fn slice(&mut self, key: &Text, slice: Option<Arc<Slice>>) -> Vec<Owner> {
        let old = put(&mut self.slices, key, slice);
        let new = self.slices.get(key);
        if old.as_ref() == new {
            return Vec::new();
        }
        let (was, is) = (
            old.map(|old| old.service.clone()),
            new.map(|new| new.service.clone()),
        );
        if was != is {
            if let Some(was) = &was
                && let Some(slices) = self.by_service.get_mut(was)
            {
                slices.remove(key);
                if slices.is_empty() {
                    self.by_service.remove(was);
                }
            }
            if let Some(is) = &is {
                let slices = self.by_service.entry(is.clone()).or_default();
                slices.insert(key.clone());
            }
        }
        let mut owners: Vec<_> = was.into_iter().chain(is).map(Owner::Service).collect();
        owners.dedup();
        owners
    }

    pub(crate) fn pod(&mut self, key: &Text, pod: Option<Arc<Pod>>) -> Vec<Owner> {
        let old = put(&mut self.pods, key, pod);
        let new = self.pods.get(key);
        if old.as_ref() == new {
            return Vec::new();
        }
        let mut owners = vec![Owner::Pod(key.clone())];
        for redirect in self.redirects.values() {
            if [old.as_deref(), new.map(|pod| &**pod)]
                .iter()
                .flatten()
                .any(|pod| redirect.selects(pod))
            {
                owners.push(Owner::Redirect(redirect.key.clone()));
            }
        }
        owners
    }

    pub(crate) fn redirect(&mut self, key: &Text, redirect: Option<Arc<Redirect>>) -> Vec<Owner> {
        let old = put(&mut self.redirects, key, redirect);
        if old.as_ref() == self.redirects.get(key) {
            return Vec::new();
        }
        vec![Owner::Redirect(key.clone())]
    }

    pub(crate) fn mark(&mut self, key: BackendKey, mark: Option<Mark>) -> Vec<Owner> {
        if put(&mut self.marks, &key, mark) == mark {
            return Vec::new();
        }
        // Rare enough to look through all of them.
        let with = self.slices.values().filter(|slice| {
            let mut endpoints = slice.endpoints.iter();
            endpoints.any(|endpoint| endpoint.address == key.address)
        });
        let services: BTreeSet<_> = with.map(|slice| slice.service.clone()).collect();
        services.into_iter().map(Owner::Service).collect()
    }

    /// Takes what is known of the node. Only what a change concerns is worked out again.
    pub(crate) fn set_node(&mut self, node: Node) -> Vec<Owner> {
        let old = std::mem::replace(&mut self.node, node);
        let all = old.name != self.node.name || old.zone != self.node.zone;
        let (addresses, labels) = (
            old.addresses != self.node.addresses,
            old.labels != self.node.labels,
        );
        let concerned = |service: &&Arc<Service>| {
            let notes = &service.annotations;
            let of_nodes = || {
                notes.get(annotations::NODE).is_some()
                    || notes.get(annotations::NODE_SELECTOR).is_some()
            };
            all || addresses && service.ports.iter().any(|port| port.node_port != 0)
                || labels && of_nodes()
        };
        let services = self.services.values().filter(concerned);
        let mut owners: Vec<_> = services
            .map(|service| Owner::Service(service.key.clone()))
            .collect();
        if all || addresses {
            owners.extend(self.pods.keys().cloned().map(Owner::Pod));
        }
        if all {
            owners.extend(self.redirects.keys().cloned().map(Owner::Redirect));
        }
        owners
    }

    /// Everybody who might serve a port of a service in a family, in the order of their keys.
    pub(crate) fn candidates(
        &self,
        service: &Service,
        port: &ServicePort,
        ipv6: bool,
    ) -> Vec<Candidate> {
        let mut found: BTreeMap<BackendKey, Candidate> = BTreeMap::new();
        for slice in self.slices_of(&service.key) {
            let (weight, _) = annotations::weight(&slice.annotations);
            let same = |p: &&crate::input::SlicePort| {
                p.name == port.name && p.protocol == port.protocol && p.port != 0
            };
            let Some(slice_port) = slice.ports.iter().find(same) else {
                continue;
            };
            let endpoints = slice.endpoints.iter();
            for endpoint in
                endpoints.filter(|e| e.address.is_ipv6() == ipv6 && !e.address.is_unspecified())
            {
                let key = BackendKey {
                    address: endpoint.address,
                    port: slice_port.port,
                    protocol: port.protocol,
                };
                let condition = Condition::of(
                    endpoint,
                    service.publish_not_ready,
                    self.settings.terminating,
                );
                // An endpoint that is moved from one slice to another may stand in both for a while: the better one counts.
                if found
                    .get(&key)
                    .is_some_and(|known| known.condition <= condition)
                {
                    continue;
                }
                found.insert(
                    key,
                    Candidate {
                        key,
                        weight,
                        node: endpoint.node.clone(),
                        zone: endpoint.zone.clone(),
                        zones: endpoint.zones.clone(),
                        nodes: endpoint.nodes.clone(),
                        condition,
                        mark: self.marks.get(&key).copied(),
                    },
                );
            }
        }
        found.into_values().collect()
    }

    pub(crate) fn slices_of(&self, service: &str) -> impl Iterator<Item = &Slice> {
        let keys = self.by_service.get(service).into_iter().flatten();
        keys.filter_map(|key| self.slices.get(key).map(|slice| &**slice))
    }

    /// Whether the service is ours to serve on this node: not another implementation's.
    pub(crate) fn is_ours(&self, service: &Service) -> bool {
        let proxy = service
            .labels
            .get(annotations::PROXY_NAME)
            .unwrap_or_default();
        self.settings.proxy_name == *proxy
    }

    /// Pods of a namespace.
    pub(crate) fn pods_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Pod> {
        let start = Text::from(format!("{namespace}/"));
        self.pods
            .range(start..)
            .take_while(move |(key, _)| names(key).0 == namespace)
            .map(|(_, pod)| &**pod)
    }
}

/// Puts a value or takes it away; gives what was there.
fn put<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, key: &K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key.clone(), value),
        None => map.remove(key),
    }
}
