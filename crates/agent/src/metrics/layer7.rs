//! Metrics of what goes by way of the proxy.
use super::{gauge, rows};
use crate::agent::Agent;
use api::ProxyRequests;
use prometheus_client::{encoding::DescriptorEncoder, metrics::counter::ConstCounter};
use runtime::metrics::names;
use std::{collections::BTreeMap, fmt};

/// Writes what is read when it is asked for; nothing where there is no proxy.
pub(super) fn layer7(agent: &Agent, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Some(proxy) = &agent.proxy else {
        return Ok(());
    };
    let status = proxy.status();
    let mut redirects: BTreeMap<&str, u64> = BTreeMap::new();
    for redirect in &status.list {
        *redirects.entry(&redirect.protocol).or_default() += 1;
    }
    let redirects = redirects.into_iter().map(|(protocol, count)| {
        let labels = vec![("protocol_l7", protocol.to_owned())];
        (labels, gauge(count))
    });
    rows(
        out,
        names::PROXY_REDIRECTS,
        "Ports of endpoints whose connections go to the proxy",
        redirects,
    )?;
    let of = |kind: &'static str, requests: ProxyRequests| {
        let rules = [
            ("received", requests.received),
            ("forwarded", requests.forwarded),
            ("denied", requests.denied),
            ("parse_errors", requests.errors),
        ];
        rules.map(|(rule, count)| {
            let labels = vec![("rule", rule.to_owned()), ("proxy_type", kind.to_owned())];
            (labels, ConstCounter::new(count))
        })
    };
    let requests = [of("fqdn", status.names), of("envoy", status.requests)];
    rows(
        out,
        names::POLICY_L7,
        "Requests that the proxy saw, by what became of them",
        requests.into_iter().flatten(),
    )
}
