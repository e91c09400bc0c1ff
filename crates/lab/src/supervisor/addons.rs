//! What a cluster has besides its nodes: the name server.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::api::{ApiResource, DynamicObject, ListParams, PostParams};
use kube::core::GroupVersionKind;
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::outside::Joined;
use super::owned::LABEL;
use crate::spec::LabSpec;
use crate::state::LabState;

/// The objects of cluster DNS.
const DNS: &str = include_str!("kube-dns.yaml");
const NAMESPACE: &str = "kube-system";

/// How the name server reaches the API server, so that names do not depend on services: variables that win over those the kubelet
/// gives.
fn api_server(state: &LabState) -> anyhow::Result<Vec<Value>> {
    let uri: http::Uri = state
        .api_url_inside
        .parse()
        .context("the API server has no URL")?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let variable = |name: &str, value: String| json!({"name": name, "value": value});
    Ok(vec![
        variable("KUBERNETES_SERVICE_HOST", host.to_owned()),
        variable(
            "KUBERNETES_SERVICE_PORT",
            uri.port_u16().unwrap_or(443).to_string(),
        ),
        variable(
            "KUBERNETES_SERVICE_SCHEME",
            uri.scheme_str().unwrap_or("https").to_owned(),
        ),
    ])
}

/// Where objects of this one's kind are, for the kinds that the lab itself creates.
pub(super) fn api(client: &Client, object: &DynamicObject) -> anyhow::Result<Api<DynamicObject>> {
    let types = object.types.clone().unwrap_or_default();
    let kind: GroupVersionKind = types.try_into().context("an object without a kind")?;
    let plural = format!("{}s", kind.kind.to_lowercase());
    let resource = ApiResource::from_gvk_with_plural(&kind, &plural);
    Ok(match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    })
}

/// Addresses of the service, where others expect them.
pub(super) fn cluster_ips(spec: &LabSpec, joined: Option<&Joined>) -> Vec<IpAddr> {
    if let Some(joined) = joined {
        return vec![joined.dns];
    }
    let v4 = spec.families.v4().then(|| IpAddr::from([10, 96, 0, 10]));
    let v6 = spec
        .families
        .v6()
        .then(|| IpAddr::from([0xfd00, 0x96, 0, 0, 0, 0, 0, 0xa]));
    v4.into_iter().chain(v6).collect()
}

fn objects(state: &LabState, joined: Option<&Joined>) -> anyhow::Result<Vec<Value>> {
    let documents = crate::manifest::parse("kube-dns.yaml", DNS)?;
    let mut objects = Vec::new();
    for mut object in documents.into_iter().map(|d| d.value) {
        match object["kind"].as_str() {
            Some("Service") => {
                let ips = cluster_ips(&state.spec, joined);
                object["spec"]["clusterIP"] = json!(ips.first());
                object["spec"]["clusterIPs"] = json!(ips);
                object["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
            }
            Some("Deployment") => {
                let pod = &mut object["spec"]["template"]["spec"];
                pod["containers"][0]["env"] = json!(api_server(state)?);
                // Without TLS there is no authority, and so no such object.
                let plain = state.api_url_inside.starts_with("http:");
                pod["volumes"][0]["projected"]["sources"][1]["configMap"]["optional"] =
                    json!(plain);
            }
            _ => {}
        }
        if let Some(joined) = joined {
            object["metadata"]["labels"][LABEL] = json!(joined.owner);
            if object["kind"] == "Deployment" {
                object["spec"]["template"]["metadata"]["labels"][LABEL] = json!(joined.owner);
            }
        }
        objects.push(object);
    }
    Ok(objects)
}

/// Creates what is missing of cluster DNS. False in a cluster that has one which is not the lab's.
pub(super) async fn install_dns(
    client: &Client,
    state: &LabState,
    joined: Option<&Joined>,
) -> anyhow::Result<bool> {
    if let Some(joined) = joined {
        let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
        let theirs = format!("k8s-app=kube-dns,{LABEL}!={}", joined.owner);
        let theirs = services.list(&ListParams::default().labels(&theirs)).await;
        if !theirs.context("cluster DNS")?.items.is_empty() {
            return Ok(false);
        }
    }
    for value in objects(state, joined)? {
        let object: DynamicObject = serde_json::from_value(value).context("a malformed object")?;
        let api = api(client, &object)?;
        match api.create(&PostParams::default(), &object).await {
            // From before a restart of the lab.
            Err(kube::Error::Api(e)) if e.code == 409 => {}
            made => drop(made.with_context(|| format!("cluster DNS: {}", api.resource_url()))?),
        }
    }
    Ok(true)
}

/// Waits until the name server answers.
pub(super) async fn wait_dns(client: &Client, limit: Duration) -> anyhow::Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let available = |d: Option<&Deployment>| {
        let status = d.and_then(|d| d.status.as_ref());
        status.and_then(|s| s.available_replicas).unwrap_or(0) > 0
    };
    let waited = await_condition(deployments, "kube-dns", available);
    tokio::time::timeout(limit, waited)
        .await
        .with_context(|| format!("cluster DNS is not ready after {limit:?}: kubectl -n {NAMESPACE} describe pods -l k8s-app=kube-dns"))?
        .context("cluster DNS")?;
    Ok(())
}
