//! The Kubernetes side: which nodes there are, what this node says of itself and of its endpoints, which ranges it has.
pub mod cluster;
pub mod endpoints;
pub mod identity;
pub mod own;
pub mod ranges;
pub mod slices;

use identity::{Allocating, Identities};
use k8s::{Client, Connection, Interest, Watcher, events::Events};
use model::Tables;
use runtime::{
    health::Health,
    settings::{IdentityManagement, Settings},
    stop::Stop,
};
use slices::Slices;
use tokio::sync::watch;

/// Who speaks in events.
const COMPONENT: &str = "cilium-agent";

/// What an agent with these settings wants to know of the cluster.
#[must_use]
pub fn interest(settings: &Settings, node: &str) -> Interest {
    Interest {
        node: node.to_owned(),
        slices: settings.enable_cilium_endpoint_slice,
    }
}

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
    /// Who has which number.
    pub identities: Identities,
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
        let (health, stop, settings) = (&self.health, &self.stop, &self.settings);
        let interest = interest(settings, &self.name);
        let sender = self.connection;
        k8s::watch_all_for(sender, &self.client, &self.tables, &interest, health, stop);
        let watcher = Watcher::new(&self.client, &self.tables.db, health, stop);
        let with_kubernetes = settings.enable_k8s_networkpolicy;
        let secrets = Some(&*settings.policy_secrets_namespace);
        let secrets = secrets.filter(|name| settings.enable_l7_proxy && !name.is_empty());
        k8s::policy::follow(&watcher, &self.tables.policies, with_kubernetes, secrets);
        let wanted = k8s::service::Wanted {
            redirects: settings.enable_local_redirect_policy,
            l2: settings.enable_l2_announcements,
        };
        k8s::service::follow(&watcher, &self.tables.services, wanted);
        if interest.slices {
            tokio::spawn(Slices::new(&self.tables).run(stop.clone()));
        }
        let allocating = Allocating {
            // CNI ADD waits for numbers: not behind what this node has to tell of its endpoints.
            client: k8s::ahead(&self.client),
            identities: self.identities,
            creates: settings.identity_management_mode != IdentityManagement::Operator,
            events: Events::new(&self.client, COMPONENT),
            health: health.component("controller/identity-objects"),
        };
        tokio::spawn(allocating.run(stop.clone()));
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
