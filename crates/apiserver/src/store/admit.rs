//! What becomes of an object between a writer and the store: its type and place, what the server owns, validation.

use serde_json::{Map, Value, json};

use super::super::error::ApiError;
use super::super::kind::Kind;
use super::super::object::{child_mut, is_deleting, meta_mut, meta_str, new_uid, now};
use super::super::schema;
use super::super::validate::{FieldErrors, metadata};
use super::{Part, WriteOptions};

/// Metadata that writers cannot change.
const SERVER_OWNED: [&str; 6] = [
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "generateName",
];

/// Turns what a writer sent into a new object.
pub(super) fn admit_new(
    kind: &Kind,
    namespace: &str,
    mut object: Value,
    options: &WriteOptions,
) -> Result<Value, ApiError> {
    check_type(kind, &mut object)?;
    place(kind, namespace, &mut object)?;
    if !meta_str(&object, "resourceVersion").is_empty() {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    if meta_str(&object, "name").is_empty() && meta_str(&object, "generateName").is_empty() {
        let mut errors = FieldErrors::default();
        errors.required("metadata.name", "name or generateName is required");
        errors.into_result(kind, "")?;
    }
    fit(kind, &mut object, options)?;
    let meta = meta_mut(&mut object);
    for field in SERVER_OWNED
        .iter()
        .filter(|f| **f != "generateName")
        .chain(&["managedFields", "selfLink"])
    {
        meta.remove(*field);
    }
    meta.insert("uid".to_owned(), json!(new_uid()));
    meta.insert("creationTimestamp".to_owned(), json!(now()));
    if kind.counts_generations {
        meta.insert("generation".to_owned(), json!(1));
    }
    if kind.has_status && !kind.strategy.keeps_status_on_create() {
        remove(&mut object, "status");
    }
    fill(kind, &mut object);
    kind.strategy.prepare_create(&mut object);
    Ok(object)
}

/// Brings an object into the shape of its kind and tells the writer what was left out.
fn fit(kind: &Kind, object: &mut Value, options: &WriteOptions) -> Result<(), ApiError> {
    let unknown = schema::admit(kind, object, options.unknown, &options.repeated)?;
    if kind.built_in {
        schema::drop_empty(object, &kind.schema());
    }
    if options.unknown == schema::UnknownFields::Warn {
        options.warnings.add(unknown);
    }
    Ok(())
}

fn fill(kind: &Kind, object: &mut Value) {
    if let Some(schema) = &kind.custom_schema {
        schema::fill_defaults(object, schema);
    }
    kind.strategy.defaults(object);
}

/// Turns what a writer sent into what will be stored instead of `old`.
pub(super) fn admit_changed(
    kind: &Kind,
    old: &Value,
    mut new: Value,
    part: Part,
    options: &WriteOptions,
) -> Result<Value, ApiError> {
    check_type(kind, &mut new)?;
    check_identity(kind, old, &mut new)?;
    fit(kind, &mut new, options)?;
    keep_server_owned(old, &mut new);
    let mut new = match part {
        Part::Main => {
            if kind.has_status {
                copy_field(old, &mut new, "status");
            }
            new
        }
        Part::Status => status_only(kind, old, new),
    };
    fill(kind, &mut new);
    kind.strategy.prepare_update(&mut new, old);
    count_generation(kind, old, &mut new);
    validate(kind, &new, Some(old))?;
    Ok(new)
}

/// Checks that the body is an object of the kind that the path says; leaves a complete type in it.
pub(super) fn check_type(kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
    let Some(map) = object.as_object_mut() else {
        return Err(ApiError::bad_request(format!(
            "the body is not an object: expected a {}",
            kind.kind
        )));
    };
    for (field, expected) in [
        ("apiVersion", kind.api_version()),
        ("kind", kind.kind.clone()),
    ] {
        match map.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(given)) if given.is_empty() || *given == expected => {}
            Some(given) => {
                let why = format!(
                    "{field} in the data ({given}) does not match the expected one (\"{expected}\")"
                );
                return Err(ApiError::bad_request(why));
            }
        }
        map.insert(field.to_owned(), json!(expected));
    }
    match map.get("metadata") {
        None | Some(Value::Null | Value::Object(_)) => Ok(()),
        Some(_) => Err(ApiError::bad_request("metadata: expected an object")),
    }
}

/// Makes the namespace of the path and that of the body agree.
fn place(kind: &Kind, namespace: &str, object: &mut Value) -> Result<(), ApiError> {
    let given = meta_str(object, "namespace");
    if !kind.namespaced {
        if !given.is_empty() {
            let why = format!(
                "metadata.namespace is \"{given}\" but {} do not live in namespaces",
                kind.plural
            );
            return Err(ApiError::bad_request(why));
        }
        meta_mut(object).remove("namespace");
        return Ok(());
    }
    if namespace.is_empty() && given.is_empty() {
        return Err(ApiError::bad_request(format!(
            "a namespace is required for {}",
            kind.plural
        )));
    }
    if !namespace.is_empty() && !given.is_empty() && namespace != given {
        return Err(ApiError::bad_request(format!(
            "the namespace of the provided object (\"{given}\") does not match the namespace sent on the request (\"{namespace}\")"
        )));
    }
    if given.is_empty() {
        meta_mut(object).insert("namespace".to_owned(), json!(namespace));
    }
    Ok(())
}

pub(super) fn validate(kind: &Kind, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let mut errors = FieldErrors::default();
    metadata(kind, new, &mut errors);
    schema::validate(kind, new, &mut errors);
    kind.strategy.validate(new, &mut errors);
    if let Some(old) = old {
        check_finalizers(new, old, &mut errors);
        kind.strategy.validate_update(new, old, &mut errors);
    }
    errors.into_result(kind, meta_str(new, "name"))
}

fn check_finalizers(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let list = |object: &Value| {
        object["metadata"]["finalizers"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    if is_deleting(old) && list(new).iter().any(|f| !list(old).contains(f)) {
        errors.forbidden(
            "metadata.finalizers",
            "no new finalizers can be added while the object is being deleted",
        );
    }
}

/// Name, namespace, uid and revision of a changed object have to be those of the stored one.
fn check_identity(kind: &Kind, old: &Value, new: &mut Value) -> Result<(), ApiError> {
    for field in ["name", "namespace"] {
        let (given, stored) = (meta_str(new, field), meta_str(old, field));
        if !given.is_empty() && given != stored {
            return Err(ApiError::bad_request(format!(
                "the {field} of the object (\"{given}\") does not match the {field} on the URL (\"{stored}\")"
            )));
        }
    }
    let name = meta_str(old, "name");
    let uid = meta_str(new, "uid");
    if !uid.is_empty() && uid != meta_str(old, "uid") {
        let stored = meta_str(old, "uid");
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {stored}"
        );
        return Err(ApiError::conflict(kind, name, &why));
    }
    let given = meta_str(new, "resourceVersion");
    if given.is_empty() && !kind.unconditional_update {
        let mut errors = FieldErrors::default();
        errors.invalid(
            "metadata.resourceVersion",
            &json!(""),
            "must be specified for an update",
        );
        errors.into_result(kind, name)?;
    }
    if !given.is_empty() && given != meta_str(old, "resourceVersion") {
        return Err(ApiError::stale(kind, name));
    }
    Ok(())
}

fn keep_server_owned(old: &Value, new: &mut Value) {
    let meta = meta_mut(new);
    meta.remove("selfLink");
    for field in SERVER_OWNED
        .iter()
        .chain(&["name", "namespace", "resourceVersion"])
    {
        match old["metadata"].get(*field) {
            Some(value) => meta.insert((*field).to_owned(), value.clone()),
            None => meta.remove(*field),
        };
    }
}

pub(super) fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}

fn copy_field(from: &Value, to: &mut Value, field: &str) {
    match from.get(field) {
        Some(value) => to[field] = value.clone(),
        None => remove(to, field),
    }
}

/// The stored object with the status of the new one; writers of built-in kinds may set labels and annotations on the way.
fn status_only(kind: &Kind, old: &Value, new: Value) -> Value {
    let mut result = old.clone();
    copy_field(&new, &mut result, "status");
    let metadata: &[&str] = if kind.built_in {
        &["labels", "annotations", "managedFields"]
    } else {
        &["managedFields"]
    };
    for field in metadata {
        let meta: &mut Map<String, Value> = child_mut(&mut result, "metadata");
        match new["metadata"].get(field) {
            Some(value) => meta.insert((*field).to_owned(), value.clone()),
            None => meta.remove(*field),
        };
    }
    result
}

/// Counts a change of anything but metadata and status as a new generation.
fn count_generation(kind: &Kind, old: &Value, new: &mut Value) {
    if !kind.counts_generations {
        return;
    }
    let counted = |name: &str| name != "metadata" && !(name == "status" && kind.has_status);
    let (Some(before), Some(after)) = (old.as_object(), new.as_object()) else {
        return;
    };
    let same = |a: &Map<String, Value>, b: &Map<String, Value>| {
        a.iter()
            .filter(|(name, _)| counted(name))
            .all(|(name, value)| b.get(name) == Some(value))
    };
    if !(same(before, after) && same(after, before)) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        meta_mut(new).insert("generation".to_owned(), json!(generation));
    }
}
