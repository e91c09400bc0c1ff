//! How many questions may be under way, in all and of each endpoint.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

#[derive(Clone)]
pub(super) struct Places(Arc<Inner>);

struct Inner {
    all: usize,
    each: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_endpoint: HashMap<u32, usize>,
}

/// One that is taken, until it is dropped.
pub(super) struct Place {
    places: Places,
    endpoint: u32,
}

impl Places {
    pub(super) fn new(all: usize, each: usize) -> Self {
        Self(Arc::new(Inner {
            all,
            each,
            taken: Mutex::default(),
        }))
    }

    /// A place, if there is one left.
    pub(super) fn take(&self, endpoint: u32) -> Option<Place> {
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.by_endpoint.get(&endpoint).copied().unwrap_or(0);
        if taken.all >= self.0.all || own >= self.0.each {
            return None;
        }
        taken.all += 1;
        taken.by_endpoint.insert(endpoint, own + 1);
        Some(Place {
            places: self.clone(),
            endpoint,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self
            .places
            .0
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        match taken.by_endpoint.get_mut(&self.endpoint) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                taken.by_endpoint.remove(&self.endpoint);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_all_and_of_each() {
        let places = Places::new(3, 2);
        let first = places.take(1).unwrap();
        let _second = places.take(1).unwrap();
        assert!(places.take(1).is_none());
        let _third = places.take(2).unwrap();
        assert!(places.take(3).is_none());
        drop(first);
        assert!(places.take(1).is_some());
    }
}
