//! What services and slices say by annotation. What cannot be read counts as absent, and is complained of.
use crate::frontend::{Algorithm, WEIGHT};
use crate::selector::Selector;
use crate::settings::Forwarding;
use crate::{Problem, input::ServiceType};
use model::LabelMap;
use std::net::IpAddr;

/// Only frontends of these types are served.
pub const TYPE: &str = "service.cilium.io/type";
/// Only nodes with this value of the label of the same name serve it.
pub const NODE: &str = "service.cilium.io/node";
/// Only nodes that this selector matches serve it.
pub const NODE_SELECTOR: &str = "service.cilium.io/node-selector";
/// Whether source ranges are those that may, or those that may not.
pub const SOURCE_RANGES_POLICY: &str = "service.cilium.io/src-ranges-policy";
/// How a backend is chosen.
pub const ALGORITHM: &str = "service.cilium.io/lb-algorithm";
/// How packets go to backends of other nodes.
pub const FORWARDING: &str = "service.cilium.io/forwarding-mode";
/// On slices: weight of its backends; zero is maintenance.
pub const WEIGHT_OF_SLICE: &str = "service.cilium.io/weight";
/// Addresses that a load balancer should have.
pub const IPS: [&str; 2] = ["lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips"];
/// Services with the same key share addresses.
pub const SHARING_KEY: [&str; 2] = [
    "lbipam.cilium.io/sharing-key",
    "io.cilium/lb-ipam-sharing-key",
];
/// Other namespaces with which addresses may be shared.
pub const SHARING_NAMESPACES: [&str; 2] = [
    "lbipam.cilium.io/sharing-cross-namespace",
    "io.cilium/lb-ipam-sharing-cross-namespace",
];
/// Services of the policy `Local` may share addresses although they have different pods.
pub const SHARING_PODS: [&str; 2] = [
    "lbipam.cilium.io/sharing-permit-different-pods",
    "io.cilium/lb-ipam-sharing-permit-different-pods",
];
/// Nodes whose addresses a load balancer of the class `io.cilium/node` has.
pub const NODE_IPAM_NODES: &str = "io.cilium.nodeipam/match-node-labels";
/// Label that gives a service to another implementation.
pub const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// What a service says by annotation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceNotes {
    /// Types of frontends that are served; none: all.
    pub types: Option<Vec<ServiceType>>,
    /// Value of the node's label [`NODE`].
    pub node: Option<String>,
    /// Nodes that serve it.
    pub nodes: Option<Selector>,
    /// Source ranges are those that may not.
    pub deny: bool,
    /// How a backend is chosen.
    pub algorithm: Option<Algorithm>,
    /// How packets go to backends of other nodes.
    pub forwarding: Option<Forwarding>,
}

impl ServiceNotes {
    /// Reads the annotations of a service.
    #[must_use]
    pub fn read(annotations: &LabelMap) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut read = Reader {
            annotations,
            problems: &mut problems,
        };
        let types = read.value(TYPE, "ClusterIP, NodePort, LoadBalancer", types);
        let nodes = read.value(NODE_SELECTOR, "a selector such as a=b,c in (d,e)", |text| {
            Selector::parse(text).ok()
        });
        let notes = Self {
            types,
            node: annotations.get(NODE).map(str::to_owned),
            nodes,
            deny: read
                .value(SOURCE_RANGES_POLICY, "allow, deny", |text| match text {
                    "allow" => Some(false),
                    "deny" => Some(true),
                    _ => None,
                })
                .unwrap_or_default(),
            algorithm: read.value(ALGORITHM, "random, maglev", Algorithm::parse),
            forwarding: read.value(FORWARDING, "snat, dsr", |text| {
                Forwarding::parse(text).filter(|mode| *mode != Forwarding::Hybrid)
            }),
        };
        (notes, problems)
    }

    /// Whether a node with these labels serves it.
    #[must_use]
    pub fn serves(&self, node: &LabelMap) -> bool {
        let named = |value: &String| node.get(NODE) == Some(value.as_str());
        self.node.as_ref().is_none_or(named)
            && self
                .nodes
                .as_ref()
                .is_none_or(|selector| selector.matches(|key| node.get(key)))
    }

    /// Whether frontends of a type are served.
    #[must_use]
    pub fn exposes(&self, kind: ServiceType) -> bool {
        self.types
            .as_ref()
            .is_none_or(|types| types.contains(&kind))
    }
}

struct Reader<'a> {
    annotations: &'a LabelMap,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn value<T>(
        &mut self,
        name: &'static str,
        accepted: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.annotations.get(name)?;
        let value = read(text.trim());
        if value.is_none() {
            self.problems.push(Problem::Field {
                name,
                what: format!("{text:?} is not known"),
                accepted,
            });
        }
        value
    }
}

fn types(text: &str) -> Option<Vec<ServiceType>> {
    let one = |name: &str| match name.trim() {
        "ClusterIP" => Some(ServiceType::ClusterIp),
        "NodePort" => Some(ServiceType::NodePort),
        "LoadBalancer" => Some(ServiceType::LoadBalancer),
        _ => None,
    };
    text.split(',').map(one).collect()
}

/// The weight of a slice's backends.
#[must_use]
pub fn weight(annotations: &LabelMap) -> (u16, Option<Problem>) {
    match annotations
        .get(WEIGHT_OF_SLICE)
        .map(|text| (text, text.trim().parse()))
    {
        None => (WEIGHT, None),
        Some((_, Ok(weight))) => (weight, None),
        Some((text, Err(_))) => {
            let problem = Problem::Field {
                name: WEIGHT_OF_SLICE,
                what: format!("{text:?} is no weight"),
                accepted: "a whole number from 0 (maintenance) to 65535; 100 is usual",
            };
            (WEIGHT, Some(problem))
        }
    }
}

/// The value under the first of several names that is there.
#[must_use]
pub fn any<'a>(annotations: &'a LabelMap, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| annotations.get(name))
}

/// What a service of the type `LoadBalancer` says about its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressNotes {
    /// Addresses it should have, in the order given.
    pub ips: Vec<IpAddr>,
    /// Its sharing key; empty is none.
    pub key: String,
    /// Namespaces with which it shares; `*` is all.
    pub namespaces: Vec<String>,
    /// It shares with services of other pods, too.
    pub any_pods: bool,
}

impl AddressNotes {
    /// Reads the annotations, and `spec.loadBalancerIP`, which counts where no annotation names addresses.
    ///
    /// # Errors
    /// A list of addresses that cannot be read: none of it counts, and nothing must be chosen in its place.
    pub fn read(annotations: &LabelMap, load_balancer_ip: &str) -> Result<Self, Problem> {
        let (name, listed) = match any(annotations, &IPS) {
            Some(text) => (IPS[0], text),
            None => ("spec.loadBalancerIP", load_balancer_ip),
        };
        let mut ips = Vec::new();
        for text in items(listed) {
            let ip = text.parse().map_err(|_| Problem::Field {
                name,
                what: format!("{text:?} is no address"),
                accepted: "IPv4 and IPv6 addresses, separated by commas",
            })?;
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        let namespaces = any(annotations, &SHARING_NAMESPACES).unwrap_or_default();
        Ok(Self {
            ips,
            key: any(annotations, &SHARING_KEY)
                .unwrap_or_default()
                .trim()
                .to_owned(),
            namespaces: items(namespaces).map(str::to_owned).collect(),
            any_pods: any(annotations, &SHARING_PODS).is_some_and(|text| text.trim() == "true"),
        })
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}
