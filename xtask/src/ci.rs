//! `cargo xtask ci`: everything that must hold before a change goes in, in one run.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::setup::{self, Toolchain, bpf_linker, tools};
use crate::{bpf, paths, proc, release, tidy, vm};

type Step = (&'static str, fn() -> Result<()>);

/// Cheap and telling steps first.
const STATIC: [Step; 7] = [
    ("set-up", set_up),
    ("format", format),
    ("eBPF object", object),
    ("clippy", clippy),
    ("clippy of the programs", clippy_bpf),
    ("tidy", tidy::run),
    ("dependencies", deny),
];
const RUNNING: [Step; 3] = [
    ("build", release::binaries),
    ("an older kernel", older_kernel),
    ("tests", tests),
];

/// Every step, up to the first that fails.
pub fn ci() -> Result<()> {
    run(&[&STATIC[..], &RUNNING[..]].concat())
}

/// The steps that only look at the sources.
pub fn check() -> Result<()> {
    run(&STATIC)
}

/// The headings go to standard error, where cargo and nextest write too, so that all stays in order and the
/// summary of the tests is the last line.
fn run(steps: &[Step]) -> Result<()> {
    let start = Instant::now();
    let mut times = Vec::new();
    for (index, (name, step)) in steps.iter().enumerate() {
        if index + 1 == steps.len() {
            eprintln!("\n== times: {} ==", times.join(", "));
        }
        eprintln!("\n== {}/{} {name} ==", index + 1, steps.len());
        let began = Instant::now();
        step().with_context(|| {
            format!(
                "step `{name}` failed after {:.0} s",
                start.elapsed().as_secs_f64()
            )
        })?;
        times.push(format!("{name} {:.0} s", began.elapsed().as_secs_f64()));
    }
    Ok(())
}

fn set_up() -> Result<()> {
    setup::run(&setup::Options::new(setup::Purpose::Test))
}

fn format() -> Result<()> {
    proc::run(proc::cargo().args(["fmt", "--all", "--check"]))?;
    proc::run(proc::cargo().args(["fmt", "--manifest-path", "bpf/Cargo.toml", "--check"]))
}

fn object() -> Result<()> {
    bpf::build(&bpf::Options::default())
}

fn clippy() -> Result<()> {
    let words = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ];
    proc::run(proc::cargo().args(words))
}

fn clippy_bpf() -> Result<()> {
    let linker = bpf_linker(&Toolchain::detect()?)?;
    proc::run(bpf::cargo("clippy", &linker).args(["--locked", "--", "-D", "warnings"]))
}

/// Licences, sources and bans decide; advisories are shown, since they change without the tree changing.
fn deny() -> Result<()> {
    let program = tools::program(&tools::DENY).context("cargo-deny is not installed")?;
    let check = |manifest: &str, what: &[&str]| {
        let mut command = Command::new(&program);
        command
            .current_dir(paths::workspace())
            .args(["--manifest-path", manifest, "check"])
            .args(what);
        command
    };
    for manifest in ["Cargo.toml", "bpf/Cargo.toml"] {
        proc::run(
            check(manifest, &["bans", "licenses", "sources"]).args(["--hide-inclusion-graph"]),
        )?;
    }
    let mut fetch = Command::new(&program);
    fetch.current_dir(paths::workspace()).args(["fetch", "db"]);
    if !proc::succeeds(&mut fetch, Duration::from_secs(30)) {
        eprintln!("advisories: skipped, their database cannot be fetched from here");
    } else if proc::run(&mut check("Cargo.toml", &["advisories", "--disable-fetch"])).is_err() {
        eprintln!("advisories: see above (shown, not a reason to fail)");
    }
    Ok(())
}

fn older_kernel() -> Result<()> {
    vm::quick().map(drop)
}

/// Unit, golden, program and lab tests; those that start our binaries find them through HYPHA_BIN_DIR.
fn tests() -> Result<()> {
    let program = tools::program(&tools::NEXTEST).context("cargo-nextest is not installed")?;
    let mut command = Command::new(program);
    command
        .current_dir(paths::workspace())
        .args(["nextest", "run", "--workspace", "--profile", "ci"])
        .env("HYPHA_BIN_DIR", paths::release(""));
    proc::run(&mut command)
}
