//! The consistency check: what kernel, tables, addresses and API objects say of each other.
use crate::{agent::Agent, machine::abi_address, setup::host_keys};
use anyhow::Context;
use api::{ApiError, CheckReport, ErrorCode, Finding, Severity};
use datapath::check::{Expected, Problem};
use model::{Endpoint, EndpointState};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tables::Snapshot;

/// How long the check waits for deletions under way.
const DEPARTURES: Duration = Duration::from_secs(5);

/// Compares everything; changes nothing.
///
/// # Errors
/// Something cannot be read.
pub fn check(agent: &Agent) -> Result<CheckReport, ApiError> {
    compare(agent).map_err(|error| ApiError::new(ErrorCode::Internal, format!("{error:#}")))
}

fn compare(agent: &Agent) -> anyhow::Result<CheckReport> {
    wait_for_departures(agent);
    let snapshot = agent.tables.db.snapshot();
    let endpoints: Vec<Arc<Endpoint>> = agent.tables.endpoints.iter(&snapshot).cloned().collect();
    let mut report = CheckReport::default();
    report
        .checked
        .insert("endpoints".to_owned(), endpoints.len() as u64);
    kernel(agent, &endpoints, &mut report)?;
    devices(&endpoints, &mut report)?;
    addresses(agent, &endpoints, &mut report);
    ipcache(agent, &snapshot, &mut report)?;
    pods(agent, &snapshot, &endpoints, &mut report);
    policy(agent, &mut report)?;
    services(agent, &mut report)?;
    report
        .findings
        .sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.cmp(b)));
    Ok(report)
}

/// The rows of the policy map are those that the policies ask for.
fn policy(agent: &Agent, report: &mut CheckReport) -> anyhow::Result<()> {
    let (rows, odd) = agent.policy.differences().map_err(anyhow::Error::msg)?;
    report.checked.insert("policy-rows".to_owned(), rows as u64);
    for key in odd {
        report.findings.push(finding(
            Severity::Error,
            "policy-row",
            format!(
                "subject {} {} identity {} {}",
                key.subject, key.direction, key.remote, key.l4
            ),
            "the row in the kernel is not what the policies ask for".to_owned(),
            "the agent's log says why; a restart writes all rows anew",
        ));
    }
    Ok(())
}

/// The rows of services are those that the plan has.
fn services(agent: &Agent, report: &mut CheckReport) -> anyhow::Result<()> {
    let (rows, odd) = agent.services.differences().map_err(anyhow::Error::msg)?;
    report
        .checked
        .insert("service-rows".to_owned(), rows as u64);
    for what in odd {
        report.findings.push(finding(
            Severity::Error,
            "service-row",
            "maps of services".to_owned(),
            what,
            "the agent's log says why; a restart writes what is missing and removes what is too much",
        ));
    }
    Ok(())
}

/// What was just deleted is being cleaned away; that is no leak.
fn wait_for_departures(agent: &Agent) {
    let deadline = Instant::now() + DEPARTURES;
    let watch = agent.tables.departures.watch();
    loop {
        let snapshot = agent.tables.db.snapshot();
        let left = deadline.saturating_duration_since(Instant::now());
        if agent.tables.departures.is_empty(&snapshot) || left.is_zero() {
            return;
        }
        watch.wait_timeout(agent.tables.departures.revision(&snapshot), left);
    }
}

fn finding(severity: Severity, rule: &str, object: String, message: String, hint: &str) -> Finding {
    Finding {
        severity,
        rule: rule.to_owned(),
        object,
        message,
        hint: hint.to_owned(),
    }
}

/// Attachments and endpoint maps.
fn kernel(
    agent: &Agent,
    endpoints: &[Arc<Endpoint>],
    report: &mut CheckReport,
) -> anyhow::Result<()> {
    let expected: Vec<Expected> = endpoints
        .iter()
        .map(|e| Expected {
            id: e.id,
            ifindex: e.ifindex,
            entry: e.abi_local(),
        })
        .collect();
    let problems = agent
        .datapath
        .check(&expected)
        .context("reading maps and attachments")?;
    for problem in problems {
        let (severity, rule) = match &problem {
            Problem::NotAttached { .. } => (Severity::Error, "endpoint-not-attached"),
            Problem::Leaked { .. } => (Severity::Leak, "attachment-without-endpoint"),
            Problem::OldProgram { .. } => (Severity::Error, "old-program"),
            Problem::DeviceGone { .. } => (Severity::Leak, "attachment-without-device"),
            Problem::MapEntry { .. } => (Severity::Error, "endpoint-map-entry"),
            Problem::LeakedEntry { .. } | Problem::LeakedAddress { .. } => {
                (Severity::Leak, "map-entry-without-endpoint")
            }
        };
        let text = problem.to_string();
        let object = text.split(':').next().unwrap_or_default().to_owned();
        report.findings.push(finding(
            severity,
            rule,
            object,
            text,
            "restart the agent: it cleans up at start",
        ));
    }
    let local = agent
        .tables
        .local_node
        .iter(&agent.tables.db.snapshot())
        .next()
        .cloned();
    let maps = agent.datapath.endpoints()?;
    for key in local.iter().flat_map(|local| host_keys(local)) {
        if maps
            .address(&key)?
            .is_none_or(|info| info.flags & abi::endpoint_flags::HOST == 0)
        {
            report.findings.push(finding(
                Severity::Error,
                "host-address",
                abi_address(key.family, key.ip).to_string(),
                "an address of the node is not in cilium_lxc".to_owned(),
                "restart the agent",
            ));
        }
    }
    report
        .checked
        .insert("maps".to_owned(), abi::names::MAPS.len() as u64);
    Ok(())
}

/// `lxc…` devices against endpoints.
fn devices(endpoints: &[Arc<Endpoint>], report: &mut CheckReport) -> anyhow::Result<()> {
    let links = netlink::Handle::new()
        .and_then(|mut handle| handle.links())
        .context("listing devices")?;
    let pods: BTreeMap<u32, String> = links
        .into_iter()
        .filter(|link| link.name.starts_with("lxc"))
        .map(|link| (link.index, link.name))
        .collect();
    report
        .checked
        .insert("devices".to_owned(), pods.len() as u64);
    for endpoint in endpoints {
        if pods.get(&endpoint.ifindex) != Some(&endpoint.ifname) {
            report.findings.push(finding(
                Severity::Leak,
                "endpoint-without-device",
                format!("endpoint {}", endpoint.id),
                format!("its device {} (#{}) is gone", endpoint.ifname, endpoint.ifindex),
                "the container runtime did not delete it; it is removed at the next start of the agent",
            ));
        }
    }
    let known: BTreeSet<u32> = endpoints.iter().map(|endpoint| endpoint.ifindex).collect();
    for (index, name) in pods.iter().filter(|(index, _)| !known.contains(index)) {
        report.findings.push(finding(
            Severity::Leak,
            "device-without-endpoint",
            name.clone(),
            format!("device #{index} belongs to no endpoint"),
            "unless a pod is just being made: ip link delete",
        ));
    }
    Ok(())
}

/// Allocated addresses against endpoints.
fn addresses(agent: &Agent, endpoints: &[Arc<Endpoint>], report: &mut CheckReport) {
    let used: BTreeMap<IpAddr, &Arc<Endpoint>> = endpoints
        .iter()
        .flat_map(|endpoint| endpoint.addresses().map(move |ip| (ip, endpoint)))
        .collect();
    let taken = agent.addresses.taken();
    report
        .checked
        .insert("allocations".to_owned(), taken.len() as u64);
    for (ip, owner, _, retired) in &taken {
        if owner != "router" && !retired && !used.contains_key(ip) {
            report.findings.push(finding(
                Severity::Leak,
                "address-without-endpoint",
                ip.to_string(),
                format!("allocated to {owner}, but no endpoint uses it"),
                "unless a pod is just being made; it falls back when it expires",
            ));
        }
    }
    let all: BTreeSet<IpAddr> = taken.iter().map(|(ip, ..)| *ip).collect();
    for (ip, endpoint) in used.iter().filter(|(ip, _)| !all.contains(ip)) {
        report.findings.push(finding(
            Severity::Error,
            "endpoint-address-not-allocated",
            format!("endpoint {}", endpoint.id),
            format!("uses {ip}, which is not allocated: another pod could get it"),
            "delete the pod",
        ));
    }
}

/// Desired prefixes against the kernel's.
fn ipcache(agent: &Agent, snapshot: &Snapshot, report: &mut CheckReport) -> anyhow::Result<()> {
    let found: BTreeMap<abi::IpcacheKey, abi::IpcacheValue> =
        agent.datapath.ipcache()?.dump()?.into_iter().collect();
    report
        .checked
        .insert("prefixes".to_owned(), found.len() as u64);
    let mut wanted = BTreeSet::new();
    for row in agent.tables.prefixes.iter(snapshot) {
        wanted.insert(row.abi_key());
        if found.get(&row.abi_key()) != Some(&row.abi_value()) {
            let message = "is not in cilium_ipcache as it should be".to_owned();
            report.findings.push(finding(
                Severity::Error,
                "prefix-not-applied",
                row.prefix.to_string(),
                message,
                "see the status of table prefixes",
            ));
        }
    }
    // Before the inputs are complete nothing is pruned, so what is too much means nothing.
    if agent.tables.prefixes.initialized(snapshot) {
        for key in found.keys().filter(|key| !wanted.contains(key)) {
            let bits = key.prefix_len.saturating_sub(abi::IpcacheKey::STATIC_BITS);
            report.findings.push(finding(
                Severity::Leak,
                "prefix-not-wanted",
                format!("{}/{bits}", abi_address(key.family, key.ip)),
                "cilium_ipcache has a prefix that nothing asks for".to_owned(),
                "it goes with the next prune",
            ));
        }
    }
    Ok(())
}

/// Endpoints against pod objects.
fn pods(agent: &Agent, snapshot: &Snapshot, endpoints: &[Arc<Endpoint>], report: &mut CheckReport) {
    if !agent.tables.kubernetes_synced() {
        let message =
            "the API server's objects are not known; endpoints are not compared with pods"
                .to_owned();
        report.findings.push(finding(
            Severity::Note,
            "no-api-objects",
            "kubernetes".to_owned(),
            message,
            "",
        ));
        return;
    }
    report
        .checked
        .insert("pods".to_owned(), agent.tables.pods.len(snapshot) as u64);
    for endpoint in endpoints {
        let known = agent
            .tables
            .pods
            .get(snapshot, endpoint.pod.to_string().as_str());
        if known.is_none() {
            report.findings.push(finding(
                Severity::Leak,
                "endpoint-without-pod",
                format!("endpoint {}", endpoint.id),
                format!("there is no pod {}", endpoint.pod),
                "unless the pod is just going: the container runtime owes a CNI DEL",
            ));
        } else if endpoint.state == EndpointState::WaitingForIdentity {
            let message = format!("waits for the labels of {}", endpoint.pod);
            report.findings.push(finding(
                Severity::Note,
                "endpoint-without-labels",
                format!("endpoint {}", endpoint.id),
                message,
                "",
            ));
        }
    }
}
