//! `hypha version`.
use anyhow::Result;
use clap::Args;

use crate::output;

/// This binary's version.
pub const NUMBER: &str = env!("CARGO_PKG_VERSION");

/// Options of `hypha version`.
#[derive(Clone, Debug, Args)]
pub struct VersionArgs {
    /// Only this binary's version
    #[arg(long)]
    client: bool,
}

/// Prints the version.
///
/// # Errors
/// If standard output cannot be written.
pub fn run(_args: &VersionArgs) -> Result<()> {
    output::write_out(&client())
}

/// This binary's line.
#[must_use]
pub fn client() -> String {
    format!(
        "hypha: v{NUMBER} on {}/{}\n",
        std::env::consts::OS,
        architecture()
    )
}

/// The processor as images and release files call it.
const fn architecture() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        "amd64"
    } else if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        std::env::consts::ARCH
    }
}
