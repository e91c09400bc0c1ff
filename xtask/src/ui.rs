//! `cargo xtask ui`: the page of flows, built from `ui/src` into `ui/dist` by esbuild. Only whoever changes the page needs Node.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{paths, proc};

/// Sources beside those in `src`.
const BESIDE: [&str; 4] = [
    "build.mjs",
    "package-lock.json",
    "package.json",
    "tsconfig.json",
];

/// Builds the page.
pub fn build() -> Result<()> {
    let dir = paths::workspace().join("ui");
    for program in ["node", "npm"] {
        if paths::which(program).is_none() {
            bail!("{program} is missing; on Debian: apt-get install nodejs npm");
        }
    }
    let limit = Duration::from_secs(300);
    let npm = |words: &[&str]| {
        let mut command = Command::new("npm");
        command.args(words).current_dir(&dir);
        command
    };
    if !dir.join("node_modules/.package-lock.json").is_file() {
        proc::logged(
            "ui-install",
            &mut npm(&["ci", "--no-audit", "--no-fund"]),
            limit,
        )?;
    }
    proc::run(&mut npm(&["run", "--silent", "build"]))
}

/// Whether `dist` is what the sources give, by the number that its build left; what is wrong, if not.
pub fn stale(root: &Path) -> Result<Option<String>> {
    let dir = root.join("ui");
    let mut sources: Vec<String> = BESIDE.map(str::to_owned).into();
    let src = dir.join("src");
    let entries =
        std::fs::read_dir(&src).with_context(|| format!("cannot list {}", src.display()))?;
    for entry in entries {
        let name = entry.context("cannot list the page's sources")?.file_name();
        sources.push(format!("src/{}", name.to_string_lossy()));
    }
    sources.sort_unstable();
    let mut hash = Hash::new();
    for path in sources {
        let file = dir.join(&path);
        let bytes =
            std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        hash.add(path.as_bytes());
        hash.add(&bytes);
    }
    let now = format!("{:016x}", hash.0);
    let built = std::fs::read_to_string(dir.join("dist/SOURCES")).unwrap_or_default();
    Ok((built.trim() != now)
        .then(|| "ui/dist: the page was built from other sources; run `make ui`".to_owned()))
}

/// FNV-1a over parts, each with a zero byte after it.
struct Hash(u64);

impl Hash {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, part: &[u8]) {
        for byte in part.iter().chain(&[0]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_the_sources_counts() {
        let of = |parts: &[&str]| {
            let mut hash = Hash::new();
            parts.iter().for_each(|part| hash.add(part.as_bytes()));
            hash.0
        };
        assert_eq!(of(&[]), 0xcbf2_9ce4_8422_2325);
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["a"]), of(&["a", ""]));
    }

    #[test]
    fn a_page_of_other_sources_is_stale() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("ui");
        for folder in ["src", "dist"] {
            std::fs::create_dir_all(dir.join(folder)).unwrap();
        }
        for name in BESIDE {
            std::fs::write(dir.join(name), name).unwrap();
        }
        std::fs::write(dir.join("src/a.ts"), "1").unwrap();
        assert!(stale(root.path()).unwrap().is_some());
        assert!(stale(&paths::workspace()).unwrap().is_none());
    }
}
