//! bpf-linker, built against the LLVM that rustc ships: nothing else needs to be installed for it.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Toolchain;
use crate::report::Outcome;
use crate::{paths, proc};

const VERSION: &str = "0.13.0";
/// The LLVM releases that this bpf-linker has a cargo feature for.
const LLVM_FEATURES: [u32; 3] = [21, 22, 23];
/// Overrides the linker we build.
const OVERRIDE: &str = "BPF_LINKER";

/// The linker to use, once it is set up.
pub fn bpf_linker(toolchain: &Toolchain) -> Result<PathBuf> {
    match env::var_os(OVERRIDE) {
        Some(path) => Ok(path.into()),
        None => Ok(root(toolchain)?.join("bin/bpf-linker")),
    }
}

/// Builds the linker unless one that works is there.
pub fn install(toolchain: &Toolchain) -> Result<Outcome> {
    let linker = bpf_linker(toolchain)?;
    if works(&linker) {
        return Ok(Outcome::Present(format!(
            "bpf-linker {VERSION} for LLVM {}",
            toolchain.llvm_major
        )));
    }
    if env::var_os(OVERRIDE).is_some() {
        bail!(
            "{OVERRIDE} names {}, which does not run; check or unset it",
            linker.display()
        );
    }
    if !LLVM_FEATURES.contains(&toolchain.llvm_major) {
        bail!(
            "bpf-linker {VERSION} knows LLVM {LLVM_FEATURES:?}, but rustc {} has LLVM {}; use another Rust \
             release, or set {OVERRIDE} to a bpf-linker that fits",
            toolchain.release,
            toolchain.llvm_major
        );
    }
    let root = root(toolchain)?;
    let prefix = llvm_prefix(&root, &toolchain.llvm_library()?)?;
    proc::logged(
        "bpf-linker",
        &mut build(toolchain, &root, &prefix),
        Duration::from_secs(1800),
    )?;
    if !works(&linker) {
        bail!(
            "bpf-linker was built but `{} --version` fails",
            linker.display()
        );
    }
    Ok(Outcome::Done(format!(
        "built bpf-linker {VERSION} for LLVM {}",
        toolchain.llvm_major
    )))
}

/// A folder per linker and compiler release, since the linker is bound to the compiler's LLVM library.
fn root(toolchain: &Toolchain) -> Result<PathBuf> {
    let llvm = toolchain.llvm_major;
    Ok(paths::cache()?.join(format!(
        "bpf-linker-{VERSION}-rust-{}-llvm-{llvm}",
        toolchain.release
    )))
}

fn works(linker: &Path) -> bool {
    linker.exists()
        && proc::succeeds(
            Command::new(linker).arg("--version"),
            Duration::from_secs(10),
        )
}

/// A folder as llvm-sys expects an LLVM installation: `lib/libLLVM.so` is the compiler's library.
fn llvm_prefix(root: &Path, library: &Path) -> Result<PathBuf> {
    let prefix = root.join("llvm");
    let lib = prefix.join("lib");
    fs::create_dir_all(&lib).with_context(|| format!("cannot create {}", lib.display()))?;
    let link = lib.join("libLLVM.so");
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link).with_context(|| format!("cannot replace {}", link.display()))?;
    }
    symlink(library, &link).with_context(|| format!("cannot create {}", link.display()))?;
    Ok(prefix)
}

fn build(toolchain: &Toolchain, root: &Path, prefix: &Path) -> Command {
    let rpath = toolchain.sysroot.join("lib");
    let mut command = proc::cargo();
    command
        .args(["install", "bpf-linker", "--locked", "--no-default-features"])
        .args(["--version", &format!("={VERSION}")])
        .args(["--features", &format!("llvm-{}", toolchain.llvm_major)])
        .arg("--root")
        .arg(root)
        .env("LLVM_PREFIX", prefix)
        .env(
            "RUSTFLAGS",
            format!("-C link-arg=-Wl,-rpath,{}", rpath.display()),
        )
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR");
    command
}
