//! One step of a rolling update: old pods go as far as enough stay available, or new ones come beside them first.
use std::sync::Arc;

use k8s_openapi::{
    api::{apps::v1::RollingUpdateDaemonSet, core::v1::Pod},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Place, View, create, delete, desired};
use crate::write::Plan;
use crate::{meta, pods};

fn rolling<'a>(view: &'a View<'_>) -> Option<&'a RollingUpdateDaemonSet> {
    view.set
        .spec
        .update_strategy
        .as_ref()?
        .rolling_update
        .as_ref()
}

pub(super) fn max_surge(view: &View<'_>) -> i32 {
    let surge = rolling(view).and_then(|r| r.max_surge.as_ref());
    meta::scaled(surge, desired(view), true)
}

fn max_unavailable(view: &View<'_>) -> i32 {
    let one = IntOrString::Int(1);
    let missing = rolling(view).and_then(|r| r.max_unavailable.as_ref());
    let missing = meta::scaled(Some(missing.unwrap_or(&one)), desired(view), true);
    // Both zero would never get anywhere.
    if max_surge(view) == 0 {
        missing.max(1)
    } else {
        missing
    }
}

pub(super) fn step(view: &View<'_>, plan: &mut Plan) {
    let strategy = view.set.spec.update_strategy.as_ref();
    if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
        return;
    }
    if max_surge(view) > 0 {
        surge(view, plan);
    } else {
        replace(view, plan);
    }
}

/// The pod of an older version that is still wanted gone, and whether one of the current version is there.
fn versions<'a>(
    view: &View<'_>,
    place: &'a Place<'_>,
) -> (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>) {
    let active = |pod: &&Arc<Pod>| pods::is_active(pod);
    let mut pods = place.pods.iter().filter(active);
    let old = pods.clone().find(|pod| !view.is_current(pod));
    (old, pods.find(|pod| view.is_current(pod)))
}

fn replace(view: &View<'_>, plan: &mut Plan) {
    let (mut unavailable, mut serving) = (0, Vec::new());
    for place in view.places.iter().filter(|place| place.wanted) {
        let available = place.pods.iter().any(|pod| view.is_available(pod));
        unavailable += i32::from(!available);
        match versions(view, place) {
            // It serves nobody: its end costs nothing.
            (Some(old), None) if !available => delete(view, old, plan),
            (Some(old), None) => serving.push(old),
            _ => {}
        }
    }
    let room = max_unavailable(view).saturating_sub(unavailable).max(0);
    for pod in serving.into_iter().take(usize::try_from(room).unwrap_or(0)) {
        delete(view, pod, plan);
    }
}

fn surge(view: &View<'_>, plan: &mut Plan) {
    let (mut surging, mut serving) = (0, Vec::new());
    for place in view.places.iter().filter(|place| place.wanted) {
        match versions(view, place) {
            (Some(old), Some(new)) if view.is_available(new) => delete(view, old, plan),
            (Some(_), Some(_)) => surging += 1,
            (Some(old), None) if !view.is_available(old) => create(view, place, plan),
            (Some(_), None) => serving.push(place),
            _ => {}
        }
    }
    let room = max_surge(view).saturating_sub(surging).max(0);
    for place in serving.into_iter().take(usize::try_from(room).unwrap_or(0)) {
        create(view, place, plan);
    }
}
