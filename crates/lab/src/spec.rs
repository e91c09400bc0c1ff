//! What a person asks for: the options of `hypha lab up`, checked.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::kubelet::restart::LONGEST_DELAY;

/// The most nodes one lab may have.
pub const MAX_NODES: u8 = 20;
/// How long agents and sample pods may take to be ready where nothing else is said.
pub const READY_LIMIT: Duration = Duration::from_secs(30);
/// The name a lab gets when none is given.
pub const DEFAULT_NAME: &str = "hypha";

/// How packets reach pods of other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Routing {
    /// In VXLAN, between node addresses.
    #[default]
    Vxlan,
    /// In Geneve, between node addresses.
    Geneve,
    /// As they are: the network between the nodes knows the pod CIDRs.
    Native,
}

impl fmt::Display for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Routing::Vxlan => "vxlan",
            Routing::Geneve => "geneve",
            Routing::Native => "native",
        })
    }
}

/// The address families of nodes and pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
    /// Both.
    #[default]
    Dual,
}

impl Families {
    /// IPv4 is in use.
    pub fn v4(self) -> bool {
        self != Families::Ipv6
    }

    /// IPv6 is in use.
    pub fn v6(self) -> bool {
        self != Families::Ipv4
    }
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Families::Ipv4 => "ipv4",
            Families::Ipv6 => "ipv6",
            Families::Dual => "dual",
        })
    }
}

/// Whether the lab has cluster DNS, and how pods reach it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dns {
    /// Pods ask the pods of kube-dns by their own addresses: where nothing balances the load of services.
    Pod,
    /// Pods ask the addresses of the service kube-dns, as in other clusters.
    #[default]
    Service,
    /// There is none.
    None,
}

/// The name of a lab: part of paths, host names and cgroup names, so it is short and plain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

impl LabName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LabName {
    fn default() -> Self {
        LabName(DEFAULT_NAME.to_owned())
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no lab name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "lab name {0:?} is not usable: 1 to 32 characters of a-z, 0-9 and '-', the first and last no '-'"
)]
pub struct BadName(String);

impl FromStr for LabName {
    type Err = BadName;

    fn from_str(s: &str) -> Result<Self, BadName> {
        let plain = s
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let ends = !s.starts_with('-') && !s.ends_with('-');
        if (1..=32).contains(&s.len()) && plain && ends {
            Ok(LabName(s.to_owned()))
        } else {
            Err(BadName(s.to_owned()))
        }
    }
}

impl TryFrom<String> for LabName {
    type Error = BadName;

    fn try_from(s: String) -> Result<Self, BadName> {
        s.parse()
    }
}

impl From<LabName> for String {
    fn from(n: LabName) -> String {
        n.0
    }
}

/// The name of a node: a host name without dots, short, and not the name of anything else in a lab.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

/// Names that files and commands of a lab have for something else.
const TAKEN: [&str; 4] = ["router", "fabric", "operator", "supervisor"];

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no node name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "node name {0:?} is not usable: 1 to 32 characters of a-z, 0-9 and '-', the first and last no '-', and not router, fabric, operator or supervisor"
)]
pub struct BadNodeName(String);

impl FromStr for NodeName {
    type Err = BadNodeName;

    fn from_str(s: &str) -> Result<Self, BadNodeName> {
        // The same characters as a lab's.
        let plain = s.parse::<LabName>().is_ok() && !TAKEN.contains(&s);
        let name = || NodeName(s.to_owned());
        plain.then(name).ok_or_else(|| BadNodeName(s.to_owned()))
    }
}

impl TryFrom<String> for NodeName {
    type Error = BadNodeName;

    fn try_from(s: String) -> Result<Self, BadNodeName> {
        s.parse()
    }
}

impl From<NodeName> for String {
    fn from(n: NodeName) -> String {
        n.0
    }
}

/// Everything that decides how a lab looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabSpec {
    /// Its name.
    pub name: LabName,
    /// How many nodes, 1 to [`MAX_NODES`].
    pub nodes: u8,
    /// Their names, as far as they have others than `node1` and so on.
    #[serde(default)]
    pub node_names: Vec<NodeName>,
    /// How pods of other nodes are reached.
    pub routing: Routing,
    /// Address families.
    pub families: Families,
    /// In native mode the router knows the pod CIDRs (as BGP would tell it).
    pub router_routes: bool,
    /// Start an agent on every node. Off: the bare network, for tests of the lab itself.
    pub agents: bool,
    /// Start two sample pods on every node.
    pub sample: bool,
    /// Cluster DNS.
    #[serde(default)]
    pub dns: Dns,
    /// How long the agents, and then the sample pods, may take to be ready.
    pub ready_limit: Duration,
    /// The longest pause before a container that ended starts again.
    #[serde(default = "longest_pause")]
    pub max_restart_pause: Duration,
    /// Further agent settings, `key=value`, which win over those the lab derives.
    pub agent_config: Vec<(String, String)>,
    /// The cluster that the nodes join, instead of one of the lab's own.
    #[serde(default)]
    pub outside: Option<Outside>,
}

/// A cluster that is not the lab's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    /// The kubeconfig that leads there, an absolute path.
    pub kubeconfig: PathBuf,
    /// Its context; `None` is the current one.
    pub context: Option<String>,
    /// It has no controllers and no scheduler: the lab's run.
    pub controllers: bool,
    /// The address of this machine under which its API server reaches the kubelets.
    pub kubelet_address: IpAddr,
    /// Certificates (PEM) of those who sign what its API server shows to kubelets; `None`: as the cluster tells.
    pub kubelet_client_ca: Option<PathBuf>,
}

impl LabSpec {
    /// The name of node `i`, from 1.
    pub fn node_name(&self, i: u8) -> String {
        let given = self.node_names.get(usize::from(i).wrapping_sub(1));
        given.map_or_else(|| format!("node{i}"), |name| name.0.clone())
    }
}

fn longest_pause() -> Duration {
    LONGEST_DELAY
}

impl Default for LabSpec {
    fn default() -> Self {
        LabSpec {
            name: LabName::default(),
            nodes: 3,
            node_names: Vec::new(),
            routing: Routing::default(),
            families: Families::default(),
            router_routes: true,
            agents: true,
            sample: false,
            dns: Dns::default(),
            ready_limit: READY_LIMIT,
            max_restart_pause: LONGEST_DELAY,
            agent_config: Vec::new(),
            outside: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "hypha", "t-1", "0x"] {
            assert_eq!(good.parse::<LabName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a/b", "..", "a b", &"x".repeat(33)] {
            assert!(bad.parse::<LabName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn node_names() {
        let names = ["k8s-ctr", "k8s-w1"].map(|n| n.parse().unwrap());
        let spec = LabSpec {
            node_names: names.into(),
            ..LabSpec::default()
        };
        assert_eq!(
            [1, 2, 3].map(|i| spec.node_name(i)),
            ["k8s-ctr", "k8s-w1", "node3"]
        );
        for bad in ["", "router", "a.b", "K8S"] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn spec_survives_json() {
        let spec = LabSpec {
            agent_config: vec![("debug".into(), "true".into())],
            ..LabSpec::default()
        };
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<LabSpec>(&text).unwrap(), spec);
    }
}
