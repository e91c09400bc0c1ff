//! Custom kinds: defined, validated, defaulted, pruned, in several versions.

use serde_json::{Value, json};

use crate::api::{Api, MERGE, STRATEGIC};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.org/v1/namespaces/default/widgets";

fn schema() -> Value {
    json!({ "type": "object", "required": ["spec"], "properties": {
        "spec": { "type": "object", "required": ["size"], "properties": {
            "size": { "type": "integer", "format": "int32", "minimum": 1, "maximum": 10 },
            "color": { "type": "string", "enum": ["red", "blue"], "default": "red" },
            "name": { "type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 5 },
            "port": { "x-kubernetes-int-or-string": true },
            "address": { "type": "string", "format": "ipv4" },
            "free": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
            "labels": { "type": "object", "additionalProperties": { "type": "string" } },
            "note": { "type": "string", "nullable": true },
            "tags": { "type": "array", "x-kubernetes-list-type": "set", "items": { "type": "string" }, "maxItems": 3 },
            "parts": { "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                "items": { "type": "object", "required": ["id"], "properties": {
                    "id": { "type": "string" }, "count": { "type": "integer", "default": 1 } } } },
            "either": { "type": "object", "properties": { "a": { "type": "string" }, "b": { "type": "string" } },
                "oneOf": [{ "required": ["a"] }, { "required": ["b"] }] },
            "replicas": { "type": "integer" }
        } },
        "status": { "type": "object", "properties": { "replicas": { "type": "integer" }, "phase": { "type": "string" } } }
    } })
}

fn version(name: &str, storage: bool) -> Value {
    json!({ "name": name, "served": true, "storage": storage, "schema": { "openAPIV3Schema": schema() },
        "subresources": { "status": {}, "scale": {
            "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas" } },
        "additionalPrinterColumns": [{ "name": "Size", "type": "integer", "jsonPath": ".spec.size" }] })
}

fn definition() -> Value {
    json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "widgets.example.org" },
        "spec": { "group": "example.org", "scope": "Namespaced", "versions": [version("v1beta1", false), version("v1", true)],
            "names": { "plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"] } } })
}

fn widget(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "example.org/v1", "kind": "Widget", "metadata": { "name": name }, "spec": spec })
}

async fn with_widgets() -> Api {
    let api = Api::new();
    api.post(DEFINITIONS, definition()).await.good();
    api
}

#[tokio::test]
async fn a_defined_kind_is_there_at_once_and_gone_with_its_definition() {
    let api = Api::new();
    api.get(WIDGETS).await.refused(404);
    let made = api.post(DEFINITIONS, definition()).await.good();
    let conditions: Vec<String> = made["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| format!("{}={}", c["type"], c["status"]))
        .collect();
    assert_eq!(
        conditions,
        ["\"NamesAccepted\"=\"True\"", "\"Established\"=\"True\""]
    );
    assert_eq!(made["status"]["acceptedNames"]["listKind"], "WidgetList");
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    let found = api.get("/apis/example.org/v1").await.good();
    let names: Vec<&str> = found["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["widgets", "widgets/scale", "widgets/status"]);
    assert_eq!(found["resources"][0]["shortNames"], json!(["wd"]));
    assert_eq!(
        api.get("/apis/example.org").await.good()["preferredVersion"]["version"],
        "v1"
    );

    api.post(WIDGETS, widget("held", json!({ "size": 1 })))
        .await
        .good();
    let hold = json!({ "metadata": { "finalizers": ["example.org/hold"] } });
    api.patch(&format!("{WIDGETS}/held"), MERGE, hold)
        .await
        .good();
    let path = format!("{DEFINITIONS}/widgets.example.org");
    api.delete(&path, Value::Null).await.good();
    assert!(api.get(&path).await.good()["metadata"]["deletionTimestamp"].is_string());
    let free = json!({ "metadata": { "finalizers": null } });
    api.patch(&format!("{WIDGETS}/held"), MERGE, free)
        .await
        .good();
    api.get(&path).await.refused(404);
    api.get(WIDGETS).await.refused(404);
    // A new definition of the name begins without objects.
    api.post(DEFINITIONS, definition()).await.good();
    assert!(api.names(WIDGETS).await.is_empty());
}

#[tokio::test]
async fn objects_are_defaulted_and_pruned() {
    let api = with_widgets().await;
    let spec = json!({ "size": 2, "unknown": 1, "free": { "kept": { "deep": 1 } }, "labels": { "any": "x" }, "note": null,
        "name": null, "parts": [{ "id": "a", "odd": 1 }] });
    let answer = api
        .post(
            &format!("{WIDGETS}?fieldValidation=Warn"),
            widget("w", spec.clone()),
        )
        .await;
    let warned = [
        "299 - \"unknown field \\\"spec.parts[0].odd\\\"\"",
        "299 - \"unknown field \\\"spec.unknown\\\"\"",
    ];
    assert_eq!(answer.warnings, warned);
    let expected = json!({ "size": 2, "color": "red", "free": { "kept": { "deep": 1 } }, "labels": { "any": "x" }, "note": null,
        "parts": [{ "id": "a", "count": 1 }] });
    assert_eq!(answer.good()["spec"], expected);
    let strict = api
        .post(
            &format!("{WIDGETS}?fieldValidation=Strict"),
            widget("s", spec),
        )
        .await
        .refused(400);
    assert!(
        strict.contains("strict decoding error: unknown field \"spec.parts[0].odd\""),
        "{strict}"
    );
}

#[tokio::test]
async fn values_that_do_not_fit_are_named() {
    let api = with_widgets().await;
    let refused = async |field: &str, value: Value| {
        let mut spec = json!({ "size": 1 });
        spec[field] = value;
        let why = api.post(WIDGETS, widget("w", spec)).await.refused(422);
        why.strip_prefix("Widget.example.org \"w\" is invalid: ")
            .unwrap_or_else(|| panic!("{why}"))
            .to_owned()
    };
    let size = "spec.size: Invalid value: 11: spec.size in body should be less than or equal to 10";
    assert_eq!(refused("size", json!(11)).await, size);
    let kind = "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"";
    assert_eq!(refused("size", json!("x")).await, kind);
    let color = "spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\"";
    assert_eq!(refused("color", json!("green")).await, color);
    let name = "spec.name: Invalid value: \"A-1\": spec.name in body should match '^[a-z]+$'";
    assert_eq!(refused("name", json!("A-1")).await, name);
    assert!(
        refused("name", json!("a"))
            .await
            .contains("should be at least 2 chars long")
    );
    assert!(
        refused("address", json!("fd00::1"))
            .await
            .contains("must be of type ipv4")
    );
    assert!(
        refused("port", json!(true))
            .await
            .contains("must be of type integer,string")
    );
    assert_eq!(
        refused("tags", json!(["a", "a"])).await,
        "spec.tags[1]: Duplicate value: \"a\""
    );
    assert!(
        refused("tags", json!(["a", "b", "c", "d"]))
            .await
            .contains("Too many: 4: must have at most 3 items")
    );
    assert!(
        refused("parts", json!([{ "id": "a" }, { "id": "a" }]))
            .await
            .starts_with("spec.parts[1]: Duplicate value")
    );
    assert_eq!(
        refused("parts", json!([{}])).await,
        "spec.parts[0].id: Required value"
    );
    assert!(
        refused("either", json!({}))
            .await
            .contains("one and only one schema (oneOf). Found none valid")
    );
    assert!(
        refused("either", json!({ "a": "", "b": "" }))
            .await
            .contains("Found 2 valid alternatives")
    );
    let nothing = json!({ "metadata": { "name": "w" } });
    assert!(
        api.post(WIDGETS, nothing)
            .await
            .refused(422)
            .ends_with("spec: Required value")
    );
    api.post(
        WIDGETS,
        widget(
            "good",
            json!({ "size": 1, "port": "http", "either": { "a": "x" } }),
        ),
    )
    .await
    .good();
}

#[tokio::test]
async fn versions_show_the_same_objects() {
    let api = with_widgets().await;
    let older = "/apis/example.org/v1beta1/namespaces/default/widgets";
    let mut old = widget("w", json!({ "size": 3 }));
    old["apiVersion"] = json!("example.org/v1beta1");
    assert_eq!(
        api.post(older, old).await.good()["apiVersion"],
        "example.org/v1beta1"
    );
    let new = api.get(&format!("{WIDGETS}/w")).await.good();
    assert_eq!(
        (&new["apiVersion"], &new["spec"]["size"]),
        (&json!("example.org/v1"), &json!(3))
    );
    let patched = api
        .patch(
            &format!("{older}/w"),
            MERGE,
            json!({ "spec": { "size": 4 } }),
        )
        .await
        .good();
    assert_eq!(patched["apiVersion"], "example.org/v1beta1");
    let list = api.get(older).await.good();
    assert_eq!(list["items"][0]["apiVersion"], "example.org/v1beta1");
    // A version that is no longer served is not there any more; its objects are.
    let mut fewer = definition();
    fewer["spec"]["versions"][0]["served"] = json!(false);
    fewer["metadata"]["resourceVersion"] = api
        .get(&format!("{DEFINITIONS}/widgets.example.org"))
        .await
        .good()["metadata"]["resourceVersion"]
        .clone();
    api.put(&format!("{DEFINITIONS}/widgets.example.org"), fewer)
        .await
        .good();
    api.get(older).await.refused(404);
    assert_eq!(
        api.get(&format!("{WIDGETS}/w")).await.good()["spec"]["size"],
        4
    );
}

#[tokio::test]
async fn status_scale_and_generation() {
    let api = with_widgets().await;
    let mut body = widget("w", json!({ "size": 1 }));
    body["status"] = json!({ "phase": "ignored" });
    let made = api.post(WIDGETS, body).await.good();
    assert_eq!(
        (&made["status"], &made["metadata"]["generation"]),
        (&Value::Null, &json!(1))
    );
    let path = format!("{WIDGETS}/w");
    let both = json!({ "spec": { "size": 9 }, "status": { "phase": "Ready", "replicas": 2 }, "metadata": { "labels": { "a": "b" } } });
    let after = api
        .patch(&format!("{path}/status"), MERGE, both.clone())
        .await
        .good();
    assert_eq!(
        (&after["spec"]["size"], &after["status"]["phase"]),
        (&json!(1), &json!("Ready"))
    );
    assert_eq!(
        (
            &after["metadata"]["generation"],
            &after["metadata"]["labels"]
        ),
        (&json!(1), &Value::Null)
    );
    let after = api
        .patch(
            &path,
            MERGE,
            json!({ "spec": { "size": 9 }, "status": { "phase": "Lost" } }),
        )
        .await
        .good();
    assert_eq!(
        (&after["status"]["phase"], &after["metadata"]["generation"]),
        (&json!("Ready"), &json!(2))
    );

    let scaled = api
        .patch(
            &format!("{path}/scale"),
            MERGE,
            json!({ "spec": { "replicas": 5 } }),
        )
        .await
        .good();
    assert_eq!(
        (
            &scaled["kind"],
            &scaled["spec"],
            &scaled["status"]["replicas"]
        ),
        (&json!("Scale"), &json!({ "replicas": 5 }), &json!(2))
    );
    assert_eq!(api.get(&path).await.good()["spec"]["replicas"], 5);
    let negative = json!({ "spec": { "replicas": -1 } });
    api.patch(&format!("{path}/scale"), MERGE, negative)
        .await
        .refused(422);
    let strategic = api.patch(&path, STRATEGIC, json!({})).await;
    strategic.refused(415);
}

#[tokio::test]
async fn definitions_that_cannot_work_are_refused() {
    let api = Api::new();
    let refused = async |change: &dyn Fn(&mut Value)| {
        let mut body = definition();
        change(&mut body);
        api.post(DEFINITIONS, body).await.refused(422)
    };
    let name = refused(&|d| d["metadata"]["name"] = json!("gadgets.example.org")).await;
    assert!(
        name.contains("must be spec.names.plural+\".\"+spec.group"),
        "{name}"
    );
    let storage = refused(&|d| d["spec"]["versions"][1]["storage"] = json!(false)).await;
    assert!(
        storage.contains("must have exactly one version marked as storage version"),
        "{storage}"
    );
    let untyped = refused(&|d| {
        d["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
            ["odd"] = json!({});
    })
    .await;
    let place = "spec.versions[1].schema.openAPIV3Schema.properties[spec].properties[odd].type: Required value";
    assert!(untyped.contains(place), "{untyped}");
    let pattern = refused(&|d| {
        d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
            ["name"]["pattern"] = json!("(");
    })
    .await;
    assert!(pattern.contains("is not a regular expression"), "{pattern}");
    let default = refused(&|d| {
        d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
            ["size"]["default"] = json!(99);
    })
    .await;
    assert!(default.contains("properties[size].default"), "{default}");
    let webhook = refused(&|d| d["spec"]["conversion"] = json!({ "strategy": "Webhook" })).await;
    assert!(webhook.contains("spec.conversion.strategy"), "{webhook}");
    assert!(api.names(DEFINITIONS).await.is_empty());
}

#[tokio::test]
async fn a_name_is_given_once_in_a_group_and_again_when_it_is_free() {
    let api = Api::new();
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let make = async |plural: &str, group: &str, kind: &str, short: &str| {
        let definition = json!({ "metadata": { "name": format!("{plural}.{group}") }, "spec": { "group": group, "scope": "Cluster",
            "names": { "plural": plural, "kind": kind, "shortNames": [short] }, "versions": [{ "name": "v1", "served": true,
            "storage": true, "schema": { "openAPIV3Schema": { "type": "object" } } }] } });
        api.post(path, definition).await.good()
    };
    let conditions = |definition: &Value| {
        let list = definition["status"]["conditions"].as_array().unwrap();
        let shown = list.iter().map(|c| {
            let text = |field: &str| c[field].as_str().unwrap().to_owned();
            format!(
                "{}={} {}: {}",
                text("type"),
                text("status"),
                text("reason"),
                text("message")
            )
        });
        shown.collect::<Vec<_>>()
    };
    const FINE: [&str; 2] = [
        "NamesAccepted=True NoConflicts: no conflicts found",
        "Established=True InitialNamesAccepted: the initial names have been accepted",
    ];
    assert_eq!(
        conditions(&make("foos", "example.org", "Foo", "f").await),
        FINE
    );
    // Another group is another place.
    assert_eq!(
        conditions(&make("foos", "example.com", "Foo", "f").await),
        FINE
    );
    let waiting = make("bars", "example.org", "Foo", "b").await;
    let refused = [
        "NamesAccepted=False ListKindConflict: \"FooList\" is already in use",
        "Established=False NotAccepted: not all names are accepted",
    ];
    assert_eq!(conditions(&waiting), refused);
    assert_eq!(api.get("/apis/example.org/v1/bars").await.code, 404);
    let short = make("bazs", "example.org", "Baz", "f").await;
    assert!(conditions(&short)[0].contains("ShortNamesConflict"));
    api.delete(&format!("{path}/foos.example.org"), Value::Null)
        .await
        .good();
    for plural in ["bars", "bazs"] {
        let now = api
            .get(&format!("{path}/{plural}.example.org"))
            .await
            .good();
        assert_eq!(conditions(&now), FINE);
        assert_eq!(
            api.get(&format!("/apis/example.org/v1/{plural}"))
                .await
                .code,
            200
        );
    }
    // One that is served stays so, under the names that it had.
    let patch = json!({ "spec": { "names": { "shortNames": ["b", "f"] } } });
    let served = api
        .patch(&format!("{path}/bars.example.org"), MERGE, patch)
        .await
        .good();
    assert!(
        conditions(&served)[0].contains("ShortNamesConflict") && conditions(&served)[1] == FINE[1]
    );
    assert_eq!(
        served["status"]["acceptedNames"]["shortNames"],
        json!(["b"])
    );
    assert_eq!(api.get("/apis/example.org/v1/bars").await.code, 200);
}
