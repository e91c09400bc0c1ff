//! A cluster in this process: the embedded API server, the controllers, and kubelets that only say that pods run.
use std::{fmt::Debug, time::Duration};

use apiserver::{ApiServer, ServerOptions};
use futures::StreamExt;
use hypha_controllers::{Controllers, HealthView, Settings, meta, pods};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Node, Pod},
};
use kube::{
    Api, Client, Config, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);

/// It ends with the test.
pub struct Cluster {
    server: ApiServer,
    pub client: Client,
    pub url: String,
    pub health: HealthView,
    stop: watch::Sender<bool>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.server.shutdown();
    }
}

impl Cluster {
    pub async fn start(nodes: usize, settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = serve(listener);
        let client = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
        let (stop, stopped) = watch::channel(false);
        let controllers = Controllers::new(client.clone(), settings);
        let health = controllers.health();
        tokio::spawn(controllers.run(until(stopped.clone())));
        let cluster = Self {
            server,
            client,
            url,
            health,
            stop,
        };
        for i in 1..=nodes {
            cluster.add_node(&format!("n{i}")).await;
        }
        let kubelets = kubelets(cluster.client.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = kubelets => {}
                () = until(stopped) => {}
            }
        });
        cluster
    }

    /// Puts an empty server in the place of the one that runs: its revisions begin anew.
    pub async fn replace_server(&mut self) {
        self.server.shutdown();
        let address = self.url.trim_start_matches("http://").to_owned();
        let begin = tokio::time::Instant::now();
        let listener = loop {
            match TcpListener::bind(&address).await {
                Ok(listener) => break listener,
                Err(error) => assert!(begin.elapsed() < LIMIT, "{address}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.server = serve(listener);
    }

    pub async fn add_node(&self, name: &str) {
        let node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {
                "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "250"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node: Node = serde_json::from_value(node).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let status = json!({"status": node.status});
        nodes
            .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub async fn create<K>(&self, object: Value)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + serde::Serialize,
    {
        let object: K = serde_json::from_value(object).unwrap();
        let made = self
            .api::<K>()
            .create(&PostParams::default(), &object)
            .await;
        made.unwrap();
    }

    pub async fn patch<K>(&self, name: &str, patch: Value)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let patched = self
            .api::<K>()
            .patch(name, &PatchParams::default(), &Patch::Strategic(patch))
            .await;
        patched.unwrap();
    }

    pub async fn list<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        self.api::<K>()
            .list(&Default::default())
            .await
            .unwrap()
            .items
    }

    pub async fn ready_pods(&self) -> Vec<Pod> {
        let mut all = self.list::<Pod>().await;
        all.retain(|pod| pods::is_ready(pod) && !meta::is_ending(&pod.metadata));
        all
    }

    /// Waits until the condition holds; says what it was about if it never does.
    pub async fn until<F: Future<Output = bool>>(&self, what: &str, test: impl Fn() -> F) {
        let begin = tokio::time::Instant::now();
        while !test().await {
            let sick: Vec<_> = self
                .health
                .get()
                .into_iter()
                .filter(|h| !h.is_well())
                .collect();
            assert!(begin.elapsed() < LIMIT, "never: {what}; {sick:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn serve(listener: TcpListener) -> ApiServer {
    let server = ApiServer::open(ServerOptions::default()).unwrap();
    let serving = server.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    server
}

async fn until(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Makes bound pods ready at once, ends those of Jobs, and lets go of those that are to end.
async fn kubelets(client: Client) {
    let all: Api<Pod> = Api::all(client.clone());
    let changes = watcher(all, watcher::Config::default())
        .default_backoff()
        .applied_objects();
    let work = changes.for_each_concurrent(64, |pod| {
        let client = client.clone();
        async move {
            if let Ok(pod) = pod {
                run(client, pod).await;
            }
        }
    });
    work.await;
}

async fn run(client: Client, pod: Pod) {
    let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
    let api: Api<Pod> = Api::namespaced(client, namespace);
    if meta::is_ending(&pod.metadata) {
        let _ = api
            .delete(name, &DeleteParams::default().grace_period(0))
            .await;
    } else if pods::node(&pod).is_some() && pods::phase(&pod) == "Pending" {
        let is_job = meta::controller_of(&pod.metadata).is_some_and(|owner| owner.kind == "Job");
        let (phase, ready) = if is_job {
            ("Succeeded", "False")
        } else {
            ("Running", "True")
        };
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now());
        let status = json!({"status": {
            "phase": phase, "podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}, {"ip": "fd00:244::9"}],
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}],
        }});
        let _ = api
            .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await;
    }
}
