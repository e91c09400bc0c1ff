//! `hypha proxy`: what policies say of requests, enforced in a network namespace of its own.
//!
//! ```text
//! one thread: wait for namespace and map ─ enter ─ give up capabilities ─→ threads: serve ─┬─ signal: finish, end
//!                                                                                       └─ replaced: finish, stand by
//! ```
//! Who serves holds a lock. One that was replaced stands by without it, and serves again should its successor be gone: a pod's
//! container that ended would be started anew, and take over from its own successor.
mod confine;
mod health;
mod sessions;

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ::proxy::config::Transport;
use ::proxy::server::{Config, End, Kind, Listen, Server};
use ::proxy::transparent::Transparent;
use abi::proxy::{ProxyKind, UPSTREAM_PORTS};
use anyhow::{Context, Result, bail};
use clap::Args;
use datapath::ProxySessions;
use netlink::netns::{self, Netns};
use nix::fcntl::{Flock, FlockArg};
use runtime::flags::seconds;
use runtime::logging::Logging;
use runtime::stop;

use health::Health;
use sessions::Sessions;

/// How often to look whether what is waited for is there.
const LOOK: Duration = Duration::from_millis(200);
/// How often to look whether the namespace is still the one at its path.
const WATCH: Duration = Duration::from_secs(5);
/// How long one that was replaced waits before it looks whether its successor lives: that has to get the lock first.
const STAND_BACK: Duration = Duration::from_secs(3);
/// How long one that is told to stop waits for a successor, which may be about to start: a pod in the node's network passes for
/// ready while its predecessor answers the probe.
const SUCCESSION: Duration = Duration::from_secs(3);

/// Arguments of `hypha proxy`.
#[derive(Clone, Debug, Args)]
pub struct ProxyArgs {
    /// Network namespace to serve in; the agent makes it
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/run/netns/cilium-proxy"
    )]
    netns: PathBuf,
    /// Where the bpf file system is mounted
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    bpf_root: PathBuf,
    /// Directory of the sockets for the agent and for a successor
    #[arg(long, value_name = "DIR", default_value = "/var/run/cilium/proxy")]
    run_dir: PathBuf,
    /// Directory in which the last rules are kept
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/run/cilium/proxy/state"
    )]
    state_dir: PathBuf,
    /// How long connections may take to end when the proxy is to go
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    drain: Duration,
    /// Where GET /healthz is answered, in the node's own network; empty: nowhere
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9878", value_parser = address)]
    health_address: Address,
    /// Log everything
    #[arg(long)]
    debug: bool,
}

/// An address, or none.
#[derive(Clone, Copy, Debug)]
struct Address(Option<SocketAddr>);

fn address(text: &str) -> Result<Address, String> {
    if text.is_empty() {
        return Ok(Address(None));
    }
    let address = text.parse();
    address
        .map(|address| Address(Some(address)))
        .map_err(|_| "accepted: ADDRESS:PORT, as 127.0.0.1:9878, or nothing".to_owned())
}

/// What there is once it can serve.
struct Place {
    netns: Netns,
    sessions: ProxySessions,
}

impl ProxyArgs {
    /// Serves until it is told to stop.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        match Logging::from_options(self.debug, &Default::default()) {
            Ok(logging) => logging.start(),
            Err(error) => {
                eprintln!("hypha proxy: {error}");
                return ExitCode::from(2);
            }
        }
        match self.serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("hypha proxy: {error:#}");
                ExitCode::FAILURE
            }
        }
    }

    fn serve(&self) -> Result<()> {
        let Some(place) = self.wait()? else {
            return Ok(());
        };
        // A socket stays in the network in which it was made.
        let health = self.health_address.0.map(Health::bind).transpose()?;
        place.netns.enter()?;
        let kept = confine::drop_unneeded()?;
        tracing::info!(netns = %self.netns.display(), capabilities = kept, "proxy starting");
        ::datapath::share_heap();
        // Whatever serves has threads of its own.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(2)
            .enable_all()
            .build()
            .context("starting the async runtime")?;
        let ended = runtime.block_on(self.serve_in(place, health));
        runtime.shutdown_timeout(Duration::from_secs(1));
        ended
    }

    /// Waits for what the agent makes; none if it is told to stop before. No thread is started here.
    fn wait(&self) -> Result<Option<Place>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting to wait")?;
        runtime.block_on(async {
            tokio::select! {
                place = self.place() => Ok(Some(place)),
                signal = stop::signalled() => {
                    signal.context("installing signal handlers")?;
                    Ok(None)
                }
            }
        })
    }

    async fn place(&self) -> Place {
        let mut told = String::new();
        loop {
            let missing = match self.look() {
                Ok(place) => return place,
                Err(missing) => missing,
            };
            if missing != told {
                tracing::info!("waiting for {missing}, which the agent makes");
                told = missing;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What there is, or what is missing.
    fn look(&self) -> Result<Place, String> {
        let netns =
            netns::open(&self.netns).map_err(|error| format!("the network namespace ({error})"))?;
        match ProxySessions::open(&self.bpf_root) {
            Ok(sessions) => Ok(Place { netns, sessions }),
            Err(error) => Err(format!("the map of sessions ({error})")),
        }
    }

    fn config(&self) -> Config {
        let mut config = Config::new(self.state_dir.clone(), self.run_dir.clone(), listeners());
        config.drain = self.drain;
        config.transparent = true;
        config
    }

    async fn serve_in(&self, place: Place, health: Option<Health>) -> Result<()> {
        let sessions = Sessions(place.sessions);
        let origin = Arc::new(Transparent::new(sessions, UPSTREAM_PORTS));
        let signal = stop::signalled();
        tokio::pin!(signal);
        loop {
            let mut server = Server::start(self.config(), origin.clone()).await?;
            tracing::info!(
                version = server.control.policy().borrow().version(),
                "proxy serves"
            );
            let lock = tokio::select! {
                lock = self.lock() => lock?,
                signal = &mut signal => return self.stop(server, signal).await,
            };
            let healthy = health.as_ref().map(Health::serve).transpose()?;
            tokio::select! {
                signal = &mut signal => return self.stop(server, signal).await,
                () = server.replaced() => {}
                () = self.moved(&place.netns) => {
                    let _ = self.finish(server).await;
                    bail!("{} is another network namespace by now", self.netns.display());
                }
            }
            drop((lock, healthy));
            tracing::info!("another process serves; this one finishes and stands by");
            self.finish(server).await?;
            let stand_by = async {
                tokio::time::sleep(STAND_BACK).await;
                self.lock().await
            };
            tokio::select! {
                lock = stand_by => drop(lock?),
                signal = &mut signal => {
                    signal.context("installing signal handlers")?;
                    return Ok(());
                }
            }
        }
    }

    /// Finishes once another process has the sockets: with the last process that has them goes whoever waits to be accepted.
    async fn stop(&self, mut server: Server, signal: io::Result<&'static str>) -> Result<()> {
        let signal = signal.context("installing signal handlers")?;
        tracing::info!("{signal}: the proxy finishes");
        tokio::select! {
            () = server.replaced() => {}
            () = tokio::time::sleep(SUCCESSION) => {}
            // Told twice.
            _ = stop::signalled() => {}
        }
        self.finish(server).await
    }

    async fn finish(&self, server: Server) -> Result<()> {
        if server.finish().await == End::Cut {
            tracing::warn!("connections were cut off after {:?}", self.drain);
        }
        Ok(())
    }

    /// The lock of who serves, as soon as it is free.
    async fn lock(&self) -> Result<Flock<File>> {
        let path = self.run_dir.join("serving.lock");
        let open = || File::create(&path).with_context(|| path.display().to_string());
        let mut file = open()?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((same, nix::errno::Errno::EWOULDBLOCK)) => file = same,
                Err((_, error)) => return Err(error).context(path.display().to_string()),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends when the path is another namespace's: nothing comes here any more.
    async fn moved(&self, own: &Netns) {
        loop {
            tokio::time::sleep(WATCH).await;
            let now = netns::open(&self.netns);
            if now.is_ok_and(|now| netns::same(&now, own).is_ok_and(|same| !same)) {
                return;
            }
        }
    }
}

/// All places of both families, as far as the node has them.
fn listeners() -> Vec<Listen> {
    let mut addresses = vec![("4", IpAddr::V4(Ipv4Addr::LOCALHOST))];
    if Path::new("/proc/net/if_inet6").exists() {
        addresses.push(("6", IpAddr::V6(Ipv6Addr::LOCALHOST)));
    }
    let kinds = [
        ("http", ProxyKind::Http, Kind::Http),
        ("kafka", ProxyKind::Kafka, Kind::Kafka),
        ("dns-udp", ProxyKind::Dns, Kind::Dns(Transport::Udp)),
        ("dns-tcp", ProxyKind::Dns, Kind::Dns(Transport::Tcp)),
        ("tls", ProxyKind::Tls, Kind::Tls),
    ];
    let listen = |(family, address): (&str, IpAddr)| {
        let family = family.to_owned();
        kinds.into_iter().filter_map(move |(name, port, kind)| {
            Some(Listen {
                name: format!("{name}-{family}"),
                address: SocketAddr::new(address, port.port()?),
                kind,
            })
        })
    };
    addresses.into_iter().flat_map(listen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_listener_of_its_own() {
        let listeners = listeners();
        let names: std::collections::BTreeSet<_> =
            listeners.iter().map(|listen| &listen.name).collect();
        assert_eq!(names.len(), listeners.len());
        assert!(
            listeners
                .iter()
                .any(|l| l.kind == Kind::Http && l.address.port() == 15_001)
        );
    }

    #[test]
    fn addresses() {
        assert!(address("").unwrap().0.is_none() && address("9878").is_err());
    }
}
