//! Versions of a template as ControllerRevisions: for DaemonSets and StatefulSets, whose pods name theirs by a label.
use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::{
    api::{apps::v1::ControllerRevision, core::v1::PodTemplateSpec},
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        runtime::RawExtension,
    },
};
use serde_json::{Value, json};

use crate::{
    Key, World,
    kinds::Kept,
    meta, pods,
    write::{Plan, Tell, Write},
};

/// Label of pods: the version of the template they were made from.
pub(crate) const HASH: &str = "controller-revision-hash";
const DEFAULT_LIMIT: i32 = 10;

/// The versions of one owner's template.
pub(crate) struct History {
    /// Oldest first.
    all: Vec<Arc<ControllerRevision>>,
    /// The name of the current one, whether it is there yet or is being made.
    pub(crate) current: String,
    /// The fingerprint in its name.
    pub(crate) hash: String,
}

/// Finds the version of the current template, and plans to make it or to number it if need be.
pub(crate) fn sync<O: Kept>(
    owner: &O,
    selector: &LabelSelector,
    template: &PodTemplateSpec,
    world: &World,
    plan: &mut Plan,
) -> History {
    let (mut all, adopting) = pods::claim(world, owner, selector, |_: &ControllerRevision| true);
    plan.writes.extend(adopting);
    all.sort_by_key(|r| (r.revision, meta::created(&r.metadata), Key::of(&r.metadata)));
    let data = data(template);
    let last = all.last().map_or(0, |r| number(r));
    let same = all.iter().rev().find(|r| r.data.0 == data).cloned();
    if let Some(found) = same {
        if number(&found) < last {
            // An older version is wanted again: it becomes the newest.
            let patch = json!({"revision": last + 1});
            plan.push(Write::patch(&*found, patch, Tell::nothing()));
        }
        let (current, hash) = (
            meta::name(&found.metadata),
            meta::label(&found.metadata, HASH),
        );
        return History {
            current: current.to_owned(),
            hash: hash.unwrap_or_default().to_owned(),
            all,
        };
    }
    let (name, hash) = free_name(owner, &data, world);
    let mut labels = template
        .metadata
        .clone()
        .unwrap_or_default()
        .labels
        .unwrap_or_default();
    labels.insert(HASH.into(), hash.clone());
    let revision = ControllerRevision {
        data: RawExtension(data),
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: owner.metadata().namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![meta::owner_reference(owner)]),
            ..ObjectMeta::default()
        },
        revision: Some(last + 1),
    };
    if !meta::is_ending(owner.metadata()) {
        plan.push(Write::create(revision, Tell::nothing()));
    }
    History {
        all,
        current: name,
        hash,
    }
}

fn number(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or(0)
}

/// The patch that brings this template back, which is what clients apply to undo a rollout.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = json!(template);
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The template of a version.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

fn free_name<O: Kept>(owner: &O, data: &Value, world: &World) -> (String, String) {
    let meta = owner.metadata();
    let mut salt = 0;
    loop {
        let hash = meta::fingerprint(data, salt);
        let name = format!("{}-{hash}", meta::name(meta));
        let key = Key::new(meta::namespace(meta), name.clone());
        if world.get::<ControllerRevision>(&key).is_none() {
            return (name, hash);
        }
        salt += 1;
    }
}

impl History {
    /// The version of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&ControllerRevision> {
        let mut all = self.all.iter();
        all.find(|r| meta::name(&r.metadata) == name).map(|r| &**r)
    }

    /// Removes the oldest versions that nobody uses, beyond the limit. `live` has names or fingerprints in use.
    pub(crate) fn truncate(&self, limit: Option<i32>, live: &BTreeSet<String>, plan: &mut Plan) {
        let unused: Vec<_> = self
            .all
            .iter()
            .filter(|revision| {
                let name = meta::name(&revision.metadata);
                let hash = meta::label(&revision.metadata, HASH).unwrap_or_default();
                name != self.current && !live.contains(name) && !live.contains(hash)
            })
            .collect();
        let limit = usize::try_from(limit.unwrap_or(DEFAULT_LIMIT)).unwrap_or(0);
        for revision in unused.iter().take(unused.len().saturating_sub(limit)) {
            plan.push(Write::delete(&***revision, Tell::nothing()));
        }
    }
}
