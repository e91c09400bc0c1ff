//! `hubble config`: the configuration file.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde_json::{Value, json};

use super::settings::{self, KEYS, Key, Kind, Settings};
use crate::error::Usage;
use crate::output;

/// What is done with the settings.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print a setting, or all of them
    Get {
        /// The setting; without one: all
        key: Option<String>,
    },
    /// Keep a setting in the configuration file
    Set {
        /// The setting
        key: String,
        /// Its value; without one: the default
        value: Option<String>,
    },
    /// Forget what the configuration file says of a setting
    Reset {
        /// The setting
        #[arg(required_unless_present = "all")]
        key: Option<String>,
        /// Every setting
        #[arg(long, conflicts_with = "key")]
        all: bool,
    },
    /// Print all settings as they are now: flags, environment, file, defaults
    View,
}

/// Carries the command out.
///
/// # Errors
/// There is no such setting, or the file cannot be written.
pub fn run(command: &ConfigCommand, settings: &Settings) -> Result<()> {
    match command {
        ConfigCommand::Get { key: Some(key) } => {
            let key = known(key)?;
            output::write_out(&format!("{}\n", shown(settings, key.name)))
        }
        ConfigCommand::Get { key: None } | ConfigCommand::View => {
            output::write_out(&view(settings))
        }
        ConfigCommand::Set { key, value } => {
            let key = known(key)?;
            let value = value.as_deref().unwrap_or(key.default);
            let value = key
                .check(value)
                .map_err(|text| Usage(format!("`{value}` is no value of {}: {text}", key.name)))?;
            let mut kept = settings::read(settings.file())?;
            kept.insert(key.name.to_owned(), value);
            write(settings.file(), &kept)
        }
        ConfigCommand::Reset { key, .. } => {
            let mut kept = settings::read(settings.file())?;
            match key {
                Some(key) => {
                    kept.remove(known(key)?.name);
                }
                None => kept.clear(),
            }
            write(settings.file(), &kept)
        }
    }
}

fn known(name: &str) -> Result<&'static Key> {
    let writable = || KEYS.iter().filter(|key| key.name != "config");
    if let Some(key) = writable().find(|key| key.name == name) {
        return Ok(key);
    }
    let names: Vec<&str> = writable().map(|key| key.name).collect();
    Err(Usage(format!(
        "there is no setting `{name}`; accepted: {}",
        names.join(", ")
    ))
    .into())
}

fn shown(settings: &Settings, name: &str) -> String {
    if name == "config" {
        settings.file().display().to_string()
    } else {
        settings.text(name).to_owned()
    }
}

fn view(settings: &Settings) -> String {
    let mut text = String::new();
    for key in KEYS {
        let value = shown(settings, key.name);
        let value = typed(key, &value);
        let _ = match &value {
            Value::String(word) if !word.is_empty() && plain(word) => {
                writeln!(text, "{}: {word}", key.name)
            }
            other => writeln!(text, "{}: {other}", key.name),
        };
    }
    text
}

/// Whether a word is the same text in YAML without quotes.
fn plain(word: &str) -> bool {
    let safe = |c: char| c.is_ascii_alphanumeric() || "._/-:".contains(c);
    word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && word.chars().all(safe)
        && !word.ends_with(':')
        && serde_saphyr::from_str::<Value>(word).is_ok_and(|value| value.is_string())
}

/// The value as the file keeps it.
fn typed(key: &Key, value: &str) -> Value {
    match key.kind {
        Kind::Switch => json!(value == "true"),
        Kind::Port => value
            .parse::<u16>()
            .map_or_else(|_| json!(value), |port| json!(port)),
        Kind::Files => json!(
            value
                .split(',')
                .filter(|path| !path.is_empty())
                .collect::<Vec<_>>()
        ),
        Kind::Text if key.name == "config" => json!(value),
        Kind::Text => json!(value),
        Kind::Span => json!(value),
    }
}

/// Writes the file beside itself first, so that it is never half there; it may hold a password.
fn write(file: &Path, kept: &BTreeMap<String, String>) -> Result<()> {
    let cannot = || format!("cannot write {}", file.display());
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir).with_context(cannot)?;
    }
    let values: serde_json::Map<String, Value> = kept
        .iter()
        .map(|(name, value)| {
            let value = Key::find(name).map_or_else(|| json!(value), |key| typed(key, value));
            (name.clone(), value)
        })
        .collect();
    let text = if values.is_empty() {
        String::new()
    } else {
        serde_saphyr::to_string(&Value::Object(values)).context("cannot write as YAML")?
    };
    let beside = file.with_extension("yaml.new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut out = options.open(&beside).with_context(cannot)?;
    std::io::Write::write_all(&mut out, text.as_bytes()).with_context(cannot)?;
    std::fs::rename(&beside, file).with_context(cannot)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn at(dir: &Path) -> Settings {
        let flags = BTreeMap::from([("config", dir.join("x/config.yaml").display().to_string())]);
        Settings::load(&flags, &|_| None).unwrap()
    }

    #[test]
    fn what_is_set_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let set = |key: &str, value: Option<&str>| {
            let command = ConfigCommand::Set {
                key: key.to_owned(),
                value: value.map(str::to_owned),
            };
            run(&command, &at(dir.path()))
        };
        set("server", Some("tls://relay.example:443")).unwrap();
        set("tls-ca-cert-files", Some("/a.crt,/b.crt")).unwrap();
        set("port-forward", Some("1")).unwrap();
        set("basic-auth-password", Some("a: \"b\"")).unwrap();
        let text = view(&at(dir.path())).replace(&dir.path().display().to_string(), "/dir");
        expect![[r#"
            basic-auth-password: "a: \"b\""
            basic-auth-username: ""
            config: /dir/x/config.yaml
            debug: false
            kube-context: ""
            kube-namespace: kube-system
            kubeconfig: ""
            port-forward: true
            port-forward-port: 4245
            request-timeout: "12s"
            server: tls://relay.example:443
            timeout: "5s"
            tls: false
            tls-allow-insecure: false
            tls-ca-cert-files: ["/a.crt","/b.crt"]
            tls-client-cert-file: ""
            tls-client-key-file: ""
            tls-server-name: ""
        "#]]
        .assert_eq(&text);
        let reset = ConfigCommand::Reset {
            key: Some("server".to_owned()),
            all: false,
        };
        run(&reset, &at(dir.path())).unwrap();
        assert_eq!(at(dir.path()).text("server"), "localhost:4245");
        assert_eq!(at(dir.path()).text("basic-auth-password"), "a: \"b\"");
        let error = set("colour", Some("red")).unwrap_err().to_string();
        assert!(error.starts_with("there is no setting `colour`; accepted: basic-auth-password"));
        let error = set("timeout", Some("soon")).unwrap_err().to_string();
        assert!(error.contains("`soon` is no value of timeout: accepted"));
    }
}
