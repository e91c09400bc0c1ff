//! The built-in kinds: a table of their names, and what is particular to each.

mod event;
mod namespace;
mod node;
mod pod;
mod table;

use std::sync::Arc;

use super::kind::{Kind, Plain, Registry, Strategy};

/// Every built-in kind.
pub fn builtin() -> Registry {
    let mut registry = Registry::new();
    for kind in table::all() {
        registry.register(kind);
    }
    registry
}

/// A built-in kind by group and name; a plain custom kind of that name if there is none.
pub fn named(group: &str, kind: &str) -> Kind {
    table::all()
        .find(|k| k.group == group && k.kind == kind)
        .unwrap_or_else(|| Kind::new(group, "v1", kind, &format!("{}s", kind.to_lowercase())))
}

/// `Namespace`.
pub fn namespace() -> Kind {
    named("", "Namespace")
}

/// `Pod`.
pub fn pod() -> Kind {
    named("", "Pod")
}

/// `Scale`, the form in which every kind shows how many it wants.
pub fn scale() -> Kind {
    let mut kind = Kind::new("autoscaling", "v1", "Scale", "scales");
    kind.built_in = true;
    kind
}

/// What is particular to a kind.
fn strategy(group: &str, kind: &str) -> Arc<dyn Strategy> {
    match (group, kind) {
        ("", "Namespace") => Arc::new(namespace::NamespaceStrategy),
        ("", "Node") => Arc::new(node::NodeStrategy),
        ("", "Pod") => Arc::new(pod::PodStrategy),
        ("" | "events.k8s.io", "Event") => Arc::new(event::EventStrategy),
        ("apiextensions.k8s.io", _) => Arc::new(super::crd::DefinitionStrategy),
        _ => Arc::new(Plain),
    }
}
