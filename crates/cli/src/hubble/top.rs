//! `hypha flows top`: who talks most, now.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, stdout};
use std::path::PathBuf;
use std::time::Duration;

use ::flow::filter;
use ::flow::view::{End, View as _};
use anyhow::Result;
use api::hubble::flow::{Endpoint, Flow, Verdict};
use api::hubble::observer::GetFlowsRequest;
use api::hubble::observer::get_flows_response::ResponseTypes;
use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::observe::flags::FilterFlags;
use super::observe::select::SelectFlags;
use super::observe::{self, file};
use super::settings::Settings;
use super::time;
use crate::error::Usage;
use crate::output;
use crate::table::align;

/// Rows that are remembered before those that are silent go.
const MOST: usize = 10_000;

#[derive(Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    filters: FilterFlags,
    /// What the ends are taken together by
    #[arg(long, value_name = "WHAT", default_value = "pod")]
    by: By,
    /// How often the table is printed
    #[arg(long, value_name = "TIME", default_value = "2s")]
    interval: String,
    /// How many rows it has
    #[arg(long, value_name = "N", default_value = "20")]
    rows: usize,
    /// After how many tables to end; 0: never
    #[arg(long, value_name = "N", default_value = "0")]
    tables: u64,
    /// Count what was recorded in this file instead of asking a server; - is standard input
    #[arg(long, value_name = "FILE")]
    input_file: Option<PathBuf>,
}

/// What ends are taken together by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Pod,
    Workload,
    Namespace,
    Identity,
}

/// Carries the command out.
///
/// # Errors
/// Nobody answers, or the server refuses.
pub fn run(args: &TopArgs, settings: &Settings) -> Result<()> {
    let wanted = &args.filters.filters;
    let mut tally = Tally::new(args.by);
    if let Some(path) = &args.input_file {
        let filters = filter::Filters::compile(&wanted.allow, &wanted.deny)
            .map_err(|error| Usage(error.to_string()))?;
        let all = SelectFlags::default().selection(Timestamp::now(), true)?;
        file::read(file::open(path)?, &all, false, file::flow, |response| {
            if let Some(ResponseTypes::Flow(flow)) = response.response_types
                && filters.passes(&flow)
            {
                tally.add(&flow);
            }
            Ok(())
        })?;
        return output::write_out(&tally.table(args.rows));
    }
    let interval = time::limit(&args.interval).map_err(|wrong| {
        Usage(format!(
            "invalid value '{}' for '--interval': {wrong}",
            args.interval
        ))
    })?;
    let interval = interval.max(Duration::from_millis(100));
    let request = GetFlowsRequest {
        follow: true,
        whitelist: wanted.allow.clone(),
        blacklist: wanted.deny.clone(),
        ..GetFlowsRequest::default()
    };
    let clear = if stdout().is_terminal() {
        "\u{1b}[H\u{1b}[2J"
    } else {
        ""
    };
    let mut printed = 0;
    super::on_server(settings, async |server| {
        let stream = server.observer().get_flows(request).await;
        let mut ticks = tokio::time::interval(interval);
        ticks.tick().await;
        observe::each_until(&server, stream, &mut ticks, |event| {
            match event {
                observe::Event::Message(response) => {
                    if let Some(ResponseTypes::Flow(flow)) = response.response_types {
                        tally.add(&flow);
                    }
                }
                observe::Event::Tick => {
                    output::write_out(&format!("{clear}{}", tally.table(args.rows)))?;
                    tally.forget();
                    printed += 1;
                }
            }
            Ok(args.tables == 0 || printed < args.tables)
        })
        .await
    })
}

/// Who talks to whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    source: String,
    destination: String,
    traffic: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// Since the last table.
    now: u64,
    all: u64,
    dropped: u64,
}

struct Tally {
    by: By,
    rows: BTreeMap<Row, Count>,
}

impl Tally {
    fn new(by: By) -> Self {
        Self {
            by,
            rows: BTreeMap::new(),
        }
    }

    /// Counts a flow; an answer counts for what it answers.
    fn add(&mut self, flow: &Flow) {
        let turned = flow.is_reply == Some(true);
        let (from, to) = if turned {
            (End::Destination, End::Source)
        } else {
            (End::Source, End::Destination)
        };
        let protocol = flow.protocol().map_or("-", |protocol| {
            use ::flow::view::L4;
            match protocol {
                L4::Tcp => "TCP",
                L4::Udp => "UDP",
                L4::Sctp => "SCTP",
                L4::Icmp4 => "ICMP",
                L4::Icmp6 => "ICMPv6",
            }
        });
        let traffic = match flow.port(to) {
            Some(port) => format!("{port}/{protocol}"),
            None => protocol.to_owned(),
        };
        let row = Row {
            source: self.name(flow, from),
            destination: self.name(flow, to),
            traffic,
        };
        let count = self.rows.entry(row).or_default();
        count.now += 1;
        count.all += 1;
        count.dropped += u64::from(flow.verdict() == Verdict::Dropped);
    }

    fn name(&self, flow: &Flow, end: End) -> String {
        let address = || {
            flow.ip(end)
                .map_or_else(|| "-".to_owned(), |ip| ip.to_string())
        };
        let Some(endpoint) = flow.endpoint(end) else {
            return address();
        };
        let named = match self.by {
            By::Pod => in_namespace(endpoint, &endpoint.pod_name),
            By::Workload => {
                let workload = endpoint.workloads.first();
                let name = workload.map_or(endpoint.pod_name.as_str(), |one| one.name.as_str());
                in_namespace(endpoint, name)
            }
            By::Namespace => endpoint.namespace.clone(),
            By::Identity => identity(endpoint.identity),
        };
        if named.is_empty() && self.by == By::Pod {
            address()
        } else if named.is_empty() {
            identity(endpoint.identity)
        } else {
            named
        }
    }

    /// A new interval begins.
    fn forget(&mut self) {
        let crowded = self.rows.len() > MOST;
        self.rows.retain(|_, count| !crowded || count.now > 0);
        for count in self.rows.values_mut() {
            count.now = 0;
        }
    }

    /// The busiest rows, busiest first.
    fn table(&self, rows: usize) -> String {
        let mut all: Vec<(&Row, &Count)> = self.rows.iter().collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse((count.now, count.all)));
        let mut table = "SOURCE\tDESTINATION\tTRAFFIC\tFLOWS\tTOTAL\tDROPPED\n".to_owned();
        for (row, count) in all.into_iter().take(rows) {
            let _ = writeln!(
                table,
                "{}\t{}\t{}\t{}\t{}\t{}",
                row.source, row.destination, row.traffic, count.now, count.all, count.dropped
            );
        }
        align(&table)
    }
}

fn in_namespace(endpoint: &Endpoint, name: &str) -> String {
    match (endpoint.namespace.as_str(), name) {
        (_, "") => String::new(),
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

fn identity(number: u32) -> String {
    match abi::identity::reserved_name(number) {
        Some(name) => name.to_owned(),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use api::hubble::json::{self, Unknown};
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn flow(from: &str, to: &str, port: u16, reply: bool, verdict: &str) -> Flow {
        let end = |name: &str| match name.split_once('/') {
            Some((namespace, pod)) => {
                json!({"namespace": namespace, "pod_name": pod, "identity": 300,
                "workloads": [{"name": pod.trim_end_matches(|c: char| c == '-' || c.is_ascii_digit()), "kind": "Deployment"}]})
            }
            None => json!({"identity": 2}),
        };
        let text = json!({
            "verdict": verdict, "is_reply": reply, "source": end(from), "destination": end(to),
            "IP": {"source": "10.0.0.1", "destination": "192.0.2.1", "ipVersion": "IPv4"},
            "l4": {"TCP": {"source_port": if reply { port } else { 40000 }, "destination_port": if reply { 40000 } else { port }}},
        });
        json::from_str(&text.to_string(), Unknown::Refuse).unwrap()
    }

    fn tally(by: By) -> Tally {
        let mut tally = Tally::new(by);
        for (from, to, port, reply, verdict) in [
            ("shop/cart-1", "shop/db-0", 5432, false, "FORWARDED"),
            ("shop/db-0", "shop/cart-1", 5432, true, "FORWARDED"),
            ("shop/cart-2", "shop/db-0", 5432, false, "FORWARDED"),
            ("shop/cart-2", "world", 443, false, "DROPPED"),
        ] {
            tally.add(&flow(from, to, port, reply, verdict));
        }
        tally
    }

    #[test]
    fn the_busiest_stand_first() {
        expect![[r#"
            SOURCE        DESTINATION   TRAFFIC    FLOWS   TOTAL   DROPPED
            shop/cart-1   shop/db-0     5432/TCP   2       2       0
            shop/cart-2   192.0.2.1     443/TCP    1       1       1
        "#]]
        .assert_eq(&tally(By::Pod).table(2));
        expect![[r#"
            SOURCE      DESTINATION   TRAFFIC    FLOWS   TOTAL   DROPPED
            shop/cart   shop/db       5432/TCP   3       3       0
            shop/cart   world         443/TCP    1       1       1
        "#]]
        .assert_eq(&tally(By::Workload).table(9));
        let mut tally = tally(By::Namespace);
        tally.forget();
        tally.add(&flow("shop/a-1", "bank/b-1", 1, false, "FORWARDED"));
        expect![[r#"
            SOURCE   DESTINATION   TRAFFIC    FLOWS   TOTAL   DROPPED
            shop     bank          1/TCP      1       1       0
            shop     shop          5432/TCP   0       3       0
            shop     world         443/TCP    0       1       1
        "#]]
        .assert_eq(&tally.table(9));
    }
}
