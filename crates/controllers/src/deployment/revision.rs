//! Versions of the template: the set of each, their numbers, and how many are kept.
use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{DeploymentSpec, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::json;

use super::{DESIRED, MAX, Set, View, status::Progress, told_scaled};
use crate::{
    Key, meta,
    write::{Plan, Tell, Write},
};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Label that tells the sets of a deployment and their pods apart.
pub(super) const HASH: &str = "pod-template-hash";
const DEFAULT_LIMIT: i32 = 10;

/// Whether the set is made of the deployment's current template.
pub(super) fn is_of(set: &ReplicaSet, spec: &DeploymentSpec) -> bool {
    let template = set.spec.template.as_ref();
    template.is_some_and(|template| bare(template) == bare(&spec.template))
}

/// A template without the hash, and without the difference between "none" and "empty".
fn bare(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH);
    }
    meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
    meta.annotations = meta.annotations.take().filter(|map| !map.is_empty());
    meta.creation_timestamp = None;
    template
}

fn number(meta: &ObjectMeta) -> i64 {
    let text = meta::annotation(meta, REVISION);
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Gives the current set its number and annotations, and makes it if there is none and `create` says so.
pub(super) fn keep_current(view: &View<'_>, create: bool, plan: &mut Plan) -> Option<Progress> {
    let last = view.old.iter().map(|set| number(&set.set.metadata)).max();
    let next = last.unwrap_or(0) + 1;
    match &view.new {
        Some(new) => {
            let revision = annotate(view, new, next, plan);
            tell_revision(view, revision, plan);
            let found = format!("Found new replica set \"{}\"", new.name());
            Some(Progress::new("FoundNewReplicaSet", found))
        }
        None if create => Some(make(view, next, plan)),
        None => None,
    }
}

/// The set's annotations follow the deployment's; its number is the highest. Gives the number.
fn annotate(view: &View<'_>, new: &Set, next: i64, plan: &mut Plan) -> i64 {
    let meta = &new.set.metadata;
    let mut wanted = inherited(view);
    let before = number(meta);
    let revision = before.max(next);
    if before < next {
        wanted.insert(REVISION.into(), next.to_string());
        if before > 0 {
            let history = meta::annotation(meta, HISTORY).map(|text| format!("{text},"));
            wanted.insert(
                HISTORY.into(),
                format!("{}{before}", history.unwrap_or_default()),
            );
        }
    }
    wanted.retain(|key, value| meta::annotation(meta, key) != Some(value));
    let ready = view.spec.min_ready_seconds;
    let same_ready = new.set.spec.min_ready_seconds == ready;
    if !wanted.is_empty() || !same_ready {
        let patch =
            json!({"metadata": {"annotations": wanted}, "spec": {"minReadySeconds": ready}});
        plan.push(Write::patch(&*new.set, patch, Tell::nothing()));
    }
    revision
}

/// The annotations of the deployment that its sets have, too.
fn inherited(view: &View<'_>) -> BTreeMap<String, String> {
    let mut map = view
        .deployment
        .metadata
        .annotations
        .clone()
        .unwrap_or_default();
    for own in [REVISION, HISTORY, LAST_APPLIED, DESIRED, MAX] {
        map.remove(own);
    }
    map
}

fn tell_revision(view: &View<'_>, revision: i64, plan: &mut Plan) {
    if number(&view.deployment.metadata) != revision {
        let patch = json!({"metadata": {"annotations": {REVISION: revision.to_string()}}});
        plan.push(Write::patch(view.deployment, patch, Tell::nothing()));
    }
}

fn make(view: &View<'_>, revision: i64, plan: &mut Plan) -> Progress {
    let set = new_set(view, &free_hash(view), revision);
    let name = meta::name(&set.metadata).to_owned();
    let size = set.spec.replicas.unwrap_or(0);
    let tell = if size > 0 {
        told_scaled(view, &name, 0, size)
    } else {
        Tell::nothing()
    };
    plan.push(Write::create(set, tell));
    tell_revision(view, revision, plan);
    Progress::new(
        "NewReplicaSetCreated",
        format!("Created new replica set \"{name}\""),
    )
}

/// The template's fingerprint, or another one while a set of that name exists.
fn free_hash(view: &View<'_>) -> String {
    let meta = &view.deployment.metadata;
    let template = json!(bare(&view.spec.template));
    let mut salt = 0;
    loop {
        let hash = meta::fingerprint(&template, salt);
        let name = format!("{}-{hash}", meta::name(meta));
        let key = Key::new(meta::namespace(meta), name);
        if view.world.get::<ReplicaSet>(&key).is_none() {
            return hash;
        }
        salt += 1;
    }
}

fn new_set(view: &View<'_>, hash: &str, revision: i64) -> ReplicaSet {
    let meta = &view.deployment.metadata;
    let with_hash = |labels: &mut Option<BTreeMap<String, String>>| {
        let labels = labels.get_or_insert_default();
        labels.insert(HASH.into(), hash.into());
    };
    let mut template = view.spec.template.clone();
    let template_meta = template.metadata.get_or_insert_default();
    with_hash(&mut template_meta.labels);
    let labels = template_meta.labels.clone();
    let mut selector = view.spec.selector.clone();
    with_hash(&mut selector.match_labels);
    let mut annotations = inherited(view);
    let most = view.replicas() + view.max_surge();
    annotations.insert(REVISION.into(), revision.to_string());
    annotations.insert(DESIRED.into(), view.replicas().to_string());
    annotations.insert(MAX.into(), most.to_string());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", meta::name(meta))),
            namespace: meta.namespace.clone(),
            labels,
            annotations: Some(annotations),
            owner_references: Some(vec![meta::owner_reference(view.deployment)]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(first_size(view)),
            min_ready_seconds: view.spec.min_ready_seconds,
            selector,
            template: Some(template),
        },
        status: None,
    }
}

/// How many pods a new set begins with.
fn first_size(view: &View<'_>) -> i32 {
    if view.recreates() {
        return view.replicas();
    }
    view.room().min(view.replicas())
}

/// Removes the oldest sets that have no pods, beyond the limit.
pub(super) fn drop_history(view: &View<'_>, plan: &mut Plan) {
    let limit = view.spec.revision_history_limit.unwrap_or(DEFAULT_LIMIT);
    let idle = |set: &&Set| {
        let status = set.set.status.as_ref();
        let meta = &set.set.metadata;
        set.present == 0
            && status.is_some_and(|s| s.replicas == 0 && s.observed_generation >= meta.generation)
            && !meta::is_ending(meta)
    };
    let mut idle: Vec<&Set> = view.old.iter().filter(idle).collect();
    idle.sort_by_key(|set| number(&set.set.metadata));
    let surplus = idle
        .len()
        .saturating_sub(usize::try_from(limit).unwrap_or(0));
    for set in idle.into_iter().take(surplus) {
        plan.push(Write::delete(&*set.set, Tell::nothing()));
    }
}
