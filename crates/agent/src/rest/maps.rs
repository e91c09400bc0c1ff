//! The kernel's maps, decoded.
use super::{Answer, Refusal, Shared, blocking, kernel};
use crate::{agent::Agent, machine::abi_address as ip};
use abi::names;
use api::{ApiError, MapInfo, MapRow};
use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use datapath::maps::{Connection, NatRow};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::IpAddr;

/// `GET /v1/map`.
pub(super) async fn list(State(agent): Shared) -> Answer<Json<Vec<MapInfo>>> {
    let all = blocking(move || {
        let maps = agent.datapath.maps().map_err(|error| kernel(&error))?;
        let info = |map: datapath::maps::MapSummary| MapInfo {
            name: map.name.to_owned(),
            id: map.id,
            kind: map.kind.text().to_owned(),
            key_size: map.key_size,
            value_size: map.value_size,
            max_entries: map.max_entries,
            entries: Some(map.entries as u64),
            memory_bytes: 0,
            errors: 0,
        };
        Ok(maps.into_iter().map(info).collect())
    });
    all.await.map(Json)
}

/// Which rows are wanted.
#[derive(Debug, Deserialize)]
pub(super) struct Only {
    /// Of the policy map those of one subject.
    subject: Option<u32>,
}

/// `GET /v1/map/{name}`.
pub(super) async fn one(
    State(agent): Shared,
    Path(name): Path<String>,
    query: Result<Query<Only>, QueryRejection>,
) -> Answer<Json<Vec<MapRow>>> {
    let Query(only) = query.map_err(|error| super::policy::not_understood(&error))?;
    if !names::MAPS.contains(&name.as_str()) {
        return Err(Refusal(
            ApiError::not_found(format!("map {name}"))
                .detail(format!("there are {}", names::MAPS.join(", "))),
        ));
    }
    blocking(move || rows(&agent, &name, &only).map_err(|error| kernel(&error)))
        .await
        .map(Json)
}

fn rows(agent: &Agent, name: &str, only: &Only) -> datapath::Result<Vec<MapRow>> {
    let datapath = &agent.datapath;
    Ok(match name {
        names::LXC => datapath
            .endpoints()?
            .dump_addresses()?
            .iter()
            .map(|(key, info)| address_row(key, info))
            .collect(),
        names::LXC_IFINDEX => datapath
            .endpoints()?
            .dump()?
            .iter()
            .map(device_row)
            .collect(),
        names::IPCACHE => datapath
            .ipcache()?
            .dump()?
            .iter()
            .map(|(key, value)| ipcache_row(key, value))
            .collect(),
        names::CT4 | names::CT6 => {
            let ipv6 = name == names::CT6;
            datapath
                .conntrack()?
                .dump()?
                .iter()
                .filter(|c| c.source.is_ipv6() == ipv6)
                .map(ct_row)
                .collect()
        }
        names::SNAT4 | names::SNAT6 => {
            let ipv6 = name == names::SNAT6;
            datapath
                .nat()?
                .dump()?
                .iter()
                .filter(|row| row.source.is_ipv6() == ipv6)
                .map(nat_row)
                .collect()
        }
        // One table to whoever asks.
        names::POLICY | names::POLICY_PORTS => agent
            .policy
            .shown(&datapath.policy()?.dump()?, only.subject),
        names::METRICS => datapath
            .metrics()?
            .dump()?
            .iter()
            .map(metrics_row)
            .collect(),
        // The fragment maps and the ring have no rows that mean something for longer than a moment.
        name => super::services::rows(datapath, name)?.unwrap_or_default(),
    })
}

fn row(key: String, value: String, fields: Value) -> MapRow {
    let fields = match fields {
        Value::Object(map) => map.into_iter().collect(),
        _ => Default::default(),
    };
    MapRow { key, value, fields }
}

fn info_text(info: &abi::EndpointInfo) -> String {
    format!(
        "id={} sec_id={} flags={:#06x} ifindex={} mac={} nodemac={}",
        info.id,
        info.sec_id,
        info.flags,
        info.ifindex,
        model::Mac(info.mac),
        model::Mac(info.node_mac)
    )
}

fn info_fields(info: &abi::EndpointInfo) -> Value {
    json!({
        "id": info.id, "sec_id": info.sec_id, "flags": info.flags, "ifindex": info.ifindex, "subject": info.subject,
        "mac": model::Mac(info.mac), "node_mac": model::Mac(info.node_mac),
    })
}

fn address_row(key: &abi::EndpointKey, info: &abi::EndpointInfo) -> MapRow {
    let address = ip(key.family, key.ip);
    let mut fields = info_fields(info);
    fields["ip"] = json!(address);
    row(address.to_string(), info_text(info), fields)
}

fn device_row(endpoint: &abi::LocalEndpoint) -> MapRow {
    let mut fields = info_fields(&endpoint.info);
    fields["ipv4"] = json!(IpAddr::from(endpoint.ipv4));
    fields["ipv6"] = json!(IpAddr::from(endpoint.ipv6));
    row(
        endpoint.info.ifindex.to_string(),
        info_text(&endpoint.info),
        fields,
    )
}

fn ipcache_row(key: &abi::IpcacheKey, value: &abi::IpcacheValue) -> MapRow {
    let prefix = format!(
        "{}/{}",
        ip(key.family, key.ip),
        key.prefix_len.saturating_sub(abi::IpcacheKey::STATIC_BITS)
    );
    let tunnel = (value.flags & abi::ipcache_flags::TUNNEL != 0).then(|| {
        let family = if value.flags & abi::ipcache_flags::TUNNEL_V6 != 0 {
            abi::family::V6
        } else {
            abi::family::V4
        };
        ip(family, value.tunnel)
    });
    let tunnel_text = tunnel.map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string());
    let text = format!(
        "identity={} encryptkey={} tunnelendpoint={tunnel_text} flags={:#04x}",
        value.sec_id, value.key, value.flags
    );
    let fields = json!({"prefix": prefix, "sec_id": value.sec_id, "tunnel": tunnel, "flags": value.flags, "key": value.key});
    row(prefix, text, fields)
}

fn ct_row(connection: &Connection) -> MapRow {
    let entry = &connection.entry;
    let key = format!(
        "proto {} {} -> {}",
        connection.proto,
        std::net::SocketAddr::new(connection.source, connection.source_port),
        std::net::SocketAddr::new(connection.destination, connection.destination_port),
    );
    let fields = json!({
        "src": connection.source, "sport": connection.source_port, "dst": connection.destination,
        "dport": connection.destination_port, "proto": connection.proto, "expires": entry.expires, "created": entry.created,
        "last_report": entry.last_report, "flags": entry.flags, "orig_tcp": entry.orig_tcp, "reply_tcp": entry.reply_tcp,
        "src_id": entry.src_id, "dst_id": entry.dst_id, "rev_nat": entry.rev_nat, "endpoint": entry.endpoint,
        "ifindex": entry.ifindex, "packets": entry.packets, "bytes": entry.bytes, "epochs": entry.epochs,
    });
    row(
        key,
        format!(
            "expires={} flags={:#06x} endpoint={}",
            entry.expires, entry.flags, entry.endpoint
        ),
        fields,
    )
}

fn nat_row(mapping: &NatRow) -> MapRow {
    let direction = if mapping.outgoing { "out" } else { "in" };
    let socket = std::net::SocketAddr::new;
    let key = format!(
        "proto {} {direction} {} -> {}",
        mapping.proto,
        socket(mapping.source, mapping.source_port),
        socket(mapping.destination, mapping.destination_port)
    );
    let to = socket(mapping.to, mapping.to_port);
    let fields = json!({
        "src": mapping.source, "sport": mapping.source_port, "dst": mapping.destination, "dport": mapping.destination_port,
        "proto": mapping.proto, "direction": direction, "addr": mapping.to, "port": mapping.to_port, "created": mapping.created,
    });
    row(key, to.to_string(), fields)
}

fn metrics_row(counter: &datapath::maps::MetricsRow) -> MapRow {
    let fields = json!({
        "reason": counter.reason, "direction": counter.direction, "packets": counter.packets, "bytes": counter.bytes,
        "line": counter.line, "file": counter.file,
    });
    row(
        format!("reason {} direction {}", counter.reason, counter.direction),
        format!("{} packets, {} bytes", counter.packets, counter.bytes),
        fields,
    )
}
