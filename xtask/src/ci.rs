//! `cargo xtask ci`: everything that must hold before a change goes in, in one run.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::setup::{self, Toolchain, bpf_linker, tools};
use crate::{bpf, nextest, paths, proc, release, tidy, vm};

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
/// Programs are built as the tests are, so that nothing is built twice; only the plugin must be of its own kind, static and small.
const RUNNING: [Step; 3] = [
    ("plugin", plugin),
    ("build", nextest::build),
    ("an older kernel", older_kernel),
];

/// Every step, up to the first that fails, and then every test. Whether all passed; the last line printed is the
/// tests' count.
pub fn ci() -> Result<bool> {
    let steps = [&STATIC[..], &RUNNING[..]].concat();
    run(&steps, steps.len() + 1)?;
    heading(steps.len() + 1, steps.len() + 1, "tests");
    let start = Instant::now();
    let count = nextest::run()?;
    println!("{count} ({:.0} s)", start.elapsed().as_secs_f64());
    Ok(count.failed == 0)
}

/// The steps that only look at the sources.
pub fn check() -> Result<()> {
    run(&STATIC, STATIC.len())
}

fn run(steps: &[Step], total: usize) -> Result<()> {
    let mut times = Vec::new();
    for (index, (name, step)) in steps.iter().enumerate() {
        heading(index + 1, total, name);
        let start = Instant::now();
        let result = step();
        let took = start.elapsed().as_secs_f64();
        result.with_context(|| format!("step `{name}` failed after {took:.0} s"))?;
        times.push(format!("{name} {took:.0} s"));
    }
    eprintln!("\n== times: {} ==", times.join(", "));
    Ok(())
}

/// To standard error, where cargo and nextest write too, so that all stays in order.
fn heading(number: usize, total: usize, name: &str) {
    eprintln!("\n== {number}/{total} {name} ==");
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

fn plugin() -> Result<()> {
    release::cni().map(drop)
}

fn older_kernel() -> Result<()> {
    vm::quick().map(drop)
}
