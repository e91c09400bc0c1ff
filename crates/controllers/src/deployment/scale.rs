//! Changes of the number of pods that are no rollout: spread over the sets that have pods.
use super::{DESIRED, MAX, Set, View, resize};
use crate::write::Plan;

/// Whether the wanted number has changed since the sets were sized.
pub(super) fn is_wanted(view: &View<'_>) -> bool {
    let active = view.all().filter(|set| set.wanted > 0);
    let differs = |set: &Set| set.number(DESIRED).is_some_and(|n| n != view.replicas());
    active.into_iter().any(differs)
}

/// Gives a set this many pods.
pub(super) fn set(view: &View<'_>, set: &Set, to: i32, plan: &mut Plan) {
    let max = view.replicas() + view.max_surge();
    let annotated = set.number(DESIRED) == Some(view.replicas()) && set.number(MAX) == Some(max);
    if set.wanted != to || !annotated {
        resize(view, set, to, plan);
    }
}

/// Spreads the wanted number over the sets in proportion to what they have.
pub(super) fn proportionally(view: &View<'_>, plan: &mut Plan) {
    let active: Vec<&Set> = view.all().filter(|set| set.wanted > 0).collect();
    if active.len() <= 1 {
        let only = active.first().copied();
        let latest = only.or(view.new.as_ref()).or(view.old.last());
        if let Some(latest) = latest.filter(|set| set.wanted != view.replicas()) {
            set(view, latest, view.replicas(), plan);
        } else if let Some(only) = only {
            set(view, only, only.wanted, plan);
        }
        return;
    }
    if view.new.as_ref().is_some_and(|new| is_saturated(view, new)) {
        for old in view.old.iter().filter(|old| old.wanted > 0) {
            set(view, old, 0, plan);
        }
        return;
    }
    if !view.recreates() {
        share(view, active, plan);
    }
}

/// The new set has all the pods it should have.
fn is_saturated(view: &View<'_>, new: &Set) -> bool {
    let all = view.replicas();
    new.number(DESIRED) == Some(all) && new.wanted == all && new.available == all
}

fn share(view: &View<'_>, mut active: Vec<&Set>, plan: &mut Plan) {
    let max = if view.replicas() > 0 {
        view.replicas() + view.max_surge()
    } else {
        0
    };
    let total: i32 = active.iter().map(|set| set.wanted).sum();
    let to_add = max - total;
    active.sort_by(|a, b| {
        let larger = b.wanted.cmp(&a.wanted);
        let newer = b.age().cmp(&a.age());
        larger.then(if to_add > 0 { newer } else { newer.reverse() })
    });
    let mut sizes: Vec<i32> = Vec::new();
    let mut added = 0;
    for set in &active {
        let share = proportion(view, set, to_add, added);
        added += share;
        sizes.push(set.wanted + share);
    }
    // What rounding left over is the largest set's.
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    for (one, size) in active.into_iter().zip(sizes) {
        set(view, one, size, plan);
    }
}

/// The part of `to_add` that falls to a set, when `added` are given out already.
fn proportion(view: &View<'_>, set: &Set, to_add: i32, added: i32) -> i32 {
    if to_add == 0 || to_add == added {
        return 0;
    }
    let fraction = if view.replicas() == 0 {
        -set.wanted
    } else {
        let before = set.number(MAX).filter(|n| *n > 0);
        let before = f64::from(before.unwrap_or(view.replicas()));
        let now = f64::from(view.replicas() + view.max_surge());
        (f64::from(set.wanted) * now / before).round() as i32 - set.wanted
    };
    let left = to_add - added;
    if to_add > 0 {
        fraction.clamp(0, left)
    } else {
        fraction.clamp(left, 0)
    }
}
