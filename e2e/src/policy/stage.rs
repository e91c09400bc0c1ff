//! Nine pods in three namespaces, their nodes, and somebody outside.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ::policy::labels::{LabelFilter, pod_labels};
use ::policy::rule::{NamedPort, NamedPorts, Protocol};
use lab::spec::LabName;
use lab::state::StateDir;
use model::{LabelMap, Labels, PodLabels};
use netlink::{Netns, netns};
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// The ports that pods answer on, with every protocol.
pub const PORTS: [u16; 2] = [7080, 7090];

/// Labels of the namespaces.
pub const NAMESPACES: [(&str, [(&str, &str); 2]); 3] = [
    ("a", [("team", "red"), ("env", "prod")]),
    ("b", [("team", "blue"), ("env", "prod")]),
    ("c", [("team", "red"), ("env", "dev")]),
];

/// Labels of the pods, the same in every namespace.
const PODS: [(&str, &[(&str, &str)]); 3] = [
    (
        "x",
        &[
            ("app", "web"),
            ("tier", "front"),
            ("app.kubernetes.io/part-of", "shop"),
        ],
    ),
    ("y", &[("app", "db"), ("tier", "back")]),
    ("z", &[("app", "client")]),
];

/// Number of the port that `http` names, by the name of the pod.
fn http(pod: &str) -> u16 {
    if pod == "y" { PORTS[1] } else { PORTS[0] }
}

/// Who sends or receives.
#[derive(Debug)]
pub struct Actor {
    /// `a/x`, `node1`, `router`.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// The node where it is; empty for what is outside.
    pub node: String,
    /// Its network namespace.
    pub netns: Netns,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

/// What an actor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A pod with these labels and named ports.
    Pod(Labels, NamedPorts),
    /// A node's own network.
    Host,
    /// Outside the cluster.
    Outside,
}

impl Actor {
    /// Its address of a family.
    #[must_use]
    pub fn ip(&self, ipv4: bool) -> Option<IpAddr> {
        self.ips.iter().copied().find(|ip| ip.is_ipv4() == ipv4)
    }

    /// True for pods.
    #[must_use]
    pub const fn is_pod(&self) -> bool {
        matches!(self.role, Role::Pod(..))
    }
}

/// A lab with the actors.
#[derive(Debug)]
pub struct Stage {
    /// The lab.
    pub cluster: Cluster,
    /// Names of its nodes.
    pub nodes: Vec<String>,
    /// Pods first, then nodes, then the router.
    pub actors: Vec<Actor>,
}

impl Stage {
    /// Starts a lab of three nodes with the pods. In every namespace two pods share a node, and every node has pods of all
    /// three.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    #[track_caller]
    pub fn up(prefix: &str, args: &[&str]) -> Stage {
        let cluster = Cluster::up(prefix, args);
        let nodes = ["node1", "node2", "node3"].map(str::to_owned).to_vec();
        let mut manifests = Vec::new();
        for (namespace, labels) in NAMESPACES {
            manifests.push(json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": namespace, "labels": BTreeMap::from(labels)}}));
        }
        for (namespace, pod, node) in Self::places() {
            manifests.push(pod_manifest(namespace, pod, node));
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": manifests});
        cluster.lab.apply(&list.to_string());
        let mut stage = Stage {
            cluster,
            nodes,
            actors: Vec::new(),
        };
        stage.find_actors();
        stage
    }

    /// Namespace, pod and node.
    fn places() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        const NODES: [[&str; 3]; 3] = [
            ["node1", "node1", "node2"],
            ["node2", "node3", "node3"],
            ["node3", "node2", "node1"],
        ];
        NAMESPACES
            .into_iter()
            .zip(NODES)
            .flat_map(|((namespace, _), nodes)| {
                PODS.into_iter()
                    .zip(nodes)
                    .map(move |((pod, _), node)| (namespace, pod, node))
            })
    }

    fn find_actors(&mut self) {
        let mut actors: Vec<Actor> = Self::places()
            .map(|(namespace, pod, _)| self.pod(namespace, pod))
            .collect();
        for node in self.nodes.iter().map(String::as_str).chain(["router"]) {
            let place = self.cluster.host(node);
            let is_node = node != "router";
            actors.push(Actor {
                name: node.to_owned(),
                role: if is_node { Role::Host } else { Role::Outside },
                node: if is_node {
                    node.to_owned()
                } else {
                    String::new()
                },
                netns: place.netns,
                ips: place.ips,
            });
        }
        self.actors = actors;
    }

    /// A pod of the lab, with the labels that its object has now.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    #[track_caller]
    pub fn pod(&self, namespace: &str, name: &str) -> Actor {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let object: Value = serde_json::from_str(&self.cluster.lab.get(&path)).expect("an object");
        let lab: LabName = self.cluster.lab.name().parse().expect("a lab's name");
        let record = StateDir::of(&lab)
            .read_pod(namespace, name)
            .expect("the pod's record")
            .unwrap_or_else(|| panic!("pod {namespace}/{name} does not run"));
        let process = &record
            .containers
            .first()
            .expect("a pod has a container")
            .process;
        let ips = object["status"]["podIPs"].as_array().into_iter().flatten();
        Actor {
            name: format!("{namespace}/{name}"),
            role: Role::Pod(labels_of(&object), ports_of(&object)),
            node: object["spec"]["nodeName"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            netns: netns::open(process.proc_path("ns/net")).expect("the pod's network namespace"),
            ips: ips
                .filter_map(|ip| ip["ip"].as_str()?.parse().ok())
                .collect(),
        }
    }

    /// The place of an actor in the list.
    ///
    /// # Panics
    /// If there is none of this name.
    #[must_use]
    #[track_caller]
    pub fn find(&self, name: &str) -> usize {
        let found = self.actors.iter().position(|actor| actor.name == name);
        found.unwrap_or_else(|| panic!("nobody is called {name}"))
    }
}

/// The manifest of a pod of the stage.
#[must_use]
pub fn pod_manifest(namespace: &str, pod: &str, node: &str) -> Value {
    let labels = PODS
        .iter()
        .find(|(name, _)| *name == pod)
        .map_or(&[][..], |(_, labels)| labels);
    let labels: BTreeMap<_, _> = labels.iter().copied().collect();
    json!({"apiVersion": "v1", "kind": "Pod",
    "metadata": {"name": pod, "namespace": namespace, "labels": labels},
    "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{
        "name": "c", "image": "hypha/echo",
        "ports": [
            {"name": "http", "containerPort": http(pod), "protocol": "TCP"},
            {"name": "names", "containerPort": PORTS[0], "protocol": "UDP"},
        ],
    }]}})
}

fn label_map(object: &Value) -> LabelMap {
    let labels = object["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten();
    labels
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

fn labels_of(object: &Value) -> Labels {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let own = NAMESPACES.iter().find(|(name, _)| *name == namespace);
    let namespace_labels: LabelMap = own
        .into_iter()
        .flat_map(|(_, labels)| {
            labels
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        })
        .collect();
    let pod = PodLabels {
        cluster: "default",
        namespace,
        namespace_labels: &namespace_labels,
        service_account: object["spec"]["serviceAccountName"]
            .as_str()
            .unwrap_or_default(),
        labels: &label_map(object),
    };
    pod_labels(&pod, &LabelFilter::default())
}

fn ports_of(object: &Value) -> NamedPorts {
    let ports = object["spec"]["containers"][0]["ports"]
        .as_array()
        .into_iter()
        .flatten();
    ports
        .filter_map(|port| {
            Some(NamedPort {
                name: port["name"].as_str()?.to_owned(),
                protocol: Protocol::ALL
                    .into_iter()
                    .find(|known| port["protocol"] == known.text())?,
                port: u16::try_from(port["containerPort"].as_u64()?).ok()?,
            })
        })
        .collect()
}
