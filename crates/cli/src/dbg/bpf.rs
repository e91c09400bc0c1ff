//! `bpf … list` and `map list|get`.
use anyhow::Result;
use api::{MapInfo, MapRow};
use clap::Subcommand;
use nix::time::{ClockId, clock_gettime};

use super::conntrack::{self, Expiry};
use super::{lb, maps, policy};
use crate::error::Usage;
use crate::output::OutputArgs;
use crate::table::Table;
use crate::target::{Agent, show};

#[derive(Debug, Subcommand)]
pub enum BpfCommand {
    /// Addresses of the node and how packets are delivered to them
    #[command(subcommand)]
    Endpoint(ListCommand),
    /// Who is behind each known address
    #[command(subcommand)]
    Ipcache(IpcacheCommand),
    /// Connections
    #[command(subcommand)]
    Ct(CtCommand),
    /// Masquerade mappings
    #[command(subcommand)]
    Nat(ListCommand),
    /// Pod ranges of other nodes and the nodes to encapsulate to
    #[command(subcommand)]
    Tunnel(ListCommand),
    /// Packets and bytes by reason and direction
    #[command(subcommand)]
    Metrics(ListCommand),
    /// Services: frontends, slots, backends
    #[command(subcommand)]
    Lb(lb::LbCommand),
    /// What is allowed and denied
    #[command(subcommand)]
    Policy(policy::BpfPolicyCommand),
}

#[derive(Debug, Subcommand)]
pub enum ListCommand {
    /// All entries
    List(OutputArgs),
}

#[derive(Debug, Subcommand)]
pub enum IpcacheCommand {
    /// All entries
    List(OutputArgs),
    /// The identity of one address
    Get {
        /// The address
        ip: std::net::IpAddr,
    },
}

#[derive(Debug, Subcommand)]
pub enum CtCommand {
    /// All entries, or those of one endpoint
    List {
        /// `global`, or the number of an endpoint
        #[arg(default_value = "global")]
        which: String,
        /// Show the time that is left, not the time of expiry
        #[arg(short = 'd', long)]
        time_diff: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Subcommand)]
pub enum MapCommand {
    /// All maps
    List {
        #[command(flatten)]
        output: OutputArgs,
        /// With the entries of every map
        #[arg(long)]
        verbose: bool,
    },
    /// The entries of one map
    Get {
        /// Name of the map
        #[arg(value_name = "NAME")]
        map: String,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub fn run(agents: &mut [Agent], command: &BpfCommand) -> Result<()> {
    let one = |name: &'static str| move |agent: &mut Agent| Ok(agent.client.map(name)?);
    match command {
        BpfCommand::Endpoint(ListCommand::List(output)) => {
            show(agents, output, one(abi::names::LXC), |rows| {
                maps::endpoints(rows)
            })
        }
        BpfCommand::Ipcache(IpcacheCommand::List(output)) => {
            show(agents, output, one(abi::names::IPCACHE), |rows| {
                maps::ipcache(rows)
            })
        }
        BpfCommand::Ipcache(IpcacheCommand::Get { ip }) => ipcache_get(agents, *ip),
        BpfCommand::Ct(CtCommand::List {
            which,
            time_diff,
            output,
        }) => {
            let endpoint = ct_endpoint(which).map_err(Usage)?;
            let expiry = if *time_diff {
                Expiry::From(monotonic_ns() / 1_000_000_000)
            } else {
                Expiry::Absolute
            };
            show(agents, output, connections, |rows| {
                conntrack::list(rows, endpoint, expiry)
            })
        }
        BpfCommand::Nat(ListCommand::List(output)) => show(
            agents,
            output,
            |agent| both(agent, [abi::names::SNAT4, abi::names::SNAT6]),
            |rows| maps::nat(rows, monotonic_ns()),
        ),
        BpfCommand::Tunnel(ListCommand::List(output)) => {
            show(agents, output, tunnel_rows, |rows| maps::tunnels(rows))
        }
        BpfCommand::Lb(command) => lb::run(agents, command),
        BpfCommand::Policy(command) => policy::run_bpf(agents, command),
        BpfCommand::Metrics(ListCommand::List(output)) => {
            show(agents, output, one(abi::names::METRICS), |rows| {
                maps::metrics(rows)
            })
        }
    }
}

fn ct_endpoint(which: &str) -> Result<Option<u64>, String> {
    match which {
        "global" => Ok(None),
        number => number.parse().map(Some).map_err(|_| {
            format!(
                "`{which}` names no connections; accepted: global, or the number of an endpoint"
            )
        }),
    }
}

/// The clock that the kernel programs use; every node of a lab has the same.
fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
    })
}

/// The rows of the maps of both families; a family that is off has no map.
pub(super) fn both(agent: &mut Agent, names: [&str; 2]) -> Result<Vec<MapRow>> {
    let mut rows = Vec::new();
    let mut missing = None;
    for name in names {
        match agent.client.map(name) {
            Ok(found) => rows.push(found),
            Err(error) if error.code() == Some(api::ErrorCode::NotFound) => missing = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    match missing {
        Some(error) if rows.is_empty() => Err(error.into()),
        _ => Ok(rows.concat()),
    }
}

fn connections(agent: &mut Agent) -> Result<Vec<MapRow>> {
    let mut rows = both(agent, [abi::names::CT4, abi::names::CT6])?;
    let endpoints = agent.client.endpoints()?;
    let v4 = endpoints
        .iter()
        .filter_map(|endpoint| endpoint.ipv4.map(Into::into));
    let v6 = endpoints
        .iter()
        .filter_map(|endpoint| endpoint.ipv6.map(Into::into));
    conntrack::add_direction(&mut rows, &v4.chain(v6).collect());
    Ok(rows)
}

fn tunnel_rows(agent: &mut Agent) -> Result<Vec<MapRow>> {
    let rows = agent.client.map(abi::names::IPCACHE)?;
    Ok(rows
        .into_iter()
        .filter(|row| maps::tunnel_row(row).is_some())
        .collect())
}

fn ipcache_get(agents: &mut [Agent], ip: std::net::IpAddr) -> Result<()> {
    let look = |agent: &mut Agent| {
        let rows = agent.client.map(abi::names::IPCACHE)?;
        let (prefix, identity) = maps::lookup(&rows, ip)
            .ok_or_else(|| anyhow::anyhow!("{ip} is in no prefix of the ipcache"))?;
        Ok(serde_json::json!({"ip": ip, "prefix": prefix, "identity": identity}))
    };
    show(agents, &OutputArgs::default(), look, |found| {
        format!("{ip} maps to identity {}\n", found["identity"])
    })
}

pub fn run_map(agents: &mut [Agent], command: &MapCommand) -> Result<()> {
    match command {
        MapCommand::List {
            output,
            verbose: false,
        } => show(
            agents,
            output,
            |agent| Ok(agent.client.maps()?),
            |maps| list(maps),
        ),
        MapCommand::List {
            output,
            verbose: true,
        } => show(agents, output, dump_all, |dumps| {
            dumps
                .iter()
                .map(|(name, rows)| format!("## Map: {name}\n{}\n", maps::generic(rows)))
                .collect()
        }),
        MapCommand::Get { map, output } => show(
            agents,
            output,
            |agent| Ok(agent.client.map(map)?),
            |rows| maps::generic(rows),
        ),
    }
}

fn dump_all(agent: &mut Agent) -> Result<Vec<(String, Vec<MapRow>)>> {
    let mut dumps = Vec::new();
    for map in agent.client.maps()? {
        match agent.client.map(&map.name) {
            Ok(rows) => dumps.push((map.name, rows)),
            // The event ring has no entries to list.
            Err(error) if error.code().is_some() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(dumps)
}

fn list(maps: &[MapInfo]) -> String {
    let mut table = Table::new(&["Name", "Num entries", "Num errors", "Cache enabled"]);
    for map in maps {
        let entries = map
            .entries
            .map_or_else(|| "-".into(), |count| count.to_string());
        table.row(&[
            map.name.clone(),
            entries,
            map.errors.to_string(),
            "false".into(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn map_list() {
        let map = |name: &str, entries| MapInfo {
            name: name.into(),
            entries,
            errors: 1,
            ..MapInfo::default()
        };
        expect![[r#"
            Name            Num entries   Num errors   Cache enabled
            cilium_lxc      7             1            false
            cilium_events   -             1            false
        "#]]
        .assert_eq(&list(&[
            map("cilium_lxc", Some(7)),
            map("cilium_events", None),
        ]));
    }

    #[test]
    fn connections_of() {
        assert_eq!(ct_endpoint("global"), Ok(None));
        assert_eq!(ct_endpoint("904"), Ok(Some(904)));
        assert!(ct_endpoint("all").unwrap_err().contains("accepted: global"));
    }
}
