//! What is said once for all commands: flags, then the environment, then the configuration file, then the default.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use crate::error::Usage;

/// A setting that all commands share.
pub struct Key {
    /// Its flag, and its name in the file; in the environment `HUBBLE_` stands before it, in capitals.
    pub name: &'static str,
    /// What it is if nobody says.
    pub default: &'static str,
    /// What it may be.
    pub kind: Kind,
}

/// What a setting may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// `true` or `false`.
    Switch,
    /// A span of time.
    Span,
    /// A port.
    Port,
    /// Files, with commas.
    Files,
}

const fn key(name: &'static str, default: &'static str, kind: Kind) -> Key {
    Key {
        name,
        default,
        kind,
    }
}

/// Every setting, in the order of the names.
pub const KEYS: &[Key] = &[
    key("basic-auth-password", "", Kind::Text),
    key("basic-auth-username", "", Kind::Text),
    key("config", "", Kind::Text),
    key("debug", "false", Kind::Switch),
    key("kube-context", "", Kind::Text),
    key("kube-namespace", "kube-system", Kind::Text),
    key("kubeconfig", "", Kind::Text),
    key("port-forward", "false", Kind::Switch),
    key("port-forward-port", "4245", Kind::Port),
    key("request-timeout", "12s", Kind::Span),
    key("server", "localhost:4245", Kind::Text),
    key("timeout", "5s", Kind::Span),
    key("tls", "false", Kind::Switch),
    key("tls-allow-insecure", "false", Kind::Switch),
    key("tls-ca-cert-files", "", Kind::Files),
    key("tls-client-cert-file", "", Kind::Text),
    key("tls-client-key-file", "", Kind::Text),
    key("tls-server-name", "", Kind::Text),
];

impl Key {
    /// The setting of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    fn variable(&self) -> String {
        format!("HUBBLE_{}", self.name.replace('-', "_").to_uppercase())
    }

    /// The value as it is kept, if it is one.
    ///
    /// # Errors
    /// It is none; the text says what is accepted.
    pub fn check(&self, value: &str) -> Result<String, String> {
        match self.kind {
            Kind::Text | Kind::Files => Ok(value.to_owned()),
            Kind::Switch => switch(value).map(|on| on.to_string()),
            Kind::Span => super::time::limit(value).map(|_| value.to_owned()),
            Kind::Port => value
                .parse::<u16>()
                .map(|_| value.to_owned())
                .map_err(|_| "accepted: a port, 0 to 65535".to_owned()),
        }
    }
}

/// A switch as people write it.
///
/// # Errors
/// It is none.
pub fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "TRUE" | "True" | "t" | "T" | "1" => Ok(true),
        "false" | "FALSE" | "False" | "f" | "F" | "0" => Ok(false),
        _ => Err("accepted: true, false".to_owned()),
    }
}

/// Values of settings, each with where it was said.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    values: BTreeMap<&'static str, (String, String)>,
    file: PathBuf,
}

impl Settings {
    /// Reads the environment and the configuration file below the flags that were given.
    ///
    /// # Errors
    /// The file cannot be read, or a value is none.
    pub fn load(
        flags: &BTreeMap<&'static str, String>,
        environment: &impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let key = KEYS.iter().find(|key| key.name == "config");
        let said = flags
            .get("config")
            .cloned()
            .or_else(|| key.and_then(|key| environment(&key.variable())));
        let file = said
            .filter(|path| !path.is_empty())
            .map_or_else(|| usual_file(environment), PathBuf::from);
        let kept = read(&file)?;
        let mut values = BTreeMap::new();
        for key in KEYS {
            let given = flags
                .get(key.name)
                .map(|value| (value.clone(), format!("--{}", key.name)));
            let env = || environment(&key.variable()).map(|value| (value, key.variable()));
            let in_file = || {
                kept.get(key.name)
                    .map(|value| (value.clone(), format!("{}: {}", file.display(), key.name)))
            };
            if let Some((value, place)) = given.or_else(env).or_else(in_file) {
                let value = key
                    .check(&value)
                    .map_err(|text| Usage(format!("{place}: `{value}` is none: {text}")))?;
                values.insert(key.name, (value, place));
            }
        }
        Ok(Self { values, file })
    }

    /// A setting's value.
    pub fn text(&self, name: &str) -> &str {
        let default = || Key::find(name).map_or("", |key| key.default);
        self.said(name).unwrap_or_else(default)
    }

    /// A setting's value, if somebody has said one.
    pub fn said(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(value, _)| value.as_str())
    }

    /// Whether it is switched on.
    pub fn on(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    /// A span of time.
    pub fn span(&self, name: &str) -> std::time::Duration {
        super::time::limit(self.text(name)).unwrap_or_default()
    }

    /// Files with commas between them.
    pub fn files(&self, name: &str) -> Vec<PathBuf> {
        self.text(name)
            .split(',')
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .collect()
    }

    /// The configuration file, whether it is there or not.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

/// `$XDG_CONFIG_HOME/hubble/config.yaml`, `~/.config/hubble/config.yaml` if it is there, else `~/.hubble/config.yaml`.
fn usual_file(environment: &impl Fn(&str) -> Option<String>) -> PathBuf {
    let set = |name: &str| environment(name).filter(|text| !text.is_empty());
    if let Some(dir) = set("XDG_CONFIG_HOME") {
        return PathBuf::from(dir).join("hubble/config.yaml");
    }
    let home = PathBuf::from(set("HOME").unwrap_or_default());
    let newer = home.join(".config/hubble/config.yaml");
    if newer.exists() {
        newer
    } else {
        home.join(".hubble/config.yaml")
    }
}

/// What a configuration file says; nothing if it is not there.
///
/// # Errors
/// It cannot be read, or has something else than settings.
pub fn read(file: &Path) -> Result<BTreeMap<String, String>> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let values: BTreeMap<String, serde_json::Value> = serde_saphyr::from_str(&text)
        .map_err(|error| anyhow!("{}: not a map of settings: {error}", file.display()))?;
    let plain = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        serde_json::Value::Null => String::new(),
        serde_json::Value::Array(items) => {
            let plain = |item: &serde_json::Value| {
                item.as_str()
                    .map_or_else(|| item.to_string(), str::to_owned)
            };
            items.iter().map(plain).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    };
    Ok(values
        .into_iter()
        .map(|(key, value)| (key, plain(value)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hubble/config.yaml");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(
            &file,
            "server: file:1\ntls: true\ntimeout: 3s\nport-forward-port: 99\ntls-ca-cert-files: [a, b]\n",
        )
        .unwrap();
        let home = dir.path().display().to_string();
        let environment = |name: &str| match name {
            "XDG_CONFIG_HOME" => Some(home.clone()),
            "HUBBLE_SERVER" => Some("env:2".to_owned()),
            "HUBBLE_TIMEOUT" => Some("4s".to_owned()),
            _ => None,
        };
        let flags = BTreeMap::from([("server", "flag:3".to_owned())]);
        let settings = Settings::load(&flags, &environment).unwrap();
        assert_eq!(settings.text("server"), "flag:3");
        assert_eq!(settings.span("timeout").as_secs(), 4);
        assert!(settings.on("tls"));
        assert_eq!(settings.text("port-forward-port"), "99");
        assert_eq!(settings.files("tls-ca-cert-files").len(), 2);
        assert_eq!(settings.span("request-timeout").as_secs(), 12);
        assert_eq!(settings.said("kubeconfig"), None);
        assert_eq!(settings.file(), file);
        let wrong = |name: &str| (name == "HUBBLE_TLS").then(|| "perhaps".to_owned());
        let error = Settings::load(&BTreeMap::new(), &wrong).unwrap_err();
        assert_eq!(
            error.to_string(),
            "HUBBLE_TLS: `perhaps` is none: accepted: true, false"
        );
    }
}
