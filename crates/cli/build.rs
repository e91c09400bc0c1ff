//! How the program is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // At a fixed address: else the loader writes 100,000 addresses into 1.4 MB of memory at every start, before anything runs, and
    // programs start for every container of a lab and for every command of a person.
    println!("cargo:rustc-link-arg-bins=-no-pie");
    // The linker that comes with the compiler there knows these; others need not.
    if std::env::var("TARGET").as_deref() == Ok("x86_64-unknown-linux-gnu") {
        // Functions that came out the same are there once.
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
        // What is hardly ever called does not lie between what is called all the time: both would take memory.
        println!("cargo:rustc-link-arg-bins=-Wl,-z,keep-text-section-prefix");
    }
    if let Some(map) = std::env::var_os("HYPHA_LINK_MAP") {
        println!("cargo:rustc-link-arg-bins=-Wl,-Map={}", map.display());
    }
    println!("cargo:rerun-if-env-changed=HYPHA_LINK_MAP");
}
