//! What the server knows of a kind, and the registry of all kinds it serves.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::face::Face;
use super::validate::FieldErrors;

/// What is particular to a kind beyond the generic rules. Every method has a default that adds nothing.
pub trait Strategy: Send + Sync {
    /// Checks the shape of the fields (types, unknown names); see [`ShapeReport`].
    fn shape(&self, _object: &Value) -> ShapeReport {
        ShapeReport::default()
    }

    /// Fills in what the user may leave out. Must be idempotent.
    fn defaults(&self, _object: &mut Value) {}

    /// Brings a new object into its first state (such as `status.phase`).
    fn prepare_create(&self, _object: &mut Value) {}

    /// Whether a status given at creation is kept (node agents register with theirs).
    fn keeps_status_on_create(&self) -> bool {
        false
    }

    /// Adds what is not valid in an object on its own.
    fn validate(&self, _object: &Value, _errors: &mut FieldErrors) {}

    /// Adds what may not change from `old` to `new`.
    fn validate_update(&self, _new: &Value, _old: &Value, _errors: &mut FieldErrors) {}

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

/// What the check of an object's shape found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ShapeReport {
    /// A field of the wrong type, with its place.
    pub mismatch: Option<String>,
    /// Fields that the kind does not have; they are not stored.
    pub unknown: Vec<Vec<String>>,
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
    /// Whether `status` is written through a subresource of its own.
    pub has_status: bool,
    /// Further subresources: path segment, kind of its body, verbs.
    pub subresources: Vec<Subresource>,
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

/// A subresource other than `status`.
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
            has_status: true,
            subresources: Vec::new(),
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

    /// The kind with a qualified plural (`pods`, `leases.coordination.k8s.io`), whatever its version.
    pub fn find(&self, qualified_plural: &str) -> Option<Arc<Kind>> {
        self.kinds
            .values()
            .find(|k| k.qualified_plural() == qualified_plural)
            .cloned()
    }

    /// All kinds, ordered by group, version and plural.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.values()
    }

    /// The versions of every group, newest registered name order.
    pub fn groups(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for kind in self.kinds.values() {
            let versions = groups.entry(&kind.group).or_default();
            if !versions.contains(&kind.version.as_str()) {
                versions.push(&kind.version);
            }
        }
        groups
    }
}
