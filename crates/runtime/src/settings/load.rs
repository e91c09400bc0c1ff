//! Reading settings from all places, in order.
use super::{KEYS, Settings, SettingsError};
use serde::Serialize;
use std::{collections::BTreeMap, fs, path::Path};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A file of `config-dir`.
    ConfigDir(String),
    /// The `config` file.
    ConfigFile(String),
    /// An environment variable.
    Environment(String),
    /// The command line.
    Flag,
}

impl Origin {
    /// The place as messages name it.
    #[must_use]
    pub fn place(&self, key: &str) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::ConfigDir(path) | Self::ConfigFile(path) => path.clone(),
            Self::Environment(name) => format!("environment variable {name}"),
            Self::Flag => format!("flag --{key}"),
        }
    }
}

/// Settings with their origins.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub settings: Settings,
    /// Where each key's value came from; a key that is not here has its default.
    pub origins: BTreeMap<&'static str, Origin>,
    /// What looks wrong but does not stop the start.
    pub warnings: Vec<String>,
}

/// Reads settings from all places; `flags` and `env` are pairs of name and value.
///
/// # Errors
/// The first key or value that is not accepted, with its place; values that exclude each other; an unreadable file.
pub fn load(
    flags: &[(String, String)],
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, SettingsError> {
    let mut loaded = Loaded {
        settings: Settings::default(),
        origins: BTreeMap::new(),
        warnings: Vec::new(),
    };
    let env = from_env(env, &mut loaded.warnings);
    // Where the files are is known only from flags and environment.
    let find = |key: &str| {
        let flag = flags
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.clone());
        flag.or_else(|| {
            env.iter()
                .find(|(name, _, _)| *name == key)
                .map(|(_, value, _)| value.clone())
        })
    };
    if let Some(dir) = find("config-dir").filter(|dir| !dir.is_empty()) {
        for (key, value, path) in read_dir(Path::new(&dir))? {
            loaded.apply(&key, &value, Origin::ConfigDir(path))?;
        }
    }
    if let Some(file) = find("config").filter(|file| !file.is_empty()) {
        for (key, value) in read_file(Path::new(&file))? {
            loaded.apply(&key, &value, Origin::ConfigFile(file.clone()))?;
        }
    }
    for (key, value, variable) in env {
        loaded.apply(key, &value, Origin::Environment(variable))?;
    }
    for (key, value) in flags {
        loaded.apply(key, value, Origin::Flag)?;
    }
    check(&loaded.settings)?;
    Ok(loaded)
}

impl Loaded {
    fn apply(&mut self, key: &str, value: &str, origin: Origin) -> Result<(), SettingsError> {
        self.settings.set(key, value, &origin.place(key))?;
        if let Some(known) = KEYS.iter().find(|known| known.name == key) {
            self.origins.insert(known.name, origin);
        }
        Ok(())
    }

    /// Where the value of `key` came from.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }
}

/// (key, value, variable) of the variables that are meant for us, the weakest first.
fn from_env(
    env: impl IntoIterator<Item = (String, String)>,
    warnings: &mut Vec<String>,
) -> Vec<(&'static str, String, String)> {
    let mut found = Vec::new();
    for (name, value) in env {
        if name == "K8S_NODE_NAME" {
            found.insert(0, ("node-name", value, name));
        } else if let Some(key) = KEYS.iter().find(|key| key.env() == name) {
            found.push((key.name, value, name));
        } else if name.starts_with("CILIUM_") && !is_service_link(&name) {
            warnings.push(format!(
                "environment variable {name} means nothing to the agent and is ignored"
            ));
        }
    }
    found
}

/// Kubernetes sets such variables in every pod for the services of its namespace.
fn is_service_link(name: &str) -> bool {
    name.contains("_SERVICE_") || name.contains("_PORT") || name.starts_with("CILIUM_K8S_")
}

fn read_dir(dir: &Path) -> Result<Vec<(String, String, String)>, SettingsError> {
    let fail = |path: &Path, why: std::io::Error| SettingsError::Read {
        path: path.display().to_string(),
        why: why.to_string(),
    };
    let mut rows = Vec::new();
    for entry in fs::read_dir(dir).map_err(|why| fail(dir, why))? {
        let path = entry.map_err(|why| fail(dir, why))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        // Kubernetes keeps the versions of a mounted ConfigMap in hidden directories.
        if name.starts_with('.') || path.is_dir() {
            continue;
        }
        let text = fs::read_to_string(&path).map_err(|why| fail(&path, why))?;
        rows.push((
            name.to_owned(),
            text.trim().to_owned(),
            path.display().to_string(),
        ));
    }
    rows.sort();
    Ok(rows)
}

fn read_file(path: &Path) -> Result<Vec<(String, String)>, SettingsError> {
    let fail = |why: String| SettingsError::Read {
        path: path.display().to_string(),
        why,
    };
    let text = fs::read_to_string(path).map_err(|why| fail(why.to_string()))?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let map: BTreeMap<String, serde_json::Value> =
        serde_saphyr::from_str(&text).map_err(|why| {
            let why = why.to_string();
            // What follows the first line is a picture of the file.
            let first = why.lines().next().unwrap_or_default();
            fail(format!("expected YAML `key: value` lines: {first}"))
        })?;
    map.into_iter()
        .map(|(key, value)| flat(&key, &value).map(|text| (key, text)).map_err(fail))
        .collect()
}

/// A YAML value as the text that the same key takes on the command line.
fn flat(key: &str, value: &serde_json::Value) -> Result<String, String> {
    use serde_json::Value::{Array, Bool, Null, Number, Object, String};
    Ok(match value {
        Null => std::string::String::new(),
        Bool(b) => b.to_string(),
        Number(n) => n.to_string(),
        String(s) => s.clone(),
        Array(items) => items
            .iter()
            .map(|item| flat(key, item))
            .collect::<Result<Vec<_>, _>>()?
            .join(","),
        Object(map) => {
            let pairs = map.iter().map(|(k, v)| match v {
                Array(_) | Object(_) => Err(format!(
                    "{key}.{k} is nested too deep; expected a text or a number"
                )),
                other => Ok(format!("{k}={}", flat(key, other)?)),
            });
            pairs.collect::<Result<Vec<_>, _>>()?.join(",")
        }
    })
}

fn check(settings: &Settings) -> Result<(), SettingsError> {
    let conflict = |text: &str| Err(SettingsError::Conflict(text.to_owned()));
    if !settings.enable_ipv4 && !settings.enable_ipv6 {
        return conflict(
            "enable-ipv4 and enable-ipv6 are both false; pods need at least one family",
        );
    }
    if settings.node_port_range.last == u16::MAX {
        return conflict("node-port-range leaves no ports for masquerading; end it below 65535");
    }
    if settings.k8s_require_ipv4_pod_cidr && !settings.enable_ipv4 {
        return conflict("k8s-require-ipv4-pod-cidr is true, but enable-ipv4 is false");
    }
    if settings.k8s_require_ipv6_pod_cidr && !settings.enable_ipv6 {
        return conflict("k8s-require-ipv6-pod-cidr is true, but enable-ipv6 is false");
    }
    if settings.mtu != 0 && settings.mtu < 1280 {
        return conflict("mtu is below 1280, the least that IPv6 works with");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::RoutingMode;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn later_places_win_and_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("routing-mode"), "native\n").unwrap();
        fs::write(dir.path().join("mtu"), "1400").unwrap();
        fs::create_dir(dir.path().join("..data")).unwrap();
        let file = dir.path().join(".config.yaml");
        fs::write(
            &file,
            "mtu: 1450\ndevices: [eth0, eth1]\nlog-opt: {level: debug}\n",
        )
        .unwrap();
        let flags = pairs(&[
            ("config-dir", dir.path().to_str().unwrap()),
            ("config", file.to_str().unwrap()),
        ]);
        let env = pairs(&[
            ("CILIUM_ENABLE_IPV6", "false"),
            ("K8S_NODE_NAME", "n1"),
            ("CILIUM_X", ""),
            ("HOME", "/"),
        ]);
        let loaded = load(&flags, env).unwrap();
        assert_eq!(loaded.settings.routing_mode, RoutingMode::Native);
        assert_eq!(loaded.settings.mtu, 1450);
        assert_eq!(loaded.settings.devices, ["eth0", "eth1"]);
        assert_eq!(loaded.settings.get("log-opt").unwrap(), "level=debug");
        assert!(!loaded.settings.enable_ipv6);
        assert_eq!(loaded.settings.node_name, "n1");
        assert!(matches!(
            loaded.origin("routing-mode"),
            Origin::ConfigDir(_)
        ));
        assert!(matches!(loaded.origin("mtu"), Origin::ConfigFile(_)));
        assert_eq!(
            loaded.origin("enable-ipv6"),
            Origin::Environment("CILIUM_ENABLE_IPV6".to_owned())
        );
        assert_eq!(loaded.origin("enable-ipv4"), Origin::Default);
        assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    }

    #[test]
    fn errors_name_place_value_and_what_is_accepted() {
        let message = |flags: &[(&str, &str)]| load(&pairs(flags), []).unwrap_err().to_string();
        assert_eq!(
            message(&[("routing-mode", "bgp")]),
            "flag --routing-mode: routing-mode=\"bgp\" is not accepted; expected tunnel or native"
        );
        assert!(message(&[("routing-mod", "native")]).contains("did you mean routing-mode?"));
        assert!(
            message(&[("enable-ipv4", "false"), ("enable-ipv6", "false")])
                .contains("at least one family")
        );
        assert!(message(&[("config-dir", "/nowhere/at/all")]).contains("/nowhere/at/all"));
    }

    #[test]
    fn the_file_of_a_bad_value_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mtu");
        fs::write(&path, "big").unwrap();
        let error = load(&pairs(&[("config-dir", dir.path().to_str().unwrap())]), []).unwrap_err();
        assert!(
            error.to_string().starts_with(path.to_str().unwrap()),
            "{error}"
        );
        let yaml = dir.path().join("x.yaml");
        fs::write(&yaml, "a: b: c\n").unwrap();
        let error = load(&pairs(&[("config", yaml.to_str().unwrap())]), []).unwrap_err();
        assert!(error.to_string().contains("x.yaml"), "{error}");
    }

    #[test]
    fn every_default_reads_back() {
        let mut settings = Settings::default();
        for key in KEYS {
            settings.set(key.name, &key.default(), "test").unwrap();
            assert!(key.help.ends_with('.'), "{}: help is a sentence", key.name);
        }
        assert_eq!(settings, Settings::default());
    }
}
