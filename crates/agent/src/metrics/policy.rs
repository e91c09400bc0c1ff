//! Metrics of policy and identities.
use super::{gauge, rows};
use crate::{agent::Agent, policy::Times};
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet},
    metrics::{counter::ConstCounter, family::Family, histogram::Histogram},
    registry::Registry,
};
use runtime::metrics::names;
use std::fmt;

/// A histogram's one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    source: &'static str,
}

/// As [`Of`], under another name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Scope {
    scope: &'static str,
}

/// Registers what is measured as it happens.
pub(super) fn register(registry: &mut Registry, times: &Times) {
    let delay: Family<Of, Histogram, _> = Family::new_with_constructor({
        let delay = times.delay.clone();
        move || delay.clone()
    });
    drop(delay.get_or_create(&Of { source: "k8s" }));
    registry.register(
        names::POLICY_DELAY,
        "Seconds from a changed policy to its enforcement",
        delay,
    );
    let update: Family<Scope, Histogram, _> = Family::new_with_constructor({
        let update = times.update.clone();
        move || update.clone()
    });
    drop(update.get_or_create(&Scope { scope: "global" }));
    registry.register(
        names::POLICY_UPDATE,
        "Seconds that a change of the kernel's rows took",
        update,
    );
}

/// Writes what is read when it is asked for.
pub(super) fn policy(agent: &Agent, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let totals = agent.policy.totals();
    let status = &totals.status;
    let single = [
        (names::POLICY, "Policies in force", status.policies),
        (
            names::POLICY_REVISION,
            "Revision of the policies",
            status.revision,
        ),
        (
            names::CIDR_GROUPS,
            "Groups of address ranges that rules can name",
            totals.groups,
        ),
        (
            names::POLICY_BEHIND,
            "Endpoints whose rows are not those that their policies ask for",
            status.behind.len() as u64,
        ),
    ];
    for (name, help, value) in single {
        rows(out, name, help, [(Vec::new(), gauge(value))])?;
    }
    let changes = ["success", "fail"].into_iter().zip(totals.objects);
    rows(
        out,
        names::POLICY_CHANGES,
        "Policy objects taken or refused",
        changes.map(|(outcome, count)| {
            (
                vec![("outcome", outcome.to_owned())],
                ConstCounter::new(count),
            )
        }),
    )?;
    rows(
        out,
        names::POLICY_STEPS,
        "How often the kernel's rows were changed",
        [(Vec::new(), ConstCounter::new(totals.steps))],
    )?;
    rows(
        out,
        names::POLICY_WIDEST,
        "Most identities that one selector selects",
        [(
            vec![("class", "peer".to_owned())],
            gauge(totals.widest_selector),
        )],
    )?;
    rows(
        out,
        names::POLICY_ENFORCEMENT,
        "Endpoints by what is enforced for them",
        totals
            .enforcement
            .iter()
            .map(|(word, count)| (vec![("enforcement", (*word).to_owned())], gauge(*count))),
    )?;
    rows(
        out,
        names::IDENTITY,
        "Identities by kind",
        totals
            .identities
            .iter()
            .map(|(word, count)| (vec![("type", (*word).to_owned())], gauge(*count))),
    )
}
