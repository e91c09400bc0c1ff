//! Creating and changing objects, with optimistic concurrency and a record of who wrote what.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::super::apply::{self, Manager, Managers};
use super::super::error::{ApiError, Reason};
use super::super::kind::{Kind, Networks, Others};
use super::super::object::{
    Key, Object, has_finalizers, is_deleting, meta_mut, meta_str, name_suffix, now, set_revision,
};
use super::super::schema::UnknownFields;
use super::super::validate::FieldErrors;
use super::admit::{admit_changed, admit_new, check_type, remove, validate};
use super::gc::Sweep;
use super::memory::Transaction;
use super::{Store, check_namespace};

/// How often a write is tried again when another writer was quicker.
const ATTEMPTS: usize = 64;

/// What a writer is told beside the answer. Clones share what is in it.
#[derive(Debug, Clone, Default)]
pub struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    /// Adds warnings that are not there yet.
    pub fn add(&self, warnings: Vec<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings {
            if !all.contains(&warning) {
                all.push(warning);
            }
        }
    }

    /// Everything so far.
    pub fn list(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// How to write.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Do everything but keep the result.
    pub dry_run: bool,
    /// What happens with fields that the kind does not have.
    pub unknown: UnknownFields,
    /// Who writes; nobody for the server's own writes, which are not recorded.
    pub manager: Option<String>,
    /// Fields that the text of the request has more than once: told, or refused, as unknown ones are.
    pub repeated: Vec<String>,
    /// Take fields that others own (server-side apply).
    pub force: bool,
    /// What the writer is told.
    pub warnings: Warnings,
}

/// Which part of an object an update is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status (where the kind keeps it apart).
    Main,
    /// The status alone.
    Status,
}

impl Part {
    fn subresource(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Status => "status",
        }
    }
}

/// What became of an attempt to commit.
enum Commit {
    Done(Arc<Object>),
    Raced,
}

/// The other objects, as a strategy sees them.
struct Seen<'a, 'b> {
    txn: &'a Transaction<'b>,
    networks: &'a Networks,
}

impl Others for Seen<'_, '_> {
    fn each(&self, table: &str, visit: &mut dyn FnMut(&Value)) {
        self.txn.each(table, visit);
    }

    fn networks(&self) -> &Networks {
        self.networks
    }
}

impl Store {
    /// Makes an object. `namespace` is empty for cluster-scoped kinds.
    pub fn create(
        &self,
        kind: &Kind,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError> {
        let mut object = admit_new(kind, namespace, object, options)?;
        if let Some(name) = &options.manager {
            let who = Manager::update(name, &kind.api_version(), "");
            let mut managers = Managers::default();
            let nothing = json!({});
            apply::record_update(kind, &mut managers, &who, &nothing, &object, &now());
            set_managers(&mut object, &managers);
        }
        self.create_admitted(kind, object, options)
    }

    fn create_admitted(
        &self,
        kind: &Kind,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError> {
        self.expire(kind);
        let prefix = meta_str(&object, "generateName").to_owned();
        let generated = meta_str(&object, "name").is_empty();
        let mut attempts = if generated { 8 } else { 1 };
        loop {
            attempts -= 1;
            if generated {
                let name = generated_name(&prefix);
                meta_mut(&mut object).insert("name".to_owned(), json!(name));
                kind.strategy.defaults(&mut object);
            }
            validate(kind, &object, None)?;
            match self.insert(kind, object.clone(), options.dry_run) {
                Err(error) if error.reason() == Reason::AlreadyExists && attempts > 0 => {}
                result => {
                    self.after_write();
                    return result;
                }
            }
        }
    }

    fn insert(
        &self,
        kind: &Kind,
        mut object: Value,
        dry_run: bool,
    ) -> Result<Arc<Object>, ApiError> {
        let table = kind.qualified_plural();
        let key = Key::of(&object);
        self.memory.transact(|txn| {
            if txn.get(&table, &key).is_some() {
                return Err(ApiError::already_exists(kind, &key.name));
            }
            check_namespace(txn, kind, &key)?;
            self.settle(txn, kind, &mut object, None)?;
            if dry_run {
                set_revision(&mut object, 0);
                meta_mut(&mut object).remove("resourceVersion");
                return Ok(Object::shared(object));
            }
            let stored = txn.put(&table, stored_form(kind, object));
            self.sweep(txn, Sweep::made(&stored, &table, &key));
            Ok(stored)
        })
    }

    fn settle(
        &self,
        txn: &Transaction<'_>,
        kind: &Kind,
        new: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let mut errors = FieldErrors::default();
        let others = Seen {
            txn,
            networks: &self.networks,
        };
        kind.strategy.settle(new, old, &others, &mut errors);
        errors.into_result(kind, meta_str(new, "name"))
    }

    /// Replaces an object, or its status. The resource version in `object`, if any, must be the current one.
    pub fn update(
        &self,
        kind: &Kind,
        key: &Key,
        object: Value,
        part: Part,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError> {
        self.modify(kind, key, part, options, |_| Ok(object.clone()))
    }

    /// Changes an object by a function of its current state, which is called again when another writer was quicker.
    pub fn modify(
        &self,
        kind: &Kind,
        key: &Key,
        part: Part,
        options: &WriteOptions,
        mut change: impl FnMut(&Value) -> Result<Value, ApiError>,
    ) -> Result<Arc<Object>, ApiError> {
        for _ in 0..ATTEMPTS {
            let old = self.get(kind, key)?;
            let whole = old.whole();
            let shown = kind.shown(&whole);
            let mut new = admit_changed(kind, &shown, change(&shown)?, part, options)?;
            record(kind, &shown, &mut new, part, options);
            if let Commit::Done(stored) = self.commit(kind, key, &old, new, options.dry_run)? {
                self.after_write();
                self.keep_own_after_user(kind, key, options);
                return Ok(stored);
            }
        }
        Err(ApiError::stale(kind, &key.name))
    }

    /// Applies a configuration (server-side apply). Returns the object, and whether it was made.
    pub fn apply(
        &self,
        kind: &Kind,
        key: &Key,
        config: &Value,
        part: Part,
        options: &WriteOptions,
    ) -> Result<(Arc<Object>, bool), ApiError> {
        let config = applied_config(kind, key, config, options)?;
        for _ in 0..ATTEMPTS {
            let done = match self.get(kind, key) {
                Ok(old) => self
                    .apply_to(kind, key, &old, &config, part, options)?
                    .map(|stored| (stored, false)),
                Err(error) if error.code() == 404 && part == Part::Main => {
                    match self.apply_new(kind, key, &config, options) {
                        Err(error) if error.reason() == Reason::AlreadyExists => None,
                        result => Some((result?, true)),
                    }
                }
                Err(error) => return Err(error),
            };
            if let Some(done) = done {
                self.after_write();
                self.keep_own_after_user(kind, key, options);
                return Ok(done);
            }
        }
        Err(ApiError::stale(kind, &key.name))
    }

    fn apply_new(
        &self,
        kind: &Kind,
        key: &Key,
        config: &Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError> {
        if !meta_str(config, "uid").is_empty() || !meta_str(config, "resourceVersion").is_empty() {
            return Err(ApiError::not_found(kind, &key.name));
        }
        let who = applier(kind, Part::Main, options)?;
        let managers = Managers::default();
        let applied = apply::apply(
            kind,
            &key.name,
            &Value::Null,
            config,
            managers,
            &who,
            (options.force, &now()),
        )?;
        let mut object = admit_new(kind, &key.namespace, config.clone(), options)?;
        set_managers(&mut object, &applied.managers);
        self.create_admitted(kind, object, options)
    }

    /// One attempt; `None` if another writer was quicker.
    fn apply_to(
        &self,
        kind: &Kind,
        key: &Key,
        old: &Arc<Object>,
        config: &Value,
        part: Part,
        options: &WriteOptions,
    ) -> Result<Option<Arc<Object>>, ApiError> {
        let whole = old.whole();
        let shown = kind.shown(&whole);
        let who = applier(kind, part, options)?;
        let at = now();
        let mut managers =
            Managers::from_json(&shown["metadata"]["managedFields"]).unwrap_or_default();
        if managers.is_empty() {
            let before = Manager::update("before-first-apply", &kind.api_version(), "");
            apply::record_update(kind, &mut managers, &before, &json!({}), &shown, &at);
        }
        let applied = apply::apply(
            kind,
            &key.name,
            &shown,
            config,
            managers,
            &who,
            (options.force, &at),
        )?;
        let mut object = applied.object;
        set_managers(&mut object, &applied.managers);
        let mut new = admit_changed(kind, &shown, object, part, options)?;
        set_managers(&mut new, &applied.managers);
        Ok(match self.commit(kind, key, old, new, options.dry_run)? {
            Commit::Done(stored) => Some(stored),
            Commit::Raced => None,
        })
    }

    /// Changes an object past the rules for users, for subresources whose effect is the server's own (such as binding).
    pub(in super::super) fn modify_unchecked(
        &self,
        kind: &Kind,
        key: &Key,
        dry_run: bool,
        change: impl Fn(&Value) -> Result<Value, ApiError>,
    ) -> Result<Arc<Object>, ApiError> {
        for _ in 0..ATTEMPTS {
            let old = self.get(kind, key)?;
            let new = change(&old.whole())?;
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
        old: &Arc<Object>,
        new: Value,
        dry_run: bool,
    ) -> Result<Commit, ApiError> {
        let mut new = stored_form(kind, new);
        if old.is(&new) {
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
            self.settle(txn, kind, &mut new, Some(old.value()))?;
            if dry_run {
                return Ok(Commit::Done(Object::shared(new)));
            }
            let mut sweep = Sweep::default();
            let stored = if may_go(kind, &new) {
                self.remove_in(txn, kind, key, new, &mut sweep)
            } else {
                sweep.released(&table, key);
                txn.put(&table, new)
            };
            self.sweep(txn, sweep);
            Ok(Commit::Done(stored))
        })
    }
}

/// The form in which an object is kept: that of the kind's storage version.
fn stored_form(kind: &Kind, mut object: Value) -> Value {
    if kind.storage_version.is_some() {
        object["apiVersion"] = json!(kind.stored_api_version());
    }
    object
}

/// Whether the last thing an object waited for before its removal has been done. Namespaces and definitions wait for more.
fn may_go(kind: &Kind, object: &Value) -> bool {
    let grace = object["metadata"]["deletionGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(0);
    is_deleting(object) && !has_finalizers(object) && grace == 0 && !kind.is_namespace()
}

fn generated_name(prefix: &str) -> String {
    // Names end after 63 characters: what comes before the random part gives way.
    let prefix: String = prefix.chars().take(58).collect();
    format!("{prefix}{}", name_suffix())
}

fn set_managers(object: &mut Value, managers: &Managers) {
    if managers.is_empty() {
        meta_mut(object).remove("managedFields");
    } else {
        meta_mut(object).insert("managedFields".to_owned(), managers.to_json());
    }
}

/// Records an ordinary write in the object.
fn record(kind: &Kind, old: &Value, new: &mut Value, part: Part, options: &WriteOptions) {
    let stored = || Managers::from_json(&old["metadata"]["managedFields"]).unwrap_or_default();
    // A writer may move fields between managers; one that sends nothing leaves them as they are, and an empty list clears them.
    let sent = new["metadata"].get("managedFields");
    let cleared = sent
        .and_then(Value::as_array)
        .is_some_and(|l| l.is_empty() || l.iter().all(|e| e == &json!({})));
    let mut managers = match sent.map(Managers::from_json) {
        _ if cleared => Managers::default(),
        Some(Some(managers)) if !managers.is_empty() => managers,
        _ => stored(),
    };
    if let Some(name) = options.manager.as_ref().filter(|_| !cleared) {
        let who = Manager::update(name, &kind.api_version(), part.subresource());
        apply::record_update(kind, &mut managers, &who, old, new, &now());
    }
    set_managers(new, &managers);
}

fn applier(kind: &Kind, part: Part, options: &WriteOptions) -> Result<Manager, ApiError> {
    let name = options.manager.as_deref().unwrap_or_default();
    if name.is_empty() {
        return Err(ApiError::bad_request(
            "fieldManager is required for apply patch",
        ));
    }
    let mut who = Manager::apply(name, &kind.api_version());
    part.subresource().clone_into(&mut who.subresource);
    Ok(who)
}

/// An applied configuration in the shape of its kind, without what cannot be applied.
fn applied_config(
    kind: &Kind,
    key: &Key,
    config: &Value,
    options: &WriteOptions,
) -> Result<Value, ApiError> {
    let mut config = config.clone();
    for field in ["apiVersion", "kind"] {
        if config[field].as_str().is_none_or(str::is_empty) {
            return Err(ApiError::bad_request(format!(
                "{field} is required in an applied configuration"
            )));
        }
    }
    check_type(kind, &mut config)?;
    if config["metadata"]
        .get("managedFields")
        .is_some_and(|m| !m.is_null())
    {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    for (field, expected) in [("name", &key.name), ("namespace", &key.namespace)] {
        let given = meta_str(&config, field);
        if !given.is_empty() && given != expected {
            return Err(ApiError::bad_request(format!(
                "the {field} of the object (\"{given}\") does not match the {field} on the URL (\"{expected}\")"
            )));
        }
        if !expected.is_empty() {
            meta_mut(&mut config).insert(field.to_owned(), json!(expected));
        }
    }
    let unknown =
        super::super::schema::admit(kind, &mut config, options.unknown, &options.repeated)?;
    options.warnings.add(unknown);
    remove(meta_value(&mut config), "creationTimestamp");
    Ok(config)
}

fn meta_value(object: &mut Value) -> &mut Value {
    &mut object["metadata"]
}
