//! Which of the possible nodes is the best: the weighted sum of opinions between 0 and 100.
use k8s_openapi::api::core::v1::{Pod, PodSpec, TopologySpreadConstraint, WeightedPodAffinityTerm};

use super::{
    cluster::{Cluster, NodeView, by_domain},
    filter::{Filter, counts, node_counts},
};
use crate::{meta, nodematch};

const FULL: i64 = 100;

/// The scores of the candidates, given by their places in the cluster.
pub(super) fn scores(
    cluster: &Cluster<'_>,
    filter: &Filter<'_>,
    spec: &PodSpec,
    candidates: &[usize],
) -> Vec<i64> {
    let views: Vec<&NodeView> = candidates
        .iter()
        .filter_map(|i| cluster.nodes.get(*i))
        .collect();
    let pod = filter.pod();
    let mut total = vec![0; views.len()];
    let mut add = |weight: i64, opinions: Vec<i64>| {
        for (sum, opinion) in total.iter_mut().zip(opinions) {
            *sum += weight * opinion;
        }
    };
    add(3, fewest(of_all(&views, |view| soft_taints(view, spec))));
    add(2, most(of_all(&views, |view| preferred_labels(view, spec))));
    add(
        2,
        most(of_all(&views, |view| neighbours(cluster, view, pod, spec))),
    );
    for constraint in soft_constraints(spec) {
        add(2, fewest(crowds(cluster, &views, pod, spec, constraint)));
    }
    add(2, fewest(of_all(&views, |view| siblings(view, pod))));
    add(1, of_all(&views, |view| free_share(view, filter)));
    total
}

fn of_all(views: &[&NodeView], opinion: impl Fn(&NodeView) -> i64) -> Vec<i64> {
    views.iter().map(|view| opinion(view)).collect()
}

/// The largest number gets all points, the smallest none.
fn most(numbers: Vec<i64>) -> Vec<i64> {
    let (least, most) = (numbers.iter().min().copied(), numbers.iter().max().copied());
    let (least, range) = (least.unwrap_or(0), most.unwrap_or(0) - least.unwrap_or(0));
    let points = |number: i64| {
        if range == 0 {
            0
        } else {
            (number - least) * FULL / range
        }
    };
    numbers.into_iter().map(points).collect()
}

fn fewest(numbers: Vec<i64>) -> Vec<i64> {
    most(numbers.into_iter().map(|number| -number).collect())
}

fn soft_taints(view: &NodeView, spec: &PodSpec) -> i64 {
    let tolerations = nodematch::tolerations(spec);
    let soft = nodematch::taints(&view.node).iter().filter(|taint| {
        taint.effect == "PreferNoSchedule" && !nodematch::is_tolerated(tolerations, taint)
    });
    number(soft.count())
}

fn preferred_labels(view: &NodeView, spec: &PodSpec) -> i64 {
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref());
    let terms = affinity
        .and_then(|a| {
            a.preferred_during_scheduling_ignored_during_execution
                .as_deref()
        })
        .unwrap_or_default();
    terms
        .iter()
        .filter(|term| nodematch::term_selects(&term.preference, &view.node))
        .map(|term| i64::from(term.weight))
        .sum()
}

/// What the pod thinks of the pods in the node's domains.
fn neighbours(cluster: &Cluster<'_>, view: &NodeView, pod: &Pod, spec: &PodSpec) -> i64 {
    let Some(affinity) = &spec.affinity else {
        return 0;
    };
    let liked = affinity.pod_affinity.as_ref();
    let liked = liked.and_then(|a| {
        a.preferred_during_scheduling_ignored_during_execution
            .as_deref()
    });
    let disliked = affinity.pod_anti_affinity.as_ref();
    let disliked = disliked.and_then(|a| {
        a.preferred_during_scheduling_ignored_during_execution
            .as_deref()
    });
    let sum = |terms: Option<&[WeightedPodAffinityTerm]>| -> i64 {
        let terms = terms.unwrap_or_default().iter();
        terms.map(|term| weight(cluster, view, pod, term)).sum()
    };
    sum(liked) - sum(disliked)
}

fn weight(
    cluster: &Cluster<'_>,
    view: &NodeView,
    pod: &Pod,
    weighted: &WeightedPodAffinityTerm,
) -> i64 {
    let term = &weighted.pod_affinity_term;
    let Some(domain) = view.label(&term.topology_key) else {
        return 0;
    };
    let same = |other: &&NodeView| other.label(&term.topology_key) == Some(domain);
    let meant = cluster
        .nodes
        .iter()
        .filter(same)
        .flat_map(|other| &other.pods)
        .filter(|other| cluster.term_means(term, pod, other));
    number(meant.count()) * i64::from(weighted.weight)
}

fn soft_constraints(spec: &PodSpec) -> impl Iterator<Item = &TopologySpreadConstraint> {
    let all = spec.topology_spread_constraints.iter().flatten();
    all.filter(|constraint| constraint.when_unsatisfiable == "ScheduleAnyway")
}

/// How many pods that count for the constraint are in each node's domain; a node without domain comes last.
fn crowds(
    cluster: &Cluster<'_>,
    views: &[&NodeView],
    pod: &Pod,
    spec: &PodSpec,
    constraint: &TopologySpreadConstraint,
) -> Vec<i64> {
    let node = |view: &NodeView| node_counts(constraint, spec, view);
    let domains = by_domain(
        cluster,
        &constraint.topology_key,
        node,
        counts(constraint, pod),
    );
    let worst = domains.values().max().copied().unwrap_or(0) + 1;
    of_all(views, |view| {
        let here = view
            .label(&constraint.topology_key)
            .and_then(|d| domains.get(d));
        number(here.copied().unwrap_or(worst))
    })
}

/// Pods of the same owner on the node.
fn siblings(view: &NodeView, pod: &Pod) -> i64 {
    let Some(owner) = meta::controller_of(&pod.metadata) else {
        return 0;
    };
    let of_owner = |other: &&std::sync::Arc<Pod>| {
        meta::controller_of(&other.metadata).is_some_and(|o| o.uid == owner.uid)
    };
    number(view.pods.iter().filter(of_owner).count())
}

/// How much would be left, of the resource that is scarcest after the pod came.
fn free_share(view: &NodeView, filter: &Filter<'_>) -> i64 {
    let share = |name: &str| {
        let limit = view.capacity.limit(name).filter(|limit| *limit > 0)?;
        let left = limit - view.used.get(name) - filter.wants().get(name);
        i64::try_from(left.max(0) * i128::from(FULL) / limit).ok()
    };
    let shares = ["cpu", "memory", "pods"].into_iter().filter_map(share);
    shares.min().unwrap_or(FULL)
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
