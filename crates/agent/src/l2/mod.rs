//! Announcing addresses of services to neighbours: for each service that a policy names one node holds a lease, and answers.
//!
//! The rows by which the programs answer hold for a while only, and are renewed with the lease: a node whose agent is dead falls silent
//! before another one takes over. An agent that ends gives nothing back, since the next one goes on with its leases.
mod keeper;

use crate::agent::Agent;
use datapath::{FrameSender, maps::L2Responder};
use k8s::{
    Client,
    crd::{self, Crd},
    error::says,
    lease::{Elector, LeaseSettings},
    write::Objects,
};
use keeper::Keeper;
use lb::l2::{Change, announcement};
use model::{Declared, Device, Tables, Text, service::Announcement};
use runtime::{health::Component, settings::Settings, stop::Stop};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::OnceLock,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};

/// How often neighbours are told who has an address now, in case that they do not hear it, and the pause in between.
const TOLD: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);
/// Until the status of a policy that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Opened while the process may.
static FRAMES: OnceLock<FrameSender> = OnceLock::new();

/// What takes a right that the agent gives up.
pub(crate) fn prepare(settings: &Settings) {
    if !settings.enable_l2_announcements {
        return;
    }
    match FrameSender::open() {
        Ok(sender) => drop(FRAMES.set(sender)),
        Err(error) => tracing::warn!(
            %error,
            "neighbours are not told when this node takes an address over, but only answered (CAP_NET_RAW is missing)"
        ),
    }
}

/// Starts announcing, if the settings say so.
pub(crate) fn start(agent: &Agent, client: &Client, stop: &Stop) {
    let settings = &agent.loaded.settings;
    let health = agent.health.component("l2-announcements");
    if !settings.enable_l2_announcements {
        return health.ok("not asked for");
    }
    let responder = match agent.datapath.l2_responder() {
        Ok(responder) => responder,
        Err(error) => return health.failed(error.to_string()),
    };
    let leases = LeaseSettings {
        namespace: settings.k8s_namespace.clone(),
        name: String::new(),
        identity: node_name(&agent.tables),
        duration: settings.l2_announcements_lease_duration,
        renew_deadline: settings.l2_announcements_renew_deadline,
        retry_period: settings.l2_announcements_retry_period,
    };
    let (sender, heard) = mpsc::unbounded_channel();
    let announcer = Announcer {
        tables: agent.tables.clone(),
        client: client.clone(),
        keeper: Keeper::new(&agent.tables),
        kernel: Kernel {
            responder,
            rows: BTreeMap::new(),
            pending: Vec::new(),
            time: row_time(&leases),
        },
        leases,
        stands: BTreeMap::new(),
        sender,
        said: BTreeMap::new(),
        health,
    };
    tokio::spawn(announcer.run(heard, stop.clone()));
}

fn node_name(tables: &Tables) -> String {
    let snapshot = tables.db.snapshot();
    let local = tables.local_node.iter(&snapshot).next();
    local.map_or_else(String::new, |local| local.node.name.clone())
}

/// How long a row holds from when it is written: whoever holds a lease has renewed it within the deadline and one pause, and others
/// wait for the whole duration from then on.
fn row_time(leases: &LeaseSettings) -> Duration {
    let late = leases.renew_deadline + leases.retry_period;
    let least = leases.retry_period + leases.retry_period / 2;
    leases.duration.saturating_sub(late).max(least)
}

/// A lease was won, or lost.
type Held = (String, bool);

struct Announcer {
    tables: Tables,
    client: Client,
    leases: LeaseSettings,
    keeper: Keeper,
    kernel: Kernel,
    /// Leases that this node stands for; whoever is told gives his back.
    stands: BTreeMap<String, oneshot::Sender<()>>,
    sender: mpsc::UnboundedSender<Held>,
    /// What was last said of policies, and when.
    said: BTreeMap<Text, (Option<String>, Instant)>,
    health: Component,
}

impl Announcer {
    async fn run(mut self, mut heard: mpsc::UnboundedReceiver<Held>, stop: Stop) {
        let tables = self.tables.clone();
        let watch = tables
            .services
            .services
            .watch()
            .and(tables.services.slices.watch())
            .and(tables.services.l2_policies.watch())
            .and(tables.local_node.watch())
            .and(tables.devices.watch());
        let mut renew = tokio::time::interval(self.leases.retry_period);
        renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let snapshot = tables.db.snapshot();
            let seen = tables::Read::revision(&snapshot);
            if let Some(change) = self.keeper.hear(&tables, &snapshot) {
                self.take(change);
            }
            drop(snapshot);
            if stop.or(self.say()).await.is_none() {
                return;
            }
            self.show();
            let next = async {
                tokio::select! {
                    () = watch.changed(seen) => None,
                    held = heard.recv() => held,
                    _ = renew.tick() => {
                        self.kernel.renew(self.keeper.devices());
                        None
                    }
                    () = tokio::time::sleep(PAUSE), if self.kernel.is_telling() => {
                        self.kernel.tell();
                        None
                    }
                }
            };
            match stop.or(next).await {
                None => return,
                Some(None) => {}
                Some(Some((name, held))) => {
                    let change = self.keeper.hold(&name, held);
                    self.take(change);
                }
            }
        }
    }

    fn take(&mut self, change: Change) {
        for name in change.drop {
            if let Some(give_back) = self.stands.remove(&name) {
                // Its task may have ended.
                let _ = give_back.send(());
            }
        }
        for name in change.stand {
            let (sender, given_back) = oneshot::channel();
            let leases = LeaseSettings {
                name: name.clone(),
                ..self.leases.clone()
            };
            let elector = Elector::new(self.client.clone(), leases);
            tokio::spawn(stand(
                elector,
                name.clone(),
                self.sender.clone(),
                given_back,
            ));
            self.stands.insert(name, sender);
        }
        if change.announce.is_empty() && change.withdraw.is_empty() {
            return;
        }
        self.kernel.withdraw(&change.withdraw);
        self.kernel
            .announce(&change.announce, self.keeper.devices());
        let announcements = &self.tables.services.announcements;
        let mut txn = self.tables.db.write();
        for (address, device) in change.withdraw {
            announcements.delete(&mut txn, &(address, device));
        }
        for (address, device) in change.announce {
            // There is no unique index that could be hurt.
            let _ = announcements.insert(&mut txn, Announcement { address, device });
        }
        txn.commit();
    }

    fn show(&self) {
        if let Some(error) = &self.kernel.error() {
            return self.health.degraded(error.clone());
        }
        if let Some((name, why)) = self.keeper.refused().next() {
            let text = format!("CiliumL2AnnouncementPolicy {name}: {why}");
            return self.health.degraded(text);
        }
        self.health.ok(format!(
            "{} addresses announced, {} leases stood for",
            self.kernel.rows.len(),
            self.stands.len()
        ));
    }

    /// Says of policies whether they can be used, where their status does not say so.
    async fn say(&mut self) {
        for (name, why) in self.keeper.wrongly_said() {
            let said = self.said.get(&name);
            if said.is_some_and(|(said, at)| *said == why && at.elapsed() < AGAIN) {
                continue;
            }
            self.said
                .insert(name.clone(), (why.clone(), Instant::now()));
            let Some(crd) = policies() else { return };
            let status = json!({"conditions": keeper::conditions(why.as_deref())});
            let objects = Objects::of(&self.client, crd);
            let write = objects.merge_status(&name, status);
            match tokio::time::timeout(AGAIN, write).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    let error = says(&error);
                    tracing::debug!(policy = %name, error, "the status could not be written");
                }
                Err(_) => tracing::debug!(policy = %name, "no answer in time"),
            }
        }
    }
}

fn policies() -> Option<&'static Crd> {
    crd::ALL
        .iter()
        .find(|crd| crd.kind == "CiliumL2AnnouncementPolicy")
}

/// Stands for a lease until it is told to give it back.
async fn stand(
    mut elector: Elector,
    name: String,
    sender: mpsc::UnboundedSender<Held>,
    given_back: oneshot::Receiver<()>,
) {
    let standing = async {
        loop {
            elector.acquire(|_| ()).await;
            tracing::info!(lease = name, "this node announces the service");
            // Nobody listens any more when the agent ends.
            let _ = sender.send((name.clone(), true));
            let why = elector.keep().await;
            tracing::warn!(
                lease = name,
                why,
                "this node no longer announces the service"
            );
            let _ = sender.send((name.clone(), false));
        }
    };
    let told = tokio::select! {
        told = given_back => told.is_ok(),
        () = standing => false,
    };
    if told {
        elector.release().await;
    }
}

/// An address on a device.
type Entry = (IpAddr, Text);
/// Number and link-layer address of a device.
type Place = (u32, [u8; 6]);

/// The kernel's side: rows, and frames.
struct Kernel {
    responder: L2Responder,
    /// What is answered for, with the number and address of the device at the last write.
    rows: BTreeMap<Entry, Option<Place>>,
    /// What neighbours are still to be told, and how often.
    pending: Vec<(IpAddr, Place, u32)>,
    /// How long a row holds.
    time: Duration,
}

impl Kernel {
    fn announce(&mut self, new: &[Entry], devices: &BTreeMap<Text, Device>) {
        for entry in new {
            self.rows.insert(entry.clone(), None);
            self.write(entry, devices);
        }
        self.tell();
    }

    fn withdraw(&mut self, old: &[Entry]) {
        for entry in old {
            if let Some(Some((ifindex, _))) = self.rows.remove(entry) {
                self.pending
                    .retain(|(ip, place, _)| (*ip, place.0) != (entry.0, ifindex));
                if let Err(error) = self.responder.silence(entry.0, ifindex) {
                    // It is over before another node answers.
                    tracing::warn!(address = %entry.0, %error, "a row of announcements stays until it is over");
                }
            }
        }
    }

    /// Writes every row anew, so that it holds on, and takes away those that nobody renews.
    fn renew(&mut self, devices: &BTreeMap<Text, Device>) {
        let entries: Vec<_> = self.rows.keys().cloned().collect();
        for entry in &entries {
            self.write(entry, devices);
        }
        self.tell();
        let known: BTreeSet<(IpAddr, u32)> = self
            .rows
            .iter()
            .filter_map(|((ip, _), row)| Some((*ip, row.as_ref()?.0)))
            .collect();
        for row in self.responder.rows().unwrap_or_default() {
            if row.left.is_zero() && !known.contains(&(row.address, row.ifindex)) {
                let _ = self.responder.silence(row.address, row.ifindex);
            }
        }
    }

    /// Answers for an address on a device as it is now. Neighbours are told where that is new.
    fn write(&mut self, entry: &Entry, devices: &BTreeMap<Text, Device>) {
        let place = devices
            .get(&entry.1)
            .filter(|device| !device.mac.is_zero())
            .map(|device| (device.ifindex, device.mac.0));
        let before = self.rows.get(entry).copied().flatten();
        let mut now = None;
        if let Some((ifindex, mac)) = place {
            match self.responder.answer(entry.0, ifindex, mac, self.time) {
                Ok(()) => now = place,
                Err(error) => {
                    tracing::warn!(address = %entry.0, device = %entry.1, %error, "an address is not announced");
                }
            }
        }
        if now != before {
            if let Some((ifindex, _)) = before
                && now.is_none_or(|(now, _)| now != ifindex)
            {
                let _ = self.responder.silence(entry.0, ifindex);
            }
            if let Some(place) = now {
                self.pending.push((entry.0, place, TOLD));
            }
        }
        self.rows.insert(entry.clone(), now);
    }

    fn is_telling(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Tells neighbours once more.
    fn tell(&mut self) {
        let Some(frames) = FRAMES.get() else {
            return self.pending.clear();
        };
        self.pending.retain_mut(|(address, (ifindex, mac), left)| {
            if let Err(error) = frames.send(*ifindex, &announcement(*address, *mac)) {
                tracing::debug!(%address, ifindex, %error, "neighbours are not told");
            }
            *left -= 1;
            *left > 0
        });
    }

    /// What is wrong, if anything is.
    fn error(&self) -> Option<String> {
        let ((address, device), _) = self.rows.iter().find(|(_, row)| row.is_none())?;
        Some(format!(
            "{address} is not announced on {device}: no such device with a link-layer address, or the map is full"
        ))
    }
}

/// What the status of a policy says of it: why it cannot be used.
fn told(row: &Declared) -> Option<String> {
    let conditions: Vec<Value> = serde_json::from_str(&row.conditions).unwrap_or_default();
    let bad = conditions
        .iter()
        .find(|one| one["type"] == lb::l2::BAD_SERVICE_SELECTOR && one["status"] == "True")?;
    Some(bad["message"].as_str().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_over_before_others_may_take_over() {
        let leases = |duration, renew_deadline, retry_period| LeaseSettings {
            namespace: String::new(),
            name: String::new(),
            identity: String::new(),
            duration: Duration::from_secs(duration),
            renew_deadline: Duration::from_secs(renew_deadline),
            retry_period: Duration::from_secs(retry_period),
        };
        assert_eq!(row_time(&leases(15, 5, 2)), Duration::from_secs(8));
        assert_eq!(row_time(&leases(6, 5, 2)), Duration::from_secs(3));
    }
}
