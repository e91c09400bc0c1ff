//! The text of `dbg status`.
use std::fmt::Write as _;

use api::{AgentStatus, Component, ComponentState, Family, IpamStatus, PolicyStatus};

use super::replacement;
use crate::table::{Table, align};

/// Which lists the report has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// Every allocated address.
    pub addresses: bool,
    /// Every controller.
    pub controllers: bool,
    /// Every module.
    pub modules: bool,
    /// Every redirect to the proxy.
    pub redirects: bool,
}

/// The report.
#[must_use]
pub fn text(status: &AgentStatus, detail: Detail) -> String {
    // Lists stand between the lines without being part of their columns: align first, put them in afterwards.
    let lines = lines(status);
    let aligned = align(
        &lines
            .iter()
            .map(|(label, value)| format!("{label}:\t{value}\n"))
            .collect::<String>(),
    );
    let mut out = String::new();
    for (line, (label, _)) in aligned.lines().zip(&lines) {
        let _ = writeln!(out, "{line}");
        match *label {
            "IPAM" if detail.addresses => out.push_str(&addresses(status)),
            "Proxy Status" if detail.redirects => out.push_str(&redirects(status)),
            "Controller Status" if detail.controllers => out.push_str(&controllers(status)),
            // What the agent serves stands before its encryption, as users know it.
            "Hubble" if detail.modules => out.push_str(&replacement::details(&status.services)),
            "Modules Health" if detail.modules => out.push_str(&modules(status)),
            _ => {}
        }
    }
    out
}

fn lines(status: &AgentStatus) -> Vec<(&'static str, String)> {
    let disabled = || "Disabled".to_owned();
    let mut lines = vec![
        ("KVStore", disabled()),
        (
            "Kubernetes",
            component(status, "kubernetes").unwrap_or_else(disabled),
        ),
        ("KubeProxyReplacement", replacement::line(&status.services)),
        (
            "Host firewall",
            if status.policy.host_firewall {
                "Enabled".into()
            } else {
                disabled()
            },
        ),
        ("SRv6", disabled()),
        ("CNI Chaining", "none".into()),
    ];
    lines.extend(
        (!status.cni_config.is_empty()).then(|| ("CNI Config file", status.cni_config.clone())),
    );
    lines.extend([
        ("Cilium", cilium(status)),
        (
            "NodeMonitor",
            component(status, "monitor").unwrap_or_else(disabled),
        ),
        ("IPAM", ipam(&status.ipam)),
        ("IPv4 BIG TCP", disabled()),
        ("IPv6 BIG TCP", disabled()),
        ("BandwidthManager", disabled()),
        ("Routing", routing(status)),
        ("Attach Mode", status.attach_mode.clone()),
        ("Device Mode", status.device_mode.text().into()),
        ("Masquerading", masquerading(status)),
    ]);
    lines.extend(policy(&status.policy).map(|text| ("Policy", text)));
    lines.extend([
        ("Controller Status", controller_sum(status)),
        ("Proxy Status", proxy(status)),
        (
            "Hubble",
            status.hubble.as_ref().map_or_else(disabled, hubble),
        ),
        ("Encryption", disabled()),
        ("Modules Health", module_sum(status)),
    ]);
    lines
}

fn component(status: &AgentStatus, name: &str) -> Option<String> {
    let found = status
        .components
        .iter()
        .find(|part| part.name.eq_ignore_ascii_case(name))?;
    Some(
        format!("{}\t{}", found.state.text(), found.message)
            .trim_end()
            .to_owned(),
    )
    .map(|text| text.replace('\t', "   "))
}

fn cilium(status: &AgentStatus) -> String {
    let version = status.version.trim_start_matches('v');
    let message = if status.message.is_empty() {
        String::new()
    } else {
        format!("   {}", status.message)
    };
    format!("{}   {version} (v{version}){message}", status.state.text())
}

fn ipam(pools: &[IpamStatus]) -> String {
    let pool = |pool: &IpamStatus| {
        let family = match pool.family {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        };
        format!(
            "{family}: {}/{} allocated from {},",
            pool.allocated, pool.capacity, pool.cidr
        )
    };
    pools.iter().map(pool).collect::<Vec<_>>().join(" ")
}

fn routing(status: &AgentStatus) -> String {
    let routing = &status.routing;
    let network = match routing.mode.as_str() {
        "tunnel" => format!("Tunnel [{}]", routing.tunnel_protocol),
        "native" => "Native".into(),
        other => other.to_owned(),
    };
    format!("Network: {network}   Host: {}", routing.host)
}

fn masquerading(status: &AgentStatus) -> String {
    let masquerading = &status.masquerading;
    if !masquerading.ipv4 && !masquerading.ipv6 {
        return "Disabled".into();
    }
    let word = |on: bool| if on { "Enabled" } else { "Disabled" };
    let excluded: String = masquerading
        .excluded
        .iter()
        .map(|cidr| format!("{cidr} "))
        .collect();
    format!(
        "{}   [{}]   {excluded}[IPv4: {}, IPv6: {}]",
        masquerading.mode,
        masquerading.devices.join(", "),
        word(masquerading.ipv4),
        word(masquerading.ipv6)
    )
}

/// How the proxy is.
fn proxy(status: &AgentStatus) -> String {
    let Some(proxy) = &status.proxy else {
        return "Disabled".into();
    };
    let state = match (proxy.connected, proxy.behind) {
        (false, _) => "NOT THERE",
        (true, true) => "OK, with rules of before",
        (true, false) => "OK",
    };
    let router = status
        .addresses
        .iter()
        .find(|(_, owner)| *owner == "router");
    let router = router.map_or_else(String::new, |(ip, _)| format!(", ip {ip}"));
    let mut text = format!(
        "{state}{router}, {} redirects active on ports 15001-15004, Envoy: external",
        proxy.redirects
    );
    for problem in &proxy.problems {
        let _ = write!(text, "; {problem}");
    }
    text
}

/// Which ports of which endpoints go to the proxy, and what was asked for there.
fn redirects(status: &AgentStatus) -> String {
    let none = "  No managed proxy redirect\n".to_owned();
    let Some(proxy) = status.proxy.as_ref().filter(|proxy| !proxy.list.is_empty()) else {
        return none;
    };
    let mut text =
        "  Protocol\tRedirect\tProxy Port\tRequests\tForwarded\tDenied\tErrors\n".to_owned();
    for one in &proxy.list {
        let requests = &one.requests;
        let _ = writeln!(
            text,
            "  {}\t{one}\t{}\t{}\t{}\t{}\t{}",
            one.protocol,
            one.proxy_port,
            requests.received,
            requests.forwarded,
            requests.denied,
            requests.errors
        );
    }
    align(&text)
}

/// Parts whose name has a path, as `reconciler/routes`, do work over and over.
/// How policy is; none of an agent that does not say. What does not fit is told first of all.
fn policy(status: &PolicyStatus) -> Option<String> {
    if status.mode.is_empty() {
        return None;
    }
    let mut text = String::new();
    if !status.behind.is_empty() {
        let endpoints: Vec<String> = status.behind.iter().map(ToString::to_string).collect();
        let _ = write!(
            text,
            "NOT IN FORCE for endpoints {}, whose rows do not fit: {}; ",
            endpoints.join(", "),
            status.behind_has
        );
    }
    let audit = if status.audit { ", audit" } else { "" };
    let former = match status.former {
        0 => String::new(),
        former => format!(" ({former} of them in force in a former version)"),
    };
    let _ = write!(
        text,
        "{}{audit}   {} in force, {} refused{former}, revision {}   [{} of {} rows]",
        status.mode, status.policies, status.refused, status.revision, status.rows, status.capacity
    );
    if !status.complete {
        text.push_str("   waiting for what it depends on");
    }
    Some(text)
}

fn is_controller(part: &Component) -> bool {
    part.name.contains('/')
}

fn controller_sum(status: &AgentStatus) -> String {
    let all: Vec<&Component> = status
        .components
        .iter()
        .filter(|part| is_controller(part))
        .collect();
    let healthy = all
        .iter()
        .filter(|part| part.state != ComponentState::Failure)
        .count();
    format!("{healthy}/{} healthy", all.len())
}

fn module_sum(status: &AgentStatus) -> String {
    let count = |states: &[ComponentState]| {
        status
            .components
            .iter()
            .filter(|part| states.contains(&part.state))
            .count()
    };
    format!(
        "Stopped({}) Degraded({}) OK({})",
        count(&[ComponentState::Disabled]),
        count(&[ComponentState::Failure, ComponentState::Warning]),
        count(&[ComponentState::Ok])
    )
}

fn addresses(status: &AgentStatus) -> String {
    let rows: String = status
        .addresses
        .iter()
        .map(|(ip, owner)| format!("  {ip} ({owner})\n"))
        .collect();
    format!("Allocated addresses:\n{rows}")
}

fn controllers(status: &AgentStatus) -> String {
    let mut table = Table::new(&["  Name", "Last success", "Last error", "Count", "Message"]);
    for part in status.components.iter().filter(|part| is_controller(part)) {
        let ago = part.last_success_seconds.map_or_else(
            || "never".into(),
            |seconds| format!("{} ago", duration(seconds)),
        );
        let error = match (part.state, part.failures) {
            (_, 0) => "never",
            (ComponentState::Ok, _) => "earlier",
            _ => "now",
        };
        let message = if part.message.is_empty() {
            "no error"
        } else {
            &part.message
        };
        table.row(&[
            &format!("  {}", part.name),
            &ago,
            error,
            &part.failures.to_string(),
            message,
        ]);
    }
    table.render()
}

fn modules(status: &AgentStatus) -> String {
    let row = |part: &Component| {
        format!(
            "  {}\t[{}] {}\n",
            part.name,
            part.state.text(),
            part.message
        )
    };
    align(&status.components.iter().map(row).collect::<String>())
}

/// As `3m20s`.
#[must_use]
pub fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// `Ok   Current/Max Flows: 4095/4095 (100.00%), Flows/s: 12.34   Metrics: Ok`.
#[expect(clippy::cast_precision_loss, reason = "a percentage")]
fn hubble(status: &api::HubbleStatus) -> String {
    let state = match (status.state, status.message.as_str()) {
        (state, "") => state.text().to_owned(),
        (state, message) => format!("{} {message}", state.text()),
    };
    let (flows, max) = (status.flows, status.max_flows);
    let share = flows as f64 * 100.0 / max.max(1) as f64;
    format!(
        "{state}   Current/Max Flows: {flows}/{max} ({share:.2}%), Flows/s: {:.2}   Metrics: {}",
        status.flows_rate, status.metrics
    )
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn status() -> AgentStatus {
        serde_json::from_value(json!({
            "state": "ok", "version": "9.9.9", "node": "n1", "uptimeSeconds": 200, "kernel": "6.99.0",
            "components": [
                {"name": "kubernetes", "state": "ok", "message": "1.30 (v1.30.2) [linux/amd64]"},
                {"name": "monitor", "state": "ok", "message": "Listening for events on 4 CPUs"},
                {"name": "reconciler/routes", "state": "ok", "lastSuccessSeconds": 12, "failures": 0},
                {"name": "reconciler/ipcache", "state": "failure", "message": "map is full", "failures": 3},
            ],
            "ipam": [
                {"family": "ipv4", "cidr": "10.7.1.0/24", "allocated": 5, "capacity": 254},
                {"family": "ipv6", "cidr": "2001:db8:7::/112", "allocated": 3, "capacity": 65534},
            ],
            "addresses": {"10.7.1.12": "shop/cart-0", "10.7.1.200": "router"},
            "routing": {"mode": "tunnel", "tunnelProtocol": "vxlan", "host": "BPF"},
            "attachMode": "TCX", "deviceMode": "veth", "devices": ["ens9"],
            "masquerading": {"ipv4": true, "ipv6": false, "mode": "BPF", "devices": ["ens9"], "excluded": ["10.0.0.0/8"]},
            "cniConfig": "successfully wrote CNI configuration file to /etc/cni/net.d/05-cilium.conflist",
        }))
        .unwrap()
    }

    #[test]
    fn plain() {
        expect![[r#"
            KVStore:                Disabled
            Kubernetes:             Ok   1.30 (v1.30.2) [linux/amd64]
            KubeProxyReplacement:   False
            Host firewall:          Disabled
            SRv6:                   Disabled
            CNI Chaining:           none
            CNI Config file:        successfully wrote CNI configuration file to /etc/cni/net.d/05-cilium.conflist
            Cilium:                 Ok   9.9.9 (v9.9.9)
            NodeMonitor:            Ok   Listening for events on 4 CPUs
            IPAM:                   IPv4: 5/254 allocated from 10.7.1.0/24, IPv6: 3/65534 allocated from 2001:db8:7::/112,
            IPv4 BIG TCP:           Disabled
            IPv6 BIG TCP:           Disabled
            BandwidthManager:       Disabled
            Routing:                Network: Tunnel [vxlan]   Host: BPF
            Attach Mode:            TCX
            Device Mode:            veth
            Masquerading:           BPF   [ens9]   10.0.0.0/8 [IPv4: Enabled, IPv6: Disabled]
            Controller Status:      1/2 healthy
            Proxy Status:           Disabled
            Hubble:                 Disabled
            Encryption:             Disabled
            Modules Health:         Stopped(0) Degraded(1) OK(3)
        "#]].assert_eq(&text(&status(), Detail::default()));
    }

    #[test]
    fn proxies() {
        let mut status = status();
        let mut state = api::ProxyStatus {
            connected: true,
            redirects: 2,
            ..api::ProxyStatus::default()
        };
        status.proxy = Some(state.clone());
        assert_eq!(
            proxy(&status),
            "OK, ip 10.7.1.200, 2 redirects active on ports 15001-15004, Envoy: external"
        );
        assert_eq!(redirects(&status), "  No managed proxy redirect\n");
        state.list = vec![api::ProxyRedirect {
            endpoint: 904,
            direction: "ingress".into(),
            transport: "TCP".into(),
            first: 80,
            last: 80,
            protocol: "http".into(),
            proxy_port: 15001,
            requests: api::ProxyRequests {
                received: 12,
                forwarded: 9,
                denied: 3,
                errors: 0,
            },
        }];
        status.proxy = Some(state.clone());
        assert_eq!(
            redirects(&status),
            "  Protocol   Redirect              Proxy Port   Requests   Forwarded   Denied   Errors\n  \
             http       904:ingress:TCP:80:   15001        12         9           3        0\n"
        );
        state.connected = false;
        state.problems = vec!["shop/web: http[0].path: what?".into()];
        status.proxy = Some(state);
        let text = proxy(&status);
        assert!(
            text.starts_with("NOT THERE, ip ") && text.ends_with("; shop/web: http[0].path: what?")
        );
    }

    #[test]
    fn flows() {
        let mut status = api::HubbleStatus {
            flows: 1023,
            max_flows: 4095,
            flows_rate: 12.345,
            metrics: "Disabled".into(),
            ..api::HubbleStatus::default()
        };
        assert_eq!(
            hubble(&status),
            "Ok   Current/Max Flows: 1023/4095 (24.98%), Flows/s: 12.35   Metrics: Disabled"
        );
        status.state = ComponentState::Warning;
        status.message = "no certificate".into();
        assert!(hubble(&status).starts_with("Warning no certificate   Current"));
    }

    #[test]
    fn verbose() {
        expect![[r#"
            KVStore:                Disabled
            Kubernetes:             Ok   1.30 (v1.30.2) [linux/amd64]
            KubeProxyReplacement:   False
            Host firewall:          Disabled
            SRv6:                   Disabled
            CNI Chaining:           none
            CNI Config file:        successfully wrote CNI configuration file to /etc/cni/net.d/05-cilium.conflist
            Cilium:                 Ok   9.9.9 (v9.9.9)
            NodeMonitor:            Ok   Listening for events on 4 CPUs
            IPAM:                   IPv4: 5/254 allocated from 10.7.1.0/24, IPv6: 3/65534 allocated from 2001:db8:7::/112,
            Allocated addresses:
              10.7.1.12 (shop/cart-0)
              10.7.1.200 (router)
            IPv4 BIG TCP:           Disabled
            IPv6 BIG TCP:           Disabled
            BandwidthManager:       Disabled
            Routing:                Network: Tunnel [vxlan]   Host: BPF
            Attach Mode:            TCX
            Device Mode:            veth
            Masquerading:           BPF   [ens9]   10.0.0.0/8 [IPv4: Enabled, IPv6: Disabled]
            Controller Status:      1/2 healthy
              Name                 Last success   Last error   Count   Message
              reconciler/routes    12s ago        never        0       no error
              reconciler/ipcache   never          now          3       map is full
            Proxy Status:           Disabled
            Hubble:                 Disabled
            Encryption:             Disabled
            Modules Health:         Stopped(0) Degraded(1) OK(3)
              kubernetes           [Ok] 1.30 (v1.30.2) [linux/amd64]
              monitor              [Ok] Listening for events on 4 CPUs
              reconciler/routes    [Ok]
              reconciler/ipcache   [Failure] map is full
        "#]].assert_eq(&text(
            &status(),
            Detail {
                addresses: true,
                controllers: true,
                modules: true,
                redirects: false,
            },
        ));
    }

    #[test]
    fn policy_that_does_not_fit_comes_first() {
        let mut status = PolicyStatus {
            mode: "default".into(),
            complete: true,
            policies: 3,
            refused: 1,
            revision: 7,
            rows: 250,
            capacity: 256,
            ..PolicyStatus::default()
        };
        assert_eq!(
            policy(&status).unwrap(),
            "default   3 in force, 1 refused, revision 7   [250 of 256 rows]"
        );
        status.behind = vec![7, 9];
        status.behind_has = "locked down".into();
        let text = policy(&status).unwrap();
        assert!(
            text.starts_with(
                "NOT IN FORCE for endpoints 7, 9, whose rows do not fit: locked down; default"
            ),
            "{text}"
        );
        assert_eq!(policy(&PolicyStatus::default()), None);
    }

    #[test]
    fn durations() {
        assert_eq!(
            [12, 200, 7300, 90_061].map(duration),
            ["12s", "3m20s", "2h1m", "1d1h"]
        );
    }
}
