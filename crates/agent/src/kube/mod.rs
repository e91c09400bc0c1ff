//! The Kubernetes side: which nodes there are, what this node says of itself and of its endpoints, which ranges it has.
pub mod cluster;
pub mod endpoints;
pub mod own;
pub mod ranges;

use k8s::{Client, Connection};
use model::Tables;
use runtime::{health::Health, settings::Settings, stop::Stop};
use tokio::sync::watch;

#[cfg(test)]
mod tests;

/// What follows the API server: the watches, and those who live on them. An agent that works as before its restart begins with it once
/// it serves: nothing of it is waited for.
pub struct Follow {
    /// The API server.
    pub client: Client,
    /// All tables.
    pub tables: Tables,
    /// The settings.
    pub settings: Settings,
    /// Name of this node.
    pub name: String,
    /// The addresses, once there are any.
    pub addresses: ranges::Shared,
    /// How all components are.
    pub health: Health,
    /// Who wants to know of the connection.
    pub connection: watch::Sender<Connection>,
    /// When to end.
    pub stop: Stop,
}

impl Follow {
    /// Begins, on the current runtime.
    pub fn start(self) {
        let (health, stop) = (&self.health, &self.stop);
        k8s::watch_all_for(self.connection, &self.client, &self.tables, health, stop);
        tokio::spawn(cluster::follow(
            self.tables.clone(),
            self.settings.ipam,
            self.name.clone(),
            health.component("controller/nodes"),
            stop.clone(),
        ));
        let publisher = own::Publisher {
            health: health.component("controller/cilium-node"),
            client: self.client,
            tables: self.tables,
            settings: self.settings,
            name: self.name,
            addresses: self.addresses,
        };
        tokio::spawn(publisher.run(stop.clone()));
    }
}
