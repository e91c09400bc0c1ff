//! Secrets that policies name. Agents read those of one namespace alone, so others are copied there: `shop/tls` as `shop.tls`. A copy follows
//! its original, and goes with it or with the last policy that names it.
use crate::controller::Context;
use futures::{StreamExt, pin_mut};
use k8s::{
    Watcher,
    error::says,
    secret::{self, Secret},
    write::{Meant, Objects},
};
use model::{Contents, KUBERNETES, Text};
use policy::{rule::SecretName, secrets::MISSING};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tables::{Db, DuplicateTable, Row, Snapshot, Table, TableDef, Watch};
use tokio::task::JoinHandle;

/// The label of copies: no other Secret is changed or removed.
const COPY: (&str, &str) = ("hypha.io/copy-for", "policy");

/// What was found of a Secret.
#[derive(Clone, Debug, PartialEq)]
struct Found {
    key: Text,
    /// None where there is none; an error where that cannot be told.
    state: Result<Option<Contents>, String>,
}

/// A Secret of the agents' namespace.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    secret: model::Secret,
    is_copy: bool,
}

impl From<Secret> for Kept {
    fn from(object: Secret) -> Self {
        Self {
            is_copy: object.has_label(COPY.0, COPY.1),
            secret: object.into(),
        }
    }
}

macro_rules! rows {
    ($($type:ty, |$row:ident| $key:expr;)+) => {
        $(impl Row for $type {
            type Key = Text;

            fn key(&self) -> Text {
                let $row = self;
                $key.clone()
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.key())
            }
        })+
    };
}

rows! {
    Found, |row| row.key;
    Kept, |row| row.secret.key;
}

/// Where they are known.
pub(crate) struct Tables {
    found: Table<Found>,
    kept: Table<Kept>,
}

impl Tables {
    pub(crate) fn new(db: &Db) -> Result<Self, DuplicateTable> {
        let mut kept = TableDef::new("kept-secrets");
        kept.initializer(KUBERNETES);
        Ok(Self {
            found: db.register(TableDef::new("named-secrets"))?,
            kept: db.register(kept)?,
        })
    }
}

/// The Secrets that policies name.
pub(crate) struct Secrets {
    context: Context,
    db: Db,
    tables: Tables,
    /// By the Secret: the task that follows it.
    followed: BTreeMap<SecretName, Following>,
}

/// A task that ends with its owner.
struct Following(JoinHandle<()>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Secrets {
    /// Follows the agents' namespace, where agents enforce rules that need Secrets.
    pub(crate) fn new(context: &Context, db: &Db, tables: Tables, watcher: &Watcher) -> Self {
        let secrets = Self {
            context: context.clone(),
            db: db.clone(),
            tables,
            followed: BTreeMap::new(),
        };
        match secrets.is_wanted() {
            true => watcher.follow_some::<Secret, _>(
                &secrets.tables.kept,
                Some(secrets.namespace()),
                "",
            ),
            false => watcher.leave_empty(&secrets.tables.kept),
        }
        secrets
    }

    fn is_wanted(&self) -> bool {
        self.context.settings.enable_l7_proxy && !self.namespace().is_empty()
    }

    fn namespace(&self) -> &str {
        &self.context.settings.policy_secrets_namespace
    }

    /// True if the Secret has to be copied.
    fn is_elsewhere(&self, name: &SecretName) -> bool {
        self.context.settings.enable_policy_secrets_sync && name.namespace != self.namespace()
    }

    /// Changes of what [`Self::check`] says.
    pub(crate) fn watch(&self) -> Watch {
        self.tables.found.watch().and(self.tables.kept.watch())
    }

    /// Follows those of other namespaces that are named.
    pub(crate) fn follow(&mut self, named: &BTreeSet<SecretName>) {
        if !self.is_wanted() {
            return;
        }
        let over = |name: &SecretName| !named.contains(name);
        let gone: Vec<SecretName> = self.followed.keys().filter(|n| over(n)).cloned().collect();
        for name in gone {
            // No row comes after the task has ended; one that comes before is of no use, and small.
            self.followed.remove(&name);
            let mut txn = self.db.write();
            self.tables.found.delete(&mut txn, &*name.to_string());
            txn.commit();
        }
        for name in named {
            if !self.is_elsewhere(name) || self.followed.contains_key(name) {
                continue;
            }
            let (db, table) = (self.db.clone(), self.tables.found.clone());
            let key = Text::from(name.to_string());
            let stream = secret::follow(&self.context.client, &name.namespace, &name.name);
            let task = tokio::spawn(async move {
                pin_mut!(stream);
                while let Some(seen) = stream.next().await {
                    note(
                        &db,
                        &table,
                        &key,
                        seen.map(|found| found.map(Contents::from)),
                    );
                }
            });
            self.followed.insert(name.clone(), Following(task));
        }
    }

    /// What is in a Secret, or why nobody can tell; none while that is not known.
    pub(crate) fn get<'a>(
        &self,
        snapshot: &'a Snapshot,
        name: &SecretName,
    ) -> Option<Result<&'a Contents, String>> {
        if !self.is_elsewhere(name) {
            let key = name.within(self.namespace()).to_string();
            let kept = self.tables.kept.get(snapshot, &*key);
            let kept = kept.map(|row| &row.secret.contents);
            let known = kept.is_some() || self.tables.kept.initialized(snapshot);
            return known.then(|| kept.ok_or_else(|| MISSING.to_owned()));
        }
        let found = self.tables.found.get(snapshot, &*name.to_string())?;
        Some(match &found.state {
            Ok(Some(contents)) => Ok(contents),
            Ok(None) => Err(MISSING.to_owned()),
            Err(why) => Err(format!("it cannot be read: {why}")),
        })
    }

    /// Makes copies what they have to be. The result is what failed first. `complete`: all policies are known, so that what none names may go.
    pub(crate) async fn copy(
        &self,
        snapshot: &Snapshot,
        named: &BTreeSet<SecretName>,
        complete: bool,
    ) -> Result<(), String> {
        let (kept, namespace) = (&self.tables.kept, self.namespace());
        if !self.is_wanted() || !kept.initialized(snapshot) {
            return Ok(());
        }
        let objects = Objects::core(&self.context.client, "Secret", "secrets", Some(namespace));
        let mut used = BTreeSet::new();
        let mut outcome = Ok(());
        for name in named.iter().filter(|name| self.is_elsewhere(name)) {
            let copy = name.within(namespace);
            let key = copy.to_string();
            let there = kept.get(snapshot, &*key).map(AsRef::as_ref);
            let found = self.tables.found.get(snapshot, &*name.to_string());
            match found.map(|found| &found.state) {
                // What is not there is not wanted as a copy, either.
                Some(Ok(None)) => continue,
                Some(Ok(Some(contents))) => {
                    outcome = outcome.and(write(&objects, name, &copy, contents, there).await);
                }
                None | Some(Err(_)) => {}
            }
            used.insert(key);
        }
        let copies = kept.iter(snapshot).filter(|row| row.is_copy);
        for row in copies.filter(|row| complete && !used.contains(row.secret.key.as_str())) {
            outcome = outcome.and(remove(&objects, &row.secret.key).await);
        }
        outcome
    }
}

/// Removes a copy.
async fn remove(objects: &Objects, key: &Text) -> Result<(), String> {
    let name = key.split_once('/').map_or("", |(_, name)| name);
    let removed = objects.delete(name, Meant::default()).await;
    removed.map_err(|error| format!("Secret {key}: {}", says(&error)))?;
    tracing::info!(secret = name, "copy removed: nothing needs it");
    Ok(())
}

/// What was seen last; a failure says nothing new of what is known.
fn note(db: &Db, table: &Table<Found>, key: &Text, state: Result<Option<Contents>, String>) {
    let mut txn = db.write();
    let known = table.get(&txn, key).is_some_and(|row| row.state.is_ok());
    if state.is_ok() || !known {
        let row = Found {
            key: key.clone(),
            state,
        };
        // The only error is a unique index, which there is none of.
        let _ = table.insert_if_changed(&mut txn, row);
    }
    txn.commit();
}

/// Writes a copy, if it is another.
async fn write(
    objects: &Objects,
    name: &SecretName,
    copy: &SecretName,
    contents: &Contents,
    there: Option<&Kept>,
) -> Result<(), String> {
    let failed = |error: kube::Error| format!("Secret {copy}: {}", says(&error));
    let data = data(contents);
    match there {
        Some(row) if row.secret.contents == *contents => return Ok(()),
        Some(row) if !row.is_copy => {
            return Err(format!(
                "Secret {copy} is not a copy of {name}, which should be there: it lacks the label {}={}",
                COPY.0, COPY.1
            ));
        }
        Some(row) => {
            let old = row.secret.contents.names();
            let mut merged: Map<String, Value> =
                old.map(|name| (name.to_owned(), Value::Null)).collect();
            merged.extend(data);
            let value = json!({"data": merged});
            objects
                .merge(&copy.name, value, None)
                .await
                .map_err(failed)?;
        }
        None => {
            let value = json!({
                "metadata": {"name": copy.name, "namespace": copy.namespace, "labels": {COPY.0: COPY.1}},
                "data": data,
            });
            objects.create(value).await.map_err(failed)?;
        }
    }
    tracing::info!(secret = %name, "copied for agents");
    Ok(())
}

fn data(contents: &Contents) -> Map<String, Value> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = |name| STANDARD.encode(contents.get(name).unwrap_or_default());
    let names = contents.names();
    names
        .map(|name| (name.to_owned(), text(name).into()))
        .collect()
}
