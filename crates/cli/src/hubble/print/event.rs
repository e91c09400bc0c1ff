//! What the agent did, and what its programs tell for debugging, in words.
use api::hubble::flow::agent_event::Notification;
use api::hubble::flow::{
    AgentEvent, AgentEventType, DebugEvent, DebugEventType, IpCacheNotification,
    ServiceUpsertNotification, ServiceUpsertNotificationAddr,
};

use super::{Options, moment};

/// The name of an agent event.
pub fn agent_type(event: &AgentEvent) -> &'static str {
    AgentEventType::try_from(event.r#type)
        .unwrap_or_default()
        .as_str_name()
}

/// What an agent event is about.
pub fn agent_details(event: &AgentEvent, options: &Options) -> String {
    let Some(notification) = &event.notification else {
        return "UNKNOWN".to_owned();
    };
    match notification {
        Notification::Unknown(it) => {
            format!("type: {}, notification: {}", it.r#type, it.notification)
        }
        Notification::AgentStart(it) => format!(
            "start time: {}",
            options.layout.show(moment(it.time.as_ref()))
        ),
        Notification::PolicyUpdate(it) => format!(
            "labels: [{}], revision: {}, count: {}",
            it.labels.join(","),
            it.revision,
            it.rule_count
        ),
        Notification::EndpointRegenerate(it) => {
            let text = format!("id: {}, labels: [{}]", it.id, it.labels.join(","));
            text + &part("error", &it.error)
        }
        Notification::EndpointUpdate(it) => {
            let text = format!("id: {}", it.id);
            text + &part("namespace", &it.namespace) + &part("pod name", &it.pod_name)
        }
        Notification::IpcacheUpdate(it) => ipcache(it),
        Notification::ServiceUpsert(it) => service(it),
        Notification::ServiceDelete(it) => format!("id: {}", it.id),
    }
}

/// Said only where there is something to say.
fn part(name: &str, value: &str) -> String {
    if value.is_empty() {
        String::new()
    } else {
        format!(", {name}: {value}")
    }
}

fn ipcache(it: &IpCacheNotification) -> String {
    let mut text = format!("cidr: {}, identity: {}", it.cidr, it.identity);
    if let Some(old) = it.old_identity {
        text += &format!(", old identity: {old}");
    }
    text += &part("host ip", &it.host_ip);
    text += &part("old host ip", &it.old_host_ip);
    text += &format!(", encrypt key: {}", it.encrypt_key);
    text + &part("namespace", &it.namespace) + &part("pod name", &it.pod_name)
}

fn service(it: &ServiceUpsertNotification) -> String {
    let address = |one: &ServiceUpsertNotificationAddr| {
        if one.ip.contains(':') {
            format!("[{}]:{}", one.ip, one.port)
        } else {
            format!("{}:{}", one.ip, one.port)
        }
    };
    let frontend = it.frontend_address.as_ref().map(address);
    let backends: Vec<String> = it.backend_addresses.iter().map(address).collect();
    let mut text = format!(
        "id: {}, frontend: {}, backends: [{}]",
        it.id,
        frontend.unwrap_or_default(),
        backends.join(", ")
    );
    text += &part("type", &it.r#type);
    text += &part("ext traffic policy", &it.ext_traffic_policy);
    text += &part("int traffic policy", &it.int_traffic_policy);
    text + &part("namespace", &it.namespace) + &part("name", &it.name)
}

/// The parts of a debug event: who, kind, mark, processor.
pub fn debug_parts(event: &DebugEvent) -> [String; 4] {
    let source = event.source.clone().unwrap_or_default();
    let from = match (source.namespace.as_str(), source.pod_name.as_str()) {
        (_, "") if source.id == 0 => "N/A".to_owned(),
        (_, "") => format!("(ID: {})", source.id),
        ("", pod) => format!("{pod} (ID: {})", source.id),
        (namespace, pod) => format!("{namespace}/{pod} (ID: {})", source.id),
    };
    let kind = DebugEventType::try_from(event.r#type).unwrap_or_default();
    [
        from,
        kind.as_str_name().to_owned(),
        event
            .hash
            .map_or_else(|| "N/A".to_owned(), |mark| format!("0x{mark:08x}")),
        event
            .cpu
            .map_or_else(|| "N/A".to_owned(), |cpu| format!("{cpu:02}")),
    ]
}
