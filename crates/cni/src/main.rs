//! `hypha-cni`, started by the container runtime; see the library.
#![forbid(unsafe_code)]

use std::{io, process::ExitCode};

use hypha_cni::{CniError, code, run};

fn main() -> ExitCode {
    if std::env::args_os().len() > 1 || std::env::var_os("CNI_COMMAND").is_none() {
        return by_hand();
    }
    // The runtime gets an error of the specification even then; the panic's own message goes to stderr.
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        println!(
            "{}",
            CniError::new(
                code::FAILED,
                "the plugin failed unexpectedly; see its stderr"
            )
            .to_json()
        );
    }));
    let env = |name: &str| std::env::var(name).ok();
    ExitCode::from(run(env, io::stdin().lock(), io::stdout().lock()))
}

/// Somebody started it from a shell.
fn by_hand() -> ExitCode {
    let versions = hypha_cni::Version::ALL.map(|v| v.text()).join(", ");
    println!(
        "hypha-cni {}: CNI plugin of Hypha, started by a container runtime.",
        env!("CARGO_PKG_VERSION")
    );
    println!(
        "CNI versions: {versions}. Set CNI_COMMAND (and the other CNI_ variables) and give the configuration on stdin."
    );
    ExitCode::from(u8::from(std::env::args_os().len() <= 1))
}
