//! `bpf lb …`: the maps of services.
use std::collections::BTreeMap;

use abi::names;
use anyhow::{Result, anyhow};
use api::MapRow;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::bpf::both;
use super::fields::Fields;
use crate::output::OutputArgs;
use crate::table::Table;
use crate::target::{Agent, show};

#[derive(Debug, Subcommand)]
pub enum LbCommand {
    /// Frontends with their slots, or another of the maps of services
    List(ListArgs),
    /// Tables of consistent hashing
    #[command(subcommand)]
    Maglev(MaglevCommand),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct Which {
    /// Frontends alone, without their slots
    #[arg(long)]
    frontends: bool,
    /// Frontends by their numbers: what answers are given as source
    #[arg(long)]
    revnat: bool,
    /// Backends by their numbers
    #[arg(long)]
    backends: bool,
    /// Tables of consistent hashing, and each backend's share
    #[arg(long)]
    maglev: bool,
    /// Clients that keep their backend
    #[arg(long)]
    affinity: bool,
    /// Ranges of clients that may use a frontend, or may not
    #[arg(long)]
    source_ranges: bool,
}

#[derive(Debug, Subcommand)]
pub enum MaglevCommand {
    /// Every table
    List(OutputArgs),
    /// The table of one frontend, place by place
    Get {
        /// Number of the frontend, as `bpf lb list --revnat` shows it
        id: u16,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub fn run(agents: &mut [Agent], command: &LbCommand) -> Result<()> {
    match command {
        LbCommand::List(args) => list(agents, args),
        LbCommand::Maglev(MaglevCommand::List(output)) => {
            show(agents, output, maglev, |rows| shares(rows))
        }
        LbCommand::Maglev(MaglevCommand::Get { id, output }) => show(
            agents,
            output,
            |agent| {
                let mut all = tables(&maglev(agent)?);
                all.remove(&u64::from(*id))
                    .ok_or_else(|| anyhow!("frontend {id} has no Maglev table"))
            },
            |places| format!("{places:?}\n"),
        ),
    }
}

fn list(agents: &mut [Agent], args: &ListArgs) -> Result<()> {
    let (which, output) = (&args.which, &args.output);
    let maps = |names: [&'static str; 2]| move |agent: &mut Agent| both(agent, names);
    if which.revnat {
        let read = maps([names::LB4_REVERSE, names::LB6_REVERSE]);
        let header = ["ID", "BACKEND ADDRESS (REVNAT_ID) (SLOT)"];
        return show(agents, output, read, |rows| {
            columns(&header, rows, &["id", "address"])
        });
    }
    if which.backends {
        let read = maps([names::LB4_BACKENDS, names::LB6_BACKENDS]);
        let header = ["ID", "BACKEND ADDRESS", "STATE"];
        return show(agents, output, read, |rows| {
            columns(&header, rows, &["id", "address", "state"])
        });
    }
    if which.source_ranges {
        let read = maps([names::LB4_SOURCE_RANGES, names::LB6_SOURCE_RANGES]);
        let header = ["REVNAT_ID", "SOURCE RANGE", "VERDICT"];
        return show(agents, output, read, |rows| {
            columns(&header, rows, &["id", "range", "verdict"])
        });
    }
    if which.affinity {
        let read = maps([names::LB4_AFFINITY, names::LB6_AFFINITY]);
        let header = ["REVNAT_ID", "CLIENT", "BACKEND_ID", "LAST USED"];
        return show(agents, output, read, |rows| {
            columns(&header, rows, &["id", "client", "backend", "used"])
        });
    }
    if which.maglev {
        return show(agents, output, maglev, |rows| shares(rows));
    }
    let frontends = which.frontends;
    show(
        agents,
        output,
        |agent| services(agent, frontends),
        |rows| table(rows),
    )
}

fn maglev(agent: &mut Agent) -> Result<Vec<MapRow>> {
    both(agent, [names::LB4_MAGLEV, names::LB6_MAGLEV])
}

/// The rows of frontends and slots, each slot with the address of its backend and the number of its frontend.
fn services(agent: &mut Agent, frontends: bool) -> Result<Vec<MapRow>> {
    let backends = both(agent, [names::LB4_BACKENDS, names::LB6_BACKENDS])?;
    let backends: BTreeMap<u64, String> = backends
        .iter()
        .map(Fields::of)
        .filter_map(|row| Some((row.number(&["id"])?, row.text(&["address"])?)))
        .collect();
    let mut rows = both(agent, [names::LB4_SERVICES, names::LB6_SERVICES])?;
    // What says only that an address has frontends is none.
    rows.retain(|row| {
        row.fields.contains_key("frontend") && (!frontends || row.fields["slot"] == 0)
    });
    let mut ids: BTreeMap<String, Value> = BTreeMap::new();
    for row in &mut rows {
        let frontend = row.fields["frontend"].as_str().unwrap_or_default();
        if let Some(id) = row.fields.get("id") {
            ids.insert(frontend.to_owned(), id.clone());
        } else {
            let id = ids.get(frontend).cloned().unwrap_or_default();
            let backend = row.fields.get("backend").and_then(Value::as_u64);
            let address = backend.and_then(|id| backends.get(&id)).cloned();
            let address = address.unwrap_or_else(|| "backend not found".to_owned());
            row.fields.insert("id".to_owned(), id);
            row.fields.insert("address".to_owned(), address.into());
        }
    }
    Ok(rows)
}

/// The layout of `bpf lb list`.
fn table(rows: &[MapRow]) -> String {
    let mut table = Table::new(&["SERVICE ADDRESS", "BACKEND ADDRESS (REVNAT_ID) (SLOT)"]);
    for row in rows {
        let fields = Fields::of(row);
        let frontend = fields.text(&["frontend"]).unwrap_or_default();
        let (id, slot) = (fields.count(&["id"]), fields.count(&["slot"]));
        let nobody = match frontend.starts_with('[') {
            true => "[::]:0",
            false => "0.0.0.0:0",
        };
        let backend = match fields.text(&["address"]) {
            Some(address) => format!("{address} ({id}) ({slot})"),
            None => format!("{nobody} ({id}) ({slot}) [{}]", words(row)),
        };
        table.row(&[format!("{frontend} ({slot})"), backend]);
    }
    table.render()
}

fn words(row: &MapRow) -> String {
    let flags = row.fields.get("flags").and_then(Value::as_array);
    let words: Vec<&str> = flags
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    words.join(", ")
}

/// Fields of rows, as they stand.
fn columns(header: &[&str], rows: &[MapRow], names: &[&str]) -> String {
    let mut table = Table::new(header);
    for row in rows {
        let cell = |name: &&str| match row.fields.get(*name) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        table.row(&names.iter().map(cell).collect::<Vec<_>>());
    }
    table.render()
}

/// The tables by number of the frontend, place by place. What stands behind a table's end is zero.
fn tables(rows: &[MapRow]) -> BTreeMap<u64, Vec<u64>> {
    let mut all: BTreeMap<u64, BTreeMap<u64, Vec<u64>>> = BTreeMap::new();
    for row in rows {
        let fields = Fields::of(row);
        let backends = row.fields.get("backends").and_then(Value::as_array);
        let backends = backends.into_iter().flatten().filter_map(Value::as_u64);
        let (id, first) = (fields.count(&["id"]), fields.count(&["first"]));
        all.entry(id).or_default().insert(first, backends.collect());
    }
    let whole = |chunks: BTreeMap<u64, Vec<u64>>| {
        let mut places: Vec<u64> = chunks.into_values().flatten().collect();
        let end = places.iter().rposition(|backend| *backend != 0);
        places.truncate(end.map_or(0, |end| end + 1));
        places
    };
    all.into_iter()
        .map(|(id, chunks)| (id, whole(chunks)))
        .collect()
}

/// What each backend has of each table.
fn shares(rows: &[MapRow]) -> String {
    let mut table = Table::new(&["REVNAT_ID", "TABLE SIZE", "BACKEND_ID", "PLACES"]);
    for (id, places) in tables(rows) {
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for backend in &places {
            *counts.entry(*backend).or_default() += 1;
        }
        let mut first = (id.to_string(), places.len().to_string());
        for (backend, count) in counts {
            table.row(&[
                std::mem::take(&mut first.0),
                std::mem::take(&mut first.1),
                backend.to_string(),
                count.to_string(),
            ]);
        }
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn row(fields: Value) -> MapRow {
        let Value::Object(fields) = fields else {
            panic!("an object")
        };
        MapRow {
            fields: fields.into_iter().collect(),
            ..MapRow::default()
        }
    }

    #[test]
    fn frontends_come_with_their_slots() {
        let rows = [
            row(
                json!({"frontend": "10.96.0.1:443/TCP", "slot": 0, "id": 1, "flags": ["ClusterIP", "non-routable"]}),
            ),
            row(
                json!({"frontend": "10.96.0.1:443/TCP", "slot": 1, "id": 1, "address": "192.0.2.10:6443/TCP"}),
            ),
            row(
                json!({"frontend": "[fd00::1]:53/UDP", "slot": 0, "id": 2, "flags": ["ClusterIP"]}),
            ),
        ];
        expect![[r"
            SERVICE ADDRESS         BACKEND ADDRESS (REVNAT_ID) (SLOT)
            10.96.0.1:443/TCP (0)   0.0.0.0:0 (1) (0) [ClusterIP, non-routable]
            10.96.0.1:443/TCP (1)   192.0.2.10:6443/TCP (1) (1)
            [fd00::1]:53/UDP (0)    [::]:0 (2) (0) [ClusterIP]
        "]]
        .assert_eq(&table(&rows));
    }

    #[test]
    fn tables_are_put_together_and_end_where_they_end() {
        let rows = [
            row(json!({"id": 3, "first": 2, "backends": [7, 0]})),
            row(json!({"id": 3, "first": 0, "backends": [7, 8]})),
        ];
        assert_eq!(tables(&rows)[&3], [7, 8, 7]);
        expect![[r"
            REVNAT_ID   TABLE SIZE   BACKEND_ID   PLACES
            3           3            7            2
                                     8            1
        "]]
        .assert_eq(&shares(&rows));
    }
}
