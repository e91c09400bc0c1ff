//! What can be set.
use std::time::Duration;

use ipnet::IpNet;

/// Settings of the controllers. The defaults are those of a usual cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The certificate authority of the API server as PEM, for every namespace's `kube-root-ca.crt`; none is written if
    /// absent.
    pub root_ca: Option<String>,
    /// How long a node may be silent before it counts as lost.
    pub node_grace: Duration,
    /// How long the pods of a node that is gone are left alone.
    pub gone_node_grace: Duration,
    /// Ranges from which nodes get `spec.podCIDRs`, one per family; none are given if empty.
    pub pod_cidrs: Vec<IpNet>,
    /// Prefix length of a node's IPv4 range.
    pub node_mask_v4: u8,
    /// Prefix length of a node's IPv6 range.
    pub node_mask_v6: u8,
    /// Names of controllers that are not to run.
    pub disabled: Vec<String>,
    /// How many keys of a controller are worked on at once.
    pub concurrency: usize,
    /// After this time everything is looked at again.
    pub resync: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            root_ca: None,
            node_grace: Duration::from_secs(40),
            gone_node_grace: Duration::from_secs(40),
            pod_cidrs: Vec::new(),
            node_mask_v4: 24,
            node_mask_v6: 64,
            disabled: Vec::new(),
            concurrency: 64,
            resync: Duration::from_secs(600),
        }
    }
}
