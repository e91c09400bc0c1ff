//! `CiliumEndpointSlice`s: which endpoints share one, and the writes that follow.
use crate::{
    controller::{Context, crd_of},
    rounds::Rounds,
    tables::{EndpointRow, SliceRow, Tables},
};
use k8s::{
    crd::SliceEndpoint,
    error::{is_conflict, is_not_found, says},
    write::{Meant, Objects},
};
use runtime::{settings::SliceMode, stop::Stop};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use tables::{ChangeKind, ChangeTracker, Read, Snapshot};

/// Changes that come within this are written together.
const BATCH: Duration = Duration::from_millis(500);
/// How long one write may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Nodes from which on a cluster is big: writes per second, and how many at once after a pause.
const BIG: usize = 100;
const RATES: [(u32, u32); 2] = [(10, 20), (50, 100)];

/// What endpoints of one slice have in common: their namespace and, if slices are by identity, that.
type Group = (String, u32);

/// Why a slice is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// An endpoint is new in it, or another one than it was.
    Gain,
    /// It has less than it had.
    Loss,
}

/// A slice as it should be.
#[derive(Clone, Debug, PartialEq)]
struct Slice {
    group: Group,
    /// Names of the endpoints.
    members: BTreeSet<String>,
}

/// Puts endpoints into slices, and moves none that can stay.
#[derive(Debug)]
struct Packer {
    by_identity: bool,
    most: usize,
    slices: BTreeMap<String, Slice>,
    /// The slice of each endpoint, by `namespace/name`.
    places: BTreeMap<String, String>,
    /// Slices with room, by group.
    room: BTreeMap<Group, BTreeSet<String>>,
    /// Slices to be written: those that gained something, and those that only lost something. What moves is in two slices
    /// for a moment, never in none.
    gained: BTreeSet<String>,
    lost: BTreeSet<String>,
}

impl Packer {
    fn new(mode: SliceMode, most: usize) -> Self {
        Self {
            by_identity: mode == SliceMode::Identity,
            most: most.max(1),
            slices: BTreeMap::new(),
            places: BTreeMap::new(),
            room: BTreeMap::new(),
            gained: BTreeSet::new(),
            lost: BTreeSet::new(),
        }
    }

    fn group(&self, row: &EndpointRow) -> Group {
        let identity = if self.by_identity { row.identity } else { 0 };
        (row.namespace.clone(), identity)
    }

    /// Takes over a slice from before a restart. An endpoint that is in several stays in the first.
    fn adopt(&mut self, row: &SliceRow) {
        let first = row.endpoints.first().map_or(0, |one| one.id);
        let identity = if self.by_identity { first } else { 0 };
        let mut slice = Slice {
            group: (row.namespace.clone(), identity),
            members: BTreeSet::new(),
        };
        for endpoint in &row.endpoints {
            let key = format!("{}/{}", row.namespace, endpoint.name);
            if self.places.contains_key(&key) {
                self.lost.insert(row.name.clone());
                continue;
            }
            self.places.insert(key, row.name.clone());
            slice.members.insert(endpoint.name.clone());
        }
        if slice.members.is_empty() {
            self.lost.insert(row.name.clone());
        }
        self.slices.insert(row.name.clone(), slice);
        self.note_room(&row.name);
    }

    /// An endpoint is there, as it is now. `name` makes the name of a new slice.
    fn put(&mut self, row: &EndpointRow, name: impl FnOnce() -> String) {
        let (key, group) = (row.pod(), self.group(row));
        if let Some(place) = self.places.get(&key) {
            let place = place.clone();
            if self
                .slices
                .get(&place)
                .is_some_and(|slice| slice.group == group)
            {
                self.gained.insert(place);
                return;
            }
            self.remove(&key, &row.name);
        }
        let free = self.room.get(&group).and_then(BTreeSet::first).cloned();
        let place = free.unwrap_or_else(name);
        let slice = self.slices.entry(place.clone()).or_insert_with(|| Slice {
            group,
            members: BTreeSet::new(),
        });
        slice.members.insert(row.name.clone());
        self.places.insert(key, place.clone());
        self.note_room(&place);
        self.gained.insert(place);
    }

    /// An endpoint is gone.
    fn remove(&mut self, key: &str, name: &str) {
        let Some(place) = self.places.remove(key) else {
            return;
        };
        if let Some(slice) = self.slices.get_mut(&place) {
            slice.members.remove(name);
        }
        self.note_room(&place);
        self.lost.insert(place);
    }

    fn note_room(&mut self, name: &str) {
        let Some(slice) = self.slices.get(name) else {
            return;
        };
        let room = self.room.entry(slice.group.clone()).or_default();
        // An empty one is about to be deleted.
        if (1..self.most).contains(&slice.members.len()) {
            room.insert(name.to_owned());
        } else {
            room.remove(name);
        }
        if room.is_empty() {
            let group = slice.group.clone();
            self.room.remove(&group);
        }
    }

    /// The slices to be written, in the order in which they must be, with what they are due for.
    fn due(&mut self) -> Vec<(String, Due)> {
        let gained = std::mem::take(&mut self.gained);
        let mut lost = std::mem::take(&mut self.lost);
        lost.retain(|name| !gained.contains(name));
        let gained = gained.into_iter().map(|name| (name, Due::Gain));
        gained
            .chain(lost.into_iter().map(|name| (name, Due::Loss)))
            .collect()
    }

    /// These are still to be written.
    fn again(&mut self, due: impl IntoIterator<Item = (String, Due)>) {
        for (name, due) in due {
            match due {
                Due::Gain => self.gained.insert(name),
                Due::Loss => self.lost.insert(name),
            };
        }
    }

    /// Forgets a slice that is empty and deleted.
    fn forget(&mut self, name: &str) {
        let empty = |slice: &Slice| slice.members.is_empty();
        if self.slices.get(name).is_some_and(empty) {
            self.slices.remove(name);
        }
    }
}

/// What one slice should be.
#[derive(Clone, Debug, PartialEq)]
enum Write {
    /// It should hold these.
    Put(String, Vec<SliceEndpoint>),
    Delete,
}

/// What a slice should be according to a snapshot; none if it is that already.
fn wanted(packer: &Packer, tables: &Tables, snapshot: &Snapshot, name: &str) -> Option<Write> {
    let present = tables.slices.get(snapshot, name);
    let slice = packer.slices.get(name);
    let Some(slice) = slice.filter(|slice| !slice.members.is_empty()) else {
        return present.map(|_| Write::Delete);
    };
    let namespace = &slice.group.0;
    let rows = slice.members.iter().filter_map(|member| {
        let row = tables
            .endpoints
            .get(snapshot, &format!("{namespace}/{member}"))?;
        Some(row.entry.clone())
    });
    let endpoints: Vec<SliceEndpoint> = rows.collect();
    let same = present.is_some_and(|row| row.endpoints == endpoints && row.namespace == *namespace);
    (!same).then(|| Write::Put(namespace.clone(), endpoints))
}

/// Spreads writes over time.
#[derive(Debug)]
struct Pace {
    rate: (u32, u32),
    left: f64,
    since: Instant,
}

impl Pace {
    fn new() -> Self {
        Self {
            rate: RATES[0],
            left: f64::from(RATES[0].1),
            since: Instant::now(),
        }
    }

    /// How long to wait before one more.
    fn next(&mut self) -> Duration {
        let (rate, burst) = (f64::from(self.rate.0), f64::from(self.rate.1));
        self.left = (self.left + self.since.elapsed().as_secs_f64() * rate).min(burst);
        self.since = Instant::now();
        self.left -= 1.0;
        Duration::from_secs_f64((-self.left).max(0.0) / rate)
    }
}

/// Keeps the slices in step with the endpoints until `stop`, where they are asked for.
pub(crate) async fn write(context: Context, stop: Stop) {
    let health = context.health.component("controller/endpoint-slices");
    if !context.settings.enable_cilium_endpoint_slice {
        return health.ok("not asked for");
    }
    let tables = context.tables.clone();
    let watch = tables.endpoints.watch().and(tables.slices.watch());
    let mut writer = Writer::new(&context);
    let mut rounds = Rounds::new();
    loop {
        let snapshot = tables.db.snapshot();
        let seen = snapshot.revision();
        let known = tables.endpoints.initialized(&snapshot) && tables.slices.initialized(&snapshot);
        let mut failed = None;
        if known {
            writer.look(&snapshot);
            drop(snapshot);
            let Some(outcome) = stop.or(writer.write()).await else {
                return;
            };
            failed = outcome;
            context.metrics.ran("endpoint-slices", failed.is_none());
            match &failed {
                Some(error) => health.degraded(error.clone()),
                None => health.ok(format!("{} slices", writer.packer.slices.len())),
            }
        } else {
            health.degraded("waiting for the API server's lists");
        }
        let news = async {
            watch.changed(seen).await;
            // What changes together is written together.
            tokio::time::sleep(BATCH).await;
        };
        if !rounds.next(&stop, failed.is_some(), news).await {
            return;
        }
    }
}

struct Writer {
    tables: Tables,
    objects: Objects,
    packer: Packer,
    endpoints: ChangeTracker<EndpointRow>,
    slices: ChangeTracker<SliceRow>,
    /// Slices of before were taken over.
    adopted: bool,
    pace: Pace,
    /// As the settings say; zeros: by the size of the cluster.
    rate: (u32, u32),
}

impl Writer {
    fn new(context: &Context) -> Self {
        let (tables, settings) = (&context.tables, &context.settings);
        let most = settings.ces_max_ciliumendpoints_per_ces as usize;
        Self {
            objects: Objects::of(&context.client, &crd_of("CiliumEndpointSlice")),
            packer: Packer::new(settings.ces_slice_mode, most),
            endpoints: tables.db.track(&tables.endpoints),
            slices: tables.db.track(&tables.slices),
            adopted: false,
            pace: Pace::new(),
            rate: (settings.ces_write_qps_limit, settings.ces_write_qps_burst),
            tables: tables.clone(),
        }
    }

    /// Takes over what has changed.
    fn look(&mut self, snapshot: &Snapshot) {
        if !self.adopted {
            self.adopted = true;
            for row in self.tables.slices.iter(snapshot) {
                self.packer.adopt(row);
            }
            let gone: Vec<String> = self.packer.places.keys().cloned().collect();
            for key in gone {
                if self.tables.endpoints.get(snapshot, &key).is_none() {
                    let name = key.split_once('/').map_or("", |(_, name)| name);
                    self.packer.remove(&key, name);
                }
            }
        }
        for change in self.slices.changes(snapshot) {
            // Somebody else's change is taken back.
            self.packer.gained.insert(change.row.name.clone());
        }
        for change in self.endpoints.changes(snapshot) {
            let row = change.row;
            match change.kind {
                ChangeKind::Upsert => self.packer.put(row, new_name),
                ChangeKind::Delete => self.packer.remove(&row.pod(), &row.name),
            }
        }
        let nodes = self.tables.cilium_nodes.len(snapshot);
        let by_size = RATES[usize::from(nodes >= BIG)];
        let or = |given: u32, usual: u32| if given == 0 { usual } else { given };
        self.pace.rate = (or(self.rate.0, by_size.0), or(self.rate.1, by_size.1));
    }

    /// Writes what is due; what went wrong first. What could not be written stays due.
    async fn write(&mut self) -> Option<String> {
        let mut due = self.packer.due().into_iter();
        while let Some((name, why)) = due.next() {
            // As late as can be: what changed while others were written goes along.
            let snapshot = self.tables.db.snapshot();
            let Some(write) = wanted(&self.packer, &self.tables, &snapshot, &name) else {
                self.packer.forget(&name);
                continue;
            };
            let uid = self
                .tables
                .slices
                .get(&snapshot, &name)
                .map(|row| row.uid.clone());
            drop(snapshot);
            tokio::time::sleep(self.pace.next()).await;
            let work = self.carry_out(&name, &write, uid);
            let outcome = tokio::time::timeout(LIMIT, work).await;
            let outcome = outcome.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            if let Err(error) = outcome {
                // In the same order again: nothing leaves a slice before it is in another.
                self.packer
                    .again(std::iter::once((name.clone(), why)).chain(due));
                return Some(format!("CiliumEndpointSlice {name}: {error}"));
            }
        }
        None
    }

    async fn carry_out(
        &self,
        name: &str,
        write: &Write,
        uid: Option<String>,
    ) -> Result<(), String> {
        let outcome = match write {
            Write::Delete => {
                let meant = Meant { uid, version: None };
                self.objects.delete(name, meant).await.map(drop)
            }
            Write::Put(namespace, endpoints) => {
                let value = json!({"metadata": {"name": name}, "namespace": namespace, "endpoints": endpoints});
                match self.objects.merge(name, value.clone(), None).await {
                    Err(error) if is_not_found(&error) => {
                        self.objects.create(value).await.map(drop)
                    }
                    other => other.map(drop),
                }
            }
        };
        match outcome {
            Err(error) if is_conflict(&error) => Ok(()),
            other => other.map_err(|error| says(&error)),
        }
    }
}

/// A name that no other slice has.
fn new_name() -> String {
    let mut random = [0u8; 5];
    // Without randomness the clock is the next best; a name that is taken is found out when it is written.
    if getrandom::fill(&mut random).is_err() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let nanos = now.map_or(0, |now| now.subsec_nanos());
        random[..4].copy_from_slice(&nanos.to_be_bytes());
    }
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("ces-{text}")
}

#[cfg(test)]
mod tests;
