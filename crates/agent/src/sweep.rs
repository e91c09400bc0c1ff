//! The sweeper: connections that have ended, connections of deleted endpoints, addresses that nobody used.
use crate::{addresses::Addresses, endpoint::Manager};
use datapath::{
    Datapath,
    maps::{Conntrack, GcFilter, GcStats},
};
use model::Departure;
use netlink::Handle;
use runtime::{health::Component, stop::Stop};
use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};

/// Bounds of the adapted interval, and the first one.
const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(12 * 3600);
const FIRST: Duration = Duration::from_secs(300);
/// How often unused addresses are looked for.
const EXPIRY: Duration = Duration::from_secs(1);

/// What the sweeper did, for metrics.
#[derive(Clone, Debug, Default)]
pub struct SweepStats {
    /// Sweeps of ended connections.
    pub runs: u64,
    /// Of these, how many failed.
    pub failures: u64,
    /// The last one.
    pub last: GcStats,
}

/// Shared with the metrics.
pub type SharedStats = Arc<Mutex<SweepStats>>;

/// The sweeper.
#[derive(Debug)]
pub struct Sweeper {
    /// The connection tables.
    pub conntrack: Conntrack,
    /// Attachments.
    pub datapath: Arc<Datapath>,
    /// Whom to tell of what is buried.
    pub manager: Arc<Manager>,
    /// Where unused addresses go back to.
    pub addresses: Arc<Addresses>,
    /// `conntrack-gc-interval`; zero adapts.
    pub interval: Duration,
    /// Figures.
    pub stats: SharedStats,
    /// How it is.
    pub health: Component,
}

impl Sweeper {
    /// Works until `stop`.
    pub async fn run(self, mut departed: mpsc::UnboundedReceiver<Departure>, stop: Stop) {
        let mut pause = if self.interval.is_zero() {
            FIRST
        } else {
            self.interval
        };
        let mut due = Instant::now() + pause;
        let mut expiry = tokio::time::interval(EXPIRY);
        self.health.ok("waiting for the first sweep");
        loop {
            tokio::select! {
                () = stop.stopped() => return,
                first = departed.recv() => match first {
                    Some(first) => self.bury(first, &mut departed).await,
                    None => return,
                },
                _ = expiry.tick() => {
                    self.addresses.expire();
                }
                () = tokio::time::sleep_until(due) => {
                    if let Some(stats) = self.collect().await {
                        pause = if self.interval.is_zero() { next_pause(pause, &stats) } else { self.interval };
                    }
                    due = Instant::now() + pause;
                }
            }
        }
    }

    /// Removes devices, pins and connections of deleted endpoints, all that wait in one pass, then frees their addresses.
    async fn bury(&self, first: Departure, more: &mut mpsc::UnboundedReceiver<Departure>) {
        let mut all = vec![first];
        while let Ok(next) = more.try_recv() {
            all.push(next);
        }
        let (conntrack, datapath, manager) = (
            self.conntrack.clone(),
            self.datapath.clone(),
            self.manager.clone(),
        );
        let health = self.health.clone();
        let work = tokio::task::spawn_blocking(move || {
            if let Err(error) = remove_devices(&all) {
                tracing::warn!(%error, "devices of deleted endpoints could not be removed");
            }
            for departure in &all {
                if let Err(error) = datapath.detach_endpoint(departure.id) {
                    tracing::warn!(endpoint = departure.id, %error, "pins of a deleted endpoint could not be removed");
                }
            }
            let addresses: Vec<IpAddr> = all
                .iter()
                .flat_map(|departure| departure.addresses.iter().copied())
                .collect();
            if let Err(error) = conntrack.remove_endpoint(&addresses) {
                tracing::warn!(?addresses, %error, "connections of deleted endpoints could not be removed; they expire");
                health.degraded(format!("connections of deleted endpoints: {error}"));
            }
            manager.departed(&all);
        });
        // An error means that the runtime is stopping; the state file has the departures.
        let _ = work.await;
    }

    async fn collect(&self) -> Option<GcStats> {
        let conntrack = self.conntrack.clone();
        let outcome = tokio::task::spawn_blocking(move || {
            conntrack.collect(Conntrack::now(), GcFilter::Expired)
        })
        .await
        .ok()?;
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.runs += 1;
        match outcome {
            Ok(last) => {
                stats.last = last;
                self.health.ok(format!(
                    "{} of {} connections removed in the last sweep",
                    last.deleted, last.seen
                ));
                Some(last)
            }
            Err(error) => {
                stats.failures += 1;
                self.health.degraded(error.to_string());
                None
            }
        }
    }
}

/// Removes the devices that are still there under the name and number they had.
fn remove_devices(all: &[Departure]) -> netlink::Result<()> {
    let mut handle = Handle::new()?;
    for departure in all.iter().filter(|departure| departure.ifindex != 0) {
        let found = handle.find_link(departure.ifname.as_str())?;
        if found.is_some_and(|link| link.index == departure.ifindex) {
            handle.link_delete_if_exists(departure.ifindex)?;
        }
    }
    Ok(())
}

/// Shorter when much was found, longer when little was.
fn next_pause(pause: Duration, stats: &GcStats) -> Duration {
    let quarter = stats.seen / 4;
    let next = if stats.deleted > quarter && stats.deleted > 0 {
        pause / 2
    } else if stats.deleted * 20 < stats.seen || stats.seen == 0 {
        pause + pause / 2
    } else {
        pause
    };
    next.clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_follows_what_is_found() {
        let stats = |seen, deleted| GcStats {
            seen,
            deleted,
            ..GcStats::default()
        };
        assert_eq!(next_pause(FIRST, &stats(100, 60)), FIRST / 2);
        assert_eq!(next_pause(FIRST, &stats(100, 10)), FIRST);
        assert!(next_pause(FIRST, &stats(100, 1)) > FIRST);
        assert_eq!(next_pause(SHORTEST, &stats(10, 10)), SHORTEST);
        assert_eq!(next_pause(LONGEST, &stats(0, 0)), LONGEST);
    }
}
