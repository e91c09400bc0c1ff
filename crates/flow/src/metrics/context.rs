//! What metrics say of source and destination.
use super::Labels;
use crate::view::{End, View};
use api::hubble::flow::{Endpoint, TrafficDirection};
use std::collections::BTreeMap;

/// What is told of one end; of several the first that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Context {
    Identity,
    Namespace,
    Pod,
    PodName,
    Dns,
    Ip,
    ReservedIdentity,
    Workload,
    WorkloadName,
    App,
}

const CONTEXTS: [(&str, Context); 10] = [
    ("identity", Context::Identity),
    ("namespace", Context::Namespace),
    ("pod", Context::Pod),
    ("pod-name", Context::PodName),
    ("dns", Context::Dns),
    ("ip", Context::Ip),
    ("reserved-identity", Context::ReservedIdentity),
    ("workload", Context::Workload),
    ("workload-name", Context::WorkloadName),
    ("app", Context::App),
];

/// Labels that can be asked for one by one.
const LABELS: [&str; 13] = [
    "source_ip",
    "source_namespace",
    "source_pod",
    "source_workload",
    "source_workload_kind",
    "source_app",
    "destination_ip",
    "destination_namespace",
    "destination_pod",
    "destination_workload",
    "destination_workload_kind",
    "destination_app",
    "traffic_direction",
];

/// What a metric says of the ends of flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contexts {
    /// For both ends: whatever the direction, for egress, for ingress.
    ends: [[Vec<Context>; 3]; 2],
    labels: Vec<&'static str>,
}

/// Options of contexts, with the end and the direction that they are about.
const OPTIONS: [(&str, usize, usize); 6] = [
    ("sourceContext", 0, 0),
    ("sourceEgressContext", 0, 1),
    ("sourceIngressContext", 0, 2),
    ("destinationContext", 1, 0),
    ("destinationEgressContext", 1, 1),
    ("destinationIngressContext", 1, 2),
];

impl Contexts {
    /// Takes the options of contexts out of `options`.
    pub(super) fn take(options: &mut BTreeMap<String, String>) -> Result<Self, String> {
        let mut contexts = Self::default();
        for (name, end, direction) in OPTIONS {
            if let Some(value) = options.remove(name) {
                contexts.ends[end][direction] = read(name, &value)?;
            }
        }
        if let Some(value) = options.remove("labelsContext") {
            for name in value
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
            {
                let known = LABELS.into_iter().find(|known| *known == name);
                let known = known.ok_or_else(|| {
                    format!(
                        "labelsContext has no label {name:?}; accepted are {}",
                        LABELS.join(", ")
                    )
                })?;
                contexts.labels.push(known);
            }
        }
        Ok(contexts)
    }

    /// Whether series may name pods.
    pub(super) fn names_pods(&self) -> bool {
        let pods = [Context::Pod, Context::PodName, Context::Ip];
        let mut ends = self.ends.iter().flatten().flatten();
        ends.any(|context| pods.contains(context))
            || self
                .labels
                .iter()
                .any(|name| name.ends_with("_pod") || name.ends_with("_ip"))
    }

    /// Adds the labels of a flow; of one that is turned round, those of what it answers.
    pub(super) fn add(&self, flow: &dyn View, turned: bool, labels: &mut Labels) {
        let ends = if turned {
            [End::Destination, End::Source]
        } else {
            [End::Source, End::Destination]
        };
        for name in &self.labels {
            labels.push(((*name).to_owned(), label(flow, ends, name)));
        }
        for (end, (of_end, name)) in ends
            .into_iter()
            .zip(self.ends.iter().zip(["source", "destination"]))
        {
            if of_end.iter().all(Vec::is_empty) {
                continue;
            }
            let direction = match TrafficDirection::try_from(flow.direction()) {
                Ok(TrafficDirection::Egress) => 1,
                Ok(TrafficDirection::Ingress) => 2,
                _ => 0,
            };
            let contexts = match &of_end[direction] {
                chosen if chosen.is_empty() => &of_end[0],
                chosen => chosen,
            };
            let mut values = contexts.iter().map(|context| value(flow, end, *context));
            let value = values.find(|value| !value.is_empty()).unwrap_or_default();
            labels.push((name.to_owned(), value));
        }
    }
}

fn read(option: &str, text: &str) -> Result<Vec<Context>, String> {
    let one = |name: &str| {
        let known = CONTEXTS.iter().find(|(known, _)| *known == name);
        known.map(|(_, context)| *context).ok_or_else(|| {
            let all: Vec<_> = CONTEXTS.iter().map(|(name, _)| *name).collect();
            format!(
                "{option} has no context {name:?}; accepted are {}",
                all.join(", ")
            )
        })
    };
    text.split('|').map(|name| one(name.trim())).collect()
}

/// A text made of the parts of an endpoint; empty for none.
fn value(flow: &dyn View, end: End, context: Context) -> String {
    let ip = || flow.ip(end).map(|ip| ip.to_string()).unwrap_or_default();
    let Some(endpoint) = flow.endpoint(end) else {
        return match context {
            Context::Ip => ip(),
            Context::Dns => flow.names(end).join(","),
            _ => String::new(),
        };
    };
    let in_namespace = |name: &str| match (endpoint.namespace.as_str(), name) {
        (_, "") => String::new(),
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    match context {
        Context::Identity => endpoint.labels.join(","),
        Context::Namespace => endpoint.namespace.clone(),
        Context::Pod => in_namespace(&endpoint.pod_name),
        Context::PodName => endpoint.pod_name.clone(),
        Context::Dns => flow.names(end).join(","),
        Context::Ip => ip(),
        Context::ReservedIdentity => reserved(endpoint),
        Context::Workload => in_namespace(workload(endpoint).0),
        Context::WorkloadName => workload(endpoint).0.to_owned(),
        Context::App => app(endpoint).to_owned(),
    }
}

/// Name and kind of the workload.
fn workload(endpoint: &Endpoint) -> (&str, &str) {
    let first = endpoint.workloads.first();
    first.map_or(("", ""), |one| (one.name.as_str(), one.kind.as_str()))
}

/// The reserved label; the API server's goes before others.
fn reserved(endpoint: &Endpoint) -> String {
    const API_SERVER: &str = "reserved:kube-apiserver";
    let all = || {
        endpoint
            .labels
            .iter()
            .filter(|label| label.starts_with("reserved:"))
    };
    let chosen = all()
        .find(|label| *label == API_SERVER)
        .or_else(|| all().next());
    chosen.cloned().unwrap_or_default()
}

fn app(endpoint: &Endpoint) -> &str {
    let of = |key: &str| {
        let mut values = endpoint
            .labels
            .iter()
            .filter_map(|label| label.strip_prefix(key));
        values.next()
    };
    of("k8s:app.kubernetes.io/name=")
        .or_else(|| of("k8s:k8s-app="))
        .or_else(|| of("k8s:app="))
        .unwrap_or_default()
}

fn label(flow: &dyn View, [source, destination]: [End; 2], name: &str) -> String {
    if name == "traffic_direction" {
        return match TrafficDirection::try_from(flow.direction()) {
            Ok(TrafficDirection::Ingress) => "ingress",
            Ok(TrafficDirection::Egress) => "egress",
            _ => "unknown",
        }
        .to_owned();
    }
    let (end, what) = match name.split_once('_') {
        Some(("source", what)) => (source, what),
        Some((_, what)) => (destination, what),
        None => return String::new(),
    };
    match what {
        "ip" => value(flow, end, Context::Ip),
        "namespace" => value(flow, end, Context::Namespace),
        "pod" => value(flow, end, Context::PodName),
        "workload" => value(flow, end, Context::WorkloadName),
        "app" => value(flow, end, Context::App),
        _ => {
            let endpoint = flow.endpoint(end);
            endpoint
                .map_or("", |endpoint| workload(endpoint).1)
                .to_owned()
        }
    }
}
