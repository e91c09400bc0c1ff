//! Runs the probes: servers everywhere first, then a bounded number of clients at a time.
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use super::plan::{Case, Place, Protocol, Scene, Source};
use super::probe::{Answer, probe};
use super::server::{self, Nonce, Server, Sources};

/// How the matrix is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long an answer may take.
    pub timeout: Duration,
    /// How often a cell that failed is tried again.
    pub retries: u32,
    /// Probes at a time.
    pub at_once: usize,
}

/// A cell and what came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The cell.
    pub case: Case,
    /// Nothing if it passed, else what was seen instead.
    pub failure: Option<String>,
    /// How often it was tried.
    pub tries: u32,
    /// How long the last try took.
    pub took: Duration,
}

/// Every place of the scene that serves.
fn places(scene: &Scene) -> impl Iterator<Item = &Place> {
    let nodes = scene
        .nodes
        .iter()
        .flat_map(|node| std::iter::once(&node.place).chain(&node.pods));
    nodes.chain(scene.router.iter().map(|router| &router.place))
}

/// Runs `cases` against servers that live as long as the call; outcomes in the order of the cases.
///
/// # Errors
/// If a server cannot be started or a namespace not be entered.
pub fn run(scene: &Scene, cases: Vec<Case>, options: Options) -> Result<Vec<Outcome>> {
    let sources = Sources::default();
    let wanted = |place: &&Place| {
        cases
            .iter()
            .any(|case| place.addresses.contains(&case.target))
    };
    let servers: Vec<Server> = places(scene)
        .filter(wanted)
        .map(|place| {
            server::start(place, &sources)
                .with_context(|| format!("cannot start the test's server in {}", place.name))
        })
        .collect::<Result<_>>()?;
    let ports = servers
        .iter()
        .flat_map(|server| server.ports.clone())
        .collect();
    let doors = open_namespaces(&cases)?;
    let bench = Bench {
        sources,
        ports,
        doors,
        options,
        run: run_number(),
    };
    bench.all(&cases)
}

fn open_namespaces(cases: &[Case]) -> Result<BTreeMap<PathBuf, File>> {
    let mut doors = BTreeMap::new();
    for case in cases {
        if !doors.contains_key(&case.netns) {
            let file = open_namespace(&case.netns)
                .with_context(|| format!("cannot enter {}", case.from))?;
            doors.insert(case.netns.clone(), file);
        }
    }
    Ok(doors)
}

fn open_namespace(path: &Path) -> Result<File> {
    File::open(path).with_context(|| {
        format!(
            "cannot open its network namespace {}; is it running?",
            path.display()
        )
    })
}

/// A number that other runs at the same time do not have.
fn run_number() -> u64 {
    let clock = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    clock.as_nanos() as u64 ^ u64::from(std::process::id()) << 40
}

/// What all clients share.
struct Bench {
    sources: Sources,
    ports: BTreeMap<(IpAddr, Protocol), u16>,
    doors: BTreeMap<PathBuf, File>,
    options: Options,
    run: u64,
}

impl Bench {
    fn all(&self, cases: &[Case]) -> Result<Vec<Outcome>> {
        let next = AtomicUsize::new(0);
        let (report, reports) = mpsc::channel();
        thread::scope(|scope| -> io::Result<()> {
            for _ in 0..self.options.at_once.min(cases.len()) {
                let (next, report) = (&next, report.clone());
                thread::Builder::new()
                    .name("probe".into())
                    .spawn_scoped(scope, move || {
                        while let Some((number, case)) = Some(next.fetch_add(1, Ordering::Relaxed))
                            .and_then(|n| Some((n, cases.get(n)?)))
                        {
                            if report.send((number, self.cell(number, case))).is_err() {
                                return;
                            }
                        }
                    })?;
            }
            Ok(())
        })
        .context("cannot start a thread for the probes")?;
        drop(report);
        let outcomes: BTreeMap<usize, Outcome> = reports.into_iter().collect();
        Ok(outcomes.into_values().collect())
    }

    /// Tries one cell until it passes or has been retried enough.
    fn cell(&self, number: usize, case: &Case) -> Outcome {
        let mut tries = 0;
        loop {
            tries += 1;
            let start = Instant::now();
            let nonce = self.nonce(number, tries);
            let failure = self.attempt(case, &nonce).err();
            if failure.is_none() || tries > self.options.retries {
                return Outcome {
                    case: case.clone(),
                    failure,
                    tries,
                    took: start.elapsed(),
                };
            }
        }
    }

    /// Unique in this run; the last two bytes also differ between probes that run together (they are the ICMP identifier).
    fn nonce(&self, number: usize, tries: u32) -> Nonce {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.run.to_be_bytes());
        nonce[8..12].copy_from_slice(&(number as u32).to_be_bytes());
        nonce[12..14].copy_from_slice(&(tries as u16).to_be_bytes());
        let id = (self.run as u16)
            .wrapping_add((number as u16).wrapping_mul(4))
            .wrapping_add(tries as u16);
        nonce[14..].copy_from_slice(&id.to_be_bytes());
        nonce
    }

    fn attempt(&self, case: &Case, nonce: &Nonce) -> Result<(), String> {
        let door = self
            .doors
            .get(&case.netns)
            .ok_or("its network namespace was not opened")?;
        setns(door, CloneFlags::CLONE_NEWNET)
            .map_err(|error| format!("cannot enter its network namespace: {error}"))?;
        let port = match case.protocol {
            Protocol::Icmp => 0,
            other => *self
                .ports
                .get(&(case.target, other))
                .ok_or("no server listens there")?,
        };
        let target = SocketAddr::new(case.target, port);
        let answer = probe(
            target,
            case.protocol,
            case.size,
            nonce,
            self.options.timeout,
        );
        let answer = answer.map_err(|error| explain(&error, self.sources.of(nonce)))?;
        self.check_source(case, &answer, nonce)
    }

    fn check_source(&self, case: &Case, answer: &Answer, nonce: &Nonce) -> Result<(), String> {
        let own = [answer.local];
        let expected: &[IpAddr] = match &case.source {
            Source::Untranslated => &own,
            Source::Node(addresses) => addresses,
        };
        match self.source(nonce) {
            Some(seen) if expected.contains(&seen) => Ok(()),
            Some(seen) => Err(format!("it came from {seen}, expected {}", list(expected))),
            None => Err(
                "an answer came, but the request never reached the server: somebody else answered"
                    .into(),
            ),
        }
    }

    /// The kernel may answer a ping a moment before the server's thread sees its copy.
    fn source(&self, nonce: &Nonce) -> Option<IpAddr> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            let found = self.sources.of(nonce);
            if found.is_some() || Instant::now() > deadline {
                return found;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        "no address (the node has none of this family)".into()
    } else {
        names.join(" or ")
    }
}

/// One line about a failed try, and how far the request got.
fn explain(error: &io::Error, arrived_from: Option<IpAddr>) -> String {
    let what = match error.kind() {
        io::ErrorKind::TimedOut if error.get_ref().is_none() => "no answer".to_owned(),
        _ if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => {
            "packet too long for the path".to_owned()
        }
        _ => error.to_string(),
    };
    match arrived_from {
        Some(from) => format!("{what}; the request did arrive, from {from}"),
        None => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explanations() {
        let timeout = io::Error::from(io::ErrorKind::TimedOut);
        assert_eq!(explain(&timeout, None), "no answer");
        assert_eq!(
            explain(&timeout, Some([192, 0, 2, 1].into())),
            "no answer; the request did arrive, from 192.0.2.1"
        );
        let long = io::Error::from_raw_os_error(nix::libc::EMSGSIZE);
        assert_eq!(explain(&long, None), "packet too long for the path");
        let stalled = io::Error::new(io::ErrorKind::TimedOut, "stalled after 9 of 99 bytes");
        assert_eq!(explain(&stalled, None), "stalled after 9 of 99 bytes");
    }
}
