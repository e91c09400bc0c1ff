//! Settings: defaults < `config-dir` < ConfigMap < `config` file < CiliumNodeConfigs < environment < flags, each value with the place
//! it came from.
mod check;
mod define;
mod keys;
mod load;
mod operator;
mod shape;
mod value;

pub use define::{Key, Keyed};
pub use keys::{
    AllowLocalhost, CidrMatchMode, DatapathMode, DnsRefusal, DsrDispatch, IdentityAllocation,
    IdentityManagement, IpamMode, LbAcceleration, LbAlgorithm, LbMode, MonitorAggregation,
    NoBackend, PolicyMode, RoutingMode, Settings, TunnelProtocol,
};
pub use load::{Layer, Loaded, Origin, Remote, load, load_all};
pub use operator::{LbServiceIpam, OperatorSettings, SliceMode};
pub use value::{PortRange, Ratio, Value};

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// There is no such key.
    #[error("{place}: unknown setting {key:?}{hint}; `hypha {role} --help` lists all")]
    Unknown {
        /// The key.
        key: String,
        /// File, variable or flag it stands in.
        place: String,
        /// A similar key, as a half sentence.
        hint: String,
        /// The role that was asked.
        role: &'static str,
    },
    /// The value means nothing.
    #[error("{place}: {key}={value:?} is not accepted; expected {accepted}")]
    Value {
        /// The key.
        key: String,
        /// What was found.
        value: String,
        /// File, variable or flag it stands in.
        place: String,
        /// What would be accepted.
        accepted: &'static str,
    },
    /// Values that exclude each other.
    #[error("settings do not fit together: {0}")]
    Conflict(String),
    /// A file or directory that cannot be read.
    #[error("cannot read settings from {path}: {why}")]
    Read {
        /// The file or directory.
        path: String,
        /// The cause.
        why: String,
    },
}

impl SettingsError {
    fn value(key: &str, value: &str, place: &str, accepted: &'static str) -> Self {
        Self::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            place: place.to_owned(),
            accepted,
        }
    }

    fn unknown<S: Keyed>(key: &str, place: &str) -> Self {
        let hint = similar(S::keys(), key, 3)
            .map(|name| format!(" (did you mean {name}?)"))
            .unwrap_or_default();
        Self::Unknown {
            key: key.to_owned(),
            place: place.to_owned(),
            hint,
            role: S::ROLE,
        }
    }
}

/// The known key nearest to `key`, if one is not further than so many letters.
fn similar(keys: &[Key], key: &str, near: usize) -> Option<&'static str> {
    let wanted = key.replace('_', "-");
    keys.iter()
        .map(|k| (distance(k.name, &wanted), k.name))
        .min()
        .filter(|(far, _)| *far <= near)
        .map(|(_, name)| name)
}

/// Number of letters to insert, delete or change to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
