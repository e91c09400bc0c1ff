//! The sources of Rust's own libraries, which `-Z build-std=core` compiles for the eBPF target.
//!
//! In this order: what is there; rustup's component; Debian's package of exactly the compiler's release.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Toolchain;
use super::apt::PrivateApt;
use crate::report::Outcome;
use crate::{paths, proc};

/// Debian's suites with recent compilers, the likeliest first.
const SUITES: [&str; 3] = ["trixie-backports", "forky", "sid"];
/// Some networks refuse rustup's server only after a while.
const RUSTUP_LIMIT: Duration = Duration::from_secs(60);

/// Puts the sources where cargo looks for them.
pub fn install(toolchain: &Toolchain) -> Result<Outcome> {
    let place = toolchain.library_sources();
    if complete(&place) {
        return Ok(Outcome::Present(format!("rust-src {}", toolchain.release)));
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["component", "add", "rust-src"]);
    if proc::succeeds(&mut rustup, RUSTUP_LIMIT) && complete(&place) {
        return Ok(Outcome::Done("rustup component rust-src".into()));
    }
    let sources = cached(toolchain).with_context(|| {
        format!(
            "rustup could not add rust-src, and Debian's package of Rust {} could not be used; \
             unpack the library sources at {}",
            toolchain.release,
            place.display()
        )
    })?;
    link(&sources, &place)?;
    Ok(Outcome::Done(format!(
        "Debian's rust-src {}",
        toolchain.release
    )))
}

/// Whether a folder holds what `-Z build-std` needs.
fn complete(library: &Path) -> bool {
    library.join("Cargo.lock").is_file() && library.join("core/src/lib.rs").is_file()
}

/// Debian's sources in the cache, fetched when they are not there yet.
fn cached(toolchain: &Toolchain) -> Result<PathBuf> {
    let place = paths::cache()?.join(format!("rust-src-{}", toolchain.release));
    if complete(&place) {
        return Ok(place);
    }
    let work = place.with_extension("part");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    }
    let package = download(&work, &toolchain.release)?;
    let library = unpack(&package, &work.join("tree"))?;
    fs::rename(&library, &place)
        .with_context(|| format!("cannot move {} to {}", library.display(), place.display()))?;
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    Ok(place)
}

fn download(work: &Path, release: &str) -> Result<PathBuf> {
    let mut reasons = Vec::new();
    for suite in SUITES {
        let found = PrivateApt::new(&work.join(suite), suite).and_then(|apt| {
            let versions = apt.versions("rust-src")?;
            let wanted = versions.iter().find(|version| is_release(version, release));
            let version = wanted.with_context(|| format!("Debian {suite} has {versions:?}"))?;
            apt.download("rust-src", version)
        });
        match found {
            Ok(package) => return Ok(package),
            Err(reason) => reasons.push(format!("{suite}: {reason:#}")),
        }
    }
    bail!(
        "no Debian suite has rust-src {release}: {}",
        reasons.join("; ")
    )
}

/// Whether Debian's version `1.95.0+dfsg1-2~bpo13+1` is of release `1.95.0`.
fn is_release(version: &str, release: &str) -> bool {
    let rest = version.strip_prefix(release);
    rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit() || next == '.'))
}

/// Unpacks the library tree of the package, and returns it.
fn unpack(package: &Path, tree: &Path) -> Result<PathBuf> {
    fs::create_dir_all(tree).with_context(|| format!("cannot create {}", tree.display()))?;
    let script = "set -e; dpkg-deb --fsys-tarfile \"$0\" | tar -x -C \"$1\" --wildcards './usr/src/*/library'";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(package).arg(tree);
    proc::logged("rust-src", &mut command, Duration::from_secs(120))?;
    let sources = tree.join("usr/src");
    let entries =
        fs::read_dir(&sources).with_context(|| format!("cannot list {}", sources.display()))?;
    let library = entries
        .flatten()
        .map(|entry| entry.path().join("library"))
        .find(|dir| complete(dir));
    library.with_context(|| format!("{} has no library sources", package.display()))
}

fn link(sources: &Path, place: &Path) -> Result<()> {
    if place
        .symlink_metadata()
        .is_ok_and(|found| found.is_symlink())
    {
        fs::remove_file(place).with_context(|| format!("cannot replace {}", place.display()))?;
    }
    if place.exists() {
        bail!("{} exists but is not complete; remove it", place.display());
    }
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
    }
    symlink(sources, place).with_context(|| format!("cannot create {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_release_will_do() {
        assert!(is_release("1.95.0+dfsg1-2~bpo13+1", "1.95.0"));
        assert!(is_release("1.95.0-1", "1.95.0"));
        assert!(!is_release("1.95.01-1", "1.95.0"));
        assert!(!is_release("1.96.1+dfsg1-2", "1.95.0"));
    }
}
