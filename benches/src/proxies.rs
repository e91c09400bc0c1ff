//! The proxy against nginx, haproxy, dnsdist and unbound as Debian has them, as plain reverse proxies on the loopback with an equivalent rule.
//!
//! Per core means per second of processor time that the proxy's own processes took: clients and servers are on the same cores.
mod clients;
mod forwarder;
mod ours;
mod placement;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    Args,
    report::{Report, Row, percentile},
};
use clients::{Client, Load};
use forwarder::{Forwarder, Kind};
pub use ours::{Drive, drive};
use placement::Placement;

/// Requests under way at once when rates are measured.
const BUSY: usize = 16;
/// Connections that do nothing.
const IDLE: usize = 1000;
/// Megabytes that the proxy may take with those.
const IDLE_GOAL: f64 = 25.0;
/// Into how many turns a round is divided where latencies are measured: what disturbs the machine for a moment hits few of them.
const TURNS: u32 = 4;
/// Microseconds that a lookup may take longer.
const LOOKUP_GOAL: f64 = 150.0;

/// A protocol, with its rows.
struct Protocol {
    name: &'static str,
    client: fn(SocketAddr) -> Result<Box<dyn Client>>,
    server: fn() -> Result<SocketAddr>,
    ours: Kind,
    others: &'static [Kind],
}

const PROTOCOLS: [Protocol; 2] = [
    Protocol {
        name: "http",
        client: clients::http,
        server: clients::http_server,
        ours: Kind::Ours(ours::Protocol::Http),
        others: &[Kind::Nginx, Kind::Haproxy],
    },
    Protocol {
        name: "dns",
        client: clients::dns,
        server: clients::dns_server,
        ours: Kind::Ours(ours::Protocol::Dns),
        others: &[Kind::Dnsdist, Kind::Unbound],
    },
];

/// Adds the figures that are asked for.
///
/// # Errors
/// A proxy is not installed, or does not do what it should.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    for protocol in &PROTOCOLS {
        let name = |what: &str| format!("proxy/{}/{what}", protocol.name);
        let wants = |what: &str| args.filter.wants(&name(what));
        let (rate, latency) = (
            wants("rate-per-core"),
            wants("added-p50") || wants("added-p99"),
        );
        let idle = protocol.name == "http" && wants("idle-memory");
        if !rate && !latency && !idle {
            continue;
        }
        let server = (protocol.server)()?;
        let ours = protocol.start(protocol.ours, server)?;
        let mut rows = Vec::new();
        if rate || latency {
            let others = protocol.others.iter();
            let others: Vec<_> = others
                .map(|kind| protocol.start(*kind, server))
                .collect::<Result<_>>()?;
            let stage = Stage {
                protocol,
                server,
                ours: &ours,
                others: &others,
                duration: Duration::from_secs_f64(args.seconds),
            };
            if rate {
                rows.extend(stage.rate(&name("rate-per-core"), args.rounds)?);
            }
            if latency {
                rows.extend(stage.latency(name, args.rounds)?);
            }
        }
        if idle {
            let megabytes = memory_when_idle(protocol, &ours)?;
            rows.push(Row::against_goal(
                name("idle-memory"),
                "MB",
                megabytes,
                IDLE_GOAL,
            ));
        }
        for row in rows {
            eprintln!("{row}");
            report.add(row);
        }
    }
    Ok(())
}

impl Protocol {
    /// Starts a proxy that is known to pass what the rule allows, and nothing else.
    fn start(&self, kind: Kind, server: SocketAddr) -> Result<Forwarder> {
        let forwarder = Forwarder::start(kind, server)?;
        let mut client = forwarder.until_served(|| (self.client)(forwarder.address))?;
        ensure!(
            !client.ask(false)? && client.ask(true)?,
            "{} does not keep to the rule",
            forwarder.name()
        );
        Ok(forwarder)
    }

    fn load(&self, to: SocketAddr, clients: usize, duration: Duration) -> Result<Load> {
        clients::run(self.client, to, clients, duration)
    }
}

/// Proxies of one protocol before one server.
struct Stage<'a> {
    protocol: &'a Protocol,
    server: SocketAddr,
    ours: &'a Forwarder,
    others: &'a [Forwarder],
    duration: Duration,
}

impl Stage<'_> {
    /// Requests per second of processor time, against each of the others.
    fn rate(&self, name: &str, rounds: usize) -> Result<Vec<Row>> {
        let one = |forwarder: &Forwarder| {
            let before = forwarder.processor_time()?;
            let load = self.protocol.load(forwarder.address, BUSY, self.duration)?;
            let took = forwarder.processor_time()? - before;
            Ok::<_, anyhow::Error>(load.latencies.len() as f64 / took.as_secs_f64())
        };
        let (mut ours, mut theirs) = (Vec::new(), vec![Vec::new(); self.others.len()]);
        for _ in 0..rounds {
            for (figures, other) in theirs.iter_mut().zip(self.others) {
                figures.push(one(other)?);
            }
            ours.push(one(self.ours)?);
        }
        let of = |(other, figures): (&Forwarder, &Vec<f64>)| {
            let name = format!("{name}/{}", other.name());
            Row::new(name, "1/s", &ours, figures)
        };
        Ok(self.others.iter().zip(&theirs).map(of).collect())
    }

    /// What a request takes longer than without a proxy, one at a time, against the fastest of the others; microseconds.
    fn latency(&self, name: impl Fn(&str) -> String, rounds: usize) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for placement in Placement::all()? {
            let all = self.others.iter().chain([self.ours]);
            let _held = placement.hold(all.clone())?;
            let mut added = vec![Added::default(); self.others.len() + 1];
            for _ in 0..rounds * TURNS as usize {
                let direct = self.quantiles(self.server)?;
                for (added, proxy) in added.iter_mut().zip(all.clone()) {
                    added.note(self.quantiles(proxy.address)?, direct);
                }
            }
            let ours = added.pop().unwrap_or_default();
            let fastest = added
                .into_iter()
                .min_by(|a, b| a.middle().total_cmp(&b.middle()));
            let fastest = fastest.unwrap_or_default();
            let name = |what| name(&format!("{what}/{}", placement.name));
            if self.protocol.name == "dns" {
                let goals = vec![LOOKUP_GOAL; ours.p50.len()];
                rows.push(Row::new(name("added-p50"), "us", &ours.p50, &goals));
            } else {
                rows.push(Row::new(name("added-p50"), "us", &ours.p50, &fastest.p50));
                rows.push(Row::new(name("added-p99"), "us", &ours.p99, &fastest.p99));
            }
        }
        Ok(rows)
    }

    /// The 50th and the 99th percentile of one turn.
    fn quantiles(&self, to: SocketAddr) -> Result<[f64; 2]> {
        let load = self.protocol.load(to, 1, self.duration / TURNS)?;
        Ok([0.5, 0.99].map(|part| load.percentile(part)))
    }
}

/// What a proxy adds to percentiles, turn by turn.
#[derive(Clone, Default)]
struct Added {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Added {
    fn note(&mut self, with: [f64; 2], without: [f64; 2]) {
        self.p50.push(with[0] - without[0]);
        self.p99.push(with[1] - without[1]);
    }

    fn middle(&self) -> f64 {
        percentile(&self.p50, 0.5)
    }
}

/// Megabytes with many connections that have asked once and are silent since.
fn memory_when_idle(protocol: &Protocol, ours: &Forwarder) -> Result<f64> {
    forwarder::many_files()?;
    let mut idle = Vec::new();
    for number in 0..IDLE {
        let mut client = (protocol.client)(ours.address)?;
        let answered = client.ask(true);
        ensure!(
            answered.with_context(|| format!("connection {number}"))?,
            "connection {number} is refused"
        );
        idle.push(client);
    }
    let bytes = ours.memory()?;
    drop(idle);
    Ok(bytes as f64 / 1e6)
}
