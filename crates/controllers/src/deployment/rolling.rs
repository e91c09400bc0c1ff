//! One step of a rolling update: the new set grows as far as the surge allows, the old ones shrink as far as enough pods
//! stay available.
use super::{Set, View, scale};
use crate::write::Plan;

pub(super) fn step(view: &View<'_>, plan: &mut Plan) {
    let Some(new) = &view.new else {
        return;
    };
    let target = new_size(view, new);
    if target != new.wanted {
        return scale::set(view, new, target, plan);
    }
    scale::set(view, new, target, plan);
    shrink_old(view, new, plan);
}

/// How many pods the new set may have now.
fn new_size(view: &View<'_>, new: &Set) -> i32 {
    let all = view.replicas();
    if new.wanted >= all {
        return all;
    }
    new.wanted + view.room().min(all - new.wanted)
}

fn shrink_old(view: &View<'_>, new: &Set, plan: &mut Plan) {
    let old: i32 = view.old.iter().map(|set| set.wanted).sum();
    if old == 0 {
        return;
    }
    let least = view.replicas() - view.max_unavailable();
    let missing = new.wanted - new.available;
    let mut room = old + new.wanted - least - missing;
    if room <= 0 {
        return;
    }
    // Pods that serve nobody go first: they cost nothing.
    let mut sizes: Vec<i32> = view.old.iter().map(|set| set.wanted).collect();
    for (set, size) in view.old.iter().zip(&mut sizes) {
        let gone = (*size - set.available).clamp(0, room);
        *size -= gone;
        room -= gone;
    }
    let available: i32 = view.all().map(|set| set.available).sum();
    let mut room = room.min(available - least);
    for (set, size) in view.old.iter().zip(&mut sizes) {
        let gone = (*size).clamp(0, room.max(0));
        *size -= gone;
        room -= gone;
        if *size != set.wanted {
            scale::set(view, set, *size, plan);
        }
    }
}
