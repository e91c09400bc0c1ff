//! The command line of `hypha agent`.
use crate::remote::{self, Heard};
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
    let prepared = settings(flags).and_then(|(loaded, heard)| {
        let logging = Logging::from_options(loaded.settings.debug, &loaded.settings.log_opt)
            .map_err(|error| error.to_string())?;
        Ok((loaded, heard, logging))
    });
    match prepared {
        Ok((loaded, heard, logging)) => {
            logging.start();
            serve(loaded, heard, started)
        }
        Err(error) => {
            eprintln!("hypha agent: {error}");
            ExitCode::from(2)
        }
    }
}

/// The settings of this node, those of the API server included, and what that says of the node now.
fn settings(flags: &AgentFlags) -> Result<(Loaded, Heard), String> {
    let local = load(flags.pairs(), std::env::vars()).map_err(|error| error.to_string())?;
    if local.settings.config_map.is_empty() {
        return Ok((local, Heard::NotAsked));
    }
    let fetched = remote::fetch(&local.settings)?;
    let loaded = load_all(flags.pairs(), std::env::vars(), &fetched.remote);
    let loaded = loaded.map_err(|error| error.to_string())?;
    match fetched.fresh {
        Some(known) => {
            remote::remember(&local.settings, &fetched.remote);
            Ok((loaded, Heard::Now(known)))
        }
        None => Ok((loaded, Heard::Before(flags.pairs().to_vec()))),
    }
}

fn serve(loaded: Loaded, heard: Heard, started: std::time::Instant) -> ExitCode {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match crate::boot::run(loaded, heard, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("the agent ends: {error:#}");
            ExitCode::FAILURE
        }
    }
}
