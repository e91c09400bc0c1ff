//! What becomes of odd texts and odd revisions.

use serde_json::{Value, json};

use crate::api::{APPLY, Api, JSON_PATCH, MERGE};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn repeated_fields_are_told_or_refused() {
    let api = Api::new();
    let text = r#"{"metadata": {"name": "m"}, "data": {"a": "1", "a": "2"}, "dada": 1}"#;
    let send = async |how: &str| {
        let path = format!("{CONFIG_MAPS}?fieldValidation={how}&dryRun=All");
        api.send("POST", &path, "application/json", text.to_owned())
            .await
    };
    let why = send("Strict").await.refused(400);
    let both = "strict decoding error: duplicate field \"data.a\", unknown field \"dada\"";
    assert!(why.ends_with(both), "{why}");
    let told = send("Warn").await;
    assert_eq!(
        told.warnings,
        [
            "299 - \"duplicate field \\\"data.a\\\"\"",
            "299 - \"unknown field \\\"dada\\\"\""
        ]
    );
    assert_eq!(told.good()["data"]["a"], "2");
    assert!(send("Ignore").await.warnings.is_empty());
    api.post(CONFIG_MAPS, json!({ "metadata": { "name": "m" } }))
        .await
        .good();
    let path = format!("{CONFIG_MAPS}/m?fieldValidation=Strict&fieldManager=f");
    for (content_type, text) in [
        (MERGE, r#"{"data": {"a": "1"}, "data": {}}"#),
        (
            JSON_PATCH,
            r#"[{"op": "add", "path": "/data", "value": {}, "path": "/data"}]"#,
        ),
        (
            APPLY,
            r#"{"apiVersion": "v1", "kind": "ConfigMap", "data": {}, "data": {}}"#,
        ),
    ] {
        let answer = api
            .send("PATCH", &path, content_type, text.to_owned())
            .await;
        let why = answer.refused(400);
        assert!(why.contains("duplicate field"), "{why}");
    }
}

#[tokio::test]
async fn empty_maps_and_lists_of_built_in_kinds_are_left_out() {
    let api = Api::new();
    let map = json!({ "metadata": { "name": "m", "annotations": {}, "labels": {} }, "data": {} });
    let made = api.post(CONFIG_MAPS, map.clone()).await.good();
    assert!(made.get("data").is_none() && made["metadata"].get("annotations").is_none());
    // Written once more, nothing changes.
    let path = format!("{CONFIG_MAPS}/m");
    let again = api.put(&path, map).await.good();
    assert_eq!(
        again["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    let full = json!({ "data": { "a": "b" } });
    assert_eq!(api.patch(&path, MERGE, full).await.good()["data"]["a"], "b");
    let emptied = json!({ "data": { "a": null } });
    assert!(
        api.patch(&path, MERGE, emptied)
            .await
            .good()
            .get("data")
            .is_none()
    );
    // An empty list of managers makes the server forget them.
    let forget = json!({ "metadata": { "managedFields": [] } });
    let forgotten = api.patch(&path, MERGE, forget).await.good();
    assert!(forgotten["metadata"].get("managedFields").is_none());
}

#[tokio::test]
async fn revisions_that_have_not_come_are_told_inside_the_watch() {
    let api = Api::new();
    let told = async |query: &str| {
        let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion=9999999999999999{query}");
        let answer = api.get(&path).await;
        assert_eq!((answer.code, &answer.body["type"]), (200, &json!("ERROR")));
        answer.body["object"].clone()
    };
    let initial = told("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan").await;
    assert_eq!(
        (&initial["code"], &initial["reason"]),
        (&json!(504), &json!("Timeout"))
    );
    assert_eq!(
        initial["details"]["causes"][0]["reason"],
        "ResourceVersionTooLarge"
    );
    // It can only be one of another store: whoever has it begins anew.
    assert_eq!(told("").await["code"], 410);
    let list = api
        .get(&format!("{CONFIG_MAPS}?resourceVersion=9999999999999999"))
        .await;
    assert!(
        list.refused(504)
            .starts_with("Too large resource version: 9999999999999999")
    );
    assert_eq!(api.delete(CONFIG_MAPS, Value::Null).await.code, 200);
}
