//! Metrics of names.
use super::{gauge, rows};
use crate::agent::Agent;
use prometheus_client::{encoding::DescriptorEncoder, metrics::counter::ConstCounter};
use runtime::metrics::names;
use std::fmt;

/// Writes what is read when it is asked for; nothing where rules by name are refused.
pub(super) fn fqdn(agent: &Agent, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Some(known) = &agent.names else {
        return Ok(());
    };
    let stats = known.stats();
    let totals = [
        (
            names::FQDN_DELETIONS,
            "Addresses of names whose time is over",
            stats.collected,
        ),
        (
            names::FQDN_LATE,
            "DNS answers that went out before connections to their addresses were let through",
            stats.late,
        ),
        (
            names::FQDN_REFUSED,
            "DNS answers that were not learned, since their endpoint knows too many names",
            stats.refused,
        ),
    ];
    for (name, help, count) in totals {
        rows(out, name, help, [(Vec::new(), ConstCounter::new(count))])?;
    }
    let selectors = known.rules().borrow().len() as u64;
    rows(
        out,
        names::FQDN_SELECTORS,
        "Names and patterns of names that rules speak of",
        [(Vec::new(), gauge(selectors))],
    )?;
    let counts = known.counts();
    let of_each = [
        (
            names::FQDN_NAMES,
            "Names that an endpoint was told of",
            counts
                .iter()
                .map(|(id, one)| (*id, one.names))
                .collect::<Vec<_>>(),
        ),
        (
            names::FQDN_IPS,
            "Addresses of the names that an endpoint was told of",
            counts
                .iter()
                .map(|(id, one)| (*id, one.addresses))
                .collect(),
        ),
        (
            names::FQDN_ZOMBIES,
            "Addresses that count beyond their time, since there are connections",
            counts.iter().map(|(id, one)| (*id, one.zombies)).collect(),
        ),
    ];
    for (name, help, counts) in of_each {
        let counts = counts.into_iter();
        let counts = counts.map(|(id, count)| {
            let labels = vec![("endpoint", id.to_string())];
            (labels, gauge(count as u64))
        });
        rows(out, name, help, counts)?;
    }
    Ok(())
}
