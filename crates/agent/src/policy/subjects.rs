//! Whom policy is enforced for on this node: numbers of subjects, and who uses them.
//!
//! Endpoints share rows if they have the same identity and name the same ports. The number is the identity, with a variant
//! in the upper eight bits where pods of one identity name their ports differently.
use model::Endpoint;
use policy::rule::{NamedPort, NamedPorts, Protocol};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};
use tables::Revision;

/// Bits of a number that hold the identity.
const IDENTITY_BITS: u32 = 24;
/// The subject of endpoints for which there is no number: it never has rows, so nothing passes.
pub const CLOSED: u32 = 0xff << IDENTITY_BITS;
/// Number of the node itself.
pub const HOST: u32 = abi::identity::HOST;
/// Number of the node's own endpoint.
pub const HOST_ENDPOINT: u16 = 1;

/// The ports of a pod that have names, as policy knows them.
#[must_use]
pub fn named_ports(ports: &[model::NamedPort]) -> NamedPorts {
    ports
        .iter()
        .filter_map(|port| {
            let protocol = Protocol::ALL
                .into_iter()
                .find(|protocol| protocol.number() == port.protocol)?;
            Some(NamedPort {
                name: port.name.to_string(),
                protocol,
                port: port.port,
            })
        })
        .collect()
}

/// Numbers that somebody is about to use.
#[derive(Clone, Debug, Default)]
pub struct Holds(Arc<Mutex<BTreeMap<u32, u32>>>);

impl Holds {
    /// Keeps a number until the hold is dropped.
    pub fn hold(&self, number: u32) -> Hold {
        *self.lock().entry(number).or_default() += 1;
        Hold {
            number,
            holds: self.clone(),
        }
    }

    fn has(&self, number: u32) -> bool {
        self.lock().contains_key(&number)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the rows of a subject that no endpoint has yet.
#[derive(Debug)]
pub struct Hold {
    number: u32,
    holds: Holds,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.holds.lock();
        if let Some(count) = holds.get_mut(&self.number) {
            *count -= 1;
            if *count == 0 {
                holds.remove(&self.number);
            }
        }
    }
}

/// Subjects by number.
#[derive(Debug, Default)]
pub struct Subjects {
    known: BTreeMap<u32, Known>,
    of_endpoint: BTreeMap<u16, u32>,
    /// Subjects that nobody seemed to use, and the tables' revision after that was seen.
    doomed: BTreeMap<u32, Revision>,
    pub holds: Holds,
}

#[derive(Debug, Default)]
struct Known {
    ports: NamedPorts,
    endpoints: BTreeSet<u16>,
}

impl Subjects {
    /// The number for an identity and ports: the one of those who have both, else the one of `before` if it is free, else a
    /// free one. None where all variants are taken.
    #[must_use]
    pub fn number(&self, identity: u32, ports: &NamedPorts, before: u32) -> Option<u32> {
        let variants = || (0..=0xff_u32).map(|variant| variant << IDENTITY_BITS | identity);
        let same = |number: &u32| {
            self.known
                .get(number)
                .is_some_and(|known| known.ports == *ports)
        };
        let is_free = |number: &u32| *number != CLOSED && !self.known.contains_key(number);
        let of_before = (before & ((1 << IDENTITY_BITS) - 1) == identity).then_some(before);
        variants()
            .find(same)
            .or_else(|| of_before.filter(is_free))
            .or_else(|| variants().find(is_free))
    }

    /// True if the subject has its rows, or they are on their way.
    #[must_use]
    pub fn has(&self, number: u32) -> bool {
        self.known.contains_key(&number)
    }

    /// A new subject.
    pub fn add(&mut self, number: u32, ports: NamedPorts) {
        self.known.entry(number).or_default().ports = ports;
    }

    /// The endpoint has this subject now; whether it had another one.
    pub fn use_by(&mut self, endpoint: u16, number: u32) -> bool {
        let before = self.of_endpoint.get(&endpoint).copied();
        if before == Some(number) {
            return false;
        }
        self.unuse(endpoint);
        self.of_endpoint.insert(endpoint, number);
        self.known
            .entry(number)
            .or_default()
            .endpoints
            .insert(endpoint);
        before.is_some()
    }

    /// The endpoint is gone.
    pub fn unuse(&mut self, endpoint: u16) {
        if let Some(number) = self.of_endpoint.remove(&endpoint)
            && let Some(known) = self.known.get_mut(&number)
        {
            known.endpoints.remove(&endpoint);
        }
    }

    /// Takes away the subjects that nobody uses or is about to use, as of what was `seen` of the tables. Whoever lets go of a
    /// hold has written the endpoint's row before: what nobody seems to use goes once all has been seen that was written
    /// until then; `latest` says what that is.
    pub fn take_unused(&mut self, seen: Revision, latest: impl FnOnce() -> Revision) -> Vec<u32> {
        let holds = &self.holds;
        let unused = |(number, known): (&u32, &Known)| {
            (known.endpoints.is_empty() && !holds.has(*number)).then_some(*number)
        };
        let unused: BTreeSet<u32> = self.known.iter().filter_map(unused).collect();
        self.doomed.retain(|number, _| unused.contains(number));
        let is_over = |number: &u32| self.doomed.get(number).is_some_and(|at| *at <= seen);
        let (gone, new): (Vec<u32>, Vec<u32>) = unused.into_iter().partition(is_over);
        for number in &gone {
            self.known.remove(number);
            self.doomed.remove(number);
        }
        if !new.is_empty() {
            let latest = latest();
            for number in new {
                self.doomed.entry(number).or_insert(latest);
            }
        }
        gone
    }

    /// True while subjects seem to be unused that have not been taken away.
    #[must_use]
    pub fn has_doomed(&self) -> bool {
        !self.doomed.is_empty()
    }

    /// The endpoints that have a subject.
    pub fn endpoints(&self, number: u32) -> impl Iterator<Item = u16> {
        let known = self.known.get(&number);
        known
            .into_iter()
            .flat_map(|known| known.endpoints.iter().copied())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }
}

/// The subject that an endpoint's row asks for, if any.
#[must_use]
pub fn of_row(endpoint: &Endpoint) -> Option<u32> {
    (endpoint.subject != 0).then_some(endpoint.subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(numbers: &[u16]) -> NamedPorts {
        let port = |port: &u16| NamedPort {
            name: "web".to_owned(),
            protocol: Protocol::Tcp,
            port: *port,
        };
        numbers.iter().map(port).collect()
    }

    #[test]
    fn who_names_the_same_ports_shares_a_number() {
        let mut subjects = Subjects::default();
        let first = subjects.number(4711, &ports(&[80]), 0).unwrap();
        subjects.add(first, ports(&[80]));
        let second = subjects.number(4711, &ports(&[81]), 0).unwrap();
        subjects.add(second, ports(&[81]));
        assert_eq!((first, second), (4711, 1 << 24 | 4711));
        assert_eq!(subjects.number(4711, &ports(&[80]), second), Some(first));
        assert_eq!(
            subjects.number(4711, &ports(&[82]), 0),
            Some(2 << 24 | 4711)
        );
        let kept = 7 << 24 | 4711;
        assert_eq!(subjects.number(4711, &ports(&[82]), kept), Some(kept));
        assert_eq!(subjects.number(4712, &ports(&[82]), kept), Some(4712));
    }

    #[test]
    fn a_number_lives_while_somebody_uses_or_holds_it() {
        let mut subjects = Subjects::default();
        let take = |subjects: &mut Subjects, seen: u64| {
            subjects.take_unused(Revision::new(seen), || Revision::new(10))
        };
        subjects.add(300, NamedPorts::new());
        let hold = subjects.holds.hold(300);
        assert!(take(&mut subjects, 20).is_empty() && !subjects.has_doomed());
        // The endpoint's row is written, the hold let go of, but the row not seen yet.
        drop(hold);
        assert!(take(&mut subjects, 5).is_empty() && subjects.has_doomed());
        assert!(take(&mut subjects, 9).is_empty());
        subjects.use_by(9, 300);
        assert!(take(&mut subjects, 10).is_empty() && !subjects.has_doomed());
        subjects.use_by(9, 301);
        assert!(take(&mut subjects, 11).is_empty());
        assert_eq!(take(&mut subjects, 11), [300]);
        subjects.unuse(9);
        take(&mut subjects, 12);
        assert_eq!(take(&mut subjects, 12), [301]);
        assert_eq!(subjects.len(), 0);
    }

    #[test]
    fn variants_run_out_without_harm() {
        let mut subjects = Subjects::default();
        for port in 0..256 {
            let number = subjects.number(500, &ports(&[port]), 0).unwrap();
            subjects.add(number, ports(&[port]));
        }
        assert_eq!(subjects.number(500, &ports(&[999]), 0), None);
    }
}
