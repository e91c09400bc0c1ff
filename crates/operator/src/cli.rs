//! The command line of `hypha operator`.
use clap::{Args, Subcommand};
use runtime::{
    flags::Flags,
    logging::Logging,
    settings::{Loaded, OperatorSettings, Remote, load_all},
};
use std::process::ExitCode;

/// Arguments of `hypha operator`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct OperatorArgs {
    #[command(subcommand)]
    command: Option<OperatorCommand>,
    #[command(flatten)]
    flags: Flags<OperatorSettings>,
}

#[derive(Clone, Debug, Subcommand)]
enum OperatorCommand {
    /// Print the custom resource definitions as YAML
    Crds,
}

impl OperatorArgs {
    /// Runs the operator until it is told to stop, or prints what was asked for. Mistakes in the settings end it at once with
    /// one line.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        if let Some(OperatorCommand::Crds) = self.command {
            return crds();
        }
        let prepared = settings(self.flags.pairs()).and_then(|loaded| {
            let options = &loaded.settings;
            let logging = Logging::from_options(options.debug, &options.log_opt)
                .map_err(|error| error.to_string())?;
            Ok((loaded, logging))
        });
        match prepared {
            Ok((loaded, logging)) => {
                logging.start();
                for warning in &loaded.warnings {
                    tracing::warn!("{warning}");
                }
                match crate::boot::run(loaded.settings) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(error) => {
                        tracing::error!("the operator ends: {error:#}");
                        ExitCode::FAILURE
                    }
                }
            }
            Err(error) => {
                eprintln!("hypha operator: {error}");
                ExitCode::from(2)
            }
        }
    }
}

fn settings(flags: &[(String, String)]) -> Result<Loaded<OperatorSettings>, String> {
    let read = |remote: &Remote| {
        load_all::<OperatorSettings>(flags, std::env::vars(), remote)
            .map_err(|error| error.to_string())
    };
    let local = read(&Remote::default())?;
    if local.settings.config_map.is_empty() {
        return Ok(local);
    }
    let remote = crate::boot::remote_settings(&local.settings)?;
    let loaded = read(&remote).and_then(|loaded| {
        let checked = crate::boot::check(&loaded.settings);
        checked.map_err(|error| error.to_string()).map(|()| loaded)
    });
    // Whoever wrote the ConfigMap looks there.
    loaded.inspect_err(|error| crate::boot::tell(&local.settings, error))
}

fn crds() -> ExitCode {
    for crd in k8s::crd::ALL {
        match k8s::crd::yaml(crd) {
            Ok(text) => println!("---\n{}", text.trim_end()),
            Err(error) => {
                eprintln!("hypha operator: {}: {error}", crd.name());
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
