//! Hints for whom endpoints are: those of a client's own zone or node, if the service asks for that.
use std::collections::BTreeMap;

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::{Endpoint, EndpointHints, ForNode, ForZone},
};

use crate::{Change, Key, World, meta, scheduler::milli};

const ZONE: &str = "topology.kubernetes.io/zone";
/// The annotation, and the older one, which counts before it.
const MODE: [&str; 2] = [
    "service.kubernetes.io/topology-aware-hints",
    "service.kubernetes.io/topology-mode",
];
/// Nodes with one of these labels are not for clients.
const CONTROL: [&str; 2] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
];
/// By how much more than its share an endpoint may get at most.
const OVERLOAD: f64 = 0.2;

/// What a service asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// Nothing: everybody gets everything.
    Nothing,
    /// Whatever is close; also on the same node.
    Close { nodes: bool },
    /// Endpoints for each zone as it has processors.
    Balance,
}

fn wish(service: &Service) -> Wish {
    let annotation = |name: &&str| meta::annotation(&service.metadata, name);
    if let Some("Auto" | "auto") = MODE.iter().find_map(annotation) {
        return Wish::Balance;
    }
    let spec = service.spec.as_ref();
    match spec.and_then(|spec| spec.traffic_distribution.as_deref()) {
        Some("PreferClose" | "PreferSameZone") => Wish::Close { nodes: false },
        Some("PreferSameNode") => Wish::Close { nodes: true },
        _ => Wish::Nothing,
    }
}

/// The zone of a node.
pub(super) fn zone(node: &Node) -> Option<&str> {
    meta::label(&node.metadata, ZONE)
}

/// Writes hints into the endpoints of one family of a service.
pub(super) fn give<'a>(
    service: &Service,
    endpoints: impl Iterator<Item = &'a mut Endpoint>,
    world: &World,
) {
    let is_ready = |endpoint: &&mut Endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|c| c.ready) == Some(true)
    };
    let ready: Vec<&mut Endpoint> = endpoints.filter(is_ready).collect();
    match wish(service) {
        Wish::Nothing => {}
        Wish::Close { nodes } => {
            for endpoint in ready {
                let node = endpoint.node_name.clone().filter(|_| nodes);
                endpoint.hints = hints(endpoint.zone.clone(), node);
            }
        }
        Wish::Balance => {
            let own: Vec<_> = ready.iter().map(|e| e.zone.as_deref()).collect();
            let zones = processors(world).and_then(|zones| balance(&own, &zones));
            for (endpoint, zone) in ready.into_iter().zip(zones.into_iter().flatten()) {
                endpoint.hints = hints(Some(zone), None);
            }
        }
    }
}

fn hints(zone: Option<String>, node: Option<String>) -> Option<EndpointHints> {
    if zone.is_none() && node.is_none() {
        return None;
    }
    Some(EndpointHints {
        for_zones: zone.map(|name| vec![ForZone { name }]),
        for_nodes: node.map(|name| vec![ForNode { name }]),
    })
}

/// What a node has for its zone: thousandths of processors. None for nodes that do not count.
fn share(node: &Node) -> Option<(Option<&str>, i128)> {
    let labels = node.metadata.labels.as_ref();
    if CONTROL
        .iter()
        .any(|label| labels.is_some_and(|labels| labels.contains_key(*label)))
    {
        return None;
    }
    meta::node_condition(node, "Ready").filter(|ready| ready.status == "True")?;
    let status = node.status.as_ref();
    let cpu = status.and_then(|status| status.allocatable.as_ref()?.get("cpu"));
    let cpu = cpu.and_then(|cpu| milli(&cpu.0)).unwrap_or_default();
    Some((zone(node).filter(|zone| !zone.is_empty()), cpu))
}

/// Processors of each zone; none where a node says too little.
fn processors(world: &World) -> Option<BTreeMap<String, i128>> {
    let mut zones = BTreeMap::new();
    for (zone, cpu) in world.all::<Node>().iter().filter_map(|node| share(node)) {
        let zone = zone.filter(|_| cpu > 0)?;
        *zones.entry(zone.to_owned()).or_default() += cpu;
    }
    Some(zones)
}

/// For which zone each of the endpoints is that are in the zones `own`. None if there are too few for that some would not get much more
/// than others.
fn balance(own: &[Option<&str>], zones: &BTreeMap<String, i128>) -> Option<Vec<String>> {
    let (count, total) = (own.len(), zones.values().sum::<i128>());
    if zones.len() < 2 || zones.len() > count {
        return None;
    }
    let own: Vec<&str> = own.iter().copied().collect::<Option<_>>()?;
    let (mut giving, mut taking) = (BTreeMap::new(), BTreeMap::new());
    let mut least = 0.0;
    for (zone, cpu) in zones {
        let share = *cpu as f64 / total as f64 * count as f64;
        let minimum = (share / (1.0 + OVERLOAD)).ceil();
        least += minimum;
        let has = own.iter().filter(|own| *own == zone).count() as f64;
        let more = has - share.max(minimum);
        if more > 0.0 {
            giving.insert(zone.as_str(), more);
        } else {
            taking.insert(zone.as_str(), -more);
        }
    }
    if least > count as f64 {
        return None;
    }
    let mut given: Vec<String> = own.iter().map(|zone| (*zone).to_owned()).collect();
    while let (Some((from, gives)), Some((to, takes))) = (most(&giving), most(&taking)) {
        if gives < 0.5 || takes < 0.5 || (gives < 1.0 && takes < 1.0) {
            break;
        }
        giving.insert(from, gives - 1.0);
        taking.insert(to, takes - 1.0);
        if let Some(hint) = given
            .iter_mut()
            .zip(&own)
            .find(|(hint, own)| **own == from && *hint == from)
        {
            to.clone_into(hint.0);
        }
    }
    Some(given)
}

/// Who has most, the first by name of several.
fn most<'a>(zones: &BTreeMap<&'a str, f64>) -> Option<(&'a str, f64)> {
    let first =
        |best: (&'a str, f64), next: (&'a str, f64)| if next.1 > best.1 { next } else { best };
    zones.iter().map(|(zone, n)| (*zone, *n)).reduce(first)
}

/// Services whose endpoints are for others if a node has changed.
pub(super) fn services_of(change: &Change, world: &World, keys: &mut Vec<Key>) {
    if change.key_of::<Node>().is_none() {
        return;
    }
    let before = change
        .before::<Node>()
        .map(|node| (share(node), zone(node)));
    let after = change.after::<Node>().map(|node| (share(node), zone(node)));
    if before == after {
        return;
    }
    let concerned = world
        .all::<Service>()
        .iter()
        .filter(|service| wish(service) != Wish::Nothing);
    keys.extend(concerned.map(|service| Key::of(&service.metadata)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balanced(own: &[&str], zones: &[(&str, i128)]) -> Option<Vec<String>> {
        let own: Vec<_> = own
            .iter()
            .map(|zone| Some(*zone).filter(|z| !z.is_empty()))
            .collect();
        let zones = zones.iter().map(|(zone, cpu)| ((*zone).to_owned(), *cpu));
        balance(&own, &zones.collect())
    }

    #[test]
    fn each_zone_gets_endpoints_as_it_has_processors() {
        let two = [("a", 4000), ("b", 4000)];
        assert_eq!(
            balanced(&["a", "a", "b", "b"], &two).unwrap(),
            ["a", "a", "b", "b"]
        );
        // The zone that has more gives some away.
        assert_eq!(
            balanced(&["a", "a", "a", "b"], &two).unwrap(),
            ["b", "a", "a", "b"]
        );
        assert_eq!(balanced(&["a"; 4], &two).unwrap(), ["b", "b", "a", "a"]);
        let uneven = [("a", 2000), ("b", 1000), ("c", 1000)];
        let given = balanced(&["b", "b", "b", "b"], &uneven).unwrap();
        assert_eq!(given, ["a", "a", "c", "b"]);
        // What is in a zone without clients stays there.
        assert_eq!(
            balanced(&["a", "b", "z", "z"], &two).unwrap(),
            ["a", "b", "z", "z"]
        );
    }

    #[test]
    fn too_few_are_for_everybody() {
        let two = [("a", 4000), ("b", 4000)];
        assert_eq!(balanced(&["a"], &two), None, "fewer than zones");
        assert_eq!(
            balanced(&["a", "b", "b"], &two),
            None,
            "one and a half each"
        );
        assert_eq!(balanced(&["a", "b"], &[("a", 1)]), None, "one zone");
        assert_eq!(balanced(&["a", "b", "", "b"], &two), None, "one is nowhere");
    }
}
