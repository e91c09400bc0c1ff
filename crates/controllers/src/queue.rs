//! The keys that wait for a controller: each once, failed ones with growing pauses.
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::Key;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A queue of keys. Times are those of a steady clock.
#[derive(Debug, Default)]
pub struct Queue {
    /// Keys that may be taken, in the order they came.
    ready: BTreeMap<u64, Key>,
    place: BTreeMap<Key, u64>,
    next: u64,
    /// Keys that wait for a moment; a key waits for the earliest only.
    waiting: BTreeSet<(Duration, Key)>,
    due: BTreeMap<Key, Duration>,
    /// Keys being worked on, and whether they came up again meanwhile.
    active: BTreeMap<Key, bool>,
    failures: BTreeMap<Key, u32>,
}

impl Queue {
    /// The key should be looked at.
    pub fn add(&mut self, key: Key) {
        if let Some(again) = self.active.get_mut(&key) {
            *again = true;
        } else if self.failures.contains_key(&key) && self.due.contains_key(&key) {
            // It failed: what changes around it does not shorten its pause, or a hopeless key would spin.
        } else {
            self.make_ready(key);
        }
    }

    /// The key should be looked at by then.
    pub fn add_at(&mut self, key: Key, at: Duration) {
        if let Some(before) = self.due.get(&key).copied() {
            if before <= at {
                return;
            }
            self.waiting.remove(&(before, key.clone()));
        }
        self.due.insert(key.clone(), at);
        self.waiting.insert((at, key));
    }

    fn make_ready(&mut self, key: Key) {
        if !self.place.contains_key(&key) {
            self.place.insert(key.clone(), self.next);
            self.ready.insert(self.next, key);
            self.next += 1;
        }
    }

    /// Up to `limit` keys to work on, each of which is to be given back by [`done`](Self::done) or
    /// [`failed`](Self::failed).
    pub fn take(&mut self, limit: usize, now: Duration) -> Vec<Key> {
        self.wake(now);
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some((_, key)) = self.ready.pop_first()
        {
            self.place.remove(&key);
            self.active.insert(key.clone(), false);
            taken.push(key);
        }
        taken
    }

    fn wake(&mut self, now: Duration) {
        while let Some((due, _)) = self.waiting.first()
            && *due <= now
            && let Some((_, key)) = self.waiting.pop_first()
        {
            self.due.remove(&key);
            match self.active.get_mut(&key) {
                Some(again) => *again = true,
                None => self.make_ready(key),
            }
        }
    }

    /// The work on a key succeeded.
    pub fn done(&mut self, key: &Key) {
        self.failures.remove(key);
        if self.active.remove(key) == Some(true) {
            self.make_ready(key.clone());
        }
    }

    /// The work on a key failed: again after a pause, which grows and is not shorter than `at_least`.
    pub fn failed(&mut self, key: &Key, now: Duration, at_least: Duration) {
        self.active.remove(key);
        let failures = self.failures.entry(key.clone()).or_default();
        let pause = FIRST_PAUSE
            .saturating_mul(1 << (*failures).min(20))
            .min(LONGEST_PAUSE)
            .max(at_least);
        *failures += 1;
        if let Some(before) = self.due.remove(key) {
            self.waiting.remove(&(before, key.clone()));
        }
        self.add_at(key.clone(), now + pause);
    }

    /// How many keys may be taken or are being worked on.
    pub fn len(&self) -> usize {
        self.ready.len() + self.active.len()
    }

    /// Whether there is nothing to do now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many keys failed the last time.
    pub fn failing(&self) -> usize {
        self.failures.len()
    }

    /// How many keys are being worked on.
    pub fn active(&self) -> usize {
        self.active.len()
    }

    /// When the next waiting key is due; now, if one is ready.
    pub fn deadline(&self) -> Option<Duration> {
        if self.ready.is_empty() {
            self.waiting.first().map(|(due, _)| *due)
        } else {
            Some(Duration::ZERO)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_key_is_there_once_and_in_order() {
        let mut queue = Queue::default();
        for name in ["b", "a", "b"] {
            queue.add(key(name));
        }
        assert_eq!(queue.take(9, ms(0)), [key("b"), key("a")]);
        assert!(queue.take(9, ms(0)).is_empty());
    }

    #[test]
    fn what_comes_up_during_work_is_looked_at_after_it() {
        let mut queue = Queue::default();
        queue.add(key("a"));
        assert_eq!(queue.take(1, ms(0)).len(), 1);
        queue.add(key("a"));
        assert!(queue.take(1, ms(0)).is_empty(), "never twice at once");
        queue.done(&key("a"));
        assert_eq!(queue.take(1, ms(0)).len(), 1);
        queue.done(&key("a"));
        assert!(queue.is_empty());
    }

    #[test]
    fn pauses_grow_and_success_forgets_them() {
        let mut queue = Queue::default();
        queue.add(key("a"));
        let mut now = ms(0);
        let mut pauses = Vec::new();
        for _ in 0..14 {
            assert_eq!(queue.take(1, now).len(), 1);
            queue.failed(&key("a"), now, Duration::ZERO);
            queue.add(key("a"));
            assert!(
                queue.take(1, now).is_empty(),
                "a change does not shorten the pause"
            );
            let due = queue.deadline().unwrap();
            pauses.push(due - now);
            now = due;
        }
        assert_eq!(pauses[..3], [ms(10), ms(20), ms(40)]);
        assert_eq!(pauses[13], LONGEST_PAUSE);
        assert_eq!(queue.failing(), 1);
        assert_eq!(queue.take(1, now).len(), 1);
        queue.done(&key("a"));
        assert_eq!(queue.failing(), 0);
    }

    #[test]
    fn the_earliest_wake_up_counts() {
        let mut queue = Queue::default();
        queue.add_at(key("a"), ms(50));
        queue.add_at(key("a"), ms(20));
        queue.add_at(key("a"), ms(70));
        assert_eq!(queue.deadline(), Some(ms(20)));
        assert!(queue.take(1, ms(19)).is_empty());
        assert_eq!(queue.take(1, ms(20)).len(), 1);
        queue.done(&key("a"));
        assert_eq!(queue.deadline(), None);
    }
}
