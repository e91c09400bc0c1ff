//! What a lab puts into a cluster that is not its own: on record before it is created, and removed by `lab down`, whatever
//! became of the supervisor. Nothing else is touched there.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Preconditions};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};
use serde::{Deserialize, Serialize};

use super::api::write;
use super::nodes::LEASES;
use crate::spec::LabSpec;
use crate::state::StateDir;

/// The label of everything that a lab creates in a cluster that is not its own.
pub(super) const LABEL: &str = "hypha.dev/lab";
/// How long the cluster may take to forget the lab.
const LIMIT: Duration = Duration::from_secs(30);
/// Between looks whether somebody put another pod onto a node that goes.
const AGAIN: Duration = Duration::from_millis(300);

/// What operators agree by on who of them works.
const OPERATOR_LOCK: &str = "cilium-operator-resource-lock";

/// The group of our custom kinds.
const GROUP: &str = "cilium.io";
/// Those of which agents and operator make the objects, and nobody else.
const MADE: [&str; 3] = [
    "ciliumendpoints",
    "ciliumendpointslices",
    "ciliumidentities",
];

const RECORD: &str = "outside.json";
const KUBECONFIG: &str = "outside.kubeconfig";

/// Kinds of which a lab may create objects, owners before what they make.
const KINDS: [(&str, &str, &str); 16] = [
    ("apps/v1", "DaemonSet", "daemonsets"),
    ("apps/v1", "Deployment", "deployments"),
    ("apps/v1", "ReplicaSet", "replicasets"),
    ("v1", "Service", "services"),
    ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices"),
    ("v1", "Endpoints", "endpoints"),
    ("v1", "ConfigMap", "configmaps"),
    ("v1", "Secret", "secrets"),
    ("v1", "ServiceAccount", "serviceaccounts"),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    (
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        "rolebindings",
    ),
    ("rbac.authorization.k8s.io/v1", "Role", "roles"),
    (
        "rbac.authorization.k8s.io/v1",
        "ClusterRoleBinding",
        "clusterrolebindings",
    ),
    (
        "rbac.authorization.k8s.io/v1",
        "ClusterRole",
        "clusterroles",
    ),
    ("v1", "Pod", "pods"),
    ("v1", "Namespace", "namespaces"),
];

/// What has to be known to find it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The other cluster's API server.
    url: String,
    /// The value of [`LABEL`].
    pub(super) owner: String,
    /// Custom kinds of ours that were there before; not known if the lab may not list them.
    #[serde(default)]
    before: Option<BTreeSet<String>>,
    /// Not written yet.
    #[serde(skip)]
    is_new: bool,
}

impl Record {
    /// The record of a lab that joins a cluster: the one of its earlier life there, or a new one.
    pub(super) fn open(dir: &StateDir, spec: &LabSpec, url: &str) -> anyhow::Result<Record> {
        if let Some(record) = read(dir)? {
            check(&record, spec, Some(url))?;
            return Ok(record);
        }
        let id = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let machine = [id("/etc/machine-id"), id("/proc/sys/kernel/random/uuid")];
        let machine = machine.iter().map(|id| id.trim()).find(|id| !id.is_empty());
        let machine: String = machine.unwrap_or("0").chars().take(16).collect();
        Ok(Record {
            url: url.to_owned(),
            owner: format!("{}.{machine}", spec.name),
            before: None,
            is_new: true,
        })
    }

    /// Notes which custom kinds are there, once, before anything is brought.
    pub(super) async fn note_kinds(&mut self, client: &Client) {
        if self.is_new {
            self.before = kinds(client)
                .await
                .ok()
                .map(|all| all.into_iter().map(|kind| kind.name).collect());
        }
    }

    /// Writes it, with the kubeconfig of the cluster.
    pub(super) fn write(&self, dir: &StateDir, kubeconfig: &str) -> anyhow::Result<()> {
        write(&dir.data_file(KUBECONFIG)?, kubeconfig)?;
        write(
            &dir.data_file(RECORD)?,
            &serde_json::to_string_pretty(self)?,
        )
    }
}

fn read(dir: &StateDir) -> anyhow::Result<Option<Record>> {
    let path = dir.data().join(RECORD);
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .with_context(|| format!("{} is malformed", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn check(record: &Record, spec: &LabSpec, url: Option<&str>) -> anyhow::Result<()> {
    if Some(record.url.as_str()) != url {
        bail!(
            "lab {:?} still has its nodes in the cluster at {}: `hypha lab down --name {}` removes them",
            spec.name.as_str(),
            record.url,
            spec.name
        );
    }
    Ok(())
}

/// An error if a lab that is to have an API server of its own is still part of another cluster.
pub(super) fn check_none(dir: &StateDir, spec: &LabSpec) -> anyhow::Result<()> {
    read(dir)?.map_or(Ok(()), |record| check(&record, spec, None))
}

/// Removes what the lab put into a cluster that is not its own, and says what became of the custom kinds; nothing to do if it is in
/// none.
///
/// # Errors
/// The cluster cannot be reached or refuses: the record stays, so that it can be tried again.
pub fn leave(dir: &StateDir) -> anyhow::Result<Option<String>> {
    let Some(record) = read(dir)? else {
        return Ok(None);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let left: anyhow::Result<String> = runtime.block_on(async {
        let client = crate::client::connect(&dir.data().join(KUBECONFIG))?;
        let work = async {
            remove(&client, &record.owner).await?;
            anyhow::Ok(remove_kinds(&client, record.before.as_ref()).await)
        };
        tokio::time::timeout(LIMIT, work)
            .await
            .with_context(|| format!("not done within {} s", LIMIT.as_secs()))?
    });
    let left = left.with_context(|| {
        format!(
            "what the lab put into the cluster at {} (label {LABEL}={}) is still there; `hypha lab down` tries again",
            record.url, record.owner
        )
    })?;
    for file in [RECORD, KUBECONFIG] {
        let path = dir.data().join(file);
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(Some(left))
}

/// A custom kind of ours in a cluster.
struct Kind {
    /// `PLURAL.GROUP`.
    name: String,
    plural: String,
    /// The version that is stored.
    version: String,
}

async fn kinds(client: &Client) -> kube::Result<Vec<Kind>> {
    let definitions = definitions(client);
    let all = list(&definitions, &ListParams::default()).await?;
    let kind = |object: DynamicObject| {
        let spec = &object.data["spec"];
        let versions = spec["versions"].as_array()?;
        let stored = versions.iter().find(|v| v["storage"] == true)?;
        (spec["group"] == GROUP).then_some(())?;
        Some(Kind {
            name: object.name_any(),
            plural: spec["names"]["plural"].as_str()?.to_owned(),
            version: stored["name"].as_str()?.to_owned(),
        })
    };
    Ok(all.into_iter().filter_map(kind).collect())
}

fn definitions(client: &Client) -> Api<DynamicObject> {
    let resource = resource(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
    );
    Api::all_with(client.clone(), &resource)
}

/// Removes the custom kinds that came with the lab, unless somebody else uses one; what became of them.
async fn remove_kinds(client: &Client, before: Option<&BTreeSet<String>>) -> String {
    let Some(before) = before else {
        return format!("the kinds of {GROUP} stay: it is not known whether the lab brought them");
    };
    match remove_unused(client, before).await {
        Ok(text) => text,
        Err(error) => format!("the kinds of {GROUP} stay: {error}"),
    }
}

async fn remove_unused(client: &Client, before: &BTreeSet<String>) -> kube::Result<String> {
    let ours: Vec<Kind> = kinds(client).await?;
    let ours: Vec<Kind> = ours
        .into_iter()
        .filter(|kind| !before.contains(&kind.name))
        .collect();
    if ours.is_empty() {
        return Ok(format!(
            "the kinds of {GROUP} were there before the lab, and stay"
        ));
    }
    for kind in ours
        .iter()
        .filter(|kind| !MADE.contains(&kind.plural.as_str()))
    {
        let resource = resource(&format!("{GROUP}/{}", kind.version), "", &kind.plural);
        let all: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        if let Some(one) = list(&all, &ListParams::default().limit(1)).await?.first() {
            return Ok(format!(
                "the kinds of {GROUP} stay: others use them, as {} {}",
                kind.plural,
                one.name_any()
            ));
        }
    }
    let definitions = definitions(client);
    for kind in &ours {
        delete(&definitions, &kind.name, None).await?;
    }
    Ok(format!("{} kinds of {GROUP} went with it", ours.len()))
}

async fn remove(client: &Client, owner: &str) -> anyhow::Result<()> {
    let ours = ListParams::default().labels(&format!("{LABEL}={owner}"));
    for (version, kind, plural) in KINDS {
        let resource = resource(version, kind, plural);
        let all: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        for object in list(&all, &ours).await.with_context(|| plural.to_owned())? {
            let place: Api<DynamicObject> = match object.namespace() {
                Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
                None => all.clone(),
            };
            let gone = delete(&place, &object.name_any(), object.metadata.uid.clone()).await;
            gone.with_context(|| format!("{plural} {}", object.name_any()))?;
        }
    }
    let nodes: Api<Node> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let cilium_nodes = resource("cilium.io/v2", "CiliumNode", "ciliumnodes");
    let cilium_nodes: Api<DynamicObject> = Api::all_with(client.clone(), &cilium_nodes);
    let locks: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let found = nodes.list(&ours).await.context("nodes")?;
    let names: Vec<String> = found.items.iter().map(ResourceExt::name_any).collect();
    // The nodes go last: they are the only way to find the rest again, should this be interrupted.
    for name in &names {
        remove_pods(client, name)
            .await
            .with_context(|| format!("pods of {name}"))?;
        delete(&leases, name, None).await.context("leases")?;
        delete(&cilium_nodes, name, None)
            .await
            .context("ciliumnodes")?;
    }
    if let Some(lock) = locks.get_opt(OPERATOR_LOCK).await.context("leases")? {
        let holder = lock.spec.and_then(|spec| spec.holder_identity);
        let holder = holder.unwrap_or_default();
        // An operator's identity begins with its node; one that ended in order left nobody's.
        let ours = |name: &String| {
            holder
                .strip_prefix(name.as_str())
                .is_some_and(|rest| rest.starts_with('-'))
        };
        if holder.is_empty() || names.iter().any(ours) {
            delete(&locks, OPERATOR_LOCK, lock.metadata.uid)
                .await
                .context("leases")?;
        }
    }
    for node in &found.items {
        delete(&nodes, &node.name_any(), node.metadata.uid.clone())
            .await
            .context("nodes")?;
    }
    // What was put there meanwhile: nobody is there to end it.
    tokio::time::sleep(AGAIN).await;
    for name in &names {
        remove_pods(client, name)
            .await
            .with_context(|| format!("pods of {name}"))?;
    }
    Ok(())
}

async fn remove_pods(client: &Client, node: &str) -> kube::Result<()> {
    let endpoints = resource("cilium.io/v2", "CiliumEndpoint", "ciliumendpoints");
    let all: Api<Pod> = Api::all(client.clone());
    let bound = ListParams::default().fields(&format!("spec.nodeName={node}"));
    for pod in all.list(&bound).await?.items {
        let namespace = pod.namespace().unwrap_or_default();
        let place: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        delete(&place, &pod.name_any(), pod.metadata.uid.clone()).await?;
        // A cluster without a garbage collector would keep it.
        let place: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), &namespace, &endpoints);
        delete(&place, &pod.name_any(), None).await?;
    }
    Ok(())
}

fn resource(version: &str, kind: &str, plural: &str) -> ApiResource {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// Nothing where the cluster does not have the kind.
async fn list(api: &Api<DynamicObject>, which: &ListParams) -> kube::Result<Vec<DynamicObject>> {
    match api.list(which).await {
        Ok(list) => Ok(list.items),
        Err(kube::Error::Api(e)) if e.code == 404 => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// At once: whoever would end it in order is gone. It may be gone already, or be another one of its name by now.
async fn delete<K>(api: &Api<K>, name: &str, uid: Option<String>) -> kube::Result<()>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let mut params = DeleteParams::background().grace_period(0);
    params.preconditions = uid.map(|uid| Preconditions {
        uid: Some(uid),
        resource_version: None,
    });
    match api.delete(name, &params).await {
        Err(kube::Error::Api(e)) if [404, 409].contains(&e.code) => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_stays_in_one_cluster() {
        let spec = LabSpec::default();
        let record = Record {
            url: "https://a".into(),
            owner: "hypha.1".into(),
            before: None,
            is_new: false,
        };
        assert!(check(&record, &spec, Some("https://a")).is_ok());
        for other in [Some("https://b"), None] {
            let error = check(&record, &spec, other).unwrap_err().to_string();
            assert!(
                error.contains("https://a") && error.contains("lab down"),
                "{error}"
            );
        }
    }

    #[test]
    fn every_kind_has_its_path() {
        for (version, kind, plural) in KINDS {
            let resource = resource(version, kind, plural);
            assert_eq!(resource.api_version, version);
            assert_eq!(resource.plural, plural);
        }
    }
}
