//! An agent's Kubernetes side and the operator against the embedded API server, without a kernel.
use super::{cluster, endpoints::EndpointObjects, own::Publisher, ranges::Shared};
use crate::{
    addresses::{Addresses, Wish},
    machine::Machine,
    node,
    plan::routing_plan,
    remote::Heard,
    state::SavedNode,
};
use apiserver::{ApiServer, ServerOptions};
use ipam::Families;
use k8s::{
    Client, crd,
    write::{Meant, Objects},
};
use kube::{Api, Config, api::PostParams};
use model::{LocalNode, Tables};
use runtime::{
    health::Health,
    reconcile_async,
    settings::{OperatorSettings, Settings},
    stop::{self, Stopper},
};
use serde_json::json;
use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::TcpListener;

mod identities;
mod versions;

const LIMIT: Duration = Duration::from_secs(20);

async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < LIMIT, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

struct World {
    server: ApiServer,
    client: Client,
    _operator: Stopper,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.shutdown();
    }
}

impl World {
    /// An API server with a node, and an operator.
    async fn new(operator: &[(&str, &str)]) -> Self {
        let server = ApiServer::open(ServerOptions::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = server.clone();
        tokio::spawn(async move { serving.serve(listener).await });
        let client = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
        let mut settings = OperatorSettings::default();
        for (key, value) in [
            ("operator-api-serve-addr", ""),
            ("operator-prometheus-serve-addr", ""),
        ]
        .iter()
        .chain(operator)
        {
            settings.set(key, value, "test").unwrap();
        }
        let (stopper, stop) = stop::channel();
        tokio::spawn(operator::run_until(settings, client.clone(), stop));
        let world = Self {
            server,
            client,
            _operator: stopper,
        };
        world
            .create::<k8s_openapi::api::core::v1::Node>(
                None,
                json!({"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}),
            )
            .await;
        world
    }

    async fn create<K>(&self, namespace: Option<&str>, value: serde_json::Value) -> K
    where
        K: kube::Resource<DynamicType = ()>
            + Clone
            + serde::de::DeserializeOwned
            + serde::Serialize
            + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(value).unwrap();
        let kind = K::plural(&()).into_owned();
        let resource = kube::api::ApiResource::erase::<K>(&());
        let api: Api<kube::api::DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let mut value = serde_json::to_value(object).unwrap();
        value["apiVersion"] = K::api_version(&()).into();
        value["kind"] = K::kind(&()).into();
        let made = api
            .create(
                &PostParams::default(),
                &serde_json::from_value(value).unwrap(),
            )
            .await;
        let made = made.unwrap_or_else(|error| panic!("{kind}: {error}"));
        serde_json::from_value(serde_json::to_value(made).unwrap()).unwrap()
    }

    fn objects(&self, kind: &str) -> Objects {
        Objects::of(
            &self.client,
            crd::ALL.iter().find(|crd| crd.kind == kind).unwrap(),
        )
    }

    async fn cilium_node(&self) -> Option<crd::CiliumNode> {
        let api: Api<crd::CiliumNode> = Api::all(self.client.clone());
        api.get_opt("n1").await.ok().flatten()
    }
}

/// An agent that has everything but a datapath.
struct Agent {
    tables: Tables,
    settings: Settings,
    health: Health,
    addresses: Arc<Addresses>,
    local: LocalNode,
    stopper: Stopper,
}

impl Agent {
    async fn start(world: &World, pairs: &[(&str, &str)], saved: Option<SavedNode>) -> Self {
        let mut settings = Settings {
            node_name: "n1".to_owned(),
            enable_ipv6: false,
            ..Settings::default()
        };
        for (key, value) in pairs {
            settings.set(key, value, "test").unwrap();
        }
        let (stopper, stop) = stop::channel();
        let (tables, health) = (Tables::new().unwrap(), Health::default());
        let interest = super::interest(&settings, "n1");
        let _connection = k8s::watch_all(&world.client, &tables, &interest, &health, &stop);
        tokio::spawn(cluster::follow(
            tables.clone(),
            settings.ipam,
            "n1".to_owned(),
            health.component("controller/nodes"),
            stop.clone(),
        ));
        let shared = Shared::default();
        let publisher = Publisher {
            client: world.client.clone(),
            tables: tables.clone(),
            settings: settings.clone(),
            name: "n1".to_owned(),
            addresses: shared.clone(),
            health: health.component("controller/cilium-node"),
        };
        tokio::spawn(publisher.run(stop.clone()));
        let waited = async {
            let before = match saved {
                Some(saved) => {
                    node::resume(&settings, &world.client, saved, Heard::NotAsked).await?
                }
                None => Err(Vec::new()),
            };
            match before {
                Ok(own) => Ok(Some(own)),
                Err(routers) => node::find(&settings, &tables, routers, &health, &stop).await,
            }
        };
        let own: anyhow::Result<_> =
            tokio::time::timeout(LIMIT, waited)
                .await
                .unwrap_or_else(|_| {
                    panic!("the node has no ranges: {:?}", health.reports());
                });
        let plan = routing_plan(&settings);
        let local = node::local(&plan, own.unwrap().unwrap(), Machine::default()).unwrap();
        let mut txn = tables.db.write();
        tables.local_node.insert(&mut txn, local.clone()).unwrap();
        txn.commit();
        let addresses = Arc::new(Addresses::new(tables.clone(), &local));
        addresses.let_grow();
        shared.set(addresses.clone());
        Self {
            tables,
            settings,
            health,
            addresses,
            local,
            stopper,
        }
    }

    /// What the state file would have.
    fn saved(&self) -> SavedNode {
        let snapshot = self.tables.db.snapshot();
        let local = self.tables.local_node.iter(&snapshot).next().unwrap();
        SavedNode {
            node: local.node.clone(),
            ipam: self.settings.get("ipam").unwrap(),
            pools: local.pools.clone(),
            routers: local.router(false).into_iter().collect(),
            ..SavedNode::default()
        }
    }

    async fn address(&self, pod: &str, pool: &str) -> Result<IpAddr, api::ApiError> {
        let wish = Wish {
            owner: format!("shop/{pod}"),
            key: format!("cni-attachment-id:{pod}:eth0"),
            families: Families {
                v4: true,
                v6: false,
            },
            pools: [pool, pool].map(str::to_owned),
            expire: None,
        };
        let addresses = self.addresses.clone();
        let given = tokio::task::spawn_blocking(move || addresses.allocate(&wish)).await;
        Ok(given.unwrap()?.v4.unwrap().into())
    }

    fn message(&self, component: &str) -> String {
        let reports = self.health.reports();
        let found = reports.into_iter().find(|report| report.name == component);
        found.map(|report| report.message).unwrap_or_default()
    }
}

/// An endpoint of the pod `default/cart`.
pub(super) fn endpoint(id: u16) -> model::Endpoint {
    model::Endpoint {
        id,
        state: model::EndpointState::Ready,
        attachment: "cni-attachment-id:c1:eth0".parse().unwrap(),
        pod: model::PodRef {
            namespace: "default".to_owned(),
            name: "cart".to_owned(),
            uid: String::new(),
        },
        labels: Default::default(),
        identity: 4711,
        ipv4: Some("10.0.0.5".parse().unwrap()),
        ipv6: None,
        ifname: format!("lxc{id}"),
        ifindex: u32::from(id),
        host_mac: Default::default(),
        container_mac: Default::default(),
        netns: String::new(),
        device: Default::default(),
        ports: Vec::new(),
        subject: 0,
        flags: 0,
        policy_audit: None,
        enforcing: [false; 2],
    }
}

const CLUSTER_POOL: &[(&str, &str)] = &[("ipam", "cluster-pool")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_cilium_node_gives_new_ranges_after_a_restart() {
    let world = World::new(&[
        ("ipam", "cluster-pool"),
        ("cluster-pool-ipv4-cidr", "172.20.0.0/16"),
    ])
    .await;
    let agent = Agent::start(&world, CLUSTER_POOL, None).await;
    let first: ipnet::IpNet = "172.20.0.0/24".parse().unwrap();
    assert_eq!(agent.local.node.pod_cidrs, [first]);
    eventually("the router's address is published", || async {
        let node = world.cilium_node().await?;
        let kinds: Vec<String> = node
            .spec
            .addresses
            .iter()
            .map(|a| format!("{} {}", a.kind, a.ip))
            .collect();
        (kinds == ["InternalIP 192.0.2.1", "CiliumInternalIP 172.20.0.1"]).then_some(())
    })
    .await;
    let nodes = world.objects("CiliumNode");
    nodes.delete("n1", Meant::default()).await.unwrap();
    eventually("the running agent says so", || async {
        agent
            .message("controller/cilium-node")
            .contains("was deleted")
            .then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(
        world.cilium_node().await,
        None,
        "it is not made again with ranges that are others' by now"
    );
    let saved = agent.saved();
    agent.stopper.stop();
    let again = Agent::start(&world, CLUSTER_POOL, Some(saved)).await;
    assert_eq!(
        again.local.node.pod_cidrs,
        ["172.20.1.0/24".parse().unwrap()]
    );
    assert_eq!(again.local.router4, Some("172.20.1.1".parse().unwrap()));
    // A restart without any change keeps everything.
    let saved = again.saved();
    again.stopper.stop();
    let third = Agent::start(&world, CLUSTER_POOL, Some(saved)).await;
    assert_eq!(third.local.pools, again.local.pools);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_api_server_the_last_ranges_are_used() {
    let world = World::new(&[
        ("ipam", "cluster-pool"),
        ("cluster-pool-ipv4-cidr", "172.20.0.0/16"),
    ])
    .await;
    let agent = Agent::start(&world, CLUSTER_POOL, None).await;
    let saved = agent.saved();
    agent.stopper.stop();
    let nobody = Client::try_from(Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap();
    let settings = &agent.settings;
    let began = Instant::now();
    let own = node::resume(settings, &nobody, saved, Heard::NotAsked)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(own.node.pod_cidrs, agent.local.node.pod_cidrs);
    assert!(began.elapsed() < Duration::from_millis(500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pools_grow_as_pods_come_and_shrink_as_they_go() {
    let world = World::new(&[
        ("ipam", "multi-pool"),
        (
            "auto-create-cilium-pod-ip-pools",
            r#"{"default": "ipv4-cidrs:10.10.0.0/16;ipv4-mask-size:29", "red": "ipv4-cidrs:10.20.0.0/16;ipv4-mask-size:29"}"#,
        ),
    ])
    .await;
    let pairs = [
        ("ipam", "multi-pool"),
        ("ipam-multi-pool-pre-allocation", "default=2"),
    ];
    let agent = Agent::start(&world, &pairs, None).await;
    assert_eq!(agent.local.router4, Some("10.10.0.1".parse().unwrap()));
    let ranges = |agent: &Agent, pool: &str| agent.addresses.ranges().get(pool).map_or(0, Vec::len);
    // Six addresses in a range, and the router has one.
    for n in 0..12 {
        let name = format!("a{n}");
        let given = eventually("an address", || async {
            agent.address(&name, "default").await.ok()
        })
        .await;
        assert!(given.to_string().starts_with("10.10."), "{given}");
    }
    assert!(ranges(&agent, "default") >= 3);
    assert_eq!(ranges(&agent, "red"), 0);
    let red = eventually(
        "an address of a pool that this node did not have",
        || async { agent.address("r", "red").await.ok() },
    )
    .await;
    assert!(red.to_string().starts_with("10.20."), "{red}");
    eventually("routes know every range", || async {
        let snapshot = agent.tables.db.snapshot();
        let local = agent.tables.local_node.iter(&snapshot).next()?;
        (local.node.pod_cidrs.len() == ranges(&agent, "default") + 1).then_some(())
    })
    .await;
    assert!(agent.addresses.release(red));
    for (ip, owner, _, _) in agent.addresses.taken() {
        if owner.starts_with("shop/") {
            assert!(agent.addresses.release(ip));
        }
    }
    eventually("what is not needed goes back", || async {
        let node = world.cilium_node().await?;
        let pools = node.spec.ipam.pools.allocated;
        let sizes: Vec<(String, usize)> = pools
            .iter()
            .map(|p| (p.pool.clone(), p.cidrs.len()))
            .collect();
        (sizes == [("default".to_owned(), 1)]).then_some(())
    })
    .await;
    assert_eq!(ranges(&agent, "red"), 0);
    // A pool that is not there is the operator's to complain of.
    let error = agent.address("x", "blue").await.unwrap_err();
    assert!(
        error.to_string().contains("pool blue has no IPv4 range"),
        "{error}"
    );
    eventually("the operator's complaint is heard", || async {
        agent
            .message("controller/cilium-node")
            .contains("there is no pool blue")
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listed_addresses_are_used_and_reported() {
    let world = World::new(&[("ipam", "crd")]).await;
    let nodes = world.objects("CiliumNode");
    let value = json!({"metadata": {"name": "n1"}, "spec": {"ipam": {"pool": {"10.5.0.7": {}, "10.5.0.9": {}, "10.5.0.8": {}}}}});
    eventually("the kind is installed", || async {
        nodes.create(value.clone()).await.ok()
    })
    .await;
    let pairs = [("ipam", "crd"), ("ipam-cilium-node-update-rate", "0s")];
    let agent = Agent::start(&world, &pairs, None).await;
    assert_eq!(agent.local.router4, Some("10.5.0.7".parse().unwrap()));
    for pod in ["a", "b"] {
        agent.address(pod, "default").await.unwrap();
    }
    assert!(agent.address("c", "default").await.is_err());
    let more = json!({"spec": {"ipam": {"pool": {"10.5.0.20": {}}}}});
    nodes.merge("n1", more, None).await.unwrap();
    let given = eventually("another address", || async {
        agent.address("c", "default").await.ok()
    })
    .await;
    assert_eq!(given, "10.5.0.20".parse::<IpAddr>().unwrap());
    eventually("use is reported", || async {
        let used = world.cilium_node().await?.status.ipam.used;
        (used.len() == 4 && used["10.5.0.20"].owner == "shop/c").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_become_objects_and_go_with_them() {
    let world = World::new(&[("ipam", "kubernetes")]).await;
    let (stopper, stop) = stop::channel();
    let tables = Tables::new().unwrap();
    let health = Health::default();
    let target = EndpointObjects::new(world.client.clone(), tables.clone());
    let config = tables::reconcile::Config {
        retry_min: Duration::from_millis(20),
        retry_max: Duration::from_millis(200),
        ..Default::default()
    };
    reconcile_async::spawn(
        &tables.db,
        &tables.endpoints,
        config,
        target,
        health.component("x"),
        stop,
    );
    let pod = json!({"metadata": {"name": "cart", "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    let pod: k8s_openapi::api::core::v1::Pod = world.create(Some("default"), pod).await;
    let uid = pod.metadata.uid.unwrap();
    let mut endpoint = endpoint(7);
    endpoint.pod.uid = uid.clone();
    let put = |endpoint: &model::Endpoint| {
        let mut txn = tables.db.write();
        tables.endpoints.insert(&mut txn, endpoint.clone()).unwrap();
        txn.commit();
    };
    let api: Api<crd::CiliumEndpoint> = Api::namespaced(world.client.clone(), "default");
    let identity = || async {
        let found = api.get_opt("cart").await.ok().flatten()?;
        Some((found.status.identity?.id, found.status.id))
    };
    put(&endpoint);
    eventually("an object", || async {
        (identity().await? == (4711, 7)).then_some(())
    })
    .await;
    endpoint.identity = 4712;
    put(&endpoint);
    eventually("the new identity", || async {
        (identity().await? == (4712, 7)).then_some(())
    })
    .await;
    // The pod's next container takes the place of the first.
    let mut txn = tables.db.write();
    tables.endpoints.delete(&mut txn, &7);
    txn.commit();
    eventually("the object goes", || async {
        api.get_opt("cart").await.ok()?.is_none().then_some(())
    })
    .await;
    endpoint.id = 8;
    put(&endpoint);
    eventually("another object", || async {
        (identity().await? == (4712, 8)).then_some(())
    })
    .await;
    stopper.stop();
}
