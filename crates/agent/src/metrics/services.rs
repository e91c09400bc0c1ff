//! Metrics of services.
use super::{gauge, rows};
use crate::agent::Agent;
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet},
    metrics::{counter::ConstCounter, family::Family, gauge::ConstGauge, histogram::Histogram},
    registry::Registry,
};
use runtime::metrics::names;
use std::fmt;

/// A histogram's one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    action: &'static str,
}

/// Registers what is measured as it happens.
pub(super) fn register(registry: &mut Registry, delay: &Histogram) {
    let family: Family<Of, Histogram, _> = Family::new_with_constructor({
        let delay = delay.clone();
        move || delay.clone()
    });
    drop(family.get_or_create(&Of { action: "update" }));
    registry.register(
        names::SERVICE_DELAY,
        "Seconds from a changed service to its rows in the kernel",
        family,
    );
}

/// Writes what is read when it is asked for.
pub(super) fn services(agent: &Agent, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let totals = agent.services.totals();
    let events = [
        ("add", totals.events.added),
        ("update", totals.events.updated),
        ("delete", totals.events.deleted),
    ];
    rows(
        out,
        names::SERVICE_EVENTS,
        "Services that came, changed, went",
        events.map(|(action, count)| {
            (
                vec![("action", action.to_owned())],
                ConstCounter::new(count),
            )
        }),
    )?;
    rows(
        out,
        names::SERVICE_ROWS,
        "Rows of services written and removed",
        [(Vec::new(), ConstCounter::new(totals.rows))],
    )?;
    rows(
        out,
        names::SERVICE_FRONTENDS,
        "Frontends in the kernel by type",
        totals
            .frontends
            .into_iter()
            .map(|(kind, count)| (vec![("type", kind)], gauge(count))),
    )?;
    for (name, help, value) in [
        (
            names::SERVICE_BACKENDS,
            "Backends in the kernel",
            totals.backends,
        ),
        (
            names::SERVICE_PROBLEMS,
            "What cannot be done as services and other objects ask",
            totals.problems,
        ),
    ] {
        rows(out, name, help, [(Vec::new(), gauge(value))])?;
    }
    let pressure = totals.maps.into_iter().map(|(name, (used, most))| {
        let share = used as f64 / most.max(1) as f64;
        (vec![("map_name", name)], ConstGauge::new(share))
    });
    rows(
        out,
        names::SERVICE_PRESSURE,
        "Share of a map of services that is used",
        pressure,
    )
}
