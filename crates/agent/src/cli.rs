//! The command line of `hypha agent`.
use clap::{Arg, ArgMatches, Command, error::ErrorKind};
use runtime::{
    logging::Logging,
    settings::{KEYS, Key, Loaded, load},
};
use std::process::ExitCode;

/// Flags of `hypha agent`: one per setting, made from the settings' own descriptions.
#[derive(Clone, Debug, Default)]
pub struct AgentArgs {
    flags: Vec<(String, String)>,
}

impl AgentArgs {
    /// Flags given as pairs of key and value, for callers that start an agent in their own process.
    #[must_use]
    pub fn from_pairs(flags: Vec<(String, String)>) -> Self {
        Self { flags }
    }

    /// Runs the agent until it is told to stop. Mistakes in the settings end it at once with one line.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let started = std::time::Instant::now();
        let prepared = load(&self.flags, std::env::vars()).and_then(|loaded| {
            let logging = Logging::from_settings(&loaded.settings)?;
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

impl clap::Args for AgentArgs {
    fn augment_args(command: Command) -> Command {
        KEYS.iter()
            .fold(command, |command, key| command.arg(arg(key)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn arg(key: &'static Key) -> Arg {
    let default = match key.default() {
        text if text.is_empty() => String::new(),
        text => format!(" [default: {text}]"),
    };
    let arg = Arg::new(key.name).long(key.name).help(format!(
        "{}{default} [env: {}]",
        key.help,
        key.env()
    ));
    if key.is_switch {
        arg.num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("true|false")
    } else {
        arg.num_args(1)
            .value_name("VALUE")
            .allow_hyphen_values(true)
    }
}

impl clap::FromArgMatches for AgentArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for key in KEYS {
            let value = matches.try_get_one::<String>(key.name);
            let value = value
                .map_err(|error| clap::Error::raw(ErrorKind::InvalidValue, error.to_string()))?;
            if let Some(value) = value {
                self.flags.push((key.name.to_owned(), value.clone()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, FromArgMatches};

    fn parse(args: &[&str]) -> Result<AgentArgs, clap::Error> {
        let command = AgentArgs::augment_args(Command::new("agent"));
        AgentArgs::from_arg_matches(&command.try_get_matches_from(args)?)
    }

    #[test]
    fn flags_become_settings() {
        let args = parse(&[
            "agent",
            "--routing-mode",
            "native",
            "--enable-ipv6=false",
            "--auto-direct-node-routes",
        ])
        .unwrap();
        let loaded = load(&args.flags, []).unwrap();
        assert!(!loaded.settings.enable_ipv6 && loaded.settings.auto_direct_node_routes);
        assert_eq!(loaded.settings.get("routing-mode").unwrap(), "native");
        assert!(parse(&["agent", "--no-such-flag"]).is_err());
    }

    #[test]
    fn help_explains_every_flag() {
        let help = AgentArgs::augment_args(Command::new("agent").term_width(10_000))
            .render_long_help()
            .to_string();
        for key in KEYS {
            assert!(
                help.contains(&format!("--{}", key.name)) && help.contains(key.help),
                "{}",
                key.name
            );
        }
    }
}
