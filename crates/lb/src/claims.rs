//! From one object to the frontends it wants. Whether it gets them is settled elsewhere.
use crate::annotations::{self, ServiceNotes};
use crate::frontend::{
    Algorithm, Backend, BackendKey, Frontend, FrontendKey, Kind, Owner, Scope, Selection,
    SourceRanges, State, WEIGHT, flags,
};
use crate::input::{Pod, Protocol, Service, ServicePort, ServiceType, TrafficPolicy, names};
use crate::redirect::{From, Redirect};
use crate::select::{Candidate, View, choose, selection};
use crate::settings::Forwarding;
use crate::{Problem, world::World};
use ipnet::IpNet;
use model::Text;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// What an object wants.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Claims {
    pub(crate) frontends: Vec<Frontend>,
    /// Pods that are not redirected where they send to these.
    pub(crate) skips: Vec<(Text, FrontendKey)>,
    pub(crate) problems: Vec<Problem>,
}

pub(crate) fn claims(world: &World, owner: &Owner) -> Claims {
    match owner {
        Owner::Service(key) => match world.services.get(key) {
            Some(service) if world.is_ours(service) => of_service(world, service),
            _ => Claims::default(),
        },
        Owner::Pod(key) => match world.pods.get(key) {
            Some(pod) if world.settings.host_ports => of_pod(world, pod),
            _ => Claims::default(),
        },
        Owner::Redirect(key) => match world.redirects.get(key) {
            Some(redirect) if world.settings.local_redirects => of_redirect(world, redirect),
            _ => Claims::default(),
        },
    }
}

/// The wildcard address of a family.
fn any(ipv6: bool) -> IpAddr {
    if ipv6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

/// Works out one service.
struct OfService<'a> {
    world: &'a World,
    service: &'a Service,
    notes: ServiceNotes,
    ranges: [Option<Arc<SourceRanges>>; 2],
    /// By place of the port, family and whether only this node's count.
    selections: BTreeMap<(usize, bool, bool), (Arc<Selection>, bool)>,
    claims: Claims,
}

fn of_service(world: &World, service: &Service) -> Claims {
    let (notes, mut problems) = ServiceNotes::read(&service.annotations);
    if service.kind == ServiceType::ExternalName || !notes.serves(&world.node.labels) {
        return Claims {
            problems,
            ..Claims::default()
        };
    }
    let slices = world.slices_of(&service.key);
    problems.extend(slices.filter_map(|slice| annotations::weight(&slice.annotations).1));
    let ranges = source_ranges(world, service, notes.deny, &mut problems);
    let mut of = OfService {
        world,
        service,
        notes,
        ranges,
        selections: BTreeMap::new(),
        claims: Claims {
            problems,
            ..Claims::default()
        },
    };
    for index in 0..service.ports.len() {
        of.port(index);
    }
    of.claims
}

/// The ranges of each family; none where all clients may.
fn source_ranges(
    world: &World,
    service: &Service,
    deny: bool,
    problems: &mut Vec<Problem>,
) -> [Option<Arc<SourceRanges>>; 2] {
    if service.source_ranges.is_empty() || !world.settings.source_ranges {
        return [None, None];
    }
    let mut nets: [Vec<IpNet>; 2] = [Vec::new(), Vec::new()];
    for text in &service.source_ranges {
        match text.trim().parse::<IpNet>() {
            Ok(net) => nets[usize::from(net.addr().is_ipv6())].push(net.trunc()),
            Err(_) => problems.push(Problem::Field {
                name: "spec.loadBalancerSourceRanges",
                what: format!("{text:?} is no range of addresses"),
                accepted: "ranges such as 10.0.0.0/8 or fd00::/64",
            }),
        }
    }
    nets.map(|mut nets| {
        nets.sort_unstable();
        nets.dedup();
        Some(Arc::new(SourceRanges { deny, nets }))
    })
}

impl OfService<'_> {
    fn port(&mut self, index: usize) {
        let port = &self.service.ports[index];
        if port.port == 0 {
            return;
        }
        let settings = &self.world.settings;
        let service = self.service;
        if self.notes.exposes(ServiceType::ClusterIp) {
            for address in &service.cluster_ips {
                self.cluster(index, *address);
            }
        }
        if settings.external_ips {
            for address in &service.external_ips {
                self.outside(index, Kind::ExternalIps, *address, port.port);
            }
        }
        let outside = service.kind == ServiceType::LoadBalancer;
        if outside && self.notes.exposes(ServiceType::LoadBalancer) {
            for ingress in service.ingress.iter().filter(|ingress| !ingress.proxy) {
                self.outside(index, Kind::LoadBalancer, ingress.address, port.port);
            }
        }
        let on_nodes = outside || service.kind == ServiceType::NodePort;
        let exposed = self.notes.exposes(ServiceType::NodePort) && settings.node_ports;
        if on_nodes && exposed && port.node_port != 0 {
            self.on_nodes(index, port.node_port);
        }
    }

    fn on_nodes(&mut self, index: usize, node_port: u16) {
        if !self.world.settings.node_port_range.contains(&node_port) {
            self.claims.problems.push(Problem::OutOfRange(node_port));
        }
        let world = self.world;
        // A node port has the families of the service: where it has no cluster address of a family, it has no backends of it.
        for address in world
            .node
            .addresses
            .iter()
            .copied()
            .chain([any(false), any(true)])
        {
            let family = |ip: &IpAddr| ip.is_ipv6() == address.is_ipv6();
            if self.service.cluster_ips.iter().any(family) || world.settings.nat46x64 {
                self.outside(index, Kind::NodePort, address, node_port);
            }
        }
    }

    fn cluster(&mut self, index: usize, address: IpAddr) {
        let port = self.service.ports[index].port;
        let local = self.internal_local();
        let mut flags = if local { flags::INTERNAL_LOCAL } else { 0 };
        if self.world.settings.external_cluster_ip {
            flags |= flags::ROUTABLE;
        }
        self.add(
            index,
            Kind::ClusterIp,
            (address, port, Scope::External),
            flags,
            local,
        );
    }

    /// A frontend that outside and cluster may see differently.
    fn outside(&mut self, index: usize, kind: Kind, address: IpAddr, port: u16) {
        let external = self.service.external_policy == TrafficPolicy::Local;
        let internal = self.internal_local();
        let mut flags = flags::ROUTABLE
            | match kind {
                Kind::ExternalIps => flags::EXTERNAL_IP,
                Kind::LoadBalancer => flags::LOAD_BALANCER,
                _ => flags::NODE_PORT,
            };
        for (set, flag) in [
            (external, flags::EXTERNAL_LOCAL),
            (internal, flags::INTERNAL_LOCAL),
            (external != internal, flags::TWO_SCOPES),
            (self.forwards_directly(index), flags::DSR),
        ] {
            if set {
                flags |= flag;
            }
        }
        self.add(
            index,
            kind,
            (address, port, Scope::External),
            flags,
            external,
        );
        if external != internal {
            self.add(
                index,
                kind,
                (address, port, Scope::Internal),
                flags,
                internal,
            );
        }
    }

    fn internal_local(&self) -> bool {
        self.world.settings.internal_policy && self.service.internal_policy == TrafficPolicy::Local
    }

    fn forwards_directly(&self, index: usize) -> bool {
        let settings = &self.world.settings;
        let noted = self
            .notes
            .forwarding
            .filter(|_| settings.forwarding_annotation);
        match noted.unwrap_or(settings.forwarding) {
            Forwarding::Snat => false,
            Forwarding::Dsr => true,
            Forwarding::Hybrid => self.service.ports[index].protocol == Protocol::Tcp,
        }
    }

    fn algorithm(&self) -> Algorithm {
        let settings = &self.world.settings;
        let noted = self
            .notes
            .algorithm
            .filter(|_| settings.algorithm_annotation);
        noted.unwrap_or(settings.algorithm)
    }

    fn add(
        &mut self,
        index: usize,
        kind: Kind,
        (address, port, scope): (IpAddr, u16, Scope),
        mut bits: u16,
        local: bool,
    ) {
        let settings = &self.world.settings;
        if !settings.has(address.is_ipv6()) || port == 0 {
            return;
        }
        let (selection, crossed) = self.selection(index, address.is_ipv6(), local);
        if crossed {
            bits |= flags::NAT46X64;
        }
        let affinity = self.service.affinity.filter(|_| settings.affinity);
        if affinity.is_some() {
            bits |= flags::AFFINITY;
        }
        let checked =
            kind == Kind::LoadBalancer || (settings.source_ranges_all && kind != Kind::ClusterIp);
        let ranges = self.ranges[usize::from(address.is_ipv6())]
            .clone()
            .filter(|_| checked && scope == Scope::External);
        if let Some(ranges) = &ranges {
            bits |= flags::SOURCE_RANGES;
            bits |= if ranges.deny {
                flags::SOURCE_RANGES_DENY
            } else {
                0
            };
        }
        // What comes from sockets of the cluster chooses at random: a connection is made but once.
        let outside = bits & flags::ROUTABLE != 0 && scope == Scope::External;
        let service_port = &self.service.ports[index];
        self.claims.frontends.push(Frontend {
            key: FrontendKey {
                address,
                port,
                protocol: service_port.protocol,
                scope,
            },
            kind,
            owner: Owner::Service(self.service.key.clone()),
            created: self.service.created,
            port_name: service_port.name.clone(),
            flags: bits,
            // Kubernetes' default where the time-out is left out, and its greatest value.
            affinity: affinity.map(|seconds| {
                if seconds == 0 {
                    10_800
                } else {
                    seconds.min(86_400)
                }
            }),
            algorithm: if outside {
                self.algorithm()
            } else {
                Algorithm::Random
            },
            ranges,
            selection,
        });
    }

    /// The backends of a port, and whether they are of the other family.
    fn selection(&mut self, index: usize, ipv6: bool, local: bool) -> (Arc<Selection>, bool) {
        if let Some((known, crossed)) = self.selections.get(&(index, ipv6, local)) {
            return (known.clone(), *crossed);
        }
        let (candidates, crossed) =
            candidates(self.world, self.service, &self.service.ports[index], ipv6);
        let fates = choose(&candidates, &view(self.world, local));
        let found = (Arc::new(selection(&candidates, &fates)), crossed);
        self.selections.insert((index, ipv6, local), found.clone());
        found
    }
}

/// Whose backends count, on this node.
pub(crate) fn view(world: &World, local: bool) -> View<'_> {
    View {
        node: &world.node,
        local,
        topology: world.settings.topology,
    }
}

/// Everybody who might serve a frontend of a family, and whether they are of the other one.
pub(crate) fn candidates(
    world: &World,
    service: &Service,
    port: &ServicePort,
    ipv6: bool,
) -> (Vec<Candidate>, bool) {
    let own = world.candidates(service, port, ipv6);
    if !own.is_empty() || !world.settings.nat46x64 || !world.settings.has(!ipv6) {
        return (own, false);
    }
    let other = world.candidates(service, port, !ipv6);
    let crossed = !other.is_empty();
    (other, crossed)
}

/// The port of the service that a frontend stands for.
pub(crate) fn port_of<'a>(service: &'a Service, frontend: &Frontend) -> Option<&'a ServicePort> {
    service
        .ports
        .iter()
        .find(|port| port.name == frontend.port_name && port.protocol == frontend.key.protocol)
}

fn single(key: BackendKey, node: &Text, zone: &Text) -> Backend {
    Backend {
        key,
        state: State::Active,
        weight: WEIGHT,
        zone: zone.clone(),
        node: node.clone(),
    }
}

fn of_pod(world: &World, pod: &Pod) -> Claims {
    let mut claims = Claims::default();
    if pod.host_network || pod.terminating {
        return claims;
    }
    for port in &pod.host_ports {
        for ipv6 in [false, true] {
            // Of each family a pod has one address.
            let mut family = pod.addresses.iter().filter(|ip| ip.is_ipv6() == ipv6);
            let Some(address) = family.next() else {
                continue;
            };
            if port.host_port == 0 || port.port == 0 || !world.settings.has(ipv6) {
                continue;
            }
            let backend = BackendKey {
                address: *address,
                port: port.port,
                protocol: port.protocol,
            };
            let selection = Arc::new(Selection {
                used: vec![single(backend, &world.node.name, &world.node.zone)],
                kept: Vec::new(),
            });
            for at in host_addresses(world, port.address, ipv6) {
                let loopback = if at.is_loopback() { flags::LOOPBACK } else { 0 };
                claims.frontends.push(Frontend {
                    key: FrontendKey {
                        address: at,
                        port: port.host_port,
                        protocol: port.protocol,
                        scope: Scope::External,
                    },
                    kind: Kind::HostPort,
                    owner: Owner::Pod(pod.key.clone()),
                    created: pod.created,
                    port_name: Text::default(),
                    flags: flags::HOST_PORT | flags::ROUTABLE | loopback,
                    affinity: None,
                    algorithm: Algorithm::Random,
                    ranges: None,
                    selection: selection.clone(),
                });
            }
        }
    }
    claims
}

/// Where a host port is served: at the address given, else at every one of the node.
fn host_addresses(world: &World, given: Option<IpAddr>, ipv6: bool) -> Vec<IpAddr> {
    match given.filter(|ip| !ip.is_unspecified()) {
        Some(ip) => Vec::from_iter((ip.is_ipv6() == ipv6).then_some(ip)),
        // The unspecified IPv4 address is what Kubernetes writes for "all", the IPv6 one means that family.
        None if given.is_some_and(|ip| ip.is_ipv6()) && !ipv6 => Vec::new(),
        None => {
            let own = world.node.addresses.iter().copied();
            own.filter(|ip| ip.is_ipv6() == ipv6)
                .chain([any(ipv6)])
                .collect()
        }
    }
}

fn of_redirect(world: &World, redirect: &Redirect) -> Claims {
    let mut claims = Claims::default();
    let service = match &redirect.from {
        From::Service(key) => world.services.get(key).map(|service| &**service),
        From::Address(_) => None,
    };
    let namespace = names(&redirect.key).0;
    let routable = if world.settings.external_cluster_ip {
        flags::ROUTABLE
    } else {
        0
    };
    for (key, to) in redirect.frontends(service) {
        if !world.settings.has(key.address.is_ipv6()) {
            continue;
        }
        let found = redirect.backends(world.pods_in(namespace), to, key.address.is_ipv6());
        let fit: Vec<_> = found
            .into_iter()
            .filter(|(_, _, unfit)| unfit.is_none())
            .collect();
        if fit.is_empty() {
            // The service's own backends serve, or the address itself does.
            continue;
        }
        if redirect.skip {
            claims
                .skips
                .extend(fit.iter().map(|(pod, _, _)| (pod.key.clone(), key)));
        }
        let used = fit
            .iter()
            .map(|(_, backend, _)| single(*backend, &world.node.name, &world.node.zone));
        claims.frontends.push(Frontend {
            key,
            kind: Kind::LocalRedirect,
            owner: Owner::Redirect(redirect.key.clone()),
            created: redirect.created,
            port_name: to.name.clone(),
            flags: flags::LOCAL_REDIRECT | routable,
            affinity: None,
            algorithm: Algorithm::Random,
            ranges: None,
            selection: Arc::new(Selection {
                used: used.collect(),
                kept: Vec::new(),
            }),
        });
    }
    claims
}
