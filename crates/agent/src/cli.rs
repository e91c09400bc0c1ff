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
    let prepared = settings(flags).and_then(|(loaded, fresh)| {
        let logging = Logging::from_options(loaded.settings.debug, &loaded.settings.log_opt)
            .map_err(|error| error.to_string())?;
        Ok((loaded, fresh, logging))
    });
    match prepared {
        Ok((loaded, fresh, logging)) => {
            logging.start();
            let stale = (!fresh).then(|| flags.pairs().to_vec());
            serve(loaded, stale, started)
        }
        Err(error) => {
            eprintln!("hypha agent: {error}");
            ExitCode::from(2)
        }
    }
}

/// The settings of this node, those of the API server included, and whether these are what it has now.
fn settings(flags: &AgentFlags) -> Result<(Loaded, bool), String> {
    let local = load(flags.pairs(), std::env::vars()).map_err(|error| error.to_string())?;
    if local.settings.config_map.is_empty() {
        return Ok((local, true));
    }
    let fetched = remote::fetch(&local.settings)?;
    let loaded = load_all(flags.pairs(), std::env::vars(), &fetched.remote);
    let loaded = loaded.map_err(|error| error.to_string())?;
    if fetched.fresh {
        remote::remember(&local.settings, &fetched.remote);
    }
    Ok((loaded, fetched.fresh))
}

fn serve(
    loaded: Loaded,
    stale: Option<Vec<(String, String)>>,
    started: std::time::Instant,
) -> ExitCode {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match crate::boot::run(loaded, stale, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("the agent ends: {error:#}");
            ExitCode::FAILURE
        }
    }
}
