//! Documents in step with the tree: what they name exists, and what exists is named.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::CommandFactory;

use super::{Findings, crate_names, walk};

/// A crate's README is a card, not a book.
const README_LINES: usize = 60;

/// Checks READMEs, Makefile and the pages at the top.
pub fn check(root: &Path, findings: &mut Findings) -> Result<()> {
    for name in crate_names(root)? {
        check_crate(root, &name, findings);
    }
    let makefile = read(&root.join("Makefile"))?;
    check_makefile(&makefile, findings);
    let targets = targets(&makefile)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    for page in pages(root)? {
        let text = read(&page)?;
        let shown = page
            .strip_prefix(root)
            .unwrap_or(&page)
            .display()
            .to_string();
        check_commands(&shown, &text, &targets, findings);
        check_links(&page, &shown, &text, findings);
    }
    check_code_map(root, findings)?;
    if read(&root.join(".ci/run"))?.lines().last() != Some("exec make test") {
        findings.error(".ci/run: must do `make test` and nothing else");
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A crate has a short README, takes the workspace's lints and has one integration-test binary at most.
fn check_crate(root: &Path, name: &str, findings: &mut Findings) {
    let dir = root.join("crates").join(name);
    match fs::read_to_string(dir.join("README.md")).map(|text| text.lines().count()) {
        Ok(0) => findings.error(format!("crates/{name}/README.md is empty")),
        Ok(lines) if lines > README_LINES => findings.error(format!(
            "crates/{name}/README.md: {lines} lines (at most {README_LINES})"
        )),
        Ok(_) => {}
        Err(_) => findings.error(format!(
            "crates/{name} has no README.md: owns, never does, entry points"
        )),
    }
    let manifest = fs::read_to_string(dir.join("Cargo.toml")).unwrap_or_default();
    if name != "datapath" && !manifest.contains("[lints]\nworkspace = true") {
        findings.error(format!(
            "crates/{name}/Cargo.toml does not take the workspace's lints"
        ));
    }
    let tests = fs::read_dir(dir.join("tests"))
        .into_iter()
        .flatten()
        .flatten();
    for path in tests.map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "rs") {
            findings.error(format!(
                "crates/{name}: one test binary, tests/it/main.rs, not {}",
                path.display()
            ));
        }
    }
}

/// Targets of a Makefile with the text after `##`, which `make help` prints.
fn targets(makefile: &str) -> Vec<(String, Option<String>)> {
    let target = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let text = rest
            .split_once("## ")
            .map(|(_, text)| text.trim().to_owned());
        (plain && !rest.starts_with('=')).then(|| (name.to_owned(), text))
    };
    makefile.lines().filter_map(target).collect()
}

fn check_makefile(makefile: &str, findings: &mut Findings) {
    let phony: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| line.strip_prefix(".PHONY:"))
        .flat_map(str::split_whitespace)
        .collect();
    for (name, text) in targets(makefile) {
        if text.is_none_or(|text| text.is_empty()) {
            findings.error(format!(
                "Makefile: target {name} has no `## text` for `make help`"
            ));
        }
        if !phony.contains(name.as_str()) {
            findings.error(format!("Makefile: target {name} is not in .PHONY"));
        }
    }
}

/// The documents: at the top, in docs/, and every crate's README.
fn pages(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for dir in ["docs", "crates", "bpf", "tools"] {
        walk(&root.join(dir), &mut files)?;
    }
    let top = fs::read_dir(root).with_context(|| format!("cannot list {}", root.display()))?;
    files.extend(
        top.flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_file()),
    );
    files.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    files.sort_unstable();
    Ok(files)
}

/// Every `make X` and `cargo xtask X` in code quotes names a target or a task.
fn check_commands(page: &str, text: &str, targets: &BTreeSet<String>, findings: &mut Findings) {
    let command = crate::Cli::command();
    let tasks: BTreeSet<&str> = command
        .get_subcommands()
        .map(clap::Command::get_name)
        .collect();
    for name in commands(text, "make ") {
        if !targets.contains(name) {
            findings.error(format!(
                "{page}: `make {name}` is no target of the Makefile"
            ));
        }
    }
    for name in commands(text, "cargo xtask ") {
        if !tasks.contains(name) {
            findings.error(format!("{page}: `cargo xtask {name}` is no task"));
        }
    }
}

/// The word after `start` in every command: quoted in a line, or at the start of a line of a code block.
fn commands<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    let quote = format!("`{start}");
    let mut found: Vec<&str> = text.split(quote.as_str()).skip(1).map(word).collect();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if in_block && let Some(rest) = line.trim_start().strip_prefix(start) {
            found.push(word(rest));
        }
    }
    found.retain(|word| !word.is_empty());
    found
}

fn word(text: &str) -> &str {
    let end = text.find(|next: char| !next.is_ascii_alphanumeric() && next != '-');
    &text[..end.unwrap_or(text.len())]
}

/// Links to files of the tree lead somewhere.
fn check_links(page: &Path, shown: &str, text: &str, findings: &mut Findings) {
    for rest in text.split("](").skip(1) {
        let target = rest.split([')', '#']).next().unwrap_or_default();
        let outside = target.is_empty() || target.contains("://") || target.contains(' ');
        let from = page.parent().unwrap_or(page);
        if !outside && !from.join(target).exists() {
            findings.error(format!("{shown}: link to {target}, which does not exist"));
        }
    }
}

/// The code map in ARCHITECTURE.md names every crate.
fn check_code_map(root: &Path, findings: &mut Findings) -> Result<()> {
    let page = root.join("ARCHITECTURE.md");
    if !page.exists() {
        findings.error("there is no ARCHITECTURE.md");
        return Ok(());
    }
    let text = read(&page)?;
    for name in crate_names(root)? {
        let named = [
            format!("crates/{name}"),
            format!("`{name}`"),
            format!("  {name}/"),
        ];
        if !named.iter().any(|form| text.contains(form.as_str())) {
            findings.error(format!("ARCHITECTURE.md: does not mention crates/{name}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_need_a_text_and_phony() {
        let makefile = ".PHONY: a b\nX := 1\na: ## does a\n\techo a: b\nb:\n\ttrue\nc: ## does c\n";
        let mut findings = Findings::default();
        check_makefile(makefile, &mut findings);
        assert_eq!(findings.errors.len(), 2, "{:?}", findings.errors);
    }

    #[test]
    fn commands_in_text_and_blocks_are_found() {
        let text = "To make tea, run `make lab`.\n```sh\nmake build  # x\n```\nmake nothing\n";
        assert_eq!(commands(text, "make "), ["lab", "build"]);
    }

    #[test]
    fn a_link_must_lead_somewhere() {
        let dir = tempfile::tempdir().unwrap();
        let page = dir.path().join("a.md");
        fs::write(&page, "").unwrap();
        let mut findings = Findings::default();
        let text = "[x](a.md#part) [y](https://example.org/z) [z](gone.md)";
        check_links(&page, "a.md", text, &mut findings);
        assert_eq!(
            findings.errors,
            ["a.md: link to gone.md, which does not exist"]
        );
    }
}
