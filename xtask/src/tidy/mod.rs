//! `cargo xtask tidy`: rules about the tree itself that no compiler checks. Also run as a test.

mod docs;
mod layers;
mod size;
mod unsafety;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{paths, ui};

/// What a check found.
#[derive(Default)]
pub struct Findings {
    /// Broken rules.
    errors: Vec<String>,
    /// What is allowed but better otherwise.
    advice: Vec<String>,
}

impl Findings {
    fn error(&mut self, text: impl Into<String>) {
        self.errors.push(text.into());
    }

    fn advise(&mut self, text: impl Into<String>) {
        self.advice.push(text.into());
    }
}

/// A file of the tree, by its path below the workspace.
pub struct Source {
    path: PathBuf,
    text: String,
}

/// Checks the tree and prints what is wrong.
pub fn run() -> Result<()> {
    let findings = check(&paths::workspace())?;
    for line in &findings.advice {
        println!("advice: {line}");
    }
    for line in &findings.errors {
        println!("error: {line}");
    }
    if !findings.errors.is_empty() {
        bail!("the tree is not tidy: {} errors", findings.errors.len());
    }
    println!(
        "the tree is tidy ({} pieces of advice)",
        findings.advice.len()
    );
    Ok(())
}

fn check(root: &Path) -> Result<Findings> {
    let mut findings = Findings::default();
    let sources = sources(root)?;
    for source in &sources {
        size::check(source, &mut findings);
        unsafety::check(source, &mut findings);
    }
    layers::check(root, &mut findings)?;
    docs::check(root, &mut findings)?;
    if let Some(stale) = ui::stale(root)? {
        findings.error(stale);
    }
    Ok(findings)
}

/// Every Rust file of the crates, the programs and this tool.
fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut paths = Vec::new();
    for dir in ["bpf", "crates", "xtask", "benches", "e2e", "fuzz"] {
        walk(&root.join(dir), &mut paths)?;
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    paths.sort_unstable();
    let read = |path: &PathBuf| {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Source {
            path: path.strip_prefix(root).unwrap_or(path).to_path_buf(),
            text,
        })
    };
    paths.iter().map(read).collect()
}

/// Every file below a folder that may be absent; build folders left out.
fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry
            .with_context(|| format!("cannot list {}", dir.display()))?
            .path();
        if !path.is_dir() {
            files.push(path);
        } else if path.file_name().is_none_or(|name| name != "target") {
            walk(&path, files)?;
        }
    }
    Ok(())
}

/// The folders directly below `crates/`, by name.
fn crate_names(root: &Path) -> Result<Vec<String>> {
    let dir = root.join("crates");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let crates = entries
        .flatten()
        .filter(|entry| entry.path().join("Cargo.toml").is_file());
    let mut names: Vec<_> = crates
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let findings = check(&paths::workspace()).unwrap();
        assert!(
            findings.errors.is_empty(),
            "\n{}",
            findings.errors.join("\n")
        );
    }
}
