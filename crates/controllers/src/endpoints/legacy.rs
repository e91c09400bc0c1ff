//! Endpoints: the older form, one object per service, which some clients still read.
use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service, ServiceSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::json;

use super::{
    backends::{self, Backend, Port},
    slices::HEADLESS,
};
use crate::{
    Change, Key, Kind, Now, World,
    engine::Controller,
    meta,
    write::{Plan, Tell, Write},
};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// The most addresses in an object; the annotation says that some were left out.
const MOST: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// The controller.
pub struct EndpointsObjects;

impl Controller for EndpointsObjects {
    fn name(&self) -> &'static str {
        "endpoints"
    }

    fn needs(&self) -> &'static [Kind] {
        &[Kind::Service, Kind::Endpoints, Kind::Pod]
    }

    fn affected(&self, change: &Change, world: &World, keys: &mut Vec<Key>) {
        super::services_of(change, world, keys);
        keys.extend(change.key_of::<Endpoints>());
    }

    fn plan(&self, key: &Key, world: &World, _: Now) -> Plan {
        let (service, existing) = (world.get::<Service>(key), world.get::<Endpoints>(key));
        let Some(service) = service.filter(|s| !meta::is_ending(&s.metadata)) else {
            return gone(existing);
        };
        match &service.spec {
            Some(spec) if backends::selector(service).is_some() => {
                plan(service, spec, existing.map(|e| &**e), world)
            }
            _ => Plan::none(),
        }
    }
}

/// Endpoints have no owner: what was made for a service goes with it.
fn gone(existing: Option<&std::sync::Arc<Endpoints>>) -> Plan {
    let ours = existing.filter(|e| meta::label(&e.metadata, MANAGED_BY) == Some(MANAGER));
    let delete = ours.map(|endpoints| Write::delete(&**endpoints, Tell::nothing()));
    Plan::from(Vec::from_iter(delete))
}

fn plan(
    service: &Service,
    spec: &ServiceSpec,
    existing: Option<&Endpoints>,
    world: &World,
) -> Plan {
    let mut subsets: BTreeMap<Vec<Port>, EndpointSubset> = BTreeMap::new();
    let family = backends::families(spec).into_iter().next();
    let backends = family.map(|family| backends::find(service, spec, family, world));
    let mut backends = backends.unwrap_or_default();
    let always = spec.publish_not_ready_addresses == Some(true);
    backends.retain(|backend| always || !backend.terminating);
    let cut = backends.len() > MOST;
    backends.truncate(MOST);
    for mut backend in backends {
        let ports = std::mem::take(&mut backend.ports);
        let subset = subsets.entry(ports).or_default();
        let list = if backend.ready {
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        list.get_or_insert_default().push(address(backend));
    }
    let subset = |(ports, mut subset): (Vec<Port>, EndpointSubset)| {
        let ports: Vec<EndpointPort> = ports.into_iter().map(port).collect();
        subset.ports = (!ports.is_empty()).then_some(ports);
        subset
    };
    let subsets: Vec<EndpointSubset> = subsets.into_iter().map(subset).collect();
    let mut plan = Plan::none();
    write(service, spec, existing, subsets, cut, &mut plan);
    plan
}

fn write(
    service: &Service,
    spec: &ServiceSpec,
    existing: Option<&Endpoints>,
    subsets: Vec<EndpointSubset>,
    cut: bool,
    plan: &mut Plan,
) {
    let labels = labels(service, spec);
    let cut = cut.then(|| BTreeMap::from([(OVER_CAPACITY.to_owned(), "truncated".to_owned())]));
    let Some(existing) = existing else {
        let endpoints = Endpoints {
            metadata: ObjectMeta {
                name: service.metadata.name.clone(),
                namespace: service.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: cut,
                ..ObjectMeta::default()
            },
            subsets: (!subsets.is_empty()).then_some(subsets),
        };
        return plan.push(Write::create(endpoints, Tell::nothing()));
    };
    let before = existing.subsets.clone().unwrap_or_default();
    if before == subsets && existing.metadata.labels.as_ref() == Some(&labels) {
        return;
    }
    let old = json!(existing.metadata.labels.clone().unwrap_or_default());
    let labels = crate::write::difference(&old, &json!(labels));
    let annotations = json!({OVER_CAPACITY: cut.map(|_| "truncated")});
    let patch = json!({
        "metadata": {"labels": labels, "annotations": annotations},
        "subsets": subsets,
    });
    plan.push(Write::patch(existing, patch, Tell::nothing()));
}

fn labels(service: &Service, spec: &ServiceSpec) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if backends::is_headless(spec) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn address(backend: Backend) -> EndpointAddress {
    EndpointAddress {
        hostname: backend.hostname,
        ip: backend.address,
        node_name: backend.node,
        target_ref: Some(backend.pod),
    }
}

fn port(port: Port) -> EndpointPort {
    EndpointPort {
        app_protocol: port.app_protocol,
        name: (!port.name.is_empty()).then_some(port.name),
        port: port.number,
        protocol: Some(port.protocol),
    }
}
