//! `hypha service`: questions about services.
use std::fmt::Write as _;

use anyhow::Result;
use api::{ServiceWhy, path};
use clap::{Args, Subcommand};

use crate::output::OutputArgs;
use crate::target::{Agent, TargetArgs, show};

/// `hypha service`.
#[derive(Debug, Args)]
pub struct ServiceArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(subcommand)]
    command: ServiceCommand,
}

#[derive(Debug, Subcommand)]
enum ServiceCommand {
    /// Which backends a client may get, and why the others are left out
    Why {
        /// An address and a port as 10.96.0.10:53/UDP, or a service as default/web for all of its frontends
        #[arg(value_name = "FRONTEND")]
        frontend: String,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// Runs the command.
///
/// # Errors
/// Whatever the command could not do.
pub fn run(args: &ServiceArgs) -> Result<()> {
    let mut agents = args.target.agents()?;
    let ServiceCommand::Why { frontend, output } = &args.command;
    let ask = |agent: &mut Agent| {
        let found: Vec<ServiceWhy> = agent.client.get(&path::service_why(frontend))?;
        Ok(found)
    };
    show(&mut agents, output, ask, |found| text(found))
}

fn text(found: &[ServiceWhy]) -> String {
    let blocks: Vec<String> = found.iter().map(block).collect();
    blocks.join("\n")
}

fn block(why: &ServiceWhy) -> String {
    let service = &why.service;
    let number = match service.id {
        0 => "not in the kernel".to_owned(),
        id => format!("number {id}"),
    };
    let mut text = format!(
        "{}  {} of {}, {number}",
        service.frontend, service.kind, service.owner
    );
    if !service.flags.is_empty() {
        let _ = write!(text, " [{}]", service.flags.join(", "));
    }
    text.push('\n');
    for candidate in &why.candidates {
        let mark = if candidate.used { '+' } else { '-' };
        let _ = write!(text, "  {mark} {}  {}", candidate.address, candidate.fate);
        if !candidate.place.is_empty() {
            let _ = write!(text, "  ({})", candidate.place);
        }
        text.push('\n');
    }
    if why.candidates.is_empty() {
        text.push_str("  nobody is behind it\n");
    }
    for note in &why.notes {
        let _ = writeln!(text, "  {note}");
    }
    for other in &why.others {
        let _ = writeln!(text, "  wanted by {other}, too");
    }
    text
}

#[cfg(test)]
mod tests {
    use api::{ServiceCandidate, ServiceInfo};
    use expect_test::expect;

    use super::*;

    #[test]
    fn every_candidate_is_told_with_its_fate() {
        let candidate = |address: &str, fate: &str, used| ServiceCandidate {
            address: address.into(),
            fate: fate.into(),
            used,
            place: "node n1".into(),
        };
        let why = ServiceWhy {
            service: ServiceInfo {
                id: 7,
                frontend: "10.96.0.10:53/UDP".into(),
                kind: "ClusterIP".into(),
                owner: "service kube-system/dns".into(),
                flags: vec!["non-routable".into()],
                ..ServiceInfo::default()
            },
            candidates: vec![
                candidate("10.7.1.12:53/UDP", "used", true),
                candidate("10.7.1.13:53/UDP", "left out: not ready", false),
            ],
            others: vec!["service a/b".into()],
            notes: vec!["a client keeps its backend for 60 s".into()],
        };
        expect![[r"
            10.96.0.10:53/UDP  ClusterIP of service kube-system/dns, number 7 [non-routable]
              + 10.7.1.12:53/UDP  used  (node n1)
              - 10.7.1.13:53/UDP  left out: not ready  (node n1)
              a client keeps its backend for 60 s
              wanted by service a/b, too
        "]]
        .assert_eq(&text(&[why]));
    }
}
