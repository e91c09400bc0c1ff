//! Numbers that packets and maps refer to.
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Hands out numbers from 1 on. A number that comes back rests for a while, so that what still refers to it finds nothing
/// rather than somebody else; only where all others are taken is one woken early.
#[derive(Clone, Debug)]
pub struct IdPool {
    last: u32,
    next: u32,
    generation: u64,
    rest: u64,
    taken: BTreeSet<u32>,
    resting: VecDeque<(u64, u32)>,
    asleep: BTreeMap<u32, u64>,
}

impl IdPool {
    /// Numbers from 1 to `last`; a number rests for `rest` generations.
    #[must_use]
    pub fn new(last: u32, rest: u64) -> Self {
        Self {
            last,
            next: 1,
            generation: 0,
            rest,
            taken: BTreeSet::new(),
            resting: VecDeque::new(),
            asleep: BTreeMap::new(),
        }
    }

    /// Begins the next generation.
    pub fn tick(&mut self) {
        self.generation += 1;
        while let Some((since, id)) = self.resting.front().copied() {
            if since + self.rest > self.generation {
                break;
            }
            self.resting.pop_front();
            self.wake(since, id);
        }
    }

    /// Takes a number that somebody has already; whether it was free.
    pub fn adopt(&mut self, id: u32) -> bool {
        if id == 0 || id > self.last {
            return false;
        }
        self.asleep.remove(&id);
        self.next = self.next.max(id.saturating_add(1));
        self.taken.insert(id)
    }

    /// The next free number; none when all are taken.
    pub fn take(&mut self) -> Option<u32> {
        if self.taken.len() >= self.last as usize {
            return None;
        }
        if self.taken.len() + self.asleep.len() < self.last as usize {
            loop {
                let id = if self.next > self.last { 1 } else { self.next };
                self.next = id.saturating_add(1);
                if !self.taken.contains(&id) && !self.asleep.contains_key(&id) {
                    self.taken.insert(id);
                    return Some(id);
                }
            }
        }
        while let Some((since, id)) = self.resting.pop_front() {
            if self.wake(since, id) {
                self.taken.insert(id);
                return Some(id);
            }
        }
        None
    }

    /// Gives a number back.
    pub fn give(&mut self, id: u32) {
        if self.taken.remove(&id) {
            self.asleep.insert(id, self.generation);
            self.resting.push_back((self.generation, id));
        }
    }

    /// Numbers that are taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.taken.len()
    }

    /// True if none is taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Ends the rest that began in that generation, if it was not ended before.
    fn wake(&mut self, since: u64, id: u32) -> bool {
        let same = self.asleep.get(&id) == Some(&since);
        if same {
            self.asleep.remove(&id);
        }
        same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_rests_before_it_comes_again() {
        let mut pool = IdPool::new(3, 2);
        assert_eq!((pool.take(), pool.take()), (Some(1), Some(2)));
        pool.give(1);
        assert_eq!(pool.take(), Some(3));
        pool.give(3);
        pool.tick();
        pool.tick();
        assert_eq!(
            (pool.take(), pool.take(), pool.take()),
            (Some(1), Some(3), None)
        );
    }

    #[test]
    fn without_others_the_longest_rested_comes_early() {
        let mut pool = IdPool::new(2, 9);
        assert!(pool.adopt(2) && !pool.adopt(2) && !pool.adopt(0) && !pool.adopt(3));
        assert_eq!(pool.take(), Some(1));
        pool.give(2);
        pool.give(1);
        assert_eq!(
            (pool.take(), pool.take(), pool.take()),
            (Some(2), Some(1), None)
        );
        assert_eq!(pool.len(), 2);
    }

    #[test]
    fn adopting_ends_the_rest() {
        let mut pool = IdPool::new(2, 1);
        assert_eq!(pool.take(), Some(1));
        pool.give(1);
        assert!(pool.adopt(1));
        pool.tick();
        assert_eq!((pool.take(), pool.take()), (Some(2), None));
    }
}
