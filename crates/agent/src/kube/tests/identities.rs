//! Agents that give numbers to labels, several at the same time, without a kernel.
use super::{World, eventually};
use crate::kube::identity::{Allocating, Identities, Keeper, KeeperOptions, Labeller};
use k8s::{Client, Presence, Watcher, crd, events::Events};
use k8s_openapi::api::core::v1::{Event, Namespace};
use kube::{Api, Config, api::ListParams};
use model::{ClusterIdentity, KUBERNETES, Labels, PodRef, Tables};
use runtime::{
    health::Health,
    stop::{self, Stopper},
};
use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

/// What of an agent has to do with numbers.
struct Node {
    tables: Tables,
    identities: Identities,
    health: Health,
    stopper: Stopper,
}

fn labels(n: usize) -> Labels {
    [
        format!("k8s:app=a{n}"),
        "k8s:io.kubernetes.pod.namespace=shop".to_owned(),
    ]
    .into_iter()
    .collect()
}

fn pod(name: &str) -> PodRef {
    PodRef {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: name.to_owned(),
    }
}

impl Node {
    fn start(client: &Client, directory: Option<&Path>, watches: bool) -> Self {
        let (stopper, stop) = stop::channel();
        let (tables, health) = (Tables::new().unwrap(), Health::default());
        let identities = Identities::new(&tables, Labeller::default(), Duration::ZERO);
        let options = KeeperOptions {
            ipv4: true,
            ipv6: false,
            nodes_by_cidr: false,
            grace: Duration::from_secs(30),
            directory: directory.map(Path::to_owned),
        };
        let keeper = Keeper::new(&tables, identities.clone(), options);
        tokio::spawn(keeper.run(health.component("keeper"), stop.clone()));
        if watches {
            Watcher::new(client, &tables.db, &health, &stop)
                .follow::<crd::CiliumIdentity, _>(&tables.cilium_identities, Presence::Optional);
        }
        let allocating = Allocating {
            client: client.clone(),
            identities: identities.clone(),
            creates: true,
            events: Events::new(client, "cilium-agent"),
            health: health.component("allocating"),
        };
        tokio::spawn(allocating.run(stop));
        Self {
            tables,
            identities,
            health,
            stopper,
        }
    }

    /// As an endpoint's creation asks.
    async fn number(&self, labels: &Labels, limit: Duration) -> Option<u32> {
        self.identities.wait(labels, &pod("p"), limit).await
    }

    fn message(&self, name: &str) -> String {
        let found = self
            .health
            .reports()
            .into_iter()
            .find(|one| one.name == name);
        found.map(|one| one.message).unwrap_or_default()
    }
}

/// The numbers of the API server, by labels.
async fn objects(world: &World) -> BTreeMap<String, Vec<u32>> {
    let api: Api<crd::CiliumIdentity> = Api::all(world.client.clone());
    let mut out: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for one in api.list(&ListParams::default()).await.unwrap() {
        let row = ClusterIdentity::from(one);
        out.entry(row.labels.to_string()).or_default().push(row.id);
    }
    out
}

async fn world() -> World {
    let world = World::new(&[("ipam", "kubernetes"), ("identity-gc-interval", "0s")]).await;
    let identities = world.objects("CiliumIdentity");
    eventually("the kind is installed", || async {
        identities.list().await.ok()
    })
    .await;
    world
}

const PATIENT: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_have_numbers_once_they_are_scheduled() {
    let world = world().await;
    let node = Node::start(&world.client, None, true);
    let scheduled = |name: &str, host_network: bool, finished: bool| model::Pod {
        labels: [("app".to_owned(), name.to_owned())].into(),
        host_network,
        finished,
        ..model::Pod::named("shop", name)
    };
    let insert = |pod: model::Pod| {
        let mut txn = node.tables.db.write();
        node.tables.pods.insert(&mut txn, pod).unwrap();
        txn.commit();
    };
    let mut txn = node.tables.db.write();
    let namespace = model::Namespace {
        name: "shop".to_owned(),
        ..model::Namespace::default()
    };
    node.tables.namespaces.insert(&mut txn, namespace).unwrap();
    txn.commit();
    insert(scheduled("node-agent", true, false));
    insert(scheduled("over", false, true));
    insert(scheduled("cart", false, false));
    // Nobody has asked for it.
    eventually("a number for the scheduled pod", || async {
        let snapshot = node.tables.db.snapshot();
        let pod = node.tables.pods.get(&snapshot, "shop/cart")?;
        let labels = node.identities.labels(&snapshot, pod);
        node.identities.lookup(&snapshot, &labels)
    })
    .await;
    let made = objects(&world).await;
    let apps: Vec<bool> = made
        .keys()
        .map(|one| one.contains("k8s:app=cart"))
        .collect();
    assert_eq!(apps, [true], "{made:?}");
    node.stopper.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_meet_the_same_labels_at_once_agree() {
    let world = world().await;
    let nodes = [(); 3].map(|()| Node::start(&world.client, None, true));
    let sets = 12;
    let all = (0..sets).flat_map(|n| nodes.iter().map(move |node| (n, node)));
    let asked = all.map(|(n, node)| async move { (n, node.number(&labels(n), PATIENT).await) });
    let mut numbers: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for (n, number) in futures::future::join_all(asked).await {
        numbers.entry(n).or_default().push(number.unwrap());
    }
    assert!(
        numbers
            .values()
            .all(|all| all.iter().all(|one| *one == all[0])),
        "{numbers:?}"
    );
    let objects = objects(&world).await;
    assert_eq!(objects.len(), sets);
    assert!(objects.values().all(|all| all.len() == 1), "{objects:?}");
    // All nodes know all numbers, whoever made them.
    for node in &nodes {
        eventually("every number is known", || async {
            let snapshot = node.tables.db.snapshot();
            let known = |n| node.identities.lookup(&snapshot, &labels(n));
            (0..sets)
                .all(|n| known(n) == Some(numbers[&n][0]))
                .then_some(())
        })
        .await;
    }
    nodes.iter().for_each(|node| node.stopper.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_others_have_makes_way() {
    let world = world().await;
    let first = Node::start(&world.client, None, true);
    let number = first.number(&labels(1), PATIENT).await.unwrap();
    first.stopper.stop();
    let identities = world.objects("CiliumIdentity");
    let name = number.to_string();
    identities.delete(&name, Default::default()).await.unwrap();
    let other =
        serde_json::json!({"metadata": {"name": name}, "security-labels": {"k8s:app": "other"}});
    identities.create(other).await.unwrap();
    // An agent that has not heard of it tries the same number.
    let second = Node::start(&world.client, None, false);
    let mut txn = second.tables.db.write();
    second
        .tables
        .cilium_identities
        .finish_initializer(&mut txn, KUBERNETES);
    txn.commit();
    let next = second.number(&labels(1), PATIENT).await.unwrap();
    assert_eq!(next, number + 1);
    second.stopper.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_the_numbers_with_and_without_the_server() {
    let world = world().await;
    let directory = tempfile::tempdir().unwrap();
    let first = Node::start(&world.client, Some(directory.path()), true);
    let number = first.number(&labels(1), PATIENT).await.unwrap();
    let mut txn = first.tables.db.write();
    let range = model::UsedPrefix {
        prefix: "198.51.100.0/24".parse().unwrap(),
        labels: Labels::default(),
    };
    first
        .tables
        .used_prefixes
        .insert(&mut txn, range.clone())
        .unwrap();
    txn.commit();
    let local = |node: &Node| {
        let snapshot = node.tables.db.snapshot();
        let row = node.tables.prefix_identities.get(&snapshot, &range.prefix);
        row.map(|row| row.identity)
    };
    let given = eventually("the range has a number", || async { local(&first) }).await;
    eventually("the numbers are on file", || async {
        let saved = crate::kube::identity::Numbers::read(directory.path());
        let has = |rows: &[ClusterIdentity], id| rows.iter().any(|row| row.id == id);
        (has(&saved.cluster, number) && has(&saved.local, given)).then_some(())
    })
    .await;
    first.stopper.stop();
    let nobody = Client::try_from(Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap();
    let second = Node::start(&nobody, Some(directory.path()), true);
    let began = Instant::now();
    assert_eq!(second.number(&labels(1), PATIENT).await, Some(number));
    assert!(began.elapsed() < PATIENT / 2, "nothing is waited for");
    // Another range comes first, and does not get the number of before.
    let mut txn = second.tables.db.write();
    let other = model::UsedPrefix {
        prefix: "203.0.113.0/24".parse().unwrap(),
        labels: Labels::default(),
    };
    second.tables.used_prefixes.insert(&mut txn, other).unwrap();
    txn.commit();
    assert_eq!(
        second.number(&labels(2), Duration::from_millis(50)).await,
        None
    );
    let mut txn = second.tables.db.write();
    second
        .tables
        .used_prefixes
        .insert(&mut txn, range.clone())
        .unwrap();
    txn.commit();
    let again = eventually("the range has its number", || async { local(&second) }).await;
    assert_eq!(again, given);
    second.stopper.stop();
    // The cluster has forgotten it meanwhile, but a pod of this node has it.
    let name = number.to_string();
    let identities = world.objects("CiliumIdentity");
    identities.delete(&name, Default::default()).await.unwrap();
    let third = Node::start(&world.client, Some(directory.path()), true);
    let mut txn = third.tables.db.write();
    let endpoint = model::Endpoint {
        pod: pod("p"),
        labels: labels(1),
        identity: number,
        ..super::endpoint(7)
    };
    third.tables.endpoints.insert(&mut txn, endpoint).unwrap();
    txn.commit();
    eventually("the object is made anew", || async {
        identities.get(&name).await.ok().flatten()
    })
    .await;
    third.stopper.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_no_number_is_left_every_pod_is_told() {
    let world = world().await;
    let node = Node::start(&world.client, None, false);
    let mut txn = node.tables.db.write();
    let taken =
        (abi::identity::MIN_ALLOCATED..=abi::identity::MAX_ALLOCATED).map(|id| ClusterIdentity {
            id,
            labels: [format!("k8s:taken={id}")].into_iter().collect(),
        });
    let table = &node.tables.cilium_identities;
    table.replace_all(&mut txn, taken).unwrap();
    table.finish_initializer(&mut txn, KUBERNETES);
    txn.commit();
    node.identities.ask(&labels(1), None, Some(&pod("early")));
    let text = "all 65280 identities from 256 to 65535 are taken";
    eventually("the health says so", || async {
        node.message("allocating").contains(text).then_some(())
    })
    .await;
    // The API server takes events only into namespaces that it has: what could not be said is said later. One pod comes with
    // the labels of another, and more label sets wait than are worked on together.
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let shop = serde_json::from_value(serde_json::json!({"metadata": {"name": "shop"}})).unwrap();
    namespaces.create(&Default::default(), &shop).await.unwrap();
    node.identities.ask(&labels(1), None, Some(&pod("late")));
    for n in 2..40 {
        node.identities
            .ask(&labels(n), None, Some(&pod(&format!("p{n}"))));
    }
    let events: Api<Event> = Api::namespaced(world.client.clone(), "shop");
    let told = eventually("events for all", || async {
        let list = events.list(&ListParams::default()).await.ok()?.items;
        (list.len() >= 40).then_some(list)
    })
    .await;
    for event in &told {
        assert_eq!(event.reason.as_deref(), Some("NoIdentity"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert!(event.message.as_deref().unwrap().contains(text));
    }
    let about = told
        .iter()
        .filter_map(|one| one.involved_object.name.as_deref());
    let about: std::collections::BTreeSet<&str> = about.collect();
    assert!(about.len() == 40 && about.contains("early") && about.contains("late"));
    // Nobody waits for what cannot come; and once one is free it is used.
    let began = Instant::now();
    assert_eq!(node.number(&labels(1), PATIENT).await, None);
    assert!(began.elapsed() < PATIENT / 2);
    let mut txn = node.tables.db.write();
    node.tables.cilium_identities.delete(&mut txn, &4711);
    txn.commit();
    eventually("the free number is used", || async {
        let snapshot = node.tables.db.snapshot();
        let found = (1..40).filter_map(|n| node.identities.lookup(&snapshot, &labels(n)));
        found.eq([4711]).then_some(())
    })
    .await;
    node.stopper.stop();
}
