//! Indexed jobs: each pod has a number, and each number must succeed once.
use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use crate::meta;

const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// The pod's number.
pub(super) fn of(pod: &Pod) -> Option<i32> {
    meta::annotation(&pod.metadata, INDEX)?.parse().ok()
}

/// Gives a pod its number.
pub(super) fn mark(pod: &mut Pod, job: &str, index: i32) {
    let meta = &mut pod.metadata;
    meta.generate_name = Some(format!("{job}-{index}-"));
    meta.annotations
        .get_or_insert_default()
        .insert(INDEX.into(), index.to_string());
    meta.labels
        .get_or_insert_default()
        .insert(INDEX.into(), index.to_string());
    let Some(spec) = &mut pod.spec else {
        return;
    };
    spec.hostname
        .get_or_insert_with(|| format!("{job}-{index}"));
    let variable = EnvVar {
        name: VARIABLE.into(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: format!("metadata.annotations['{INDEX}']"),
            }),
            ..EnvVarSource::default()
        }),
    };
    let start = spec.init_containers.iter_mut().flatten();
    for container in spec.containers.iter_mut().chain(start) {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|one| one.name == VARIABLE) {
            env.push(variable.clone());
        }
    }
}

/// Numbers as `0-2,5`.
pub(super) fn text(numbers: &BTreeSet<i32>) -> String {
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let range = |(first, last): (i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    ranges.into_iter().map(range).collect::<Vec<_>>().join(",")
}

/// The numbers of such a text; what is none is left out.
pub(super) fn parse(text: &str) -> BTreeSet<i32> {
    let mut numbers = BTreeSet::new();
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            numbers.extend(first..=last.min(first.saturating_add(1_000_000)));
        }
    }
    numbers
}
