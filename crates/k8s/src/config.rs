//! Settings kept in the API server: a ConfigMap, and what stands above it for some nodes.
use crate::{
    crd::CiliumNodeConfig,
    error::{is_not_found, says},
};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::{Api, Client, api::ListParams};
use runtime::settings::{Layer, Remote};
use std::collections::BTreeMap;

/// The settings could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is no such ConfigMap.
    #[error("ConfigMap {0} does not exist")]
    Missing(String),
    /// The API server does not answer, or refuses.
    #[error("settings cannot be read from the API server: {0}")]
    Failed(String),
}

/// Reads a ConfigMap.
///
/// # Errors
/// It does not exist, or the API server does not answer.
pub async fn config_map(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Layer, ConfigError> {
    let shown = format!("{namespace}/{name}");
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(name).await.map_err(failed)?;
    Ok(Layer {
        values: found
            .ok_or_else(|| ConfigError::Missing(shown.clone()))?
            .data
            .unwrap_or_default(),
        place: format!("ConfigMap {shown}"),
    })
}

/// Reads a ConfigMap, and the CiliumNodeConfigs of its namespace that select `node`, in the order of their names.
///
/// # Errors
/// As [`config_map`].
pub async fn of_node(
    client: &Client,
    namespace: &str,
    name: &str,
    node: &str,
) -> Result<Remote, ConfigError> {
    // One after the other: that is one connection, which costs more than the questions. An agent that starts waits for this.
    let map = config_map(client, namespace, name).await?;
    let configs = node_configs(client, namespace).await?;
    let labels = if configs.is_empty() {
        BTreeMap::new()
    } else {
        let nodes: Api<Node> = Api::all(client.clone());
        let node = nodes.get_opt(node).await.map_err(failed)?;
        node.and_then(|node| node.metadata.labels)
            .unwrap_or_default()
    };
    Ok(Remote {
        config_map: Some(map),
        node_configs: selected(configs, &labels),
    })
}

async fn node_configs(
    client: &Client,
    namespace: &str,
) -> Result<Vec<CiliumNodeConfig>, ConfigError> {
    let api: Api<CiliumNodeConfig> = Api::namespaced(client.clone(), namespace);
    match api.list(&ListParams::default()).await {
        Ok(list) => Ok(list.items),
        // Nobody has installed the kind: there are none.
        Err(error) if is_not_found(&error) => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

fn selected(mut all: Vec<CiliumNodeConfig>, labels: &BTreeMap<String, String>) -> Vec<Layer> {
    all.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    all.into_iter()
        .filter(|config| config.spec.node_selector.selects(labels))
        .map(|config| Layer {
            place: format!(
                "CiliumNodeConfig {}/{}",
                config.metadata.namespace.unwrap_or_default(),
                config.metadata.name.unwrap_or_default()
            ),
            values: config.spec.defaults,
        })
        .collect()
}

fn failed(error: kube::Error) -> ConfigError {
    ConfigError::Failed(says(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn configs_of_this_node_apply_in_the_order_of_their_names() {
        let config = |name: &str, zone: &str| -> CiliumNodeConfig {
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "kube-system"},
                "spec": {"nodeSelector": {"matchLabels": {"zone": zone}}, "defaults": {"debug": name}},
            }))
            .unwrap()
        };
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let all = vec![config("z", "a"), config("b", "b"), config("a", "a")];
        let places: Vec<String> = selected(all, &labels)
            .into_iter()
            .map(|layer| layer.place)
            .collect();
        assert_eq!(
            places,
            [
                "CiliumNodeConfig kube-system/a",
                "CiliumNodeConfig kube-system/z"
            ]
        );
    }
}
