//! Who has which name: within a group, no two definitions have one of their names in common. The later one waits for it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::kind::Others;
use super::super::object::{child_mut, now};
use super::TABLE;

/// Names that others have been given: of resources, and of kinds.
type Taken = (BTreeSet<String>, BTreeSet<String>);

/// The fields of `names`, whether they name resources or kinds, and the reason to refuse one.
const FIELDS: [(&str, bool, &str); 5] = [
    ("plural", true, "PluralConflict"),
    ("singular", true, "SingularConflict"),
    ("shortNames", true, "ShortNamesConflict"),
    ("kind", false, "KindConflict"),
    ("listKind", false, "ListKindConflict"),
];

/// Whether a condition holds; `None` if nothing is said of it.
pub(super) fn condition(status: &Value, of: &str) -> Option<bool> {
    let mut all = status["conditions"].as_array()?.iter();
    all.find(|c| c["type"] == of).map(|c| c["status"] == "True")
}

/// Whether a definition that waits for a name may have it now.
pub(crate) fn may_be_accepted<'a>(
    definition: &Value,
    all: impl Iterator<Item = &'a Value>,
) -> bool {
    let mut taken = Taken::default();
    all.for_each(|other| take(&mut taken, definition, other));
    condition(&definition["status"], "NamesAccepted") == Some(false)
        && conflicts(&definition["spec"]["names"], &taken).is_empty()
}

/// Gives a definition the names that nobody has, and says in its status how that went.
pub(super) fn accept(definition: &mut Value, others: &dyn Others) {
    let mut taken = Taken::default();
    others.each(TABLE, &mut |other| take(&mut taken, definition, other));
    let mut accepted = definition["spec"]["names"].clone();
    let mut conflicts = conflicts(&accepted, &taken);
    let established = condition(&definition["status"], "Established") == Some(true);
    let status = child_mut(definition, "status");
    for (field, ..) in &conflicts {
        let before = status
            .get("acceptedNames")
            .and_then(|names| names.get(field));
        match (before.cloned(), accepted.as_object_mut()) {
            (Some(before), Some(map)) => drop(map.insert((*field).to_owned(), before)),
            (None, Some(map)) => drop(map.remove(*field)),
            _ => {}
        }
    }
    status.insert("acceptedNames".to_owned(), accepted);
    // The last one is told, as everywhere.
    let names = match conflicts.pop() {
        None => (
            "NamesAccepted",
            true,
            "NoConflicts",
            "no conflicts found".to_owned(),
        ),
        Some((_, reason, name)) => (
            "NamesAccepted",
            false,
            reason,
            format!("\"{name}\" is already in use"),
        ),
    };
    let all = if names.1 || established {
        (
            "Established",
            true,
            "InitialNamesAccepted",
            "the initial names have been accepted",
        )
    } else {
        (
            "Established",
            false,
            "NotAccepted",
            "not all names are accepted",
        )
    };
    let list = status.entry("conditions").or_insert_with(|| json!([]));
    set(list, names.0, names.1, names.2, &names.3);
    set(list, all.0, all.1, all.2, all.3);
}

/// Adds the names of another definition of the same group.
fn take(taken: &mut Taken, definition: &Value, other: &Value) {
    let same = |path: fn(&Value) -> &Value| path(definition) == path(other);
    if !same(|d| &d["spec"]["group"]) || same(|d| &d["metadata"]["name"]) {
        return;
    }
    for (field, resource, _) in FIELDS {
        let names = texts(&other["status"]["acceptedNames"][field]);
        let set = if resource { &mut taken.0 } else { &mut taken.1 };
        set.extend(names.map(str::to_owned));
    }
}

/// The names that somebody else has: field, reason, name.
fn conflicts(names: &Value, taken: &Taken) -> Vec<(&'static str, &'static str, String)> {
    let conflict = |(field, resource, reason): (&'static str, bool, &'static str)| {
        let set = if resource { &taken.0 } else { &taken.1 };
        let found = texts(&names[field]).find(|name| set.contains(*name))?;
        Some((field, reason, found.to_owned()))
    };
    FIELDS.into_iter().filter_map(conflict).collect()
}

/// A text, or those of a list.
fn texts(value: &Value) -> impl Iterator<Item = &str> {
    let list = value.as_array().into_iter().flatten();
    value
        .as_str()
        .into_iter()
        .chain(list.filter_map(Value::as_str))
}

/// Sets a condition; its time changes with its status alone.
fn set(list: &mut Value, of: &str, holds: bool, reason: &str, message: &str) {
    let status = if holds { "True" } else { "False" };
    let mut condition = json!({ "type": of, "status": status, "reason": reason, "message": message, "lastTransitionTime": now() });
    let Some(list) = list.as_array_mut() else {
        return;
    };
    match list.iter_mut().find(|c| c["type"] == of) {
        Some(before) => {
            if before["status"] == status {
                condition["lastTransitionTime"] = before["lastTransitionTime"].clone();
            }
            *before = condition;
        }
        None => list.push(condition),
    }
}
