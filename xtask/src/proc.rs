//! Running other programs: quietly into a log, with a time limit, or with our own standard output.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::paths;

/// How many lines of a failed program's log are shown.
const TAIL: usize = 25;

/// `cargo`, as the one that started us.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::workspace());
    command
}

/// The program and its arguments, as a person would type them.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command with our own output; an error when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Where the output of a command that runs under this name is.
pub fn log(name: &str) -> PathBuf {
    paths::target().join(format!("xtask/{name}.log"))
}

/// Runs a command with its output in `target/xtask/<name>.log`; the end of the log is in the error.
pub fn logged(name: &str, command: &mut Command, limit: Duration) -> Result<()> {
    let log = log(name);
    let dir = log.parent().unwrap_or(&log);
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let both = file
        .try_clone()
        .context("cannot share the log's file descriptor")?;
    let status = bounded(
        command.stdin(Stdio::null()).stdout(file).stderr(both),
        limit,
    )?;
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{} failed ({status}):\n{}", shown(command), tail(&log)),
        None => bail!(
            "{} took more than {limit:?}:\n{}",
            shown(command),
            tail(&log)
        ),
    }
}

/// The standard output of a command, or an error with its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        bail!(
            "{} failed ({}): {}",
            shown(command),
            out.status,
            said.trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Whether a command can be started and succeeds within the limit; what it prints is dropped.
pub fn succeeds(command: &mut Command, limit: Duration) -> bool {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    matches!(bounded(quiet, limit), Ok(Some(status)) if status.success())
}

/// Waits for a command and kills it when the limit has passed (None).
fn bounded(command: &mut Command, limit: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    loop {
        if let Some(status) = child
            .try_wait()
            .context("cannot wait for a child process")?
        {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            child.kill().context("cannot kill a child process")?;
            child.wait().context("cannot wait for a child process")?;
            return Ok(None);
        }
        sleep(Duration::from_millis(10));
    }
}

fn tail(log: &PathBuf) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL);
    format!(
        "{}\n(all of it: {})",
        lines[from..].join("\n"),
        log.display()
    )
}
