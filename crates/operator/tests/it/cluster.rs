//! An API server, operators, and what tests ask of them.
use apiserver::{ApiServer, ServerOptions};
use hypha_operator::run_until;
use ipnet::IpNet;
use k8s::{
    crd::{self, CiliumNode},
    write::Objects,
};
use kube::{
    Api, Client, Config,
    api::{DynamicObject, ListParams, ObjectMeta, PostParams},
};
use runtime::{
    settings::OperatorSettings,
    stop::{self, Stopper},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, task::JoinHandle};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);

/// An API server on a loopback port.
pub struct Cluster {
    server: ApiServer,
    pub client: Client,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.server.shutdown();
    }
}

/// An operator in a task of its own.
pub struct Operator {
    stopper: Stopper,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Operator {
    /// Ends it as a signal does: it gives its lease back.
    pub async fn stop(self) {
        self.stopper.stop();
        self.task.await.unwrap().unwrap();
    }

    /// Ends it in the middle of whatever it does.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Settings for tests: no ports, quick elections, no garbage collection.
pub fn settings(pairs: &[(&str, &str)]) -> OperatorSettings {
    let mut settings = OperatorSettings::default();
    for (key, value) in [
        ("operator-api-serve-addr", ""),
        ("operator-prometheus-serve-addr", ""),
        ("leader-election-lease-duration", "1s"),
        ("leader-election-renew-deadline", "500ms"),
        ("leader-election-retry-period", "50ms"),
        ("cilium-endpoint-gc-interval", "0s"),
        ("nodes-gc-interval", "0s"),
        ("identity-gc-interval", "0s"),
    ]
    .iter()
    .chain(pairs)
    {
        settings.set(key, value, "test").unwrap();
    }
    settings
}

/// The crate's description of a kind.
pub fn kind(name: &str) -> crd::Crd {
    *crd::ALL.iter().find(|crd| crd.kind == name).unwrap()
}

/// Waits for something to be there.
pub async fn eventually<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let began = Instant::now();
    loop {
        let found = look().await;
        match found {
            Ok(value) => return value,
            Err(state) => assert!(began.elapsed() < LIMIT, "{what}: {state}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Cluster {
    pub async fn start() -> Self {
        let server = ApiServer::open(ServerOptions::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = server.clone();
        tokio::spawn(async move { serving.serve(listener).await });
        let client = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
        Self { server, client }
    }

    /// Starts an operator. Like a pod it starts again when it ends because it lost the lease: a machine that stands still
    /// for longer than tests let a renewal take does that.
    pub fn operator(&self, settings: OperatorSettings) -> Operator {
        let (stopper, stop) = stop::channel();
        let client = self.client.clone();
        let task = tokio::spawn(async move {
            loop {
                match run_until(settings.clone(), client.clone(), stop.clone()).await {
                    Err(error) if error.to_string().starts_with("leadership is lost") => {}
                    outcome => return outcome,
                }
            }
        });
        Operator { stopper, task }
    }

    pub fn objects(&self, name: &str) -> Objects {
        Objects::of(&self.client, &kind(name))
    }

    /// Waits until the operator has installed all kinds.
    pub async fn installed(&self) {
        let (nodes, last) = (
            self.objects("CiliumNode"),
            Objects::within(&self.client, &kind("CiliumLocalRedirectPolicy"), "default"),
        );
        eventually("kinds are installed", || async {
            nodes.list().await.map_err(|error| error.to_string())?;
            last.list().await.map_err(|error| error.to_string())
        })
        .await;
    }

    pub async fn add_node(&self, name: &str, spec: Value) {
        let value = json!({"metadata": {"name": name}, "spec": spec});
        self.objects("CiliumNode").create(value).await.unwrap();
    }

    pub async fn nodes(&self) -> BTreeMap<String, CiliumNode> {
        let api: Api<CiliumNode> = Api::all(self.client.clone());
        let list = api.list(&ListParams::default()).await.unwrap();
        list.items
            .into_iter()
            .map(|node| (node.metadata.name.clone().unwrap(), node))
            .collect()
    }

    pub async fn node(&self, name: &str) -> CiliumNode {
        self.nodes().await.remove(name).unwrap()
    }

    /// The ranges of a node once it has as many.
    pub async fn ranges(&self, name: &str, count: usize) -> Vec<String> {
        eventually("a node has its ranges", || async {
            let node = self.node(name).await;
            let ranges = node.spec.ipam.pod_cidrs;
            if ranges.len() == count {
                Ok(ranges)
            } else {
                Err(format!("{name}: {ranges:?} {:?}", node.status))
            }
        })
        .await
    }

    /// Creates any object of the core group.
    pub async fn create(&self, kind: &str, plural: &str, value: Value) -> DynamicObject {
        let resource = kube::api::ApiResource {
            group: String::new(),
            version: "v1".to_owned(),
            api_version: "v1".to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        let mut object: DynamicObject = serde_json::from_value(value).unwrap();
        object.types = Some(kube::api::TypeMeta {
            api_version: "v1".to_owned(),
            kind: kind.to_owned(),
        });
        let ObjectMeta { namespace, .. } = object.metadata.clone();
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), &namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        api.create(&PostParams::default(), &object).await.unwrap()
    }
}

/// Panics if two nodes have ranges that overlap.
pub fn disjoint(nodes: &BTreeMap<String, CiliumNode>) {
    let mut all: Vec<(IpNet, &str)> = Vec::new();
    for (name, node) in nodes {
        let pools = node.spec.ipam.pools.allocated.iter();
        let texts = node
            .spec
            .ipam
            .pod_cidrs
            .iter()
            .chain(pools.flat_map(|p| &p.cidrs));
        for text in texts {
            let net: IpNet = text.parse().unwrap();
            for (other, by) in &all {
                assert!(
                    !ipam::overlap(other, &net),
                    "{net} of {name} and {other} of {by}"
                );
            }
            all.push((net, name));
        }
    }
}
