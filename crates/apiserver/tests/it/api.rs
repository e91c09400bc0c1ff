//! Short words for requests to a server in the same process.

use axum::body::{Body, to_bytes};
use axum::http::Request;
use hypha_apiserver::{ApiServer, ServerOptions};
use serde_json::{Value, json};
use tower::ServiceExt;

pub const MERGE: &str = "application/merge-patch+json";
pub const JSON_PATCH: &str = "application/json-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";

/// A server without a network.
pub struct Api(pub ApiServer);

/// An answer: code, body, warnings.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
    pub warnings: Vec<String>,
}

impl Answer {
    /// The body of a request that went well.
    pub fn good(self) -> Value {
        assert!(self.code < 300, "{}: {}", self.code, self.body);
        self.body
    }

    /// The message of a request that was refused with this code.
    pub fn refused(self, code: u16) -> String {
        assert_eq!(
            (self.code, &self.body["kind"]),
            (code, &json!("Status")),
            "{}",
            self.body
        );
        self.body["message"].as_str().unwrap().to_owned()
    }
}

impl Api {
    pub fn new() -> Self {
        Self(ApiServer::new())
    }

    pub fn open(options: ServerOptions) -> Self {
        Self(ApiServer::open(options).unwrap())
    }

    pub async fn send(&self, method: &str, path: &str, content_type: &str, body: String) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .header("user-agent", "tester/1.0")
            .body(Body::from(body))
            .unwrap();
        let response = self.0.router().oneshot(request).await.unwrap();
        let code = response.status().as_u16();
        let warnings = response.headers().get_all("warning").iter();
        let warnings = warnings.map(|w| w.to_str().unwrap().to_owned()).collect();
        let bytes = to_bytes(response.into_body(), 256 << 20).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer {
            code,
            body,
            warnings,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", String::new()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, "application/json", body.to_string())
            .await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, "application/json", body.to_string())
            .await
    }

    pub async fn patch(&self, path: &str, content_type: &str, body: Value) -> Answer {
        self.send("PATCH", path, content_type, body.to_string())
            .await
    }

    pub async fn delete(&self, path: &str, options: Value) -> Answer {
        let body = if options.is_null() {
            String::new()
        } else {
            options.to_string()
        };
        self.send("DELETE", path, "application/json", body).await
    }

    pub async fn names(&self, path: &str) -> Vec<String> {
        let list = self.get(path).await.good();
        let items = list["items"].as_array().unwrap();
        items
            .iter()
            .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// A reference to an owner.
pub fn owned_by(owner: &Value, blocks: bool) -> Value {
    let meta = &owner["metadata"];
    json!({ "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": meta["name"], "uid": meta["uid"],
        "controller": true, "blockOwnerDeletion": blocks })
}

/// A template of pods labelled `app`.
pub fn template(app: &str) -> Value {
    json!({ "metadata": { "labels": { "app": app } }, "spec": { "containers": [{ "name": "c", "image": "nginx" }] } })
}

/// A deployment of nginx.
pub fn deployment(name: &str) -> Value {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": { "selector": { "matchLabels": { "app": name } }, "template": template(name) } })
}
