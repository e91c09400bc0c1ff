//! Numeric identities of labels.
use crate::Labels;
use abi::identity::reserved_name;
use serde::{Deserialize, Serialize};

/// Where the number of an identity comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdentityKind {
    /// It is the same everywhere: host, world …
    Reserved,
    /// The settings give it to labels.
    Fixed,
    /// The cluster gave it to labels of pods.
    Cluster,
    /// This node gave it to a range of addresses; nobody else knows it.
    Local,
    /// This node gave it to another node.
    RemoteNode,
}

/// An identity that this node knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The number.
    pub id: u32,
    /// The labels behind it.
    pub labels: Labels,
    /// Where the number comes from.
    pub kind: IdentityKind,
}

/// An identity as the API server has it (`CiliumIdentity`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterIdentity {
    /// The number; 0 for an object whose name is none.
    pub id: u32,
    /// The labels behind it.
    pub labels: Labels,
}

/// An identity as users see it: the reserved name if it has one, else the number.
#[must_use]
pub fn identity_text(id: u32) -> String {
    reserved_name(id).map_or_else(|| id.to_string(), |name| format!("reserved:{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_identities_have_names() {
        assert_eq!(identity_text(1), "reserved:host");
        assert_eq!(identity_text(4711), "4711");
    }
}
