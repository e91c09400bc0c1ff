//! The embedded API server over plain HTTP: what clients other than ours send, and what nobody should.

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use hypha_apiserver::{ApiServer, ServerOptions};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tower::ServiceExt;

const POD: &str = r#"{"metadata":{"name":"web"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#;

struct Answer {
    status: u16,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e} in {:?}", self.text))
    }
}

async fn send(
    server: &ApiServer,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = server
        .router()
        .oneshot(request.body(body.into()).unwrap())
        .await
        .unwrap();
    let status = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), 16 << 20).await.unwrap();
    Answer {
        status,
        text: String::from_utf8_lossy(&bytes).into_owned(),
    }
}

/// Checks the error's code, and that it comes as a complete `Status`.
fn refused(answer: &Answer, code: u16) -> String {
    assert_eq!(answer.status, code, "{}", answer.text);
    let status = answer.json();
    assert_eq!(
        (&status["kind"], &status["code"]),
        (&json!("Status"), &json!(code))
    );
    assert!(!status["reason"].as_str().unwrap().is_empty());
    status["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn discovery_names_everything() {
    let server = ApiServer::new();
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping"] {
        let answer = send(&server, "GET", path, &[], "").await;
        assert_eq!((answer.status, answer.text.as_str()), (200, "ok"));
    }
    let get = async |path: &str| send(&server, "GET", path, &[], "").await.json();
    assert_eq!(get("/api").await["versions"], json!(["v1"]));
    let core = get("/api/v1").await;
    let names: Vec<&str> = core["resources"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|r| r["name"].as_str())
        .collect();
    for name in [
        "pods",
        "pods/status",
        "pods/binding",
        "nodes",
        "namespaces",
        "events",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    let groups = get("/apis").await;
    let lease = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .find(|g| g["name"] == "coordination.k8s.io")
        .unwrap();
    assert_eq!(
        lease["preferredVersion"]["groupVersion"],
        "coordination.k8s.io/v1"
    );
    assert_eq!(get("/apis/coordination.k8s.io").await["kind"], "APIGroup");
    assert_eq!(
        get("/apis/coordination.k8s.io/v1").await["resources"][0]["name"],
        "leases"
    );
    refused(&send(&server, "GET", "/apis/nothing", &[], "").await, 404);
    refused(&send(&server, "POST", "/version", &[], "").await, 405);
}

#[tokio::test]
async fn bodies_that_cannot_be_read() {
    let server = ApiServer::new();
    let pods = "/api/v1/namespaces/default/pods";
    let json = ("content-type", "application/json");
    let protobuf = ("content-type", "application/vnd.kubernetes.protobuf");
    refused(&send(&server, "POST", pods, &[protobuf], "x").await, 415);
    let cbor = ("content-type", "application/cbor");
    assert!(
        refused(&send(&server, "POST", pods, &[cbor], "x").await, 415).contains("application/json")
    );
    assert!(refused(&send(&server, "POST", pods, &[json], "{").await, 400).contains("line 1"));
    refused(&send(&server, "POST", pods, &[json], "").await, 400);
    refused(&send(&server, "POST", pods, &[json], "[]").await, 400);
    refused(
        &send(&server, "POST", pods, &[json], "[".repeat(100_000)).await,
        400,
    );
    refused(
        &send(&server, "POST", pods, &[json], "x".repeat((3 << 20) + 1)).await,
        413,
    );
    refused(
        &send(&server, "POST", "/api/v1/pods", &[json], POD).await,
        405,
    );
    let other = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"web"}}"#;
    assert!(refused(&send(&server, "POST", pods, &[json], other).await, 400).contains("Node"));
    let elsewhere = r#"{"metadata":{"name":"web","namespace":"kube-system"}}"#;
    assert!(
        refused(&send(&server, "POST", pods, &[json], elsewhere).await, 400)
            .contains("kube-system")
    );
}

#[tokio::test]
async fn invalid_pods_name_every_fault() {
    let server = ApiServer::new();
    let pod = json!({"metadata": {"name": "Web", "labels": {"a": "-"}}, "spec": {"restartPolicy": "Often", "containers": [
        {"name": "c", "image": "i"}, {"name": "c"}, {"image": "i", "ports": [{"containerPort": 99999}]}]}});
    let answer = send(
        &server,
        "POST",
        "/api/v1/namespaces/default/pods",
        &[],
        pod.to_string(),
    )
    .await;
    let message = refused(&answer, 422);
    for field in [
        "metadata.name",
        "metadata.labels",
        "spec.restartPolicy",
        "spec.containers[1].name: Duplicate",
        "spec.containers[1].image: Required",
        "spec.containers[2].name: Required",
        "spec.containers[2].ports[0].containerPort",
    ] {
        assert!(message.contains(field), "{field} in {message}");
    }
    assert_eq!(
        answer.json()["details"]["causes"].as_array().unwrap().len(),
        7
    );
    let strict = "/api/v1/namespaces/default/pods?fieldValidation=Strict";
    let typo = POD.replace("image", "imagee");
    assert!(
        refused(&send(&server, "POST", strict, &[], typo).await, 400)
            .contains("spec.containers[0].imagee")
    );
}

#[tokio::test]
async fn dry_runs_leave_no_trace() {
    let server = ApiServer::new();
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(
        send(&server, "POST", &format!("{pods}?dryRun=All"), &[], POD)
            .await
            .status,
        201
    );
    refused(
        &send(&server, "GET", &format!("{pods}/web"), &[], "").await,
        404,
    );
    send(&server, "POST", pods, &[], POD).await;
    let before = server.store().revision();
    send(
        &server,
        "DELETE",
        &format!("{pods}/web?dryRun=All"),
        &[],
        "",
    )
    .await;
    let merge = ("content-type", "application/merge-patch+json");
    let labels = r#"{"metadata":{"labels":{"a":"b"}}}"#;
    let answer = send(
        &server,
        "PATCH",
        &format!("{pods}/web?dryRun=All"),
        &[merge],
        labels,
    )
    .await;
    assert_eq!(answer.json()["metadata"]["labels"]["a"], "b");
    assert_eq!(server.store().revision(), before);
}

#[tokio::test]
async fn representations() {
    let server = ApiServer::new();
    let pods = "/api/v1/namespaces/default/pods";
    send(&server, "POST", pods, &[], POD).await;
    let table = (
        "accept",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    );
    let shown = send(&server, "GET", pods, &[table], "").await.json();
    assert_eq!(shown["kind"], "Table");
    assert_eq!(shown["rows"][0]["cells"][0], "web");
    assert_eq!(shown["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = (
        "accept",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    );
    let shown = send(&server, "GET", pods, &[partial], "").await.json();
    assert_eq!(
        (&shown["kind"], &shown["items"][0]["spec"]),
        (&json!("PartialObjectMetadataList"), &Value::Null)
    );
    let protobuf = ("accept", "application/vnd.kubernetes.protobuf");
    assert_eq!(
        send(&server, "GET", pods, &[protobuf], "").await.json()["kind"],
        "PodList"
    );
    assert_eq!(
        send(
            &server,
            "GET",
            &format!("{pods}?limit=1&resourceVersion=0"),
            &[],
            ""
        )
        .await
        .status,
        200
    );
}

#[tokio::test]
async fn a_watch_ends_in_time_with_a_bookmark() {
    let server = ApiServer::open(ServerOptions::default()).unwrap();
    let path = "/api/v1/namespaces?watch=1&timeoutSeconds=1&allowWatchBookmarks=true\
                &sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let answer = send(&server, "GET", path, &[], "").await;
    let lines: Vec<Value> = answer
        .text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let types: Vec<&str> = lines.iter().filter_map(|l| l["type"].as_str()).collect();
    assert_eq!(
        types,
        ["ADDED", "ADDED", "ADDED", "ADDED", "BOOKMARK", "BOOKMARK"]
    );
    assert_eq!(
        lines[4]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
}

/// Whatever is sent, there is an answer, errors are complete, and the server goes on.
#[test]
fn nothing_that_is_sent_brings_it_down() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let server = ApiServer::new();
    runtime.block_on(send(
        &server,
        "POST",
        "/api/v1/namespaces/default/pods",
        &[],
        POD,
    ));
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let method = prop::sample::select(vec![
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS",
    ]);
    let path = "/(api/v1|apis/coordination\\.k8s\\.io/v1|apis|x)(/namespaces(/default)?)?(/(pods|nodes|leases|events))?\
                (/(web|default|%41|%))?(/(status|binding|eviction|finalize|log))?\
                (\\?((limit|resourceVersion|continue|labelSelector|fieldSelector|dryRun|gracePeriodSeconds|resourceVersionMatch)=[a-z0-9%!(),=]{0,6}&){0,3})?";
    let content_type = prop::sample::select(vec![
        "",
        "application/json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/json-patch+json",
        "application/apply-patch+yaml",
    ]);
    let strategy = (method, path, content_type, body());
    let result = runner.run(&strategy, |(method, path, content_type, body)| {
        let headers = [("content-type", content_type)];
        let answer = runtime.block_on(send(&server, method, &path, &headers, body));
        prop_assert!(answer.status < 500, "{method} {path}: {}", answer.text);
        if answer.status >= 400 && method != "HEAD" {
            prop_assert_eq!(&answer.json()["code"], &json!(answer.status));
        }
        Ok(())
    });
    result.unwrap();
    let health = runtime.block_on(send(&server, "GET", "/readyz", &[], ""));
    assert_eq!(health.status, StatusCode::OK.as_u16());
}

/// Bodies from broken text to objects that nearly make sense.
fn body() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "metadata",
        "spec",
        "status",
        "name",
        "namespace",
        "labels",
        "annotations",
        "finalizers",
        "containers",
        "image",
        "ports",
        "containerPort",
        "resourceVersion",
        "uid",
        "deletionTimestamp",
        "target",
        "preconditions",
        "podCIDRs",
        "op",
        "path",
        "value",
        "apiVersion",
        "kind",
        "$patch",
        "conditions",
        "generateName",
        "ownerReferences",
        "env",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "web",
            "default",
            "v1",
            "Pod",
            "add",
            "/metadata",
            "",
            "replace"
        ])
        .prop_map(Value::from),
        "\\PC{0,6}".prop_map(Value::from),
    ];
    let tree = leaf.prop_recursive(5, 30, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((key.clone(), inner), 0..6).prop_map(|fields| Value::Object(
                fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
            )),
        ]
    });
    prop_oneof![4 => tree.prop_map(|v| v.to_string()), 1 => "\\PC{0,30}", 1 => Just(String::new())]
}

#[tokio::test]
async fn who_asks_for_what_has_no_effect_is_told() {
    let api = crate::api::Api::new();
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}});
    let answer = api
        .post("/api/v1/namespaces/default/resourcequotas", quota)
        .await;
    assert_eq!(answer.warnings.len(), 1, "{answer:?}");
    assert!(
        answer.warnings[0].contains("ResourceQuota is kept, but has no effect: nothing is counted")
    );
    let map = json!({"metadata": {"name": "m"}});
    let answer = api.post("/api/v1/namespaces/default/configmaps", map).await;
    assert!(answer.warnings.is_empty(), "{answer:?}");
    // Clients that know another version learn which one is there.
    let path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let refused = api
        .post(path, json!({"metadata": {"name": "s"}}))
        .await
        .refused(404);
    assert!(
        refused.ends_with("horizontalpodautoscalers are in autoscaling/v2 here"),
        "{refused}"
    );
    let nothing = api.get("/apis/autoscaling/v1/nothing").await.refused(404);
    assert!(nothing.ends_with("requested resource"), "{nothing}");
}
