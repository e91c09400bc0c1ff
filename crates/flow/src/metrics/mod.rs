//! What is counted of flows, for Prometheus. Nothing is counted that nobody asked for.
//!
//! An item of the configuration is `name[:option[=value][;option…]]`; see [`Item`]. Labels come from contexts: what a metric is
//! to say of source and destination beside what it counts.
//! Which there are may change while they are counted; those that stay go on.
mod context;
mod dynamic;
mod exporters;
mod plugins;
mod requests;

pub use context::Contexts;
pub use dynamic::{DynamicItems, items};

use crate::{export::dynamic::Standing, filter::Filters, observer::Tap, record::Shown, view::View};
use api::hubble::flow::{Flow, FlowFilter, LostEvent};
use exporters::Exporters;
use plugins::Plugin;
use prometheus_client::{
    encoding::{
        EncodeMetric,
        text::{encode_eof, encode_registry},
    },
    metrics::{TypedMetric, counter::Counter, family::Family},
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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Item {
    /// Name of the metric, as `drop`.
    pub name: String,
    /// Its options; those without a value have an empty one.
    pub options: BTreeMap<String, String>,
    /// Flows that it is about; none: all.
    pub wanted: Vec<FlowFilter>,
    /// Flows of those that it is not about.
    pub unwanted: Vec<FlowFilter>,
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
            ..Self::default()
        }
    }

    fn wrong(&self, problem: String) -> ItemError {
        ItemError {
            item: self.name.clone(),
            problem,
        }
    }
}

/// Counts of one metric.
pub(crate) struct Series<M = Counter> {
    family: Family<Labels, M>,
    contexts: Arc<Contexts>,
    /// Series that name a pod, by `namespace/name`, to be forgotten with it.
    of_pods: BTreeMap<String, Vec<Labels>>,
}

/// Series that are remembered for one pod.
const PER_POD: usize = 4096;

impl Series {
    fn new(registry: &mut Registry, name: &str, help: &str, contexts: &Arc<Contexts>) -> Self {
        Self::made_by(registry, name, help, contexts, Counter::default)
    }

    /// Counts a flow under labels of its own and those of its contexts.
    fn count(&mut self, flow: &dyn View, own: &[(&str, &str)]) {
        self.see(flow, false, own, |count| {
            count.inc();
        });
    }
}

impl<M: EncodeMetric + TypedMetric + fmt::Debug + Send + Sync + 'static> Series<M> {
    fn made_by(
        registry: &mut Registry,
        name: &str,
        help: &str,
        contexts: &Arc<Contexts>,
        make: fn() -> M,
    ) -> Self {
        let family = Family::<Labels, M>::new_with_constructor(make);
        registry.register(name, help, family.clone());
        Self {
            family,
            contexts: contexts.clone(),
            of_pods: BTreeMap::new(),
        }
    }

    /// Counts a flow; one that is turned round is told of as what it answers.
    fn see(&mut self, flow: &dyn View, turned: bool, own: &[(&str, &str)], count: impl FnOnce(&M)) {
        let mut labels: Labels = own
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        self.contexts.add(flow, turned, &mut labels);
        count(&self.family.get_or_create(&labels));
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

/// A metric that is counted.
struct Active {
    item: Item,
    about: Filters,
    plugin: Plugin,
    /// Its own, since what is registered stays.
    registry: Registry,
}

impl Active {
    fn new(item: &Item) -> Result<Self, ItemError> {
        let mut registry = Registry::with_prefix(PREFIX);
        let about = Filters::compile(&item.wanted, &item.unwanted);
        Ok(Self {
            about: about
                .map_err(|error| item.wrong(format!("a filter is not understood: {error}")))?,
            plugin: Plugin::new(item, &mut registry)?,
            item: item.clone(),
            registry,
        })
    }
}

/// What names of metrics begin with.
const PREFIX: &str = "hubble";

struct Inner {
    /// What is counted whatever is asked for.
    always: Registry,
    lost: Family<Labels, Counter>,
    exporters: Exporters,
    active: BTreeMap<String, Active>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("active", &self.inner().active.len())
            .finish()
    }
}

impl Metrics {
    /// The metrics of these items.
    ///
    /// # Errors
    /// One of them is not known, is there twice, or has an option or a filter that means nothing.
    pub fn new(items: &[Item]) -> Result<Self, ItemError> {
        let mut always = Registry::with_prefix(PREFIX);
        let lost = Family::<Labels, Counter>::default();
        always.register(
            "lost_events",
            "Events that were lost, by where",
            lost.clone(),
        );
        let exporters = Exporters::new(&mut always);
        let metrics = Self(Arc::new(Mutex::new(Inner {
            always,
            lost,
            exporters,
            active: BTreeMap::new(),
        })));
        metrics.configure(items)?;
        Ok(metrics)
    }

    /// From now on there are the metrics of these items. Those that there were before, with the same options, go on counting.
    ///
    /// # Errors
    /// As [`Metrics::new`]; all stays as it was.
    pub fn configure(&self, items: &[Item]) -> Result<(), ItemError> {
        let mut inner = self.inner();
        let mut next = BTreeMap::new();
        for item in items {
            let same = inner
                .active
                .get(&item.name)
                .is_some_and(|one| one.item == *item);
            let fresh = if same { None } else { Some(Active::new(item)?) };
            if next.insert(item.name.clone(), fresh).is_some() {
                return Err(item.wrong("it is asked for twice".to_owned()));
            }
            if next.contains_key("http") && next.contains_key("httpV2") {
                return Err(item.wrong(
                    "http and httpV2 count under the same names; accepted is one of them"
                        .to_owned(),
                ));
            }
        }
        let mut before = std::mem::take(&mut inner.active);
        let all = next.into_iter().filter_map(|(name, fresh)| {
            let active = fresh.or_else(|| before.remove(&name))?;
            Some((name, active))
        });
        inner.active = all.collect();
        Ok(())
    }

    /// How exports that a file asks for stand.
    pub fn exporters(&self, standing: &Standing) {
        self.inner().exporters.tell(standing);
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
        let inner = self.inner();
        encode_registry(&mut text, &inner.always)?;
        for active in inner.active.values() {
            encode_registry(&mut text, &active.registry)?;
        }
        encode_eof(&mut text)?;
        Ok(text)
    }

    /// Forgets the series that name a pod, `namespace/name`.
    pub fn forget(&self, pod: &str) {
        for active in self.inner().active.values_mut() {
            active.plugin.forget(pod);
        }
    }

    /// What counts flows as they come.
    #[must_use]
    pub fn tap(&self) -> Box<dyn Tap> {
        Box::new(self.clone())
    }

    fn see(&self, flow: &dyn View) {
        for active in self.inner().active.values_mut() {
            if active.about.passes(flow) {
                active.plugin.see(flow);
            }
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
