//! Watches of the embedded API server: nothing lost, nothing twice, nothing out of order.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use hypha_apiserver::object::Key;
use hypha_apiserver::selector::LabelSelector;
use hypha_apiserver::store::{EventType, Filter, Part, Store, WatchStart};
use hypha_apiserver::{ServerOptions, StoreOptions, kinds};
use k8s_openapi::api::core::v1::{Event, ObjectReference};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::runtime::{events, watcher};
use serde_json::{Value, json};

use crate::client::{code, pod, start};

/// Bounds a step, so that a missing event fails the test instead of hanging it.
async fn soon<T>(step: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), step)
        .await
        .expect("should have happened by now")
}

#[tokio::test]
async fn watches_tell_every_change_and_resume() {
    let running = start(ServerOptions {
        bookmark_interval: Duration::from_millis(300),
        ..Default::default()
    })
    .await;
    let pods = running.pods();
    pods.create(&PostParams::default(), &pod("a"))
        .await
        .unwrap();
    let listed = pods
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();

    let params = WatchParams::default().timeout(60).labels("app!=ignored");
    let mut watch = pin!(pods.watch(&params, &listed).await.unwrap());
    pods.create(&PostParams::default(), &pod("b"))
        .await
        .unwrap();
    pods.create(&PostParams::default(), &pod("ignored"))
        .await
        .unwrap();
    // It comes into view, changes and goes out of view.
    for app in ["seen", "changed", "ignored"] {
        let label = json!({"metadata": {"labels": {"app": app}}});
        pods.patch("ignored", &PatchParams::default(), &Patch::Merge(&label))
            .await
            .unwrap();
    }
    pods.delete("b", &DeleteParams::default()).await.unwrap();
    let mut seen = Vec::new();
    let mut last = 0;
    while seen.len() < 6 {
        let (word, object) = match soon(watch.try_next()).await.unwrap().unwrap() {
            WatchEvent::Added(pod) => ("added", pod),
            WatchEvent::Modified(pod) => ("modified", pod),
            WatchEvent::Deleted(pod) => ("deleted", pod),
            WatchEvent::Bookmark(bookmark) => {
                last = last.max(bookmark.metadata.resource_version.parse::<u64>().unwrap());
                if seen.len() == 5 {
                    seen.push("bookmark".to_owned());
                }
                continue;
            }
            WatchEvent::Error(error) => panic!("{error:?}"),
        };
        let revision: u64 = object.metadata.resource_version.unwrap().parse().unwrap();
        assert!(revision > last, "revisions grow");
        last = revision;
        seen.push(format!("{word} {}", object.metadata.name.unwrap()));
    }
    let expected = [
        "added b",
        "added ignored",
        "modified ignored",
        "deleted ignored",
        "deleted b",
        "bookmark",
    ];
    assert_eq!(seen, expected);

    let revision = last.to_string();
    pods.create(&PostParams::default(), &pod("c"))
        .await
        .unwrap();
    let mut again = pin!(
        pods.watch(&WatchParams::default(), &revision)
            .await
            .unwrap()
    );
    let first = soon(again.try_next()).await.unwrap().unwrap();
    assert!(matches!(first, WatchEvent::Added(pod) if pod.metadata.name.as_deref() == Some("c")));
}

#[tokio::test]
async fn a_revision_that_is_forgotten_is_gone() {
    let running = start(ServerOptions {
        store: StoreOptions {
            history: 4,
            ..Default::default()
        },
        ..Default::default()
    })
    .await;
    let pods = running.pods();
    for i in 0..6 {
        pods.create(&PostParams::default(), &pod(&format!("p{i}")))
            .await
            .unwrap();
    }
    for revision in ["1", "9999999999999999"] {
        let mut watch = pin!(pods.watch(&WatchParams::default(), revision).await.unwrap());
        let event = soon(watch.try_next()).await.unwrap().unwrap();
        assert!(
            matches!(&event, WatchEvent::Error(status) if status.code == 410),
            "{event:?}"
        );
    }
    let first = pods.list(&ListParams::default().limit(2)).await.unwrap();
    for i in 0..5 {
        pods.delete(&format!("p{i}"), &DeleteParams::default())
            .await
            .unwrap();
    }
    let token = first.metadata.continue_.unwrap();
    assert_eq!(
        code(
            pods.list(&ListParams::default().limit(2).continue_token(&token))
                .await
        ),
        (410, "Expired".into())
    );
}

/// `kube`'s watcher keeps its picture right through refused resumes, and with streamed initial lists.
#[tokio::test]
async fn watcher_survives_a_short_history() {
    for config in [
        watcher::Config::default().timeout(1),
        watcher::Config::default().streaming_lists().timeout(1),
    ] {
        let running = start(ServerOptions {
            store: StoreOptions {
                history: 3,
                ..Default::default()
            },
            ..Default::default()
        })
        .await;
        let pods = running.pods();
        let store = running.server.store().clone();
        let kind = store.kind("pods").unwrap();
        let (reader, writer) = kube::runtime::reflector::store();
        let stream =
            kube::runtime::reflector(writer, watcher(pods.clone(), config)).for_each(|_| async {});
        let task = tokio::spawn(stream);
        soon(reader.wait_until_ready()).await.unwrap();
        for round in 0..30 {
            // In process and at once: more changes than the history holds between two looks of the watcher.
            for i in 0..20 {
                let object = serde_json::to_value(pod(&format!("r{round}-{i}"))).unwrap();
                store
                    .create(&kind, "default", object, &Default::default())
                    .unwrap();
                if round > 0 {
                    let key = hypha_apiserver::object::Key::namespaced(
                        "default",
                        format!("r{}-{i}", round - 1),
                    );
                    store.delete(&kind, &key, &Default::default()).unwrap();
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let expected: BTreeSet<String> = (0..20).map(|i| format!("r29-{i}")).collect();
        soon(async {
            loop {
                let seen: BTreeSet<String> = reader
                    .state()
                    .iter()
                    .filter_map(|p| p.metadata.name.clone())
                    .collect();
                if seen == expected {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        task.abort();
    }
}

/// Many writers and watchers at once: every watcher's picture, built from events alone, ends as the list is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_watcher_sees_the_same_history() {
    const WRITES: usize = 1500;
    let store = Arc::new(Store::new(kinds::builtin(), 100_000));
    let kind = store.kind("nodes").unwrap();
    let watchers: Vec<_> = (0..20)
        .map(|i| {
            let labels = LabelSelector::parse(["", "even=yes", "even!=yes"][i % 3]).unwrap();
            let filter = Filter {
                labels,
                ..Filter::default()
            };
            let (first, watch) = store
                .watch(&kind, filter.clone(), WatchStart::Everything)
                .unwrap();
            tokio::spawn(follow(Arc::clone(&store), filter, first, watch))
        })
        .collect();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::task::spawn_blocking(move || churn(&store, writer, WRITES))
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let last = json!({"metadata": {"name": "end", "labels": {"even": "yes"}}});
    store
        .create(&kind, "", last.clone(), &Default::default())
        .unwrap();
    let other = json!({"metadata": {"name": "end-odd"}});
    store.create(&kind, "", other, &Default::default()).unwrap();
    for watcher in watchers {
        soon(watcher).await.unwrap();
    }
}

/// Creates, changes and deletes nodes of a few names, in an order that differs by writer.
fn churn(store: &Store, writer: usize, writes: usize) {
    let kind = store.kind("nodes").unwrap();
    for i in 0..writes {
        let step = i * 7 + writer * 13;
        let key = Key::cluster(format!("n{}", step % 11));
        let even = if step.is_multiple_of(3) { "yes" } else { "no" };
        let label = json!({"metadata": {"labels": {"even": even, "step": step.to_string()}}});
        // Any of these may find the object there or gone: the other writers are at it too.
        let _ = match step % 5 {
            0 => store.delete(&kind, &key, &Default::default()).map(drop),
            1 | 2 => {
                let node = json!({"metadata": {"name": key.name, "labels": {"even": even}}});
                store.create(&kind, "", node, &Default::default()).map(drop)
            }
            _ => store
                .modify(&kind, &key, Part::Main, &Default::default(), |old| {
                    let mut new = Value::clone(old);
                    new["metadata"]["labels"] = label["metadata"]["labels"].clone();
                    Ok(new)
                })
                .map(drop),
        };
    }
}

/// Follows a watch to the end and compares the picture with the list.
async fn follow(
    store: Arc<Store>,
    filter: Filter,
    first: Vec<hypha_apiserver::store::WatchEvent>,
    mut watch: hypha_apiserver::store::Watch,
) {
    let kind = store.kind("nodes").unwrap();
    let mut picture: BTreeMap<String, String> = BTreeMap::new();
    let mut last = 0;
    let mut events = first;
    loop {
        for event in &events {
            let meta = &event.object["metadata"];
            let name = meta["name"].as_str().unwrap().to_owned();
            let revision = meta["resourceVersion"].as_str().unwrap().to_owned();
            let number: u64 = revision.parse().unwrap();
            assert!(number > last, "out of order or twice");
            last = number;
            let before = match event.event {
                EventType::Deleted => picture.remove(&name),
                _ => picture.insert(name.clone(), revision),
            };
            assert_eq!(
                before.is_some(),
                event.event != EventType::Added,
                "{name}: {:?}",
                event.event
            );
        }
        if picture.contains_key("end") || picture.contains_key("end-odd") {
            break;
        }
        events = watch.next().await.unwrap();
    }
    // Everyone waits for the same end: what comes after the last write of the churn.
    while store.get(&kind, &Key::cluster("end-odd")).is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for event in watch.poll().unwrap() {
        picture.insert(
            event.object["metadata"]["name"]
                .as_str()
                .unwrap()
                .to_owned(),
            event.object["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    let options = hypha_apiserver::store::ListOptions {
        filter,
        ..Default::default()
    };
    let list = store.list(&kind, &options).unwrap();
    let listed: BTreeMap<String, String> = list
        .items
        .iter()
        .map(|o| {
            let meta = &o["metadata"];
            (
                meta["name"].as_str().unwrap().to_owned(),
                meta["resourceVersion"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    assert_eq!(picture, listed);
}

/// Components publish events in the newer group; people and `kubectl` read them in the core group.
#[tokio::test]
async fn events_of_both_groups_are_the_same() {
    let running = start(ServerOptions::default()).await;
    let recorder = events::Recorder::new(running.client(), events::Reporter::from("hypha-agent"));
    let about = ObjectReference {
        kind: Some("Pod".into()),
        name: Some("web".into()),
        namespace: Some("default".into()),
        ..Default::default()
    };
    let event = events::Event {
        type_: events::EventType::Warning,
        reason: "PoolExhausted".into(),
        note: Some("no address left in 10.244.1.0/24".into()),
        action: "Allocate".into(),
        secondary: None,
    };
    recorder.publish(&event, &about).await.unwrap();
    recorder.publish(&event, &about).await.unwrap();
    let core: Api<Event> = Api::default_namespaced(running.client());
    let params = ListParams::default().fields("involvedObject.name=web,reason=PoolExhausted");
    let found = core.list(&params).await.unwrap();
    assert_eq!(found.items.len(), 1, "{found:?}");
    assert_eq!(
        found.items[0].message.as_deref(),
        Some("no address left in 10.244.1.0/24")
    );
    assert_eq!(
        found.items[0].reporting_component.as_deref(),
        Some("hypha-agent")
    );
    let newer: Api<k8s_openapi::api::events::v1::Event> = Api::default_namespaced(running.client());
    let found = newer
        .list(&ListParams::default().fields("regarding.name=web"))
        .await
        .unwrap();
    assert_eq!(
        found.items[0].note.as_deref(),
        Some("no address left in 10.244.1.0/24")
    );
    assert_eq!(found.items[0].series.as_ref().map(|s| s.count), Some(2));
}
