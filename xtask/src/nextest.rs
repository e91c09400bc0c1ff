//! Every test of the workspace: unit, golden, program and lab tests, by cargo-nextest.

use std::fmt;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup::tools;
use crate::{paths, proc};

/// What a run of the tests came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Count {
    pub passed: u32,
    pub failed: u32,
    pub skipped: u32,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Builds every test and every program that tests start.
pub fn build() -> Result<()> {
    proc::run(proc::cargo().args(["test", "--workspace", "--no-run", "--quiet"]))
}

/// Runs the tests and shows what nextest prints. Those that start our binaries find them beside themselves, or where HYPHA_BIN_DIR says.
pub fn run() -> Result<Count> {
    let program = tools::program(&tools::NEXTEST).context("cargo-nextest is not installed")?;
    let color = if io::stderr().is_terminal() {
        "always"
    } else {
        "never"
    };
    let mut command = Command::new(program);
    command
        .current_dir(paths::workspace())
        .args([
            "nextest",
            "run",
            "--workspace",
            "--profile",
            "ci",
            "--color",
            color,
        ])
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start cargo-nextest")?;
    let errors = child
        .stderr
        .take()
        .context("cargo-nextest has no standard error")?;
    let mut count = None;
    for line in BufReader::new(errors).lines() {
        let line = line.context("cannot read what cargo-nextest prints")?;
        eprintln!("{line}");
        count = parse(&plain(&line)).or(count);
    }
    let status = child.wait().context("cannot wait for cargo-nextest")?;
    match count {
        Some(count) if status.success() == (count.failed == 0) => Ok(count),
        _ => bail!("cargo-nextest did not run the tests to their end ({status})"),
    }
}

/// The numbers of nextest's line `Summary [ 1.0s] 16 tests run: 15 passed (1 slow), 1 failed, 0 skipped`.
fn parse(line: &str) -> Option<Count> {
    let (_, counts) = line
        .trim_start()
        .strip_prefix("Summary [")?
        .split_once(" run: ")?;
    let mut count = Count {
        passed: 0,
        failed: 0,
        skipped: 0,
    };
    // What is in parentheses only says more about the number before it.
    let outside = counts
        .split('(')
        .map(|part| part.rsplit(')').next().unwrap_or_default());
    for part in outside.collect::<String>().split(',') {
        let mut words = part.split_whitespace();
        let (Some(number), Some(kind)) = (words.next(), words.next()) else {
            continue;
        };
        let number: u32 = number.parse().ok()?;
        match kind {
            "passed" => count.passed += number,
            "skipped" => count.skipped += number,
            // `failed`, `timed out`, `exec failed`
            _ => count.failed += number,
        }
    }
    Some(count)
}

/// A line without colours.
fn plain(line: &str) -> String {
    let mut pieces = line.split('\u{1b}');
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| {
        text + piece.split_once('m').map_or("", |(_, rest)| rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_understood() {
        let line = "     Summary [   0.439s] 16 tests run: 12 passed (1 slow, 1 flaky), 2 failed, 1 timed out, 3 skipped";
        assert_eq!(
            parse(line),
            Some(Count {
                passed: 12,
                failed: 3,
                skipped: 3
            })
        );
        assert_eq!(parse("        PASS [   0.353s] x::tests::y"), None);
    }

    #[test]
    fn an_interrupted_run_is_understood() {
        let line = "     Summary [   2.0s] 5/16 tests run: 5 passed, 0 skipped";
        assert_eq!(
            parse(line),
            Some(Count {
                passed: 5,
                failed: 0,
                skipped: 0
            })
        );
    }

    #[test]
    fn colours_are_taken_off() {
        assert_eq!(plain("\u{1b}[32;1m  Summary\u{1b}[0m [x"), "  Summary [x");
    }
}
