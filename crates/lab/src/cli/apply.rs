//! `hypha lab apply` and `delete`: objects from files, through the ordinary Kubernetes API.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, ValidationDirective,
};
use kube::core::{GroupVersion, GroupVersionKind};
use kube::discovery::{Scope, pinned_kind};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client};

use super::{Lab, block_on, pod_name};
use crate::manifest::{Manifest, parse};
use crate::supervisor::sample::pod_ready;

/// As whom the API server knows this command.
const MANAGER: &str = "hypha-lab";

/// What to create or change.
#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    /// A YAML or JSON file; `-` is standard input. May be given several times.
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    files: Vec<String>,
    /// Wait until all pods are ready.
    #[arg(long)]
    wait: bool,
    /// How long to wait, in seconds.
    #[arg(long, default_value_t = 30)]
    timeout: u64,
}

/// What to delete.
#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// A file whose objects shall go; `-` is standard input. May be given several times.
    #[arg(
        short,
        long = "filename",
        value_name = "FILE",
        required_unless_present = "pod"
    )]
    files: Vec<String>,
    /// `pod NAME`, `pod NAMESPACE/NAME`, or several pods.
    #[arg(num_args = 2.., value_names = ["KIND", "NAME"], conflicts_with = "files")]
    pod: Vec<String>,
    /// Seconds that processes have to end (default: as the pod says).
    #[arg(long)]
    grace_period: Option<u32>,
    /// Do not wait until they are gone.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait, in seconds.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
}

fn read(files: &[String]) -> anyhow::Result<Vec<Manifest>> {
    let mut all = Vec::new();
    for file in files {
        let mut text = String::new();
        if file == "-" {
            io::stdin()
                .read_to_string(&mut text)
                .context("cannot read standard input")?;
        } else {
            text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        }
        all.extend(parse(file, &text)?);
    }
    if all.is_empty() {
        bail!("there is no object in {}", files.join(", "));
    }
    Ok(all)
}

/// How objects of a kind are called in paths, asked once per kind.
struct Kinds {
    client: Client,
    known: BTreeMap<(String, String), (ApiResource, bool)>,
}

impl Kinds {
    fn new(client: Client) -> Kinds {
        let known = BTreeMap::new();
        Kinds { client, known }
    }

    async fn api(&mut self, manifest: &Manifest) -> anyhow::Result<Api<DynamicObject>> {
        let key = (manifest.api_version.clone(), manifest.kind.clone());
        let (resource, namespaced) = match self.known.get(&key) {
            Some(known) => known.clone(),
            None => {
                let found = resource(&self.client, manifest).await?;
                self.known.insert(key, found.clone());
                found
            }
        };
        let client = self.client.clone();
        Ok(if namespaced {
            let namespace = manifest.namespace.as_deref().unwrap_or("default");
            Api::namespaced_with(client, namespace, &resource)
        } else {
            Api::all_with(client, &resource)
        })
    }
}

async fn resource(client: &Client, manifest: &Manifest) -> anyhow::Result<(ApiResource, bool)> {
    let bad = || {
        format!(
            "{}: unknown kind {:?} of apiVersion {:?}",
            manifest.place, manifest.kind, manifest.api_version
        )
    };
    let version: GroupVersion = manifest.api_version.parse().with_context(bad)?;
    let kind = GroupVersionKind::gvk(&version.group, &version.version, &manifest.kind);
    match pinned_kind(client, &kind).await {
        Ok((resource, capabilities)) => Ok((resource, capabilities.scope == Scope::Namespaced)),
        Err(kube::Error::Api(e)) if e.code != 404 => Err(e).with_context(bad),
        Err(e @ (kube::Error::Service(_) | kube::Error::HyperError(_))) => {
            Err(e).context("cannot reach the API server")
        }
        Err(_) => bail!(bad()),
    }
}

/// Applies it, with unknown fields refused. What was done, as kubectl says it.
async fn apply_one(kinds: &mut Kinds, manifest: &Manifest) -> anyhow::Result<&'static str> {
    let api = kinds.api(manifest).await?;
    let place = || manifest.place.clone();
    let before = api.get_opt(&manifest.name).await;
    let before = before.map_err(brief).with_context(place)?;
    let mut params = PatchParams::apply(MANAGER).force();
    params.field_validation = Some(ValidationDirective::Strict);
    let applied = Patch::Apply(&manifest.value);
    let after = api.patch(&manifest.name, &params, &applied).await;
    let after = after.map_err(brief).with_context(place)?;
    Ok(match before {
        None => "created",
        Some(b) if b.metadata.resource_version == after.metadata.resource_version => "unchanged",
        Some(_) => "configured",
    })
}

/// The server's message alone.
fn brief(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => anyhow::anyhow!("{}", status.message),
        other => other.into(),
    }
}

fn title(manifest: &Manifest) -> String {
    format!("{}/{}", manifest.kind.to_lowercase(), manifest.name)
}

pub(super) fn apply(lab: &Lab, args: &ApplyArgs) -> anyhow::Result<()> {
    let manifests = read(&args.files)?;
    let limit = Duration::from_secs(args.timeout);
    block_on(async {
        let client = lab.client()?;
        let mut kinds = Kinds::new(client.clone());
        for manifest in &manifests {
            println!(
                "{} {}",
                title(manifest),
                apply_one(&mut kinds, manifest).await?
            );
        }
        if !args.wait {
            return Ok(());
        }
        let pods = manifests.iter().filter(|m| m.kind == "Pod");
        let waits = pods.map(|m| wait_ready(&client, m, limit));
        futures::future::try_join_all(waits).await.map(drop)
    })
}

async fn wait_ready(client: &Client, manifest: &Manifest, limit: Duration) -> anyhow::Result<()> {
    let namespace = manifest.namespace.as_deref().unwrap_or("default");
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let ready = await_condition(pods.clone(), &manifest.name, pod_ready());
    match tokio::time::timeout(limit, ready).await {
        Ok(waited) => waited
            .map(drop)
            .with_context(|| format!("waiting for {}", title(manifest))),
        Err(_) => bail!(
            "{} is not ready after {limit:?}: {}",
            title(manifest),
            why(client, &pods, manifest).await
        ),
    }
}

/// What the kubelet says about a pod that is not ready.
async fn why(client: &Client, pods: &Api<Pod>, manifest: &Manifest) -> String {
    let pod = pods.get_opt(&manifest.name).await.ok().flatten();
    let statuses = pod
        .and_then(|p| p.status)
        .and_then(|s| s.container_statuses)
        .unwrap_or_default();
    let waiting = statuses.into_iter().filter_map(|c| c.state?.waiting);
    let stuck = waiting
        .filter_map(|w| {
            Some(format!(
                "{}: {}",
                w.reason?,
                w.message.filter(|m| !m.is_empty())?
            ))
        })
        .next();
    let namespace = manifest.namespace.as_deref().unwrap_or("default");
    let events: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(client.clone(), namespace);
    let events = events
        .list(&Default::default())
        .await
        .map(|l| l.items)
        .unwrap_or_default();
    let ours = events
        .into_iter()
        .filter(|e| e.involved_object.name.as_deref() == Some(&manifest.name));
    stuck
        .or(ours.filter_map(|e| e.message).next_back())
        .unwrap_or_else(|| "nothing is known".into())
}

pub(super) fn delete(lab: &Lab, args: &DeleteArgs) -> anyhow::Result<()> {
    let manifests = match args.pod.split_first() {
        Some((kind, names)) => named(kind, names)?,
        None => read(&args.files)?,
    };
    let params = DeleteParams {
        grace_period_seconds: args.grace_period,
        ..DeleteParams::default()
    };
    block_on(async {
        let mut kinds = Kinds::new(lab.client()?);
        let (mut waits, mut failures) = (Vec::new(), Vec::new());
        for manifest in &manifests {
            match delete_one(&mut kinds, manifest, &params).await {
                Ok((api, uid)) => waits.push(gone(api, manifest, uid)),
                Err(e) => failures.push(format!("{e:#}")),
            }
        }
        if !args.no_wait {
            let limit = Duration::from_secs(args.timeout);
            let all = futures::future::try_join_all(waits);
            tokio::time::timeout(limit, all)
                .await
                .with_context(|| format!("still there after {limit:?}"))??;
        }
        if failures.is_empty() {
            Ok(())
        } else {
            bail!(failures.join("; "))
        }
    })
}

async fn delete_one(
    kinds: &mut Kinds,
    manifest: &Manifest,
    params: &DeleteParams,
) -> anyhow::Result<(Api<DynamicObject>, String)> {
    let api = kinds.api(manifest).await?;
    let uid = api
        .get(&manifest.name)
        .await
        .map_err(brief)?
        .metadata
        .uid
        .unwrap_or_default();
    api.delete(&manifest.name, params).await.map_err(brief)?;
    println!("{} deleted", title(manifest));
    Ok((api, uid))
}

async fn gone(api: Api<DynamicObject>, manifest: &Manifest, uid: String) -> anyhow::Result<()> {
    let deleted = await_condition(api, &manifest.name, conditions::is_deleted(&uid)).await;
    deleted
        .map(drop)
        .with_context(|| format!("waiting for the end of {}", title(manifest)))
}

fn named(kind: &str, names: &[String]) -> anyhow::Result<Vec<Manifest>> {
    if !matches!(kind, "pod" | "pods" | "po") {
        bail!(
            "delete by name is for pods: `delete pod NAME`, not {kind:?}; other objects go with -f FILE"
        );
    }
    let pod = |text: &String| {
        let (namespace, name) = pod_name(text);
        Manifest {
            place: text.clone(),
            api_version: "v1".into(),
            kind: "Pod".into(),
            name: name.to_owned(),
            namespace: Some(namespace.to_owned()),
            value: serde_json::Value::Null,
        }
    };
    Ok(names.iter().map(pod).collect())
}
