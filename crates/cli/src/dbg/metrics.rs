//! `metrics list`: what the agent offers to Prometheus, as a table.
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Subcommand;
use nix::sched::{CloneFlags, setns};
use serde::Serialize;

use super::state;
use crate::labs;
use crate::output::OutputArgs;
use crate::table::Table;
use crate::target::{Agent, show};

/// Where the agent serves metrics unless told otherwise.
const DEFAULT_ADDRESS: &str = ":9962";
/// More than any agent has.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

#[derive(Debug, Subcommand)]
pub enum MetricsCommand {
    /// All metrics, or those whose name contains a text
    List {
        /// Only metrics whose name contains this text
        #[arg(short = 'p', long = "match-pattern", value_name = "TEXT")]
        pattern: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// One sample.
#[derive(Debug, PartialEq, Serialize)]
struct Sample {
    name: String,
    labels: String,
    value: f64,
}

pub fn run(
    agents: &mut [Agent],
    MetricsCommand::List { pattern, output }: &MetricsCommand,
) -> Result<()> {
    let ask = |agent: &mut Agent| {
        let mut samples = parse(&fetch(agent)?);
        samples.retain(|sample| {
            pattern
                .as_ref()
                .is_none_or(|text| sample.name.contains(text))
        });
        Ok(samples)
    };
    show(agents, output, ask, |samples| list(samples))
}

fn fetch(agent: &mut Agent) -> Result<String> {
    let configured =
        state::value_of(agent, "prometheus-serve-addr")?.unwrap_or_else(|| DEFAULT_ADDRESS.into());
    let address = reachable(&configured)
        .with_context(|| format!("setting prometheus-serve-addr is `{configured}`"))?;
    let holder = agent.holder;
    let inside = thread::spawn(move || -> Result<String> {
        if let Some(pid) = holder {
            let netns =
                File::open(labs::netns(pid)).context("cannot open the node's network namespace")?;
            setns(netns, CloneFlags::CLONE_NEWNET)
                .context("cannot enter the node's network namespace")?;
        }
        get(address).with_context(|| format!("cannot read metrics from {address}"))
    });
    inside
        .join()
        .map_err(|_| anyhow!("the thread that reads metrics ended early"))?
}

/// An address to connect to for one to listen at: `:9962` listens everywhere.
fn reachable(configured: &str) -> Result<SocketAddr> {
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    if let Some(port) = configured.strip_prefix(':') {
        return Ok(SocketAddr::new(
            loopback,
            port.parse().context("expected a port after `:`")?,
        ));
    }
    let mut address: SocketAddr = configured.parse().context("expected address:port")?;
    if address.ip().is_unspecified() {
        address.set_ip(loopback);
    }
    Ok(address)
}

fn get(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // Version 1.0: the answer comes in one piece and ends with the connection.
    write!(
        stream,
        "GET /metrics HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer is not HTTP")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("the agent answered with status {status}");
    }
    Ok(body.to_owned())
}

fn parse(text: &str) -> Vec<Sample> {
    let mut samples: Vec<Sample> = text.lines().filter_map(sample).collect();
    samples.sort_by(|a, b| (&a.name, &a.labels).cmp(&(&b.name, &b.labels)));
    samples
}

/// `name{key="value",…} 1.5`, without a comment.
fn sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = match line.rfind('}') {
        Some(end) => line.split_at(end + 1),
        None => line.split_once(' ')?,
    };
    let (name, labels) = series.split_once('{').map_or((series, ""), |(name, rest)| {
        (name, rest.trim_end_matches('}'))
    });
    let value = value.split_whitespace().next()?.parse().ok()?;
    Some(Sample {
        name: name.into(),
        labels: labels.replace("\",", "\" "),
        value,
    })
}

fn list(samples: &[Sample]) -> String {
    let mut table = Table::new(&["Metric", "Labels", "Value"]);
    for sample in samples {
        table.row(&[
            sample.name.clone(),
            sample.labels.clone(),
            format!("{:.6}", sample.value),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    const TEXT: &str = "# HELP cilium_x Something\n# TYPE cilium_x counter\ncilium_x_total{reason=\"a b\",direction=\"egress\"} 7\n\
                        cilium_up 1\ncilium_size{le=\"+Inf\"} 2.5 1700000000\nbroken\n# EOF\n";

    #[test]
    fn samples_as_a_table() {
        expect![[r#"
            Metric           Labels                            Value
            cilium_size      le="+Inf"                         2.500000
            cilium_up                                          1.000000
            cilium_x_total   reason="a b" direction="egress"   7.000000
        "#]]
        .assert_eq(&list(&parse(TEXT)));
    }

    #[test]
    fn addresses() {
        for (configured, meant) in [
            (":9962", "127.0.0.1:9962"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("192.0.2.1:2", "192.0.2.1:2"),
        ] {
            assert_eq!(reachable(configured).unwrap().to_string(), meant);
        }
        assert!(reachable("nonsense").is_err() && reachable(":x").is_err());
    }
}
