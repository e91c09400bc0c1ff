//! Which namespaces had flows lately.
use api::hubble::observer::Namespace;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// How long a namespace is listed after its last flow, in nanoseconds.
const LISTED: u64 = 3600 * 1_000_000_000;

/// When something of a namespace was met last, by the events' clock.
#[derive(Debug, Default)]
pub struct Sighting(AtomicU64);

impl Sighting {
    /// Something was met.
    pub fn note(&self, time: u64) {
        self.0.fetch_max(time, Ordering::Relaxed);
    }
}

/// Namespaces by cluster and name; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Namespaces(Arc<Mutex<Known>>);

/// By cluster and name.
type Known = BTreeMap<(String, String), Arc<Sighting>>;

impl Namespaces {
    /// Where it is noted that something of this namespace was met.
    #[must_use]
    pub fn get(&self, cluster: &str, namespace: &str) -> Arc<Sighting> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry((cluster.to_owned(), namespace.to_owned()))
            .or_default()
            .clone()
    }

    /// Those that had flows in the hour before `now`, in order.
    #[must_use]
    pub fn list(&self, now: u64) -> Vec<Namespace> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from = now.saturating_sub(LISTED);
        // One that somebody still holds may be met again.
        all.retain(|_, seen| seen.0.load(Ordering::Relaxed) >= from || Arc::strong_count(seen) > 1);
        let listed = all.iter().filter(|(_, seen)| {
            let last = seen.0.load(Ordering::Relaxed);
            last > 0 && last >= from
        });
        listed
            .map(|((cluster, namespace), _)| Namespace {
                cluster: cluster.clone(),
                namespace: namespace.clone(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_listed_for_an_hour() {
        let all = Namespaces::default();
        all.get("c1", "shop").note(10);
        let _held = all.get("c1", "idle");
        all.get("c1", "bank").note(LISTED);
        let names = |now| -> Vec<String> {
            let listed = all.list(now).into_iter();
            listed.map(|one| one.namespace).collect()
        };
        assert_eq!(names(LISTED), ["bank", "shop"]);
        assert_eq!(names(LISTED + 11), ["bank"]);
        assert!(names(3 * LISTED).is_empty());
    }
}
