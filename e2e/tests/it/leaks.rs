//! Pods come and go at random while the agent is killed: at the end nothing is left.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hypha_e2e::cluster::Cluster;
use hypha_e2e::kernel;
use hypha_e2e::plugin::{Plugin, Refused, Sandbox};
use testkit::{skip_unless_root, wait_until};

/// As many that the agent did at least: on a fast machine they go on until it was killed often enough.
const OPERATIONS: u32 = 500;
const KILLS: u32 = 4;
/// What an agent does before it is killed: on a slow machine it would otherwise never get to do anything.
const OPERATIONS_EACH: u32 = 20;
/// All of it has to be done within this time.
const LIMIT: Duration = Duration::from_secs(120);
const AT_ONCE: u64 = 8;
/// Pods of one worker.
const MOST: usize = 12;
const TRY_AGAIN: u64 = 11;

/// Small numbers, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

struct Counts {
    start: Instant,
    operations: AtomicU32,
    kills: AtomicU32,
    added: AtomicU32,
    refused: AtomicU32,
    deleted: AtomicU32,
    other: Mutex<Vec<Refused>>,
}

impl Counts {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            operations: AtomicU32::default(),
            kills: AtomicU32::default(),
            added: AtomicU32::default(),
            refused: AtomicU32::default(),
            deleted: AtomicU32::default(),
            other: Mutex::default(),
        }
    }

    fn did(&self, what: &AtomicU32) {
        what.fetch_add(1, Ordering::Relaxed);
        self.operations.fetch_add(1, Ordering::Relaxed);
    }

    fn reached(&self) -> bool {
        self.operations.load(Ordering::Relaxed) >= OPERATIONS
            && self.kills.load(Ordering::Relaxed) >= KILLS
    }

    /// Whether another operation is to be done.
    fn wants_more(&self) -> bool {
        !self.reached() && self.start.elapsed() < LIMIT
    }
}

/// One worker: adds and deletes as the dice fall, and deletes what it has at the end.
fn work(plugin: &Plugin, worker: u64, seed: u64, counts: &Counts) {
    let mut dice = Dice(seed ^ (worker + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut live: Vec<Sandbox> = Vec::new();
    let mut number = 0;
    while counts.wants_more() {
        if live.is_empty() || (live.len() < MOST && dice.roll(2) == 0) {
            number += 1;
            let sandbox = plugin.sandbox(&format!("w{worker}n{number}"));
            match plugin.call("ADD", &sandbox) {
                Ok(_) => {
                    counts.did(&counts.added);
                    live.push(sandbox);
                }
                Err(refused) => {
                    counts.refused.fetch_add(1, Ordering::Relaxed);
                    if refused.code != TRY_AGAIN {
                        counts.other.lock().unwrap().push(refused);
                    }
                    // As a runtime does, which does not try again at once either.
                    remove(plugin, &sandbox);
                    thread::sleep(Duration::from_millis(20));
                }
            }
        } else {
            let sandbox = live.swap_remove(dice.roll(live.len() as u64) as usize);
            remove(plugin, &sandbox);
            counts.did(&counts.deleted);
            if dice.roll(8) == 0 {
                plugin.call("DEL", &sandbox).expect("a DEL may come twice");
            }
        }
    }
    live.iter().for_each(|sandbox| remove(plugin, sandbox));
}

fn remove(plugin: &Plugin, sandbox: &Sandbox) {
    plugin
        .call("DEL", sandbox)
        .expect("DEL works with and without the agent");
    plugin.forget(sandbox);
}

fn killer(cluster: &Cluster, seed: u64, counts: &Counts, done: &AtomicBool) {
    let (mut dice, mut next) = (Dice(seed), OPERATIONS_EACH);
    while !done.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(100 + dice.roll(500)));
        let operations = counts.operations.load(Ordering::Relaxed);
        if operations >= next
            && cluster
                .agent_process("node1")
                .is_some_and(|agent| agent.signal(nix::sys::signal::Signal::SIGKILL))
        {
            counts.kills.fetch_add(1, Ordering::Relaxed);
            next = operations + OPERATIONS_EACH;
        }
    }
}

#[test]
fn e2e_leak_500_random_operations_with_kills() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-leak", &["--nodes", "1"]);
    let plugin = Plugin::on(&cluster, "node1");
    let (before, programs) = (
        kernel::inventory(&cluster, "node1"),
        kernel::loaded(&cluster, "node1"),
    );
    let allocated = |cluster: &Cluster| {
        let status = cluster.agent("node1").healthz().ok()?;
        Some(
            status
                .ipam
                .iter()
                .map(|pool| pool.allocated)
                .collect::<Vec<_>>(),
        )
    };
    let addresses = allocated(&cluster).unwrap();
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    let (counts, done) = (Counts::new(), AtomicBool::new(false));
    thread::scope(|scope| {
        let killer = scope.spawn(|| killer(&cluster, seed, &counts, &done));
        let (plugin, counts) = (&plugin, &counts);
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|worker| scope.spawn(move || work(plugin, worker, seed, counts)))
            .collect();
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        killer.join().unwrap();
        ended.into_iter().for_each(|ended| ended.unwrap());
    });
    let count = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
    eprintln!(
        "seed {seed}: {} operations done in {:?}: {} pods added, {} refused for now, {} deleted at random; {} kills",
        count(&counts.operations),
        counts.start.elapsed(),
        count(&counts.added),
        count(&counts.refused),
        count(&counts.deleted),
        count(&counts.kills)
    );
    assert!(counts.reached(), "this is too little within {LIMIT:?}");
    let other = counts.other.into_inner().unwrap();
    assert!(
        other.is_empty(),
        "refused with something else than `try again`: {other:#?}"
    );

    cluster.wait_replaced("node1", None);
    wait_until(
        "all addresses are free again",
        Duration::from_secs(20),
        || (allocated(&cluster)? == addresses).then_some(()),
    );
    cluster.assert_clean();
    let after = kernel::inventory(&cluster, "node1");
    let (more, less): (Vec<_>, Vec<_>) = (
        after.difference(&before).collect(),
        before.difference(&after).collect(),
    );
    assert!(
        more.is_empty() && less.is_empty(),
        "left over: {more:#?}\nmissing: {less:#?}"
    );
    assert_eq!(cluster.agent("node1").endpoints().unwrap().len(), 0);
    assert_eq!(
        kernel::loaded(&cluster, "node1"),
        programs,
        "no program was loaded"
    );
}
