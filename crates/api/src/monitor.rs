//! Live events (`GET /v1/monitor`): one JSON object per line.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::path;

/// Kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MonitorKind {
    /// A packet was seen at a point.
    Trace,
    /// A packet was dropped.
    Drop,
    /// A policy was asked.
    PolicyVerdict,
    /// A service was translated at a socket.
    TraceSock,
    /// The proxy saw a request or its answer.
    L7,
    /// The agent did something: an endpoint came or went, a policy changed.
    Agent,
    /// Events were lost before this one; [`MonitorEvent::lost`] says how many.
    Lost,
    /// A kind of a newer agent.
    #[serde(other)]
    Unknown,
}

impl MonitorKind {
    /// The word used in queries and output.
    pub fn text(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Drop => "drop",
            Self::PolicyVerdict => "policy-verdict",
            Self::TraceSock => "trace-sock",
            Self::L7 => "l7",
            Self::Agent => "agent",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        }
    }
}

/// An event of the datapath or of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MonitorEvent {
    /// Kind.
    pub kind: MonitorKind,
    /// When, in nanoseconds since 1970.
    pub timestamp_ns: u64,
    /// Point of a trace, for example `to-endpoint`, or of a translation, for example `pre-xlate-fwd`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub point: String,
    /// Reason of a drop, for people; the text of an agent event.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Number of the drop reason.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reason_code: u8,
    /// Source file and line of a drop, `file:line`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Verdict of a policy: `allow`, `deny`, `audit` (denied, but forwarded), `redirect`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub verdict: String,
    /// What decided a verdict: `none`, `all`, `L3-Only`, `L3-L4`, `L4-Only`, `L3-Proto`, `Proto-Only`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub match_type: String,
    /// Of verdicts and of drops by policy: the rules, as `CiliumNetworkPolicy shop/web: spec.ingress[0]`, where still known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// `ingress` or `egress`, where known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub direction: String,
    /// Endpoint whose program reported it; 0 for the node's own programs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub endpoint: u16,
    /// Identity of the sender.
    #[serde(default, skip_serializing_if = "is_default")]
    pub src_identity: u32,
    /// Identity of the receiver.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dst_identity: u32,
    /// State in connection tracking: `new`, `established`, `reply`, `related`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ct_state: String,
    /// Sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<IpAddr>,
    /// Receiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<IpAddr>,
    /// Sender's port.
    #[serde(default, skip_serializing_if = "is_default")]
    pub src_port: u16,
    /// Receiver's port.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dst_port: u16,
    /// IP protocol number.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: u8,
    /// TCP flags.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tcp_flags: u8,
    /// ICMP type and code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<(u8, u8)>,
    /// Device it was seen on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ifindex: u32,
    /// Its name, where it is still known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ifname: String,
    /// Length of the packet.
    #[serde(default, skip_serializing_if = "is_default")]
    pub length: u32,
    /// Of a translation: number of the socket, unique since boot.
    #[serde(default, skip_serializing_if = "is_default")]
    pub socket_cookie: u64,
    /// Of a translation: number of the control group of whoever asked.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cgroup_id: u64,
    /// Of the proxy's: what was said, by whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Box<MonitorRequest>>,
    /// Events lost before this one, on a kind of `lost`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lost: u64,
}

/// A request that the proxy saw, or its answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MonitorRequest {
    /// `Request` or `Response`.
    pub kind: String,
    /// `http`, `dns` or `kafka`.
    pub protocol: String,
    /// What was said, as `GET http://shop/ => 200`.
    pub said: String,
    /// The client's endpoint; 0 where it is not of this node.
    pub src_endpoint: u16,
    /// The server's endpoint; 0 where it is not of this node.
    pub dst_endpoint: u16,
    /// The client's labels.
    pub src_labels: Vec<String>,
    /// The server's labels.
    pub dst_labels: Vec<String>,
}

impl MonitorEvent {
    /// An event with nothing but its kind and time.
    pub fn new(kind: MonitorKind, timestamp_ns: u64) -> Self {
        Self {
            kind,
            timestamp_ns,
            point: String::new(),
            reason: String::new(),
            reason_code: 0,
            source: String::new(),
            verdict: String::new(),
            match_type: String::new(),
            rules: Vec::new(),
            direction: String::new(),
            endpoint: 0,
            src_identity: 0,
            dst_identity: 0,
            ct_state: String::new(),
            src: None,
            dst: None,
            src_port: 0,
            dst_port: 0,
            protocol: 0,
            tcp_flags: 0,
            icmp: None,
            ifindex: 0,
            ifname: String::new(),
            length: 0,
            socket_cookie: 0,
            cgroup_id: 0,
            request: None,
            lost: 0,
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Which events to send; an empty list takes all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct MonitorQuery {
    /// Kinds, joined by commas.
    #[serde(rename = "type")]
    pub kinds: String,
    /// Endpoint that sends.
    pub from: Option<u16>,
    /// Endpoint that receives.
    pub to: Option<u16>,
    /// Endpoint on either side.
    pub related_to: Option<u16>,
}

impl MonitorQuery {
    /// Only these kinds.
    #[must_use]
    pub fn kinds(mut self, kinds: &[MonitorKind]) -> Self {
        self.kinds = kinds.iter().map(|k| k.text()).collect::<Vec<_>>().join(",");
        self
    }

    /// Whether a kind was asked for.
    pub fn wants(&self, kind: MonitorKind) -> bool {
        self.kinds.is_empty() || self.kinds.split(',').any(|k| k.trim() == kind.text())
    }

    /// The path with this query.
    pub fn to_path(&self) -> String {
        let number = |key: &str, value: Option<u16>| value.map(|v| format!("{key}={v}"));
        let kinds = (!self.kinds.is_empty()).then(|| format!("type={}", path::escape(&self.kinds)));
        let parts = [
            kinds,
            number("from", self.from),
            number("to", self.to),
            number("related-to", self.related_to),
        ];
        let query: Vec<_> = parts.into_iter().flatten().collect();
        if query.is_empty() {
            path::MONITOR.to_owned()
        } else {
            format!("{}?{}", path::MONITOR, query.join("&"))
        }
    }
}
