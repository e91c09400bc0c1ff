//! Other kernels: the tests that load and attach the programs, and the connectivity matrix, in virtual machines.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::{paths, proc};

const QEMU: &str = "qemu-system-x86_64";
/// Oldest supported first; 5.10 and 6.1 have clsact only, the others tcx.
const KERNELS: [&str; 4] = ["5.10", "6.1", "6.12", "7.2"];
/// Old enough to lack tcx, new enough to start fast.
const QUICK_KERNEL: &str = "6.1";
/// The tests of the datapath crate that load every program and attach it.
const LOAD_TESTS: &str = "load_and_attach";

/// Which kernels to run on.
#[derive(Args)]
pub struct Options {
    /// One kernel instead of all
    #[arg(long, value_parser = KERNELS)]
    kernel: Option<String>,
    /// One routing mode instead of all
    #[arg(long, value_parser = ["vxlan", "geneve", "native"])]
    routing: Option<String>,
}

/// Loads and attaches the programs on one older kernel; `false` when QEMU is missing.
pub fn quick() -> Result<bool> {
    if !available("the check on an older kernel") {
        return Ok(false);
    }
    load_and_attach(QUICK_KERNEL, &load_tests()?)?;
    Ok(true)
}

/// Every kernel: programs load and attach, and the matrix is green in every routing mode. Slow: emulated.
pub fn kernels(options: &Options) -> Result<()> {
    if !available("the tests on other kernels") {
        return Ok(());
    }
    let tests = load_tests()?;
    let mut failed = Vec::new();
    for kernel in KERNELS
        .iter()
        .filter(|kernel| options.kernel.as_deref().is_none_or(|one| one == **kernel))
    {
        let modes = ["vxlan", "geneve", "native"];
        let modes = modes
            .iter()
            .filter(|mode| options.routing.as_deref().is_none_or(|one| one == **mode));
        let mut results = vec![("load and attach", load_and_attach(kernel, &tests))];
        results.extend(modes.map(|mode| (*mode, matrix(kernel, mode))));
        for (what, result) in results {
            println!(
                "Linux {kernel}, {what}: {}",
                if result.is_ok() { "ok" } else { "FAILED" }
            );
            failed.extend(
                result
                    .err()
                    .map(|error| format!("Linux {kernel}, {what}: {error:#}")),
            );
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("{}", failed.join("\n")),
    }
}

fn available(what: &str) -> bool {
    let found = paths::which(QEMU).is_some();
    if !found {
        println!("skipped: {what} needs {QEMU} (as root: `cargo xtask setup --purpose kernels`)");
    }
    found
}

/// vmtest with a kernel and a time limit in seconds, up to the `--` before the command.
fn vmtest(kernel: &str, limit: u32) -> Command {
    let mut command = Command::new(paths::workspace().join("tools/vmtest/vmtest"));
    command.current_dir(paths::workspace()).args([
        "--kernel",
        kernel,
        "--mem",
        "3G",
        "--timeout",
        &limit.to_string(),
        "--",
    ]);
    command
}

fn load_and_attach(kernel: &str, tests: &PathBuf) -> Result<()> {
    proc::run(
        vmtest(kernel, 900)
            .arg(tests)
            .args([LOAD_TESTS, "--test-threads", "1"]),
    )
}

fn matrix(kernel: &str, mode: &str) -> Result<()> {
    let hypha = paths::release("hypha");
    proc::run(vmtest(kernel, 3600).arg(hypha).args([
        "lab",
        "up",
        "--routing",
        mode,
        "--sample",
        "--test",
    ]))
}

/// Builds the datapath's test program and returns its path; an error when it has no such test.
fn load_tests() -> Result<PathBuf> {
    let mut cargo = proc::cargo();
    cargo.args([
        "test",
        "-p",
        "hypha-datapath",
        "--test",
        "it",
        "--no-run",
        "--message-format",
        "json",
    ]);
    let messages = proc::output(&mut cargo)?;
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "it")
            .then(|| message["executable"].as_str().map(PathBuf::from))?
    };
    let tests = messages.lines().find_map(executable);
    let tests = tests.context("hypha-datapath has no integration tests (tests/it/main.rs)")?;
    let listed = proc::output(Command::new(&tests).args([LOAD_TESTS, "--list"]))?;
    if !listed.lines().any(|line| line.ends_with(": test")) {
        bail!("hypha-datapath has no test named {LOAD_TESTS}…, so there is nothing to run");
    }
    Ok(tests)
}
