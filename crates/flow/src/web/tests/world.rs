//! A made-up cluster and its flows: the same number is always the same flow.
use api::hubble::flow::{
    CiliumEventType, DropReason, Endpoint, Flow, FlowType, Ip, IpVersion, Layer4, Policy, Tcp,
    TcpFlags, TraceObservationPoint, TrafficDirection, Udp, Verdict, Workload, layer4::Protocol,
};
use api::hubble::observer::{GetFlowsResponse, get_flows_response::ResponseTypes};
use prost_types::Timestamp;

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// No policy says anything.
    Passes,
    /// A policy allows it.
    Allowed(&'static str),
    /// No policy allows it.
    Refused,
    /// A policy denies it.
    Denied(&'static str),
}

/// Somebody who talks.
#[derive(Clone)]
struct Party {
    /// Empty: a reserved identity.
    namespace: String,
    name: String,
    kind: &'static str,
    identity: u32,
}

/// A connection that is made over and over again: numbers of both parties, and the port of the second.
struct Call {
    from: usize,
    to: usize,
    port: u16,
    udp: bool,
    fate: Fate,
}

/// Parties and their calls.
pub struct World {
    parties: Vec<Party>,
    calls: Vec<Call>,
}

const NAMESPACES: [&str; 24] = [
    "accounts",
    "analytics",
    "billing",
    "catalog",
    "chat",
    "delivery",
    "fraud",
    "games",
    "geo",
    "home",
    "identity",
    "inbox",
    "jobs",
    "ledger",
    "media",
    "news",
    "offers",
    "payments",
    "photos",
    "quotes",
    "reviews",
    "shop",
    "support",
    "travel",
];

const WORKLOADS: [(&str, &str); 20] = [
    ("gateway", "Deployment"),
    ("api", "Deployment"),
    ("web", "Deployment"),
    ("auth", "Deployment"),
    ("search", "Deployment"),
    ("orders", "Deployment"),
    ("pricing", "Deployment"),
    ("mailer", "Deployment"),
    ("worker", "Deployment"),
    ("scheduler", "Deployment"),
    ("importer", "CronJob"),
    ("exporter", "CronJob"),
    ("reports", "Deployment"),
    ("sessions", "Deployment"),
    ("cache", "StatefulSet"),
    ("queue", "StatefulSet"),
    ("postgres", "StatefulSet"),
    ("objects", "StatefulSet"),
    ("index", "StatefulSet"),
    ("metrics-agent", "DaemonSet"),
];

/// Who calls whom within a namespace: numbers of [`WORKLOADS`], and the port.
const WITHIN: [(usize, usize, u16); 26] = [
    (0, 1, 8080),
    (0, 2, 3000),
    (2, 1, 8080),
    (1, 3, 9000),
    (1, 4, 9200),
    (1, 5, 8080),
    (1, 6, 8080),
    (1, 13, 8080),
    (1, 14, 6379),
    (1, 16, 5432),
    (3, 13, 8080),
    (3, 16, 5432),
    (4, 18, 9300),
    (5, 16, 5432),
    (5, 15, 5672),
    (6, 14, 6379),
    (7, 15, 5672),
    (8, 15, 5672),
    (8, 17, 9000),
    (9, 8, 8080),
    (10, 17, 9000),
    (10, 18, 9300),
    (11, 16, 5432),
    (12, 16, 5432),
    (13, 14, 6379),
    (8, 16, 5432),
];

const SYSTEM: [&str; 20] = [
    "coredns",
    "metrics-server",
    "cert-manager",
    "external-dns",
    "ingress-nginx",
    "prometheus",
    "grafana",
    "loki",
    "tempo",
    "vault",
    "registry",
    "argocd-server",
    "argocd-repo",
    "sealed-secrets",
    "cluster-autoscaler",
    "descheduler",
    "velero",
    "kured",
    "trivy",
    "hubble-relay",
];

impl World {
    /// 25 namespaces with 20 workloads each.
    pub fn large() -> Self {
        let mut world = Self::outside();
        let (internet, server) = (0, 1);
        for (number, namespace) in NAMESPACES.iter().enumerate() {
            let first = world.parties.len();
            for (name, kind) in WORKLOADS {
                world.party(namespace, name, kind);
            }
            for (from, to, port) in WITHIN {
                let fate = match (number % 6, from) {
                    (5, 11) => Fate::Denied("no-exports"),
                    (_, 1 | 5) => Fate::Allowed("api-to-stores"),
                    (3, 12) => Fate::Refused,
                    _ => Fate::Passes,
                };
                world.call(first + from, first + to, port, fate);
            }
            world.call(
                internet,
                first,
                443,
                if number % 8 == 3 {
                    Fate::Refused
                } else {
                    Fate::Passes
                },
            );
            world.call(first + 9, server, 6443, Fate::Passes);
            world.call(first + 7, internet, 587, Fate::Passes);
            // The next but six, and so on: everybody calls two others.
            for (step, port) in [(7, 8080), (11, 8443)] {
                let other = 3 + 20 * ((number + step) % NAMESPACES.len());
                let fate = if number % 5 == 0 && step == 11 {
                    Fate::Refused
                } else {
                    Fate::Allowed("between-teams")
                };
                world.call(first + 1, other, port, fate);
            }
        }
        let system = world.parties.len();
        for name in SYSTEM {
            world.party("kube-system", name, "Deployment");
        }
        for workload in 3..system {
            world.calls.push(Call {
                from: workload,
                to: system,
                port: 53,
                udp: true,
                fate: Fate::Passes,
            });
        }
        for number in 1..SYSTEM.len() {
            world.call(system + number, server, 6443, Fate::Passes);
        }
        world
    }

    /// A shop of three namespaces.
    pub fn shop() -> Self {
        let mut world = Self::outside();
        let party = |world: &mut Self, namespace: &str, name: &str, kind: &'static str| {
            world.party(namespace, name, kind);
            world.parties.len() - 1
        };
        let front = party(&mut world, "shop", "storefront", "Deployment");
        let cart = party(&mut world, "shop", "cart", "Deployment");
        let catalog = party(&mut world, "shop", "catalog", "Deployment");
        let checkout = party(&mut world, "shop", "checkout", "Deployment");
        let redis = party(&mut world, "shop", "redis", "StatefulSet");
        let reviews = party(&mut world, "shop", "reviews", "Deployment");
        let api = party(&mut world, "payments", "payments-api", "Deployment");
        let fraud = party(&mut world, "payments", "fraud-check", "Deployment");
        let ledger = party(&mut world, "payments", "ledger-db", "StatefulSet");
        let dns = party(&mut world, "kube-system", "coredns", "Deployment");
        let metrics = party(&mut world, "kube-system", "metrics-server", "Deployment");
        let (internet, server) = (0, 1);
        for (from, to, port, fate) in [
            (internet, front, 443, Fate::Allowed("world-to-storefront")),
            (front, cart, 8080, Fate::Allowed("storefront")),
            (front, catalog, 8080, Fate::Allowed("storefront")),
            (front, checkout, 8080, Fate::Allowed("storefront")),
            (front, reviews, 9080, Fate::Allowed("storefront")),
            (cart, redis, 6379, Fate::Allowed("redis")),
            (reviews, redis, 6379, Fate::Refused),
            (checkout, api, 8443, Fate::Allowed("checkout-to-payments")),
            (reviews, api, 8443, Fate::Denied("only-checkout-pays")),
            (api, fraud, 9000, Fate::Passes),
            (api, ledger, 5432, Fate::Allowed("ledger")),
            (fraud, ledger, 5432, Fate::Allowed("ledger")),
            (fraud, internet, 443, Fate::Passes),
            (metrics, server, 6443, Fate::Passes),
        ] {
            world.call(from, to, port, fate);
        }
        for from in [front, cart, checkout, api] {
            world.calls.push(Call {
                from,
                to: dns,
                port: 53,
                udp: true,
                fate: Fate::Passes,
            });
        }
        world
    }

    fn outside() -> Self {
        let reserved = |name: &str, identity| Party {
            namespace: String::new(),
            name: name.to_owned(),
            kind: "",
            identity,
        };
        Self {
            parties: vec![
                reserved("world", 2),
                reserved("kube-apiserver", 7),
                reserved("host", 1),
            ],
            calls: Vec::new(),
        }
    }

    fn party(&mut self, namespace: &str, name: &str, kind: &'static str) {
        let identity = 10_000 + u32::try_from(self.parties.len()).unwrap();
        self.parties.push(Party {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            kind,
            identity,
        });
    }

    fn call(&mut self, from: usize, to: usize, port: u16, fate: Fate) {
        self.calls.push(Call {
            from,
            to,
            port,
            udp: false,
            fate,
        });
    }

    /// How many flows it takes until everybody has called whomever they call.
    pub fn round(&self) -> u64 {
        self.calls.len() as u64
    }

    /// The flow of this number.
    pub fn flow(&self, number: u64, time: Timestamp) -> GetFlowsResponse {
        let call = &self.calls[usize::try_from(number % self.round()).unwrap()];
        let turn = number / self.round();
        let mut flow = self.packet(call, turn);
        flow.time = Some(time);
        flow.uuid = format!("00000000-0000-4000-8000-{number:012x}");
        flow.node_name = format!("default/worker-{}", 1 + (call.from + call.to) % 3);
        flow.summary = crate::summary(&flow);
        GetFlowsResponse {
            node_name: flow.node_name.clone(),
            time: flow.time,
            response_types: Some(ResponseTypes::Flow(flow)),
        }
    }

    fn packet(&self, call: &Call, turn: u64) -> Flow {
        let pod = turn % 3;
        let (from, to) = (
            self.end(call.from, pod),
            self.end(call.to, (turn + u64::from(call.port)) % 2),
        );
        let source_port = 32_768 + ((turn * 7919 + call.from as u64 * 31) % 28_000) as u32;
        let ports = |source_port, destination_port| {
            let protocol = if call.udp {
                Protocol::Udp(Udp {
                    source_port,
                    destination_port,
                })
            } else {
                let flags = TcpFlags {
                    syn: turn % 4 != 3,
                    ack: turn % 4 > 1,
                    ..TcpFlags::default()
                };
                Protocol::Tcp(Tcp {
                    source_port,
                    destination_port,
                    flags: Some(flags),
                })
            };
            Some(Layer4 {
                protocol: Some(protocol),
            })
        };
        let ip = |source: String, destination: String| {
            Some(Ip {
                source,
                destination,
                ip_version: IpVersion::IPv4 as i32,
                ..Ip::default()
            })
        };
        let refused = matches!(call.fate, Fate::Refused | Fate::Denied(_));
        let policy = |name: &str| Policy {
            name: name.to_owned(),
            namespace: self.parties[call.to].namespace.clone(),
            kind: "CiliumNetworkPolicy".to_owned(),
            revision: 12,
            ..Policy::default()
        };
        let mut flow = Flow {
            r#type: FlowType::L3L4 as i32,
            ip: ip(self.address(call.from, pod), self.address(call.to, 0)),
            l4: ports(source_port, u32::from(call.port)),
            source: Some(from.clone()),
            destination: Some(to.clone()),
            traffic_direction: TrafficDirection::Ingress as i32,
            ..Flow::default()
        };
        if call.to == 0 {
            flow.destination_names = vec!["api.example.com".to_owned()];
        }
        // A decision first, packets on their way after it, each third an answer.
        let decides = turn.is_multiple_of(3);
        flow.event_type = Some(CiliumEventType {
            r#type: if decides {
                5
            } else if refused {
                1
            } else {
                4
            },
            sub_type: if refused { 133 } else { 0 },
        });
        if refused {
            flow.verdict = Verdict::Dropped as i32;
            flow.drop_reason_desc = DropReason::PolicyDenied as i32;
            flow.drop_reason = 133;
            if let Fate::Denied(name) = call.fate {
                flow.ingress_denied_by = vec![policy(name)];
            }
            return flow;
        }
        flow.verdict = Verdict::Forwarded as i32;
        flow.is_reply = Some(false);
        if decides {
            if let Fate::Allowed(name) = call.fate {
                flow.ingress_allowed_by = vec![policy(name)];
            }
            return flow;
        }
        flow.trace_observation_point = TraceObservationPoint::ToEndpoint as i32;
        if turn % 3 == 2 {
            flow.is_reply = Some(true);
            (flow.source, flow.destination) = (Some(to), Some(from));
            flow.ip = ip(self.address(call.to, 0), self.address(call.from, pod));
            flow.l4 = ports(u32::from(call.port), source_port);
        }
        flow
    }

    fn address(&self, number: usize, pod: u64) -> String {
        match self.parties[number].identity {
            2 => format!("203.0.113.{}", 10 + pod),
            7 => "172.18.0.2".to_owned(),
            _ => format!("10.0.{}.{}", number / 200, 1 + number % 200),
        }
    }

    fn end(&self, number: usize, pod: u64) -> Endpoint {
        let Party {
            namespace,
            name,
            kind,
            identity,
        } = self.parties[number].clone();
        let end = Endpoint {
            identity,
            cluster_name: "default".to_owned(),
            ..Endpoint::default()
        };
        if namespace.is_empty() {
            return Endpoint {
                labels: vec![format!("reserved:{name}")],
                ..end
            };
        }
        let pod_name = if kind == "StatefulSet" {
            format!("{name}-0")
        } else {
            format!(
                "{name}-{:x}-{:05x}",
                0x6d9f + identity,
                (identity * 7 + pod as u32) % 0xf_ffff
            )
        };
        Endpoint {
            id: identity % 4096,
            labels: vec![
                format!("k8s:app={name}"),
                format!("k8s:io.kubernetes.pod.namespace={namespace}"),
            ],
            namespace,
            pod_name,
            workloads: vec![Workload {
                name,
                kind: kind.to_owned(),
            }],
            ..end
        }
    }
}
