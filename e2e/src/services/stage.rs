//! Two backends on two nodes, services of every kind for each of them, and what must come of asking them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use testkit::wait_until;

use super::{Expected, Protocol, Question, Source};
use crate::cluster::Cluster;

/// Backends, and the node each is on.
pub const BACKENDS: [(&str, &str); 2] = [("back1", "node1"), ("back2", "node2")];
/// Clients, and the node each is on.
pub(super) const CLIENTS: [(&str, &str); 5] = [
    ("ask1", "node1"),
    ("ask2", "node2"),
    ("node1", "node1"),
    ("node2", "node2"),
    ("node3", "node3"),
];
pub(super) const OUTSIDE: &str = "router";
pub(super) const PORT: u16 = 8080;
const HOST_PORT: u16 = 9000;
/// Addresses that the pool gives out, and those that services bring along.
const POOL: [&str; 2] = ["192.0.2.0/24", "fd00:c0de::/112"];
const EXTERNAL: [&str; 2] = ["198.51.100.", "fd00:beef::"];
const READY: Duration = Duration::from_secs(30);

/// How far services are to be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// At the sockets of everybody.
    Sockets,
    /// At the sockets of hosts; pods' packets are translated.
    Packets,
}

/// What is known of a service.
#[derive(Debug)]
struct Service {
    backend: &'static str,
    node: &'static str,
    /// Both traffic policies are `Local`.
    local: bool,
    cluster_ips: Vec<IpAddr>,
    balancer_ips: Vec<IpAddr>,
    external_ips: Vec<IpAddr>,
    node_port: u16,
}

/// A cluster with backends, clients and services.
#[derive(Debug)]
pub struct Stage {
    /// The cluster.
    pub cluster: Cluster,
    way: Way,
    services: Vec<Service>,
}

impl Stage {
    /// Makes everything and waits until it is there.
    ///
    /// # Panics
    /// If something does not come about.
    #[must_use]
    #[track_caller]
    pub fn new(way: Way, args: &[&str]) -> Stage {
        let sockets = ["--agent-config", "bpf-lb-sock-hostns-only=true"];
        let more = match way {
            Way::Sockets => &[][..],
            Way::Packets => &sockets,
        };
        let cluster = Cluster::up("e2e-services", &[args, more].concat());
        cluster
            .lab
            .apply(&format!("{}{}", manifests(), super::across::manifests()));
        let services = (0..BACKENDS.len() * 2)
            .map(|i| Service::read(&cluster, i))
            .collect();
        Stage {
            cluster,
            way,
            services,
        }
    }

    /// Has the outside reach the addresses of services by this node.
    pub fn route_by(&self, node: &str) {
        for (i, to) in POOL
            .iter()
            .copied()
            .chain(["198.51.100.0/24", "fd00:beef::/112"])
            .enumerate()
        {
            let machine = self.cluster.machine(node);
            let family = i % 2 == 0;
            let via = machine.ips.iter().find(|ip| ip.is_ipv4() == family);
            let via = via.unwrap_or_else(|| panic!("{node} has no such address"));
            self.cluster
                .lab
                .sh(OUTSIDE, &format!("ip route replace {to} via {via}"));
        }
    }

    /// What the outside asks while its routes lead to `node`, and whom a backend of another node must see.
    #[must_use]
    pub fn outside(&self, node: &'static str, seen: fn(Protocol) -> Source) -> Vec<Question> {
        let mut all = Vec::new();
        for service in &self.services {
            let expected = |protocol| service.for_outsiders(node, seen(protocol));
            for (kind, ip) in service.addresses() {
                if kind != "ClusterIP" {
                    service.ask(&mut all, OUTSIDE, kind, ip, PORT, expected);
                }
            }
            for ip in self.node_ips(node) {
                service.ask(
                    &mut all,
                    OUTSIDE,
                    "NodePort",
                    ip,
                    service.node_port,
                    expected,
                );
            }
            if !service.local && service.node == node {
                for ip in self.node_ips(node) {
                    service.ask(&mut all, OUTSIDE, "HostPort", ip, HOST_PORT, expected);
                }
            }
        }
        all
    }

    /// What pods and nodes ask.
    #[must_use]
    pub fn inside(&self) -> Vec<Question> {
        let mut all = Vec::new();
        for (client, node) in CLIENTS {
            let is_pod = client != node;
            for service in &self.services {
                for (kind, ip) in service.addresses() {
                    let expected = service.for_insiders(node, is_pod);
                    service.ask(&mut all, client, kind, ip, PORT, |_| expected);
                }
                if !service.local {
                    // Only its own node knows of a pod's port.
                    let expected = Expected::Answer(service.backend, Source::Any);
                    for ip in self.node_ips(service.node) {
                        service.ask(&mut all, client, "HostPort", ip, HOST_PORT, |_| expected);
                    }
                }
                for at in ["node1", "node2"] {
                    // Without sockets, the packet is the other node's business, to which it comes from outside.
                    let by_packet = is_pod && self.way == Way::Packets && at != node;
                    let expected = match (by_packet, service.local && service.node != at) {
                        (false, _) => service.for_insiders(node, is_pod),
                        (true, true) => Expected::Nothing,
                        (true, false) => Expected::Answer(service.backend, Source::Any),
                    };
                    for ip in self.node_ips(at) {
                        service.ask(&mut all, client, "NodePort", ip, service.node_port, |_| {
                            expected
                        });
                    }
                }
            }
        }
        all
    }

    /// A node port that a pod of another node than the first serves, and that node.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn remote_node_port(&self) -> (&'static str, u16) {
        let is_remote = |service: &&Service| !service.local && service.node != "node1";
        let service = self.services.iter().find(is_remote);
        let service = service.expect("a service of another node");
        (service.node, service.node_port)
    }

    pub(super) fn node_ips(&self, node: &str) -> Vec<IpAddr> {
        self.cluster.machine(node).ips.clone()
    }
}

impl Service {
    /// Reads what the cluster gave the `i`th service.
    #[track_caller]
    fn read(cluster: &Cluster, i: usize) -> Service {
        let (backend, node) = BACKENDS[i / 2];
        let name = name(i);
        let path = format!("/api/v1/namespaces/default/services/{name}");
        let value = wait_until(&format!("addresses of {name}"), READY, || {
            let value: Value = serde_json::from_str(&cluster.lab.get(&path)).ok()?;
            let given = value["status"]["loadBalancer"]["ingress"].as_array()?;
            (given.len() == 2).then_some(value)
        });
        let texts = |list: &Value, field: Option<&str>| -> Vec<IpAddr> {
            let items = list.as_array().into_iter().flatten();
            items
                .map(|item| field.map_or(item, |field| &item[field]))
                .filter_map(|item| item.as_str()?.parse().ok())
                .collect()
        };
        let spec = &value["spec"];
        Service {
            backend,
            node,
            local: i % 2 == 1,
            cluster_ips: texts(&spec["clusterIPs"], None),
            balancer_ips: texts(&value["status"]["loadBalancer"]["ingress"], Some("ip")),
            external_ips: texts(&spec["externalIPs"], None),
            node_port: spec["ports"][0]["nodePort"]
                .as_u64()
                .and_then(|port| port.try_into().ok())
                .expect("a node port"),
        }
    }

    fn addresses(&self) -> impl Iterator<Item = (&'static str, IpAddr)> {
        let named =
            |kind, ips: &[IpAddr]| ips.iter().map(move |ip| (kind, *ip)).collect::<Vec<_>>();
        [
            named("ClusterIP", &self.cluster_ips),
            named("LoadBalancer", &self.balancer_ips),
            named("ExternalIPs", &self.external_ips),
        ]
        .into_iter()
        .flatten()
    }

    fn ask(
        &self,
        all: &mut Vec<Question>,
        client: &str,
        kind: &str,
        ip: IpAddr,
        port: u16,
        expected: impl Fn(Protocol) -> Expected,
    ) {
        let policy = if self.local { "Local" } else { "Cluster" };
        for protocol in Protocol::ALL {
            all.push(Question {
                client: client.to_owned(),
                name: format!("{kind} {policy} of {}", self.backend),
                protocol,
                frontend: SocketAddr::new(ip, port),
                expected: expected(protocol),
            });
        }
    }

    /// `externalTrafficPolicy: Local` serves only where the backend is; from another node than the backend's it sees `seen`.
    fn for_outsiders(&self, entry: &str, seen: Source) -> Expected {
        match (self.node == entry, self.local) {
            (true, _) => Expected::Answer(self.backend, Source::Client),
            (false, false) => Expected::Answer(self.backend, seen),
            (false, true) => Expected::Nothing,
        }
    }

    /// `internalTrafficPolicy: Local` is for what comes from the cluster, by whichever address of the service.
    fn for_insiders(&self, node: &str, is_pod: bool) -> Expected {
        if self.local && self.node != node {
            return Expected::Nothing;
        }
        // Which of its addresses a node uses is its routes' business.
        let source = if is_pod { Source::Client } else { Source::Any };
        Expected::Answer(self.backend, source)
    }
}

fn name(i: usize) -> String {
    let policy = if i % 2 == 1 { "local" } else { "cluster" };
    format!("{}-{policy}", BACKENDS[i / 2].0)
}

fn manifests() -> String {
    let mut all = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {{name: pool}}\n\
         spec: {{blocks: [{{cidr: {}}}, {{cidr: \"{}\"}}]}}\n",
        POOL[0], POOL[1]
    );
    for (name, node) in BACKENDS {
        all += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  nodeName: {node}\n  \
             terminationGracePeriodSeconds: 0\n  containers:\n  - name: c\n    image: registry.k8s.io/e2e-test-images/agnhost:2.40\n    \
             args: [netexec, --http-port={PORT}, --udp-port={PORT}]\n    ports:\n    \
             - {{containerPort: {PORT}, hostPort: {HOST_PORT}, protocol: TCP}}\n    \
             - {{containerPort: {PORT}, hostPort: {HOST_PORT}, protocol: UDP}}\n"
        );
    }
    for (name, node) in CLIENTS.iter().filter(|(name, node)| name != node) {
        all += &format!("---\n{}", crate::cluster::pod_yaml(name, node));
    }
    for i in 0..BACKENDS.len() * 2 {
        let (backend, _) = BACKENDS[i / 2];
        let policy = if i % 2 == 1 { "Local" } else { "Cluster" };
        let external = EXTERNAL
            .map(|start| format!("\"{start}{}\"", i + 1))
            .join(", ");
        all += &format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {}}}\nspec:\n  type: LoadBalancer\n  \
             ipFamilyPolicy: RequireDualStack\n  selector: {{app: {backend}}}\n  externalIPs: [{external}]\n  \
             externalTrafficPolicy: {policy}\n  internalTrafficPolicy: {policy}\n  ports:\n  \
             - {{name: t, protocol: TCP, port: {PORT}, nodePort: {port}}}\n  - {{name: u, protocol: UDP, port: {PORT}, nodePort: {port}}}\n",
            name(i),
            port = 30_100 + i
        );
    }
    all
}
