//! What the agent says of itself.
use crate::{agent::Agent, machine};
use api::{AgentStatus, Component, ComponentState, Masquerading, Routing, Setting};
use datapath::Mechanism;
use ipnet::IpNet;
use k8s::Connection;
use runtime::{
    health::{Level, Report},
    settings::{Loaded, Origin, Settings},
};
use std::{collections::BTreeMap, net::IpAddr, sync::PoisonError};

/// The state of the agent.
#[must_use]
pub fn status(agent: &Agent) -> AgentStatus {
    let snapshot = agent.tables.db.snapshot();
    let mut components = vec![kubernetes(agent)];
    components.extend(agent.health.reports().into_iter().map(component));
    let worst = components
        .iter()
        .max_by_key(|one| one.state)
        .cloned()
        .unwrap_or_default();
    let mut endpoints: BTreeMap<String, u64> = BTreeMap::new();
    for endpoint in agent.tables.endpoints.iter(&snapshot) {
        *endpoints
            .entry(endpoint.state.text().to_owned())
            .or_default() += 1;
    }
    let addresses = agent
        .addresses
        .taken()
        .into_iter()
        .map(|(ip, owner, _, retired)| (ip, if retired { "freeing".to_owned() } else { owner }));
    let local = agent.tables.local_node.iter(&snapshot).next();
    AgentStatus {
        state: worst.state,
        message: if worst.state == ComponentState::Ok {
            String::new()
        } else {
            format!("{}: {}", worst.name, worst.message)
        },
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: local
            .map(|local| local.node.name.clone())
            .unwrap_or_default(),
        uptime_seconds: agent.facts.started.elapsed().as_secs(),
        kernel: machine::kernel(),
        components,
        ipam: agent.addresses.usage(),
        addresses: addresses.collect::<BTreeMap<IpAddr, String>>(),
        routing: routing(agent),
        attach_mode: match agent.datapath.mechanism() {
            Mechanism::Clsact => "Legacy TC",
            _ => "TCX",
        }
        .to_owned(),
        device_mode: crate::rest::device_mode(agent.loaded.settings.datapath_mode),
        devices: local
            .map(|local| {
                local
                    .devices
                    .iter()
                    .map(|device| device.name.clone())
                    .collect()
            })
            .unwrap_or_default(),
        masquerading: masquerading(agent),
        policy: agent.policy.status(),
        services: agent
            .services
            .status(&agent.loaded.settings, local.map(|local| &**local)),
        proxy: agent.proxy.as_ref().map(crate::layer7::Proxy::status),
        hubble: crate::observe::status(agent),
        endpoints,
        cni_config: agent
            .cni_config
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone(),
        memory_bytes: machine::resident(),
    }
}

/// The API server as a component: what matters is whether its objects are known, not whether it answers now.
fn kubernetes(agent: &Agent) -> Component {
    let mut component = Component {
        name: "kubernetes".to_owned(),
        ..Component::default()
    };
    match (
        &*agent.connection.borrow(),
        agent.tables.kubernetes_synced(),
    ) {
        (Connection::Connected(version), true) => component.message = version.clone(),
        (_, true) => component.message = "objects known".to_owned(),
        (_, false) => {
            component.state = ComponentState::Warning;
            component.message =
                "objects not known yet; the datapath works with what it knew".to_owned();
        }
    }
    component
}

fn component(report: Report) -> Component {
    Component {
        name: report.name,
        state: match report.level {
            Level::Ok => ComponentState::Ok,
            Level::Degraded => ComponentState::Warning,
            Level::Failed => ComponentState::Failure,
        },
        message: report.message,
        last_success_seconds: (report.level == Level::Ok).then_some(report.since_seconds),
        failures: report.failures,
    }
}

fn routing(agent: &Agent) -> Routing {
    let plan = &agent.facts.plan;
    Routing {
        mode: if plan.routes_by_tunnel() {
            "tunnel"
        } else {
            "native"
        }
        .to_owned(),
        tunnel_protocol: plan
            .tunnel
            .filter(|_| plan.routes_by_tunnel())
            .map(|(encapsulation, _)| encapsulation.text().to_owned())
            .unwrap_or_default(),
        host: if plan.host_legacy { "Legacy" } else { "BPF" }.to_owned(),
    }
}

fn masquerading(agent: &Agent) -> Masquerading {
    let plan = &agent.facts.plan;
    let snapshot = agent.tables.db.snapshot();
    let local = agent.tables.local_node.iter(&snapshot).next();
    let (ipv4, ipv6) = (plan.ipv4 && plan.masquerade4, plan.ipv6 && plan.masquerade6);
    let own = |ipv6: bool| local.and_then(|local| local.node.cidrs(ipv6).next());
    let excluded = [
        plan.native4
            .map(IpNet::V4)
            .or_else(|| own(false))
            .filter(|_| ipv4),
        plan.native6
            .map(IpNet::V6)
            .or_else(|| own(true))
            .filter(|_| ipv6),
    ];
    Masquerading {
        ipv4,
        ipv6,
        mode: if ipv4 || ipv6 {
            "BPF".to_owned()
        } else {
            String::new()
        },
        devices: local
            .map(|local| {
                local
                    .devices
                    .iter()
                    .map(|device| device.name.clone())
                    .collect()
            })
            .unwrap_or_default(),
        excluded: excluded.into_iter().flatten().collect(),
    }
}

/// Every setting with its value and where that came from.
#[must_use]
pub fn config(loaded: &Loaded) -> Vec<Setting> {
    let setting = |key: &runtime::settings::Key| Setting {
        name: key.name.to_owned(),
        value: loaded.settings.get(key.name).unwrap_or_default(),
        default: key.default(),
        source: match loaded.origin(key.name) {
            Origin::Default => "default".to_owned(),
            Origin::ConfigDir(path) | Origin::ConfigFile(path) => format!("file {path}"),
            Origin::Object(object) => object,
            Origin::Environment(name) => format!("environment {name}"),
            Origin::Flag => "flag".to_owned(),
        },
    };
    Settings::KEYS.iter().map(setting).collect()
}
