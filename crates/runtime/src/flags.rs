//! The flags of a role: one per setting, made from the settings' own descriptions.
use crate::settings::{Key, Keyed};
use clap::{Arg, ArgMatches, Command, error::ErrorKind};
use std::{marker::PhantomData, time::Duration};

/// Flags that were given, as pairs of key and value.
#[derive(Clone, Debug)]
pub struct Flags<S> {
    given: Vec<(String, String)>,
    of: PhantomData<S>,
}

impl<S> Default for Flags<S> {
    fn default() -> Self {
        Self::from_pairs(Vec::new())
    }
}

impl<S> Flags<S> {
    /// Flags from pairs of key and value.
    #[must_use]
    pub fn from_pairs(given: Vec<(String, String)>) -> Self {
        Self {
            given,
            of: PhantomData,
        }
    }

    /// The pairs.
    #[must_use]
    pub fn pairs(&self) -> &[(String, String)] {
        &self.given
    }
}

impl<S: Keyed> clap::Args for Flags<S> {
    fn augment_args(command: Command) -> Command {
        S::keys()
            .iter()
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

impl<S: Keyed> clap::FromArgMatches for Flags<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for key in S::keys() {
            let value = matches.try_get_one::<String>(key.name);
            let value = value
                .map_err(|error| clap::Error::raw(ErrorKind::InvalidValue, error.to_string()))?;
            if let Some(value) = value {
                self.given.push((key.name.to_owned(), value.clone()));
            }
        }
        Ok(())
    }
}

/// A flag's time: seconds, with an `s` after them or not.
///
/// # Errors
/// It is none.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "accepted: seconds, as 30 or 0.5".to_owned();
    let digits = text.strip_suffix('s').unwrap_or(text);
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{OperatorSettings, Settings, load};
    use clap::{Args, FromArgMatches};

    fn parse(args: &[&str]) -> Result<Flags<Settings>, clap::Error> {
        let command = Flags::<Settings>::augment_args(Command::new("agent"));
        Flags::from_arg_matches(&command.try_get_matches_from(args)?)
    }

    #[test]
    fn seconds_as_people_write_them() {
        for (text, millis) in [("60s", 60_000), ("0.5", 500), ("0", 0)] {
            assert_eq!(seconds(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["", "s", "-1", "soon", "NaN", "1e300", "1m"] {
            assert!(seconds(wrong).unwrap_err().contains("accepted"), "{wrong}");
        }
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
        let loaded = load(args.pairs(), []).unwrap();
        assert!(!loaded.settings.enable_ipv6 && loaded.settings.auto_direct_node_routes);
        assert_eq!(loaded.settings.get("routing-mode").unwrap(), "native");
        assert!(parse(&["agent", "--no-such-flag"]).is_err());
    }

    fn explains<S: Keyed>() {
        let help = Flags::<S>::augment_args(Command::new("x").term_width(10_000))
            .render_long_help()
            .to_string();
        for key in S::keys() {
            assert!(
                help.contains(&format!("--{}", key.name)) && help.contains(key.help),
                "{}",
                key.name
            );
        }
    }

    #[test]
    fn help_explains_every_flag() {
        explains::<Settings>();
        explains::<OperatorSettings>();
    }
}
