//! Addresses and endpoints: what the CNI plugin asks for.
use super::{Answer, Refusal, Shared, blocking, body, pools};
use crate::{
    addresses::Wish,
    agent::Agent,
    endpoint::pod_ref,
    policy::{HOST_ENDPOINT, HOST_SUBJECT},
};
use api::{
    AddressAllocation, ApiError, DeviceMode, EndpointDeleted, EndpointRequest, EndpointState,
    ErrorCode, Family, IpamRequest, IpamResponse, path::EndpointId,
};
use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    http::StatusCode,
};
use model::{Attachment, Endpoint};
use runtime::settings::DatapathMode;
use serde::Deserialize;
use std::{net::IpAddr, sync::Arc, time::Duration};

/// `POST /v1/ipam`.
pub(super) async fn allocate(State(agent): Shared, raw: Body) -> Answer<Json<IpamResponse>> {
    let request: IpamRequest = body(raw).await?;
    blocking(move || allocated(&agent, &request))
        .await
        .map(Json)
}

fn allocated(agent: &Agent, request: &IpamRequest) -> Result<IpamResponse, ApiError> {
    if let Some(attachment) = &request.attachment {
        let id: EndpointId = attachment.parse()?;
        if let Some(endpoint) = agent.manager.find(&agent.tables.db.snapshot(), &id) {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!("{attachment} is endpoint {} already", endpoint.id),
            ));
        }
        // What an earlier try for the same attachment was given and nobody used.
        agent.addresses.release_of(attachment);
    }
    let available = agent.addresses.families();
    let wants = |family: Family, available: bool| match request.families.as_slice() {
        [] => available,
        wanted => wanted.contains(&family),
    };
    let families = ipam::Families {
        v4: wants(Family::Ipv4, available.v4),
        v6: wants(Family::Ipv6, available.v6),
    };
    let pools = pools::of(agent, &request.owner)?;
    let given = agent.addresses.allocate(&Wish {
        pools,
        owner: request.owner.clone(),
        key: request
            .attachment
            .clone()
            .unwrap_or_else(|| request.owner.clone()),
        families,
        expire: request
            .expire_seconds
            .map(|seconds| Duration::from_secs(seconds.into())),
    })?;
    let local = agent
        .tables
        .local_node
        .iter(&agent.tables.db.snapshot())
        .next()
        .cloned();
    Ok(IpamResponse {
        ipv4: given.v4.map(|ip| AddressAllocation {
            ip,
            pool: agent.addresses.pool_of(ip.into()),
        }),
        ipv6: given.v6.map(|ip| AddressAllocation {
            ip,
            pool: agent.addresses.pool_of(ip.into()),
        }),
        gateway4: local.as_ref().and_then(|local| local.router4),
        gateway6: local.as_ref().and_then(|local| local.router6),
        device_mtu: agent.facts.mtus.device,
        route_mtu: agent.facts.mtus.route,
        device_mode: device_mode(agent.loaded.settings.datapath_mode),
    })
}

/// The setting in the API's words.
#[must_use]
pub(crate) fn device_mode(mode: DatapathMode) -> DeviceMode {
    match mode {
        DatapathMode::Veth => DeviceMode::Veth,
        DatapathMode::Netkit => DeviceMode::Netkit,
        DatapathMode::NetkitL2 => DeviceMode::NetkitL2,
    }
}

/// `DELETE /v1/ipam/{ip}`: fine if nobody has the address; refused while an endpoint uses it.
pub(super) async fn release(State(agent): Shared, Path(ip): Path<String>) -> Answer<StatusCode> {
    let address: IpAddr = ip.parse().map_err(|_| {
        ApiError::bad_request(format!("`{}` is not an address", ip.escape_default()))
    })?;
    let snapshot = agent.tables.db.snapshot();
    if let Some(endpoint) = agent.manager.find(&snapshot, &EndpointId::Ip(address)) {
        return Err(Refusal(ApiError::new(
            ErrorCode::Conflict,
            format!("{address} is used by endpoint {}", endpoint.id),
        )));
    }
    let local = agent.tables.local_node.iter(&snapshot).next();
    if local.is_some_and(|local| local.router(address.is_ipv6()) == Some(address)) {
        return Err(Refusal(ApiError::new(
            ErrorCode::Conflict,
            format!("{address} is the node's router address"),
        )));
    }
    agent.addresses.release(address);
    Ok(StatusCode::NO_CONTENT)
}

/// `PUT /v1/endpoint/{attachment}`.
pub(super) async fn create(
    State(agent): Shared,
    Path(id): Path<String>,
    raw: Body,
) -> Answer<Json<api::Endpoint>> {
    let attachment: Attachment = id
        .parse()
        .map_err(|error: String| ApiError::bad_request(error))?;
    let request: EndpointRequest = body(raw).await?;
    // Not on a thread for what blocks: others need those meanwhile.
    let pod = pod_ref(&request);
    agent.manager.expect(&pod, agent.server.get()).await;
    agent.policy.begun().await;
    let endpoint = blocking(move || {
        let endpoint = agent.manager.create(attachment, &request)?;
        agent.monitor.agent_event(format!(
            "endpoint {} of {} created",
            endpoint.id, endpoint.pod
        ));
        Ok(shown(&agent, &endpoint))
    });
    endpoint.await.map(Json)
}

/// `GET /v1/endpoint`.
pub(super) async fn list(State(agent): Shared) -> Json<Vec<api::Endpoint>> {
    let snapshot = agent.tables.db.snapshot();
    let pods = agent.tables.endpoints.iter(&snapshot);
    let pods = pods.map(|endpoint| shown(&agent, endpoint));
    Json(host(&agent).into_iter().chain(pods).collect())
}

/// `GET /v1/endpoint/{id}`.
pub(super) async fn one(
    State(agent): Shared,
    Path(id): Path<String>,
) -> Answer<Json<api::Endpoint>> {
    let id: EndpointId = id.parse()?;
    Ok(Json(find(&agent, &id)?))
}

/// The endpoint, or the node itself.
pub(super) fn find(agent: &Agent, id: &EndpointId) -> Result<api::Endpoint, ApiError> {
    if *id == EndpointId::Number(HOST_ENDPOINT) {
        let off = "the node is no endpoint while enable-host-firewall is off";
        return host(agent).ok_or_else(|| ApiError::new(ErrorCode::NotFound, off));
    }
    let found = agent.manager.find(&agent.tables.db.snapshot(), id);
    let found = found.ok_or_else(|| ApiError::not_found(format!("endpoint {id}")))?;
    Ok(shown(agent, &found))
}

/// The node itself in the API's words, where policy is enforced for it.
fn host(agent: &Agent) -> Option<api::Endpoint> {
    let labels = agent.policy.host_labels()?;
    let policy = agent.policy.of_subject(HOST_SUBJECT);
    let snapshot = agent.tables.db.snapshot();
    let local = agent.tables.local_node.iter(&snapshot).next()?;
    let of_node = agent.loaded.settings.policy_audit_mode;
    Some(api::Endpoint {
        id: HOST_ENDPOINT,
        state: EndpointState::Ready,
        identity: abi::identity::HOST,
        labels,
        host_ifindex: agent.facts.pair.host_ifindex,
        policy_ingress: policy.enforced[0],
        policy_egress: policy.enforced[1],
        policy_audit: local.policy_audit.unwrap_or(of_node),
        subject: HOST_SUBJECT,
        policy_revision: policy.revision,
        ..api::Endpoint::default()
    })
}

/// `DELETE /v1/endpoint/{id}`: 404 tells that there was none, which a repeated deletion takes for success.
pub(super) async fn remove(
    State(agent): Shared,
    Path(id): Path<String>,
) -> Answer<Json<EndpointDeleted>> {
    let id: EndpointId = id.parse()?;
    blocking(move || {
        if !agent.manager.delete(&id)? {
            return Err(ApiError::not_found(format!("endpoint {id}")));
        }
        agent.monitor.agent_event(format!("endpoint {id} deleted"));
        Ok(Json(EndpointDeleted {
            device_removed: true,
        }))
    })
    .await
}

#[derive(Debug, Deserialize)]
pub(super) struct ContainerQuery {
    #[serde(rename = "container-id", default)]
    container: String,
}

/// `DELETE /v1/endpoint?container-id=…`.
pub(super) async fn remove_container(
    State(agent): Shared,
    Query(query): Query<ContainerQuery>,
) -> Answer<StatusCode> {
    if query.container.is_empty() {
        return Err(Refusal(ApiError::bad_request(
            "which endpoints? give ?container-id=<id>",
        )));
    }
    blocking(move || {
        if agent.manager.delete_container(&query.container)? == 0 {
            return Err(ApiError::not_found(format!(
                "an endpoint of container {}",
                query.container
            )));
        }
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// An endpoint in the API's words.
#[must_use]
fn shown(agent: &Agent, endpoint: &Arc<Endpoint>) -> api::Endpoint {
    let policy = agent.policy.of_subject(endpoint.subject);
    let mac = |mac: model::Mac| {
        if mac.is_zero() {
            String::new()
        } else {
            mac.to_string()
        }
    };
    api::Endpoint {
        id: endpoint.id,
        state: match endpoint.state {
            model::EndpointState::Creating => EndpointState::Creating,
            model::EndpointState::WaitingForIdentity => EndpointState::WaitingForIdentity,
            model::EndpointState::Restoring => EndpointState::Restoring,
            model::EndpointState::Ready => EndpointState::Ready,
            model::EndpointState::Disconnecting => EndpointState::Disconnecting,
        },
        message: String::new(),
        attachment: endpoint.attachment.to_string(),
        pod: api::PodRef {
            namespace: endpoint.pod.namespace.clone(),
            name: endpoint.pod.name.clone(),
            uid: endpoint.pod.uid.clone(),
        },
        identity: endpoint.identity,
        labels: endpoint.labels.to_strings(),
        ipv4: endpoint.ipv4,
        ipv6: endpoint.ipv6,
        netns: endpoint.netns.clone(),
        host_ifname: endpoint.ifname.clone(),
        host_ifindex: endpoint.ifindex,
        host_mac: mac(endpoint.host_mac),
        container_ifname: endpoint.attachment.interface.clone(),
        container_mac: mac(endpoint.container_mac),
        policy_ingress: policy.enforced[0],
        policy_egress: policy.enforced[1],
        policy_audit: endpoint.flags & abi::endpoint_flags::POLICY_AUDIT != 0,
        subject: endpoint.subject,
        policy_revision: policy.revision,
    }
}
