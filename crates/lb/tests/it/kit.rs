//! Short ways to write services, slices, nodes and pods.
use hypha_lb::frontend::{BackendKey, FrontendKey};
use hypha_lb::input::{
    Endpoint, HostPort, Ingress, Node, Pod, Protocol, Service, ServicePort, ServiceType, Slice,
    SlicePort, TrafficPolicy,
};
use hypha_lb::rows::Op;
use hypha_lb::{Change, Planner, Settings};
use model::{LabelMap, Text};
use std::net::IpAddr;
use std::sync::Arc;

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn labels(pairs: &[(&str, &str)]) -> LabelMap {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(own).collect()
}

pub fn service(key: &str, cluster_ips: &[&str], ports: &[(&str, u16, u16)]) -> Service {
    let port = |(name, port, node_port): &(&str, u16, u16)| {
        // A name of the form udp-… or sctp-… says the protocol.
        let protocol = match name.split('-').next() {
            Some("udp") => Protocol::Udp,
            Some("sctp") => Protocol::Sctp,
            _ => Protocol::Tcp,
        };
        ServicePort {
            name: Text::from(*name),
            protocol,
            port: *port,
            node_port: *node_port,
        }
    };
    Service {
        key: Text::from(key),
        cluster_ips: cluster_ips.iter().map(|text| ip(text)).collect(),
        kind: if ports.iter().any(|port| port.2 != 0) {
            ServiceType::NodePort
        } else {
            ServiceType::ClusterIp
        },
        ports: ports.iter().map(port).collect(),
        ..Service::default()
    }
}

pub fn balanced(mut service: Service, ingress: &[&str]) -> Service {
    service.kind = ServiceType::LoadBalancer;
    let one = |text: &&str| Ingress {
        address: ip(text),
        proxy: false,
    };
    service.ingress = ingress.iter().map(one).collect();
    service
}

pub fn local(mut service: Service, external: bool, internal: bool) -> Service {
    let policy = |local| {
        if local {
            TrafficPolicy::Local
        } else {
            TrafficPolicy::Cluster
        }
    };
    service.external_policy = policy(external);
    service.internal_policy = policy(internal);
    service
}

/// Slices of a service, with the ports' names and protocols taken from it, port `to` behind each.
pub fn slice(service: &Service, to: u16, endpoints: Vec<Endpoint>) -> Slice {
    let port = |port: &ServicePort| SlicePort {
        name: port.name.clone(),
        protocol: port.protocol,
        port: to,
    };
    Slice {
        key: Text::from(format!("{}-1", service.key)),
        service: service.key.clone(),
        ports: service.ports.iter().map(port).collect(),
        endpoints,
        ..Slice::default()
    }
}

pub fn endpoint(address: &str, node: &str) -> Endpoint {
    Endpoint::ready(ip(address), node)
}

pub fn not_ready(address: &str, node: &str) -> Endpoint {
    Endpoint {
        ready: false,
        serving: false,
        ..endpoint(address, node)
    }
}

pub fn terminating(address: &str, node: &str, serving: bool) -> Endpoint {
    Endpoint {
        ready: false,
        serving,
        terminating: true,
        ..endpoint(address, node)
    }
}

pub fn hinted(address: &str, node: &str, zones: &[&str], nodes: &[&str]) -> Endpoint {
    let texts = |list: &[&str]| list.iter().map(|text| Text::from(*text)).collect();
    Endpoint {
        zones: texts(zones),
        nodes: texts(nodes),
        ..endpoint(address, node)
    }
}

/// Node n1 in zone z1.
pub fn node() -> Node {
    Node {
        name: Text::from("n1"),
        zone: Text::from("z1"),
        labels: labels(&[("role", "worker"), ("service.cilium.io/node", "edge")]),
        addresses: vec![ip("192.0.2.11"), ip("fd00:9::11")],
    }
}

pub fn pod(key: &str, addresses: &[&str], label: &str) -> Pod {
    Pod {
        key: Text::from(key),
        labels: labels(&[("app", label)]),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        ready: true,
        ..Pod::default()
    }
}

pub fn host_port(mut pod: Pod, address: Option<&str>, host_port: u16, port: u16) -> Pod {
    pod.host_ports.push(HostPort {
        address: address.map(ip),
        host_port,
        port,
        protocol: Protocol::Tcp,
    });
    pod
}

pub fn put_service(service: Service) -> Change {
    Change::Service(service.key.clone(), Some(Arc::new(service)))
}

pub fn put_slice(slice: Slice) -> Change {
    Change::Slice(slice.key.clone(), Some(Arc::new(slice)))
}

pub fn put_pod(pod: Pod) -> Change {
    Change::Pod(pod.key.clone(), Some(Arc::new(pod)))
}

/// A planner that knows node n1 and these changes, and the writes of its first flush.
pub fn planned(
    settings: Settings,
    changes: impl IntoIterator<Item = Change>,
) -> (Planner, Vec<Op>) {
    let mut planner = Planner::new(settings, Vec::new());
    planner.apply(Change::Node(node()));
    changes.into_iter().for_each(|change| planner.apply(change));
    let ops = planner.flush().ops;
    (planner, ops)
}

/// `10.96.0.1:80`, `[fd00::1]:53/UDP` or `192.0.2.11:30080/TCP/i`.
pub fn key(text: &str) -> FrontendKey {
    text.parse().unwrap()
}

pub fn backend(text: &str) -> BackendKey {
    let key = key(text);
    BackendKey {
        address: key.address,
        port: key.port,
        protocol: key.protocol,
    }
}

/// Every frontend with the addresses of its backends, one line each.
pub fn listing(planner: &Planner) -> Vec<String> {
    let line = |frontend: &hypha_lb::frontend::Frontend| {
        let backends: Vec<_> = frontend
            .selection
            .used
            .iter()
            .map(|b| b.key.address.to_string())
            .collect();
        format!(
            "{} {} -> {}",
            frontend.key,
            frontend.kind.text(),
            backends.join(" ")
        )
    };
    planner.frontends().map(line).collect()
}

/// Addresses of the backends of one frontend.
pub fn backends(planner: &Planner, text: &str) -> Vec<String> {
    let frontend = planner
        .frontend(&key(text))
        .unwrap_or_else(|| panic!("no frontend {text}"));
    frontend
        .selection
        .used
        .iter()
        .map(|backend| backend.key.address.to_string())
        .collect()
}
