//! Labels of pods and nodes that make identities.
use model::{LabelMap, Labels, Pod, PodLabels, Tables};
use policy::{
    identity::FixedIdentities,
    labels::{LabelFilter, NODE, pod_labels},
};
use runtime::settings::Settings;
use tables::Snapshot;

/// Knows which labels count.
#[derive(Clone, Debug, Default)]
pub struct Labeller {
    cluster: String,
    filter: LabelFilter,
    fixed: FixedIdentities,
    /// For labels of nodes; none where nodes have no identities of their own.
    nodes: Option<LabelFilter>,
}

impl Labeller {
    /// As the settings say.
    ///
    /// # Errors
    /// A pattern or a number that makes no sense, as a line for people.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let filter = |text: &str| LabelFilter::parse(text).map_err(|error| error.to_string());
        let nodes = settings.enable_node_selector_labels;
        Ok(Self {
            cluster: settings.cluster_name.clone(),
            filter: filter(&settings.labels)?,
            fixed: FixedIdentities::parse(&settings.fixed_identity_mapping)
                .map_err(|error| error.to_string())?,
            nodes: nodes.then(|| filter(&settings.node_labels)).transpose()?,
        })
    }

    /// The labels behind a pod's identity.
    #[must_use]
    pub fn of_pod(&self, tables: &Tables, snapshot: &Snapshot, pod: &Pod) -> Labels {
        let none = LabelMap::default();
        let namespace = tables.namespaces.get(snapshot, pod.namespace());
        let all = pod_labels(
            &PodLabels {
                cluster: &self.cluster,
                namespace: pod.namespace(),
                namespace_labels: namespace.map_or(&none, |namespace| &namespace.labels),
                service_account: &pod.service_account,
                labels: &pod.labels,
            },
            &self.filter,
        );
        self.fixed.labels(&all).unwrap_or(all)
    }

    /// The numbers that the settings give, with their labels.
    pub fn fixed(&self) -> impl Iterator<Item = (u32, Labels)> + '_ {
        self.fixed.iter()
    }

    /// The labels of a node that count; none where nodes have no identities of their own.
    pub fn of_node(&self, labels: &LabelMap) -> Vec<String> {
        let Some(filter) = &self.nodes else {
            return Vec::new();
        };
        let kept = labels.iter().filter(|(key, _)| filter.keeps(NODE, key));
        kept.map(|(key, value)| format!("{NODE}:{key}={value}"))
            .collect()
    }
}
