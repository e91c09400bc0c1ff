//! What is known of an address range from several sides at once, and the labels that follow.
use crate::labels::{CIDR, CIDR_GROUP, FQDN, RESERVED, cidr_label};
use ipnet::IpNet;
use model::Labels;
use std::collections::{BTreeMap, BTreeSet};

/// Who says something of a prefix; a greater one wins over a smaller one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Not said.
    Unspecified,
    /// Known from before a restart.
    Restored,
    /// Made up by the agent, for a rule.
    Generated,
    /// Asked for at the agent's API.
    LocalApi,
    /// A file of the node.
    Directory,
    /// Another cluster.
    ClusterMesh,
    /// An object of Kubernetes.
    Kubernetes,
    /// An object of ours.
    CustomResource,
    /// The key-value store.
    KvStore,
    /// This node's own endpoint or address.
    Local,
    /// The addresses of the API server.
    KubeApiserver,
}

/// What one object says of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Info {
    /// It has this identity: an endpoint.
    Identity(u32),
    /// It has these labels.
    Labels(Labels),
}

impl Info {
    /// True if it says no more than which names the address has.
    fn is_of_names(&self) -> bool {
        let is_name = |(key, _): (&str, &str)| key.split(':').next() == Some(FQDN);
        match self {
            Self::Labels(labels) => !labels.is_empty() && labels.iter().all(is_name),
            Self::Identity(_) => false,
        }
    }
}

/// What all that is said of a prefix comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// It has this identity, as its greatest source says.
    Identity {
        /// The identity.
        id: u32,
        /// Who says so.
        source: Source,
    },
    /// It has these labels, for which the scope's allocator has a number.
    Labels {
        /// The labels.
        labels: Labels,
        /// The greatest of those who say so.
        source: Source,
        /// Which numbers such labels have: reserved, of a node, or local.
        scope: super::Scope,
    },
}

/// What is said of every prefix, by whom. Names of resources are free; each says one thing of a prefix.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    said: BTreeMap<IpNet, BTreeMap<String, (Source, Info)>>,
    /// Nodes keep their ranges, so that rules on addresses match them (`policy-cidr-match-mode`: `nodes`).
    nodes_by_cidr: bool,
}

impl Metadata {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(nodes_by_cidr: bool) -> Self {
        Self {
            nodes_by_cidr,
            ..Self::default()
        }
    }

    /// A resource says this of a prefix, and no longer what it said before. The prefixes whose answer may have changed.
    pub fn upsert(
        &mut self,
        prefix: IpNet,
        resource: &str,
        source: Source,
        info: Info,
    ) -> BTreeSet<IpNet> {
        let prefix = prefix.trunc();
        let about = self.said.entry(prefix).or_default();
        let said = (source, info);
        if about.get(resource) == Some(&said) {
            return BTreeSet::new();
        }
        about.insert(resource.to_owned(), said);
        self.within(prefix)
    }

    /// A resource says nothing of a prefix any longer. The prefixes whose answer may have changed.
    pub fn remove(&mut self, prefix: IpNet, resource: &str) -> BTreeSet<IpNet> {
        let prefix = prefix.trunc();
        let Some(about) = self.said.get_mut(&prefix) else {
            return BTreeSet::new();
        };
        if about.remove(resource).is_none() {
            return BTreeSet::new();
        }
        if about.is_empty() {
            self.said.remove(&prefix);
        }
        let mut changed = self.within(prefix);
        changed.insert(prefix);
        changed
    }

    /// The prefixes within this one of which something is said: they take over the groups that it belongs to.
    fn within(&self, prefix: IpNet) -> BTreeSet<IpNet> {
        self.said
            .range(prefix..)
            .map(|(other, _)| *other)
            .take_while(|other| prefix.contains(&other.network()))
            .filter(|other| prefix.contains(other))
            .collect()
    }

    /// Every prefix of which something is said.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.said.keys().copied()
    }

    /// What all that is said of a prefix comes to; none where nothing is said.
    #[must_use]
    pub fn resolve(&self, prefix: IpNet) -> Option<Resolved> {
        let prefix = prefix.trunc();
        let about = self.said.get(&prefix)?;
        // The greatest source first; of equal ones the resource that comes first by its name.
        let mut said: Vec<(&String, &(Source, Info))> = about.iter().collect();
        said.sort_by(|(a, (first, _)), (b, (second, _))| second.cmp(first).then(a.cmp(b)));
        let (_, (source, first)) = said.first()?;
        if let Info::Identity(id) = first {
            return Some(Resolved::Identity {
                id: *id,
                source: *source,
            });
        }
        let mut labels = BTreeMap::new();
        for (_, (_, info)) in &said {
            if let Info::Labels(own) = info {
                add(&mut labels, own.iter());
            }
        }
        let is = |labels: &BTreeMap<String, String>, name: &str| {
            labels.contains_key(&format!("{RESERVED}:{name}"))
        };
        let is_node = is(&labels, "host") || is(&labels, "remote-node");
        let is_reserved = labels.keys().any(|key| {
            key.starts_with("reserved:")
                && !key.starts_with("reserved:world")
                && key != "reserved:kube-apiserver"
        });
        if !is_reserved {
            labels.entry(format!("{RESERVED}:world")).or_default();
            self.add_groups(prefix, &mut labels);
        } else {
            labels.retain(|key, _| key != "reserved:world");
        }
        if !is_reserved || (is_node && self.nodes_by_cidr) {
            // Addresses that are known by name alone share the identity of all with these names, as far as rules on ranges allow.
            let by_name = said.iter().all(|(_, (_, info))| info.is_of_names());
            let range = if by_name { self.around(prefix) } else { prefix };
            labels.insert(cidr_label(range), String::new());
        } else {
            let of_address =
                |key: &str| [CIDR, FQDN].contains(&key.split(':').next().unwrap_or(key));
            labels.retain(|key, _| !of_address(key));
        }
        let has_node_labels = labels
            .keys()
            .any(|key| key.starts_with("node:") || key.starts_with("cidr:"));
        let scope = match (is_reserved, is(&labels, "remote-node")) {
            (false, _) => super::Scope::Local,
            (true, true) if has_node_labels => super::Scope::RemoteNode,
            (true, _) => super::Scope::Reserved,
        };
        Some(Resolved::Labels {
            labels: labels
                .into_iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect(),
            source: *source,
            scope,
        })
    }

    /// The longest prefix around this one of which something is said, beside names; else all addresses of the family.
    fn around(&self, prefix: IpNet) -> IpNet {
        let mut around = prefix;
        while let Some(net) = around.supernet() {
            around = net;
            let about = self.said.get(&net).into_iter().flat_map(BTreeMap::values);
            if about.into_iter().any(|(_, info)| !info.is_of_names()) {
                break;
            }
        }
        around
    }

    /// Adds the groups that shorter prefixes belong to.
    fn add_groups(&self, prefix: IpNet, labels: &mut BTreeMap<String, String>) {
        let mut parent = prefix.supernet();
        while let Some(net) = parent {
            for (_, info) in self.said.get(&net).into_iter().flat_map(BTreeMap::values) {
                if let Info::Labels(own) = info {
                    let groups = own
                        .iter()
                        .filter(|(key, _)| key.split(':').next() == Some(CIDR_GROUP));
                    add(labels, groups);
                }
            }
            parent = net.supernet();
        }
    }
}

/// Adds labels whose keys are not there yet.
fn add<'a>(labels: &mut BTreeMap<String, String>, more: impl Iterator<Item = (&'a str, &'a str)>) {
    for (key, value) in more {
        labels
            .entry(key.to_owned())
            .or_insert_with(|| value.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scope;
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn labels(texts: &[&str]) -> Info {
        Info::Labels(texts.iter().map(|text| (*text).to_owned()).collect())
    }

    fn resolved(metadata: &Metadata, prefix: &str) -> Option<(String, Scope)> {
        match metadata.resolve(net(prefix))? {
            Resolved::Labels { labels, scope, .. } => Some((labels.to_string(), scope)),
            Resolved::Identity { id, .. } => Some((id.to_string(), Scope::of(id)?)),
        }
    }

    #[test]
    fn a_range_that_a_rule_names_is_a_part_of_the_world() {
        let mut metadata = Metadata::new(false);
        metadata.upsert(net("10.1.0.0/16"), "rule", Source::Generated, labels(&[]));
        let got = resolved(&metadata, "10.1.0.0/16").unwrap();
        assert_eq!(
            got,
            ("cidr:10.1.0.0/16,reserved:world".to_owned(), Scope::Local)
        );
    }

    #[test]
    fn groups_are_taken_over_by_what_is_within() {
        let mut metadata = Metadata::new(false);
        metadata.upsert(net("10.1.2.0/24"), "rule", Source::Generated, labels(&[]));
        let changed = metadata.upsert(
            net("10.0.0.0/8"),
            "group",
            Source::CustomResource,
            labels(&["cidrgroup:io.cilium.policy.cidrgroupname/office"]),
        );
        assert_eq!(changed.len(), 2);
        let (text, _) = resolved(&metadata, "10.1.2.0/24").unwrap();
        assert!(
            text.contains("cidrgroup:io.cilium.policy.cidrgroupname/office"),
            "{text}"
        );
        metadata.remove(net("10.0.0.0/8"), "group");
        let (text, _) = resolved(&metadata, "10.1.2.0/24").unwrap();
        assert_eq!(text, "cidr:10.1.2.0/24,reserved:world");
        assert_eq!(metadata.resolve(net("10.0.0.0/8")), None);
    }

    #[test]
    fn the_greater_source_wins_and_labels_of_all_count() {
        let mut metadata = Metadata::new(false);
        let node = net("192.0.2.1/32");
        metadata.upsert(node, "rule", Source::Generated, labels(&[]));
        metadata.upsert(
            node,
            "node",
            Source::CustomResource,
            labels(&["reserved:remote-node"]),
        );
        metadata.upsert(
            node,
            "api",
            Source::KubeApiserver,
            labels(&["reserved:kube-apiserver"]),
        );
        let got = resolved(&metadata, "192.0.2.1/32").unwrap();
        assert_eq!(
            got,
            (
                "reserved:kube-apiserver,reserved:remote-node".to_owned(),
                Scope::Reserved
            )
        );
        metadata.remove(node, "node");
        let got = resolved(&metadata, "192.0.2.1/32").unwrap();
        assert_eq!(
            got,
            (
                "cidr:192.0.2.1/32,reserved:kube-apiserver,reserved:world".to_owned(),
                Scope::Local
            )
        );
        metadata.upsert(node, "endpoint", Source::Local, Info::Identity(4711));
        metadata.remove(node, "api");
        assert_eq!(resolved(&metadata, "192.0.2.1/32").unwrap().0, "4711");
    }

    #[test]
    fn addresses_of_one_name_share_an_identity_as_far_as_ranges_allow() {
        let mut metadata = Metadata::new(false);
        let name = || labels(&["fqdn:*.example.org"]);
        for address in ["10.1.2.3/32", "10.9.9.9/32", "fd00::3/128"] {
            metadata.upsert(net(address), "names", Source::Generated, name());
        }
        let all = |metadata: &Metadata| {
            ["10.1.2.3/32", "10.9.9.9/32", "fd00::3/128"]
                .map(|prefix| resolved(metadata, prefix).unwrap().0)
        };
        let v4 = "cidr:0.0.0.0/0,fqdn:*.example.org,reserved:world";
        let v6 = "cidr:0--0/0,fqdn:*.example.org,reserved:world";
        assert_eq!(all(&metadata), [v4, v4, v6]);
        let changed = metadata.upsert(net("10.1.0.0/16"), "rule", Source::Generated, labels(&[]));
        assert!(changed.contains(&net("10.1.2.3/32")));
        let ranged = "cidr:10.1.0.0/16,fqdn:*.example.org,reserved:world";
        assert_eq!(all(&metadata), [ranged, v4, v6]);
        metadata.upsert(net("10.1.2.3/32"), "rule", Source::Generated, labels(&[]));
        let own = "cidr:10.1.2.3/32,fqdn:*.example.org,reserved:world";
        assert_eq!(all(&metadata), [own, v4, v6]);
        // A node's address is not meant by its name.
        let node = labels(&["reserved:remote-node", "node:zone=a"]);
        metadata.upsert(net("10.9.9.9/32"), "node", Source::CustomResource, node);
        let (text, _) = resolved(&metadata, "10.9.9.9/32").unwrap();
        assert_eq!(text, "node:zone=a,reserved:remote-node");
        metadata.remove(net("10.1.2.3/32"), "rule");
        let changed = metadata.remove(net("10.1.0.0/16"), "rule");
        assert!(changed.contains(&net("10.1.2.3/32")));
        assert_eq!(all(&metadata)[0], v4);
    }

    #[test]
    fn nodes_with_labels_or_by_address_have_numbers_of_their_own() {
        let node = net("192.0.2.1/32");
        let with = |by_cidr, texts: &[&str]| {
            let mut metadata = Metadata::new(by_cidr);
            metadata.upsert(node, "node", Source::CustomResource, labels(texts));
            resolved(&metadata, "192.0.2.1/32").unwrap()
        };
        assert_eq!(with(false, &["reserved:remote-node"]).1, Scope::Reserved);
        assert_eq!(
            with(false, &["reserved:remote-node", "node:zone=a"]).1,
            Scope::RemoteNode
        );
        let (text, scope) = with(true, &["reserved:remote-node"]);
        assert_eq!(scope, Scope::RemoteNode);
        assert_eq!(text, "cidr:192.0.2.1/32,reserved:remote-node");
    }
}
