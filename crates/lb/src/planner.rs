//! The incremental planner: takes changes, gives writes.
use crate::claims::{Claims, claims};
use crate::frontend::{BackendKey, Frontend, FrontendKey, Owner, State};
use crate::input::{Mark, Node, Pod, Service, Slice};
use crate::kernel::{Kernel, Room};
use crate::problem::Problem;
use crate::redirect::Redirect;
use crate::rows::{BackendId, FrontendId, Master, Op, Row};
use crate::settings::Settings;
use crate::world::World;
use model::Text;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Something that is different now.
#[derive(Clone, Debug)]
pub enum Change {
    /// A service, or that it is gone.
    Service(Text, Option<Arc<Service>>),
    /// An EndpointSlice, or that it is gone.
    Slice(Text, Option<Arc<Slice>>),
    /// A pod of this node, or that it is gone.
    Pod(Text, Option<Arc<Pod>>),
    /// A local redirect policy, or that it is gone.
    Redirect(Text, Option<Arc<Redirect>>),
    /// What health checks or people say of a backend.
    Mark(BackendKey, Option<Mark>),
    /// This node.
    Node(Node),
}

/// A backend that no longer gets new connections of a frontend: connections without an end of their own (UDP, in conntrack
/// and at connected sockets) should be ended where `kept` is none, and where it is [`State::Maintenance`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The frontend.
    pub frontend: FrontendKey,
    /// The number that it has, or had until now; none where it had none.
    pub id: Option<FrontendId>,
    /// The backend.
    pub backend: BackendKey,
    /// The number that it has, or had until now; none where it had none.
    pub backend_id: Option<BackendId>,
    /// The state in which it keeps its connections; none: it is gone.
    pub kept: Option<State>,
}

/// Rows in the maps, by family (IPv4 first) where there is a map for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Addresses, frontends and their slots.
    pub services: [usize; 2],
    /// Backends.
    pub backends: [usize; 2],
    /// Session affinity.
    pub affinity: usize,
    /// Source ranges.
    pub sources: [usize; 2],
    /// Maglev tables.
    pub tables: [usize; 2],
}

/// What a flush asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Writes, to be made in this order. One that fails must be tried again before those after it.
    pub ops: Vec<Op>,
    /// Backends that frontends have lost.
    pub left: Vec<Left>,
    /// There is more: once the writes are made, flush again. Also where there is room now for what there was no room for.
    pub again: bool,
}

/// What an object has claimed.
#[derive(Debug, Default)]
struct Owned {
    keys: BTreeSet<FrontendKey>,
    skips: Vec<(Text, FrontendKey)>,
    problems: Vec<Problem>,
}

/// From services and what is behind them to the rows of this node's kernel.
///
/// Changes are taken at any time; the first flush must wait until all inputs are known, since it removes what nobody wants.
#[derive(Debug)]
pub struct Planner {
    pub(crate) world: World,
    kernel: Kernel,
    /// By key, those who want it, the one who has it first.
    claims: BTreeMap<FrontendKey, Vec<Frontend>>,
    owned: BTreeMap<Owner, Owned>,
    dirty: BTreeSet<Owner>,
    touched: BTreeSet<FrontendKey>,
    /// Backends of touched frontends before they were touched.
    before: BTreeMap<FrontendKey, Arc<crate::frontend::Selection>>,
    skips_touched: bool,
    /// Frontends without room for all of them.
    cramped: BTreeMap<FrontendKey, Room>,
    fresh: bool,
}

impl Planner {
    /// A planner for a kernel that holds these rows: what it finds keeps its numbers.
    #[must_use]
    pub fn new(settings: Settings, rows: Vec<Row>) -> Self {
        let mut kernel = Kernel::new(&settings);
        kernel.restore(rows);
        Self {
            world: World::new(settings),
            touched: kernel.keys().copied().collect(),
            kernel,
            claims: BTreeMap::new(),
            owned: BTreeMap::new(),
            dirty: BTreeSet::new(),
            before: BTreeMap::new(),
            skips_touched: true,
            cramped: BTreeMap::new(),
            fresh: true,
        }
    }

    /// Takes a change. Nothing is worked out before [`Planner::flush`].
    pub fn apply(&mut self, change: Change) {
        let owners = match change {
            Change::Service(key, service) => self.world.service(&key, service),
            Change::Slice(key, slice) => self.world.slice(&key, slice),
            Change::Pod(key, pod) => self.world.pod(&key, pod),
            Change::Redirect(key, redirect) => self.world.redirect(&key, redirect),
            Change::Mark(key, mark) => self.world.mark(key, mark),
            Change::Node(node) => self.world.set_node(node),
        };
        self.dirty.extend(owners);
    }

    /// What the kernel should be told since the last flush. The writes are taken as made.
    pub fn flush(&mut self) -> Diff {
        self.flush_part(usize::MAX)
    }

    /// As [`Planner::flush`], but for so many frontends at most: the rest comes with the next flush, which `again` asks for. For
    /// a start with thousands of services, so that the first rows need not wait for the last ones, nor all be held at once.
    pub fn flush_part(&mut self, most: usize) -> Diff {
        for owner in std::mem::take(&mut self.dirty) {
            self.refresh(owner);
        }
        let mut touched = std::mem::take(&mut self.touched);
        if let Some(next) = touched.iter().nth(most.max(1)).copied() {
            self.touched = touched.split_off(&next);
        }
        let last = self.touched.is_empty();
        if last {
            touched.extend(self.cramped.keys().copied());
        }
        let skips = self.skips_touched.then(|| {
            let all = self
                .owned
                .values()
                .flat_map(|owned| owned.skips.iter().cloned());
            all.collect::<BTreeSet<_>>()
        });
        self.skips_touched &= !last;
        let wanted: Vec<_> = touched
            .iter()
            .map(|key| (*key, holder(&self.claims, key)))
            .collect();
        let numbers = self.numbers();
        let mut diff = Diff::default();
        let rooms = self.kernel.settle(&wanted, skips, last, &mut diff.ops);
        let later = self.touched.first().map(|next| self.before.split_off(next));
        let before = std::mem::replace(&mut self.before, later.unwrap_or_default());
        diff.left = left(before, &numbers, &self.claims);
        for (key, room) in rooms {
            if room == Room::All {
                self.cramped.remove(&key);
            } else {
                self.cramped.insert(key, room);
            }
        }
        if last && std::mem::take(&mut self.fresh) {
            self.kernel.forget_unused(&mut diff.ops);
        }
        let gives_room = |op: &Op| matches!(op, Op::Delete(_));
        diff.again = !last || (!self.cramped.is_empty() && diff.ops.iter().any(gives_room));
        diff
    }

    /// The numbers of those that may lose each other.
    fn numbers(&self) -> Numbers {
        let frontends = self.before.keys();
        let frontends = frontends.filter_map(|key| Some((*key, self.kernel.master(key)?.id)));
        let backends = self.before.values().flat_map(|selection| &selection.used);
        let backends =
            backends.filter_map(|backend| Some((backend.key, self.backend_id(&backend.key)?)));
        (frontends.collect(), backends.collect())
    }

    /// Begins the next generation: numbers that were given back rest for some of them. Call it about once a minute.
    pub fn tick(&mut self) {
        self.kernel.tick();
    }

    /// Works out what one object claims.
    fn refresh(&mut self, owner: Owner) {
        let Claims {
            frontends,
            skips,
            problems,
        } = claims(&self.world, &owner);
        let mut wanted: BTreeMap<FrontendKey, Vec<Frontend>> = BTreeMap::new();
        for frontend in frontends {
            wanted.entry(frontend.key).or_default().push(frontend);
        }
        let old = self.owned.remove(&owner).unwrap_or_default();
        let keys: BTreeSet<FrontendKey> = wanted.keys().copied().collect();
        for key in old.keys.union(&keys) {
            self.claim(*key, &owner, wanted.remove(key).unwrap_or_default());
        }
        self.skips_touched |= old.skips != skips;
        if !keys.is_empty() || !problems.is_empty() {
            let owned = Owned {
                keys,
                skips,
                problems,
            };
            self.owned.insert(owner, owned);
        }
    }

    /// Puts the claims of an object to a key in the place of its former ones.
    fn claim(&mut self, key: FrontendKey, owner: &Owner, new: Vec<Frontend>) {
        let list = self.claims.entry(key).or_default();
        let old: Vec<&Frontend> = list.iter().filter(|claim| claim.owner == *owner).collect();
        if old.len() == new.len() && old.iter().all(|old| new.contains(old)) {
            return;
        }
        if let Some(holder) = list.first() {
            self.before
                .entry(key)
                .or_insert_with(|| holder.selection.clone());
        }
        list.retain(|claim| claim.owner != *owner);
        list.extend(new);
        list.sort_by(|a, b| a.rank().cmp(&b.rank()));
        if list.is_empty() {
            self.claims.remove(&key);
        }
        self.touched.insert(key);
    }

    /// The frontends that are served, in the order of their keys.
    pub fn frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.claims.values().filter_map(|claims| claims.first())
    }

    /// The frontend with a key.
    #[must_use]
    pub fn frontend(&self, key: &FrontendKey) -> Option<&Frontend> {
        holder(&self.claims, key)
    }

    /// Others who want what a frontend has.
    #[must_use]
    pub fn others(&self, key: &FrontendKey) -> &[Frontend] {
        self.claims
            .get(key)
            .and_then(|claims| claims.get(1..))
            .unwrap_or_default()
    }

    /// The row of a frontend as of the last flush.
    #[must_use]
    pub fn row(&self, key: &FrontendKey) -> Option<Master> {
        self.kernel.master(key)
    }

    /// The number of a backend as of the last flush.
    #[must_use]
    pub fn backend_id(&self, key: &BackendKey) -> Option<BackendId> {
        self.kernel.backend_id(key)
    }

    /// What it plans by.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.world.settings
    }

    /// Every row that the kernel has as of the last flush, in no order. Maglev tables are empty.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        self.kernel.rows()
    }

    /// How much of each map is used.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.kernel.usage()
    }

    /// What is wrong now, and with whom.
    #[must_use]
    pub fn problems(&self) -> Vec<(Owner, Problem)> {
        let mut all = Vec::new();
        for (owner, owned) in &self.owned {
            let own = owned.problems.iter();
            all.extend(own.map(|problem| (owner.clone(), problem.clone())));
        }
        for (key, claims) in &self.claims {
            let Some((holder, others)) = claims.split_first() else {
                continue;
            };
            // A redirect takes a service's place on purpose.
            let clash = |other: &&Frontend| {
                other.owner != holder.owner && !matches!(holder.owner, Owner::Redirect(_))
                    || matches!(other.owner, Owner::Redirect(_))
            };
            all.extend(others.iter().filter(clash).map(|other| {
                let problem = Problem::Clash {
                    frontend: *key,
                    holder: holder.owner.clone(),
                };
                (other.owner.clone(), problem)
            }));
        }
        for (key, room) in &self.cramped {
            let Some(frontend) = holder(&self.claims, key) else {
                continue;
            };
            let full = |placed| Problem::Full {
                frontend: *key,
                placed,
                wanted: frontend.selection.used.len(),
            };
            let problem = match room {
                Room::NoTable => Problem::NoTable(*key),
                Room::Some(placed) => full(Some(*placed)),
                Room::All | Room::None => full(None),
            };
            all.push((frontend.owner.clone(), problem));
        }
        all
    }
}

/// Numbers of frontends and backends.
type Numbers = (
    BTreeMap<FrontendKey, FrontendId>,
    BTreeMap<BackendKey, BackendId>,
);

fn holder<'a>(
    claims: &'a BTreeMap<FrontendKey, Vec<Frontend>>,
    key: &FrontendKey,
) -> Option<&'a Frontend> {
    claims.get(key)?.first()
}

/// Who got new connections before, and does no longer.
fn left(
    before: BTreeMap<FrontendKey, Arc<crate::frontend::Selection>>,
    numbers: &Numbers,
    claims: &BTreeMap<FrontendKey, Vec<Frontend>>,
) -> Vec<Left> {
    let mut all = Vec::new();
    for (frontend, old) in before {
        let now = holder(claims, &frontend).map(|frontend| &*frontend.selection);
        let used: BTreeSet<_> = now
            .iter()
            .flat_map(|now| &now.used)
            .map(|backend| backend.key)
            .collect();
        for backend in old
            .used
            .iter()
            .filter(|backend| !used.contains(&backend.key))
        {
            let mut kept = now.iter().flat_map(|now| &now.kept);
            all.push(Left {
                frontend,
                id: numbers.0.get(&frontend).copied(),
                backend: backend.key,
                backend_id: numbers.1.get(&backend.key).copied(),
                kept: kept
                    .find(|kept| kept.key == backend.key)
                    .map(|kept| kept.state),
            });
        }
    }
    all
}
