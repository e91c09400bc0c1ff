//! `cargo xtask build`: what users run, in `target/release`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::setup::Toolchain;
use crate::{bpf, elf, paths, proc, setup};

/// The plugin is read from disk for every pod that starts.
const CNI_LIMIT: u64 = 3 << 20;

/// How to build.
#[derive(Args)]
pub struct Options {
    /// What is going to be done with it: sets up what that needs, too
    #[arg(long, value_enum, default_value = "build")]
    purpose: setup::Purpose,
}

/// Toolchain (nothing to do when it is there), eBPF object, `hypha`, `hypha-cni`.
pub fn build(options: &Options) -> Result<()> {
    setup::run(&setup::Options::new(options.purpose))?;
    bpf::build(&bpf::Options::default())?;
    binaries()
}

/// The two binaries, for an eBPF object that is there.
pub fn binaries() -> Result<()> {
    proc::run(proc::cargo().args(["build", "--release", "-p", "hypha-cli"]))?;
    let plugin = cni()?;
    for path in [paths::release("hypha"), plugin] {
        println!(
            "{} ({})",
            path.display(),
            size(fs::metadata(&path).context("a binary is missing")?.len())
        );
    }
    Ok(())
}

/// The CNI plugin: static, with a profile and a folder of its own, so that its flags rebuild nothing else.
pub fn cni() -> Result<PathBuf> {
    let host = Toolchain::detect()?.host;
    let mut command = proc::cargo();
    command.args(["build", "-p", "hypha-cni", "--profile", "cni"]);
    let mut flags = vec!["-C target-feature=+crt-static -C relocation-model=static".to_owned()];
    let mut target = host.clone();
    if let Some(linker) = paths::which("musl-gcc") {
        target = host.replace("-gnu", "-musl");
        flags.extend(with_musl(&mut command, &target, &linker)?);
    } else {
        println!(
            "musl-gcc is not there: the plugin is linked to glibc, and starts later by a millisecond on virtual machines"
        );
    }
    command
        .args(["--target", &target])
        .env(target_variable(&target, "RUSTFLAGS"), flags.join(" "))
        // They would take the place of the variable above.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    proc::run(&mut command)?;
    let built = paths::cargo_target().join(target).join("cni/hypha-cni");
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    if elf::has_interpreter(&bytes)? {
        bail!(
            "{} is not static: it asks for a dynamic loader",
            built.display()
        );
    }
    if bytes.len() as u64 > CNI_LIMIT {
        bail!(
            "{} has {} and should stay below {}",
            built.display(),
            size(bytes.len() as u64),
            size(CNI_LIMIT)
        );
    }
    let place = paths::release("hypha-cni");
    replace(&built, &bytes, &place)?;
    Ok(place)
}

/// With musl in the place of glibc, which asks the processor for its features dozens of times before a program begins: every
/// question is a way out of a virtual machine, and all together take longer than the plugin's own work. Rust's library for it is
/// built from the sources that the eBPF programs need, too, without backtraces; so nothing of an unwinder is used.
fn with_musl(command: &mut Command, target: &str, linker: &Path) -> Result<[String; 2]> {
    let folder = paths::cargo_target().join(target);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let unwinder = folder.join("libunwind.a");
    fs::write(&unwinder, "!<arch>\n")
        .with_context(|| format!("cannot write {}", unwinder.display()))?;
    command
        .args(["-Z", "build-std=std,panic_abort"])
        .args(["-Z", "build-std-features="])
        // `-Z` on a release compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        .env(target_variable(target, "LINKER"), linker);
    Ok([
        "-C link-self-contained=no".to_owned(),
        format!("-L {}", folder.display()),
    ])
}

/// Cargo's variable for a setting of a target.
fn target_variable(target: &str, setting: &str) -> String {
    let target = target.to_uppercase().replace('-', "_");
    format!("CARGO_TARGET_{target}_{setting}")
}

/// Copies a program in one step, unless it is there: a running lab may be starting it right now.
fn replace(built: &Path, bytes: &[u8], place: &Path) -> Result<()> {
    if fs::read(place).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let part = place.with_extension("part");
    fs::copy(built, &part).with_context(|| format!("cannot write {}", part.display()))?;
    fs::rename(&part, place).with_context(|| format!("cannot replace {}", place.display()))
}

fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
