//! Kinds that are added while the server runs, several listeners, and its end.

use std::pin::pin;
use std::time::Duration;

use futures::TryStreamExt;
use hypha_apiserver::{ApiServer, Kind};
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams, WatchParams,
};
use kube::{Client, Config};
use serde_json::json;
use tokio::net::TcpListener;

use crate::client::{code, start};

fn widgets() -> (Kind, ApiResource) {
    let gvk = GroupVersionKind::gvk("example.com", "v1", "Widget");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "widgets");
    (
        Kind::new("example.com", "v1", "Widget", "widgets").short(&["wd"]),
        resource,
    )
}

#[tokio::test]
async fn a_kind_of_ones_own() {
    let running = start(Default::default()).await;
    let (kind, resource) = widgets();
    let widgets: Api<DynamicObject> = Api::namespaced_with(running.client(), "default", &resource);
    assert_eq!(code(widgets.get("w").await).0, 404);
    running.server.store().register(kind);

    let mut widget = DynamicObject::new("w", &resource)
        .data(json!({"spec": {"size": 1}, "status": {"seen": true}}));
    let made = widgets
        .create(&PostParams::default(), &widget)
        .await
        .unwrap();
    assert_eq!(
        made.data,
        json!({"spec": {"size": 1}}),
        "the status is not the creator's"
    );
    assert_eq!(made.metadata.generation, Some(1));
    // Such kinds are not overwritten blindly.
    widget.data = json!({"spec": {"size": 2}});
    assert_eq!(
        code(widgets.replace("w", &PostParams::default(), &widget).await).0,
        422
    );

    let params = PatchParams::default();
    let changed = widgets
        .patch("w", &params, &Patch::Merge(&json!({"spec": {"size": 2}})))
        .await
        .unwrap();
    assert_eq!(changed.metadata.generation, Some(2));
    let status =
        json!({"status": {"seen": true}, "spec": {"size": 9}, "metadata": {"labels": {"a": "b"}}});
    let changed = widgets
        .patch_status("w", &params, &Patch::Merge(&status))
        .await
        .unwrap();
    assert_eq!(
        changed.data,
        json!({"spec": {"size": 2}, "status": {"seen": true}})
    );
    assert_eq!(
        (changed.metadata.generation, changed.metadata.labels),
        (Some(2), None)
    );
    let strategic = widgets
        .patch("w", &params, &Patch::Strategic(&json!({"spec": {}})))
        .await;
    assert_eq!(code(strategic).0, 415);
    let groups = running.client().list_api_groups().await.unwrap();
    assert!(groups.groups.iter().any(|g| g.name == "example.com"));
}

#[tokio::test]
async fn several_listeners_and_a_prompt_end() {
    let server = ApiServer::new();
    let mut serving = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        clients.push(Client::try_from(Config::new(url.parse().unwrap())).unwrap());
        let server = server.clone();
        serving.push(tokio::spawn(async move { server.serve(listener).await }));
    }
    let (_, resource) = widgets();
    server.store().register(widgets().0);
    let apis: Vec<Api<DynamicObject>> = clients
        .into_iter()
        .map(|c| Api::namespaced_with(c, "default", &resource))
        .collect();
    let mut watch = pin!(apis[0].watch(&WatchParams::default(), "0").await.unwrap());
    apis[1]
        .create(&PostParams::default(), &DynamicObject::new("w", &resource))
        .await
        .unwrap();
    assert!(
        watch.try_next().await.unwrap().is_some(),
        "what comes in at one door is seen at the other"
    );

    server.shutdown();
    let end = tokio::time::timeout(Duration::from_secs(10), async {
        for task in serving {
            task.await.unwrap().unwrap();
        }
        while let Ok(Some(_)) = watch.try_next().await {}
    });
    end.await.expect("an open watch does not hold the server");
}
