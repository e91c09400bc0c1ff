//! The types of the built-in kinds: names, types, list semantics and wire numbers of every field, read once from tables.
//!
//! One table serves the OpenAPI documents, the protobuf bodies of newer clients, and whoever checks or merges objects.
//! The tables (`types/*.txt`) hold facts of the published API in the shortest form: a first line with OpenAPI package, group
//! (`-`: core) and version; then a block per type. A block starts with the type's name (`!`: it is a kind; `atomic`: it is
//! owned as a whole) and has a line for each field: JSON name, protobuf number, type (`?`: may be left out, `??`: and is when it
//! is false or zero, `[]`: list, `{}`: map
//! with string keys), then `map(keys)`, `set` or `atomic` for who owns list elements, `merge(key)`, `retain` and `replace` for strategic merge patches.
//! A field named `~` is a struct whose fields stand in this one in JSON, but nested in protobuf.

mod descriptions;
mod parse;
pub mod proto;
mod schemas;

pub use descriptions::description;
pub use schemas::schemas;

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

/// The type of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ty {
    /// A string.
    Str,
    /// Bytes, in JSON as base64.
    Bytes,
    /// True or false.
    Bool,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// A number.
    Float,
    /// A time in whole seconds.
    Time,
    /// A time with microseconds.
    MicroTime,
    /// A duration as text such as `1m30s`.
    Duration,
    /// A quantity such as `500m`: text, or a number.
    Quantity,
    /// A whole number or text.
    IntOrString,
    /// Any JSON value.
    Any,
    /// A list of strings that is a message of its own in protobuf.
    Items,
    /// A schema or a list of schemas.
    SchemaOrList,
    /// A schema, or true or false.
    SchemaOrBool,
    /// A schema or a list of names.
    SchemaOrNames,
    /// A struct, by its full name; see [`named`].
    Object(String),
    /// A list.
    List(Box<Ty>),
    /// A map from strings.
    Map(Box<Ty>),
}

/// Who owns the elements of a list (or the fields of a struct or map).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ListKind {
    /// Nothing is said: lists are owned as a whole, maps and structs by their fields.
    #[default]
    Unsaid,
    /// The whole belongs to one.
    Atomic,
    /// Every element by its value.
    Set,
    /// Every element by the values of these fields of it.
    Map(Vec<String>),
}

/// A field of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Name in JSON.
    pub name: String,
    /// Type.
    pub ty: Ty,
    /// It may not be left out.
    pub required: bool,
    /// It is left out when it is false or zero, which mean the same.
    pub omit_zero: bool,
    /// Who owns its elements.
    pub list: ListKind,
    /// Strategic merge patches merge this list (or map), elements by this key; an empty key: by their values.
    pub merge: Option<String>,
    /// Strategic merge patches may say which keys of the elements stay.
    pub retain_keys: bool,
    /// Strategic merge patches replace it as a whole.
    pub replace: bool,
    /// Path of protobuf field numbers; more than one for the fields of an embedded struct.
    pub number: Vec<u32>,
}

/// A struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    /// Full name as in OpenAPI documents, such as `io.k8s.api.core.v1.PodSpec`.
    pub name: String,
    /// Group of the package.
    pub group: String,
    /// Version of the package.
    pub version: String,
    /// Kind, if objects of this type stand on their own.
    pub kind: Option<String>,
    /// It is owned as a whole.
    pub atomic: bool,
    /// Fields by JSON name. `apiVersion` and `kind` of kinds are among them.
    pub fields: BTreeMap<String, Field>,
}

impl Type {
    /// A field by its JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.get(name)
    }

    /// The name without its package.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }
}

impl Ty {
    /// The struct that this is, if it is one.
    pub fn object(&self) -> Option<&'static Type> {
        match self {
            Self::Object(name) => named(name),
            _ => None,
        }
    }

    /// What a list or map holds; the type itself for all others.
    pub fn element(&self) -> &Ty {
        match self {
            Self::List(of) | Self::Map(of) => of,
            other => other,
        }
    }
}

/// All types.
struct Types {
    by_name: BTreeMap<String, Type>,
    roots: HashMap<(String, String, String), String>,
}

static TYPES: LazyLock<Types> = LazyLock::new(|| {
    let by_name = parse::all();
    let root = |t: &Type| {
        let key = (t.group.clone(), t.version.clone(), t.kind.clone()?);
        Some((key, t.name.clone()))
    };
    let roots = by_name.values().filter_map(root).collect();
    Types { by_name, roots }
});

/// The type of a built-in kind.
pub fn root(group: &str, version: &str, kind: &str) -> Option<&'static Type> {
    let key = (group.to_owned(), version.to_owned(), kind.to_owned());
    named(TYPES.roots.get(&key)?)
}

/// A type by its full name.
pub fn named(name: &str) -> Option<&'static Type> {
    TYPES.by_name.get(name)
}

/// Every type, ordered by full name.
pub fn all() -> impl Iterator<Item = &'static Type> {
    TYPES.by_name.values()
}

/// Full name of the metadata of objects.
pub const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
/// Full name of the metadata of lists.
pub const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_struct_that_is_named_is_there() {
        for ty in all() {
            for field in ty.fields.values() {
                let mut inner = &field.ty;
                while inner.element() != inner {
                    inner = inner.element();
                }
                if let Ty::Object(name) = inner {
                    assert!(named(name).is_some(), "{}.{}: {name}", ty.name, field.name);
                }
                assert!(
                    !field.number.contains(&0) || field.number == [0],
                    "{}.{}",
                    ty.name,
                    field.name
                );
            }
        }
    }

    #[test]
    fn a_pod_is_described() {
        let pod = root("", "v1", "Pod").unwrap();
        assert_eq!(pod.name, "io.k8s.api.core.v1.Pod");
        let spec = pod.field("spec").unwrap().ty.object().unwrap();
        let containers = spec.field("containers").unwrap();
        assert!(containers.required);
        assert_eq!(containers.list, ListKind::Map(vec!["name".to_owned()]));
        assert_eq!(containers.merge.as_deref(), Some("name"));
        assert_eq!(containers.number, [2]);
        let volume = spec
            .field("volumes")
            .unwrap()
            .ty
            .element()
            .object()
            .unwrap();
        assert_eq!(volume.field("configMap").unwrap().number, [2, 19]);
        assert!(spec.field("volumes").unwrap().retain_keys);
        assert!(
            root("apps", "v1", "Deployment").is_some()
                && root("apps", "v2", "Deployment").is_none()
        );
    }
}
