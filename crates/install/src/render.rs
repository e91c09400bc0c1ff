//! Values to objects.
use std::collections::BTreeMap;

use runtime::settings::{Layer, OperatorSettings, Remote, Settings, load_all};
use serde_json::{Value, json};

use crate::chart::{self, FILES, NOTES};
use crate::template::{TemplateError, Templates, at_least};
use crate::{order, schema, values};

/// What is to be rendered.
#[derive(Clone, Debug)]
pub struct Request {
    /// Name of the release; objects have names of their own.
    pub release: String,
    /// Namespace of everything that has one.
    pub namespace: String,
    /// The user's values; the chart's stand below them.
    pub values: Value,
    /// The API server's version, as `v1.30.2`; none: it is not checked whether the chart is made for it, and taken to be a new one.
    pub kube_version: Option<String>,
    /// Number of the release's revision, from 1.
    pub revision: u32,
    /// Objects of the cluster that templates look at; see [`LOOKED_AT`].
    pub there: Vec<Value>,
}

/// The version that templates see where none is known.
const NEW: &str = "v1.36.0";

/// Secrets that templates look at: what was made once and is to stay.
pub const LOOKED_AT: [&str; 4] = [
    "cilium-ca",
    "hubble-server-certs",
    "hubble-relay-client-certs",
    "hubble-relay-server-certs",
];

impl Default for Request {
    fn default() -> Self {
        Self {
            release: "cilium".to_owned(),
            namespace: "kube-system".to_owned(),
            values: json!({}),
            kube_version: None,
            revision: 1,
            there: Vec::new(),
        }
    }
}

/// What a chart makes of values.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// Objects in the order in which they are to be applied.
    pub objects: Vec<Value>,
    /// What people are told, values that have no effect yet included.
    pub notes: String,
    /// Every value, the chart's included.
    pub values: Value,
}

/// Values or the chart do not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// Values that are not accepted.
    #[error("{}", .0.join("; "))]
    Values(Vec<String>),
    /// Values that are accepted each, but make settings that agent or operator refuse.
    #[error("these values make settings that do not work: {0}")]
    Settings(String),
    /// A template is wrong, or says that something is.
    #[error("chart {0}")]
    Template(#[from] TemplateError),
    /// The chart is broken, or not made for this cluster.
    #[error("{0}")]
    Chart(String),
}

/// The objects of a release, in the order in which they are to be applied.
///
/// # Errors
/// As [`notes`].
pub fn render(request: &Request) -> Result<Vec<Value>, RenderError> {
    notes(request).map(|rendered| rendered.objects)
}

/// Objects, and what is to be said of them.
///
/// # Errors
/// Values are not accepted, alone or together; the cluster is too old.
pub fn notes(request: &Request) -> Result<Rendered, RenderError> {
    let metadata = chart::metadata().map_err(RenderError::Chart)?;
    check_version(request.kube_version.as_deref(), &metadata.kube_version)?;
    let dot = dot(request)?;
    let schema = chart::schema().map_err(RenderError::Chart)?;
    let wrong = schema::check(&schema, &dot["Values"]);
    if !wrong.is_empty() {
        return Err(RenderError::Values(wrong));
    }
    let mut templates = Templates::default();
    templates.there.clone_from(&request.there);
    for (path, text) in FILES
        .iter()
        .filter(|(path, _)| path.starts_with("templates/"))
    {
        templates.add(path, text)?;
    }
    let mut objects = Vec::new();
    for path in templates.files() {
        if path != NOTES && !path.rsplit('/').next().unwrap_or_default().starts_with('_') {
            objects.extend(documents(path, &templates.render(path, &dot)?)?);
        }
    }
    order::sort(&mut objects);
    check_settings(&objects)?;
    Ok(Rendered {
        objects,
        notes: templates.render(NOTES, &dot)?,
        values: dot["Values"].clone(),
    })
}

/// What templates see: the values over the chart's, unchecked, and what is known of release and chart.
///
/// # Errors
/// The chart is broken, which a test excludes.
pub fn dot(request: &Request) -> Result<Value, RenderError> {
    let metadata = chart::metadata().map_err(RenderError::Chart)?;
    let defaults = chart::values().map_err(RenderError::Chart)?;
    let values = values::over_defaults(defaults, request.values.clone());
    Ok(json!({
        "Values": values,
        "Release": {
            "Name": request.release,
            "Namespace": request.namespace,
            "Revision": request.revision,
            "IsInstall": request.revision == 1,
            "IsUpgrade": request.revision != 1,
            "Service": "Helm",
        },
        "Chart": {"Name": metadata.name, "Version": metadata.version, "AppVersion": metadata.app_version},
        "Capabilities": {"KubeVersion": {"Version": request.kube_version.as_deref().unwrap_or(NEW)}},
        "Template": {"BasePath": "templates"},
    }))
}

fn documents(path: &str, text: &str) -> Result<Vec<Value>, RenderError> {
    let mut found = Vec::new();
    for document in text
        .split("\n---\n")
        .flat_map(|part| part.strip_prefix("---\n").or(Some(part)))
    {
        let document = document.trim_start_matches("---\n");
        let empty = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        if document.lines().all(empty) {
            continue;
        }
        let object: Value = serde_saphyr::from_str(document)
            .map_err(|error| RenderError::Chart(format!("chart {path} made no YAML: {error}")))?;
        if object["kind"].is_string() && object["metadata"]["name"].is_string() {
            found.push(object);
        } else {
            return Err(RenderError::Chart(format!("chart {path} made no object")));
        }
    }
    Ok(found)
}

fn check_settings(objects: &[Value]) -> Result<(), RenderError> {
    let Some(map) = objects.iter().find(|object| object["kind"] == "ConfigMap") else {
        return Ok(());
    };
    let settings = serde_json::from_value(map["data"].clone()).unwrap_or_default();
    refused_settings(&settings).map_or(Ok(()), |text| Err(RenderError::Settings(text)))
}

/// Why agent or operator would refuse the settings of a ConfigMap; nothing if they take them.
#[must_use]
pub fn refused_settings(settings: &BTreeMap<String, String>) -> Option<String> {
    let remote = Remote {
        config_map: Some(Layer {
            place: "ConfigMap cilium-config".to_owned(),
            values: settings.clone(),
        }),
        node_configs: Vec::new(),
    };
    let nothing = || std::iter::empty();
    let agent = load_all::<Settings>(&[], nothing(), &remote).map(drop);
    let operator = load_all::<OperatorSettings>(&[], nothing(), &remote).map(drop);
    agent.and(operator).err().map(|error| error.to_string())
}

fn check_version(found: Option<&str>, wanted: &str) -> Result<(), RenderError> {
    match found.map(|found| (found, at_least(wanted, found))) {
        None | Some((_, Ok(true))) => Ok(()),
        Some((found, Ok(false))) => Err(RenderError::Chart(format!(
            "the cluster has Kubernetes {found}; needed: {wanted}"
        ))),
        Some((_, Err(error))) => Err(RenderError::Chart(format!("Kubernetes' version: {error}"))),
    }
}
