//! Where the pods behind services are: EndpointSlices, and the older Endpoints.
mod backends;
mod hints;
mod legacy;
mod slices;

use k8s_openapi::api::core::v1::{Pod, Service};

use crate::{Change, Key, World, meta};

pub use legacy::EndpointsObjects;
pub use slices::Slices;

/// The services of the pod's namespace that select it, before or after the change.
fn services_of(change: &Change, world: &World, keys: &mut Vec<Key>) {
    keys.extend(change.key_of::<Service>());
    if let (Some(old), Some(new)) = (change.before::<Pod>(), change.after::<Pod>())
        && !backends::differ(old, new)
    {
        return;
    }
    for pod in change.each::<Pod>() {
        let namespace = meta::namespace(&pod.metadata);
        for service in world.all::<Service>().in_namespace(namespace) {
            if backends::selector(service).is_some_and(|s| backends::selects(s, pod)) {
                keys.push(Key::of(&service.metadata));
            }
        }
    }
}

#[cfg(test)]
mod tests;
