//! Names that endpoints were told of, for rules by name.
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Addresses of a name, as an endpoint was told of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FqdnLookup {
    /// The name, with the dot at its end.
    pub fqdn: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// When they were learned.
    pub lookup_time: String,
    /// How long they count from then on, seconds.
    pub ttl: u32,
    /// When that is over.
    pub expiration_time: String,
    /// The endpoint.
    pub endpoint_id: u32,
    /// `lookup`, or `connection` for addresses that count beyond their time.
    pub source: String,
}

/// A name or pattern of names that rules speak of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FqdnSelector {
    /// A regular expression that says the same.
    pub regex_string: String,
    /// As the rule has it.
    pub selector_string: String,
}

/// What rules speak of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FqdnNames {
    /// Names that the agent looks up by itself: none.
    #[serde(rename = "DNSPollNames", default)]
    pub poll_names: Option<Vec<String>>,
    /// The names and patterns.
    #[serde(rename = "FQDNPolicySelectors", default)]
    pub selectors: Vec<FqdnSelector>,
}

/// Which names are meant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FqdnQuery {
    /// A pattern such as `*.example.org`; empty: every name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub matchpattern: String,
}

/// What was forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FqdnCleaned {
    /// How many addresses of names.
    pub cleaned: usize,
}
