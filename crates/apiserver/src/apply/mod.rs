//! Who owns which field of an object, and server-side apply.
//!
//! A writer's fields are a [`FieldSet`]; all writers together are the object's `metadata.managedFields` ([`Managers`]).
//! Everything here is plain values in, plain values out.

mod fields;
mod managers;
mod merge;
mod set;

use serde_json::Value;

use super::error::{ApiError, Cause, Reason};
use super::kind::Kind;
use super::schema::Schema;

pub use fields::{Changes, compare, fields_of};
pub use managers::{Manager, Managers, Operation};
pub(crate) use merge::reorder;
pub use set::FieldSet;

/// Metadata that writers own; the rest is the server's.
const OWNED_METADATA: [&str; 5] = [
    "f:annotations",
    "f:finalizers",
    "f:generateName",
    "f:labels",
    "f:ownerReferences",
];

/// Leaves out what nobody owns: the type, the server's metadata, and the part that is written elsewhere.
pub fn strip(set: &mut FieldSet, kind: &Kind, status: bool) {
    set.remove_child("f:apiVersion");
    set.remove_child("f:kind");
    if let Some(metadata) = set.child_mut("f:metadata") {
        metadata.retain(|name| OWNED_METADATA.contains(&name));
    }
    set.drop_empty("f:metadata");
    if kind.has_status && !status {
        set.remove_child("f:status");
    }
    if status {
        set.remove_child("f:spec");
    }
}

/// Records an ordinary write: what it changed belongs to its writer now, and to nobody else.
pub fn record_update(
    kind: &Kind,
    managers: &mut Managers,
    who: &Manager,
    old: &Value,
    new: &Value,
    now: &str,
) {
    let mut changes = compare(old, new, &kind.schema());
    let status = !who.subresource.is_empty();
    strip(&mut changes.changed, kind, status);
    strip(&mut changes.removed, kind, status);
    if changes.changed.is_empty() && changes.removed.is_empty() {
        return;
    }
    managers.give(who, &changes, now);
}

/// The outcome of an apply.
#[derive(Debug)]
pub struct Applied {
    /// The object, without new `managedFields`.
    pub object: Value,
    /// Who owns what afterwards.
    pub managers: Managers,
}

/// Applies a configuration to an object (`live`: null if there is none).
pub fn apply(
    kind: &Kind,
    name: &str,
    live: &Value,
    config: &Value,
    mut managers: Managers,
    who: &Manager,
    (force, now): (bool, &str),
) -> Result<Applied, ApiError> {
    let schema = kind.schema();
    let status = !who.subresource.is_empty();
    let mut config = config.clone();
    merge::drop_nothing(&mut config, &schema);
    let mut wanted = fields_of(&config, &schema);
    strip(&mut wanted, kind, status);
    let before = managers.set(who).cloned().unwrap_or_default();
    let mut object = live.clone();
    merge::merge(&mut object, &config, &schema);
    let mut kept = managers.all_but(who);
    kept.union(&wanted);
    let mut gone = before.clone();
    gone.subtract(&wanted);
    merge::remove(&mut object, &gone, &kept, &schema);
    refuse_conflicts(
        kind,
        name,
        &schema,
        live,
        &object,
        &mut managers,
        who,
        force,
    )?;
    let removed = compare(live, &object, &schema).removed;
    managers.forget(&removed, Some(who));
    managers.replace(who, wanted, now);
    Ok(Applied { object, managers })
}

#[allow(clippy::too_many_arguments, reason = "one step of the above")]
fn refuse_conflicts(
    kind: &Kind,
    name: &str,
    schema: &Schema,
    live: &Value,
    object: &Value,
    managers: &mut Managers,
    who: &Manager,
    force: bool,
) -> Result<(), ApiError> {
    let mut changed = compare(live, object, schema).changed;
    strip(&mut changed, kind, !who.subresource.is_empty());
    let conflicts = managers.conflicts(who, &changed);
    if conflicts.is_empty() {
        return Ok(());
    }
    if force {
        managers.take_from_others(who, &changed);
        return Ok(());
    }
    Err(conflict_error(kind, name, &conflicts))
}

fn conflict_error(kind: &Kind, name: &str, conflicts: &[(String, Vec<String>)]) -> ApiError {
    let count: usize = conflicts.iter().map(|(_, fields)| fields.len()).sum();
    let plural = if count == 1 { "" } else { "s" };
    let mut parts = Vec::new();
    for (manager, fields) in conflicts {
        parts.push(match fields.as_slice() {
            [one] if conflicts.len() == 1 => format!("conflict with {manager}: {one}"),
            many => format!("conflicts with {manager}:\n- {}", many.join("\n- ")),
        });
    }
    let message = format!(
        "Apply failed with {count} conflict{plural}: {}",
        parts.join("\n")
    );
    let mut error = ApiError::of(Reason::Conflict, message, kind, name);
    for (manager, fields) in conflicts {
        for field in fields {
            error = error.with_cause(Cause {
                reason: "FieldManagerConflict",
                field: field.clone(),
                message: format!("conflict with {manager}"),
            });
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::super::kinds;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: &str = "2030-01-01T00:00:00Z";

    fn who(name: &str) -> Manager {
        Manager::apply(name, "apps/v1")
    }

    fn deployment(spec: Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
    }

    fn apply_as(
        name: &str,
        live: &Value,
        managers: Managers,
        spec: Value,
        force: bool,
    ) -> Result<Applied, ApiError> {
        let kind = kinds::named("apps", "Deployment");
        apply(
            &kind,
            "d",
            live,
            &deployment(spec),
            managers,
            &who(name),
            (force, NOW),
        )
    }

    #[test]
    fn fields_that_are_no_longer_applied_go_and_others_stay() {
        let first = json!({"replicas": 2, "template": {"spec": {"containers": [
            {"name": "a", "image": "x", "args": ["1"], "ports": [{"containerPort": 80}]}, {"name": "b", "image": "y"}]}}});
        let one = apply_as("one", &Value::Null, Managers::default(), first, false).unwrap();
        let mut live = one.object;
        live["spec"]["template"]["spec"]["containers"][1]["terminationMessagePath"] = json!("/x");
        let second = json!({"template": {"spec": {"containers": [{"name": "a", "image": "x"}]}}});
        let two = apply_as("one", &live, one.managers, second, false).unwrap();
        assert_eq!(
            two.object["spec"],
            json!({"template": {"spec": {"containers": [{"name": "a", "image": "x"}]}}})
        );
    }

    #[test]
    fn what_another_owns_is_a_conflict_unless_it_is_the_same_or_forced() {
        let one = apply_as(
            "one",
            &Value::Null,
            Managers::default(),
            json!({"replicas": 2, "paused": true}),
            false,
        )
        .unwrap();
        let error = apply_as(
            "two",
            &one.object,
            one.managers.clone(),
            json!({"replicas": 3}),
            false,
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas"
        );
        let causes = &error.to_status()["details"]["causes"];
        let expected = json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".spec.replicas"}]);
        assert_eq!(*causes, expected);

        let same = apply_as(
            "two",
            &one.object,
            one.managers.clone(),
            json!({"replicas": 2}),
            false,
        )
        .unwrap();
        // Both own it: one may let go of it without taking it away.
        let left = apply_as(
            "one",
            &same.object,
            same.managers,
            json!({"paused": true}),
            false,
        )
        .unwrap();
        assert_eq!(left.object["spec"], json!({"replicas": 2, "paused": true}));

        let forced = apply_as(
            "two",
            &one.object,
            one.managers,
            json!({"replicas": 3}),
            true,
        )
        .unwrap();
        assert_eq!(forced.object["spec"]["replicas"], 3);
        let fields = |name: &str| forced.managers.set(&who(name)).unwrap().to_json();
        assert_eq!(fields("one"), json!({"f:spec": {"f:paused": {}}}));
        assert_eq!(fields("two"), json!({"f:spec": {"f:replicas": {}}}));
    }

    #[test]
    fn conflicts_name_elements_by_their_keys() {
        let spec = |image: &str| {
            json!({"template": {"spec": {"containers": [
            {"name": "a", "image": image, "ports": [{"containerPort": 80, "name": image}]}]}}})
        };
        let one = apply_as("one", &Value::Null, Managers::default(), spec("x"), false).unwrap();
        let error = apply_as("two", &one.object, one.managers, spec("y"), false)
            .unwrap_err()
            .to_string();
        let expected = "Apply failed with 2 conflicts: conflicts with \"one\":\n\
            - .spec.template.spec.containers[name=\"a\"].image\n\
            - .spec.template.spec.containers[name=\"a\"].ports[containerPort=80,protocol=\"TCP\"].name";
        assert_eq!(error, expected);
    }

    #[test]
    fn an_ordinary_write_takes_what_it_changes() {
        let kind = kinds::named("apps", "Deployment");
        let one = apply_as(
            "one",
            &Value::Null,
            Managers::default(),
            json!({"replicas": 2, "paused": true}),
            false,
        )
        .unwrap();
        let mut new = one.object.clone();
        new["spec"]["replicas"] = json!(5);
        new["spec"].as_object_mut().unwrap().remove("paused");
        let mut managers = one.managers;
        let scaler = Manager::update("scaler", "apps/v1", "");
        record_update(&kind, &mut managers, &scaler, &one.object, &new, NOW);
        assert_eq!(
            managers.to_json(),
            json!([{"manager": "scaler", "operation": "Update", "apiVersion": "apps/v1", "time": NOW,
                "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}}}])
        );
        let error = apply_as("one", &new, managers, json!({"replicas": 2}), false)
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with(
                "conflict with \"scaler\" using apps/v1 at 2030-01-01T00:00:00Z: .spec.replicas"
            ),
            "{error}"
        );
    }

    #[test]
    fn sets_and_maps_are_owned_by_element_and_atomic_values_as_a_whole() {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": "u",
            "labels": {"a": "1"}, "finalizers": ["x/y"]},
            "spec": {"nodeSelector": {"k": "v"}, "tolerations": [{"key": "t"}], "securityContext": {},
                "containers": [{"name": "c", "env": [{"name": "E", "value": "1"}], "args": ["1"]}]}});
        let kind = kinds::pod();
        let mut set = fields_of(&object, &kind.schema());
        strip(&mut set, &kind, false);
        let expected = json!({
            "f:metadata": {"f:labels": {"f:a": {}}, "f:finalizers": {"v:\"x/y\"": {}}},
            "f:spec": {"f:nodeSelector": {}, "f:tolerations": {}, "f:securityContext": {},
                "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:args": {},
                    "f:env": {"k:{\"name\":\"E\"}": {".": {}, "f:name": {}, "f:value": {}}}}}}});
        assert_eq!(set.to_json(), expected);
        assert_eq!(FieldSet::from_json(&expected), Some(set));
    }

    /// Pods with a few fields of every way of being owned.
    fn any_config() -> impl Strategy<Value = Value> {
        let image = prop::option::of(prop::sample::select(vec!["x", "y"]));
        let ports = prop::collection::btree_set(1u16..4, 0..3);
        let container = (prop::sample::select(vec!["a", "b", "c"]), image, ports);
        let containers = prop::collection::vec(container, 0..3);
        let labels =
            prop::collection::btree_map(prop::sample::select(vec!["k", "l"]), "[01]", 1..3);
        let finalizers =
            prop::collection::btree_set(prop::sample::select(vec!["e/x", "e/y"]), 0..3);
        let args = prop::option::of(prop::collection::vec("[01]", 0..3));
        (containers, labels, finalizers, args).prop_map(|(containers, labels, finalizers, args)| {
            let mut names = std::collections::BTreeSet::new();
            let mut list = Vec::new();
            for (name, image, ports) in containers {
                if !names.insert(name) {
                    continue;
                }
                let ports: Vec<Value> = ports.iter().map(|p| json!({"containerPort": p})).collect();
                let mut container = json!({"name": name, "ports": ports});
                if let Some(image) = image {
                    container["image"] = json!(image);
                }
                if let Some(args) = &args {
                    container["args"] = json!(args);
                }
                list.push(container);
            }
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels, "finalizers": finalizers},
                "spec": {"containers": list}})
        })
    }

    /// Whether everything in `part` is in `whole`.
    fn holds(whole: &Value, part: &Value) -> bool {
        fields_of(part, &kinds::pod().schema())
            .intersection(&fields_of(whole, &kinds::pod().schema()))
            == fields_of(part, &kinds::pod().schema())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn writers_get_what_they_apply_and_take_only_what_is_theirs(steps in prop::collection::vec((0usize..3, any_config()), 1..8)) {
            let kind = kinds::pod();
            let (mut live, mut managers) = (Value::Null, Managers::default());
            let mut last: [Option<Value>; 3] = [None, None, None];
            for (writer, config) in steps {
                let who = Manager::apply(["a", "b", "c"][writer], "v1");
                let done = apply(&kind, "p", &live, &config, managers.clone(), &who, (true, NOW)).unwrap();
                prop_assert!(holds(&done.object, &config), "{} lacks some of {config}", done.object);
                // The same once more changes nothing, and needs no force.
                let again = apply(&kind, "p", &done.object, &config, done.managers.clone(), &who, (false, NOW)).unwrap();
                prop_assert_eq!((&again.object, &again.managers), (&done.object, &done.managers));
                // What others own by their own words is still there.
                for other in (0..3).filter(|o| *o != writer) {
                    if last[other].is_some() {
                        let owned = done.managers.set(&Manager::apply(["a", "b", "c"][other], "v1")).cloned().unwrap_or_default();
                        let there = fields_of(&done.object, &kind.schema());
                        prop_assert_eq!(owned.intersection(&there), owned);
                    }
                }
                let read = Managers::from_json(&done.managers.to_json());
                prop_assert_eq!(read.as_ref(), Some(&done.managers));
                last[writer] = Some(config);
                (live, managers) = (done.object, done.managers);
            }
            // Everybody lets go of everything: what is left belongs to nobody.
            let nothing = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
            for name in ["a", "b", "c"] {
                let who = Manager::apply(name, "v1");
                let done = apply(&kind, "p", &live, &nothing, managers, &who, (false, NOW)).unwrap();
                (live, managers) = (done.object, done.managers);
            }
            prop_assert!(managers.is_empty());
            let mut left = fields_of(&live, &kind.schema());
            strip(&mut left, &kind, false);
            prop_assert!(left.is_empty(), "{live}");
        }
    }
}
