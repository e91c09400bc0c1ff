//! What the agent did, as events for Hubble clients: from what changes in the tables.
use crate::agent::Agent;
use flow::{
    Observer,
    observer::wall_clock,
    proto::flow::{
        AgentEvent, AgentEventType, EndpointUpdateNotification, IpCacheNotification,
        PolicyUpdateNotification, ServiceDeleteNotification, ServiceUpsertNotification,
        ServiceUpsertNotificationAddr, TimeNotification, agent_event::Notification,
    },
    record::timestamp,
};
use runtime::stop::Stop;
use std::{collections::BTreeMap, sync::Arc};
use tables::{ChangeKind, ChangeTracker, Read as _, Snapshot};

fn event(kind: AgentEventType, notification: Notification) -> AgentEvent {
    AgentEvent {
        r#type: kind as i32,
        notification: Some(notification),
    }
}

/// Follows the tables.
struct Follower {
    endpoints: ChangeTracker<model::Endpoint>,
    prefixes: ChangeTracker<model::Prefix>,
    services: ChangeTracker<model::Service>,
    known: BTreeMap<u16, Arc<model::Endpoint>>,
}

/// Tells `observer` what the agent does, until `stop`.
pub(super) async fn run(agent: Arc<Agent>, observer: Observer, stop: Stop) {
    let time = TimeNotification {
        time: Some(timestamp(wall_clock())),
    };
    observer.agent_event(event(
        AgentEventType::AgentStarted,
        Notification::AgentStart(time),
    ));
    let tables = agent.tables.clone();
    let mut follower = Follower {
        endpoints: tables.db.track(&tables.endpoints),
        prefixes: tables.db.track(&tables.prefixes),
        services: tables.db.track(&tables.services.services),
        known: BTreeMap::new(),
    };
    let mut realized = agent.policy.realized();
    let watch = tables
        .endpoints
        .watch()
        .and(tables.prefixes.watch())
        .and(tables.services.services.watch());
    loop {
        let snapshot = tables.db.snapshot();
        let seen = snapshot.revision();
        follower.step(&snapshot, |one| observer.agent_event(one));
        drop(snapshot);
        let next = async {
            tokio::select! {
                () = watch.changed(seen) => None,
                Ok(()) = realized.changed() => Some(*realized.borrow()),
            }
        };
        match stop.or(next).await {
            None => return,
            Some(Some(revision)) => {
                let update = PolicyUpdateNotification {
                    labels: Vec::new(),
                    revision,
                    rule_count: i64::try_from(agent.policy.status().policies).unwrap_or(i64::MAX),
                };
                observer.agent_event(event(
                    AgentEventType::PolicyUpdated,
                    Notification::PolicyUpdate(update),
                ));
            }
            Some(None) => {}
        }
    }
}

impl Follower {
    fn step(&mut self, snapshot: &Snapshot, mut tell: impl FnMut(AgentEvent)) {
        for change in self.endpoints.changes(snapshot) {
            let row = change.row;
            let known = match change.kind {
                ChangeKind::Upsert => self.known.insert(row.id, row.clone()),
                ChangeKind::Delete => self.known.remove(&row.id),
            };
            // Of one that changes nothing is told.
            let kind = match (change.kind, known) {
                (ChangeKind::Upsert, None) => AgentEventType::EndpointCreated,
                (ChangeKind::Delete, _) => AgentEventType::EndpointDeleted,
                (ChangeKind::Upsert, Some(_)) => continue,
            };
            let update = EndpointUpdateNotification {
                id: row.id.into(),
                labels: row.labels.to_strings(),
                error: String::new(),
                pod_name: row.pod.name.clone(),
                namespace: row.pod.namespace.clone(),
            };
            tell(event(kind, Notification::EndpointUpdate(update)));
        }
        for change in self.prefixes.changes(snapshot) {
            let kind = match change.kind {
                ChangeKind::Upsert => AgentEventType::IpcacheUpserted,
                ChangeKind::Delete => AgentEventType::IpcacheDeleted,
            };
            tell(event(kind, Notification::IpcacheUpdate(cache(change.row))));
        }
        for change in self.services.changes(snapshot) {
            service(change.row, change.kind)
                .into_iter()
                .for_each(&mut tell);
        }
    }
}

fn cache(row: &model::Prefix) -> IpCacheNotification {
    let host = |ip: Option<std::net::IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    let (namespace, pod_name) = row.owner.split_once('/').unwrap_or_default();
    IpCacheNotification {
        cidr: row.prefix.to_string(),
        identity: row.identity,
        host_ip: host(row.tunnel),
        namespace: namespace.to_owned(),
        pod_name: pod_name.to_owned(),
        ..IpCacheNotification::default()
    }
}

/// An event per frontend, as services are told of.
fn service(row: &model::Service, change: ChangeKind) -> Vec<AgentEvent> {
    let (namespace, name) = row.names();
    let frontends = row
        .cluster_ips
        .iter()
        .flat_map(|ip| row.ports.iter().map(move |port| (ip, port)));
    frontends
        .map(|(ip, port)| {
            if change == ChangeKind::Delete {
                let gone = ServiceDeleteNotification::default();
                return event(
                    AgentEventType::ServiceDeleted,
                    Notification::ServiceDelete(gone),
                );
            }
            let upsert = ServiceUpsertNotification {
                frontend_address: Some(ServiceUpsertNotificationAddr {
                    ip: ip.to_string(),
                    port: port.port.into(),
                }),
                r#type: format!("{:?}", row.kind),
                name: name.to_owned(),
                namespace: namespace.to_owned(),
                ext_traffic_policy: format!("{:?}", row.external_policy),
                int_traffic_policy: format!("{:?}", row.internal_policy),
                ..ServiceUpsertNotification::default()
            };
            event(
                AgentEventType::ServiceUpserted,
                Notification::ServiceUpsert(upsert),
            )
        })
        .collect()
}
