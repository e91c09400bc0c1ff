//! What the fields of objects are: one form for built-in kinds (from the tables of [`types`](super::types)) and for custom ones
//! (from the schema in their definition). It drives type checks, unknown fields, defaults, validation and ownership of fields.

mod check;
mod compile;
mod default;
mod fit;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde_json::Value;

use super::error::ApiError;
use super::kind::Kind;
use super::types::{self, ListKind};
use super::validate::FieldErrors;

pub use compile::{Fault, compile};
pub use default::fill as fill_defaults;
pub use fit::drop_empty;

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A map or struct.
    Object,
    /// A list.
    Array,
    /// Text.
    String,
    /// A whole number of 32 bits (built-in kinds) or 64.
    Integer {
        /// At most 32 bits.
        short: bool,
    },
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A quantity: text, or a number that becomes text.
    Quantity,
    /// A number or text.
    IntOrString,
    /// Base64.
    Bytes,
    /// A time.
    Time,
}

/// The schema of a value.
#[derive(Debug, Default)]
pub struct Schema {
    /// Type; `None`: any value.
    pub of: Option<Type>,
    /// Whether it may be null.
    pub nullable: bool,
    /// Fields with names.
    pub properties: BTreeMap<String, Arc<Schema>>,
    /// Values of the fields that are not named; `None`: there are none.
    pub additional: Option<Arc<Schema>>,
    /// Whether fields that are not named are kept as they are.
    pub open: bool,
    /// Elements of a list.
    pub items: Option<Arc<Schema>>,
    /// Who owns the elements of a list.
    pub list: ListKind,
    /// Whether the field is left out when it is an empty map or list, or false or zero (built-in kinds).
    pub omit_empty: bool,
    /// Whether a map or struct is owned as a whole.
    pub atomic: bool,
    /// Strategic merge patches merge elements by this key; an empty one: by their values.
    pub merge: Option<String>,
    /// Strategic merge patches replace it as a whole.
    pub replace: bool,
    /// Whether it is an object with metadata of its own.
    pub embedded: bool,
    /// The value of a field that is left out.
    pub default: Option<Value>,
    /// Fields that have to be there (checked for custom kinds).
    pub required: Vec<String>,
    /// What else a value has to meet.
    pub rules: Option<Box<check::Rules>>,
}

static ANY: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    let any = Schema {
        open: true,
        ..Schema::default()
    };
    Arc::new(any)
});

impl Schema {
    /// The schema of anything at all.
    pub fn any() -> Arc<Self> {
        Arc::clone(&ANY)
    }

    /// The schema of a field's value; `None` if there is no such field.
    pub fn field(&self, name: &str) -> Option<&Arc<Self>> {
        let named = self.properties.get(name).or(self.additional.as_ref());
        named.or_else(|| (self.open || self.of.is_none()).then_some(&*ANY))
    }

    /// Whether a field is one of a struct: it has a name and a place, as opposed to the keys of a map.
    pub fn is_named(&self, name: &str) -> bool {
        self.properties.contains_key(name)
    }

    /// The schema of a list's elements.
    pub fn element(&self) -> &Arc<Self> {
        self.items.as_ref().unwrap_or(&ANY)
    }
}

/// The schema of a built-in kind; anything goes if it has none.
pub fn builtin(group: &str, version: &str, kind: &str) -> Arc<Schema> {
    match types::root(group, version, kind) {
        Some(ty) => named(&ty.name),
        None => Schema::any(),
    }
}

/// The schema of the metadata of objects.
pub fn object_meta() -> Arc<Schema> {
    named(types::OBJECT_META)
}

/// Schemas of built-in types by full name, made when they are first used.
static BUILTIN: LazyLock<Mutex<HashMap<String, Arc<Schema>>>> = LazyLock::new(Mutex::default);

fn named(name: &str) -> Arc<Schema> {
    let known = BUILTIN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(name)
        .cloned();
    known.unwrap_or_else(|| {
        let made = Arc::new(compile::from_type(name));
        let mut all = BUILTIN.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(name.to_owned()).or_insert(made))
    })
}

/// What happens with fields that the kind does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownFields {
    /// They are left out.
    #[default]
    Drop,
    /// They are left out, and the writer is told.
    Warn,
    /// The request is refused.
    Refuse,
}

/// Brings an object that came from outside into the shape of its kind, or says where it does not fit. Returns what the writer
/// is told of unknown fields, which are left out, and of those that the request `repeated`.
pub fn admit(
    kind: &Kind,
    object: &mut Value,
    unknown: UnknownFields,
    repeated: &[String],
) -> Result<Vec<String>, ApiError> {
    let refuse = |why: String| {
        let (name, version) = (&kind.kind, &kind.version);
        ApiError::bad_request(format!(
            "{name} in version \"{version}\" cannot be handled as a {name}: {why}"
        ))
    };
    let schema = kind.schema();
    let mut report = fit::Report::default();
    fit::fit(object, &schema, kind.built_in, &mut report);
    if let Some(mismatch) = report.mismatch {
        return Err(refuse(mismatch));
    }
    let repeated = repeated.iter();
    let list: Vec<String> = repeated
        .map(|path| format!("duplicate field \"{path}\""))
        .chain(
            report
                .unknown
                .iter()
                .map(|path| format!("unknown field \"{path}\"")),
        )
        .collect();
    if unknown == UnknownFields::Refuse && !list.is_empty() {
        return Err(refuse(format!(
            "strict decoding error: {}",
            list.join(", ")
        )));
    }
    Ok(list)
}

/// Checks an object of a custom kind against its schema.
pub fn validate(kind: &Kind, object: &Value, errors: &mut FieldErrors) {
    if let Some(schema) = &kind.custom_schema {
        check::check(object, schema, &Path::root(), errors);
    }
}

/// Checks a value against a schema, for defaults in definitions.
fn check_value(schema: &Schema, value: &Value, errors: &mut FieldErrors) {
    check::check(value, schema, &Path::root(), errors);
}

/// Where a value is: a chain from the inside out, written only when it is shown.
#[derive(Debug, Clone, Copy)]
pub struct Path<'a> {
    before: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    /// The place of the whole.
    pub fn root() -> Self {
        Self {
            before: None,
            step: Step::Root,
        }
    }

    /// The place of a field.
    pub fn field(&'a self, name: &'a str) -> Path<'a> {
        Path {
            before: Some(self),
            step: Step::Field(name),
        }
    }

    /// The place of what stands under a key.
    pub fn key(&'a self, name: &'a str) -> Path<'a> {
        Path {
            before: Some(self),
            step: Step::Key(name),
        }
    }

    /// The place of an element.
    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path {
            before: Some(self),
            step: Step::Index(index),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(before) = self.before {
            write!(f, "{before}")?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) if self.before.is_none_or(|b| matches!(b.step, Step::Root)) => {
                f.write_str(name)
            }
            Step::Field(name) => write!(f, ".{name}"),
            Step::Key(name) if self.before.is_none_or(|b| matches!(b.step, Step::Root)) => {
                f.write_str(name)
            }
            Step::Key(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn wrong_types_are_named_with_their_place() {
        let mut pod =
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": 3}]}});
        let error = admit(&kinds::pod(), &mut pod, UnknownFields::Drop, &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains("spec.containers[0].name"), "{error}");
    }

    #[test]
    fn unknown_fields_are_dropped_or_refused() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"creationTimestamp": null},
            "spec": {"colour": 1, "containers": [{"name": "c", "imagee": {"a": [1]}}]}});
        let mut dropped = pod.clone();
        let warnings = admit(&kinds::pod(), &mut dropped, UnknownFields::Warn, &[]).unwrap();
        assert_eq!(
            warnings,
            [
                "unknown field \"spec.colour\"",
                "unknown field \"spec.containers[0].imagee\""
            ]
        );
        assert_eq!(dropped["spec"], json!({"containers": [{"name": "c"}]}));
        assert_eq!(dropped["metadata"], json!({}));
        let error = admit(&kinds::pod(), &mut pod.clone(), UnknownFields::Refuse, &[])
            .unwrap_err()
            .to_string();
        let expected = "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: \
                        unknown field \"spec.colour\", unknown field \"spec.containers[0].imagee\"";
        assert_eq!(error, expected);
    }

    #[test]
    fn empty_maps_and_lists_that_may_be_left_out_are() {
        let mut object = json!({"metadata": {"name": "p", "annotations": {}, "labels": {"a": ""}, "finalizers": [], "managedFields": []},
            "spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": {}}], "nodeSelector": {}, "securityContext": {},
                "tolerations": [{}]}});
        drop_empty(&mut object, &kinds::pod().schema());
        assert_eq!(
            object,
            json!({"metadata": {"name": "p", "labels": {"a": ""}, "managedFields": []},
                "spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": {}}], "securityContext": {}, "tolerations": [{}]}})
        );
    }

    /// So what a client that knows types sends back is what it got: old replica sets are found again.
    #[test]
    fn false_and_zero_are_left_out_where_they_say_nothing() {
        let mut object = json!({"metadata": {"generation": 0}, "spec": {"hostNetwork": false, "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0, "containers": [{"tty": false, "stdin": true, "ports": [{"hostPort": 0, "containerPort": 0}],
                "volumeMounts": [{"readOnly": false}], "readinessProbe": {"periodSeconds": 0}}]}});
        drop_empty(&mut object, &kinds::pod().schema());
        assert_eq!(
            object,
            json!({"metadata": {}, "spec": {"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0, "containers": [
                {"stdin": true, "ports": [{"containerPort": 0}], "volumeMounts": [{}], "readinessProbe": {}}]}})
        );
    }

    #[test]
    fn quantities_become_text() {
        let mut pod = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": 2, "memory": "1Gi"}}}]}});
        admit(&kinds::pod(), &mut pod, UnknownFields::Refuse, &[]).unwrap();
        assert_eq!(
            pod["spec"]["containers"][0]["resources"]["limits"],
            json!({"cpu": "2", "memory": "1Gi"})
        );
    }

    #[test]
    fn every_built_in_kind_has_a_schema() {
        for kind in kinds::builtin().iter() {
            assert!(kind.schema().of.is_some(), "{kind:?}");
            assert_eq!(
                kind.schema().is_named("status"),
                kind.has_status || !kind.stored,
                "{kind:?}"
            );
        }
    }

    fn any_json(keys: Vec<&'static str>) -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            prop::sample::select(vec![
                "", "object", "array", "string", "integer", "map", "(", "a", "1Gi"
            ])
            .prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 4, move |inner| {
            let key = prop::sample::select(keys.clone()).prop_map(str::to_owned);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::btree_map(key, inner, 0..5)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    const FIELDS: [&str; 10] = [
        "metadata",
        "spec",
        "containers",
        "name",
        "ports",
        "labels",
        "resources",
        "limits",
        "env",
        "odd",
    ];
    const WORDS: [&str; 14] = [
        "type",
        "properties",
        "items",
        "additionalProperties",
        "required",
        "default",
        "pattern",
        "oneOf",
        "not",
        "enum",
        "nullable",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-preserve-unknown-fields",
    ];

    proptest! {
        /// Whatever comes in is refused or fits from then on.
        #[test]
        fn objects_fit_once_they_have_been_admitted(object in any_json(FIELDS.to_vec())) {
            let (kind, mut object) = (kinds::pod(), object);
            if admit(&kind, &mut object, UnknownFields::Drop, &[]).is_ok() {
                let before = object.clone();
                prop_assert_eq!(admit(&kind, &mut object, UnknownFields::Refuse, &[]), Ok(Vec::new()));
                prop_assert_eq!(object, before);
            }
        }

        #[test]
        fn any_schema_of_a_definition_is_compiled_or_refused(schema in any_json(WORDS.to_vec()), object in any_json(FIELDS.to_vec())) {
            if let Ok(schema) = compile(&schema) {
                let mut object = object;
                fill_defaults(&mut object, &schema);
                check_value(&schema, &object, &mut FieldErrors::default());
            }
        }
    }
}
