//! The agent's own state and settings.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{DeviceMode, Family, PolicyStatus, ServicesStatus};

/// State of a part of the agent.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum ComponentState {
    /// Works.
    #[default]
    Ok,
    /// Not configured.
    Disabled,
    /// Works with a loss.
    Warning,
    /// Does not work.
    Failure,
    /// A state of a newer agent.
    #[serde(other)]
    Unknown,
}

impl ComponentState {
    /// The word that users see.
    pub fn text(self) -> &'static str {
        match self {
            Self::Ok => "Ok",
            Self::Disabled => "Disabled",
            Self::Warning => "Warning",
            Self::Failure => "Failure",
            Self::Unknown => "Unknown",
        }
    }
}

/// A part of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// Name, for example `kubernetes` or `reconciler/routes`.
    pub name: String,
    /// How it is.
    pub state: ComponentState,
    /// Why, or what it is working with.
    #[serde(default)]
    pub message: String,
    /// Seconds since it last reported success; absent when it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_seconds: Option<u64>,
    /// Failures in a row.
    #[serde(default)]
    pub failures: u64,
}

/// Use of one address pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamStatus {
    /// Family.
    pub family: Family,
    /// The pool.
    pub cidr: IpNet,
    /// Addresses taken.
    pub allocated: u64,
    /// Addresses that can be taken in all.
    pub capacity: u64,
}

/// How packets reach other nodes and the stack.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Routing {
    /// `native` or `tunnel`.
    pub mode: String,
    /// `vxlan` or `geneve` in tunnel mode.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tunnel_protocol: String,
    /// `BPF` or `Legacy`: whether packets bypass the host's stack.
    pub host: String,
}

/// Source translation of what leaves the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Masquerading {
    /// For IPv4.
    pub ipv4: bool,
    /// For IPv6.
    pub ipv6: bool,
    /// `BPF`; empty when neither family is on.
    #[serde(default)]
    pub mode: String,
    /// Devices on which it happens.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Destinations that are left alone.
    #[serde(default)]
    pub excluded: Vec<IpNet>,
}

/// The node's flows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HubbleStatus {
    /// How it is.
    pub state: ComponentState,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Flows that are kept now.
    pub flows: u64,
    /// Flows that are kept at most.
    pub max_flows: u64,
    /// Flows since the start.
    pub seen_flows: u64,
    /// Flows per second over the last minute.
    pub flows_rate: f64,
    /// How its metrics are: `Ok`, `Disabled`, or what is wrong.
    pub metrics: String,
}

/// `GET /v1/healthz`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// The worst of the components that count.
    pub state: ComponentState,
    /// One line when it is not `ok`.
    #[serde(default)]
    pub message: String,
    /// Version of the agent.
    pub version: String,
    /// Name of the node.
    pub node: String,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// Release of the running kernel.
    #[serde(default)]
    pub kernel: String,
    /// Parts, in the order they are shown.
    #[serde(default)]
    pub components: Vec<Component>,
    /// Address pools.
    #[serde(default)]
    pub ipam: Vec<IpamStatus>,
    /// Addresses taken and by whom.
    #[serde(default)]
    pub addresses: BTreeMap<IpAddr, String>,
    /// How packets travel.
    #[serde(default)]
    pub routing: Routing,
    /// `TCX` or `Legacy TC`.
    #[serde(default)]
    pub attach_mode: String,
    /// What pods' interfaces are.
    #[serde(default)]
    pub device_mode: DeviceMode,
    /// Devices of the node that the datapath works on.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Source translation.
    #[serde(default)]
    pub masquerading: Masquerading,
    /// How policy is.
    #[serde(default)]
    pub policy: PolicyStatus,
    /// How services are.
    #[serde(default)]
    pub services: ServicesStatus,
    /// The line to the proxy; absent where there is to be none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyStatus>,
    /// The node's flows; absent where they are not wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hubble: Option<HubbleStatus>,
    /// Endpoints by the word of their state.
    #[serde(default)]
    pub endpoints: BTreeMap<String, u64>,
    /// What became of the CNI configuration file.
    #[serde(default)]
    pub cni_config: String,
    /// Resident memory of the agent in bytes.
    #[serde(default)]
    pub memory_bytes: u64,
}

/// How the agent and the proxy get on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyStatus {
    /// The proxy is there.
    pub connected: bool,
    /// Places where policies send connections to it.
    pub redirects: usize,
    /// The same, each with what was asked for there.
    pub list: Vec<ProxyRedirect>,
    /// Questions for names, since the agent began.
    pub names: ProxyRequests,
    /// All other requests, since the agent began.
    pub requests: ProxyRequests,
    /// It has not taken the newest rules yet.
    pub behind: bool,
    /// Rules that it cannot understand, and what else it cannot do.
    pub problems: Vec<String>,
}

/// Ports of an endpoint whose connections go to the proxy; shown as `904:ingress:TCP:80:`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyRedirect {
    /// The endpoint whose rules they are.
    pub endpoint: u32,
    /// `ingress` or `egress`.
    pub direction: String,
    /// `TCP` or `UDP`.
    pub transport: String,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// `http`, `kafka`, `dns` or `tls`.
    pub protocol: String,
    /// Where the proxy listens for it.
    pub proxy_port: u16,
    /// What was asked for, since there are such rules.
    pub requests: ProxyRequests,
}

impl fmt::Display for ProxyRedirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            endpoint,
            direction,
            transport,
            first,
            last,
            ..
        } = self;
        write!(f, "{endpoint}:{direction}:{transport}:{first}")?;
        if last != first {
            write!(f, "-{last}")?;
        }
        f.write_str(":")
    }
}

/// What became of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyRequests {
    /// That came.
    pub received: u64,
    /// That went on.
    pub forwarded: u64,
    /// That no rule allowed.
    pub denied: u64,
    /// That were malformed, or could not be passed on or answered.
    pub errors: u64,
}

/// One setting and where its value came from (`GET /v1/config`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// Key, as in the configuration.
    pub name: String,
    /// Value in force.
    pub value: String,
    /// Value when nothing is set.
    #[serde(default)]
    pub default: String,
    /// `default`, `file <path>`, `environment <name>` or `flag`.
    pub source: String,
}
