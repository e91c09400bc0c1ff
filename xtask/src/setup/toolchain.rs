//! The Rust toolchain in use: version, sysroot, and the LLVM it ships.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::proc;
use crate::report::Outcome;

/// The facts about `rustc` that the set-up depends on.
pub struct Toolchain {
    /// `x86_64-unknown-linux-gnu`
    pub host: String,
    /// `1.95.0`
    pub release: String,
    /// The folder that holds the compiler's own libraries.
    pub sysroot: PathBuf,
    /// `22`
    pub llvm_major: u32,
}

impl Toolchain {
    /// Asks the `rustc` that cargo would use here.
    pub fn detect() -> Result<Self> {
        let verbose = proc::output(Command::new("rustc").arg("-vV"))?;
        let field = |name: &str| {
            let line = verbose.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim)
                .with_context(|| format!("`rustc -vV` has no line `{name}`"))
        };
        let llvm = field("LLVM version:")?;
        let major = llvm.split('.').next().unwrap_or_default();
        Ok(Self {
            host: field("host:")?.to_owned(),
            release: field("release:")?.to_owned(),
            sysroot: proc::output(Command::new("rustc").args(["--print", "sysroot"]))?
                .trim()
                .into(),
            llvm_major: major
                .parse()
                .with_context(|| format!("LLVM version {llvm:?} of rustc"))?,
        })
    }

    /// Where `-Z build-std` looks for the sources of `core`.
    pub fn library_sources(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust/library")
    }

    /// The LLVM library that the compiler itself is linked to.
    pub fn llvm_library(&self) -> Result<PathBuf> {
        let dir = self.sysroot.join("lib");
        let prefix = format!("libLLVM.so.{}", self.llvm_major);
        let entries =
            fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
        let library = entries.flatten().map(|entry| entry.path()).find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        });
        match library {
            Some(library) => Ok(library),
            None => bail!(
                "rustc says LLVM {} but there is no {prefix}* in {}; install Rust with rustup, or put \
                 a bpf-linker built for that LLVM somewhere and set BPF_LINKER to its path",
                self.llvm_major,
                dir.display()
            ),
        }
    }
}

/// The step that finds the toolchain and says which it is.
pub fn find(found: &mut Option<Toolchain>) -> Result<Outcome> {
    let toolchain = Toolchain::detect()?;
    let text = format!(
        "rustc {} with LLVM {}",
        toolchain.release, toolchain.llvm_major
    );
    *found = Some(toolchain);
    Ok(Outcome::Present(text))
}
