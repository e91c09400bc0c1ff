//! Room on disk, asked for before anything is built: a linker that runs out of it dies of a bus error and says nothing of disks.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Purpose;
use crate::{paths, proc};

const GB: u64 = 1_000_000_000;
/// What every test and check comes to in cargo's folder: 5.4 GB, and about as much again where it compiles incrementally.
const DEBUG: u64 = 10 * GB;
/// What the programs that users run come to.
const RELEASE: u64 = 2 * GB;
/// What is written anew in a folder that has everything already, some of it of other sources.
const LEAST: u64 = 2 * GB;

/// Fails when what is going to be built does not fit.
pub fn check(purpose: Purpose) -> Result<()> {
    let (folder, total) = match purpose {
        Purpose::Test => ("debug", DEBUG),
        _ => ("release", RELEASE),
    };
    let target = paths::cargo_target();
    let held = held(&target.join(folder))?;
    verdict(&target, total, held, free(&target)?)
}

fn verdict(target: &Path, total: u64, held: u64, free: u64) -> Result<()> {
    let needed = total.saturating_sub(held).max(LEAST);
    if free < needed {
        bail!(
            "too little room on disk for {}: {} free, about {} needed; make room there (`cargo clean` removes what was \
             built), or set CARGO_TARGET_DIR to a folder on another disk",
            target.display(),
            shown(free),
            shown(needed)
        );
    }
    Ok(())
}

/// What a folder takes on disk already.
fn held(folder: &Path) -> Result<u64> {
    if !folder.exists() {
        return Ok(0);
    }
    let said = proc::output(Command::new("du").arg("-sk").arg(folder))?;
    kibibytes(said.split_whitespace().next())
        .with_context(|| format!("cannot read what `du` says: {said}"))
}

/// What is free where a folder is, or will be.
fn free(folder: &Path) -> Result<u64> {
    let there = folder.ancestors().find(|dir| dir.exists());
    let there = there.unwrap_or(Path::new("/"));
    let said = proc::output(Command::new("df").arg("-Pk").arg(there))?;
    available(&said).with_context(|| format!("cannot read what `df` says: {said}"))
}

/// The fourth column of the line of `df -Pk`.
fn available(said: &str) -> Option<u64> {
    kibibytes(said.lines().nth(1)?.split_whitespace().nth(3))
}

fn kibibytes(word: Option<&str>) -> Option<u64> {
    word?.parse::<u64>().ok()?.checked_mul(1024)
}

fn shown(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / GB as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_needs_no_room() {
        let verdict = |held, free| verdict(Path::new("/t"), 14 * GB, held, free);
        assert!(verdict(0, 14 * GB).is_ok() && verdict(12 * GB, LEAST).is_ok());
        // Full, but maybe of something else.
        assert!(verdict(30 * GB, LEAST - 1).is_err());
        let said = verdict(4 * GB, 1_500_000_000).unwrap_err().to_string();
        assert!(said.contains("/t: 1.5 GB free, about 10.0 GB needed;"));
        assert_eq!(said.lines().count(), 1);
    }

    #[test]
    fn the_system_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free(&dir.path().join("not/yet/there")).unwrap() > 0);
        std::fs::write(dir.path().join("file"), vec![1; 1 << 20]).unwrap();
        assert!(held(dir.path()).unwrap() >= 1 << 20);
        assert_eq!(held(&dir.path().join("none")).unwrap(), 0);
        let said = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/a 9 4 5 45% /";
        assert_eq!(available(said), Some(5 << 10));
        assert_eq!(available("no"), None);
    }
}
