//! The event ring: drained on a timer, since the programs submit without waking anybody.
use std::time::{Duration, Instant};

use abi::FlowEvent;
use aya::maps::{Map, MapData, RingBuf};
use zerocopy::FromBytes;

use crate::{Error, Result, maps::MapHandle};

/// Pause while events flow.
pub const BUSY_INTERVAL: Duration = Duration::from_millis(10);
/// Longest pause while none flow.
pub const IDLE_INTERVAL: Duration = Duration::from_millis(50);

/// Reads the event ring. It keeps the kernel's place in the ring: a reader that comes after a restart goes on where the last one
/// stopped.
pub struct EventReader {
    ring: RingBuf<MapData>,
    interval: Duration,
    stats: EventStats,
}

/// What a reader has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventStats {
    /// Events handed on.
    pub events: u64,
    /// Records of a size that is no event's; the programs are of another version.
    pub malformed: u64,
}

impl EventReader {
    pub(crate) fn new(map: &MapHandle) -> Result<Self> {
        let fd = map
            .fd
            .try_clone()
            .map_err(Error::bpf("duplicate the descriptor of map", map.spec.name))?;
        let map = Map::from_map_data(MapData::from_fd(fd)?)?;
        Ok(Self {
            ring: RingBuf::try_from(map)?,
            interval: IDLE_INTERVAL,
            stats: EventStats::default(),
        })
    }

    /// Hands every waiting event to `each`; how many there were.
    pub fn drain(&mut self, mut each: impl FnMut(&FlowEvent)) -> usize {
        let mut count = 0;
        while let Some(record) = self.ring.next() {
            match FlowEvent::read_from_bytes(&record) {
                Ok(event) => {
                    count += 1;
                    each(&event);
                }
                Err(_) => self.stats.malformed += 1,
            }
        }
        self.stats.events += count as u64;
        self.interval = next_interval(self.interval, count > 0);
        count
    }

    /// How long to wait before the next [`EventReader::drain`].
    #[must_use]
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// Drains at the reader's own pace until there were events or `timeout` is over; how many there were.
    pub fn poll(&mut self, timeout: Duration, mut each: impl FnMut(&FlowEvent)) -> usize {
        let start = Instant::now();
        loop {
            let count = self.drain(&mut each);
            let left = timeout.saturating_sub(start.elapsed());
            if count > 0 || left.is_zero() {
                return count;
            }
            std::thread::sleep(self.interval.min(left));
        }
    }

    /// What was read so far. What the ring had no room for is counted in [`crate::maps::Metrics::lost_events`].
    #[must_use]
    pub const fn stats(&self) -> EventStats {
        self.stats
    }
}

impl std::fmt::Debug for EventReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventReader")
            .field("interval", &self.interval)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

/// Short at once when events flow, longer step by step when they do not.
fn next_interval(interval: Duration, busy: bool) -> Duration {
    if busy {
        BUSY_INTERVAL
    } else {
        (interval * 2).min(IDLE_INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_follows_the_events() {
        let mut interval = next_interval(IDLE_INTERVAL, true);
        assert_eq!(interval, BUSY_INTERVAL);
        let mut steps = 0;
        while interval < IDLE_INTERVAL {
            interval = next_interval(interval, false);
            steps += 1;
        }
        assert_eq!(steps, 3);
        assert_eq!(next_interval(interval, false), IDLE_INTERVAL);
    }
}
