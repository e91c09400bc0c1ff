//! Policy objects: written to the API server without a process for each, and awaited at the agents.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ::policy::parse::{self, Options};
use ::policy::rule::{CidrGroup, Policy};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
};
use serde_json::{Value, json};

use super::expect::Rules;
use super::stage::Stage;
use crate::cluster::Cluster;

/// How long agents may take. On an idle machine it is a few milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// A client of the lab's API server.
pub struct Server {
    runtime: tokio::runtime::Runtime,
    client: kube::Client,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Server")
    }
}

/// Plural of a kind of object that tests write.
fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{kind}s"),
    }
}

impl Server {
    /// Of a stage's lab.
    ///
    /// # Panics
    /// If its kubeconfig cannot be used.
    #[must_use]
    #[track_caller]
    pub fn of(stage: &Stage) -> Self {
        Self::of_cluster(&stage.cluster)
    }

    /// Of a lab.
    ///
    /// # Panics
    /// If its kubeconfig cannot be used.
    #[must_use]
    #[track_caller]
    pub fn of_cluster(cluster: &Cluster) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("an async runtime");
        let path = cluster.lab.dir().join("kubeconfig");
        let client = runtime
            .block_on(k8s::from_kubeconfig(&path, None))
            .expect("a client of the lab");
        Self { runtime, client }
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (group, version) = match object["apiVersion"]
            .as_str()
            .unwrap_or_default()
            .split_once('/')
        {
            Some((group, version)) => (group, version),
            None => ("", "v1"),
        };
        let kind = text(&object["kind"]);
        let gvk = GroupVersionKind::gvk(group, version, &kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, &plural(&kind));
        match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// Creates objects; what the server made of them.
    ///
    /// # Panics
    /// If the server refuses one.
    #[track_caller]
    pub fn create(&self, objects: &[Value]) -> Vec<Value> {
        let created = objects.iter().map(|object| {
            let api = self.api(object);
            let new: DynamicObject = serde_json::from_value(object.clone()).expect("an object");
            async move { api.create(&PostParams::default(), &new).await }
        });
        self.all(created.collect())
            .into_iter()
            .zip(objects)
            .map(|(created, object)| {
                let created = created.unwrap_or_else(|error| panic!("creating {object}: {error}"));
                serde_json::to_value(created).expect("JSON")
            })
            .collect()
    }

    /// Deletes objects.
    ///
    /// # Panics
    /// If the server refuses.
    #[track_caller]
    pub fn delete(&self, objects: &[Value]) {
        let deleted = objects.iter().map(|object| {
            let (api, name) = (self.api(object), name_of(object));
            async move { api.delete(&name, &DeleteParams::default()).await }
        });
        for (deleted, object) in self.all(deleted.collect()).into_iter().zip(objects) {
            deleted.unwrap_or_else(|error| panic!("deleting {object}: {error}"));
        }
    }

    /// Changes an object by a merge.
    ///
    /// # Panics
    /// If the server refuses.
    #[track_caller]
    pub fn merge(&self, object: &Value, patch: &Value) -> Value {
        let (api, name) = (self.api(object), name_of(object));
        let merged = self
            .runtime
            .block_on(api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)))
            .unwrap_or_else(|error| panic!("changing {name}: {error}"));
        serde_json::to_value(merged).expect("JSON")
    }

    /// As [`merge`](Self::merge), with the request ready beforehand and the answer unread: for those who measure.
    ///
    /// # Panics
    /// When called, if the server refuses.
    #[track_caller]
    pub fn ready_to_merge<'a>(&'a self, object: &Value, patch: &Value) -> impl FnOnce() + use<'a> {
        let request = kube::core::Request::new(self.api(object).resource_url());
        let request = request.patch(
            &name_of(object),
            &PatchParams::default(),
            &Patch::Merge(patch),
        );
        let request = request.expect("a request");
        move || {
            let answer = self.runtime.block_on(self.client.request_text(request));
            answer.expect("the object is changed");
        }
    }

    /// The object as it is now.
    ///
    /// # Panics
    /// If it is not there.
    #[track_caller]
    pub fn get(&self, object: &Value) -> Value {
        let (api, name) = (self.api(object), name_of(object));
        let found = self
            .runtime
            .block_on(api.get(&name))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        serde_json::to_value(found).expect("JSON")
    }

    /// All requests at once.
    fn all<T: Send + 'static>(
        &self,
        work: Vec<impl Future<Output = Result<T, kube::Error>> + Send + 'static>,
    ) -> Vec<Result<T, kube::Error>> {
        let tasks: Vec<_> = work
            .into_iter()
            .map(|one| self.runtime.spawn(one))
            .collect();
        self.runtime.block_on(async {
            let mut done = Vec::new();
            for task in tasks {
                done.push(task.await.expect("a request panicked"));
            }
            done
        })
    }
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// `kind namespace/name uid`, by which agents and the API server mean the same object.
fn id(kind: &str, namespace: &str, name: &str, uid: &str) -> String {
    format!("{kind} {namespace}/{name} {uid}")
}

/// Waits until every agent has these policies, no others, and has them in force; how long that took.
///
/// # Panics
/// If one does not come to that, with what it has.
#[track_caller]
pub fn wait_in_force(stage: &Stage, created: &[Value]) -> Duration {
    let start = Instant::now();
    let policies = created
        .iter()
        .filter(|object| object["kind"] != "CiliumCIDRGroup");
    let wanted: BTreeSet<String> = policies
        .map(|object| {
            let metadata = &object["metadata"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            id(
                &text(&object["kind"]),
                &text(&metadata["namespace"]),
                &text(&metadata["name"]),
                &text(&metadata["uid"]),
            )
        })
        .collect();
    for node in &stage.nodes {
        let mut agent = stage.cluster.agent(node);
        let mut last = String::new();
        loop {
            assert!(
                start.elapsed() < LIMIT,
                "the agent of {node} does not come to have {wanted:?}; it has {last}"
            );
            let list = match agent.policies() {
                Ok(list) => list,
                Err(error) => {
                    last = error.to_string();
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
            };
            let has: BTreeSet<String> = list
                .policies
                .iter()
                .map(|policy| id(&policy.kind, &policy.namespace, &policy.name, &policy.uid))
                .collect();
            if has == wanted {
                let at: api::PolicyRevision = agent
                    .get(&api::path::policy_wait(list.revision, 5))
                    .unwrap_or_else(|error| panic!("the agent of {node}: {error}"));
                if at.realized >= list.revision {
                    break;
                }
            }
            last = format!("{has:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    start.elapsed()
}

/// What objects mean, for the reference model.
///
/// # Errors
/// One of them is no policy that is taken.
pub fn rules(objects: &[Value]) -> Result<Rules, String> {
    let mut rules = Rules::default();
    for object in objects {
        if object["kind"] == "CiliumCIDRGroup" {
            let group: CidrGroup =
                parse::cidr_group(object).map_err(|refused| refused.to_string())?;
            rules.groups.push(group);
            continue;
        }
        let policy: Policy =
            parse::policy(object, Options::default()).map_err(|refused| refused.to_string())?;
        rules.policies.push(policy);
    }
    Ok(rules)
}

/// A CiliumNetworkPolicy.
#[must_use]
pub fn cnp(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

/// A CiliumClusterwideNetworkPolicy.
#[must_use]
pub fn ccnp(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": name}, "spec": spec})
}

/// An AdminNetworkPolicy, or with the name `default` and no priority the BaselineAdminNetworkPolicy.
#[must_use]
pub fn admin(name: &str, spec: &Value) -> Value {
    let kind = match spec.get("priority") {
        Some(_) => "AdminNetworkPolicy",
        None => "BaselineAdminNetworkPolicy",
    };
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// A NetworkPolicy.
#[must_use]
pub fn knp(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}
