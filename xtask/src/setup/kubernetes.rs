//! Clients of Kubernetes that the tests drive: two `kubectl`s.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::apt::PrivateApt;
use crate::report::Outcome;
use crate::{paths, proc};

/// The Debian release that has an old `kubectl` (1.20), and its package.
const OLD: [&str; 2] = ["bookworm", "kubernetes-client"];
/// The Debian release that has a newer one, and its package.
const NEW: [&str; 2] = ["trixie", "kubectl"];
const LIMIT: Duration = Duration::from_secs(600);

/// The newest `kubectl` at hand and an old one.
pub fn kubectls() -> Result<Outcome> {
    let mut done = Vec::new();
    let old = tools()?.join("kubectl-old");
    if !old.join("kubectl").is_file() {
        done.push(fetch(OLD, &old)?);
    }
    let new = tools()?.join("kubectl-new");
    if paths::which("kubectl").is_none() && !new.join("kubectl").is_file() {
        done.push(fetch(NEW, &new)?);
    }
    Ok(match done.as_slice() {
        [] => Outcome::Present("an old and a new one".to_owned()),
        _ => Outcome::Done(format!("fetched {}", done.join(", "))),
    })
}

fn tools() -> Result<PathBuf> {
    Ok(paths::cache()?.join("tools"))
}

/// Takes the program out of the package of a Debian release; its version.
fn fetch([suite, package]: [&str; 2], to: &Path) -> Result<String> {
    let work = tools()?.join(format!(".fetch-{package}-{suite}"));
    // What an interrupted set-up left.
    let _ = fs::remove_dir_all(&work);
    let fetched = unpack(suite, package, &work).and_then(|(program, version)| {
        fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
        let place = to.join("kubectl");
        fs::rename(&program, &place)
            .with_context(|| format!("cannot write {}", place.display()))?;
        Ok(version)
    });
    let _ = fs::remove_dir_all(&work);
    fetched
}

fn unpack(suite: &str, name: &str, work: &Path) -> Result<(PathBuf, String)> {
    let apt = PrivateApt::new(work, suite)?;
    let versions = apt.versions(name)?;
    let version = versions
        .first()
        .with_context(|| format!("Debian {suite} has no {name}"))?;
    let package = apt.download(name, version)?;
    let tree = work.join("tree");
    let mut command = Command::new("dpkg-deb");
    command.arg("-x").arg(&package).arg(&tree);
    proc::logged("dpkg-deb", &mut command, LIMIT)?;
    let program = tree.join("usr/bin/kubectl");
    if !program.is_file() {
        bail!("the package {name} {version} of Debian {suite} has no usr/bin/kubectl");
    }
    Ok((program, format!("{name} {version}")))
}
