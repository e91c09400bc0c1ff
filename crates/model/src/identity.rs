//! Numeric identities of labels.
use crate::Labels;
use abi::identity::{MAX_ALLOCATED, MIN_ALLOCATED, reserved_name};
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

/// The identity of a pod with these labels.
///
/// Interim, until identities are allocated cluster-wide: a hash of the labels, so that all nodes agree without talking.
/// Two label sets may collide (65,280 numbers: one chance in ten from about 120 sets on), which is harmless as long as
/// identities are shown but nothing is decided by them; policy needs the allocator.
#[must_use]
pub fn identity_of(labels: &Labels) -> u32 {
    let mut hash = Fnv::default();
    for (key, value) in labels.iter() {
        hash.text(key);
        hash.text(value);
    }
    let span = u64::from(MAX_ALLOCATED - MIN_ALLOCATED + 1);
    MIN_ALLOCATED + u32::try_from(hash.finish() % span).unwrap_or(0)
}

/// An identity as users see it: the reserved name if it has one, else the number.
#[must_use]
pub fn identity_text(id: u32) -> String {
    reserved_name(id).map_or_else(|| id.to_string(), |name| format!("reserved:{name}"))
}

/// FNV-1a of 64 bits with a final mix. Written out because the result is part of what nodes of different releases must
/// agree on; the standard library's hasher may change.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Adds `text` and an end mark that no text contains, so that ("ab", "c") and ("a", "bc") differ.
    fn text(&mut self, text: &str) {
        for byte in text.bytes().chain([0xff]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ (mixed >> 33)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_number_of_given_labels_never_changes() {
        // Nodes of different releases must agree; do not edit the numbers.
        let labels: Labels = ["k8s:app=cart", "k8s:io.kubernetes.pod.namespace=shop"]
            .map(str::to_owned)
            .into_iter()
            .collect();
        assert_eq!(identity_of(&labels), 40579);
    }

    #[test]
    fn reserved_identities_have_names() {
        assert_eq!(identity_text(1), "reserved:host");
        assert_eq!(identity_text(4711), "4711");
    }

    proptest! {
        #[test]
        fn identities_stay_in_the_allocated_range(texts in proptest::collection::vec("[a-z]{1,8}=[a-z]{0,8}", 0..6)) {
            let id = identity_of(&texts.into_iter().collect());
            prop_assert!((MIN_ALLOCATED..=MAX_ALLOCATED).contains(&id));
        }
    }
}
