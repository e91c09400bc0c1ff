//! The consistency check (`GET /v1/check`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Something is left over; it costs, nothing is broken.
    Leak,
    /// Something is missing or wrong.
    Error,
}

/// Something that does not fit together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Stable name of the rule that found it, for example `device-without-endpoint`.
    pub rule: String,
    /// The object, for example `lxc0123456789ab`.
    pub object: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// All findings and how much was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// Objects compared, by kind: `devices`, `maps`, `allocations`, `endpoints` …
    pub checked: BTreeMap<String, u64>,
    /// What does not fit together, worst first.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// Whether nothing is wrong or left over.
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|f| f.severity < Severity::Leak)
    }
}
