//! What tests that need root, namespaces or a whole lab share: names of their own, waiting for conditions, and a lab that goes
//! when the test ends, however it ends.
//!
//! It drives the `hypha` program from outside, as a person would, and depends on no other crate of the project.
#![forbid(unsafe_code)]

mod lab;
mod wait;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

pub use lab::{LabBuilder, LabGuard, Run};
pub use wait::wait_until;

/// A name that no other test of this machine uses at the same time: lower case, digits and `-`, at most 31 characters.
pub fn unique_name(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let prefix: String = prefix.chars().take(16).collect();
    format!(
        "{prefix}-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// True when the test may not run, because it is not root; says so in one line.
pub fn skip_unless_root() -> bool {
    let skip = !nix::unistd::geteuid().is_root();
    if skip {
        eprintln!("skipped: this test needs root");
    }
    skip
}

/// A program of this build: from `HYPHA_BIN_DIR`, or from the directory cargo put the test into. `None` when it is not built.
pub fn built_program(name: &str) -> Option<PathBuf> {
    let given = std::env::var_os("HYPHA_BIN_DIR").map(PathBuf::from);
    let built = || Some(std::env::current_exe().ok()?.parent()?.parent()?.to_owned());
    let path = given.or_else(built)?.join(name);
    path.is_file().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_fit() {
        let (a, b) = (
            unique_name("a-rather-long-prefix"),
            unique_name("a-rather-long-prefix"),
        );
        assert_ne!(a, b);
        assert!(a.len() <= 31 && !a.ends_with('-'), "{a}");
    }
}
