//! The built-in kinds: how they are named and what is particular to each.

mod event;
mod namespace;
mod node;
mod pod;

use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde_json::Value;

use k8s_openapi::api::coordination::v1 as coordination;

use super::kind::{Kind, Registry, ShapeReport, Strategy, Subresource};
use super::schema;

/// A built-in kind without particulars besides the shape of its type.
pub struct Typed<T>(PhantomData<fn() -> T>);

impl<T> Default for Typed<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: DeserializeOwned> Strategy for Typed<T> {
    fn shape(&self, object: &Value) -> ShapeReport {
        schema::shape::<T>(object)
    }
}

/// Every built-in kind.
pub fn builtin() -> Registry {
    let mut registry = Registry::new();
    for kind in [namespace(), node(), pod(), event(), new_event(), lease()] {
        registry.register(kind);
    }
    registry
}

fn built_in(
    group: &str,
    version: &str,
    kind: &str,
    plural: &str,
    strategy: impl Strategy + 'static,
) -> Kind {
    let mut kind = Kind::new(group, version, kind, plural).with_strategy(strategy);
    kind.built_in = true;
    kind.counts_generations = false;
    kind.unconditional_update = true;
    kind
}

/// `Namespace`.
pub fn namespace() -> Kind {
    built_in(
        "",
        "v1",
        "Namespace",
        "namespaces",
        namespace::NamespaceStrategy,
    )
    .cluster_scoped()
    .short(&["ns"])
}

/// `Node`.
pub fn node() -> Kind {
    built_in("", "v1", "Node", "nodes", node::NodeStrategy)
        .cluster_scoped()
        .short(&["no"])
}

/// `Pod`.
pub fn pod() -> Kind {
    let mut kind = built_in("", "v1", "Pod", "pods", pod::PodStrategy).short(&["po"]);
    kind.categories = vec!["all".to_owned()];
    kind.returns_deleted = true;
    kind.counts_generations = true;
    kind.subresources = vec![
        subresource("binding", "", "v1", "Binding"),
        subresource("eviction", "policy", "v1", "Eviction"),
    ];
    kind
}

/// `Event` of the core group.
pub fn event() -> Kind {
    let kind = built_in("", "v1", "Event", "events", event::EventStrategy);
    let mut kind = kind.without_status().short(&["ev"]);
    kind.time_to_live = Some(event::TIME_TO_LIVE);
    kind
}

/// `Event` of `events.k8s.io`: the same events in newer words.
pub fn new_event() -> Kind {
    let mut kind = event();
    kind.group = "events.k8s.io".to_owned();
    kind.face = Some(&event::NEW_FACE);
    kind
}

/// `Lease`.
pub fn lease() -> Kind {
    let mut kind = built_in(
        "coordination.k8s.io",
        "v1",
        "Lease",
        "leases",
        Typed::<coordination::Lease>::default(),
    )
    .without_status();
    kind.unconditional_update = false;
    kind
}

fn subresource(name: &str, group: &str, version: &str, kind: &str) -> Subresource {
    Subresource {
        name: name.to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        verbs: vec!["create".to_owned()],
    }
}
