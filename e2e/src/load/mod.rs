//! Traffic that goes on while something else happens, with an account of what was sent and what came.
//!
//! Clients and servers are threads of the test. A socket belongs to the network namespace of the thread that made it, so each is
//! made on a thread that entered the pod, and nothing has to be started in pods.

mod asking;
mod counters;
mod echo;
mod stream;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netlink::Netns;

use crate::cluster::{Cluster, Place};
pub use asking::{Asked, Asking};
pub use counters::Counters;

/// A socket that waits longer than this has lost its peer.
pub(crate) const STALLED: Duration = Duration::from_secs(10);

/// From where to where.
#[derive(Debug)]
pub struct Route {
    /// As the report calls it.
    pub name: String,
    /// Namespace of the client.
    pub client: Netns,
    /// Namespace of the server.
    pub server: Netns,
    /// Address of the server.
    pub target: IpAddr,
}

impl Route {
    /// From a place to another, in one family.
    ///
    /// # Panics
    /// If the target has no such address.
    #[must_use]
    #[track_caller]
    pub fn new(from: &Place, to: &Place, ipv4: bool) -> Route {
        let clone = |ns: &Netns| ns.try_clone().expect("a handle of a network namespace");
        let family = if ipv4 { "ipv4" } else { "ipv6" };
        Route {
            name: format!("{} → {} {family}", from.name, to.name),
            client: clone(&from.netns),
            server: clone(&to.netns),
            target: to.ip(ipv4),
        }
    }
}

/// What one flow came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// What flowed where.
    pub flow: String,
    /// Units sent: bytes, connections, packets.
    pub sent: u64,
    /// Units that arrived (bytes), or were answered.
    pub received: u64,
    /// The longest that an answer took.
    pub slowest: Duration,
    /// What went wrong.
    pub errors: Vec<String>,
}

impl Tally {
    /// Nothing is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.errors.is_empty() && self.sent == self.received && self.sent > 0
    }

    pub(crate) fn fail(&mut self, what: impl Into<String>) {
        // One broken flow says the same again and again.
        if self.errors.len() < 5 {
            self.errors.push(what.into());
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lost = self.sent.saturating_sub(self.received);
        write!(
            f,
            "{}: {} sent, {lost} lost, slowest {:.1} ms",
            self.flow,
            self.sent,
            self.slowest.as_secs_f64() * 1e3
        )?;
        self.errors
            .iter()
            .try_for_each(|error| write!(f, "; {error}"))
    }
}

/// Tells flows to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn told(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Traffic on several routes.
#[derive(Debug)]
pub struct Load {
    stop: Stop,
    flows: Vec<JoinHandle<Tally>>,
    counters: Vec<(Netns, Counters)>,
}

impl Load {
    /// Starts it: per route a transfer each way, a row of new connections, pings and datagrams.
    ///
    /// # Panics
    /// If a socket cannot be made.
    #[must_use]
    #[track_caller]
    pub fn start(routes: &[Route]) -> Load {
        let mut load = Load {
            stop: Stop::default(),
            flows: Vec::new(),
            counters: Vec::new(),
        };
        for route in routes {
            for ns in [&route.client, &route.server] {
                let ns = ns.try_clone().expect("a handle of a network namespace");
                let known = load
                    .counters
                    .iter()
                    .any(|(other, _)| netlink::netns::same(other, &ns).unwrap_or(false));
                if !known {
                    let counters = Counters::of(&ns);
                    load.counters.push((ns, counters));
                }
            }
            let stop = &load.stop;
            load.flows.extend([
                stream::transfer(route, stop, stream::Direction::Up),
                stream::transfer(route, stop, stream::Direction::Down),
                stream::connections(route, stop),
                echo::pings(route, stop),
                echo::datagrams(route, stop),
            ]);
        }
        load
    }

    /// Ends it; what every flow came to.
    ///
    /// # Panics
    /// If a flow panicked.
    #[must_use]
    #[track_caller]
    pub fn finish(mut self) -> Report {
        self.stop.0.store(true, Ordering::Relaxed);
        let flows: Vec<Tally> = self
            .flows
            .drain(..)
            .map(|flow| flow.join().expect("a flow ended early"))
            .collect();
        let since = self
            .counters
            .iter()
            .map(|(ns, before)| Counters::of(ns).since(before));
        let kernel = since.reduce(|a, b| a.plus(&b)).unwrap_or_default();
        Report { flows, kernel }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.0.store(true, Ordering::Relaxed);
    }
}

/// What traffic came to.
#[derive(Debug)]
pub struct Report {
    /// Every flow.
    pub flows: Vec<Tally>,
    /// What the kernel counted meanwhile, clients and servers together.
    pub kernel: Counters,
}

impl Report {
    /// Nothing was lost, nothing reset, and no SYN had to be sent twice.
    ///
    /// # Panics
    /// With the account, if something is missing.
    #[track_caller]
    pub fn assert_whole(&self, cluster: &Cluster, during: &str) {
        let lines: Vec<String> = self.flows.iter().map(Tally::to_string).collect();
        let text = format!("{}\n{}\n{}", lines.join("\n"), self.totals(), self.kernel);
        eprintln!("{during}:\n{text}");
        let broken = self.flows.iter().filter(|flow| !flow.is_whole()).count();
        if broken > 0 || self.kernel.repeated_syns > 0 || self.kernel.resets > 0 {
            let run = cluster
                .lab
                .hypha(&["dbg", "bpf", "metrics", "list", "--all-nodes"]);
            eprintln!("{}{}", run.stdout, run.stderr);
        }
        assert!(
            broken == 0,
            "{during}: {broken} of {} flows lost something\n{text}",
            self.flows.len()
        );
        assert!(
            self.kernel.repeated_syns == 0,
            "{during}: a SYN was lost\n{text}"
        );
        assert!(
            self.kernel.resets == 0,
            "{during}: a connection was reset\n{text}"
        );
    }

    fn totals(&self) -> String {
        let sum = |kind: &str| {
            self.flows
                .iter()
                .filter(|flow| flow.flow.starts_with(kind))
                .map(|flow| flow.sent)
                .sum::<u64>()
        };
        format!(
            "in total: {:.1} MB, {} connections, {} pings, {} datagrams",
            sum("transfer") as f64 / 1e6,
            sum("connections"),
            sum("pings"),
            sum("datagrams")
        )
    }
}

/// Runs a flow on a thread of its own.
pub(crate) fn flow(
    name: &str,
    route: &Route,
    work: impl FnOnce(&mut Tally) + Send + 'static,
) -> JoinHandle<Tally> {
    let mut tally = Tally {
        flow: format!("{name} {}", route.name),
        ..Tally::default()
    };
    thread::spawn(move || {
        work(&mut tally);
        tally
    })
}

/// Makes something in a namespace.
#[track_caller]
pub(crate) fn made_in<T: Send>(
    ns: &Netns,
    what: &str,
    make: impl FnOnce() -> std::io::Result<T> + Send,
) -> T {
    ns.run(make)
        .expect("entering a network namespace")
        .unwrap_or_else(|e| panic!("{what}: {e}"))
}
