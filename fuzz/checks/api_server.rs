//! Any requests, one after another: each gets an answer that a client can read, never one that blames the server; what is kept after them
//! is whole. The text: `METHOD URI CONTENT-TYPE` in a line, then the body, up to a line `---`.

use std::{cell::RefCell, sync::LazyLock};

use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use hypha_apiserver::{ApiServer, store::ListOptions};
use serde_json::Value;
use tokio::{runtime, time};
use tower::ServiceExt;

static SERVER: LazyLock<ApiServer> = LazyLock::new(ApiServer::new);

thread_local! {
    static RUNTIME: RefCell<runtime::Runtime> = RefCell::new(
        runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"),
    );
}

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    RUNTIME.with_borrow(|runtime| {
        runtime.block_on(async {
            for request in text.split("\n---\n").take(8) {
                one(request).await;
            }
        })
    });
    for table in [
        "pods",
        "configmaps",
        "customresourcedefinitions.apiextensions.k8s.io",
    ] {
        whole(table);
    }
}

async fn one(text: &str) {
    let (head, body) = text.split_once('\n').unwrap_or((text, ""));
    let mut words = head.splitn(3, ' ');
    let (method, uri, content_type) = (words.next(), words.next(), words.next());
    let request = Request::builder()
        .method(method.unwrap_or("GET"))
        .uri(uri.unwrap_or("/"))
        .header("content-type", content_type.unwrap_or_default())
        .body(Body::from(body.to_owned()));
    // What is no request at all does not come this far.
    let Ok(request) = request else { return };
    let response = SERVER.router().oneshot(request).await.expect("an answer");
    let status = response.status();
    // Nobody reaches a kubelet here.
    assert!(
        status.as_u16() < 500 || [503, 504].contains(&status.as_u16()),
        "{status} for {head}"
    );
    // Watches go on for ever: their beginning is enough.
    let body = to_bytes(response.into_body(), 64 << 20);
    if let Ok(body) = time::timeout(time::Duration::from_millis(1), body).await
        && !status.is_success()
    {
        let body = body.expect("the body comes whole");
        if let Ok(answer) = serde_json::from_slice::<Value>(&body) {
            assert_eq!(answer["kind"], "Status", "{status} for {head}");
        }
    }
}

/// Every object of a kind reads as itself, has a name and a revision. Then it goes.
fn whole(table: &str) {
    let store = SERVER.store();
    let kind = store.kind(table).expect("a built-in kind");
    let list = store.list(&kind, &ListOptions::default()).expect("a list");
    for object in &list.items {
        let read: Value = serde_json::from_slice(object.text()).expect("objects are JSON");
        assert_eq!(read, object.whole());
        let metadata = &read["metadata"];
        assert!(
            metadata["name"]
                .as_str()
                .is_some_and(|name| !name.is_empty())
        );
        let revision = metadata["resourceVersion"]
            .as_str()
            .and_then(|r| r.parse::<u64>().ok());
        assert!(revision.is_some_and(|revision| revision <= list.revision));
    }
    let filter = hypha_apiserver::store::Filter::default();
    let options = hypha_apiserver::store::DeleteOptions {
        grace_period: Some(0),
        ..Default::default()
    };
    let _ = store.delete_collection(&kind, &filter, &options);
}
