//! What the agent tells the proxy: one snapshot with everything that it needs to know, as plain data.
//!
//! JSON, with unknown fields refused: a field that one side does not know might narrow what a rule allows, and passing it over
//! would let more through than the policy says. Whoever cannot read a snapshot keeps the old one and says so.
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr};

/// Longest snapshot in bytes.
pub const SNAPSHOT_MAX: usize = 64 << 20;

/// Everything that the agent has decided, under a number that only grows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Greater than that of any snapshot before it.
    pub version: u64,
    /// What holds for all endpoints.
    #[serde(default)]
    pub settings: Settings,
    /// Endpoints with rules; whatever belongs to another one is denied.
    pub endpoints: Vec<Endpoint>,
}

/// What holds for all endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The answer to a question that no rule allows.
    pub dns_refusal: Refusal,
    /// Names to whose addresses somebody may connect for their names' sake: answers about them wait until the agent has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<DnsRule>,
    /// How long such an answer waits, milliseconds; absent: as long as the proxy thinks fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names_wait: Option<u32>,
}

/// The answer to a question that no rule allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Refusal {
    /// REFUSED.
    #[default]
    Refused,
    /// NXDOMAIN: resolvers that give up on REFUSED go on with their next search domain.
    NameError,
}

/// An endpoint of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Its number on this node.
    pub id: u32,
    /// Its addresses, by which connections are told apart.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// What is denied passes nevertheless, and is recorded as such.
    #[serde(default)]
    pub audit: bool,
    /// Rules; those of one port and peer add up.
    pub ports: Vec<PortRules>,
}

/// Rules of ports of an endpoint for some peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRules {
    /// Which end the endpoint is.
    pub direction: Direction,
    /// TCP or UDP.
    pub transport: Transport,
    /// First port of the range.
    pub first: u16,
    /// Last port of the range, which is part of it.
    pub last: u16,
    /// Identities of the peers; absent: anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<u32>>,
    /// The policy and the place in it, as people are shown it.
    pub origin: String,
    /// What they may ask for.
    pub rules: Rules,
}

/// Which end an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// It is the server.
    Ingress,
    /// It is the client.
    Egress,
}

/// A transport that the proxy takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What may be asked for: one of the rules must be met.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Rules {
    /// Everything.
    All,
    /// HTTP requests.
    Http(Vec<HttpRule>),
    /// Kafka requests.
    Kafka(Vec<KafkaRule>),
    /// DNS questions.
    Dns(Vec<DnsRule>),
    /// Connections of TLS.
    Tls(Vec<TlsRule>),
    /// HTTP requests of connections that are decrypted, or encrypted, here.
    Inspect(Box<Inspection>),
}

/// What a request must be; all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpRule {
    /// Regular expression of the whole path with its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Regular expression of the whole method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Regular expression of the whole host, with its port where the client gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What headers must be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderRule>,
}

/// What a header must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderRule {
    /// Its name.
    pub name: String,
    /// Its whole value; absent: that it is there suffices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// What becomes of a request whose header differs.
    pub mismatch: Mismatch,
}

/// The value of a header, a certificate, or a key. It may come from a secret: its text never reaches a log.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Value(pub String);

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a value)")
    }
}

/// What becomes of a request whose header is not as the rule says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mismatch {
    /// The rule is not met.
    #[default]
    Reject,
    /// It passes, and the record says so.
    Log,
    /// It passes with one more line of the header.
    Add,
    /// It passes without the header.
    Delete,
    /// It passes with the value of the rule alone.
    Replace,
}

/// What a Kafka request must be; all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaRule {
    /// All requests that producers or consumers need.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Name of a request, in any case, as `fetch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    /// Version of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<i16>,
    /// What the client calls itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// A topic; requests that have none to name are not bound by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

/// What a Kafka client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Writes messages.
    Produce,
    /// Reads messages.
    Consume,
}

/// Names that may be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DnsRule {
    /// This name, in any case, with or without the dot at its end.
    MatchName(String),
    /// Names like this one: `*` stands for letters, digits, `-` and `_`, but not for dots; `*` alone for every name.
    MatchPattern(String),
}

/// What a connection of TLS must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TlsRule {
    /// The server that the client wants: a name, or names like it. `*` stands for what it does in [`DnsRule::MatchPattern`], `**.` at the
    /// beginning for one label or more.
    pub server_name: String,
}

/// Whose TLS ends here, and what may be asked for inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Inspection {
    /// The servers that clients may want; empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub server_names: Vec<TlsRule>,
    /// By what clients take the proxy for the server; absent: they speak without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<Certificate>,
    /// How servers are spoken to; absent: without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub originating: Option<Trust>,
    /// What may be asked for; absent: everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Vec<HttpRule>>,
}

/// A certificate with its key, as PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Certificate {
    /// The certificate, and those between it and an authority.
    pub chain: Value,
    /// Its private key.
    pub key: Value,
}

/// By what a server is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Trust {
    /// Certificates of authorities, as PEM.
    pub authorities: Value,
    /// What the proxy shows to servers that ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
}

/// Why a snapshot is not taken.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Longer than any may be.
    #[error("the snapshot has {0} bytes, {SNAPSHOT_MAX} are accepted")]
    TooLong(usize),
    /// Not JSON, or not of this shape.
    #[error("the snapshot cannot be read: {0}")]
    Shape(#[from] serde_json::Error),
    /// A range that ends before it begins.
    #[error("endpoint {endpoint}: ports {first} to {last} ({origin}) end before they begin")]
    Range {
        /// Whose rules.
        endpoint: u32,
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
        /// Which rules.
        origin: String,
    },
    /// Two endpoints of one number.
    #[error("endpoint {0} is there twice")]
    Twice(u32),
}

impl Snapshot {
    /// Reads a snapshot.
    ///
    /// # Errors
    /// It is too long, is not of the shape, or contradicts itself.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > SNAPSHOT_MAX {
            return Err(DecodeError::TooLong(bytes.len()));
        }
        let snapshot: Self = serde_json::from_slice(bytes)?;
        snapshot.check()?;
        Ok(snapshot)
    }

    /// Whether it contradicts itself.
    ///
    /// # Errors
    /// It does.
    pub fn check(&self) -> Result<(), DecodeError> {
        let mut seen = std::collections::BTreeSet::new();
        for endpoint in &self.endpoints {
            if !seen.insert(endpoint.id) {
                return Err(DecodeError::Twice(endpoint.id));
            }
            if let Some(bad) = endpoint.ports.iter().find(|port| port.first > port.last) {
                return Err(DecodeError::Range {
                    endpoint: endpoint.id,
                    first: bad.first,
                    last: bad.last,
                    origin: bad.origin.clone(),
                });
            }
        }
        Ok(())
    }

    /// The bytes that [`decode`](Self::decode) reads.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}
