//! Server-side apply and the record of who owns what, through the protocol.

use serde_json::{Value, json};

use crate::api::{APPLY, Api, MERGE, STRATEGIC, deployment};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const D: &str = "/apis/apps/v1/namespaces/default/deployments/d";

fn as_manager(path: &str, name: &str) -> String {
    format!("{path}?fieldManager={name}")
}

/// The fields of a manager of an object.
fn fields(object: &Value, manager: &str, operation: &str) -> Value {
    let list = object["metadata"]["managedFields"].as_array().unwrap();
    let found = list
        .iter()
        .find(|m| m["manager"] == manager && m["operation"] == operation);
    found.map_or(Value::Null, |m| m["fieldsV1"].clone())
}

#[tokio::test]
async fn an_object_is_made_and_changed_by_applying() {
    let api = Api::new();
    let first = api.patch(&as_manager(D, "a"), APPLY, deployment("d")).await;
    assert_eq!(first.code, 201);
    let first = first.good();
    assert_eq!(first["spec"]["replicas"], 1);
    let container = "k:{\"name\":\"c\"}";
    let expected = json!({ "f:spec": { "f:selector": {}, "f:template": {
        "f:metadata": { "f:labels": { "f:app": {} } },
        "f:spec": { "f:containers": { (container): { ".": {}, "f:name": {}, "f:image": {} } } } } } });
    assert_eq!(fields(&first, "a", "Apply"), expected);

    // The same again changes nothing at all.
    let again = api
        .patch(&as_manager(D, "a"), APPLY, deployment("d"))
        .await
        .good();
    assert_eq!(again, first);
    // YAML does as well.
    let yaml = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, labels: {x: z}}\n";
    let labelled = api
        .send("PATCH", &as_manager(D, "labeller"), APPLY, yaml.to_owned())
        .await
        .good();
    assert_eq!(labelled["metadata"]["labels"], json!({ "x": "z" }));
    // What is no longer applied goes.
    let bare = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, annotations: {x: z}}\n";
    let bare = api
        .send("PATCH", &as_manager(D, "labeller"), APPLY, bare.to_owned())
        .await
        .good();
    assert_eq!(
        (
            &bare["metadata"]["labels"],
            &bare["metadata"]["annotations"]
        ),
        (&Value::Null, &json!({ "x": "z" }))
    );
    assert_eq!(bare["spec"]["template"], first["spec"]["template"]);
}

#[tokio::test]
async fn conflicts_are_told_and_forced() {
    let api = Api::new();
    let mut two = deployment("d");
    two["spec"]["replicas"] = json!(2);
    api.patch(&as_manager(D, "a"), APPLY, two).await.good();
    let scaled = json!({ "spec": { "replicas": 7 } });
    let scaled = api
        .patch(&as_manager(&format!("{D}/scale"), "scaler"), MERGE, scaled)
        .await
        .good();
    assert_eq!(scaled["spec"]["replicas"], 7);
    let mut three = deployment("d");
    three["spec"]["replicas"] = json!(3);
    let answer = api.patch(&as_manager(D, "a"), APPLY, three.clone()).await;
    let cause = answer.body["details"]["causes"][0].clone();
    assert_eq!(
        (&cause["reason"], &cause["field"]),
        (&json!("FieldManagerConflict"), &json!(".spec.replicas"))
    );
    let why = answer.refused(409);
    assert!(
        why.starts_with("Apply failed with 1 conflict: conflict with \"scaler\" using apps/v1 at "),
        "{why}"
    );
    let forced = api
        .patch(&format!("{D}?fieldManager=a&force=true"), APPLY, three)
        .await
        .good();
    assert_eq!(forced["spec"]["replicas"], 3);
    assert_eq!(fields(&forced, "scaler", "Update"), Value::Null);
    // Letting go of it leaves the default behind.
    let left = api
        .patch(&as_manager(D, "a"), APPLY, deployment("d"))
        .await
        .good();
    assert_eq!(left["spec"]["replicas"], 1);
}

#[tokio::test]
async fn what_cannot_be_applied_is_refused() {
    let api = Api::new();
    assert!(
        api.patch(D, APPLY, deployment("d"))
            .await
            .refused(400)
            .contains("fieldManager is required")
    );
    let mut managed = deployment("d");
    managed["metadata"]["managedFields"] = json!([{ "manager": "x" }]);
    let why = api
        .patch(&as_manager(D, "a"), APPLY, managed)
        .await
        .refused(400);
    assert_eq!(why, "metadata.managedFields must be nil");
    let other = deployment("other");
    api.patch(&as_manager(D, "a"), APPLY, other)
        .await
        .refused(400);
    let mut unknown = deployment("d");
    unknown["spec"]["colour"] = json!(1);
    let strict = format!("{D}?fieldManager=a&fieldValidation=Strict");
    assert!(
        api.patch(&strict, APPLY, unknown)
            .await
            .refused(400)
            .contains("unknown field \"spec.colour\"")
    );
    let dry = format!("{D}?fieldManager=a&dryRun=All");
    api.patch(&dry, APPLY, deployment("d")).await.good();
    assert!(api.names(DEPLOYMENTS).await.is_empty());
}

#[tokio::test]
async fn status_is_owned_apart() {
    let api = Api::new();
    api.patch(&as_manager(D, "a"), APPLY, deployment("d"))
        .await
        .good();
    let status = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" },
        "spec": { "replicas": 9 }, "status": { "replicas": 4 } });
    let applied = api
        .patch(
            &as_manager(&format!("{D}/status"), "controller"),
            APPLY,
            status,
        )
        .await
        .good();
    assert_eq!(
        (&applied["spec"]["replicas"], &applied["status"]["replicas"]),
        (&json!(1), &json!(4))
    );
    let list = applied["metadata"]["managedFields"].as_array().unwrap();
    let entry = list.iter().find(|m| m["manager"] == "controller").unwrap();
    assert_eq!(
        (&entry["subresource"], &entry["fieldsV1"]),
        (
            &json!("status"),
            &json!({ "f:status": { "f:replicas": {} } })
        )
    );
}

#[tokio::test]
async fn ordinary_writers_are_recorded_and_fields_can_move() {
    let api = Api::new();
    let made = api.post(DEPLOYMENTS, deployment("d")).await.good();
    assert!(fields(&made, "tester", "Update")["f:spec"]["f:replicas"].is_object());
    let labels = json!({ "metadata": { "labels": { "l": "1" } } });
    let labelled = api
        .patch(&as_manager(D, "labeller"), MERGE, labels)
        .await
        .good();
    assert_eq!(
        fields(&labelled, "labeller", "Update"),
        json!({ "f:metadata": { "f:labels": { "f:l": {} } } })
    );
    // As clients do that change over to server-side apply: the entry becomes that of another writer.
    let mut moved = labelled.clone();
    for entry in moved["metadata"]["managedFields"].as_array_mut().unwrap() {
        if entry["manager"] == "labeller" {
            entry["operation"] = json!("Apply");
            entry["manager"] = json!("mover");
        }
    }
    let moved = api.put(D, moved).await.good();
    assert_eq!(
        fields(&moved, "mover", "Apply"),
        json!({ "f:metadata": { "f:labels": { "f:l": {} } } })
    );
    let none =
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" } });
    let gone = api.patch(&as_manager(D, "mover"), APPLY, none).await.good();
    assert_eq!(gone["metadata"]["labels"], Value::Null);
    let cleared = json!({ "metadata": { "managedFields": [{}] } });
    let cleared = api.patch(D, MERGE, cleared).await.good();
    assert_eq!(cleared["metadata"]["managedFields"], Value::Null);
}

#[tokio::test]
async fn strategic_patches_merge_lists_by_their_keys() {
    let api = Api::new();
    let mut body = deployment("d");
    body["spec"]["template"]["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 80 }]);
    api.post(DEPLOYMENTS, body).await.good();
    let patch = json!({ "spec": { "template": { "spec": {
        "containers": [{ "name": "side", "image": "busybox" }, { "name": "c", "env": [{ "name": "E", "value": "1" }] }],
        "$setElementOrder/containers": [{ "name": "side" }, { "name": "c" }] } } } });
    let after = api.patch(D, STRATEGIC, patch).await.good();
    let containers = &after["spec"]["template"]["spec"]["containers"];
    assert_eq!(
        (&containers[0]["name"], &containers[1]["image"]),
        (&json!("side"), &json!("nginx"))
    );
    assert_eq!(containers[1]["env"], json!([{ "name": "E", "value": "1" }]));
    assert_eq!(
        containers[1]["ports"],
        json!([{ "containerPort": 80, "protocol": "TCP" }])
    );
    assert_eq!(after["metadata"]["generation"], 2);
    let gone = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "side", "$patch": "delete" }] } } } });
    let after = api.patch(D, STRATEGIC, gone).await.good();
    assert_eq!(
        after["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}
