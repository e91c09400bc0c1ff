//! `cargo xtask fuzz`: libFuzzer on the targets of fuzz/, one after the other.

use std::env::consts::ARCH;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::setup::{self, tools};
use crate::{paths, proc};

/// What is fuzzed, and for how long.
#[derive(Args)]
pub struct Options {
    /// Targets (default: all)
    targets: Vec<String>,
    /// Seconds for each
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Runs them until the first finding, which libFuzzer leaves in fuzz/artifacts.
pub fn run(options: &Options) -> Result<()> {
    let known = targets()?;
    if let Some(other) = options.targets.iter().find(|name| !known.contains(name)) {
        bail!(
            "there is no fuzz target {other}; accepted: {}",
            known.join(", ")
        );
    }
    let wanted = match options.targets.as_slice() {
        [] => known.as_slice(),
        given => given,
    };
    setup::run(&setup::Options::new(setup::Purpose::Build))?;
    tools::install(&tools::FUZZ)?;
    let program = tools::program(&tools::FUZZ).context("cargo-fuzz is not installed")?;
    let top = paths::workspace();
    // All at once: what they share is looked at, and built, once. Without a sanitizer: there is no unsafe code in what is fuzzed, and
    // the stable compiler can do it.
    let mut build = Command::new(&program);
    build
        .current_dir(&top)
        .args(["fuzz", "build", "--sanitizer", "none"])
        .args(options.targets.first().filter(|_| wanted.len() == 1));
    proc::run(&mut build).context("building the fuzz targets")?;
    for target in wanted {
        run_one(&top, target, options.seconds).with_context(|| format!("fuzz target {target}"))?;
    }
    Ok(())
}

fn run_one(top: &Path, target: &str, seconds: u32) -> Result<()> {
    // What libFuzzer finds worth keeping goes into the first folder; the second one is the sources'.
    let found = top.join("target/fuzz-corpus").join(target);
    let findings = top.join("fuzz/artifacts").join(target);
    for folder in [&found, &findings] {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    println!("fuzz {target} for {seconds} s");
    // Where cargo-fuzz builds for the machine that it runs on.
    let built = format!("fuzz/target/{}-unknown-linux-gnu/release", ARCH);
    let mut command = Command::new(top.join(built).join(target));
    command
        .current_dir(top)
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .arg(format!("-max_total_time={seconds}"))
        .arg(&found)
        .arg(top.join("fuzz/corpus").join(target));
    proc::run(&mut command)
}

/// The targets by their files.
fn targets() -> Result<Vec<String>> {
    let dir = paths::workspace().join("fuzz/fuzz_targets");
    let files = fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let name = |path: std::path::PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
    let mut names: Vec<String> = files
        .flatten()
        .filter_map(|file| name(file.path()))
        .collect();
    names.sort();
    Ok(names)
}
