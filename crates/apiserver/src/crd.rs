//! Definitions of custom kinds: their validation, their status, and the kinds that they make.

mod names;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::kind::{Kind, Others, Registry, Scale, Strategy};
use super::object::{child_mut, is_deleting, meta_str, set_default};
use super::schema::{self, Fault};
use super::validate::{FieldErrors, check_dns_label, check_dns_subdomain};

pub(crate) use names::may_be_accepted;

/// The table of definitions.
pub(crate) const TABLE: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// Registers the custom kinds that are defined, and takes away those that are not any more.
pub(crate) fn sync<'a>(registry: &mut Registry, definitions: impl Iterator<Item = &'a Value>) {
    let mut wanted = Vec::new();
    for definition in definitions {
        wanted.extend(kinds(definition));
    }
    registry.retain(|kind| kind.built_in || !kind.defined || wanted.iter().any(|w| same(w, kind)));
    for kind in wanted {
        registry.register(kind);
    }
}

fn same(a: &Kind, b: &Kind) -> bool {
    (&a.group, &a.version, &a.plural) == (&b.group, &b.version, &b.plural)
}

/// The kinds of a definition: one for each version that is served.
fn kinds(definition: &Value) -> Vec<Kind> {
    let spec = &definition["spec"];
    let status = &definition["status"];
    if names::condition(status, "Established") == Some(false) {
        return Vec::new();
    }
    let names = [&status["acceptedNames"], &spec["names"]];
    let names = names
        .into_iter()
        .find(|n| n.is_object())
        .unwrap_or(&Value::Null);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(text).collect()
    };
    let versions = || spec["versions"].as_array().into_iter().flatten();
    let storage = versions()
        .find(|v| v["storage"] == true)
        .map(|v| text(&v["name"]))
        .unwrap_or_default();
    let make = |version: &Value| {
        let name = text(&version["name"]);
        let mut kind = Kind::new(
            &text(&spec["group"]),
            &name,
            &text(&names["kind"]),
            &text(&names["plural"]),
        );
        kind.defined = true;
        kind.singular = text(&names["singular"]);
        kind.short_names = list(&names["shortNames"]);
        kind.categories = list(&names["categories"]);
        kind.namespaced = spec["scope"] != "Cluster";
        kind.has_status = version["subresources"]["status"].is_object();
        kind.scale = scale(&version["subresources"]["scale"]);
        kind.columns = version["additionalPrinterColumns"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let open_api = &version["schema"]["openAPIV3Schema"];
        kind.custom_schema = schema::compile(open_api).ok().map(Arc::new);
        kind.open_api = Some(Arc::new(open_api.clone()));
        kind.storage_version = (name != storage).then(|| storage.clone());
        kind.fields = version["selectableFields"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|f| text(&f["jsonPath"]).trim_start_matches('.').to_owned())
            .collect();
        if version["deprecated"] == true {
            let usual = || format!("{}/{name} {} is deprecated", kind.group, kind.kind);
            kind.deprecation = Some(
                version["deprecationWarning"]
                    .as_str()
                    .map_or_else(usual, str::to_owned),
            );
        }
        kind
    };
    versions()
        .filter(|v| v["served"] == true)
        .map(make)
        .collect()
}

fn scale(of: &Value) -> Option<Scale> {
    Some(Scale {
        spec: of["specReplicasPath"].as_str()?.to_owned(),
        status: of["statusReplicasPath"].as_str()?.to_owned(),
        selector: of["labelSelectorPath"].as_str().map(str::to_owned),
    })
}

/// What is particular to definitions.
pub(crate) struct DefinitionStrategy;

impl Strategy for DefinitionStrategy {
    fn defaults(&self, object: &mut Value) {
        let spec = child_mut(object, "spec");
        set_default(spec, "conversion", json!({ "strategy": "None" }));
        if let Some(Value::Object(names)) = spec.get_mut("names") {
            let kind = names
                .get("kind")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            set_default(names, "singular", kind.to_lowercase());
            set_default(names, "listKind", format!("{kind}List"));
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({ "storedVersions": storage_versions(&object["spec"]) });
    }

    fn settle(
        &self,
        new: &mut Value,
        _old: Option<&Value>,
        others: &dyn Others,
        _errors: &mut FieldErrors,
    ) {
        names::accept(new, others);
    }

    fn prepare_update(&self, new: &mut Value, _old: &Value) {
        let stored = storage_versions(&new["spec"]);
        let status = child_mut(new, "status");
        let versions = status.entry("storedVersions").or_insert_with(|| json!([]));
        if let Some(list) = versions.as_array_mut() {
            list.extend(
                stored
                    .into_iter()
                    .filter(|v| !list.contains(v))
                    .collect::<Vec<_>>(),
            );
        }
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        let spec = &object["spec"];
        check_names(object, spec, errors);
        if !matches!(spec["scope"].as_str(), Some("Cluster" | "Namespaced")) {
            errors.unsupported("spec.scope", &spec["scope"], &["Cluster", "Namespaced"]);
        }
        let strategy = &spec["conversion"]["strategy"];
        if strategy != "None" {
            let why = "only versions that differ in their name alone are converted: must be None";
            errors.invalid("spec.conversion.strategy", strategy, why);
        }
        check_versions(spec, errors);
    }

    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        for field in ["group", "scope"] {
            if new["spec"][field] != old["spec"][field] {
                errors.invalid(
                    format!("spec.{field}"),
                    &new["spec"][field],
                    "field is immutable",
                );
            }
        }
        for field in ["plural", "kind"] {
            if !is_deleting(old) && new["spec"]["names"][field] != old["spec"]["names"][field] {
                errors.invalid(
                    format!("spec.names.{field}"),
                    &new["spec"]["names"][field],
                    "field is immutable",
                );
            }
        }
    }
}

fn storage_versions(spec: &Value) -> Vec<Value> {
    let versions = spec["versions"].as_array().into_iter().flatten();
    versions
        .filter(|v| v["storage"] == true)
        .map(|v| v["name"].clone())
        .collect()
}

fn check_names(object: &Value, spec: &Value, errors: &mut FieldErrors) {
    let names = &spec["names"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, plural) = (text(&spec["group"]), text(&names["plural"]));
    if group.is_empty() {
        errors.required("spec.group", "");
    } else if let Err(why) = check_dns_subdomain(&group) {
        errors.invalid("spec.group", &spec["group"], why);
    } else if !group.contains('.') {
        errors.invalid(
            "spec.group",
            &spec["group"],
            "should be a domain with at least one dot",
        );
    }
    for field in ["plural", "singular", "kind", "listKind"] {
        let value = text(&names[field]);
        if value.is_empty() {
            errors.required(format!("spec.names.{field}"), "");
        } else if let Err(why) = check_dns_label(&value.to_lowercase()) {
            errors.invalid(format!("spec.names.{field}"), &names[field], why);
        }
    }
    let expected = format!("{plural}.{group}");
    if meta_str(object, "name") != expected {
        let why = "must be spec.names.plural+\".\"+spec.group";
        errors.invalid("metadata.name", &object["metadata"]["name"], why);
    }
}

fn check_versions(spec: &Value, errors: &mut FieldErrors) {
    let versions = spec["versions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if versions.is_empty() {
        errors.required("spec.versions", "");
    }
    let stored = versions.iter().filter(|v| v["storage"] == true).count();
    if !versions.is_empty() && stored != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.invalid("spec.versions", &spec["versions"], why);
    }
    for (i, version) in versions.iter().enumerate() {
        let place = format!("spec.versions[{i}]");
        let name = version["name"].as_str().unwrap_or_default();
        if let Err(why) = check_dns_label(name) {
            errors.invalid(format!("{place}.name"), &version["name"], why);
        }
        if versions[..i].iter().any(|v| v["name"] == name) {
            errors.duplicate(format!("{place}.name"), &version["name"]);
        }
        let open_api = &version["schema"]["openAPIV3Schema"];
        if open_api.is_null() {
            errors.required(
                format!("{place}.schema.openAPIV3Schema"),
                "schemas are required",
            );
            continue;
        }
        for Fault {
            place: at,
            missing,
            why,
        } in schema::compile(open_api).err().unwrap_or_default()
        {
            let field = format!("{place}.schema.openAPIV3Schema{at}");
            if missing {
                errors.required(field, &why);
            } else {
                errors.invalid(field, &Value::Object(Map::new()), &why);
            }
        }
    }
}

/// A value in an object by a path such as `.spec.replicas`; used for scale and printer columns.
pub fn at_path<'a>(object: &'a Value, path: &str) -> &'a Value {
    let steps = path.split('.').filter(|s| !s.is_empty());
    let found = steps.into_iter().try_fold(object, |at, step| at.get(step));
    found.unwrap_or(&Value::Null)
}

/// Sets a value in an object by a path such as `.spec.replicas`.
pub fn set_path(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    for step in path.split('.').filter(|s| !s.is_empty()) {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[step];
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_and_written() {
        let mut object = json!({"spec": {"replicas": 3}});
        assert_eq!(*at_path(&object, ".spec.replicas"), 3);
        assert_eq!(*at_path(&object, ".spec.other.deep"), Value::Null);
        set_path(&mut object, ".status.replicas", json!(2));
        assert_eq!(
            object,
            json!({"spec": {"replicas": 3}, "status": {"replicas": 2}})
        );
    }

    #[test]
    fn schema_of_a_kind_is_made_of_its_definition() {
        let definition = json!({"spec": {"group": "e.org", "scope": "Cluster", "names": {"kind": "Foo", "plural": "foos"},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}},
                {"name": "v1beta1", "served": true, "schema": {"openAPIV3Schema": {"type": "object"}}},
                {"name": "v1alpha1", "served": false, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
        let kinds = kinds(&definition);
        assert_eq!(kinds.len(), 2);
        assert_eq!(kinds[0].stored_api_version(), "e.org/v1");
        assert_eq!(
            (
                kinds[1].api_version().as_str(),
                kinds[1].stored_api_version().as_str()
            ),
            ("e.org/v1beta1", "e.org/v1")
        );
        let schema = kinds[0].custom_schema.as_ref().unwrap();
        assert!(schema.is_named("metadata"));
    }
}
