//! What a cluster's controller manager and scheduler do, as far as a small cluster needs it, against any conformant API
//! server.
//!
//! Each controller is a pure function from what is known (a [`World`]) to the writes it wants ([`Plan`]). The
//! [`Engine`](engine::Engine) keeps the world and the queues, without I/O and clock; [`Controllers`] drives it with watches
//! and requests.
mod daemonset;
mod deployment;
mod disruption;
mod driver;
mod endpoints;
pub mod engine;
mod events;
pub mod health;
mod history;
mod job;
mod kinds;
pub mod meta;
mod namespaces;
pub mod nodematch;
mod nodes;
mod object;
pub mod pods;
pub mod queue;
mod raw;
mod replicaset;
mod scheduler;
mod settings;
#[cfg(test)]
mod sim;
mod statefulset;
mod world;
pub mod write;

use std::future::Future;

pub use driver::{Controllers, HealthView};
pub use kinds::{Kept, Key, Kind, Object};
pub use settings::Settings;
pub use world::{Change, NODE_LEASES, Now, Store, World};
pub use write::Plan;

use engine::Controller;

/// Runs all controllers and the scheduler until `stop` ends.
pub async fn run(client: kube::Client, settings: Settings, stop: impl Future<Output = ()>) {
    Controllers::new(client, settings).run(stop).await;
}

/// The controllers that the settings ask for.
#[must_use]
pub fn controllers(settings: &Settings) -> Vec<Box<dyn Controller>> {
    let mut all: Vec<Box<dyn Controller>> = vec![
        Box::new(namespaces::Accounts),
        Box::new(deployment::Deployments),
        Box::new(replicaset::ReplicaSets),
        Box::new(daemonset::DaemonSets),
        Box::new(statefulset::StatefulSets),
        Box::new(scheduler::Scheduler),
        Box::new(endpoints::Slices),
        Box::new(endpoints::EndpointsObjects),
        Box::new(nodes::Lifecycle {
            grace: settings.node_grace,
        }),
        Box::new(nodes::Evictions),
        Box::new(nodes::Collector {
            grace: settings.gone_node_grace,
        }),
        Box::new(disruption::Budgets),
        Box::new(job::Jobs),
        Box::new(job::CronJobs),
    ];
    if !settings.pod_cidrs.is_empty() {
        all.push(Box::new(nodes::Cidrs {
            from: settings.pod_cidrs.clone(),
            mask_v4: settings.node_mask_v4,
            mask_v6: settings.node_mask_v6,
        }));
    }
    if let Some(ca) = &settings.root_ca {
        all.push(Box::new(namespaces::RootCa(ca.clone())));
    }
    all.retain(|controller| {
        !settings
            .disabled
            .iter()
            .any(|name| name == controller.name())
    });
    all
}
