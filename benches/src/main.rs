//! `make bench`: every figure as a ratio to plain kernel networking of the same shape, measured in the same run.
mod control;
mod load;
mod policy;
mod programs;
mod report;
mod scale;
mod server;
mod starts;
mod topology;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;

use crate::{
    load::{Load, Target},
    report::{Report, Row},
    topology::{Family, Path, Side, Stage},
};

/// Measures the data path against plain kernel networking.
#[derive(Parser)]
struct Args {
    /// Interleaved rounds per figure; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that one load runs in one round.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Only figures whose name contains this.
    #[arg(long)]
    filter: Option<String>,
    /// Where the figures are written as JSON.
    #[arg(long, default_value = "target/bench/summary.json")]
    output: PathBuf,
    /// Where `hypha` and `hypha-cni` are.
    #[arg(long, default_value = "target/release")]
    bin: PathBuf,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(clap::Subcommand)]
enum Role {
    /// What the bench starts inside a node.
    #[command(hide = true)]
    DriveCni {
        #[arg(long)]
        bin: PathBuf,
    },
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(Role::DriveCni { bin }) = &args.role {
        return control::drive_cni(bin);
    }
    anyhow::ensure!(
        nix::unistd::Uid::effective().is_root(),
        "the bench makes network namespaces and loads programs: run it as root"
    );
    let mut report = Report::default();
    for path in Path::ALL {
        for family in Family::ALL {
            measure(&args, path, family, &mut report)?;
        }
    }
    programs::measure(&args.filter, &mut report)?;
    scale::measure(&args.filter, &mut report)?;
    server::measure(&args.filter, &mut report)?;
    policy::measure(
        &args.filter,
        &args.bin,
        args.rounds,
        args.seconds,
        &mut report,
    )?;
    let wanted = |names: &str| match &args.filter {
        Some(text) => names
            .split(' ')
            .any(|name| name.contains(text.as_str()) || text.starts_with(name)),
        None => true,
    };
    let (node, pods) = (
        wanted("control/cni control/agent control/programs size/hypha"),
        wanted("control/lab/up control/pod-start"),
    );
    if node || pods {
        let bin = args.bin.canonicalize().with_context(|| {
            format!(
                "{} is not there: run `make build` first",
                args.bin.display()
            )
        })?;
        if node {
            control::measure(&bin, &mut report)?;
        }
        if pods {
            starts::measure(&bin, &mut report)?;
        }
    }
    report.print();
    report
        .write(&args.output)
        .with_context(|| format!("cannot write {}", args.output.display()))
}

/// Measures every load on one path: both sides are up at once, and take turns.
fn measure(args: &Args, path: Path, family: Family, report: &mut Report) -> Result<()> {
    let name = |load: Load| format!("datapath/{path}/{family}/{load}");
    let loads: Vec<Load> = Load::ALL
        .into_iter()
        .filter(|l| {
            args.filter
                .as_ref()
                .is_none_or(|f| name(*l).contains(f.as_str()))
        })
        .collect();
    if loads.is_empty() {
        return Ok(());
    }
    let kernel = Stage::new(path, Side::Kernel)?;
    let hypha = Stage::new(path, Side::Hypha)?;
    let duration = Duration::from_secs_f64(args.seconds);
    for load in loads {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..args.rounds {
            theirs.push(load.run(&Target::of(&kernel, family), duration)?);
            ours.push(load.run(&Target::of(&hypha, family), duration)?);
        }
        let row = Row::new(name(load), load.unit(), &ours, &theirs);
        eprintln!("{row}");
        report.add(row);
    }
    Ok(())
}
