//! What rules say above the transport: checked, with every default filled in.
use super::{DnsRule, Inspection, SecretName};
use abi::ProxyKind;
use std::fmt;
use std::sync::Arc;

/// What a connection must speak so that its requests can be decided upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum L7Kind {
    /// HTTP requests.
    Http = ProxyKind::Http as u8,
    /// Kafka requests.
    Kafka = ProxyKind::Kafka as u8,
    /// DNS questions.
    Dns = ProxyKind::Dns as u8,
    /// Connections of TLS.
    Tls = ProxyKind::Tls as u8,
}

impl L7Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Http, Self::Kafka, Self::Dns, Self::Tls];

    /// The number in the map, from 1 on.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The kind of this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match ProxyKind::from_u8(number) {
            Some(ProxyKind::Http) => Some(Self::Http),
            Some(ProxyKind::Kafka) => Some(Self::Kafka),
            Some(ProxyKind::Dns) => Some(Self::Dns),
            Some(ProxyKind::Tls) => Some(Self::Tls),
            Some(ProxyKind::None) | None => None,
        }
    }

    /// The kind as the proxy is told.
    #[must_use]
    pub const fn proxy(self) -> ProxyKind {
        match self {
            Self::Http => ProxyKind::Http,
            Self::Kafka => ProxyKind::Kafka,
            Self::Dns => ProxyKind::Dns,
            Self::Tls => ProxyKind::Tls,
        }
    }

    /// `http`, `kafka` or `dns`, as in policies, or `tls`.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Kafka => "kafka",
            Self::Dns => "dns",
            Self::Tls => "tls",
        }
    }
}

impl fmt::Display for L7Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// The rules of one item of `toPorts`, and where they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct L7 {
    /// Where: `spec.ingress[0].toPorts[0].rules.http`.
    pub path: String,
    /// What they say.
    pub rules: Arc<L7Rules>,
}

/// What may be asked for: one of the rules must be met. There is always one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum L7Rules {
    /// HTTP requests.
    Http(Vec<HttpRule>),
    /// Kafka requests.
    Kafka(Vec<KafkaRule>),
    /// DNS questions.
    Dns(Vec<DnsRule>),
    /// Connections of TLS to servers of these names. `*` stands for letters, digits, `-` and `_`, but not for dots; `**.` at the beginning for
    /// one label or more, `*` and `**` alone for every name.
    Tls(Vec<String>),
    /// HTTP requests of connections whose TLS ends at the proxy, or begins there.
    Inspect(Box<Inspection>),
}

impl L7Rules {
    /// Of what kind they are.
    #[must_use]
    pub const fn kind(&self) -> L7Kind {
        match self {
            Self::Http(_) => L7Kind::Http,
            Self::Kafka(_) => L7Kind::Kafka,
            Self::Dns(_) => L7Kind::Dns,
            Self::Tls(_) | Self::Inspect(_) => L7Kind::Tls,
        }
    }
}

/// What a request must be; all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRule {
    /// Regular expression of the whole path with its query.
    pub path: Option<String>,
    /// Regular expression of the whole method.
    pub method: Option<String>,
    /// Regular expression of the whole host.
    pub host: Option<String>,
    /// What headers must be.
    pub headers: Vec<HeaderRule>,
}

/// What a header must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRule {
    /// Its name.
    pub name: String,
    /// Its whole value; none: that it is there suffices.
    pub value: Option<String>,
    /// A Secret whose only entry is the value; one that is there comes before `value`.
    pub secret: Option<SecretName>,
    /// What becomes of a request whose header differs.
    pub mismatch: Mismatch,
}

/// What becomes of a request whose header is not as the rule says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KafkaRule {
    /// All requests that producers or consumers need.
    pub role: Option<KafkaRole>,
    /// Name of a request, in lower case.
    pub api_key: Option<String>,
    /// Version of the request.
    pub api_version: Option<i16>,
    /// What the client calls itself.
    pub client_id: Option<String>,
    /// A topic.
    pub topic: Option<String>,
}

/// What a Kafka client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KafkaRole {
    /// Writes messages.
    Produce,
    /// Reads messages.
    Consume,
}
