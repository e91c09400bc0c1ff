//! Takes the eBPF object into the crate and names its digest.
use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::exit,
};

#[path = "bpf_sources.rs"]
mod sources;

fn main() {
    println!("cargo::rerun-if-env-changed=HYPHA_SKIP_BPF");
    println!("cargo::rerun-if-env-changed=HYPHA_BPF_OBJECT");
    for file in ["build.rs", "bpf_sources.rs", "src/digest.rs"] {
        rerun_if_changed(Path::new(file));
    }
    let object = object();
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let digest = sources::digest::digest(&[&object]);
    write(out.join("hypha.bpf.o"), &object);
    write(out.join("digest.rs"), format!("{digest:?}").as_bytes());
}

/// The object's bytes; none when the build is told to do without.
fn object() -> Vec<u8> {
    if env::var_os("HYPHA_SKIP_BPF").is_some_and(|v| v == "1") {
        return Vec::new();
    }
    // Whoever names an object answers for it.
    let path = env::var_os("HYPHA_BPF_OBJECT").map_or_else(built_here, PathBuf::from);
    rerun_if_changed(&path);
    fs::read(&path).unwrap_or_else(|e| {
        fail(&format!(
            "the eBPF object {} cannot be read ({e}); build it with `cargo xtask build-bpf`, or set HYPHA_SKIP_BPF=1 for a build \
             that cannot load programs",
            path.display()
        ))
    })
}

/// The object of this workspace, which must be of its sources: others' maps and constants look like faults of the programs.
fn built_here() -> PathBuf {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../..");
    let object = root.join("target/bpf/hypha.bpf.o");
    let stamp = object.with_extension("stamp");
    rerun_if_changed(&stamp);
    let now = sources_now(&root)
        .unwrap_or_else(|e| fail(&format!("the eBPF object's sources cannot be read: {e}")));
    let then = fs::read_to_string(stamp).unwrap_or_default();
    if object.exists() && then.lines().next() != Some(&now) {
        fail(&format!(
            "the eBPF object {} was built from other sources than those that are here; build it anew with `cargo xtask build-bpf`",
            object.display()
        ));
    }
    object
}

fn sources_now(root: &Path) -> io::Result<String> {
    let files = sources::files(root)?;
    files.iter().for_each(|file| rerun_if_changed(file));
    sources::fingerprint(root, &files)
}

fn rerun_if_changed(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
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
