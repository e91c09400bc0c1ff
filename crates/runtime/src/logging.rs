//! Log output: one line per event on standard error, text or JSON.
use crate::settings::SettingsError;
use std::collections::BTreeMap;
use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logging {
    /// Least important level that is written.
    pub level: Level,
    /// JSON lines, not text.
    pub json: bool,
}

impl Logging {
    /// What `debug` and `log-opt` ask for.
    ///
    /// # Errors
    /// An option or value of `log-opt` that does not exist.
    pub fn from_options(
        debug: bool,
        options: &BTreeMap<String, String>,
    ) -> Result<Self, SettingsError> {
        let mut logging = Self {
            level: if debug { Level::DEBUG } else { Level::INFO },
            json: false,
        };
        for (key, value) in options {
            let bad = |accepted| SettingsError::Value {
                key: format!("log-opt {key}"),
                value: value.clone(),
                place: "log-opt".to_owned(),
                accepted,
            };
            match key.as_str() {
                "level" => {
                    logging.level = value
                        .parse()
                        .map_err(|_| bad("error, warn, info, debug or trace"))?
                }
                "format" => {
                    logging.json = match value.as_str() {
                        "json" => true,
                        "text" => false,
                        _ => return Err(bad("text or json")),
                    }
                }
                _ => return Err(bad("the options level and format")),
            }
        }
        Ok(logging)
    }

    /// Starts logging; later calls in the same process change nothing.
    pub fn start(self) {
        // What libraries say below warnings is about their insides.
        let filter = Targets::new()
            .with_default(self.level)
            .with_target("hyper", Level::WARN)
            .with_target("hyper_util", Level::WARN)
            .with_target("tower", Level::WARN)
            .with_target("rustls", Level::WARN)
            // Whoever asked hears of every failure, and says more.
            .with_target("kube_client", LevelFilter::OFF)
            .with_target("kube_runtime", Level::WARN);
        let text = (!self.json).then(|| {
            fmt::layer()
                .with_target(false)
                .with_ansi(false)
                .with_writer(std::io::stderr)
        });
        let json = self.json.then(|| {
            fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(std::io::stderr)
        });
        let _ = tracing_subscriber::registry()
            .with(filter)
            .with(text)
            .with(json)
            .try_init();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Value;

    #[test]
    fn options_are_checked() {
        let of = |text| Logging::from_options(false, &Value::parse(text).unwrap());
        assert_eq!(
            of("level=debug,format=json").unwrap(),
            Logging {
                level: Level::DEBUG,
                json: true
            }
        );
        let said = of("level=loud").unwrap_err().to_string();
        assert!(said.contains("error, warn, info"), "{said}");
        assert!(of("colour=red").is_err());
    }
}
