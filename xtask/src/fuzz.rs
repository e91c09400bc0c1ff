//! `cargo xtask fuzz`: libFuzzer on the targets of fuzz/, one after the other.

use std::fs;

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
    for target in wanted {
        // What libFuzzer finds worth keeping goes into the first folder; the second one is the sources'.
        let found = top.join("target/fuzz-corpus").join(target);
        fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
        let mut command = std::process::Command::new(&program);
        // Without a sanitizer: there is no unsafe code in what is fuzzed, and the stable compiler can do it.
        command
            .current_dir(&top)
            .args(["fuzz", "run", "--sanitizer", "none", target])
            .arg(&found)
            .arg(top.join("fuzz/corpus").join(target))
            .args(["--", &format!("-max_total_time={}", options.seconds)]);
        proc::run(&mut command).with_context(|| format!("fuzz target {target}"))?;
    }
    Ok(())
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
