//! Where things are: the workspace, its target folder, the cache of downloaded and built tools.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

/// `<workspace>/target`, whatever CARGO_TARGET_DIR says: the eBPF object and the logs of this tool are there.
pub fn target() -> PathBuf {
    workspace().join("target")
}

/// Cargo's own target folder, where it leaves binaries.
pub fn cargo_target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => target(),
    }
}

/// A file in the folder of release builds.
pub fn release(name: &str) -> PathBuf {
    cargo_target().join("release").join(name)
}

/// The eBPF object that the `datapath` crate embeds.
pub fn bpf_object() -> PathBuf {
    target().join("bpf/hypha.bpf.o")
}

/// `$XDG_CACHE_HOME/hypha` or `~/.cache/hypha`: outlives `cargo clean`, shared by every checkout.
pub fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(&env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    Ok(base.join("hypha"))
}

/// The first file of this name in PATH or in the folders for administrators.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
