//! What the server knows of a kind, and the registry of all kinds it serves.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::face::Face;
use super::schema::{self, Schema};
use super::validate::FieldErrors;

/// What is particular to a kind beyond the generic rules. Every method has a default that adds nothing.
pub trait Strategy: Send + Sync {
    /// Fills in what the user may leave out. Must be idempotent.
    fn defaults(&self, _object: &mut Value) {}

    /// Brings a new object into its first state (such as `status.phase`).
    fn prepare_create(&self, _object: &mut Value) {}

    /// Brings a changed object in step with what changed.
    fn prepare_update(&self, _new: &mut Value, _old: &Value) {}

    /// Whether a status given at creation is kept (node agents register with theirs).
    fn keeps_status_on_create(&self) -> bool {
        false
    }

    /// Adds what is not valid in an object on its own.
    fn validate(&self, _object: &Value, _errors: &mut FieldErrors) {}

    /// Adds what may not change from `old` to `new`.
    fn validate_update(&self, _new: &Value, _old: &Value, _errors: &mut FieldErrors) {}

    /// What depends on other objects: addresses and ports that nobody else has. Runs with the store locked, right before
    /// the object is written.
    fn settle(
        &self,
        _new: &mut Value,
        _old: Option<&Value>,
        _others: &dyn Others,
        _errors: &mut FieldErrors,
    ) {
    }

    /// Field selector keys besides `metadata.name` and `metadata.namespace`.
    fn field_labels(&self) -> &[&str] {
        &[]
    }

    /// The value that a field selector compares when the field is absent.
    fn absent_field(&self, _label: &str) -> &str {
        ""
    }

    /// Seconds between the request to delete the object and its removal; `None`: removed at once.
    fn grace_period(&self, _object: &Value, _asked: Option<i64>) -> Option<i64> {
        None
    }
}

/// The other objects of the store, for [`Strategy::settle`].
pub trait Others {
    /// Calls `visit` with every object of a table (`services`).
    fn each(&self, table: &str, visit: &mut dyn FnMut(&Value));
    /// What the server was told to give to services.
    fn networks(&self) -> &Networks;
}

/// What services get their addresses and ports from, and where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Networks {
    /// Cluster addresses, one range for each family; the first one's family is the default of services.
    pub service_cidrs: Vec<ipnet::IpNet>,
    /// Node ports.
    pub node_ports: std::ops::RangeInclusive<u16>,
    /// Where nodes and pods reach the server, at most once for each family: the endpoints of its own service. None: it is not told.
    pub server: Vec<std::net::SocketAddr>,
}

impl Networks {
    /// Addresses that nobody but the server's own service gets: the first of each range that it has.
    pub fn own_addresses(&self) -> Vec<std::net::IpAddr> {
        let cidrs = self.service_cidrs.iter().enumerate();
        let wanted = cidrs.filter(|(i, cidr)| {
            let reached = |at: &std::net::SocketAddr| at.is_ipv4() == cidr.addr().is_ipv4();
            self.server.iter().any(reached) || self.server.is_empty() && *i == 0
        });
        // The hosts of an IPv6 range begin with the range's own address.
        let first = |cidr: &ipnet::IpNet| cidr.hosts().find(|ip| *ip != cidr.network());
        wanted.filter_map(|(_, cidr)| first(cidr)).collect()
    }
}

impl Default for Networks {
    fn default() -> Self {
        let v4 = ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 96, 0, 0), 16);
        let v6 = std::net::Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0);
        Self {
            service_cidrs: vec![v4.into(), ipnet::Ipv6Net::new_assert(v6, 112).into()],
            node_ports: 30_000..=32_767,
            server: Vec::new(),
        }
    }
}

/// A strategy without particulars.
pub struct Plain;

impl Strategy for Plain {}

/// A kind of object that the server keeps.
#[derive(Clone)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: String,
    /// Version within the group.
    pub version: String,
    /// Name in manifests, such as `Pod`.
    pub kind: String,
    /// Name in paths, such as `pods`.
    pub plural: String,
    /// Name for one object, such as `pod`.
    pub singular: String,
    /// Short names that `kubectl` accepts.
    pub short_names: Vec<String>,
    /// Groups of kinds such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether objects are kept; the others (reviews) are answered and forgotten: they can be created, nothing else.
    pub stored: bool,
    /// Whether `status` is written through a subresource of its own.
    pub has_status: bool,
    /// Further subresources: path segment, kind of its body, verbs.
    pub subresources: Vec<Subresource>,
    /// Where the subresource `scale` finds its numbers.
    pub scale: Option<Scale>,
    /// Whether a definition in the store makes the kind.
    pub defined: bool,
    /// Further fields that can be selected by (custom kinds), such as `spec.color`.
    pub fields: Vec<String>,
    /// The columns that the definition of a custom kind adds (`additionalPrinterColumns`).
    pub columns: Vec<Value>,
    /// Schema of a custom kind, ready for use.
    pub custom_schema: Option<Arc<Schema>>,
    /// Schema of a custom kind as its definition has it (`openAPIV3Schema`).
    pub open_api: Option<Arc<Value>>,
    /// Version in which objects are kept, if it is another one than this kind's. They differ in `apiVersion` alone.
    pub storage_version: Option<String>,
    /// Said to everybody who uses this version.
    pub deprecation: Option<String>,
    /// Whether `metadata.generation` counts changes of what users want.
    pub counts_generations: bool,
    /// Whether a PUT may leave the resource version out.
    pub unconditional_update: bool,
    /// Whether the answer to a removal is the object itself instead of a `Status`.
    pub returns_deleted: bool,
    /// Whether the kind is part of Kubernetes: strategic merge patches work for these alone.
    pub built_in: bool,
    /// Set if the objects are those of another kind under other names.
    pub face: Option<&'static Face>,
    /// Seconds after which an object that nobody touched is removed (events).
    pub time_to_live: Option<i64>,
    /// What is particular to the kind.
    pub strategy: Arc<dyn Strategy>,
}

/// Where the numbers of the subresource `scale` are in an object, as paths such as `.spec.replicas`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// How many are wanted.
    pub spec: String,
    /// How many there are.
    pub status: String,
    /// Which pods they are: a label selector as text or object.
    pub selector: Option<String>,
}

/// A subresource other than `status` and `scale`.
#[derive(Debug, Clone)]
pub struct Subresource {
    /// Path segment.
    pub name: String,
    /// Group of the body's kind; empty for the core group.
    pub group: String,
    /// Version of the body's kind.
    pub version: String,
    /// Kind of the body.
    pub kind: String,
    /// Verbs for discovery.
    pub verbs: Vec<String>,
}

impl Kind {
    /// A namespaced kind with a status subresource and nothing else; singular is the kind in lower case.
    pub fn new(group: &str, version: &str, kind: &str, plural: &str) -> Self {
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            singular: kind.to_lowercase(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: true,
            stored: true,
            has_status: true,
            subresources: Vec::new(),
            scale: None,
            defined: false,
            fields: Vec::new(),
            columns: Vec::new(),
            custom_schema: None,
            open_api: None,
            storage_version: None,
            deprecation: None,
            counts_generations: true,
            unconditional_update: false,
            returns_deleted: false,
            built_in: false,
            face: None,
            time_to_live: None,
            strategy: Arc::new(Plain),
        }
    }

    /// Makes the kind cluster-scoped.
    pub fn cluster_scoped(mut self) -> Self {
        self.namespaced = false;
        self
    }

    /// Takes the status subresource away.
    pub fn without_status(mut self) -> Self {
        self.has_status = false;
        self
    }

    /// Sets the short names.
    pub fn short(mut self, names: &[&str]) -> Self {
        self.short_names = names.iter().map(|&n| n.to_owned()).collect();
        self
    }

    /// Sets what is particular to the kind.
    pub fn with_strategy(mut self, strategy: impl Strategy + 'static) -> Self {
        self.strategy = Arc::new(strategy);
        self
    }

    /// `v1` or `group/version`, as in `apiVersion`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `apiVersion` of the objects as they are kept.
    pub fn stored_api_version(&self) -> String {
        match &self.storage_version {
            Some(version) if self.group.is_empty() => version.clone(),
            Some(version) => format!("{}/{version}", self.group),
            None => self.api_version(),
        }
    }

    /// What the fields of the objects are.
    pub fn schema(&self) -> Arc<Schema> {
        match &self.custom_schema {
            Some(schema) => Arc::clone(schema),
            None if self.built_in => schema::builtin(&self.group, &self.version, &self.kind),
            None => Schema::any(),
        }
    }

    /// The verbs of the objects themselves, for discovery.
    pub fn verbs(&self) -> &'static [&'static str] {
        if self.stored {
            &[
                "create",
                "delete",
                "deletecollection",
                "get",
                "list",
                "patch",
                "update",
                "watch",
            ]
        } else {
            &["create"]
        }
    }

    /// `pods` or `leases.coordination.k8s.io`; names the kind's storage too, for all versions alike.
    pub fn qualified_plural(&self) -> String {
        qualify(&self.plural, &self.group)
    }

    /// `Pod` or `Lease.coordination.k8s.io`.
    pub fn qualified_kind(&self) -> String {
        qualify(&self.kind, &self.group)
    }

    /// Whether the objects are namespaces, whose deletion takes their content along.
    pub fn is_namespace(&self) -> bool {
        self.group.is_empty() && self.plural == "namespaces"
    }

    /// Whether the objects define custom kinds.
    pub fn is_definition(&self) -> bool {
        self.group == "apiextensions.k8s.io" && self.plural == "customresourcedefinitions"
    }

    /// Kind of a list of these objects.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kind({}, {})", self.qualified_plural(), self.version)
    }
}

fn qualify(name: &str, group: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

/// Every kind that is served.
#[derive(Debug, Default, Clone)]
pub struct Registry {
    kinds: BTreeMap<(String, String, String), Arc<Kind>>,
}

impl Registry {
    /// A registry without kinds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a kind.
    pub fn register(&mut self, kind: Kind) -> Arc<Kind> {
        let key = (
            kind.group.clone(),
            kind.version.clone(),
            kind.plural.clone(),
        );
        let kind = Arc::new(kind);
        self.kinds.insert(key, Arc::clone(&kind));
        kind
    }

    /// The kind served under a path.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.kinds
            .get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
            .cloned()
    }

    /// The kind with a qualified plural (`pods`, `leases.coordination.k8s.io`), in the version that is kept.
    pub fn find(&self, qualified_plural: &str) -> Option<Arc<Kind>> {
        let (plural, group) = qualified_plural
            .split_once('.')
            .unwrap_or((qualified_plural, ""));
        let named = || {
            self.kinds
                .values()
                .filter(|k| k.plural == plural && k.group == group)
        };
        named()
            .find(|k| k.storage_version.is_none())
            .or_else(|| named().next())
            .cloned()
    }

    /// A kind by its name in manifests.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Kind>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let found = self
            .kinds
            .values()
            .find(|k| k.group == group && k.version == version && k.kind == kind);
        found.cloned()
    }

    /// All kinds, ordered by group, version and plural.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.values()
    }

    /// Takes kinds away.
    pub fn retain(&mut self, keep: impl Fn(&Kind) -> bool) {
        self.kinds.retain(|_, kind| keep(kind));
    }

    /// The versions of every group, the preferred one first.
    pub fn groups(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for kind in self.kinds.values() {
            let versions = groups.entry(&kind.group).or_default();
            if !versions.contains(&kind.version.as_str()) {
                versions.push(&kind.version);
            }
        }
        for versions in groups.values_mut() {
            versions.sort_by_key(|version| std::cmp::Reverse(rank(version)));
        }
        groups
    }
}

/// Orders versions: `v2` above `v1` above `v1beta2` above `v1alpha3`, those above all other names.
pub fn rank(version: &str) -> (u8, u32, u32, std::cmp::Reverse<&str>) {
    let number = |text: &str| text.parse::<u32>().ok();
    let parsed = version.strip_prefix('v').and_then(|rest| {
        for (word, level) in [("beta", 2), ("alpha", 1)] {
            if let Some((major, minor)) = rest.split_once(word) {
                return Some((level, number(major)?, number(minor)?));
            }
        }
        Some((3, number(rest)?, 0))
    });
    let (level, major, minor) = parsed.unwrap_or((0, 0, 0));
    (level, major, minor, std::cmp::Reverse(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_their_stage() {
        let mut versions = vec![
            "foo", "v1alpha1", "v10", "v1beta2", "v2", "v1beta10", "bar", "v1",
        ];
        versions.sort_by_key(|version| std::cmp::Reverse(rank(version)));
        let expected = [
            "v10", "v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "bar", "foo",
        ];
        assert_eq!(versions, expected);
    }
}
