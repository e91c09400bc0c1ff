//! The command around the matrix.
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, Subcommand};
use runtime::flags::seconds;

use super::plan::{self, Case, Scene};
use super::{report, run, samples, scene};
use crate::error::{Findings, Usage};
use crate::labs;
use crate::output::{OutputArgs, render, write_out};

/// `hypha connectivity`.
#[derive(Debug, Subcommand)]
pub enum ConnectivityCommand {
    /// Try every path between pods, hosts and the outside, and print which work
    Test(TestArgs),
}

/// Options of `hypha connectivity test`.
#[derive(Clone, Debug, Args)]
pub struct TestArgs {
    /// The lab; by default the only one that runs
    #[arg(long, value_name = "LAB")]
    pub name: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    /// Only cells whose description contains this text, as `outside`, `ipv6 udp` or `icmp full`
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Seconds that an answer may take
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = patience)]
    timeout: Duration,
    /// How often a cell that failed is tried again
    #[arg(long, value_name = "N", default_value_t = 1)]
    retries: u32,
    /// Probes at a time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    at_once: u16,
    /// From every node's pods and hosts, not only the first node's
    #[arg(long)]
    all_nodes: bool,
}

fn patience(text: &str) -> Result<Duration, String> {
    let time = seconds(text)?;
    let accepted = Duration::from_millis(10)..=Duration::from_secs(600);
    if accepted.contains(&time) {
        Ok(time)
    } else {
        Err("accepted: 0.01 to 600 seconds".into())
    }
}

/// `hypha connectivity test`.
///
/// # Errors
/// As [`test`]; [`Usage`] if there is no such lab; if the sample pods cannot be had.
pub fn run(args: &TestArgs) -> Result<()> {
    let lab = labs::find(args.name.as_deref())?;
    let pods = samples::ready(&lab)?;
    test(args, &scene::of(&lab, &pods)?)
}

/// Runs the matrix on `scene` and prints it.
///
/// # Errors
/// [`Findings`] if a cell fails; [`Usage`] if nothing is left to run.
pub fn test(args: &TestArgs, scene: &Scene) -> Result<()> {
    let start = Instant::now();
    let cases = selected(args, scene)?;
    if !scene.pods_routed {
        eprintln!(
            "not tested: paths between nodes of different networks, as the router has no routes to pods"
        );
    }
    let options = run::Options {
        timeout: args.timeout,
        retries: args.retries,
        at_once: args.at_once.into(),
    };
    let outcomes = run::run(scene, cases, options)?;
    match &args.output.format {
        Some(format) => write_out(&render(format, &report::rows(&outcomes))?)?,
        None => write_out(&report::text(&outcomes, start.elapsed(), colour()))?,
    }
    if outcomes.iter().any(|outcome| outcome.failure.is_some()) {
        Err(Findings.into())
    } else {
        Ok(())
    }
}

fn selected(args: &TestArgs, scene: &Scene) -> Result<Vec<Case>> {
    let nodes = if args.all_nodes {
        0..scene.nodes.len()
    } else {
        0..scene.nodes.len().min(1)
    };
    let mut cases: Vec<Case> = nodes.flat_map(|node| plan::cases(scene, node)).collect();
    if let Some(filter) = &args.filter {
        cases.retain(|case| matches(case, filter));
    }
    if cases.is_empty() {
        let what = args.filter.as_ref().map_or_else(
            || "the lab has no pods".into(),
            |filter| format!("no cell matches `{filter}`"),
        );
        return Err(Usage(format!(
            "nothing to test: {what}; cells read like `pod → outside host: ipv4 udp full`"
        ))
        .into());
    }
    Ok(cases)
}

fn matches(case: &Case, filter: &str) -> bool {
    let family = plan::Family::of(case.target).text();
    let text = format!(
        "{}: {family} {} {} {} {}",
        case.path,
        case.protocol.text(),
        case.size.text(),
        case.from,
        case.to
    );
    // As typed on a keyboard: `pod -> pod`. Words may stand apart, as in `ipv6 large`.
    let filter = filter.replace("->", "→").to_lowercase();
    let text = text.to_lowercase();
    text.contains(&filter)
        || filter
            .split_whitespace()
            .all(|word| text.split([' ', ':', ',']).any(|part| part == word))
}

fn colour() -> bool {
    std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectivity::plan::tests::scene;

    #[test]
    fn filters() {
        let cases = plan::cases(&scene(), 0);
        let count = |filter: &str| cases.iter().filter(|case| matches(case, filter)).count();
        assert_eq!(count("outside host"), 18);
        assert_eq!(count("pod -> pod, same node"), 9);
        assert_eq!(
            count("ipv6 large"),
            cases.iter().filter(|c| c.target.is_ipv6()).count() / 3
        );
        assert_eq!(count("icmp full"), cases.len() / 9);
        assert_eq!(count("no such"), 0);
    }

    #[test]
    fn times_within_reason() {
        assert_eq!(patience("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(patience("2s"), Ok(Duration::from_secs(2)));
        for bad in ["", "-1", "NaN", "1e9", "x"] {
            assert!(patience(bad).unwrap_err().contains("accepted"), "{bad}");
        }
    }
}
