//! The last records, in the order in which they came. Every record has a place that only grows; a reader that asks for a place that is
//! gone hears from where it can go on.
use crate::record::Record;
use std::collections::VecDeque;

/// The last records.
#[derive(Debug)]
pub struct Ring {
    records: VecDeque<Record>,
    capacity: usize,
    /// The place that the next record gets.
    next: u64,
}

impl Ring {
    /// A ring for at most `capacity` records, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            records: VecDeque::new(),
            capacity: capacity.max(1),
            next: 0,
        }
    }

    /// Adds a record; the oldest makes room for it.
    pub fn push(&mut self, record: Record) {
        if self.records.len() >= self.capacity {
            self.records.pop_front();
        }
        self.records.push_back(record);
        self.next += 1;
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// How many records it has room for.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Place of the oldest record.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.next - self.records.len() as u64
    }

    /// The place that the next record gets.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// The record at a place.
    #[must_use]
    pub fn get(&self, place: u64) -> Option<&Record> {
        let index = place.checked_sub(self.first())?;
        self.records.get(usize::try_from(index).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::What;
    use api::hubble::flow::LostEvent;

    fn record(time: u64) -> Record {
        Record {
            time,
            what: What::Lost(LostEvent::default()),
        }
    }

    #[test]
    fn places_grow_and_the_oldest_go() {
        let mut ring = Ring::new(3);
        assert!(ring.len() == 0 && ring.get(0).is_none());
        for time in 0..5 {
            ring.push(record(time));
        }
        assert_eq!((ring.first(), ring.next(), ring.len()), (2, 5, 3));
        assert!(ring.get(1).is_none() && ring.get(5).is_none());
        let times: Vec<_> = (2..5).map(|at| ring.get(at).map(|one| one.time)).collect();
        assert_eq!(times, [Some(2), Some(3), Some(4)]);
    }
}
