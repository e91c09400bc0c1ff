//! How exports stand that a file asks for.
use super::Labels;
use crate::export::dynamic::{CHANGES, Standing};
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::sync::atomic::Ordering;

#[derive(Default)]
pub(super) struct Exporters {
    total: Family<Labels, Gauge>,
    up: Family<Labels, Gauge>,
    changes: Family<Labels, Counter>,
    hash: Gauge,
    applied: Gauge,
}

fn label(name: &str, value: &str) -> Labels {
    vec![(name.to_owned(), value.to_owned())]
}

impl Exporters {
    pub fn new(registry: &mut Registry) -> Self {
        let own = Self::default();
        registry.register(
            "dynamic_exporter_exporters_total",
            "Exports that a file asks for",
            own.total.clone(),
        );
        registry.register(
            "dynamic_exporter_up",
            "Whether an export is written",
            own.up.clone(),
        );
        registry.register(
            "dynamic_exporter_reconfigurations",
            "Exports that were added, changed and taken away",
            own.changes.clone(),
        );
        registry.register(
            "dynamic_exporter_config_hash",
            "What the file in force is known by",
            own.hash.clone(),
        );
        registry.register(
            "dynamic_exporter_config_last_applied",
            "When the file was taken over, in seconds since 1970",
            own.applied.clone(),
        );
        own
    }

    pub fn tell(&self, standing: &Standing) {
        let count = |up: bool| standing.exports.values().filter(|one| **one == up).count();
        for (status, up) in [("active", true), ("inactive", false)] {
            let count = i64::try_from(count(up)).unwrap_or(i64::MAX);
            self.total
                .get_or_create(&label("status", status))
                .set(count);
        }
        self.up.clear();
        for (name, up) in &standing.exports {
            self.up
                .get_or_create(&label("name", name))
                .set((*up).into());
        }
        for (name, count) in CHANGES.into_iter().zip(standing.changes) {
            let counter = self.changes.get_or_create(&label("op", name));
            counter.inner().store(count, Ordering::Relaxed);
        }
        // Prometheus knows floating point alone, which holds so many bits.
        self.hash
            .set(i64::try_from(standing.hash & ((1 << 53) - 1)).unwrap_or_default());
        self.applied
            .set(i64::try_from(standing.applied).unwrap_or_default());
    }
}
