//! Other kernels: the datapath's tests and the connectivity matrix, in virtual machines.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::{paths, proc};

const QEMU: &str = "qemu-system-x86_64";
/// Oldest supported first; 5.10 and 6.1 have clsact only, the others tcx.
const KERNELS: [&str; 4] = ["5.10", "6.1", "6.12", "7.2"];
const MODES: [&str; 3] = ["vxlan", "geneve", "native"];
/// Old enough to lack tcx, new enough to start fast.
const QUICK_KERNEL: &str = "6.1";
/// The tests of the datapath crate that load every program, adopt what is pinned and attach to devices.
const QUICK_TESTS: [&str; 2] = [
    "open::the_first_open_loads_and_the_second_adopts",
    "attach::attaching_twice_changes_nothing",
];

/// Which kernels to run on.
#[derive(Args)]
pub struct Options {
    /// One kernel instead of all
    #[arg(long, value_parser = KERNELS)]
    kernel: Option<String>,
    /// One routing mode instead of all
    #[arg(long, value_parser = MODES)]
    routing: Option<String>,
}

/// Loads and attaches the programs on one older kernel; `false` when QEMU is missing.
pub fn quick() -> Result<bool> {
    if !available("the check on an older kernel") {
        return Ok(false);
    }
    let tests = datapath_tests()?;
    let listed = proc::output(Command::new(&tests).arg("--list"))?;
    if let Some(gone) = QUICK_TESTS
        .iter()
        .find(|name| !listed.contains(&format!("{name}: test")))
    {
        bail!("hypha-datapath has no test {gone} any more; name another one in xtask/src/vm.rs");
    }
    proc::run(
        vmtest(QUICK_KERNEL, 900)
            .arg(&tests)
            .args(["--test-threads", "1"])
            .args(QUICK_TESTS),
    )?;
    Ok(true)
}

/// Every kernel: the datapath's tests, and the matrix in every routing mode. Slow: emulated.
pub fn kernels(options: &Options) -> Result<()> {
    if !available("the tests on other kernels") {
        return Ok(());
    }
    let tests = datapath_tests()?;
    let mut failed = Vec::new();
    for kernel in chosen(&KERNELS, options.kernel.as_deref()) {
        let mut runs = vec![("datapath tests", vmtest(kernel, 3600))];
        runs[0].1.arg(&tests).args(["--test-threads", "1"]);
        runs.extend(
            chosen(&MODES, options.routing.as_deref()).map(|mode| (mode, matrix(kernel, mode))),
        );
        for (what, mut command) in runs {
            let start = Instant::now();
            let ok = proc::run(&mut command).is_ok();
            let result = if ok { "ok" } else { "FAILED" };
            println!(
                "Linux {kernel}, {what}: {result} ({:.0} s)",
                start.elapsed().as_secs_f64()
            );
            if !ok {
                failed.push(format!("Linux {kernel}, {what}"));
            }
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("failed: {}", failed.join("; ")),
    }
}

/// The one that was asked for, or all.
fn chosen<'a>(all: &'a [&'a str], one: Option<&'a str>) -> impl Iterator<Item = &'a str> {
    all.iter()
        .copied()
        .filter(move |name| one.is_none_or(|one| one == *name))
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

/// A lab with sample pods and the whole matrix; an emulated machine takes its time to answer.
fn matrix(kernel: &str, mode: &str) -> Command {
    let script = r#""$0" lab up --name vm --routing "$1" --sample && "$0" connectivity test --name vm --timeout 30"#;
    let mut command = vmtest(kernel, 3600);
    command
        .args(["sh", "-c", script])
        .arg(paths::release("hypha"))
        .arg(mode);
    command
}

/// Builds the datapath's test program and returns its path.
fn datapath_tests() -> Result<PathBuf> {
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
    tests.context("hypha-datapath has no integration tests (tests/it/main.rs)")
}
