//! The node's flows: one feeder brings them in, any number of readers look at them.
use crate::{
    directory::{Directory, Facts, NoFacts},
    namespaces::Namespaces,
    record::{About, Record, Seen, Shown, What, address},
    redact::Redaction,
    request::Request,
    ring::Ring,
    view::End,
};
use abi::{EventKind, FlowEvent, SockEvent};
use api::hubble::flow::{AgentEvent, Flow, LostEvent, LostEventSource};
use model::Tables;
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;

/// Records that are gathered before readers can see them, within one reading of the event ring.
const BATCH: usize = 256;
/// Events of the agent that are kept.
const EVENTS: usize = 1023;

/// What looks at every record as it comes.
pub trait Tap: Send {
    /// A flow.
    fn flow(&mut self, flow: &Shown<'_>);
    /// A flow that came as a whole.
    fn whole(&mut self, flow: &Flow);
    /// Events are missing.
    fn lost(&mut self, lost: &LostEvent);
}

/// The node's flows; cheap to clone.
#[derive(Clone, Debug)]
pub struct Observer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    flows: Lane,
    /// What the agent did has its own: it does not push flows out.
    events: Lane,
    about: RwLock<Arc<About>>,
    seen: AtomicU64,
    rate: Mutex<Rate>,
    namespaces: Namespaces,
    started: Instant,
}

/// Records, and who waits for more.
#[derive(Debug)]
pub(crate) struct Lane {
    ring: Mutex<Ring>,
    /// The place that the next record gets.
    head: watch::Sender<u64>,
}

impl Lane {
    fn new(capacity: usize) -> Self {
        Self {
            ring: Mutex::new(Ring::new(capacity)),
            head: watch::Sender::new(0),
        }
    }

    /// The records, for a moment.
    pub fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of new records: the place that the next one gets.
    pub fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    fn add(&self, records: impl IntoIterator<Item = Record>) {
        let next = {
            let mut ring = self.ring();
            for record in records {
                ring.push(record);
            }
            ring.next()
        };
        self.head.send_replace(next);
    }
}

/// How many flows came in each of the last seconds.
#[derive(Debug)]
struct Rate {
    counts: [u64; 60],
    /// The second that was counted last, since the start.
    last: u64,
}

impl Rate {
    fn advance(&mut self, second: u64) {
        let gone = second.saturating_sub(self.last).min(60);
        for step in 1..=gone {
            self.counts[((self.last + step) % 60) as usize] = 0;
        }
        self.last = self.last.max(second);
    }

    fn add(&mut self, second: u64, count: u64) {
        self.advance(second);
        self.counts[(second % 60) as usize] += count;
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn per_second(&mut self, second: u64) -> f64 {
        self.advance(second);
        let sum: u64 = self.counts.iter().sum();
        sum as f64 / (second + 1).min(60) as f64
    }
}

/// How the observer is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Status {
    /// Records in the ring.
    pub flows: u64,
    /// Records that it has room for.
    pub capacity: u64,
    /// Flows since the start.
    pub seen: u64,
    /// Since the start.
    pub uptime: Duration,
    /// Flows per second over the last minute.
    pub rate: f64,
}

/// Nanoseconds since 1970.
#[must_use]
pub fn wall_clock() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds of the clock that events are stamped by.
#[must_use]
pub fn event_clock() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    time.map_or(0, |t| {
        u64::try_from(t.tv_sec())
            .unwrap_or_default()
            .saturating_mul(1_000_000_000)
            .saturating_add(u64::try_from(t.tv_nsec()).unwrap_or_default())
    })
}

impl Observer {
    /// An observer that keeps the last `capacity` records of what `about` sees.
    #[must_use]
    pub fn new(capacity: usize, about: About) -> Self {
        Self(Arc::new(Shared {
            flows: Lane::new(capacity),
            events: Lane::new(EVENTS),
            about: RwLock::new(Arc::new(about)),
            seen: AtomicU64::new(0),
            rate: Mutex::new(Rate {
                counts: [0; 60],
                last: 0,
            }),
            namespaces: Namespaces::default(),
            started: Instant::now(),
        }))
    }

    /// The one that brings events in, named by what `tables` and `facts` say.
    #[must_use]
    pub fn feeder(&self, tables: Tables, cluster: &str, facts: Arc<dyn Facts>) -> Feeder {
        let namespaces = self.0.namespaces.clone();
        let began = event_clock();
        Feeder {
            observer: self.clone(),
            directory: Directory::new(tables, cluster, facts, namespaces, began),
            about: self.about(),
            batch: Vec::with_capacity(BATCH),
            taps: Vec::new(),
            offset: 0,
            number: 0,
            kinds: None,
            redaction: None,
        }
    }

    /// The flows.
    pub(crate) fn flows(&self) -> &Lane {
        &self.0.flows
    }

    /// What the agent did.
    pub(crate) fn events(&self) -> &Lane {
        &self.0.events
    }

    /// Who sees all this.
    #[must_use]
    pub fn about(&self) -> Arc<About> {
        self.0
            .about
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Says anew who sees all this.
    pub fn set_node_labels(&self, labels: Vec<String>) {
        let mut about = self.0.about.write().unwrap_or_else(PoisonError::into_inner);
        if about.node_labels != labels {
            let mut next = About::clone(&about);
            next.node_labels = labels;
            *about = Arc::new(next);
        }
    }

    /// How the observer is.
    #[must_use]
    pub fn status(&self) -> Status {
        let (flows, capacity) = {
            let ring = self.flows().ring();
            (ring.len() as u64, ring.capacity() as u64)
        };
        let uptime = self.0.started.elapsed();
        let mut rate = self.0.rate.lock().unwrap_or_else(PoisonError::into_inner);
        Status {
            flows,
            capacity,
            seen: self.0.seen.load(Ordering::Relaxed),
            uptime,
            rate: rate.per_second(uptime.as_secs()),
        }
    }

    /// The namespaces that had flows in the last hour.
    #[must_use]
    pub fn namespaces(&self) -> &Namespaces {
        &self.0.namespaces
    }

    /// The last `count` records, oldest first.
    #[must_use]
    pub fn last(&self, count: usize) -> Vec<Record> {
        let ring = self.flows().ring();
        let from = ring.next().saturating_sub(count as u64).max(ring.first());
        (from..ring.next())
            .filter_map(|place| ring.get(place).cloned())
            .collect()
    }

    /// Something that the agent did.
    pub fn agent_event(&self, event: AgentEvent) {
        self.events().add([Record {
            time: wall_clock(),
            what: What::Agent(Arc::new(event)),
        }]);
    }

    fn count(&self, flows: u64) {
        self.0.seen.fetch_add(flows, Ordering::Relaxed);
        let second = self.0.started.elapsed().as_secs();
        let mut rate = self.0.rate.lock().unwrap_or_else(PoisonError::into_inner);
        rate.add(second, flows);
    }
}

/// Brings events in, in the order of the event ring.
pub struct Feeder {
    observer: Observer,
    directory: Directory,
    about: Arc<About>,
    batch: Vec<Record>,
    taps: Vec<Box<dyn Tap>>,
    /// From the events' clock to the wall's, in nanoseconds.
    offset: u64,
    /// How many flows there were.
    number: u64,
    /// Kinds of events that become flows; none: all.
    kinds: Option<Vec<u8>>,
    /// What is taken out of requests.
    redaction: Option<Redaction>,
}

impl fmt::Debug for Feeder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feeder")
            .field("directory", &self.directory)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Feeder {
    /// A feeder that knows the tables alone, for tests and measurements.
    #[must_use]
    pub fn plain(observer: &Observer, tables: Tables) -> Self {
        observer.feeder(tables, "default", Arc::new(NoFacts))
    }

    /// From now on `tap` sees every record.
    pub fn tap(&mut self, tap: Box<dyn Tap>) {
        self.taps.push(tap);
    }

    /// From now on only events of these kinds become flows.
    pub fn only(&mut self, kinds: Vec<EventKind>) {
        self.kinds = Some(kinds.into_iter().map(|kind| kind as u8).collect());
    }

    /// From now on nobody reads this of requests.
    pub fn redact(&mut self, redaction: Redaction) {
        self.redaction = Some(redaction);
    }

    /// To be called whenever the event ring is about to be read.
    pub fn begin(&mut self) {
        self.directory.look();
        self.about = self.observer.about();
        self.offset = wall_clock().saturating_sub(event_clock());
    }

    /// An event; those of kinds that are not known are passed over.
    pub fn event(&mut self, event: &FlowEvent) {
        const KINDS: [u8; 3] = [
            EventKind::Drop as u8,
            EventKind::Trace as u8,
            EventKind::PolicyVerdict as u8,
        ];
        let wanted = |kinds: &Vec<u8>| kinds.contains(&event.kind);
        if !self.kinds.as_ref().is_none_or(wanted) {
            return;
        }
        self.number += 1;
        let seen = match event.sock() {
            Some(call) => self.call(event, call),
            None if KINDS.contains(&event.kind) => self.packet(event),
            None => return,
        };
        let time = event.time.saturating_add(self.offset);
        for tap in &mut self.taps {
            tap.flow(&Shown {
                seen: &seen,
                time,
                about: &self.about,
            });
        }
        self.push(Record {
            time,
            what: What::Packet(seen),
        });
    }

    /// Who is at both ends of a packet that is no event of the ring.
    pub(crate) fn seen(&mut self, event: &FlowEvent) -> Seen {
        self.number += 1;
        self.packet(event)
    }

    fn packet(&mut self, event: &FlowEvent) -> Seen {
        let directory = &mut self.directory;
        let [source, destination] =
            [(event.src, event.src_id), (event.dst, event.dst_id)].map(|(bytes, identity)| {
                let ip = address(event.flags, &bytes);
                directory.party(ip, identity, event.endpoint, event.time)
            });
        let mut seen = Seen {
            event: *event,
            number: self.number,
            source,
            destination,
            services: [None, None],
            policies: directory.policies(event.origin),
            device: directory.device(event.ifindex),
            caller: None,
        };
        seen.services = [End::Source, End::Destination].map(|end| {
            let port = seen.port(end)?;
            directory.service(seen.address(end)?, port)
        });
        seen
    }

    /// What was done to a call at a socket.
    fn call(&mut self, event: &FlowEvent, call: &SockEvent) -> Seen {
        let directory = &mut self.directory;
        let to = address(event.flags, &event.dst);
        let (caller, source) = directory.caller(call.netns, to.is_ipv6(), event.time);
        Seen {
            event: *event,
            number: self.number,
            source,
            destination: directory.party(to, 0, 0, event.time),
            services: [None, directory.service(to, u16::from_be_bytes(call.dport))],
            policies: None,
            device: None,
            caller,
        }
    }

    /// What a proxy saw.
    pub fn request(&mut self, request: Request) {
        let time = request.time;
        let then = time.saturating_sub(self.offset);
        let number = self.number + 1;
        let flow = request.into_flow(&mut self.directory, &self.about, number, then);
        self.whole(time, flow);
    }

    /// A flow that came as a whole.
    pub fn whole(&mut self, time: u64, mut flow: Flow) {
        self.number += 1;
        if let Some(redaction) = &self.redaction {
            redaction.apply(&mut flow);
        }
        for tap in &mut self.taps {
            tap.whole(&flow);
        }
        self.push(Record {
            time,
            what: What::Flow(Arc::new(flow)),
        });
    }

    /// Events that are missing.
    pub fn lost(&mut self, source: LostEventSource, count: u64) {
        let lost = LostEvent {
            source: source as i32,
            num_events_lost: count,
            cpu: None,
        };
        for tap in &mut self.taps {
            tap.lost(&lost);
        }
        self.push(Record {
            time: wall_clock(),
            what: What::Lost(lost),
        });
    }

    fn push(&mut self, record: Record) {
        self.batch.push(record);
        if self.batch.len() >= BATCH {
            self.end();
        }
    }

    /// Lets readers see what came in. To be called after the event ring was read.
    pub fn end(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let is_flow = |record: &&Record| matches!(record.what, What::Packet(_) | What::Flow(_));
        let flows = self.batch.iter().filter(is_flow).count();
        self.observer.count(flows as u64);
        self.observer.flows().add(self.batch.drain(..));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_minute() {
        let mut rate = Rate {
            counts: [0; 60],
            last: 0,
        };
        rate.add(0, 30);
        assert!((rate.per_second(0) - 30.0).abs() < 1e-9);
        rate.add(9, 30);
        assert!((rate.per_second(9) - 6.0).abs() < 1e-9);
        assert!(
            (rate.per_second(60) - 0.5).abs() < 1e-9,
            "the first second is over"
        );
        assert!(rate.per_second(1000) < 1e-9);
    }
}
