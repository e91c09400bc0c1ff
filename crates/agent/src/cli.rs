//! The command line of `hypha agent`.
use crate::remote;
use runtime::{
    flags::Flags,
    logging::Logging,
    settings::{Loaded, Settings, load, load_all},
};
use std::process::ExitCode;

/// Flags of `hypha agent`.
pub type AgentFlags = Flags<Settings>;

/// Runs the agent until it is told to stop. Mistakes in the settings end it at once with one line.
#[must_use]
pub fn run(flags: &AgentFlags) -> ExitCode {
    let started = std::time::Instant::now();
    let prepared = settings(flags).and_then(|loaded| {
        let logging = Logging::from_options(loaded.settings.debug, &loaded.settings.log_opt)
            .map_err(|error| error.to_string())?;
        Ok((loaded, logging))
    });
    match prepared {
        Ok((loaded, logging)) => {
            logging.start();
            serve(loaded, started)
        }
        Err(error) => {
            eprintln!("hypha agent: {error}");
            ExitCode::from(2)
        }
    }
}

/// The settings of this node, those of the API server included.
fn settings(flags: &AgentFlags) -> Result<Loaded, String> {
    let local = load(flags.pairs(), std::env::vars()).map_err(|error| error.to_string())?;
    if local.settings.config_map.is_empty() {
        return Ok(local);
    }
    let remote = remote::fetch(&local.settings)?;
    load_all(flags.pairs(), std::env::vars(), &remote).map_err(|error| error.to_string())
}

fn serve(loaded: Loaded, started: std::time::Instant) -> ExitCode {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match crate::boot::run(loaded, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("the agent ends: {error:#}");
            ExitCode::FAILURE
        }
    }
}
