//! The server through unmodified `kubectl`s, the newest at hand and one of 1.20, and through the Python client.
//!
//! `new/*.txt` and `old/*.txt` are transcripts: `$ ` begins a command for the shell (`> ` goes on with it), everything else is
//! what it prints. Each runs against a server of its own, over TLS. With `UPDATE_EXPECT=1` the transcripts are written anew.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod kubelet;
mod normal;
mod proxy;
mod python;
mod security;
mod server;
mod transcript;

use std::path::{Path, PathBuf};

/// Which `kubectl`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Release {
    /// The newest at hand.
    New,
    /// The one of Kubernetes 1.20.
    Old,
}

/// The folder of downloaded tools.
fn tools() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty());
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    cache.map_or_else(home, PathBuf::from).join("hypha/tools")
}

/// The program of a release; without it, says so.
fn kubectl(release: Release) -> Option<PathBuf> {
    let ours = match release {
        Release::New => tools().join("kubectl-new/kubectl"),
        Release::Old => tools().join("kubectl-old/kubectl"),
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = || {
        std::env::split_paths(&path)
            .map(|dir| dir.join("kubectl"))
            .find(|file| file.is_file())
    };
    let found = match release {
        Release::New => in_path().or(Some(ours).filter(|file| file.is_file())),
        Release::Old => Some(ours).filter(|file| file.is_file()),
    };
    if found.is_none() {
        eprintln!("skipped: there is no {release:?} kubectl; `cargo xtask setup` fetches it");
    }
    found
}

/// The folder of transcripts.
fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kubectl"))
}
