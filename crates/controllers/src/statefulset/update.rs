//! One step: what is missing is made from the lowest number up, what is too much goes from the highest down, and what is
//! old is replaced from the highest down.
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::{SOURCE, View, identity};
use crate::{
    history::HASH,
    meta, pods,
    write::{Note, Plan, Tell, Write},
};

pub(super) fn step(view: &View<'_>, plan: &mut Plan) {
    // Each step waits until the one before is done; when nothing was in the way the next one follows.
    let done = fill(view, plan) && shrink(view, plan);
    if done && view.rolls() {
        replace(view, plan);
    }
}

/// Makes the missing pods. False if the later steps have to wait.
fn fill(view: &View<'_>, plan: &mut Plan) -> bool {
    let mut done = true;
    for ordinal in view.start()..view.end() {
        match view.pod(ordinal) {
            None => {
                create(view, ordinal, plan);
                done = false;
            }
            Some(pod) if meta::is_ending(&pod.metadata) => done = false,
            Some(pod) if pods::is_over(pod) => {
                let message = format!(
                    "StatefulSet {} is recreating {} Pod {}",
                    crate::Key::of(&view.set.metadata),
                    pods::phase(pod).to_lowercase(),
                    meta::name(&pod.metadata)
                );
                let note = Note::warning(SOURCE, view.set, "RecreatingFailedPod", message);
                plan.push(Write::Note(note));
                delete(view, pod, plan);
                done = false;
            }
            Some(pod) if view.is_well(pod) => continue,
            Some(_) if view.is_ordered() => done = false,
            Some(_) => continue,
        }
        if view.is_ordered() {
            return done;
        }
    }
    done
}

/// Removes the pods beyond the wanted number. False if the later steps have to wait.
fn shrink(view: &View<'_>, plan: &mut Plan) -> bool {
    let wanted = view.start()..view.end();
    let condemned = view.pods.iter().rev().filter(|(n, _)| !wanted.contains(n));
    let mut done = true;
    for (_, pod) in condemned {
        done = false;
        if !meta::is_ending(&pod.metadata) {
            delete(view, pod, plan);
        }
        if view.is_ordered() {
            return false;
        }
    }
    done
}

/// Replaces the highest pod that is not of the current version; waits for those above it to be well.
fn replace(view: &View<'_>, plan: &mut Plan) {
    let lowest = view.start().max(view.partition());
    for (ordinal, pod) in view.pods.iter().rev() {
        if *ordinal < lowest {
            return;
        }
        let version = meta::label(&pod.metadata, HASH);
        if version != Some(&view.history.current) {
            if !meta::is_ending(&pod.metadata) {
                delete(view, pod, plan);
            }
            return;
        }
        if !view.is_well(pod) {
            return;
        }
    }
}

fn create(view: &View<'_>, ordinal: i32, plan: &mut Plan) {
    let pod = identity::pod(view, ordinal);
    let what = format!(
        "create Pod {} in StatefulSet {}",
        meta::name(&pod.metadata),
        meta::name(&view.set.metadata)
    );
    plan.push(Write::create(pod, told(view, "Create", &what)));
}

fn delete(view: &View<'_>, pod: &Arc<Pod>, plan: &mut Plan) {
    let what = format!(
        "delete Pod {} in StatefulSet {}",
        meta::name(&pod.metadata),
        meta::name(&view.set.metadata)
    );
    plan.push(Write::delete(&**pod, told(view, "Delete", &what)));
}

fn told(view: &View<'_>, verb: &str, what: &str) -> Tell {
    let (done, failed) = match verb {
        "Create" => ("SuccessfulCreate", "FailedCreate"),
        _ => ("SuccessfulDelete", "FailedDelete"),
    };
    Tell::done(Note::normal(
        SOURCE,
        view.set,
        done,
        format!("{what} successful"),
    ))
    .or(Note::warning(
        SOURCE,
        view.set,
        failed,
        format!("{what} failed error: {{}}"),
    ))
}
