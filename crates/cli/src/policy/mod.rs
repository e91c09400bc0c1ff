//! `hypha policy`: questions about network policy that the API server's objects answer, so that any cluster can be asked.
//!
//! Crate `policy` evaluates here what the agents evaluate there; they are asked for one thing alone: which addresses a name has (`name`).
mod check;
mod cluster;
mod diff;
mod files;
mod flows;
mod manifest;
mod name;
mod place;
mod secrets;
#[cfg(test)]
mod seen_tests;
mod suggest;
#[cfg(test)]
mod tests;
mod traffic;
mod why;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::kube::ClusterArgs;

/// `hypha policy`.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Whether traffic passes, and which rules decide; exit status 1 if nothing passes
    Why(why::WhyArgs),
    /// Whether policies are right, and what they would do; exit status 1 if one is wrong
    Check(check::CheckArgs),
    /// Which pairs could talk after a change and cannot now, or the reverse; exit status 1 if there are any
    Diff(diff::DiffArgs),
    /// Policies that allow what was seen and nothing else; exit status 1 if something of that would not pass
    Suggest(suggest::SuggestArgs),
}

/// Runs the command.
///
/// # Errors
/// Whatever the command could not do; findings.
pub fn run(args: &PolicyArgs) -> Result<()> {
    match &args.command {
        PolicyCommand::Why(why) => why::run(&args.cluster, why),
        PolicyCommand::Check(check) => check::run(&args.cluster, check),
        PolicyCommand::Diff(diff) => diff::run(&args.cluster, diff),
        PolicyCommand::Suggest(suggest) => suggest::run(&args.cluster, suggest),
    }
}

/// The first `most` of these names, and how many more there are.
fn first_of(names: &[String], most: usize) -> String {
    let first = names[..names.len().min(most)].join(", ");
    match names.len().saturating_sub(most) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
