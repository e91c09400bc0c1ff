//! Tables, nodes and addresses.
use super::{Answer, Refusal, Shared};
use api::{ApiError, IpEntry, NodeInfo, TableDump, TableInfo};
use axum::{
    Json,
    extract::{Path, State},
};
use model::{Labels, PrefixSource};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tables::reconcile::{Status, StatusRow};

/// Column with the reconciler's status.
const STATUS: &str = "status";
/// Column with the revision that wrote the row.
const REVISION: &str = "revision";

/// `GET /v1/statedb`.
pub(super) async fn list(State(agent): Shared) -> Json<Vec<TableInfo>> {
    let tables = agent.tables.db.snapshot().tables();
    let info = |table: tables::TableInfo| TableInfo {
        name: table.name.to_owned(),
        rows: table.rows as u64,
        revision: table.revision.get(),
        initialized: table.pending_initializers.is_empty(),
    };
    Json(tables.into_iter().map(info).collect())
}

/// `GET /v1/statedb/{table}`.
pub(super) async fn one(State(agent): Shared, Path(name): Path<String>) -> Answer<Json<TableDump>> {
    let snapshot = agent.tables.db.snapshot();
    let rows = snapshot.dump(&name).map_err(|error| match error {
        unknown @ tables::DumpError::UnknownTable { .. } => {
            ApiError::not_found(format!("table {name}")).detail(unknown.to_string())
        }
        other => ApiError::new(api::ErrorCode::Internal, other.to_string()),
    })?;
    let reconciler = agent
        .reconcilers
        .get()
        .and_then(|all| all.iter().find(|one| one.name() == name));
    let statuses: Option<BTreeMap<u64, StatusRow>> = reconciler.map(|one| {
        one.statuses()
            .into_iter()
            .map(|row| (row.revision.get(), row))
            .collect()
    });
    let revision = snapshot
        .tables()
        .into_iter()
        .find(|table| table.name == name)
        .map_or(0, |table| table.revision.get());
    Ok(Json(dump(name, revision, &rows, statuses.as_ref())))
}

fn dump(
    name: String,
    revision: u64,
    rows: &[tables::DumpRow],
    statuses: Option<&BTreeMap<u64, StatusRow>>,
) -> TableDump {
    let fields: BTreeSet<&str> = rows
        .iter()
        .filter_map(|row| row.row.as_object())
        .flat_map(|object| object.keys())
        .map(String::as_str)
        .collect();
    let columns = fields
        .iter()
        .copied()
        .chain([REVISION])
        .chain(statuses.is_some().then_some(STATUS));
    let cells = |row: &tables::DumpRow| {
        let mut cells: Vec<String> = fields
            .iter()
            .map(|field| cell(row.row.get(field)))
            .collect();
        cells.push(row.revision.to_string());
        cells.extend(statuses.map(|all| status_text(all.get(&row.revision.get()))));
        cells
    };
    TableDump {
        name,
        revision,
        columns: columns.map(str::to_owned).collect(),
        rows: rows.iter().map(cells).collect(),
    }
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| cell(Some(item)))
            .collect::<Vec<_>>()
            .join(","),
        Some(other) => other.to_string(),
    }
}

fn status_text(row: Option<&StatusRow>) -> String {
    match row.map(|row| &row.status) {
        None | Some(Status::Pending { .. }) => "pending".to_owned(),
        Some(Status::Done { .. }) => "done".to_owned(),
        Some(Status::Error {
            message, attempts, ..
        }) => format!("error after {attempts} tries: {message}"),
    }
}

/// `GET /v1/ip`.
pub(super) async fn ips(State(agent): Shared) -> Json<Vec<IpEntry>> {
    let snapshot = agent.tables.db.snapshot();
    let endpoints = agent.tables.endpoints.iter(&snapshot);
    let labels: BTreeMap<u32, &Labels> = endpoints
        .map(|endpoint| (endpoint.identity, &endpoint.labels))
        .collect();
    let named = |identity: u32| match abi::identity::reserved_name(identity) {
        Some(name) => Labels::reserved(name).to_strings(),
        None => labels
            .get(&identity)
            .map(|labels| labels.to_strings())
            .unwrap_or_default(),
    };
    let entry = |row: &std::sync::Arc<model::Prefix>| IpEntry {
        prefix: row.prefix,
        identity: row.identity,
        labels: named(row.identity),
        tunnel_endpoint: row.tunnel,
        source: match row.source {
            PrefixSource::Generated => "generated",
            PrefixSource::CustomResource => "custom-resource",
            PrefixSource::Kubernetes => "k8s",
            PrefixSource::Endpoint | PrefixSource::Local => "local",
        }
        .to_owned(),
        owner: row.owner.to_string(),
    };
    Json(agent.tables.prefixes.iter(&snapshot).map(entry).collect())
}

/// `GET /v1/cluster/nodes`.
pub(super) async fn nodes(State(agent): Shared) -> Answer<Json<Vec<NodeInfo>>> {
    let snapshot = agent.tables.db.snapshot();
    let local = agent.tables.local_node.iter(&snapshot).next();
    let Some(local) = local else {
        return Err(Refusal(ApiError::new(
            api::ErrorCode::NotReady,
            "the node is not known yet",
        )));
    };
    let info = |node: &model::Node, own: bool| {
        let v4 = node.address(false).and_then(|ip| {
            if let IpAddr::V4(ip) = ip {
                Some(ip)
            } else {
                None
            }
        });
        let v6 = node.address(true).and_then(|ip| {
            if let IpAddr::V6(ip) = ip {
                Some(ip)
            } else {
                None
            }
        });
        let routers = if own {
            [local.router(false), local.router(true)]
        } else {
            [None, None]
        };
        NodeInfo {
            name: node.name.clone(),
            local: own,
            ipv4: v4,
            ipv6: v6,
            pod_cidrs: node.pod_cidrs.clone(),
            router: routers.into_iter().flatten().collect(),
            source: if own { "local" } else { "kubernetes" }.to_owned(),
        }
    };
    let others = agent
        .tables
        .nodes
        .iter(&snapshot)
        .filter(|node| node.name != local.node.name);
    Ok(Json(
        std::iter::once(info(&local.node, true))
            .chain(others.map(|node| info(node, false)))
            .collect(),
    ))
}
