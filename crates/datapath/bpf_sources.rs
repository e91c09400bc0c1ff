//! What the eBPF object is made from: shared by the task that builds it and the build script that embeds it, which refuses one that
//! was built from something else.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

#[path = "src/digest.rs"]
pub mod digest;

/// The folders of its sources.
const FOLDERS: [&str; 3] = ["bpf", "crates/abi", "crates/wire"];

/// The sources below a workspace's root, in their order.
pub fn files(root: &Path) -> io::Result<Vec<PathBuf>> {
    // Versions and features of what the others inherit.
    let mut files = vec![root.join("Cargo.toml")];
    for folder in FOLDERS {
        collect(&root.join(folder), &mut files)?;
    }
    files.sort_unstable();
    Ok(files)
}

/// A line that changes with every name and content of `files`.
pub fn fingerprint(root: &Path, files: &[PathBuf]) -> io::Result<String> {
    let mut parts = Vec::new();
    for file in files {
        let name = file.strip_prefix(root).unwrap_or(file);
        parts.push(name.as_os_str().as_encoded_bytes().to_vec());
        let told = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", file.display()));
        parts.push(fs::read(file).map_err(told)?);
    }
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    Ok(format!(
        "{:032x}",
        u128::from_le_bytes(digest::digest(&parts))
    ))
}

/// Rust, TOML and lock files below a folder, without build folders and tests.
pub fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let is = |names: &[&str], of: Option<&std::ffi::OsStr>| {
            names.iter().any(|n| of == Some(n.as_ref()))
        };
        if path.is_dir() {
            if !is(&["target", "tests", "benches"], path.file_name()) {
                collect(&path, files)?;
            }
        } else if is(&["rs", "toml", "lock"], path.extension()) {
            files.push(path);
        }
    }
    Ok(())
}
