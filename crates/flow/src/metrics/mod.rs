//! What is counted of flows, for Prometheus. Nothing is counted that nobody asked for.
//!
//! An item of the configuration is `name[:option[=value][;option…]]`; see [`Item`]. Labels come from contexts: what a metric is
//! to say of source and destination beside what it counts.
mod context;
mod plugins;

pub use context::Contexts;

use crate::{observer::Tap, record::Shown, view::View};
use api::hubble::flow::{Flow, LostEvent};
use plugins::Plugin;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Labels of one series: name and value.
pub(crate) type Labels = Vec<(String, String)>;

/// An item of the configuration that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{item:?}: {problem}")]
pub struct ItemError {
    /// The item as it was written.
    pub item: String,
    /// What is wrong with it, and what is accepted.
    pub problem: String,
}

/// A metric that is asked for, with its options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// Name of the metric, as `drop`.
    pub name: String,
    /// Its options; those without a value have an empty one.
    pub options: BTreeMap<String, String>,
}

impl Item {
    /// Reads an item, as `dns:query;ignoreAAAA` or `drop:sourceContext=pod|dns`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (name, options) = text.split_once(':').unwrap_or((text, ""));
        let option = |text: &str| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.trim().to_owned(), value.trim().to_owned())
        };
        Self {
            name: name.trim().to_owned(),
            options: options
                .split(';')
                .filter(|option| !option.trim().is_empty())
                .map(option)
                .collect(),
        }
    }
}

/// Counts of one metric.
pub(crate) struct Series {
    family: Family<Labels, Counter>,
    contexts: Arc<Contexts>,
    /// Series that name a pod, by `namespace/name`, to be forgotten with it.
    of_pods: BTreeMap<String, Vec<Labels>>,
}

/// Series that are remembered for one pod.
const PER_POD: usize = 4096;

impl Series {
    fn new(registry: &mut Registry, name: &str, help: &str, contexts: &Arc<Contexts>) -> Self {
        let family = Family::<Labels, Counter>::default();
        registry.register(name, help, family.clone());
        Self {
            family,
            contexts: contexts.clone(),
            of_pods: BTreeMap::new(),
        }
    }

    /// Counts a flow under labels of its own and those of its contexts.
    fn count(&mut self, flow: &dyn View, own: &[(&str, &str)]) {
        let mut labels: Labels = own
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        self.contexts.add(flow, &mut labels);
        self.family.get_or_create(&labels).inc();
        if self.contexts.names_pods() {
            self.remember(flow, &labels);
        }
    }

    fn remember(&mut self, flow: &dyn View, labels: &Labels) {
        use crate::view::End::{Destination, Source};
        for endpoint in [Source, Destination]
            .into_iter()
            .filter_map(|end| flow.endpoint(end))
        {
            if endpoint.pod_name.is_empty() {
                continue;
            }
            let pod = format!("{}/{}", endpoint.namespace, endpoint.pod_name);
            let known = self.of_pods.entry(pod).or_default();
            if known.len() < PER_POD && !known.contains(labels) {
                known.push(labels.clone());
            }
        }
    }

    fn forget(&mut self, pod: &str) {
        for labels in self.of_pods.remove(pod).unwrap_or_default() {
            self.family.remove(&labels);
        }
    }
}

/// All metrics of flows; cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Inner>>);

struct Inner {
    registry: Registry,
    plugins: Vec<Plugin>,
    lost: Family<Labels, Counter>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("plugins", &self.inner().plugins.len())
            .finish()
    }
}

impl Metrics {
    /// The metrics of these items.
    ///
    /// # Errors
    /// One of them is not known, or has an option that means nothing.
    pub fn new(items: &[Item]) -> Result<Self, ItemError> {
        let mut registry = Registry::with_prefix("hubble");
        let lost = Family::<Labels, Counter>::default();
        registry.register(
            "lost_events",
            "Events that were lost, by where",
            lost.clone(),
        );
        let plugins: Result<Vec<_>, ItemError> = items
            .iter()
            .map(|item| Plugin::new(item, &mut registry))
            .collect();
        Ok(Self(Arc::new(Mutex::new(Inner {
            plugins: plugins?,
            registry,
            lost,
        }))))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it as Prometheus reads it.
    ///
    /// # Errors
    /// Never, since it is written to a text.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.inner().registry)?;
        Ok(text)
    }

    /// Forgets the series that name a pod, `namespace/name`.
    pub fn forget(&self, pod: &str) {
        for plugin in &mut self.inner().plugins {
            plugin.forget(pod);
        }
    }

    /// What counts flows as they come.
    #[must_use]
    pub fn tap(&self) -> Box<dyn Tap> {
        Box::new(self.clone())
    }

    fn see(&self, flow: &dyn View) {
        for plugin in &mut self.inner().plugins {
            plugin.see(flow);
        }
    }
}

impl Tap for Metrics {
    fn flow(&mut self, flow: &Shown<'_>) {
        self.see(flow);
    }

    fn whole(&mut self, flow: &Flow) {
        self.see(flow);
    }

    fn lost(&mut self, lost: &LostEvent) {
        let source = lost.source().as_str_name().to_ascii_lowercase();
        let labels = vec![("source".to_owned(), source)];
        self.inner()
            .lost
            .get_or_create(&labels)
            .inc_by(lost.num_events_lost);
    }
}

#[cfg(test)]
mod tests;
