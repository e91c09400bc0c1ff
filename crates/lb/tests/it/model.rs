//! What services mean, written a second time: one frontend at a time, all from scratch, without any plan.
use hypha_lb::Settings;
use hypha_lb::frontend::{BackendKey, FrontendKey, Kind, Owner, Scope};
use hypha_lb::input::{
    Endpoint, Mark, Node, Pod, Service, ServicePort, ServiceType, Slice, TrafficPolicy,
};
use hypha_lb::redirect::{From, Redirect};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Default)]
pub struct World {
    pub node: Node,
    pub services: BTreeMap<String, Arc<Service>>,
    pub slices: BTreeMap<String, Arc<Slice>>,
    pub pods: BTreeMap<String, Arc<Pod>>,
    pub redirects: BTreeMap<String, Arc<Redirect>>,
    pub marks: BTreeMap<BackendKey, Mark>,
}

/// Who has an address and port, and who serves it.
pub type Expected = BTreeMap<FrontendKey, (Kind, Owner, BTreeSet<BackendKey>)>;

/// Age, owner and name of the port decide between claims of the same kind.
type Claim = (Kind, i64, Owner, String, BTreeSet<BackendKey>);

impl World {
    pub fn put<T>(map: &mut BTreeMap<String, T>, key: &str, value: Option<T>) {
        match value {
            Some(value) => map.insert(key.to_owned(), value),
            None => map.remove(key),
        };
    }

    /// The frontends that there should be.
    pub fn expected(&self, settings: &Settings) -> Expected {
        let mut claims: BTreeMap<FrontendKey, Vec<Claim>> = BTreeMap::new();
        for service in self
            .services
            .values()
            .filter(|service| self.is_served(service))
        {
            for port in service.ports.iter().filter(|port| port.port != 0) {
                for (kind, address, number, scope, local) in self.places(service, port, settings) {
                    let key = FrontendKey {
                        address,
                        port: number,
                        protocol: port.protocol,
                        scope,
                    };
                    let served = self.served(service, port, address.is_ipv6(), local, settings);
                    let owner = Owner::Service(service.key.clone());
                    let claim = (kind, service.created, owner, port.name.to_string(), served);
                    claims.entry(key).or_default().push(claim);
                }
            }
        }
        self.of_pods(settings, &mut claims);
        self.of_redirects(settings, &mut claims);
        let least = |(key, mut claims): (FrontendKey, Vec<Claim>)| {
            claims.sort();
            let (kind, _, owner, _, served) = claims.remove(0);
            (key, (kind, owner, served))
        };
        let on = |(key, _): &(FrontendKey, Vec<Claim>)| settings.has(key.address.is_ipv6());
        claims.into_iter().filter(on).map(least).collect()
    }

    fn is_served(&self, service: &Service) -> bool {
        let here = self.node.labels.get("service.cilium.io/node");
        service.kind != ServiceType::ExternalName
            && service
                .labels
                .get("service.kubernetes.io/service-proxy-name")
                .is_none()
            && service
                .annotations
                .get("service.cilium.io/node")
                .is_none_or(|node| here == Some(node))
    }

    /// Addresses and ports of one port of a service, and whether only backends of this node count there.
    fn places(
        &self,
        service: &Service,
        port: &ServicePort,
        settings: &Settings,
    ) -> Vec<(Kind, IpAddr, u16, Scope, bool)> {
        let types = match service.annotations.get("service.cilium.io/type") {
            Some("ClusterIP") => vec![ServiceType::ClusterIp],
            Some("NodePort,LoadBalancer") => vec![ServiceType::NodePort, ServiceType::LoadBalancer],
            _ => vec![
                ServiceType::ClusterIp,
                ServiceType::NodePort,
                ServiceType::LoadBalancer,
            ],
        };
        let internal = settings.internal_policy && service.internal_policy == TrafficPolicy::Local;
        let external = service.external_policy == TrafficPolicy::Local;
        let mut places = Vec::new();
        if types.contains(&ServiceType::ClusterIp) {
            places.extend(
                service
                    .cluster_ips
                    .iter()
                    .map(|ip| (Kind::ClusterIp, *ip, port.port, Scope::External, internal)),
            );
        }
        let mut outside: Vec<(Kind, IpAddr, u16)> = Vec::new();
        outside.extend(
            service
                .external_ips
                .iter()
                .map(|ip| (Kind::ExternalIps, *ip, port.port)),
        );
        if service.kind == ServiceType::LoadBalancer && types.contains(&ServiceType::LoadBalancer) {
            let served = service.ingress.iter().filter(|ingress| !ingress.proxy);
            outside.extend(served.map(|ingress| (Kind::LoadBalancer, ingress.address, port.port)));
        }
        if service.kind != ServiceType::ClusterIp
            && types.contains(&ServiceType::NodePort)
            && port.node_port != 0
        {
            let wildcards = [crate::kit::ip("0.0.0.0"), crate::kit::ip("::")];
            let all = self.node.addresses.iter().chain(&wildcards);
            let families = all.filter(|ip| {
                settings.nat46x64
                    || service
                        .cluster_ips
                        .iter()
                        .any(|own| own.is_ipv4() == ip.is_ipv4())
            });
            outside.extend(families.map(|ip| (Kind::NodePort, *ip, port.node_port)));
        }
        for (kind, ip, number) in outside {
            places.push((kind, ip, number, Scope::External, external));
            if external != internal {
                places.push((kind, ip, number, Scope::Internal, internal));
            }
        }
        places
    }

    /// Who serves a port in a family.
    fn served(
        &self,
        service: &Service,
        port: &ServicePort,
        ipv6: bool,
        local: bool,
        settings: &Settings,
    ) -> BTreeSet<BackendKey> {
        let mut all = self.endpoints(service, port, ipv6);
        if all.is_empty() && settings.nat46x64 && settings.has(!ipv6) {
            all = self.endpoints(service, port, !ipv6);
        }
        let maintained = |key: &BackendKey, weight: u16| {
            weight == 0 || self.marks.get(key) == Some(&Mark::Maintenance)
        };
        let own = |endpoint: &Endpoint| {
            !local || !endpoint.node.is_empty() && endpoint.node == self.node.name
        };
        let ready = |endpoint: &Endpoint| endpoint.ready || service.publish_not_ready;
        let usable: Vec<_> = all
            .iter()
            .filter(|(key, (_, weight))| !maintained(key, *weight))
            .collect();
        let healthy: Vec<_> = usable
            .iter()
            .filter(|(key, (e, _))| ready(e) && !self.marks.contains_key(key))
            .collect();
        // Hints are looked at over the whole cluster, and only where the whole cluster counts.
        let zone_hints =
            healthy.iter().all(|(_, (e, _))| !e.zones.is_empty()) && !self.node.zone.is_empty();
        let node_hints = healthy.iter().all(|(_, (e, _))| !e.nodes.is_empty());
        let for_zone: Vec<_> = healthy
            .iter()
            .filter(|(_, (e, _))| e.zones.contains(&self.node.zone))
            .collect();
        let for_node: Vec<_> = healthy
            .iter()
            .filter(|(_, (e, _))| e.nodes.contains(&self.node.name))
            .collect();
        if settings.topology && !local {
            if node_hints && !for_node.is_empty() {
                return for_node.iter().map(|(key, _)| *key).copied().collect();
            }
            if zone_hints && !for_zone.is_empty() {
                return for_zone.iter().map(|(key, _)| *key).copied().collect();
            }
        }
        let active: BTreeSet<_> = healthy
            .iter()
            .filter(|(_, (e, _))| own(e))
            .map(|(key, _)| **key)
            .collect();
        if !active.is_empty() {
            return active;
        }
        let ending = usable.iter().filter(|(_, (e, _))| {
            own(e) && !ready(e) && e.terminating && e.serving && settings.terminating
        });
        let ending: BTreeSet<_> = ending.map(|(key, _)| **key).collect();
        if !ending.is_empty() {
            return ending;
        }
        usable
            .iter()
            .filter(|(_, (e, _))| own(e) && ready(e))
            .map(|(key, _)| **key)
            .collect()
    }

    /// Endpoints of a port in a family with their weights; of one that stands in several slices, the best condition.
    fn endpoints(
        &self,
        service: &Service,
        port: &ServicePort,
        ipv6: bool,
    ) -> BTreeMap<BackendKey, (Endpoint, u16)> {
        let mut found: BTreeMap<BackendKey, (Endpoint, u16)> = BTreeMap::new();
        let class = |e: &Endpoint| match (
            e.ready || service.publish_not_ready,
            e.terminating,
            e.serving,
        ) {
            (true, _, _) => 0,
            (_, true, true) => 1,
            (_, true, false) => 2,
            (_, false, _) => 3,
        };
        for slice in self
            .slices
            .values()
            .filter(|slice| slice.service == service.key)
        {
            let weight = slice
                .annotations
                .get("service.cilium.io/weight")
                .and_then(|text| text.parse().ok())
                .unwrap_or(100);
            let mut ports = slice.ports.iter();
            let Some(to) =
                ports.find(|p| p.name == port.name && p.protocol == port.protocol && p.port != 0)
            else {
                continue;
            };
            for endpoint in slice
                .endpoints
                .iter()
                .filter(|e| e.address.is_ipv6() == ipv6)
            {
                let key = BackendKey {
                    address: endpoint.address,
                    port: to.port,
                    protocol: port.protocol,
                };
                if found
                    .get(&key)
                    .is_none_or(|(known, _)| class(endpoint) < class(known))
                {
                    found.insert(key, (endpoint.clone(), weight));
                }
            }
        }
        found
    }

    fn of_pods(&self, settings: &Settings, claims: &mut BTreeMap<FrontendKey, Vec<Claim>>) {
        for pod in self
            .pods
            .values()
            .filter(|pod| !pod.host_network && !pod.terminating)
        {
            for port in &pod.host_ports {
                let first = |ipv6: bool| pod.addresses.iter().find(|ip| ip.is_ipv6() == ipv6);
                let firsts = [false, true].into_iter().filter(|ipv6| settings.has(*ipv6));
                for address in firsts.filter_map(first) {
                    let wildcard = crate::kit::ip(if address.is_ipv6() { "::" } else { "0.0.0.0" });
                    let mut places = vec![];
                    match port.address {
                        Some(ip) if !ip.is_unspecified() => {
                            places.extend((ip.is_ipv6() == address.is_ipv6()).then_some(ip))
                        }
                        _ => {
                            places.push(wildcard);
                            places.extend(
                                self.node
                                    .addresses
                                    .iter()
                                    .filter(|ip| ip.is_ipv6() == address.is_ipv6()),
                            );
                        }
                    }
                    for place in places {
                        let key = FrontendKey {
                            address: place,
                            port: port.host_port,
                            protocol: port.protocol,
                            scope: Scope::External,
                        };
                        let served = BackendKey {
                            address: *address,
                            port: port.port,
                            protocol: port.protocol,
                        };
                        let claim = (
                            Kind::HostPort,
                            pod.created,
                            Owner::Pod(pod.key.clone()),
                            String::new(),
                            BTreeSet::from([served]),
                        );
                        claims.entry(key).or_default().push(claim);
                    }
                }
            }
        }
    }

    fn of_redirects(&self, settings: &Settings, claims: &mut BTreeMap<FrontendKey, Vec<Claim>>) {
        for redirect in self.redirects.values() {
            let mut fronts = Vec::new();
            match &redirect.from {
                From::Address(ip) => fronts.extend(
                    redirect
                        .from_ports
                        .iter()
                        .map(|p| (*ip, p.port, p.protocol, p.name.clone())),
                ),
                From::Service(service) => {
                    let Some(service) = self.services.get(&**service) else {
                        continue;
                    };
                    for port in &service.ports {
                        let named = redirect
                            .from_ports
                            .iter()
                            .find(|p| (p.port, p.protocol) == (port.port, port.protocol));
                        if named.is_none() && !redirect.from_ports.is_empty() {
                            continue;
                        }
                        let name = named.map_or(&port.name, |named| &named.name);
                        fronts.extend(
                            service
                                .cluster_ips
                                .iter()
                                .map(|ip| (*ip, port.port, port.protocol, name.clone())),
                        );
                    }
                }
            }
            for (address, port, protocol, name) in fronts {
                if !settings.has(address.is_ipv6()) {
                    continue;
                }
                let fits = |name_of: &str| redirect.to_ports.len() == 1 || name_of == &*name;
                let Some(to) = redirect
                    .to_ports
                    .iter()
                    .find(|to| to.protocol == protocol && fits(&to.name))
                else {
                    continue;
                };
                let namespace = redirect.key.split('/').next().unwrap();
                let ours = self.pods.values().filter(|pod| {
                    pod.key.starts_with(&format!("{namespace}/"))
                        && pod.labels.get("app") == Some("dns")
                        && pod.ready
                        && !pod.terminating
                });
                let served: BTreeSet<_> = ours
                    .filter_map(|pod| {
                        pod.addresses
                            .iter()
                            .find(|ip| ip.is_ipv6() == address.is_ipv6())
                    })
                    .map(|ip| BackendKey {
                        address: *ip,
                        port: to.port,
                        protocol,
                    })
                    .collect();
                if !served.is_empty() {
                    let key = FrontendKey {
                        address,
                        port,
                        protocol,
                        scope: Scope::External,
                    };
                    let owner = Owner::Redirect(redirect.key.clone());
                    let claim = (
                        Kind::LocalRedirect,
                        redirect.created,
                        owner,
                        to.name.to_string(),
                        served,
                    );
                    claims.entry(key).or_default().push(claim);
                }
            }
        }
    }
}
