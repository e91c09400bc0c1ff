//! EndpointSlices: at most 100 endpoints each; an endpoint stays in its slice, so that a change moves as little as possible.
use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::{Service, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::json;

use super::backends::{self, Backend, Family, Port};
use crate::{
    Change, Key, Kind, Now, World,
    engine::Controller,
    kinds::SERVICE_NAME,
    meta,
    write::{Note, Plan, Tell, Write},
};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";
const MOST: usize = 100;
const SOURCE: &str = "endpoint-slice-controller";

/// The controller.
pub struct Slices;

impl Controller for Slices {
    fn name(&self) -> &'static str {
        "endpointslice"
    }

    fn needs(&self) -> &'static [Kind] {
        &[Kind::Service, Kind::EndpointSlice, Kind::Pod, Kind::Node]
    }

    fn affected(&self, change: &Change, world: &World, keys: &mut Vec<Key>) {
        super::services_of(change, world, keys);
        super::hints::services_of(change, world, keys);
        for slice in change.each::<EndpointSlice>().filter(|s| is_ours(s)) {
            let service = meta::label(&slice.metadata, SERVICE_NAME).unwrap_or_default();
            keys.push(Key::new(meta::namespace(&slice.metadata), service));
        }
    }

    fn plan(&self, key: &Key, world: &World, _: Now) -> Plan {
        let Some(service) = world.get::<Service>(key) else {
            return Plan::none();
        };
        match &service.spec {
            Some(spec)
                if backends::selector(service).is_some() && !meta::is_ending(&service.metadata) =>
            {
                plan(service, spec, world)
            }
            _ => Plan::none(),
        }
    }
}

fn is_ours(slice: &EndpointSlice) -> bool {
    meta::label(&slice.metadata, MANAGED_BY) == Some(MANAGER)
}

fn plan(service: &Service, spec: &ServiceSpec, world: &World) -> Plan {
    let namespace = meta::namespace(&service.metadata);
    let existing = world
        .all::<EndpointSlice>()
        .group(meta::name(&service.metadata));
    let existing = existing.filter(|slice| {
        is_ours(slice)
            && meta::namespace(&slice.metadata) == namespace
            && !meta::is_ending(&slice.metadata)
    });
    let mut left: Vec<Arc<EndpointSlice>> = existing.cloned().collect();
    let mut plan = Plan::none();
    for family in backends::families(spec) {
        let (own, others) = left
            .into_iter()
            .partition(|slice| slice.address_type == family.name());
        left = others;
        reconcile(service, spec, family, own, world, &mut plan);
    }
    // Families that the service has no longer.
    for slice in &left {
        plan.push(Write::delete(&**slice, Tell::nothing()));
    }
    plan
}

/// Endpoints by what identifies them: the pod.
type Wanted = BTreeMap<(String, String), Endpoint>;

fn reconcile(
    service: &Service,
    spec: &ServiceSpec,
    family: Family,
    existing: Vec<Arc<EndpointSlice>>,
    world: &World,
    plan: &mut Plan,
) {
    let mut groups: BTreeMap<Vec<Port>, Wanted> = BTreeMap::new();
    for backend in backends::find(service, spec, family, world) {
        let id = (
            backend.pod.name.clone().unwrap_or_default(),
            backend.pod.uid.clone().unwrap_or_default(),
        );
        let group = groups.entry(backend.ports.clone()).or_default();
        group.insert(id, endpoint(backend));
    }
    super::hints::give(
        service,
        groups.values_mut().flat_map(BTreeMap::values_mut),
        world,
    );
    if groups.is_empty() {
        // A service without pods has one slice without endpoints: that it is known is worth telling.
        groups.insert(Vec::new(), Wanted::new());
    }
    let mut free = existing;
    for (ports, wanted) in groups {
        let ports = slice_ports(ports);
        let (same, others) = free
            .into_iter()
            .partition(|slice| slice.ports.clone().unwrap_or_default() == ports);
        free = others;
        fill(service, spec, family, &ports, wanted, same, plan);
    }
    for slice in &free {
        plan.push(Write::delete(&**slice, Tell::nothing()));
    }
}

/// Brings the slices of one group of ports up to date, and makes or removes some if need be.
fn fill(
    service: &Service,
    spec: &ServiceSpec,
    family: Family,
    ports: &[EndpointPort],
    mut wanted: Wanted,
    existing: Vec<Arc<EndpointSlice>>,
    plan: &mut Plan,
) {
    let mut contents: Vec<(Option<Arc<EndpointSlice>>, Vec<Endpoint>)> = Vec::new();
    for slice in existing {
        let kept = slice.endpoints.iter().flatten();
        let kept = kept.filter_map(|endpoint| wanted.remove(&identity(endpoint)?));
        let kept = kept.collect();
        contents.push((Some(slice), kept));
    }
    contents.sort_by_key(|(_, endpoints)| std::cmp::Reverse(endpoints.len()));
    let mut rest: Vec<Endpoint> = wanted.into_values().collect();
    for (_, endpoints) in &mut contents {
        let room = MOST.saturating_sub(endpoints.len()).min(rest.len());
        endpoints.extend(rest.drain(..room));
    }
    while !rest.is_empty() || contents.is_empty() {
        let take = MOST.min(rest.len());
        contents.push((None, rest.drain(..take).collect()));
    }
    let mut some = contents.iter().any(|(_, endpoints)| !endpoints.is_empty());
    for (slice, endpoints) in contents {
        match slice {
            Some(slice) if endpoints.is_empty() && some => {
                plan.push(Write::delete(&*slice, Tell::nothing()));
            }
            Some(slice) => {
                some = true;
                update(service, spec, &slice, endpoints, plan);
            }
            None => plan.push(create(service, spec, family, ports, endpoints)),
        }
    }
}

fn identity(endpoint: &Endpoint) -> Option<(String, String)> {
    let pod = endpoint.target_ref.as_ref()?;
    Some((pod.name.clone()?, pod.uid.clone().unwrap_or_default()))
}

fn update(
    service: &Service,
    spec: &ServiceSpec,
    slice: &EndpointSlice,
    endpoints: Vec<Endpoint>,
    plan: &mut Plan,
) {
    let labels = labels(service, spec);
    let same_labels = slice.metadata.labels.as_ref() == Some(&labels);
    let before = slice.endpoints.clone().unwrap_or_default();
    if same_labels && before == endpoints {
        return;
    }
    let old = json!(slice.metadata.labels.clone().unwrap_or_default());
    let labels = crate::write::difference(&old, &json!(labels));
    let patch = json!({"metadata": {"labels": labels}, "endpoints": endpoints});
    plan.push(Write::patch(slice, patch, Tell::nothing()));
}

fn create(
    service: &Service,
    spec: &ServiceSpec,
    family: Family,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
) -> Write {
    let slice = EndpointSlice {
        address_type: family.name().into(),
        endpoints: Some(endpoints),
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", meta::name(&service.metadata))),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service, spec)),
            owner_references: Some(vec![meta::owner_reference(service)]),
            ..ObjectMeta::default()
        },
        ports: Some(ports.to_vec()),
    };
    let failed = Note::warning(
        SOURCE,
        service,
        "FailedToUpdateEndpointSlices",
        "Error updating Endpoint Slices: {}",
    );
    Write::create(slice, Tell::nothing().or(failed))
}

/// The service's labels, and those that say whose slice it is.
fn labels(service: &Service, spec: &ServiceSpec) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if backends::is_headless(spec) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels.insert(SERVICE_NAME.into(), meta::name(&service.metadata).into());
    labels
}

fn slice_ports(ports: Vec<Port>) -> Vec<EndpointPort> {
    let port = |port: Port| EndpointPort {
        app_protocol: port.app_protocol,
        name: Some(port.name),
        port: Some(port.number),
        protocol: Some(port.protocol),
    };
    ports.into_iter().map(port).collect()
}

fn endpoint(backend: Backend) -> Endpoint {
    Endpoint {
        addresses: vec![backend.address],
        conditions: Some(EndpointConditions {
            ready: Some(backend.ready),
            serving: Some(backend.serving),
            terminating: Some(backend.terminating),
        }),
        hostname: backend.hostname,
        node_name: backend.node,
        target_ref: Some(backend.pod),
        zone: backend.zone,
        ..Endpoint::default()
    }
}
