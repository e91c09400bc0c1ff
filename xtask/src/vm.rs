//! Other kernels: the datapath's tests and the connectivity matrix, in virtual machines.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::setup::packages;
use crate::{paths, proc};

const QEMU: &str = "qemu-system-x86_64";
/// Oldest supported first; 5.10 and 6.1 have clsact only, the others tcx and netkit.
const KERNELS: [&str; 4] = ["5.10", "6.1", "6.12", "7.2"];
const WITHOUT_NETKIT: [&str; 2] = ["5.10", "6.1"];
/// The oldest verifier is the one that takes the least.
const QUICK_KERNEL: &str = "5.10";
/// Loading and attaching; emulated, a minute or two for each time that the programs are verified.
const QUICK_TEST: &str = "attach::attaching_twice_changes_nothing";
const QUICK_LIMIT: Duration = Duration::from_secs(600);
/// What vmtest may need besides the machine's own time: fetching a kernel, starting.
const AROUND: Duration = Duration::from_secs(300);

/// Which kernels to run on, and what.
#[derive(Args)]
pub struct Options {
    /// Only this kernel; may be given several times
    #[arg(long, value_name = "KERNEL", value_parser = KERNELS)]
    kernel: Vec<String>,
    /// Only this case; may be given several times
    #[arg(long, value_name = "CASE", value_parser = CASES.map(|case| case.name))]
    case: Vec<String>,
    /// Minutes for everything; what has not begun by then is not run, and that is a failure
    #[arg(long, value_name = "MINUTES", default_value_t = 240)]
    limit: u64,
}

/// One run of one virtual machine.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// On one emulated processor that other work shares.
    minutes: u64,
    work: Work,
}

#[derive(Clone, Copy)]
enum Work {
    /// The datapath's tests that these arguments select.
    Tests(&'static [&'static str]),
    /// A lab with these options, and the matrix in it.
    Matrix(&'static [&'static str]),
}

const CASES: [Case; 8] = [
    Case {
        name: "load",
        minutes: 20,
        work: Work::Tests(&["open::", "attach::", "devices::", "programs::verifier::"]),
    },
    Case {
        name: "sockets",
        minutes: 20,
        work: Work::Tests(&["sock::"]),
    },
    Case {
        name: "programs",
        minutes: 90,
        work: Work::Tests(&[
            "maps::",
            "events::",
            "programs::",
            "--skip",
            "programs::verifier::",
            "--skip",
            "programs::proxy_wires::",
        ]),
    },
    Case {
        name: "proxy",
        minutes: 30,
        work: Work::Tests(&["programs::proxy_wires::"]),
    },
    Case {
        name: "vxlan",
        minutes: 10,
        work: Work::Matrix(&["--routing", "vxlan"]),
    },
    Case {
        name: "native",
        minutes: 10,
        work: Work::Matrix(&["--routing", "native"]),
    },
    Case {
        name: "geneve",
        minutes: 10,
        work: Work::Matrix(&["--routing", "geneve"]),
    },
    Case {
        name: NETKIT,
        minutes: 10,
        work: Work::Matrix(&["--agent-config", "datapath-mode=netkit-l2"]),
    },
];
const NETKIT: &str = "netkit-l2";

/// Brings a lab up, runs the matrix from every node, and takes the lab down.
const MATRIX: &str = r#"
trap '[ $? = 0 ] || tail -n 25 /run/hypha-lab/vm/logs/kube-system_cilium*.log /run/hypha-lab/vm/supervisor.log' EXIT
set -e
"$0" lab up --name vm --sample --timeout 240 "$@"
"$0" connectivity test --name vm --timeout 30 --all-nodes
"$0" lab down --name vm
"#;
/// The lab must not come up, and its agents must say why.
const REFUSAL: &str = r#"
if "$0" lab up --name vm --timeout 240 "$@" >/tmp/said 2>&1; then echo "the lab came up"; exit 1; fi
cat /tmp/said; grep -q 'datapath-mode=netkit-l2 is refused' /tmp/said && echo "refused, as it should be"
"#;

/// Loads and attaches the programs on one older kernel; `false` when QEMU is missing.
pub fn quick() -> Result<bool> {
    if !available("the check on an older kernel") {
        return Ok(false);
    }
    // As the whole run builds it: other packages ask for other features of what it is built from.
    let tests = datapath_tests(&["--workspace"])?;
    let listed = proc::output(Command::new(&tests).arg("--list"))?;
    if !listed.contains(&format!("{QUICK_TEST}: test")) {
        bail!(
            "hypha-datapath has no test {QUICK_TEST} any more; name another one in xtask/src/vm.rs"
        );
    }
    let mut command = vmtest(QUICK_KERNEL, QUICK_LIMIT);
    proc::run(command.arg(&tests).args(["--exact", QUICK_TEST]))?;
    Ok(true)
}

/// Every case on every kernel, a line each; what a case prints is in its log. Slow: emulated.
pub fn kernels(options: &Options) -> Result<()> {
    if !available("the tests on other kernels") {
        return Ok(());
    }
    let end = Instant::now() + Duration::from_secs(60 * options.limit);
    let chosen = |list: &[String], name: &str| list.is_empty() || list.iter().any(|n| n == name);
    let mut cases = CASES.to_vec();
    cases.retain(|case| chosen(&options.case, case.name));
    let tests = match cases.iter().any(|case| matches!(case.work, Work::Tests(_))) {
        true => datapath_tests(&["-p", "hypha-datapath"])?,
        false => PathBuf::new(),
    };
    let mut failed = Vec::new();
    for kernel in KERNELS
        .iter()
        .filter(|kernel| chosen(&options.kernel, kernel))
    {
        for case in &cases {
            if !report(kernel, case, &tests, end) {
                failed.push(format!("Linux {kernel} {}", case.name));
            }
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("failed: {}", failed.join(", ")),
    }
}

/// Runs a case and prints how it went; whether it went well.
fn report(kernel: &str, case: &Case, tests: &Path, end: Instant) -> bool {
    let head = format!("Linux {kernel:<5} {:<10}", case.name);
    let start = Instant::now();
    let limit = end
        .saturating_duration_since(start)
        .min(Duration::from_secs(60 * case.minutes));
    if limit.is_zero() {
        println!("{head} not run: the time for everything is over (--limit)");
        return false;
    }
    let name = format!("linux-{kernel}-{}", case.name);
    let outcome = proc::logged(
        &name,
        &mut command(kernel, case, tests, limit),
        limit + AROUND,
    );
    let took = start.elapsed().as_secs();
    match outcome {
        Ok(()) => println!("{head} ok      {took:>5} s  {}", detail(&name)),
        Err(ref error) => println!("{head} FAILED  {took:>5} s  {error:#}"),
    }
    outcome.is_ok()
}

fn command(kernel: &str, case: &Case, tests: &Path, limit: Duration) -> Command {
    let mut command = vmtest(kernel, limit);
    match case.work {
        Work::Tests(names) => command.arg(tests).args(["--test-threads", "1"]).args(names),
        Work::Matrix(options) => {
            let refused = case.name == NETKIT && WITHOUT_NETKIT.contains(&kernel);
            command
                .args(["sh", "-c", if refused { REFUSAL } else { MATRIX }])
                .arg(paths::release("hypha"))
                .args(options)
        }
    };
    command
}

/// What a case says about itself in the end: the tests' count, the matrix's, or that it was refused.
fn detail(name: &str) -> String {
    let text = fs::read_to_string(proc::log(name)).unwrap_or_default();
    let telling = |line: &&str| {
        line.starts_with("test result:") || line.contains(" cells, ") || line.starts_with("refused")
    };
    let line = text.lines().rfind(telling).unwrap_or_default();
    line.split(" 0 ignored").next().unwrap_or(line).to_owned()
}

/// Whether there is QEMU, which is installed if it can be.
fn available(what: &str) -> bool {
    if paths::which(QEMU).is_none() {
        // What hinders it is in the log; without QEMU there is nothing to run, but nothing is wrong either.
        let _ = packages::install(&packages::KERNELS);
    }
    let found = paths::which(QEMU).is_some();
    if !found {
        println!(
            "skipped: {what} needs {QEMU}, which cannot be installed here (on Debian, as root: apt-get install qemu-system-x86)"
        );
    }
    found
}

/// vmtest with a kernel and a time limit, up to the `--` before the command.
fn vmtest(kernel: &str, limit: Duration) -> Command {
    let mut command = Command::new(paths::workspace().join("tools/vmtest/vmtest"));
    let seconds = limit.as_secs().max(1).to_string();
    command.current_dir(paths::workspace()).args([
        "--kernel",
        kernel,
        "--mem",
        "3G",
        "--timeout",
        &seconds,
        "--",
    ]);
    command
}

/// Builds the tests of these packages, and returns the path of the datapath's.
fn datapath_tests(packages: &[&str]) -> Result<PathBuf> {
    let mut cargo = proc::cargo();
    cargo
        .arg("test")
        .args(packages)
        .args(["--no-run", "--message-format", "json"]);
    let messages = proc::output(&mut cargo)?;
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let package = message["package_id"].as_str().unwrap_or_default();
        // `path+file:///…/crates/datapath#hypha-datapath@0.1.0`
        let is_ours = package.contains("#hypha-datapath@");
        (is_ours && message["target"]["name"] == "it")
            .then(|| message["executable"].as_str().map(PathBuf::from))?
    };
    let tests = messages.lines().find_map(executable);
    tests.context("hypha-datapath has no integration tests (tests/it/main.rs)")
}
