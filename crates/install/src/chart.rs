//! The chart, as it stands in `deploy/helm/hypha`.
use serde::Deserialize;
use serde_json::Value;

macro_rules! chart {
    ($($path:literal),+ $(,)?) => {
        /// Every file of the chart by its path in it.
        pub const FILES: &[(&str, &str)] = &[
            $(($path, include_str!(concat!("../../../deploy/helm/hypha/", $path)))),+
        ];
    };
}

chart! {
    ".helmignore",
    "Chart.yaml",
    "templates/NOTES.txt",
    "templates/_helpers.tpl",
    "templates/_not-yet.tpl",
    "templates/agent/daemonset.yaml",
    "templates/agent/rbac.yaml",
    "templates/agent/serviceaccount.yaml",
    "templates/configmap.yaml",
    "templates/hubble-relay/deployment.yaml",
    "templates/hubble-relay/service.yaml",
    "templates/hubble-ui/rbac.yaml",
    "templates/hubble-ui/service.yaml",
    "templates/hubble/certificates.yaml",
    "templates/hubble/dynamic.yaml",
    "templates/hubble/services.yaml",
    "templates/metrics.yaml",
    "templates/operator/deployment.yaml",
    "templates/operator/poddisruptionbudget.yaml",
    "templates/operator/rbac.yaml",
    "templates/operator/serviceaccount.yaml",
    "templates/proxy/daemonset.yaml",
    "templates/secrets.yaml",
    "values.schema.json",
    "values.yaml",
}

/// The text that people read after an installation.
pub const NOTES: &str = "templates/NOTES.txt";

/// `Chart.yaml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Of the chart.
    pub name: String,
    /// Version of the chart.
    pub version: String,
    /// Version of what it installs, and the tag of its images.
    pub app_version: String,
    /// Which versions of Kubernetes will do, as `>=1.20.0-0`.
    pub kube_version: String,
}

/// A file of the chart; empty if there is none.
#[must_use]
pub fn file(path: &str) -> &'static str {
    FILES
        .iter()
        .find(|(name, _)| *name == path)
        .map_or("", |(_, text)| text)
}

/// The chart's own values.
///
/// # Errors
/// `values.yaml` is broken, which a test excludes.
pub fn values() -> Result<Value, String> {
    parse("values.yaml")
}

/// What the chart says of itself.
///
/// # Errors
/// `Chart.yaml` is broken, which a test excludes.
pub fn metadata() -> Result<Metadata, String> {
    serde_saphyr::from_str(file("Chart.yaml")).map_err(|error| format!("Chart.yaml: {error}"))
}

/// `values.schema.json`.
///
/// # Errors
/// It is broken, which a test excludes.
pub fn schema() -> Result<Value, String> {
    serde_json::from_str(file("values.schema.json"))
        .map_err(|error| format!("values.schema.json: {error}"))
}

fn parse(path: &str) -> Result<Value, String> {
    serde_saphyr::from_str(file(path)).map_err(|error| format!("{path}: {error}"))
}
