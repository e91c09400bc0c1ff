//! Creating and changing objects: what the server owns in them, validation, optimistic concurrency.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::error::{ApiError, Reason};
use super::super::kind::Kind;
use super::super::object::{
    Key, child_mut, has_finalizers, is_deleting, meta_mut, meta_str, name_suffix, new_uid, now,
    set_revision,
};
use super::super::schema;
use super::super::validate::{FieldErrors, metadata};
use super::{Store, check_namespace};

/// How often a write is tried again when another writer was quicker.
const ATTEMPTS: usize = 64;

/// Metadata that writers cannot change.
const SERVER_OWNED: [&str; 6] = [
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "generateName",
];

/// What happens with fields that the kind does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownFields {
    /// They are left out.
    #[default]
    Drop,
    /// The request is refused.
    Refuse,
}

/// How to write.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteOptions {
    /// Do everything but keep the result.
    pub dry_run: bool,
    /// What happens with fields that the kind does not have.
    pub unknown: UnknownFields,
}

/// Which part of an object an update is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status (where the kind keeps it apart).
    Main,
    /// The status alone.
    Status,
}

/// What became of an attempt to commit.
enum Commit {
    Done(Arc<Value>),
    Raced,
}

impl Store {
    /// Makes an object. `namespace` is empty for cluster-scoped kinds.
    pub fn create(
        &self,
        kind: &Kind,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        let mut object = self.admit_new(kind, namespace, object, options)?;
        self.expire(kind);
        let prefix = meta_str(&object, "generateName").to_owned();
        let generated = meta_str(&object, "name").is_empty();
        let mut attempts = if generated { 8 } else { 1 };
        loop {
            attempts -= 1;
            if generated {
                let name = generated_name(&prefix);
                meta_mut(&mut object).insert("name".to_owned(), json!(name));
            }
            validate(kind, &object, None)?;
            match self.insert(kind, object.clone(), options.dry_run) {
                Err(error) if error.reason() == Reason::AlreadyExists && attempts > 0 => {}
                result => return result,
            }
        }
    }

    fn insert(
        &self,
        kind: &Kind,
        mut object: Value,
        dry_run: bool,
    ) -> Result<Arc<Value>, ApiError> {
        let table = kind.qualified_plural();
        let key = Key::of(&object);
        self.memory.transact(|txn| {
            check_namespace(txn, kind, &key)?;
            if txn.get(&table, &key).is_some() {
                return Err(ApiError::already_exists(kind, &key.name));
            }
            if dry_run {
                set_revision(&mut object, 0);
                meta_mut(&mut object).remove("resourceVersion");
                return Ok(Arc::new(object));
            }
            Ok(txn.put(&table, object))
        })
    }

    fn admit_new(
        &self,
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
        schema::admit(kind, &mut object, options.unknown == UnknownFields::Refuse)?;
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
        kind.strategy.defaults(&mut object);
        kind.strategy.prepare_create(&mut object);
        Ok(object)
    }

    /// Replaces an object, or its status. The resource version in `object`, if any, must be the current one.
    pub fn update(
        &self,
        kind: &Kind,
        key: &Key,
        object: Value,
        part: Part,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        self.modify(kind, key, part, options, |_| Ok(object.clone()))
    }

    /// Changes an object by a function of its current state, which is called again when another writer was quicker.
    pub fn modify(
        &self,
        kind: &Kind,
        key: &Key,
        part: Part,
        options: &WriteOptions,
        change: impl Fn(&Value) -> Result<Value, ApiError>,
    ) -> Result<Arc<Value>, ApiError> {
        for _ in 0..ATTEMPTS {
            let old = self.get(kind, key)?;
            let new = admit_changed(kind, &old, change(&old)?, part, options)?;
            if let Commit::Done(stored) = self.commit(kind, key, &old, new, options.dry_run)? {
                return Ok(stored);
            }
        }
        Err(ApiError::stale(kind, &key.name))
    }

    /// Changes an object past the rules for users, for subresources whose effect is the server's own (such as binding).
    pub(in super::super) fn modify_unchecked(
        &self,
        kind: &Kind,
        key: &Key,
        dry_run: bool,
        change: impl Fn(&Value) -> Result<Value, ApiError>,
    ) -> Result<Arc<Value>, ApiError> {
        for _ in 0..ATTEMPTS {
            let old = self.get(kind, key)?;
            let new = change(&old)?;
            if let Commit::Done(stored) = self.commit(kind, key, &old, new, dry_run)? {
                return Ok(stored);
            }
        }
        Err(ApiError::stale(kind, &key.name))
    }

    fn commit(
        &self,
        kind: &Kind,
        key: &Key,
        old: &Arc<Value>,
        new: Value,
        dry_run: bool,
    ) -> Result<Commit, ApiError> {
        if new == **old {
            return Ok(Commit::Done(Arc::clone(old)));
        }
        let table = kind.qualified_plural();
        self.memory.transact(|txn| {
            let current = txn
                .get(&table, key)
                .ok_or_else(|| ApiError::not_found(kind, &key.name))?;
            if !Arc::ptr_eq(&current, old) {
                return Ok(Commit::Raced);
            }
            if dry_run {
                return Ok(Commit::Done(Arc::new(new)));
            }
            if kind.is_namespace() {
                let stored = txn.put(&table, new);
                self.finish_namespace(txn, &key.name);
                return Ok(Commit::Done(stored));
            }
            if may_go(&new) {
                return Ok(Commit::Done(self.remove_in(txn, kind, key, new)));
            }
            Ok(Commit::Done(txn.put(&table, new)))
        })
    }
}

/// Whether the last thing an object waited for before its removal has been done.
fn may_go(object: &Value) -> bool {
    let grace = object["metadata"]["deletionGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(0);
    is_deleting(object) && !has_finalizers(object) && grace == 0
}

fn generated_name(prefix: &str) -> String {
    // Names end after 63 characters: what comes before the random part gives way.
    let prefix: String = prefix.chars().take(58).collect();
    format!("{prefix}{}", name_suffix())
}

fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}

/// Checks that the body is an object of the kind that the path says; leaves a complete type in it.
fn check_type(kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
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

fn validate(kind: &Kind, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let mut errors = FieldErrors::default();
    metadata(kind, new, &mut errors);
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

/// Turns what a writer sent into what will be stored.
fn admit_changed(
    kind: &Kind,
    old: &Value,
    mut new: Value,
    part: Part,
    options: &WriteOptions,
) -> Result<Value, ApiError> {
    check_type(kind, &mut new)?;
    check_identity(kind, old, &mut new)?;
    schema::admit(kind, &mut new, options.unknown == UnknownFields::Refuse)?;
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
    kind.strategy.defaults(&mut new);
    count_generation(kind, old, &mut new);
    validate(kind, &new, Some(old))?;
    Ok(new)
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
    meta.remove("managedFields");
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
    if kind.built_in {
        for field in ["labels", "annotations"] {
            let meta: &mut Map<String, Value> = child_mut(&mut result, "metadata");
            match new["metadata"].get(field) {
                Some(value) => meta.insert(field.to_owned(), value.clone()),
                None => meta.remove(field),
            };
        }
    }
    result
}

/// Counts a change of anything but metadata and status as a new generation.
fn count_generation(kind: &Kind, old: &Value, new: &mut Value) {
    if !kind.counts_generations {
        return;
    }
    let wanted = |object: &Value| {
        let mut object = object.clone();
        remove(&mut object, "metadata");
        if kind.has_status {
            remove(&mut object, "status");
        }
        object
    };
    if wanted(old) != wanted(new) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        meta_mut(new).insert("generation".to_owned(), json!(generation));
    }
}
