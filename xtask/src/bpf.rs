//! `cargo xtask build-bpf`: the eBPF object, built only when something it is made from has changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::setup::{Toolchain, bpf_linker};
use crate::{elf, paths, proc};

#[path = "../../crates/datapath/bpf_sources.rs"]
mod sources;

const TARGET: &str = "bpfel-unknown-none";
/// `v3` has 32-bit jumps and arithmetic, which every kernel since 5.1 knows.
const RUSTFLAGS: [&str; 4] = [
    "-Ctarget-cpu=v3",
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    // Else the linker asks LLVM to keep every small zeroing or copy a call of a loop over bytes.
    "-Clink-arg=--disable-expand-memcpy-in-order",
];

/// How to build.
#[derive(Args, Default)]
pub struct Options {
    /// Build even if nothing changed
    #[arg(long)]
    force: bool,
}

/// Builds the object, or says that it is up to date.
pub fn build(options: &Options) -> Result<()> {
    let start = Instant::now();
    let toolchain = Toolchain::detect()?;
    let linker = bpf_linker(&toolchain)?;
    if !linker.exists() || !toolchain.library_sources().join("core").exists() {
        bail!("the eBPF toolchain is not there yet; run `cargo xtask setup --purpose build` first");
    }
    let stamp = stamp(&paths::workspace(), &toolchain, &linker)?;
    let object = paths::bpf_object();
    let stamp_file = object.with_extension("stamp");
    let same = object.exists() && fs::read_to_string(&stamp_file).is_ok_and(|old| old == stamp);
    if same && !options.force {
        println!("eBPF object is up to date: {}", described(&object)?);
        return Ok(());
    }
    proc::run(&mut cargo("build", &linker))?;
    let built = target_dir().join(TARGET).join("release/hypha-bpf");
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    install(&elf::without_debug(&bytes)?, &object)?;
    fs::write(&stamp_file, stamp)
        .with_context(|| format!("cannot write {}", stamp_file.display()))?;
    println!(
        "eBPF object built in {:.1} s: {}",
        start.elapsed().as_secs_f64(),
        described(&object)?
    );
    Ok(())
}

/// `cargo build` or `cargo clippy` for the eBPF target.
pub fn cargo(subcommand: &str, linker: &Path) -> Command {
    let mut command = proc::cargo();
    command
        .current_dir(paths::workspace().join("bpf"))
        .args([
            subcommand,
            "--release",
            "-Zbuild-std=core",
            "--target",
            TARGET,
        ])
        .arg("--target-dir")
        .arg(target_dir())
        // `-Z` on a release compiler; the target has no prebuilt libraries.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"))
        .env_remove("RUSTFLAGS");
    command
}

/// Apart from cargo's own, which another build may hold locked.
fn target_dir() -> PathBuf {
    paths::target().join("bpf-build")
}

/// Puts the object in place in one step, and leaves an equal one alone so that nothing depending on it is rebuilt.
fn install(bytes: &[u8], object: &Path) -> Result<()> {
    if fs::read(object).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(dir) = object.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let part = object.with_extension(format!("part{}", std::process::id()));
    fs::write(&part, bytes).with_context(|| format!("cannot write {}", part.display()))?;
    fs::rename(&part, object).with_context(|| format!("cannot replace {}", object.display()))
}

fn described(object: &Path) -> Result<String> {
    let size = fs::metadata(object)
        .with_context(|| format!("cannot read {}", object.display()))?
        .len();
    Ok(format!(
        "{} ({} KiB)",
        object.display(),
        size.div_ceil(1024)
    ))
}

/// What changes when the object may change: a line of its sources, which the build script of `datapath` reads too, and one of compiler,
/// linker and flags.
fn stamp(root: &Path, toolchain: &Toolchain, linker: &Path) -> Result<String> {
    let sources = sources::files(root)
        .and_then(|files| sources::fingerprint(root, &files))
        .context("cannot read the sources of the eBPF object")?;
    let with = format!("{} {} {RUSTFLAGS:?}", toolchain.release, linker.display());
    Ok(format!("{sources}\n{with}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_object_keeps_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let object = dir.path().join("out/object.o");
        install(b"one", &object).unwrap();
        let first = fs::metadata(&object).unwrap().modified().unwrap();
        install(b"one", &object).unwrap();
        assert_eq!(fs::metadata(&object).unwrap().modified().unwrap(), first);
        install(b"two", &object).unwrap();
        assert_eq!(fs::read(&object).unwrap(), b"two");
    }

    #[test]
    fn sources_are_found_without_build_folders() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "src/main.rs",
            "Cargo.toml",
            "target/x.rs",
            "tests/y.rs",
            "README.md",
        ] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        let mut files = Vec::new();
        sources::collect(dir.path(), &mut files).unwrap();
        files.sort_unstable();
        assert_eq!(
            files,
            ["Cargo.toml", "src/main.rs"].map(|name| dir.path().join(name))
        );
    }
}
