//! Deleting: preconditions, grace, finalizers, and namespaces with what is in them.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::kind::Kind;
use super::super::object::{
    Key, child_mut, format_time, has_finalizers, is_deleting, meta_mut, meta_str,
};
use super::memory::Transaction;
use super::{Filter, Store};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-public", "kube-system"];

/// How to delete.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds that the object's processes get to end; `None`: what the object says.
    pub grace_period: Option<i64>,
    /// Only if the object has this uid.
    pub uid: Option<String>,
    /// Only if the object is at this revision.
    pub resource_version: Option<String>,
    /// Check only.
    pub dry_run: bool,
}

/// What became of an object to be deleted.
#[derive(Debug, Clone)]
pub enum Deleted {
    /// It is gone; this was its last state.
    Gone(Arc<Value>),
    /// It is marked, and goes when its finalizers and its grace period are done.
    Pending(Arc<Value>),
}

impl Deleted {
    /// The object's last or present state.
    pub fn object(&self) -> &Arc<Value> {
        match self {
            Self::Gone(object) | Self::Pending(object) => object,
        }
    }
}

impl Store {
    /// Deletes an object, or marks it for deletion.
    pub fn delete(
        &self,
        kind: &Kind,
        key: &Key,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        if kind.is_namespace() && IMMORTAL.contains(&key.name.as_str()) {
            return Err(ApiError::forbidden(
                kind,
                &key.name,
                "this namespace may not be deleted",
            ));
        }
        self.memory.transact(|txn| {
            let current = txn.get(&kind.qualified_plural(), key);
            let current = current.ok_or_else(|| ApiError::not_found(kind, &key.name))?;
            check_preconditions(kind, &current, options)?;
            if options.dry_run {
                return Ok(Deleted::Pending(current));
            }
            Ok(self.delete_in(txn, kind, &current, options.grace_period))
        })
    }

    /// Deletes everything that a filter lets through, one after another; returns what was there.
    pub fn delete_collection(
        &self,
        kind: &Kind,
        filter: &Filter,
        options: &DeleteOptions,
    ) -> Result<Vec<Arc<Value>>, ApiError> {
        let (objects, _) = self.matching(kind, filter, None)?;
        let mut deleted = Vec::with_capacity(objects.len());
        for object in objects {
            // Whoever deleted it in between has done what is asked for.
            match self.delete(kind, &Key::of(&object), options) {
                Ok(result) => deleted.push(Arc::clone(result.object())),
                Err(error) if error.code() == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(deleted)
    }

    fn delete_in(
        &self,
        txn: &mut Transaction<'_>,
        kind: &Kind,
        current: &Arc<Value>,
        asked: Option<i64>,
    ) -> Deleted {
        if kind.is_namespace() {
            return self.delete_namespace(txn, kind, current);
        }
        let grace = kind
            .strategy
            .grace_period(current, asked)
            .unwrap_or(0)
            .max(0);
        if grace == 0 && !has_finalizers(current) {
            return Deleted::Gone(self.remove_in(
                txn,
                kind,
                &Key::of(current),
                Value::clone(current),
            ));
        }
        let left = current["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0);
        if is_deleting(current) && left <= grace {
            return Deleted::Pending(Arc::clone(current));
        }
        Deleted::Pending(txn.put(&kind.qualified_plural(), marked(kind, current, grace)))
    }

    /// Removes an object for good, and its namespace if that only waited for it.
    pub(super) fn remove_in(
        &self,
        txn: &mut Transaction<'_>,
        kind: &Kind,
        key: &Key,
        last: Value,
    ) -> Arc<Value> {
        let last = txn.remove(&kind.qualified_plural(), key, last);
        if kind.namespaced {
            self.finish_namespace(txn, &key.namespace);
        }
        last
    }

    fn delete_namespace(
        &self,
        txn: &mut Transaction<'_>,
        kind: &Kind,
        current: &Arc<Value>,
    ) -> Deleted {
        let name = meta_str(current, "name").to_owned();
        let mut stored = Arc::clone(current);
        if !is_deleting(current) {
            let mut terminating = marked(kind, current, 0);
            meta_mut(&mut terminating).remove("deletionGracePeriodSeconds");
            child_mut(&mut terminating, "status").insert("phase".to_owned(), json!("Terminating"));
            stored = txn.put(&kind.qualified_plural(), terminating);
        }
        for content in self.registry().iter().filter(|k| k.namespaced) {
            for object in txn.in_namespace(&content.qualified_plural(), &name) {
                self.delete_in(txn, content, &object, None);
            }
        }
        self.finish_namespace(txn, &name);
        match txn.get(&kind.qualified_plural(), &Key::cluster(name)) {
            Some(_) => Deleted::Pending(stored),
            None => Deleted::Gone(stored),
        }
    }

    /// Removes a namespace that is to go once nothing is left in it.
    pub(super) fn finish_namespace(&self, txn: &mut Transaction<'_>, name: &str) {
        let key = Key::cluster(name);
        let Some(namespace) = txn.get("namespaces", &key) else {
            return;
        };
        let waiting = is_deleting(&namespace) && !has_finalizers(&namespace);
        if waiting
            && !self
                .namespaced_tables()
                .iter()
                .any(|t| txn.any_in_namespace(t, name))
        {
            txn.remove("namespaces", &key, Value::clone(&namespace));
        }
    }
}

/// The object with its deletion asked for.
fn marked(kind: &Kind, object: &Value, grace: i64) -> Value {
    let mut object = object.clone();
    let at = Timestamp::now()
        .checked_add(SignedDuration::from_secs(grace))
        .unwrap_or(Timestamp::MAX);
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
    let meta = meta_mut(&mut object);
    if kind.counts_generations && !meta.contains_key("deletionTimestamp") {
        meta.insert("generation".to_owned(), json!(generation));
    }
    meta.insert("deletionTimestamp".to_owned(), json!(format_time(at)));
    meta.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
    object
}

fn check_preconditions(
    kind: &Kind,
    current: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let name = meta_str(current, "name");
    for (what, field, asked) in [
        ("UID", "uid", &options.uid),
        (
            "ResourceVersion",
            "resourceVersion",
            &options.resource_version,
        ),
    ] {
        let stored = meta_str(current, field);
        if let Some(asked) = asked.as_deref().filter(|a| *a != stored) {
            let why = format!(
                "Precondition failed: {what} in precondition: {asked}, {what} in object meta: {stored}"
            );
            return Err(ApiError::conflict(kind, name, &why));
        }
    }
    Ok(())
}
