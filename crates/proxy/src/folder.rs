//! Folders that nobody else looks into: rules may hold secrets, and whoever reaches the sockets says what holds.
use std::{fs::DirBuilder, io, os::unix::fs::DirBuilderExt, path::Path};

/// Makes it, unless it is there.
pub(crate) fn private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}
