//! Which nodes a pod may be given to, and why not the others. The texts are those that people know.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Pod, PodSpec, TopologySpreadConstraint};

use super::{
    cluster::{
        Cluster, HostPort, NodeView, affinity_terms, anti_terms, by_domain, host_ports, narrowed,
    },
    resources::{self, Amounts, PODS},
};
use crate::{meta, nodematch};

/// What is the same for all nodes when one pod is placed.
pub(super) struct Filter<'a> {
    pod: &'a Pod,
    spec: &'a PodSpec,
    wants: Amounts,
    ports: Vec<HostPort>,
    spread: Vec<Spread<'a>>,
    near: Near<'a>,
}

/// A constraint that pods be spread evenly.
struct Spread<'a> {
    key: &'a str,
    domains: BTreeMap<&'a str, usize>,
    least: usize,
    /// The pod itself counts.
    own: usize,
    max_skew: usize,
}

/// Values of node labels with pods that must, or must not, be near.
struct Near<'a> {
    /// Per required term: the domains with pods that meet all terms.
    wanted: Vec<(&'a str, BTreeSet<&'a str>)>,
    /// The pod is the first of those that want to be near each other.
    first: bool,
    /// Per excluding term: the domains with such pods.
    unwanted: Vec<(&'a str, BTreeSet<&'a str>)>,
    /// Domains that pods there keep this one away from.
    repelled: BTreeSet<(&'a str, &'a str)>,
}

impl<'a> Filter<'a> {
    pub(super) fn new(cluster: &'a Cluster<'_>, pod: &'a Pod, spec: &'a PodSpec) -> Self {
        Self {
            pod,
            spec,
            wants: resources::requests(spec),
            ports: host_ports(spec),
            spread: hard_constraints(spec)
                .map(|constraint| Spread::new(cluster, pod, spec, constraint))
                .collect(),
            near: Near::new(cluster, pod, spec),
        }
    }

    /// What the pod asks for.
    pub(super) fn wants(&self) -> &Amounts {
        &self.wants
    }

    /// Why the pod cannot be on the node; nothing if it can.
    pub(super) fn reasons(&self, view: &NodeView) -> Vec<String> {
        let first = self
            .by_node(view)
            .or_else(|| self.by_ports(view))
            .map(|reason| vec![reason]);
        if let Some(reasons) = first {
            return reasons;
        }
        let lacking = self.lacking(view);
        if !lacking.is_empty() {
            return lacking;
        }
        let reason = self.by_spread(view).or_else(|| self.near.reason(view));
        reason.into_iter().map(str::to_owned).collect()
    }

    fn by_node(&self, view: &NodeView) -> Option<String> {
        let tolerations = nodematch::tolerations(self.spec);
        let cordon = k8s_openapi::api::core::v1::Taint {
            key: nodematch::UNSCHEDULABLE.into(),
            effect: "NoSchedule".into(),
            ..Default::default()
        };
        if nodematch::is_cordoned(&view.node) && !nodematch::is_tolerated(tolerations, &cordon) {
            return Some("node(s) were unschedulable".into());
        }
        if let Some(taint) = nodematch::repelling(&view.node, tolerations) {
            let value = nodematch::value(taint);
            return Some(format!(
                "node(s) had untolerated taint {{{}: {value}}}",
                taint.key
            ));
        }
        (!nodematch::suits(self.spec, &view.node))
            .then(|| "node(s) didn't match Pod's node affinity/selector".into())
    }

    fn by_ports(&self, view: &NodeView) -> Option<String> {
        let clash = |wanted: &HostPort| view.ports.iter().any(|used| used.clashes(wanted));
        self.ports
            .iter()
            .any(clash)
            .then(|| "node(s) didn't have free ports for the requested pod ports".into())
    }

    fn lacking(&self, view: &NodeView) -> Vec<String> {
        let lacks = |(name, amount): (&String, &i128)| {
            let limit = view.capacity.limit(name)?;
            let over = *amount > 0 && view.used.get(name) + amount > limit;
            over.then(|| match name.as_str() {
                PODS => "Too many pods".into(),
                name => format!("Insufficient {name}"),
            })
        };
        self.wants.0.iter().filter_map(lacks).collect()
    }

    fn by_spread(&self, view: &NodeView) -> Option<&'static str> {
        let label = |spread: &&Spread<'_>| view.label(spread.key).is_none();
        if self.spread.iter().any(|spread| label(&spread)) {
            return Some(
                "node(s) didn't match pod topology spread constraints (missing required label)",
            );
        }
        let uneven = |spread: &Spread<'_>| {
            let here = view.label(spread.key).and_then(|d| spread.domains.get(d));
            here.copied().unwrap_or(0) + spread.own > spread.least + spread.max_skew
        };
        self.spread
            .iter()
            .any(uneven)
            .then_some("node(s) didn't match pod topology spread constraints")
    }

    /// The pod that is being placed.
    pub(super) fn pod(&self) -> &Pod {
        self.pod
    }
}

fn hard_constraints(spec: &PodSpec) -> impl Iterator<Item = &TopologySpreadConstraint> {
    let all = spec.topology_spread_constraints.iter().flatten();
    all.filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule")
}

/// Whether a pod counts for a constraint of `owner`.
pub(super) fn counts(constraint: &TopologySpreadConstraint, owner: &Pod) -> impl Fn(&Pod) -> bool {
    let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
    let selector = constraint
        .label_selector
        .as_ref()
        .map(|selector| narrowed(selector, keys, &[], owner));
    let namespace = owner.metadata.namespace.clone();
    move |pod: &Pod| {
        let selected = |s| meta::selects(s, pod.metadata.labels.as_ref());
        pod.metadata.namespace == namespace
            && !meta::is_ending(&pod.metadata)
            && selector.as_ref().is_some_and(selected)
    }
}

/// Whether a node counts for a constraint: by default, if the pod's affinity admits it.
pub(super) fn node_counts(
    constraint: &TopologySpreadConstraint,
    spec: &PodSpec,
    view: &NodeView,
) -> bool {
    let by_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let by_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    let tolerations = nodematch::tolerations(spec);
    (!by_affinity || nodematch::suits(spec, &view.node))
        && (!by_taints || nodematch::repelling(&view.node, tolerations).is_none())
}

impl<'a> Spread<'a> {
    fn new(
        cluster: &'a Cluster<'_>,
        pod: &Pod,
        spec: &'a PodSpec,
        constraint: &'a TopologySpreadConstraint,
    ) -> Self {
        let counted = counts(constraint, pod);
        let has_all = |view: &NodeView| {
            hard_constraints(spec).all(|constraint| view.label(&constraint.topology_key).is_some())
        };
        let node = |view: &NodeView| has_all(view) && node_counts(constraint, spec, view);
        let domains = by_domain(cluster, &constraint.topology_key, node, &counted);
        let wanted = usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1);
        let least = domains.values().min().copied().unwrap_or(0);
        Self {
            key: &constraint.topology_key,
            least: if domains.len() < wanted { 0 } else { least },
            own: usize::from(counted(pod)),
            max_skew: usize::try_from(constraint.max_skew).unwrap_or(1),
            domains,
        }
    }
}

impl<'a> Near<'a> {
    fn new(cluster: &'a Cluster<'_>, pod: &'a Pod, spec: &'a PodSpec) -> Self {
        let terms = affinity_terms(spec);
        let meets = |other: &Pod| {
            terms
                .iter()
                .all(|term| cluster.term_means(term, pod, other))
        };
        let domains = |key: &str, test: &dyn Fn(&Pod) -> bool| -> BTreeSet<&'a str> {
            let with = |view: &&NodeView| view.pods.iter().any(|other: &Arc<Pod>| test(other));
            let views = cluster.nodes.iter().filter(with);
            views.filter_map(|view| view.label(key)).collect()
        };
        let wanted = terms
            .iter()
            .map(|term| {
                (
                    term.topology_key.as_str(),
                    domains(&term.topology_key, &meets),
                )
            })
            .collect::<Vec<_>>();
        let anyone = || {
            let mut views = cluster.nodes.iter();
            views.any(|view| view.pods.iter().any(|other| meets(other)))
        };
        let unwanted = anti_terms(spec).iter().map(|term| {
            let means = |other: &Pod| cluster.term_means(term, pod, other);
            (
                term.topology_key.as_str(),
                domains(&term.topology_key, &means),
            )
        });
        Self {
            first: !terms.is_empty() && meets(pod) && !anyone(),
            unwanted: unwanted.collect(),
            repelled: repelled(cluster, pod),
            wanted,
        }
    }

    fn reason(&self, view: &NodeView) -> Option<&'static str> {
        let in_domain = |(key, domains): &(&str, BTreeSet<&str>)| {
            view.label(key)
                .is_some_and(|domain| domains.contains(domain))
        };
        let labelled = |(key, _): &(&str, BTreeSet<&str>)| view.label(key).is_some();
        let near =
            self.wanted.iter().all(in_domain) || (self.first && self.wanted.iter().all(labelled));
        if !near {
            return Some("node(s) didn't match pod affinity rules");
        }
        if self.unwanted.iter().any(in_domain) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        let repelled = |(key, domain): &(&str, &str)| view.label(key) == Some(domain);
        self.repelled
            .iter()
            .any(repelled)
            .then_some("node(s) didn't satisfy existing pods anti-affinity rules")
    }
}

/// Label and value of the domains that pods already there keep the pod away from.
fn repelled<'a>(cluster: &'a Cluster<'_>, pod: &Pod) -> BTreeSet<(&'a str, &'a str)> {
    let mut found = BTreeSet::new();
    for (index, other) in &cluster.repelling {
        let Some((view, spec)) = cluster.nodes.get(*index).zip(other.spec.as_ref()) else {
            continue;
        };
        for term in anti_terms(spec) {
            let domain = view.label(&term.topology_key);
            if let Some(domain) = domain.filter(|_| cluster.term_means(term, other, pod)) {
                found.insert((term.topology_key.as_str(), domain));
            }
        }
    }
    found
}
