//! What follows from a removal or a deletion: objects whose owners are gone, owners that waited for their objects, namespaces and
//! definitions that waited for what was in them.
//!
//! It happens in the transaction of the write that causes it, so nobody ever sees a state in between, and nothing depends on a
//! process that may not run.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::{Value, json};

use super::super::kind::Kind;
use super::super::object::{
    Key, Object, has_finalizer, has_finalizers, is_deleting, meta_mut, meta_str, owners,
};
use super::Store;
use super::delete::{FOREGROUND, Propagation};
use super::memory::{Place, Transaction};

/// The finalizer of a definition whose objects are still there.
pub(super) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Something to look after.
enum Work {
    /// An object is to be deleted.
    Delete(Place, Option<i64>, Propagation),
    /// An object of this owner may have lost its last one.
    Orphaned(Place, String),
    /// An object that goes when those it owns are gone.
    Foreground(String),
    /// An object that was marked or changed may be able to go now.
    Released(Place),
    /// A namespace that goes when it is empty.
    Namespace(String),
    /// A definition that goes when its objects are gone.
    Definition(String),
}

/// Everything that a write leaves to be looked after.
#[derive(Default)]
pub(super) struct Sweep(VecDeque<Work>);

impl Sweep {
    /// After an object was made: its owners may be gone already.
    pub(super) fn made(object: &Value, table: &str, key: &Key) -> Self {
        let mut sweep = Self::default();
        if let Some(owner) = owners(object).next() {
            sweep.0.push_back(Work::Orphaned(
                (table.to_owned(), key.clone()),
                owner.to_owned(),
            ));
        }
        sweep
    }

    pub(super) fn delete(&mut self, place: Place, grace: Option<i64>, propagation: Propagation) {
        self.0.push_back(Work::Delete(place, grace, propagation));
    }

    /// After an object was changed: it may have been the last thing that something waited for.
    pub(super) fn released(&mut self, table: &str, key: &Key) {
        if matches!(
            table,
            "namespaces" | "customresourcedefinitions.apiextensions.k8s.io"
        ) {
            self.0
                .push_back(Work::Released((table.to_owned(), key.clone())));
        }
    }

    /// After an object was removed.
    pub(super) fn removed(&mut self, txn: &Transaction<'_>, table: &str, key: &Key, last: &Value) {
        let uid = meta_str(last, "uid");
        for place in txn.dependents(uid) {
            self.0.push_back(Work::Orphaned(place, uid.to_owned()));
        }
        for owner in owners(last) {
            self.0.push_back(Work::Foreground(owner.to_owned()));
        }
        if !key.namespace.is_empty() {
            self.0.push_back(Work::Namespace(key.namespace.clone()));
        }
        if table.contains('.') {
            self.0.push_back(Work::Definition(table.to_owned()));
        }
    }
}

impl Store {
    /// Does everything that is left to be done, and what follows from that.
    pub(super) fn sweep(&self, txn: &mut Transaction<'_>, mut sweep: Sweep) {
        while let Some(work) = sweep.0.pop_front() {
            match work {
                Work::Delete(place, grace, propagation) => {
                    if let Some((kind, object)) = self.find(txn, &place) {
                        self.delete_in(txn, &kind, &object, grace, propagation, &mut sweep);
                    }
                }
                Work::Orphaned(place, owner) => self.orphaned(txn, &place, &owner, &mut sweep),
                Work::Foreground(uid) => self.finish_foreground(txn, &uid, &mut sweep),
                Work::Released((table, key)) if table == "namespaces" => {
                    self.finish_namespace(txn, &key.name, &mut sweep)
                }
                Work::Released((_, key)) => self.finish_definition(txn, &key.name, &mut sweep),
                Work::Namespace(name) => self.finish_namespace(txn, &name, &mut sweep),
                Work::Definition(table) => self.finish_definition(txn, &table, &mut sweep),
            }
        }
    }

    fn find(&self, txn: &Transaction<'_>, place: &Place) -> Option<(Arc<Kind>, Arc<Object>)> {
        let object = txn.get(&place.0, &place.1)?;
        Some((self.registry().find(&place.0)?, object))
    }

    /// Deletes an object that has lost its last owner, or lets go of the one that is gone.
    fn orphaned(&self, txn: &mut Transaction<'_>, place: &Place, owner: &str, sweep: &mut Sweep) {
        let Some((kind, object)) = self.find(txn, place) else {
            return;
        };
        let registry = self.registry();
        let references = object["metadata"]["ownerReferences"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let text = |reference: &Value, field: &str| {
            reference[field].as_str().unwrap_or_default().to_owned()
        };
        let lives = |reference: &Value| {
            // The owner of a kind that is not served cannot be looked for.
            let known = registry
                .by_kind(&text(reference, "apiVersion"), &text(reference, "kind"))
                .is_some();
            !known || txn.place(&text(reference, "uid")).is_some()
        };
        if references.iter().any(lives) {
            if txn.place(owner).is_none() && references.iter().any(|r| !lives(r)) {
                let gone: Vec<Value> = references.iter().filter(|r| !lives(r)).cloned().collect();
                disown(txn, &kind, &object, |reference| gone.contains(reference));
            }
            return;
        }
        if !references.is_empty() && !is_deleting(&object) {
            sweep.delete(place.clone(), None, Propagation::Background);
        }
    }

    /// Lets go of an object that was to wait for those it owns, if there is none left that blocks it.
    fn finish_foreground(&self, txn: &mut Transaction<'_>, uid: &str, sweep: &mut Sweep) {
        let Some(place) = txn.place(uid).cloned() else {
            return;
        };
        let Some((kind, object)) = self.find(txn, &place) else {
            return;
        };
        if !is_deleting(&object) || !has_finalizer(&object, FOREGROUND) || self.is_blocked(txn, uid)
        {
            return;
        }
        let object = without_finalizer(&object, FOREGROUND);
        self.go_or_put(txn, &kind, &place.1, object, sweep);
    }

    /// Whether an object owns one that it has to wait for.
    pub(super) fn is_blocked(&self, txn: &Transaction<'_>, uid: &str) -> bool {
        txn.dependents(uid).iter().any(|(table, key)| {
            let object = txn.get(table, key);
            let references = object
                .as_ref()
                .and_then(|o| o["metadata"]["ownerReferences"].as_array());
            references.is_some_and(|list| {
                list.iter()
                    .any(|r| r["uid"] == uid && r["blockOwnerDeletion"] == true)
            })
        })
    }

    fn go_or_put(
        &self,
        txn: &mut Transaction<'_>,
        kind: &Kind,
        key: &Key,
        object: Value,
        sweep: &mut Sweep,
    ) {
        let grace = object["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0);
        if grace == 0 && !has_finalizers(&object) {
            self.remove_in(txn, kind, key, object, sweep);
        } else {
            txn.put(&kind.qualified_plural(), object);
        }
    }

    /// Removes a namespace that is to go once nothing is left in it.
    pub(super) fn finish_namespace(
        &self,
        txn: &mut Transaction<'_>,
        name: &str,
        sweep: &mut Sweep,
    ) {
        let key = Key::cluster(name);
        let Some(namespace) = txn.get("namespaces", &key) else {
            return;
        };
        if !is_deleting(&namespace) || has_finalizers(&namespace) {
            return;
        }
        if self
            .namespaced_tables()
            .iter()
            .any(|t| txn.any_in_namespace(t, name))
        {
            return;
        }
        if let Some(kind) = self.registry().find("namespaces") {
            self.remove_in(txn, &kind, &key, namespace.whole(), sweep);
        }
    }

    /// Removes a definition that is to go once none of its objects is left.
    fn finish_definition(&self, txn: &mut Transaction<'_>, table: &str, sweep: &mut Sweep) {
        let key = Key::cluster(table);
        let place = (
            "customresourcedefinitions.apiextensions.k8s.io".to_owned(),
            key.clone(),
        );
        let Some((kind, definition)) = self.find(txn, &place) else {
            return;
        };
        if !is_deleting(&definition) || !has_finalizer(&definition, CLEANUP) || !txn.is_empty(table)
        {
            return;
        }
        let definition = without_finalizer(&definition, CLEANUP);
        self.go_or_put(txn, &kind, &key, definition, sweep);
    }
}

/// Takes owners out of an object.
pub(super) fn disown(
    txn: &mut Transaction<'_>,
    kind: &Kind,
    object: &Object,
    gone: impl Fn(&Value) -> bool,
) {
    let mut object = object.whole();
    let meta = meta_mut(&mut object);
    if let Some(Value::Array(list)) = meta.get_mut("ownerReferences") {
        list.retain(|reference| !gone(reference));
        if list.is_empty() {
            meta.remove("ownerReferences");
        }
    }
    txn.put(&kind.qualified_plural(), object);
}

/// The object without a finalizer.
pub(super) fn without_finalizer(object: &Object, finalizer: &str) -> Value {
    let mut object = object.whole();
    let meta = meta_mut(&mut object);
    if let Some(Value::Array(list)) = meta.get_mut("finalizers") {
        list.retain(|f| f != finalizer);
        if list.is_empty() {
            meta.remove("finalizers");
        }
    }
    object
}

/// The object with a finalizer.
pub(super) fn with_finalizer(mut object: Value, finalizer: &str) -> Value {
    if !has_finalizer(&object, finalizer) {
        let list = meta_mut(&mut object)
            .entry("finalizers")
            .or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            list.push(json!(finalizer));
        }
    }
    object
}
