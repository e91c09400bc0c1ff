//! Reading settings from all places, in order.
use super::{Key, Keyed, Settings, SettingsError, similar};
use serde::{Deserialize, Serialize};
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
    /// An object of the API server: a ConfigMap or a CiliumNodeConfig.
    Object(String),
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
            Self::ConfigDir(path) | Self::ConfigFile(path) | Self::Object(path) => path.clone(),
            Self::Environment(name) => format!("environment variable {name}"),
            Self::Flag => format!("flag --{key}"),
        }
    }
}

/// Settings with their origins.
#[derive(Clone, Debug)]
pub struct Loaded<S = Settings> {
    /// The values.
    pub settings: S,
    /// Where each key's value came from; a key that is not here has its default.
    pub origins: BTreeMap<&'static str, Origin>,
    /// What looks wrong but does not stop the start.
    pub warnings: Vec<String>,
}

/// Keys and values of one object of the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// What the object is, as messages name it: `ConfigMap kube-system/cilium-config`.
    pub place: String,
    /// Its keys and values.
    pub values: BTreeMap<String, String>,
}

/// What is read from the API server: the ConfigMap, and what stands above it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Remote {
    /// The ConfigMap.
    pub config_map: Option<Layer>,
    /// The CiliumNodeConfigs that are meant for this node, the weakest first.
    pub node_configs: Vec<Layer>,
}

/// Reads the agent's settings from all places but the API server; `flags` and `env` are pairs of name and value.
///
/// # Errors
/// As [`load_all`].
pub fn load(
    flags: &[(String, String)],
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, SettingsError> {
    load_all(flags, env, &Remote::default())
}

/// Reads settings from all places; `flags` and `env` are pairs of name and value.
///
/// A directory and objects may have keys of other roles and releases: what is not known there is left out, with a warning if it
/// looks like a slip of the pen. In the `config` file and in flags it is an error.
///
/// # Errors
/// The first key or value that is not accepted, with its place; values that exclude each other; an unreadable file.
pub fn load_all<S: Keyed>(
    flags: &[(String, String)],
    env: impl IntoIterator<Item = (String, String)>,
    remote: &Remote,
) -> Result<Loaded<S>, SettingsError> {
    let mut loaded = Loaded {
        settings: S::default(),
        origins: BTreeMap::new(),
        warnings: Vec::new(),
    };
    let env = from_env(S::keys(), env, &mut loaded.warnings);
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
    let mut shared = Vec::new();
    if let Some(dir) = find("config-dir").filter(|dir| !dir.is_empty()) {
        let rows = read_dir(Path::new(&dir))?;
        shared.extend(
            rows.into_iter()
                .map(|(key, value, path)| (key, value, Origin::ConfigDir(path))),
        );
    }
    shared.extend(rows_of(remote.config_map.iter()));
    if let Some(file) = find("config").filter(|file| !file.is_empty()) {
        let rows = read_file(Path::new(&file))?;
        shared.extend(
            rows.into_iter()
                .map(|(key, value)| (key, value, Origin::ConfigFile(file.clone()))),
        );
    }
    shared.extend(rows_of(remote.node_configs.iter()));
    for (key, value, origin) in shared {
        if matches!(origin, Origin::ConfigFile(_)) {
            loaded.apply(&key, &value, origin)?;
        } else {
            loaded.apply_known(&key, &value, origin)?;
        }
    }
    for (key, value, variable) in env {
        loaded.apply(key, &value, Origin::Environment(variable))?;
    }
    for (key, value) in flags {
        loaded.apply(key, value, Origin::Flag)?;
    }
    loaded.settings.check()?;
    Ok(loaded)
}

fn rows_of<'a>(
    layers: impl Iterator<Item = &'a Layer>,
) -> impl Iterator<Item = (String, String, Origin)> {
    layers.flat_map(|layer| {
        let origin = Origin::Object(layer.place.clone());
        layer
            .values
            .iter()
            .map(move |(key, value)| (key.clone(), value.trim().to_owned(), origin.clone()))
    })
}

impl<S: Keyed> Loaded<S> {
    fn apply(&mut self, key: &str, value: &str, origin: Origin) -> Result<(), SettingsError> {
        self.settings.assign(key, value, &origin.place(key))?;
        if let Some(known) = S::keys().iter().find(|known| known.name == key) {
            self.origins.insert(known.name, origin);
        }
        Ok(())
    }

    /// Leaves out what this role does not know; what looks like a slip of the pen is told.
    fn apply_known(&mut self, key: &str, value: &str, origin: Origin) -> Result<(), SettingsError> {
        if S::keys().iter().any(|known| known.name == key) {
            return self.apply(key, value, origin);
        }
        if let Some(meant) = similar(S::keys(), key, 2) {
            self.warnings.push(format!(
                "{}: {key} means nothing to the {} and is ignored; did you mean {meant}?",
                origin.place(key),
                S::ROLE
            ));
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
    keys: &'static [Key],
    env: impl IntoIterator<Item = (String, String)>,
    warnings: &mut Vec<String>,
) -> Vec<(&'static str, String, String)> {
    let mut found = Vec::new();
    for (name, value) in env {
        if name == "K8S_NODE_NAME" && keys.iter().any(|key| key.name == "node-name") {
            found.insert(0, ("node-name", value, name));
        } else if let Some(key) = keys.iter().find(|key| key.env() == name) {
            found.push((key.name, value, name));
        } else if name.starts_with("CILIUM_") && !is_service_link(&name) {
            warnings.push(format!(
                "environment variable {name} means nothing here and is ignored"
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
    fn objects_stand_between_files_and_environment() {
        let layer = |place: &str, values: &[(&str, &str)]| Layer {
            place: place.to_owned(),
            values: pairs(values).into_iter().collect(),
        };
        let remote = Remote {
            config_map: Some(layer(
                "ConfigMap kube-system/cilium-config",
                &[
                    ("mtu", "1400"),
                    ("debug", "true"),
                    ("cluster-pool-ipv4-cidr", "10.0.0.0/8"),
                    ("routing-mod", "native"),
                    ("enable-ipv6", "true"),
                ],
            )),
            node_configs: vec![
                layer("CiliumNodeConfig kube-system/a", &[("mtu", "1450")]),
                layer("CiliumNodeConfig kube-system/b", &[("mtu", "1460")]),
            ],
        };
        let env = pairs(&[("CILIUM_ENABLE_IPV6", "false")]);
        let loaded: Loaded = load_all(&[], env, &remote).unwrap();
        assert_eq!((loaded.settings.mtu, loaded.settings.debug), (1460, true));
        assert!(!loaded.settings.enable_ipv6);
        assert_eq!(
            loaded.origin("mtu"),
            Origin::Object("CiliumNodeConfig kube-system/b".to_owned())
        );
        assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
        assert!(loaded.warnings[0].contains("did you mean routing-mode?"));
        let bad = Remote {
            config_map: Some(layer("ConfigMap x", &[("ipam", "magic")])),
            ..Remote::default()
        };
        assert_eq!(
            load_all::<Settings>(&[], [], &bad).unwrap_err().to_string(),
            "ConfigMap x: ipam=\"magic\" is not accepted; expected kubernetes, cluster-pool, multi-pool or crd"
        );
    }

    #[test]
    fn every_default_reads_back() {
        let mut operator = super::super::OperatorSettings::default();
        for key in super::super::OperatorSettings::KEYS {
            operator.set(key.name, &key.default(), "test").unwrap();
            assert!(key.help.ends_with('.'), "{}: help is a sentence", key.name);
        }
        assert_eq!(operator, super::super::OperatorSettings::default());
        let mut settings = Settings::default();
        for key in Settings::KEYS {
            settings.set(key.name, &key.default(), "test").unwrap();
            assert!(key.help.ends_with('.'), "{}: help is a sentence", key.name);
        }
        assert_eq!(settings, Settings::default());
    }
}
