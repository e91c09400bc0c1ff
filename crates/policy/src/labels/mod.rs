//! Labels with a source, as in `k8s:app=web`, and what of them is security relevant.
//!
//! A set of labels is [`model::Labels`]; this module takes single ones apart and makes those that are derived from
//! addresses, nodes and groups of addresses.
mod facts;
mod filter;
mod pod;

pub use facts::{Facts, Label};
pub use filter::{FilterError, LabelFilter};
pub use pod::pod_labels;

use ipnet::IpNet;
use std::net::IpAddr;

/// Labels of objects of the cluster.
pub const K8S: &str = "k8s";
/// Labels of what has no object: the host, the world, an endpoint without identity …
pub const RESERVED: &str = "reserved";
/// Labels that stand for a range of addresses.
pub const CIDR: &str = "cidr";
/// Labels of groups of address ranges.
pub const CIDR_GROUP: &str = "cidrgroup";
/// Labels of names that were looked up.
pub const FQDN: &str = "fqdn";
/// Labels of node objects, on the identities of nodes.
pub const NODE: &str = "node";
/// In a selector only: a label of any source.
pub const ANY: &str = "any";

/// Key of the label that holds the namespace of a pod, without its source.
pub const NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// What the keys of labels begin with that repeat the labels of a pod's namespace.
pub const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
/// Key of the label that holds the name of a pod's cluster.
pub const CLUSTER: &str = "io.cilium.k8s.policy.cluster";
/// What the keys of labels begin with that name the groups a prefix belongs to.
pub const GROUP_NAME: &str = "io.cilium.policy.cidrgroupname/";

/// The sources that a key in a selector may begin with.
pub const SOURCES: [&str; 8] = [
    ANY,
    K8S,
    RESERVED,
    CIDR,
    CIDR_GROUP,
    FQDN,
    NODE,
    "container",
];

/// Splits `source:key`; the source is none where the text names none of [`SOURCES`].
#[must_use]
pub fn split_source(text: &str) -> (Option<&str>, &str) {
    match text.split_once(':') {
        Some((source, key)) if SOURCES.contains(&source) => (Some(source), key),
        _ => (None, text),
    }
}

/// The label of an address range, such as `cidr:10.0.0.0/8` or `cidr:fd00--0/64`: a colon may not stand in a key.
#[must_use]
pub fn cidr_label(net: IpNet) -> String {
    let net = net.trunc();
    if net.addr().is_ipv4() {
        return format!("{CIDR}:{net}");
    }
    let mut address = net.addr().to_string().replace(':', "-");
    if address.starts_with('-') {
        address.insert(0, '0');
    }
    if address.ends_with('-') {
        address.push('0');
    }
    format!("{CIDR}:{address}/{}", net.prefix_len())
}

/// The range that the key of a `cidr` label stands for; an address alone is a range of one.
#[must_use]
pub fn cidr_of_key(key: &str) -> Option<IpNet> {
    let text = key.replace('-', ":");
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => IpNet::from(text.parse::<IpAddr>().ok()?),
    };
    Some(net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_labels_and_are_read_from_them() {
        for text in [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "fd00::/64",
            "::/0",
            "fd00::1/128",
            "::1/128",
        ] {
            let net: IpNet = text.parse().unwrap();
            let label = cidr_label(net);
            let (source, key) = split_source(&label);
            assert_eq!(source, Some("cidr"));
            assert!(!key.contains(':') && !key.ends_with('-'), "{label}");
            assert_eq!(cidr_of_key(key), Some(net), "{label}");
        }
        assert_eq!(cidr_of_key("10.1.2.3"), "10.1.2.3/32".parse().ok());
        assert_eq!(cidr_of_key("no"), None);
    }

    #[test]
    fn only_known_sources_are_split_off() {
        assert_eq!(split_source("k8s:app"), (Some("k8s"), "app"));
        assert_eq!(split_source("any:app"), (Some("any"), "app"));
        assert_eq!(split_source("app"), (None, "app"));
        assert_eq!(split_source("other:app"), (None, "other:app"));
    }
}
