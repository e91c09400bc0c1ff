//! Who is meant by a word on the command line.
use std::net::IpAddr;

use ::policy::labels::{K8S, NAMESPACE, NODE, RESERVED, split_source};
use ::policy::reference::End;
use ::policy::rule::{Entity, NamedPorts};
use ipnet::IpNet;
use model::{LabelMap, Labels};

use super::cluster::{Node, Pod, World};
use super::name::Named;

/// What people may write.
pub const ACCEPTED: &str = "a pod as NAMESPACE/NAME, an address, a range as 192.0.2.0/24, a node as node/NAME, labels as app=web,io.kubernetes.pod.namespace=shop, or one of world, host, remote-node, kube-apiserver, health, init, ingress, unmanaged; as DST a name outside as www.example.org, too";

/// Somebody who sends or receives.
#[derive(Clone, Debug)]
pub enum Place<'a> {
    /// A pod.
    Pod(&'a Pod),
    /// A node itself.
    Node(&'a Node),
    /// What is outside the cluster.
    Outside(IpNet),
    /// What a name outside the cluster stands for.
    Name(Named),
    /// Nobody in particular, of a class.
    Class(Entity),
    /// Any pod with these labels.
    Labels(Labels),
}

/// A place as one side of the traffic sees it.
#[derive(Clone, Debug)]
pub struct View {
    /// Its labels there.
    pub labels: Labels,
    ports: NamedPorts,
    address: Option<IpAddr>,
}

impl View {
    /// Its ports that have names.
    #[must_use]
    pub fn ports(&self) -> &NamedPorts {
        &self.ports
    }

    /// For the model.
    #[must_use]
    pub fn end(&self) -> End<'_> {
        End {
            labels: &self.labels,
            ports: &self.ports,
            address: self.address,
        }
    }
}

impl<'a> Place<'a> {
    /// What `text` means in a cluster.
    ///
    /// # Errors
    /// What is wrong with it, and what is accepted.
    pub fn parse(text: &str, world: &'a World) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::at(address, world));
        }
        if let Ok(range) = text.parse::<IpNet>() {
            return Ok(match range.prefix_len() == range.max_prefix_len() {
                true => Self::at(range.addr(), world),
                false => Self::Outside(range.trunc()),
            });
        }
        if text.contains('=') {
            return labels(text, world).map(Self::Labels);
        }
        if let Some(name) = text.strip_prefix("node/") {
            let found = world.nodes.iter().find(|node| node.name == name);
            return found.map(Self::Node).ok_or_else(|| {
                let names: Vec<&str> = world.nodes.iter().map(|node| node.name.as_str()).collect();
                format!("there is no node `{name}`; accepted: {}", names.join(", "))
            });
        }
        let class = Entity::from_text(text)
            .filter(|entity| !matches!(entity, Entity::All | Entity::Nobody | Entity::Cluster));
        match class {
            Some(entity) => Ok(Self::Class(entity)),
            None => match (pod(text, world), Named::parse(text, world)) {
                (Err(_), Some(name)) => Ok(Self::Name(name)),
                (found, _) => found,
            },
        }
    }

    /// Who has an address.
    #[must_use]
    pub fn at(address: IpAddr, world: &'a World) -> Self {
        let pod = world.pods.iter().find(|pod| pod.ips.contains(&address));
        let node = world.nodes.iter().find(|node| node.ips.contains(&address));
        match (pod, node) {
            (Some(pod), _) => Self::Pod(pod),
            (None, Some(node)) => Self::Node(node),
            (None, None) => Self::Outside(address.into()),
        }
    }

    /// The node where it is.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::Pod(pod) => Some(&pod.node)
                .filter(|node| !node.is_empty())
                .map(String::as_str),
            Self::Node(node) => Some(&node.name),
            _ => None,
        }
    }

    /// True if what policy denies of it passes, and is told.
    #[must_use]
    pub fn is_audited(&self, world: &World) -> bool {
        match self {
            Self::Pod(pod) => pod.audit.unwrap_or(world.audit),
            Self::Node(node) => node.audit.unwrap_or(world.audit),
            _ => world.audit,
        }
    }

    /// As it is called in answers.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Pod(pod) => pod.path(),
            Self::Node(node) => format!("node/{}", node.name),
            Self::Outside(range) if range.prefix_len() == range.max_prefix_len() => {
                range.addr().to_string()
            }
            Self::Outside(range) => range.to_string(),
            Self::Name(name) => name.text.clone(),
            Self::Class(entity) => entity.text().to_owned(),
            Self::Labels(labels) => labels.to_strings().join(","),
        }
    }

    /// More of it, for people: where it is and what it is there.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::Pod(pod) => {
                let ips: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
                format!("pod on {}, {}", pod.node, ips.join(", "))
            }
            Self::Node(_) => "the node itself and what runs in its network".to_owned(),
            Self::Outside(_) => "outside the cluster".to_owned(),
            Self::Name(_) => "a name outside the cluster".to_owned(),
            Self::Class(_) => "entity".to_owned(),
            Self::Labels(_) => "any pod with these labels".to_owned(),
        }
    }

    /// True unless all its traffic is IPv6.
    #[must_use]
    pub fn may_be_ipv4(&self) -> bool {
        match self {
            Self::Pod(pod) => pod.ips.is_empty() || pod.ips.iter().any(IpAddr::is_ipv4),
            Self::Outside(range) => range.addr().is_ipv4(),
            Self::Name(name) => name.address.is_none_or(|address| address.is_ipv4()),
            _ => true,
        }
    }

    /// As a node, or somebody on it, sees it.
    #[must_use]
    pub fn seen_from(&self, node: Option<&str>, world: &World) -> View {
        let reserved = |name: &str| format!("{RESERVED}:{name}");
        let none = NamedPorts::new;
        match self {
            Self::Pod(pod) => View {
                labels: pod.labels.clone(),
                ports: pod.ports.clone(),
                address: None,
            },
            Self::Node(own) => node_view(own, node == Some(own.name.as_str()), world),
            Self::Outside(range) => {
                let is_api = world.api_servers.iter().any(|ip| range.contains(ip));
                let api = is_api.then(|| reserved("kube-apiserver"));
                View {
                    labels: [reserved("world")].into_iter().chain(api).collect(),
                    ports: none(),
                    address: Some(range.addr()),
                }
            }
            Self::Name(name) => View {
                labels: name.labels.clone(),
                ports: none(),
                address: name.address,
            },
            Self::Class(entity) => View {
                labels: Labels::reserved(entity.text()),
                ports: none(),
                address: None,
            },
            Self::Labels(labels) => View {
                labels: labels.clone(),
                ports: none(),
                address: None,
            },
        }
    }
}

fn node_view(node: &Node, is_own: bool, world: &World) -> View {
    let class = if is_own { "host" } else { "remote-node" };
    let mut labels = vec![format!("{RESERVED}:{class}")];
    if node.ips.iter().any(|ip| world.api_servers.contains(ip)) {
        labels.push(format!("{RESERVED}:kube-apiserver"));
    }
    if is_own || world.node_labels {
        let source = if is_own { K8S } else { NODE };
        labels.extend(
            node.labels
                .iter()
                .map(|(key, value)| format!("{source}:{key}={value}")),
        );
    }
    if is_own && world.node_labels {
        labels.extend(
            node.labels
                .iter()
                .map(|(key, value)| format!("{NODE}:{key}={value}")),
        );
    }
    View {
        labels: labels.into_iter().collect(),
        ports: NamedPorts::new(),
        address: node.ips.first().copied().filter(|_| world.nodes_by_cidr),
    }
}

fn labels(text: &str, world: &World) -> Result<Labels, String> {
    let mut own = Vec::new();
    let (mut namespace, mut reserved) = ("default".to_owned(), Vec::new());
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let (source, key) = split_source(key);
        match source {
            None | Some(K8S | "any") if key == NAMESPACE => namespace = value.to_owned(),
            None | Some(K8S | "any") => own.push((key.to_owned(), value.to_owned())),
            Some(_) => reserved.push(part.to_owned()),
        }
    }
    if !world.namespaces.is_empty() && !world.namespaces.contains_key(&namespace) {
        return Err(format!(
            "there is no namespace `{namespace}` in the cluster"
        ));
    }
    let own: LabelMap = own.into_iter().collect();
    let of_pod = world.labels_of(&namespace, "", &own);
    Ok(of_pod.to_strings().into_iter().chain(reserved).collect())
}

fn pod<'a>(text: &str, world: &'a World) -> Result<Place<'a>, String> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    let found = world
        .pods
        .iter()
        .find(|pod| pod.namespace == namespace && pod.name == name);
    if let Some(pod) = found {
        return Ok(Place::Pod(pod));
    }
    // The pods of a workload have its name and something behind it.
    let near: Vec<String> = world
        .pods
        .iter()
        .filter(|pod| pod.name.starts_with(name) || pod.name == name)
        .map(Pod::path)
        .take(4)
        .collect();
    let near = match near.is_empty() {
        true => String::new(),
        false => format!("; similar: {}", near.join(", ")),
    };
    Err(format!(
        "there is no pod {namespace}/{name} with an address of its own{near}; accepted: {ACCEPTED}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> World {
        let map = |pairs: &[(&str, &str)]| -> LabelMap {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        let mut world = World {
            namespaces: [
                ("shop".to_owned(), map(&[("team", "a")])),
                ("default".to_owned(), map(&[])),
            ]
            .into(),
            nodes: vec![Node {
                name: "n1".into(),
                ips: vec!["192.0.2.11".parse().unwrap()],
                labels: map(&[("zone", "z")]),
                audit: None,
            }],
            ..World::default()
        };
        world.pods = vec![Pod {
            namespace: "shop".into(),
            name: "cart-0".into(),
            node: "n1".into(),
            ips: vec!["10.7.1.12".parse().unwrap()],
            labels: world.labels_of("shop", "", &map(&[("app", "cart")])),
            ports: NamedPorts::new(),
            audit: None,
        }];
        world
    }

    #[test]
    fn words_mean_somebody() {
        let world = world();
        for (text, name) in [
            ("shop/cart-0", "shop/cart-0"),
            ("10.7.1.12", "shop/cart-0"),
            ("10.7.1.12/32", "shop/cart-0"),
            ("192.0.2.11", "node/n1"),
            ("node/n1", "node/n1"),
            ("203.0.113.9", "203.0.113.9"),
            ("203.0.113.9/24", "203.0.113.0/24"),
            ("world", "world"),
        ] {
            assert_eq!(Place::parse(text, &world).unwrap().name(), name, "{text}");
        }
        let labels = Place::parse("app=x,k8s:io.kubernetes.pod.namespace=shop", &world).unwrap();
        let seen = labels.seen_from(None, &world);
        assert_eq!(
            seen.labels.get("k8s:io.cilium.k8s.namespace.labels.team"),
            Some("a")
        );
        for text in [
            "shop/cart",
            "nobody",
            "node/n9",
            "app=x,io.kubernetes.pod.namespace=y",
            "all",
        ] {
            let error = Place::parse(text, &world).unwrap_err();
            assert!(
                !error.contains('\n') && error.starts_with("there is no "),
                "{error}"
            );
        }
        assert!(
            Place::parse("shop/cart", &world)
                .unwrap_err()
                .contains("similar: shop/cart-0")
        );
    }

    #[test]
    fn a_node_is_host_to_its_own_pods_alone() {
        let world = world();
        let node = Place::parse("node/n1", &world).unwrap();
        let has = |from, label| node.seen_from(from, &world).labels.get(label).is_some();
        assert!(has(Some("n1"), "reserved:host") && has(Some("n1"), "k8s:zone"));
        assert!(has(Some("n2"), "reserved:remote-node") && !has(Some("n2"), "k8s:zone"));
        assert!(has(None, "reserved:remote-node"));
    }
}
