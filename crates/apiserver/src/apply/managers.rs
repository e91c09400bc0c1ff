//! The writers of an object and their fields: `metadata.managedFields`.

use serde_json::{Value, json};

use super::fields::Changes;
use super::set::FieldSet;

/// How many ordinary writers are told apart; the oldest ones become one.
const MAX_UPDATERS: usize = 10;
/// The name of those that became one.
const ANCIENT: &str = "ancient-changes";

/// How a writer writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Server-side apply.
    Apply,
    /// Everything else.
    Update,
}

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    /// The name that it gave.
    pub name: String,
    /// How it writes.
    pub operation: Operation,
    /// `apiVersion` in which it writes.
    pub api_version: String,
    /// The subresource that it writes; empty for the object itself.
    pub subresource: String,
}

impl Manager {
    /// Somebody who applies.
    pub fn apply(name: &str, api_version: &str) -> Self {
        Self {
            name: name.to_owned(),
            operation: Operation::Apply,
            api_version: api_version.to_owned(),
            subresource: String::new(),
        }
    }

    /// Somebody who writes otherwise.
    pub fn update(name: &str, api_version: &str, subresource: &str) -> Self {
        Self {
            operation: Operation::Update,
            subresource: subresource.to_owned(),
            ..Self::apply(name, api_version)
        }
    }

    fn shown(&self, time: &str) -> String {
        let mut text = format!("\"{}\"", self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource \"{}\"", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
            if !time.is_empty() {
                text.push_str(&format!(" at {time}"));
            }
        }
        text
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    manager: Manager,
    time: String,
    fields: FieldSet,
}

/// All writers of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Managers {
    entries: Vec<Entry>,
}

impl Managers {
    /// Reads `metadata.managedFields`; `None` if they are malformed.
    pub fn from_json(list: &Value) -> Option<Self> {
        let entries = match list {
            Value::Null => Vec::new(),
            Value::Array(list) => list.iter().map(entry).collect::<Option<_>>()?,
            _ => return None,
        };
        Some(Self { entries })
    }

    /// The form of `metadata.managedFields`.
    pub fn to_json(&self) -> Value {
        let show = |entry: &Entry| {
            let mut shown = json!({
                "manager": entry.manager.name,
                "operation": format!("{:?}", entry.manager.operation),
                "apiVersion": entry.manager.api_version,
                "fieldsType": "FieldsV1",
                "fieldsV1": entry.fields.to_json(),
            });
            if !entry.time.is_empty() {
                shown["time"] = json!(entry.time);
            }
            if !entry.manager.subresource.is_empty() {
                shown["subresource"] = json!(entry.manager.subresource);
            }
            shown
        };
        self.entries.iter().map(show).collect()
    }

    /// Whether nobody owns anything.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The fields of a writer. Those who apply are the same in every version.
    pub fn set(&self, who: &Manager) -> Option<&FieldSet> {
        self.entries
            .iter()
            .find(|e| same(&e.manager, who))
            .map(|e| &e.fields)
    }

    /// The fields of all other writers.
    pub fn all_but(&self, who: &Manager) -> FieldSet {
        let mut all = FieldSet::default();
        for entry in self.entries.iter().filter(|e| !same(&e.manager, who)) {
            all.union(&entry.fields);
        }
        all
    }

    /// Sets a writer's fields.
    pub fn replace(&mut self, who: &Manager, fields: FieldSet, now: &str) {
        let before = self.entries.iter().position(|e| same(&e.manager, who));
        match before {
            Some(at) if fields.is_empty() => drop(self.entries.remove(at)),
            Some(at) => {
                let entry = &mut self.entries[at];
                if entry.fields != fields || entry.manager != *who {
                    now.clone_into(&mut entry.time);
                }
                entry.manager = who.clone();
                entry.fields = fields;
            }
            None if fields.is_empty() => {}
            None => self.entries.push(Entry {
                manager: who.clone(),
                time: now.to_owned(),
                fields,
            }),
        }
        self.tidy();
    }

    /// Gives a writer what it changed.
    pub fn give(&mut self, who: &Manager, changes: &Changes, now: &str) {
        self.take_from_others(who, &changes.changed);
        let mut mine = self.set(who).cloned().unwrap_or_default();
        mine.union(&changes.changed);
        self.forget(&changes.removed, None);
        mine.subtract_below(&changes.removed);
        self.replace(who, mine, now);
        if let Some(entry) = self.entries.iter_mut().find(|e| same(&e.manager, who)) {
            now.clone_into(&mut entry.time);
        }
    }

    /// Takes fields from everybody but one.
    pub fn take_from_others(&mut self, who: &Manager, fields: &FieldSet) {
        for entry in self.entries.iter_mut().filter(|e| !same(&e.manager, who)) {
            entry.fields.subtract(fields);
        }
        self.entries.retain(|e| !e.fields.is_empty());
    }

    /// Takes away fields that are gone, from everybody but one.
    pub fn forget(&mut self, removed: &FieldSet, but: Option<&Manager>) {
        for entry in self
            .entries
            .iter_mut()
            .filter(|e| but.is_none_or(|who| !same(&e.manager, who)))
        {
            entry.fields.subtract_below(removed);
        }
        self.entries.retain(|e| !e.fields.is_empty());
    }

    /// Who else owns which of these fields: the writer as people see it, and the places.
    pub fn conflicts(&self, who: &Manager, changed: &FieldSet) -> Vec<(String, Vec<String>)> {
        let others = self.entries.iter().filter(|e| !same(&e.manager, who));
        others
            .map(|e| {
                (
                    e.manager.shown(&e.time),
                    e.fields.intersection(changed).paths(),
                )
            })
            .filter(|(_, paths)| !paths.is_empty())
            .collect()
    }

    /// Those who apply come first, then by time; too many who update become one.
    fn tidy(&mut self) {
        self.entries.sort_by(|a, b| {
            let key = |e: &Entry| (e.manager.operation, e.time.clone(), e.manager.name.clone());
            key(a).cmp(&key(b))
        });
        let plain = |e: &Entry| {
            e.manager.operation == Operation::Update && e.manager.subresource.is_empty()
        };
        while self.entries.iter().filter(|e| plain(e)).count() > MAX_UPDATERS {
            let mut oldest = self
                .entries
                .iter()
                .enumerate()
                .filter(|(_, e)| plain(e))
                .map(|(i, _)| i);
            let (Some(first), Some(second)) = (oldest.next(), oldest.next()) else {
                return;
            };
            let gone = self.entries.remove(first);
            let heir = &mut self.entries[second - 1];
            heir.fields.union(&gone.fields);
            ANCIENT.clone_into(&mut heir.manager.name);
        }
    }
}

fn same(a: &Manager, b: &Manager) -> bool {
    let versions = a.operation == Operation::Apply || a.api_version == b.api_version;
    a.name == b.name && a.operation == b.operation && a.subresource == b.subresource && versions
}

fn entry(value: &Value) -> Option<Entry> {
    let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let operation = match value["operation"].as_str()? {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return None,
    };
    Some(Entry {
        manager: Manager {
            name: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
        },
        time: text("time"),
        fields: FieldSet::from_json(&value["fieldsV1"])?,
    })
}
