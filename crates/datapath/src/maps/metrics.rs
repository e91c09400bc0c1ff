//! Packets and bytes by reason and direction.
use abi::{Direction, DropReason, MetricsValue, metrics_index};
use zerocopy::IntoBytes;

use super::MapHandle;
use crate::{Error, Result, sys};

/// The per-CPU counters.
#[derive(Clone, Debug)]
pub struct Metrics {
    map: MapHandle,
    cpus: usize,
}

/// Counters of one reason and direction, over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetricsRow {
    /// Zero: forwarded; else a [`DropReason`].
    pub reason: u8,
    /// A [`Direction`] by its number.
    pub direction: u8,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Line that counted last, on the CPU that counted most.
    pub line: u32,
    /// Number of its file; see [`abi::source_file`].
    pub file: u32,
}

impl Metrics {
    pub(super) fn new(map: MapHandle) -> Result<Self> {
        Ok(Self {
            map,
            cpus: possible_cpus()?,
        })
    }

    /// Counters of one reason and direction.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn get(&self, reason: u8, direction: Direction) -> Result<MetricsRow> {
        let row = MetricsRow {
            reason,
            direction: direction as u8,
            ..MetricsRow::default()
        };
        let mut values = vec![MetricsValue::default(); self.cpus];
        self.read(row, &mut values)
    }

    /// Events that found the ring full.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn lost_events(&self) -> Result<u64> {
        Ok(self.get(abi::LOST_EVENTS, Direction::Unknown)?.packets)
    }

    fn read(&self, row: MetricsRow, values: &mut [MetricsValue]) -> Result<MetricsRow> {
        let index = metrics_index(row.reason, Direction::from_index(u32::from(row.direction)));
        // One value per possible CPU, as the kernel writes them.
        let bytes = values.as_mut_bytes();
        sys::lookup(self.map.as_fd(), &index.to_ne_bytes(), bytes)
            .map_err(Error::bpf("read map", self.map.spec.name))?;
        let most = values
            .iter()
            .max_by_key(|v| v.packets)
            .copied()
            .unwrap_or_default();
        Ok(MetricsRow {
            packets: values.iter().map(|v| v.packets).sum(),
            bytes: values.iter().map(|v| v.bytes).sum(),
            line: most.line,
            file: most.file,
            ..row
        })
    }

    /// Every reason and direction that counted, in that order.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn dump(&self) -> Result<Vec<MetricsRow>> {
        let mut values = vec![MetricsValue::default(); self.cpus];
        let mut rows = Vec::new();
        for reason in std::iter::once(0).chain(DropReason::ALL.iter().map(|r| *r as u8)) {
            for direction in 0..4 {
                let row = self.read(
                    MetricsRow {
                        reason,
                        direction,
                        ..MetricsRow::default()
                    },
                    &mut values,
                )?;
                if row.packets > 0 {
                    rows.push(row);
                }
            }
        }
        Ok(rows)
    }
}

/// CPUs that the kernel has room for: as many values has a per-CPU map's entry.
fn possible_cpus() -> Result<usize> {
    const PATH: &str = "/sys/devices/system/cpu/possible";
    let text = std::fs::read_to_string(PATH).map_err(Error::pin("read", PATH))?;
    parse_cpus(text.trim())
        .ok_or_else(|| Error::Invalid(format!("{PATH} holds {text:?}, not a list of CPUs")))
}

/// Number of CPUs in a list as `0-3,8`.
fn parse_cpus(list: &str) -> Option<usize> {
    list.split(',').try_fold(0, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some(sum + last.checked_sub(first)? + 1)
    })
}

// The kernel rounds a per-CPU value up to eight bytes; ours needs no rounding.
const _: () = assert!(size_of::<MetricsValue>().is_multiple_of(8));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpus("0"), Some(1));
        assert_eq!(parse_cpus("0-3"), Some(4));
        assert_eq!(parse_cpus("0-3,8-9"), Some(6));
        assert_eq!(parse_cpus(""), None);
        assert_eq!(parse_cpus("3-0"), None);
    }
}
