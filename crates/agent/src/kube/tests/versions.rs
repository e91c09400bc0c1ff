//! Kinds that some servers have in another version.
use super::{World, eventually};
use k8s::{Watcher, service::EndpointSlice};
use k8s_openapi::api::discovery::v1;
use model::Tables;
use runtime::{health::Health, stop};
use serde_json::json;

/// This server has no beta version, as old ones have no other: what is asked for first is not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_is_followed_in_the_version_that_is_there() {
    let world = World::new(&[]).await;
    let slice = |name: &str, service: &str| {
        json!({"metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.1.0.1"]}]})
    };
    let make =
        |name: &'static str| world.create::<v1::EndpointSlice>(Some("default"), slice(name, "web"));
    make("web-1").await;
    let (tables, health) = (Tables::new().unwrap(), Health::default());
    let (_stopper, stop) = stop::channel();
    let watcher = Watcher::new(&world.client, &tables.db, &health, &stop);
    let slices = &tables.services.slices;
    let selector = "kubernetes.io/service-name=web";
    watcher.follow_either::<EndpointSlice<true>, EndpointSlice, _>(slices, selector);
    let known = || {
        let snapshot = tables.db.snapshot();
        let rows = slices.iter(&snapshot).map(|row| row.key.to_string());
        (slices.initialized(&snapshot), rows.collect::<Vec<_>>())
    };
    let all = |names: &'static [&str]| {
        eventually("the slices", || async {
            (known() == (true, names.iter().map(|name| (*name).to_owned()).collect())).then_some(())
        })
    };
    all(&["default/web-1"]).await;
    // It goes on with that version, and with those that it was asked for.
    world
        .create::<v1::EndpointSlice>(Some("default"), slice("mail-1", "mail"))
        .await;
    make("web-2").await;
    all(&["default/web-1", "default/web-2"]).await;
    let said = health.reports();
    let said = said
        .iter()
        .find(|one| one.name == "kubernetes/endpoint-slices");
    assert_eq!(said.unwrap().message, "synced, 1 objects at the last list");
}
