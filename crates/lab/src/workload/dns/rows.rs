//! What the zone keeps of services and endpoints.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) protocol: String,
    pub(super) number: u16,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    pub(super) ips: Vec<IpAddr>,
    pub(super) headless: bool,
    pub(super) external: Option<String>,
    pub(super) unready: bool,
    pub(super) ports: Vec<Port>,
}

#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) ip: IpAddr,
    pub(super) hostname: Option<String>,
    pub(super) ready: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Slice {
    pub(super) service: String,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) ports: Vec<Port>,
}

fn protocol(text: Option<&str>) -> String {
    text.unwrap_or("TCP").to_ascii_lowercase()
}

/// A service.
pub(super) fn entry(service: &Service) -> Entry {
    let Some(spec) = &service.spec else {
        return Entry::default();
    };
    let own = spec.cluster_ips.clone().filter(|ips| !ips.is_empty());
    let ips = own.unwrap_or_else(|| spec.cluster_ip.clone().into_iter().collect());
    let ports = spec.ports.iter().flatten().map(|p| Port {
        name: p.name.clone().unwrap_or_default().to_ascii_lowercase(),
        protocol: protocol(p.protocol.as_deref()),
        number: p.port.try_into().unwrap_or(0),
    });
    Entry {
        headless: ips.iter().any(|ip| ip == "None"),
        ips: ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        external: spec
            .external_name
            .clone()
            .filter(|_| spec.type_.as_deref() == Some("ExternalName")),
        unready: spec.publish_not_ready_addresses.unwrap_or(false),
        ports: ports.collect(),
    }
}

/// An endpoint slice.
pub(super) fn slice(slice: &EndpointSlice) -> Slice {
    let service = slice
        .metadata
        .labels
        .as_ref()
        .and_then(|l| l.get("kubernetes.io/service-name"))
        .cloned();
    let endpoints = slice.endpoints.iter().flatten().flat_map(|e| {
        let ready = e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
        let hostname = e.hostname.clone().filter(|h| !h.is_empty());
        e.addresses.iter().filter_map(move |a| {
            Some(Endpoint {
                ip: a.parse().ok()?,
                hostname: hostname.clone(),
                ready,
            })
        })
    });
    let ports = slice.ports.iter().flatten().map(|p| Port {
        name: p.name.clone().unwrap_or_default().to_ascii_lowercase(),
        protocol: protocol(p.protocol.as_deref()),
        number: p.port.and_then(|n| n.try_into().ok()).unwrap_or(0),
    });
    Slice {
        service: service.unwrap_or_default(),
        endpoints: endpoints.collect(),
        ports: ports.collect(),
    }
}
