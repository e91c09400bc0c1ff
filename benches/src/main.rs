//! `make bench`: every figure as a ratio to plain kernel networking of the same shape, measured in the same run.
mod control;
mod filter;
mod flows;
mod flows_path;
mod load;
mod policy;
mod programs;
mod proxies;
mod proxy_path;
mod report;
mod scale;
mod server;
mod services;
mod services_path;
mod starts;
mod topology;
mod turns;

use std::{os::unix::process::CommandExt, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;

use crate::{
    filter::Filter,
    load::{Load, Target},
    report::Report,
    topology::{Family, Path, Side, Stage},
    turns::Turns,
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
    /// Only figures whose name begins with this.
    #[arg(long, default_value = "")]
    filter: Filter,
    /// Where the figures are written as JSON.
    #[arg(long, default_value = "target/bench/summary.json")]
    output: PathBuf,
    /// Where `hypha` and `hypha-cni` are.
    #[arg(long, default_value = "target/release")]
    bin: PathBuf,
    #[command(subcommand)]
    role: Option<Role>,
}

impl Args {
    fn turns(&self) -> Turns {
        Turns {
            rounds: self.rounds,
            duration: Duration::from_secs_f64(self.seconds),
        }
    }
}

#[derive(clap::Subcommand)]
enum Role {
    /// What the bench starts inside a node.
    #[command(hide = true)]
    DriveCni {
        #[arg(long)]
        bin: PathBuf,
    },
    /// A full ring of flows in a process of its own.
    #[command(hide = true)]
    DriveFlows,
    /// The policy task in a process of its own.
    #[command(hide = true)]
    DrivePolicy,
    /// The proxy in a process of its own, before a plain server.
    #[command(hide = true)]
    DriveProxy(proxies::Drive),
    /// The task of services in a process of its own.
    #[command(hide = true, name = "drive-services")]
    ServicesTask,
}

fn main() -> Result<()> {
    let args = Args::parse();
    match &args.role {
        Some(Role::DriveCni { bin }) => return control::drive_cni(bin),
        Some(Role::DriveFlows) => return flows::drive(),
        Some(Role::DrivePolicy) => return policy::drive(),
        Some(Role::DriveProxy(drive)) => return proxies::drive(drive),
        Some(Role::ServicesTask) => return services::drive(),
        None => {}
    }
    anyhow::ensure!(
        nix::unistd::Uid::effective().is_root(),
        "the bench makes network namespaces and loads programs: run it as root"
    );
    start_again_with(&args.bin)?;
    let mut report = Report::default();
    for path in Path::ALL {
        for family in Family::ALL {
            measure(&args, path, family, &mut report)?;
        }
    }
    services_path::measure(&args, &mut report)?;
    services::measure(&args.filter, &mut report)?;
    flows::measure(&args.filter, &mut report)?;
    flows_path::measure(&args, &mut report)?;
    proxy_path::measure(&args, &mut report)?;
    proxies::measure(&args, &mut report)?;
    programs::measure(&args.filter, &mut report)?;
    scale::measure(&args.filter, &mut report)?;
    server::measure(&args.filter, &mut report)?;
    policy::measure(&args.filter, &args.bin, args.turns(), &mut report)?;
    let any = |names: &[&str]| names.iter().any(|name| args.filter.wants(name));
    let (node, pods) = (
        any(&[
            "control/cni",
            "control/agent",
            "control/programs",
            "size/hypha",
        ]),
        any(&["control/lab/up", "control/pod-start"]),
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

/// What starts labs for others finds the programs by the environment, which cannot be changed safely in a process that runs: the
/// bench begins anew where it has another one.
fn start_again_with(bin: &std::path::Path) -> Result<()> {
    const NAME: &str = "HYPHA_BIN_DIR";
    let bin = std::path::absolute(bin)?;
    if std::env::var_os(NAME).is_some_and(|known| known == bin) {
        return Ok(());
    }
    let error = std::process::Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(NAME, bin)
        .exec();
    Err(error).context("starting the bench anew")
}

/// Measures every load on one path: both sides are up at once, and take turns.
fn measure(args: &Args, path: Path, family: Family, report: &mut Report) -> Result<()> {
    let name = |load: Load| format!("datapath/{path}/{family}/{load}");
    let loads: Vec<Load> = Load::ALL
        .into_iter()
        .filter(|load| args.filter.wants(&name(*load)))
        .collect();
    if loads.is_empty() {
        return Ok(());
    }
    let kernel = Stage::new(path, Side::Kernel)?;
    let hypha = Stage::new(path, Side::Hypha)?;
    let (ours, theirs) = (Target::of(&hypha, family), Target::of(&kernel, family));
    let turns = args.turns();
    for load in loads {
        report.add(turns.between(name(load), load, &ours, &theirs)?);
    }
    Ok(())
}
