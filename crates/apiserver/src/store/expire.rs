//! Objects that go by themselves after a while: events.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use serde_json::Value;

use super::super::kind::Kind;
use super::super::object::Key;
use super::{DeleteOptions, Filter, Store};

/// Seconds between two looks.
const PERIOD: i64 = 60;

/// When expired objects were last looked for, in seconds of the epoch.
#[derive(Debug, Default)]
pub(super) struct Swept(AtomicI64);

impl Swept {
    /// Whether it is time to look; true for one caller per period.
    fn due(&self, now: i64) -> bool {
        let last = self.0.load(Ordering::Relaxed);
        now >= last.saturating_add(PERIOD)
            && self
                .0
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

impl Store {
    /// Removes objects of the kind whose time is over. Called where new ones come, so that nothing grows without end.
    pub(super) fn expire(&self, kind: &Kind) {
        let now = Timestamp::now().as_second();
        let Some(ttl) = kind.time_to_live.filter(|_| self.swept.due(now)) else {
            return;
        };
        self.expire_before(kind, now - ttl);
    }

    fn expire_before(&self, kind: &Kind, limit: i64) {
        let Ok((objects, _)) = self.matching(kind, &Filter::default(), None) else {
            return;
        };
        for object in objects.iter().filter(|o| last_touched(o) < limit) {
            if let Err(error) = self.delete(kind, &Key::of(object), &DeleteOptions::default()) {
                tracing::debug!(?kind, %error, "an expired object was not removed");
            }
        }
    }
}

/// The newest time that an event tells, in seconds of the epoch.
fn last_touched(object: &Value) -> i64 {
    let times = [
        &object["metadata"]["creationTimestamp"],
        &object["lastTimestamp"],
        &object["eventTime"],
        &object["series"]["lastObservedTime"],
    ];
    let seconds = |time: &&Value| {
        time.as_str()?
            .parse::<Timestamp>()
            .ok()
            .map(Timestamp::as_second)
    };
    times.iter().filter_map(seconds).max().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::super::kinds;
    use super::super::WriteOptions;
    use super::*;
    use serde_json::json;

    #[test]
    fn old_events_go_and_touched_ones_stay() {
        let store = Store::new(kinds::builtin(), 16);
        let kind = store.kind("events").unwrap();
        for (name, last) in [
            ("old", Value::Null),
            ("touched", json!("2199-01-01T00:00:00Z")),
        ] {
            let event = json!({"metadata": {"name": name}, "lastTimestamp": last, "involvedObject": {"namespace": "default"}});
            store
                .create(&kind, "default", event, &WriteOptions::default())
                .unwrap();
        }
        store.expire_before(&kind, Timestamp::now().as_second() + 60);
        assert!(
            store
                .get(&kind, &Key::namespaced("default", "old"))
                .is_err()
        );
        assert!(
            store
                .get(&kind, &Key::namespaced("default", "touched"))
                .is_ok()
        );
    }

    #[test]
    fn one_look_per_period() {
        let swept = Swept::default();
        assert!(swept.due(1000) && !swept.due(1001) && swept.due(1060));
    }
}
