//! Rights by roles.

use axum::body::{Body, to_bytes};
use axum::http::Request;
use hypha_apiserver::{Authorization, ServerOptions};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::api::Api;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn server() -> Api {
    Api::open(ServerOptions {
        authorization: Authorization::Rbac,
        ..ServerOptions::default()
    })
}

/// A request as somebody: code and body.
async fn by(
    api: &Api,
    who: &str,
    groups: &[&str],
    method: &str,
    path: &str,
    body: Value,
) -> (u16, Value) {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .header("impersonate-user", who);
    for group in groups {
        request = request.header("impersonate-group", *group);
    }
    let text = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let response = api
        .0
        .router()
        .oneshot(request.body(Body::from(text)).unwrap())
        .await
        .unwrap();
    let code = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), 64 << 20).await.unwrap();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

async fn grant(api: &Api, path: &str, name: &str, role: Value, subject: Value) {
    let binding = json!({ "metadata": { "name": name }, "roleRef": role, "subjects": [subject] });
    api.post(&format!("{RBAC}/{path}"), binding).await.good();
}

fn cluster_role(name: &str) -> Value {
    json!({ "kind": "ClusterRole", "name": name })
}

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn what_no_role_allows_is_refused() {
    let api = server();
    let get = async |who, path: &str| by(&api, who, &[], "GET", path, Value::Null).await;
    let (code, status) = get("jane", PODS).await;
    assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")));
    assert_eq!(
        status["message"],
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let (_, status) = get("jane", "/apis/apps/v1/namespaces/default/deployments/d").await;
    assert_eq!(
        status["message"],
        "deployments.apps \"d\" is forbidden: User \"jane\" cannot get resource \"deployments\" in API group \"apps\" in the namespace \"default\""
    );
    assert_eq!(
        get("jane", "/api/v1/nodes").await.1["details"]["kind"],
        "nodes"
    );
    assert_eq!(get("jane", "/nothing").await.0, 403);
    assert_eq!(get("jane", "/api/v1/nodes/n/proxy/metrics").await.0, 403);
    // Everybody sees what there is, and nobody in particular sees health.
    for path in ["/apis", "/api/v1", "/openapi/v2", "/version"] {
        assert_eq!(get("jane", path).await.0, 200, "{path}");
    }
    assert_eq!(get("system:anonymous", "/version").await.0, 200);
    assert_eq!(get("system:anonymous", "/apis").await.0, 403);
    assert_eq!(
        by(&api, "root", &["system:masters"], "GET", PODS, Value::Null)
            .await
            .0,
        200
    );
    assert_eq!(api.get("/nothing").await.code, 404);
}

#[tokio::test]
async fn roles_give_verbs_on_resources_names_and_namespaces() {
    let api = server();
    let rules = json!([
        { "verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"] },
        { "verbs": ["get", "update", "watch"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mine"] },
    ]);
    let role = json!({ "metadata": { "name": "reader" }, "rules": rules });
    api.post(&format!("{RBAC}/namespaces/default/roles"), role)
        .await
        .good();
    let subject = json!({ "kind": "ServiceAccount", "name": "robot", "namespace": "default" });
    let role = json!({ "kind": "Role", "name": "reader" });
    grant(
        &api,
        "namespaces/default/rolebindings",
        "robot",
        role,
        subject,
    )
    .await;
    let robot = "system:serviceaccount:default:robot";
    let ask = async |method: &str, path: &str, body: Value| {
        by(&api, robot, &[], method, path, body).await.0
    };
    assert_eq!(ask("GET", PODS, Value::Null).await, 200);
    assert_eq!(ask("GET", &format!("{PODS}/p"), Value::Null).await, 404);
    assert_eq!(
        ask("GET", &format!("{PODS}?watch=true"), Value::Null).await,
        403
    );
    assert_eq!(
        ask("GET", "/api/v1/namespaces/kube-system/pods", Value::Null).await,
        403
    );
    assert_eq!(ask("GET", "/api/v1/pods", Value::Null).await, 403);
    assert_eq!(ask("POST", PODS, json!({})).await, 403);
    assert_eq!(
        ask("GET", &format!("{PODS}/p/status"), Value::Null).await,
        403
    );
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(ask("PUT", &format!("{maps}/mine"), json!({})).await, 404);
    assert_eq!(ask("PUT", &format!("{maps}/other"), json!({})).await, 403);
    let watch = format!("{maps}?watch=true&timeoutSeconds=1&fieldSelector=metadata.name%3Dmine");
    assert_eq!(ask("GET", &watch, Value::Null).await, 200);
    assert_eq!(
        ask("GET", &watch.replace("mine", "other"), Value::Null).await,
        403
    );
    // The same account of another namespace is somebody else.
    let (code, _) = by(
        &api,
        "system:serviceaccount:other:robot",
        &[],
        "GET",
        PODS,
        Value::Null,
    )
    .await;
    assert_eq!(code, 403);
}

#[tokio::test]
async fn the_usual_roles_are_made_of_parts() {
    let api = server();
    let user = |name: &str| json!({ "kind": "User", "name": name });
    grant(
        &api,
        "namespaces/default/rolebindings",
        "v",
        cluster_role("view"),
        user("vera"),
    )
    .await;
    grant(
        &api,
        "namespaces/default/rolebindings",
        "e",
        cluster_role("edit"),
        user("ed"),
    )
    .await;
    grant(
        &api,
        "clusterrolebindings",
        "a",
        cluster_role("cluster-admin"),
        user("ada"),
    )
    .await;
    let group = json!({ "kind": "Group", "name": "team" });
    grant(
        &api,
        "namespaces/default/rolebindings",
        "t",
        cluster_role("admin"),
        group,
    )
    .await;
    let pod = || json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "c", "image": "nginx" }] } });
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(by(&api, "vera", &[], "GET", PODS, Value::Null).await.0, 200);
    assert_eq!(
        by(&api, "vera", &[], "GET", secrets, Value::Null).await.0,
        403
    );
    assert_eq!(by(&api, "vera", &[], "POST", PODS, pod()).await.0, 403);
    assert_eq!(by(&api, "ed", &[], "POST", PODS, pod()).await.0, 201);
    assert_eq!(by(&api, "ed", &[], "GET", PODS, Value::Null).await.0, 200);
    assert_eq!(
        by(
            &api,
            "ed",
            &[],
            "GET",
            &format!("{RBAC}/namespaces/default/roles"),
            Value::Null
        )
        .await
        .0,
        403
    );
    assert_eq!(
        by(
            &api,
            "tim",
            &["team"],
            "GET",
            &format!("{RBAC}/namespaces/default/roles"),
            Value::Null
        )
        .await
        .0,
        200
    );
    assert_eq!(
        by(&api, "tim", &["team"], "GET", secrets, Value::Null)
            .await
            .0,
        200
    );
    assert_eq!(
        by(&api, "ada", &[], "GET", "/api/v1/nodes", Value::Null)
            .await
            .0,
        200
    );
    // A role with the label becomes a part of the bigger ones, custom kinds among them.
    let part = json!({ "metadata": { "name": "more", "labels": { "rbac.authorization.k8s.io/aggregate-to-view": "true" } },
        "rules": [{ "verbs": ["list"], "apiGroups": [""], "resources": ["secrets"] }] });
    api.post(&format!("{RBAC}/clusterroles"), part).await.good();
    assert_eq!(
        by(&api, "vera", &[], "GET", secrets, Value::Null).await.0,
        200
    );
}

#[tokio::test]
async fn reviews_say_what_requests_would_meet() {
    let api = server();
    grant(
        &api,
        "namespaces/default/rolebindings",
        "v",
        cluster_role("view"),
        json!({ "kind": "User", "name": "vera" }),
    )
    .await;
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review = |verb: &str, resource: &str| json!({ "spec": { "resourceAttributes": { "namespace": "default", "verb": verb, "resource": resource } } });
    let (code, answer) = by(&api, "vera", &[], "POST", path, review("list", "pods")).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(true)));
    let why = "RBAC: allowed by RoleBinding \"default/v\" of ClusterRole \"view\" to User \"vera\"";
    assert_eq!(answer["status"]["reason"], why);
    let (_, answer) = by(&api, "vera", &[], "POST", path, review("delete", "pods")).await;
    assert_eq!(answer["status"], json!({ "allowed": false }));
    let mut about = review("get", "configmaps");
    about["spec"]["user"] = json!("vera");
    let all = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    assert_eq!(
        api.post(all, about.clone()).await.good()["status"]["allowed"],
        true
    );
    assert_eq!(by(&api, "vera", &[], "POST", all, about).await.0, 403);
    let rules = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let (_, answer) = by(
        &api,
        "vera",
        &[],
        "POST",
        rules,
        json!({ "spec": { "namespace": "default" } }),
    )
    .await;
    let text = answer["status"]["resourceRules"].to_string();
    assert!(
        text.contains("endpointslices") && !text.contains("secrets"),
        "{text}"
    );
}
