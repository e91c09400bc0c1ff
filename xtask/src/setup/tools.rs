//! Cargo subcommands that the checks use.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::report::Outcome;
use crate::{paths, proc};

/// A cargo subcommand from crates.io.
pub struct Tool {
    /// Crate and file name.
    pub name: &'static str,
    /// Installed where it is missing; one that is there may be of any release.
    requirement: &'static str,
}

/// The test runner.
pub const NEXTEST: Tool = Tool {
    name: "cargo-nextest",
    requirement: "^0.9",
};
/// Licences, sources, duplicate and banned crates, advisories.
pub const DENY: Tool = Tool {
    name: "cargo-deny",
    requirement: "^0.20",
};

/// What runs libFuzzer.
pub const FUZZ: Tool = Tool {
    name: "cargo-fuzz",
    requirement: "^0.13",
};

/// A check of a second does not need minutes of optimising.
const QUICK_BUILD: [(&str, &str); 4] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "64"),
];

/// The tool's program: ours from the cache, or what is in PATH.
pub fn program(tool: &Tool) -> Option<PathBuf> {
    let ours = paths::cache()
        .ok()
        .map(|cache| cache.join("tools/bin").join(tool.name));
    ours.filter(|path| path.is_file())
        .or_else(|| paths::which(tool.name))
}

/// Builds the tool into the cache unless it is there.
pub fn install(tool: &Tool) -> Result<Outcome> {
    if let Some(version) = version(tool) {
        return Ok(Outcome::Present(version));
    }
    let mut command = proc::cargo();
    command
        .args([
            "install",
            tool.name,
            "--locked",
            "--version",
            tool.requirement,
        ])
        .arg("--root")
        .arg(paths::cache()?.join("tools"))
        .env_remove("CARGO_TARGET_DIR");
    command.envs(QUICK_BUILD);
    proc::logged(tool.name, &mut command, Duration::from_secs(3600))?;
    match version(tool) {
        Some(version) => Ok(Outcome::Done(format!("built {version}"))),
        None => bail!("{} was built but does not run", tool.name),
    }
}

fn version(tool: &Tool) -> Option<String> {
    let text = proc::output(Command::new(program(tool)?).arg("--version")).ok()?;
    Some(text.lines().next().unwrap_or_default().trim().to_owned())
}
