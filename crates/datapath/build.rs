//! Takes the eBPF object into the crate and names its digest.
use std::{env, fs, path::PathBuf, process::exit};

#[path = "src/digest.rs"]
mod digest;

fn main() {
    println!("cargo::rerun-if-env-changed=HYPHA_SKIP_BPF");
    println!("cargo::rerun-if-env-changed=HYPHA_BPF_OBJECT");
    println!("cargo::rerun-if-changed=src/digest.rs");
    let object = object();
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let digest = digest::digest(&[&object]);
    write(out.join("hypha.bpf.o"), &object);
    write(out.join("digest.rs"), format!("{digest:?}").as_bytes());
}

/// The object's bytes; none when the build is told to do without.
fn object() -> Vec<u8> {
    if env::var_os("HYPHA_SKIP_BPF").is_some_and(|v| v == "1") {
        return Vec::new();
    }
    let path = env::var_os("HYPHA_BPF_OBJECT").map_or_else(default_path, PathBuf::from);
    println!("cargo::rerun-if-changed={}", path.display());
    fs::read(&path).unwrap_or_else(|e| {
        fail(&format!(
            "the eBPF object {} cannot be read ({e}); build it with `cargo xtask build-bpf`, or set HYPHA_SKIP_BPF=1 for a build \
             that cannot load programs",
            path.display()
        ))
    })
}

fn default_path() -> PathBuf {
    PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default())
        .join("../../target/bpf/hypha.bpf.o")
}

fn write(path: PathBuf, bytes: &[u8]) {
    if let Err(e) = fs::write(&path, bytes) {
        fail(&format!("{} cannot be written: {e}", path.display()));
    }
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1)
}
