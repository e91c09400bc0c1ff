//! Numbers for sets of labels, of one scope.
use super::Scope;
use model::Labels;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// In which order free numbers are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From a hash of the labels on. Nodes that do not know of each other yet propose the same number for the same
    /// labels, and a number given back falls to the same labels again.
    ByLabels,
    /// One after the other, so that a number given back is used again as late as can be.
    Around,
}

/// A number in use.
#[derive(Clone, Debug)]
struct Held {
    labels: Labels,
    users: u32,
    /// Since when nobody uses it; none while somebody does.
    idle_since: Option<Duration>,
}

/// What [`Allocator::acquire`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquired {
    /// The number.
    pub id: u32,
    /// True if the labels had none before.
    pub is_new: bool,
}

/// Why there is no number.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AllocateError {
    /// All are taken.
    #[error("all {size} identities from {first} to {last} are taken")]
    Exhausted {
        /// First of the range.
        first: u32,
        /// Last of the range.
        last: u32,
        /// Size of the range.
        size: u32,
    },
    /// The number belongs to other labels.
    #[error("identity {id} belongs to {held}, not to {wanted}")]
    Conflict {
        /// The number.
        id: u32,
        /// Whose it is.
        held: Labels,
        /// Who was thought to have it.
        wanted: Labels,
    },
    /// The number is of another range.
    #[error("identity {id} is not within {first} to {last}")]
    OutOfRange {
        /// The number.
        id: u32,
        /// First of the range.
        first: u32,
        /// Last of the range.
        last: u32,
    },
}

/// Who has which number. Time is an argument: any clock that does not go back.
///
/// A cluster's numbers are objects that many write: [`Self::propose`] a number, create the object, [`Self::adopt`] what
/// the server took. Two nodes may give the same labels two numbers; then the smaller one is used from then on, and
/// both mean the same to every policy.
#[derive(Clone, Debug)]
pub struct Allocator {
    first: u32,
    last: u32,
    order: Order,
    held: BTreeMap<u32, Held>,
    numbers: BTreeMap<Labels, BTreeSet<u32>>,
    next: u32,
}

impl Allocator {
    /// An allocator of the numbers of `scope`.
    #[must_use]
    pub fn new(scope: Scope, order: Order) -> Self {
        let range = scope.range();
        Self::of_range(*range.start(), *range.end(), order)
    }

    fn of_range(first: u32, last: u32, order: Order) -> Self {
        Self {
            first,
            last,
            order,
            held: BTreeMap::new(),
            numbers: BTreeMap::new(),
            next: first,
        }
    }

    /// The number of these labels, if they have one: the smallest, if several.
    #[must_use]
    pub fn lookup(&self, labels: &Labels) -> Option<u32> {
        self.numbers.get(labels)?.first().copied()
    }

    /// The labels of a number.
    #[must_use]
    pub fn labels(&self, id: u32) -> Option<&Labels> {
        self.held.get(&id).map(|held| &held.labels)
    }

    /// How many numbers are taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// True if no number is taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Every number and its labels.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Labels)> {
        self.held.iter().map(|(id, held)| (*id, &held.labels))
    }

    /// A number that these labels could have; nothing is taken. The one they have, if they have one.
    ///
    /// # Errors
    /// [`AllocateError::Exhausted`].
    pub fn propose(&self, labels: &Labels) -> Result<u32, AllocateError> {
        if let Some(id) = self.lookup(labels) {
            return Ok(id);
        }
        let size = self.last - self.first + 1;
        let start = match self.order {
            Order::Around => self.next,
            Order::ByLabels => {
                let place = hash(labels) % u64::from(size);
                self.first + u32::try_from(place).unwrap_or(0)
            }
        };
        let after = self.free_from(start, self.last);
        after
            .or_else(|| self.free_from(self.first, self.last))
            .ok_or(AllocateError::Exhausted {
                first: self.first,
                last: self.last,
                size,
            })
    }

    /// The first free number from `low` on.
    fn free_from(&self, low: u32, high: u32) -> Option<u32> {
        let mut candidate = low;
        for (taken, _) in self.held.range(low..=high) {
            if *taken > candidate {
                break;
            }
            candidate = taken + 1;
        }
        (candidate <= high).then_some(candidate)
    }

    /// The number of these labels for one more user, a new one if they have none.
    ///
    /// # Errors
    /// [`AllocateError::Exhausted`].
    pub fn acquire(&mut self, labels: &Labels) -> Result<Acquired, AllocateError> {
        let id = self.propose(labels)?;
        let is_new = !self.held.contains_key(&id);
        if is_new {
            self.insert(id, labels.clone(), Duration::ZERO);
            self.next = if id == self.last { self.first } else { id + 1 };
        }
        if let Some(held) = self.held.get_mut(&id) {
            held.users += 1;
            held.idle_since = None;
        }
        Ok(Acquired { id, is_new })
    }

    /// One user less. The number stays taken until [`Self::expire`], so that packets on their way keep their meaning.
    pub fn release(&mut self, id: u32, now: Duration) {
        if let Some(held) = self.held.get_mut(&id) {
            held.users = held.users.saturating_sub(1);
            if held.users == 0 && held.idle_since.is_none() {
                held.idle_since = Some(now);
            }
        }
    }

    /// Takes over a number that was given elsewhere or before a restart. It has no user yet and expires as if it had been
    /// released now, unless it is acquired.
    ///
    /// # Errors
    /// [`AllocateError::Conflict`], [`AllocateError::OutOfRange`]; nothing is changed then.
    pub fn adopt(&mut self, id: u32, labels: Labels, now: Duration) -> Result<(), AllocateError> {
        if !(self.first..=self.last).contains(&id) {
            return Err(AllocateError::OutOfRange {
                id,
                first: self.first,
                last: self.last,
            });
        }
        match self.held.get(&id) {
            Some(held) if held.labels == labels => Ok(()),
            Some(held) => Err(AllocateError::Conflict {
                id,
                held: held.labels.clone(),
                wanted: labels,
            }),
            None => {
                self.insert(id, labels, now);
                Ok(())
            }
        }
    }

    fn insert(&mut self, id: u32, labels: Labels, idle_since: Duration) {
        self.numbers.entry(labels.clone()).or_default().insert(id);
        let held = Held {
            labels,
            users: 0,
            idle_since: Some(idle_since),
        };
        self.held.insert(id, held);
    }

    /// Gives back a number at once, whoever uses it: its object is gone.
    pub fn forget(&mut self, id: u32) -> Option<Labels> {
        let held = self.held.remove(&id)?;
        if let Some(numbers) = self.numbers.get_mut(&held.labels) {
            numbers.remove(&id);
            if numbers.is_empty() {
                self.numbers.remove(&held.labels);
            }
        }
        Some(held.labels)
    }

    /// Gives back what nobody used for `grace`.
    pub fn expire(&mut self, now: Duration, grace: Duration) -> Vec<(u32, Labels)> {
        let over = |held: &Held| {
            held.idle_since
                .is_some_and(|since| now.saturating_sub(since) >= grace)
        };
        let ids: Vec<u32> = self
            .held
            .iter()
            .filter(|(_, held)| over(held))
            .map(|(id, _)| *id)
            .collect();
        ids.into_iter()
            .filter_map(|id| Some((id, self.forget(id)?)))
            .collect()
    }
}

/// A number that follows from labels, the same in every release: nodes propose by it. FNV-1a of 64 bits with a final mix,
/// written out because the standard library's hashers may change.
fn hash(labels: &Labels) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for text in labels.iter().flat_map(|(key, value)| [key, value]) {
        // An end mark that no text contains, so that ("ab", "c") and ("a", "bc") differ.
        for byte in text.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(text: &str) -> Labels {
        [text.to_owned()].into_iter().collect()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_number_stays_for_the_grace_and_then_goes() {
        let mut local = Allocator::new(Scope::Local, Order::Around);
        let a = local.acquire(&labels("cidr:10.0.0.0/8")).unwrap();
        assert_eq!((a.id, a.is_new), (0x0100_0001, true));
        assert!(!local.acquire(&labels("cidr:10.0.0.0/8")).unwrap().is_new);
        local.release(a.id, at(10));
        assert!(local.expire(at(100), at(5)).is_empty());
        local.release(a.id, at(100));
        assert!(local.expire(at(104), at(5)).is_empty());
        assert_eq!(local.expire(at(105), at(5)).len(), 1);
        // The number is not the next one to be given.
        assert_eq!(local.acquire(&labels("x")).unwrap().id, 0x0100_0002);
    }

    #[test]
    fn what_was_there_before_a_restart_is_kept_if_it_is_used() {
        let mut local = Allocator::new(Scope::Local, Order::Around);
        local.adopt(0x0100_0007, labels("a"), at(0)).unwrap();
        local.adopt(0x0100_0008, labels("b"), at(0)).unwrap();
        assert_eq!(
            local.acquire(&labels("a")).unwrap(),
            Acquired {
                id: 0x0100_0007,
                is_new: false
            }
        );
        assert_eq!(local.expire(at(30), at(30)), [(0x0100_0008, labels("b"))]);
        assert!(matches!(
            local.adopt(0x0100_0007, labels("c"), at(0)),
            Err(AllocateError::Conflict { .. })
        ));
        assert!(matches!(
            local.adopt(7, labels("c"), at(0)),
            Err(AllocateError::OutOfRange { .. })
        ));
    }

    #[test]
    fn nodes_propose_the_same_number_for_the_same_labels() {
        let nodes = [(); 2].map(|()| Allocator::new(Scope::Cluster, Order::ByLabels));
        let id = nodes[0].propose(&labels("k8s:app=cart")).unwrap();
        assert_eq!(nodes[1].propose(&labels("k8s:app=cart")).unwrap(), id);
        // Nodes of different releases must agree; do not edit the number.
        let two = |a: &str, b: &str| [a.to_owned(), b.to_owned()].into_iter().collect();
        let cart: Labels = two("k8s:app=cart", "k8s:io.kubernetes.pod.namespace=shop");
        assert_eq!(nodes[0].propose(&cart).unwrap(), 40579);
    }

    #[test]
    fn a_taken_number_makes_way_and_the_smallest_counts() {
        let mut cluster = Allocator::new(Scope::Cluster, Order::ByLabels);
        let id = cluster.propose(&labels("k8s:app=cart")).unwrap();
        cluster.adopt(id, labels("k8s:app=other"), at(0)).unwrap();
        let next = cluster.propose(&labels("k8s:app=cart")).unwrap();
        assert_eq!(next, id + 1);
        cluster.adopt(next, labels("k8s:app=cart"), at(0)).unwrap();
        cluster.adopt(300, labels("k8s:app=cart"), at(0)).unwrap();
        assert_eq!(cluster.lookup(&labels("k8s:app=cart")), Some(300));
    }

    #[test]
    fn a_full_range_says_so() {
        let mut few = Allocator::of_range(5, 6, Order::Around);
        few.acquire(&labels("a")).unwrap();
        few.acquire(&labels("b")).unwrap();
        let error = few.acquire(&labels("c")).unwrap_err();
        assert_eq!(error.to_string(), "all 2 identities from 5 to 6 are taken");
        few.forget(5);
        assert_eq!(few.acquire(&labels("c")).unwrap().id, 5);
    }

    proptest! {
        #[test]
        fn labels_and_numbers_belong_together(
            order in prop::sample::select(vec![Order::Around, Order::ByLabels]),
            steps in prop::collection::vec((0..4_u8, 0..6_u8, 20..30_u32), 1..80),
        ) {
            let mut allocator = Allocator::of_range(20, 27, order);
            let mut users: BTreeMap<u32, u32> = BTreeMap::new();
            for (now, (step, who, id)) in steps.into_iter().enumerate() {
                let now = at(now as u64);
                match step {
                    0 => if let Ok(got) = allocator.acquire(&labels(&format!("k{who}"))) {
                        *users.entry(got.id).or_default() += 1;
                    },
                    1 => if let Some(count) = users.get_mut(&id).filter(|count| **count > 0) {
                        *count -= 1;
                        allocator.release(id, now);
                    },
                    2 => {
                        let _ = allocator.adopt(id, labels(&format!("k{who}")), now);
                    }
                    _ => for (id, _) in allocator.expire(now, at(3)) {
                        prop_assert_eq!(users.get(&id).copied().unwrap_or(0), 0);
                    },
                }
                for (id, held) in allocator.iter() {
                    prop_assert!((20..=27).contains(&id));
                    prop_assert!(allocator.lookup(held).is_some_and(|smallest| smallest <= id));
                }
                for (id, _) in users.iter().filter(|(_, count)| **count > 0) {
                    prop_assert!(allocator.labels(*id).is_some());
                }
            }
        }
    }
}
