//! What agents and operator would say of settings, before they do.
use std::collections::BTreeMap;

use ::kube::api::{Api, ListParams};
use ::runtime::settings::{
    IpamMode, Keyed, Layer, OperatorSettings, Remote, Settings, SettingsError, load_all,
};
use k8s::{Client, crd::CiliumNodeConfig};
use k8s_openapi::api::core::v1::ConfigMap;
use serde::Serialize;

use crate::kube::answer;

/// The ConfigMap.
pub const MAP: &str = "cilium-config";

/// Settings as a ConfigMap has them.
pub type Values = BTreeMap<String, String>;

/// Why a value means nothing to a key that agent or operator knows.
pub fn refused_value(key: &str, value: &str) -> Option<String> {
    let place = "nothing is changed";
    let said = [
        Settings::default().assign(key, value.trim(), place),
        OperatorSettings::default().assign(key, value.trim(), place),
    ];
    let refusal = |outcome: Result<(), SettingsError>| match outcome {
        Err(error @ SettingsError::Value { .. }) => Some(error.to_string()),
        _ => None,
    };
    said.into_iter().find_map(refusal)
}

/// Why agent or operator would refuse all of it, also where each value alone is fine.
pub fn refused(values: &Values) -> Option<String> {
    ::install::refused_settings(values).or_else(|| refused_ranges(values, false))
}

/// What the operator would say of the cluster's ranges; `always`: also where they are not used in the present mode.
pub fn refused_ranges(values: &Values, always: bool) -> Option<String> {
    let mut settings = load::<OperatorSettings>(values, Vec::new()).ok()?.settings;
    let given =
        !settings.cluster_pool_ipv4_cidr.is_empty() || !settings.cluster_pool_ipv6_cidr.is_empty();
    if always && given {
        settings.ipam = IpamMode::ClusterPool;
    }
    operator::check_settings(&settings)
        .err()
        .map(|error| error.to_string())
}

fn load<S: Keyed>(
    values: &Values,
    node_configs: Vec<Layer>,
) -> Result<::runtime::settings::Loaded<S>, SettingsError> {
    let map = Layer {
        place: format!("ConfigMap {MAP}"),
        values: values.clone(),
    };
    let remote = Remote {
        config_map: Some(map),
        node_configs,
    };
    load_all(&[], std::iter::empty(), &remote)
}

/// What is wrong with the settings in a cluster: object and text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Problems {
    /// Agents or operator would not start with them.
    pub errors: Vec<(String, String)>,
    /// What looks like a slip of the pen.
    pub warnings: Vec<(String, String)>,
}

/// Looks at the ConfigMap and the CiliumNodeConfigs; nothing is wrong where there are none.
///
/// # Errors
/// The API server does not answer or refuses.
pub async fn look(client: &Client, namespace: &str) -> anyhow::Result<Problems> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let Some(map) = answer(maps.get_opt(MAP)).await? else {
        return Ok(Problems::default());
    };
    let configs: Api<CiliumNodeConfig> = Api::namespaced(client.clone(), namespace);
    // No kind, no objects.
    let configs = answer(configs.list(&ListParams::default())).await;
    let configs = configs.map(|list| list.items).unwrap_or_default();
    let layers = configs.into_iter().map(|config| Layer {
        place: config.metadata.name.unwrap_or_default(),
        values: config.spec.defaults,
    });
    Ok(judge(&map.data.unwrap_or_default(), layers.collect()))
}

fn judge(values: &Values, node_configs: Vec<Layer>) -> Problems {
    let mut found = Problems::default();
    if let Some(error) = refused(values) {
        let error = error.trim_start_matches(&format!("ConfigMap {MAP}: "));
        found.errors.push((MAP.to_owned(), error.to_owned()));
        return found;
    }
    found.warnings = slips(MAP, values, Vec::new());
    for layer in node_configs {
        let name = format!("CiliumNodeConfig {}", layer.place);
        match load::<Settings>(values, vec![layer.clone()]) {
            Ok(_) => found
                .warnings
                .extend(slips(&name, &Values::new(), vec![layer])),
            Err(error) => {
                let error = error.to_string();
                let error = error.trim_start_matches(&format!("{}: ", layer.place));
                found.errors.push((name, error.to_owned()));
            }
        }
    }
    found
}

/// Keys that neither knows and one of them nearly does.
fn slips(name: &str, values: &Values, node_configs: Vec<Layer>) -> Vec<(String, String)> {
    let agent = load::<Settings>(values, node_configs.clone());
    let operator = load::<OperatorSettings>(values, node_configs.clone());
    let agent = agent.map(|loaded| loaded.warnings).unwrap_or_default();
    let operator = operator.map(|loaded| loaded.warnings).unwrap_or_default();
    let keys = values
        .keys()
        .chain(node_configs.iter().flat_map(|layer| layer.values.keys()));
    let slip = |key: &String| {
        let known = |keys: &[::runtime::settings::Key]| keys.iter().any(|one| one.name == key);
        if known(Settings::KEYS) || known(OperatorSettings::KEYS) {
            return None;
        }
        let about = |line: &&String| line.contains(&format!(": {key} means nothing"));
        let line = agent.iter().find(about).or(operator.iter().find(about))?;
        let (_, text) = line.split_once(": ")?;
        Some((name.to_owned(), text.to_owned()))
    };
    keys.filter_map(slip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(list: &[(&str, &str)]) -> Values {
        list.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_wrong_value_names_what_is_accepted() {
        for (key, value, accepted) in [
            ("cluster-pool-ipv4-mask-size", "40", "from 1 to 32"),
            ("mtu", "12", "1280"),
            ("log-opt", "level=loud", "error|warn|info"),
            ("prometheus-serve-addr", "9962", ":9962"),
            ("routing-mode", "sideways", "tunnel or native"),
            ("operator-k8s-client-qps", "-1", "a number from 0"),
        ] {
            let said = refused_value(key, value).unwrap_or_default();
            assert!(said.contains(accepted) && said.contains(value), "{said}");
        }
        assert_eq!(refused_value("cluster-pool-ipv4-mask-size", "26"), None);
        assert_eq!(refused_value("nobody-knows-it", "x"), None);
    }

    #[test]
    fn what_no_key_accepts_is_refused_for_every_key() {
        let keys = Settings::KEYS.iter().chain(OperatorSettings::KEYS);
        let free: Vec<&str> = keys
            .filter(|key| refused_value(key.name, "\u{1}/:=").is_none())
            .map(|key| key.name)
            .collect();
        // Texts of people's own choice, and files that may stand anywhere.
        let texts = [
            "config-dir",
            "config",
            "node-name",
            "k8s-kubeconfig-path",
            "bpf-object",
            "socket-path",
            "auto-create-cilium-pod-ip-pools",
            "fixed-identity-mapping",
            "labels",
            "node-labels",
        ];
        for key in free {
            assert!(texts.contains(&key), "{key} takes anything");
        }
    }

    #[test]
    fn ranges_are_seen_together() {
        let some = [
            ("cluster-pool-ipv4-cidr", "10.60.0.0/24"),
            ("ipam", "kubernetes"),
        ];
        let mut settings = values(&some);
        assert_eq!(refused(&settings), None);
        settings.insert("cluster-pool-ipv4-mask-size".into(), "20".into());
        assert_eq!(refused(&settings), None, "nobody uses it");
        let said = refused_ranges(&settings, true).unwrap_or_default();
        assert!(said.contains("accepted: 24 to 32"), "{said}");
        settings.insert("ipam".into(), "cluster-pool".into());
        assert_eq!(refused(&settings), Some(said));
    }

    #[test]
    fn a_cluster_is_judged() {
        let layer = |name: &str, key: &str, value: &str| Layer {
            place: name.to_owned(),
            values: values(&[(key, value)]),
        };
        let found = judge(
            &values(&[
                ("ipam", "kubernetes"),
                ("debug", "true"),
                ("routing-mod", "native"),
                ("unheard-of", "x"),
            ]),
            vec![layer("n", "mtu", "7"), layer("m", "mtu", "1400")],
        );
        assert_eq!(found.errors.len(), 1, "{found:?}");
        let (name, text) = &found.errors[0];
        assert!(
            name == "CiliumNodeConfig n" && text.starts_with("mtu=\"7\" is not"),
            "{found:?}"
        );
        assert_eq!(found.warnings.len(), 1, "{found:?}");
        assert!(
            found.warnings[0].1.contains("did you mean routing-mode?"),
            "{found:?}"
        );
        let found = judge(&values(&[("enable-ipv4", "maybe")]), Vec::new());
        assert_eq!(found.errors[0].0, MAP);
        assert!(found.errors[0].1.starts_with("enable-ipv4"), "{found:?}");
    }
}
