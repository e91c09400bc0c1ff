//! Deleting: preconditions, grace, finalizers, and namespaces with what is in them.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::kind::Kind;
use super::super::object::{
    Key, Object, child_mut, format_time, has_finalizer, has_finalizers, is_deleting, meta_mut,
    meta_str,
};
use super::gc::{CLEANUP, Sweep, disown, with_finalizer};
use super::memory::Transaction;
use super::{Filter, Store};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-public", "kube-system"];

/// The finalizer of an object that goes after those it owns.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object that leaves those it owns behind.
const ORPHAN: &str = "orphan";

/// What happens to the objects that a deleted object owns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// They go after it.
    #[default]
    Background,
    /// They go before it.
    Foreground,
    /// They stay, without owner.
    Orphan,
}

/// How to delete.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds that the object's processes get to end; `None`: what the object says.
    pub grace_period: Option<i64>,
    /// Only if the object has this uid.
    pub uid: Option<String>,
    /// Only if the object is at this revision.
    pub resource_version: Option<String>,
    /// What happens to the objects that it owns.
    pub propagation: Propagation,
    /// Check only.
    pub dry_run: bool,
}

/// What became of an object to be deleted.
#[derive(Debug, Clone)]
pub enum Deleted {
    /// It is gone; this was its last state.
    Gone(Arc<Object>),
    /// It is marked, and goes when its finalizers and its grace period are done.
    Pending(Arc<Object>),
}

impl Deleted {
    /// The object's last or present state.
    pub fn object(&self) -> &Arc<Object> {
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
        self.memory
            .transact(|txn| {
                let current = txn.get(&kind.qualified_plural(), key);
                let current = current.ok_or_else(|| ApiError::not_found(kind, &key.name))?;
                check_preconditions(kind, &current, options)?;
                if options.dry_run {
                    return Ok(Deleted::Pending(current));
                }
                let mut sweep = Sweep::default();
                let grace = options.grace_period;
                let deleted =
                    self.delete_in(txn, kind, &current, grace, options.propagation, &mut sweep);
                self.sweep(txn, sweep);
                // What followed may have been the end of what was only marked.
                Ok(match deleted {
                    Deleted::Pending(last) if txn.get(&kind.qualified_plural(), key).is_none() => {
                        Deleted::Gone(last)
                    }
                    other => other,
                })
            })
            .inspect(|_| {
                self.after_write();
                self.keep_own_after(kind, key);
            })
    }

    /// Deletes everything that a filter lets through, one after another; returns what was there.
    pub fn delete_collection(
        &self,
        kind: &Kind,
        filter: &Filter,
        options: &DeleteOptions,
    ) -> Result<Vec<Arc<Object>>, ApiError> {
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

    /// Deletes an object; what follows for others is left in `sweep`.
    pub(super) fn delete_in(
        &self,
        txn: &mut Transaction<'_>,
        kind: &Kind,
        current: &Arc<Object>,
        asked: Option<i64>,
        propagation: Propagation,
        sweep: &mut Sweep,
    ) -> Deleted {
        if kind.is_namespace() {
            return self.delete_namespace(txn, kind, current, sweep);
        }
        if kind.is_definition() {
            return self.delete_definition(txn, kind, current, sweep);
        }
        let table = kind.qualified_plural();
        let (mut object, uid) = (current.whole(), meta_str(current, "uid"));
        match propagation {
            Propagation::Orphan => self.let_go(txn, uid),
            Propagation::Foreground if !txn.dependents(uid).is_empty() => {
                for place in txn.dependents(uid) {
                    let below = match txn.get(&place.0, &place.1) {
                        Some(o) if !txn.dependents(meta_str(&o, "uid")).is_empty() => {
                            Propagation::Foreground
                        }
                        _ => Propagation::Background,
                    };
                    sweep.delete(place, None, below);
                }
                if self.is_blocked(txn, uid) {
                    object = with_finalizer(object, FOREGROUND);
                }
            }
            _ => {}
        }
        let grace = kind
            .strategy
            .grace_period(current, asked)
            .unwrap_or(0)
            .max(0);
        if grace == 0 && !has_finalizers(&object) {
            return Deleted::Gone(self.remove_in(txn, kind, &Key::of(current), object, sweep));
        }
        let left = current["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0);
        if is_deleting(current)
            && left <= grace
            && has_finalizer(&object, FOREGROUND) == has_finalizer(current, FOREGROUND)
        {
            return Deleted::Pending(Arc::clone(current));
        }
        Deleted::Pending(txn.put(&table, marked(kind, object, grace)))
    }

    /// Takes an owner out of everything that it owns.
    fn let_go(&self, txn: &mut Transaction<'_>, uid: &str) {
        for (table, key) in txn.dependents(uid) {
            if let (Some(object), Some(kind)) =
                (txn.get(&table, &key), self.registry().find(&table))
            {
                disown(txn, &kind, &object, |reference| reference["uid"] == uid);
            }
        }
    }

    /// Removes an object for good; what follows for others is left in `sweep`.
    pub(super) fn remove_in(
        &self,
        txn: &mut Transaction<'_>,
        kind: &Kind,
        key: &Key,
        last: Value,
        sweep: &mut Sweep,
    ) -> Arc<Object> {
        if has_finalizer(&last, ORPHAN) {
            self.let_go(txn, meta_str(&last, "uid"));
        }
        let table = kind.qualified_plural();
        let last = txn.remove(&table, key, last);
        sweep.removed(txn, &table, key, &last);
        last
    }

    fn delete_namespace(
        &self,
        txn: &mut Transaction<'_>,
        kind: &Kind,
        current: &Arc<Object>,
        sweep: &mut Sweep,
    ) -> Deleted {
        let name = meta_str(current, "name").to_owned();
        let mut stored = Arc::clone(current);
        if !is_deleting(current) {
            let mut terminating = marked(kind, current.whole(), 0);
            meta_mut(&mut terminating).remove("deletionGracePeriodSeconds");
            child_mut(&mut terminating, "status").insert("phase".to_owned(), json!("Terminating"));
            stored = txn.put("namespaces", terminating);
        }
        for table in self.namespaced_tables() {
            for object in txn.in_namespace(&table, &name) {
                sweep.delete(
                    (table.clone(), Key::of(&object)),
                    None,
                    Propagation::Background,
                );
            }
        }
        sweep.released("namespaces", &Key::cluster(name));
        Deleted::Pending(stored)
    }

    /// A definition takes its objects along, and goes when they are gone.
    fn delete_definition(
        &self,
        txn: &mut Transaction<'_>,
        kind: &Kind,
        current: &Arc<Object>,
        sweep: &mut Sweep,
    ) -> Deleted {
        let table = meta_str(current, "name").to_owned();
        let mut stored = Arc::clone(current);
        if !is_deleting(current) {
            let object = with_finalizer(current.whole(), CLEANUP);
            stored = txn.put(&kind.qualified_plural(), marked(kind, object, 0));
        }
        for object in txn.all(&table) {
            sweep.delete(
                (table.clone(), Key::of(&object)),
                None,
                Propagation::Background,
            );
        }
        sweep.released(&kind.qualified_plural(), &Key::cluster(table));
        Deleted::Pending(stored)
    }
}

/// The object with its deletion asked for.
fn marked(kind: &Kind, mut object: Value, grace: i64) -> Value {
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
