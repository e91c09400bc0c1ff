//! Addresses for services of the type `LoadBalancer`, out of pools. What a service has, it keeps as long as it may.
mod manager;
mod pool;
mod share;

pub use manager::{Change, Manager, PoolStatus, Totals, Write};
pub use model::service::Families;
pub use pool::{Block, Pool};

use crate::annotations::AddressNotes;
use crate::input::{Protocol, Service, ServiceType, TrafficPolicy};
use model::{LabelMap, Text};
use std::net::IpAddr;

/// Class of services whose addresses BGP makes known.
pub const BGP_CLASS: &str = "io.cilium/bgp-control-plane";
/// Class of services whose addresses nodes answer for.
pub const L2_CLASS: &str = "io.cilium/l2-announcer";
/// Class of services that have addresses of nodes.
pub const NODE_CLASS: &str = "io.cilium/node";
/// Condition of services.
pub const SATISFIED: &str = "cilium.io/IPAMRequestSatisfied";

/// Who gives addresses to services without a class (`default-lb-service-ipam`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DefaultIpam {
    /// Pools.
    #[default]
    Pools,
    /// Nodes.
    Nodes,
    /// Somebody else.
    Nobody,
}

impl DefaultIpam {
    /// The value of this name: `lbipam`, `nodeipam` or `none`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "lbipam" => Self::Pools,
            "nodeipam" => Self::Nodes,
            "none" => Self::Nobody,
            _ => return None,
        })
    }
}

/// A service, as far as its addresses are concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `namespace/name`.
    pub key: Text,
    /// When it was created, in seconds.
    pub created: i64,
    /// Labels.
    pub labels: LabelMap,
    /// Annotations.
    pub annotations: LabelMap,
    /// Its type is `LoadBalancer`.
    pub load_balancer: bool,
    /// `loadBalancerClass`; empty is none.
    pub class: Text,
    /// `spec.loadBalancerIP`; empty is none.
    pub address: Text,
    /// `ipFamilyPolicy`.
    pub families: Families,
    /// `ipFamilies`: whether each is IPv6.
    pub ipv6: Vec<bool>,
    /// Ports.
    pub ports: Vec<(Protocol, u16)>,
    /// `externalTrafficPolicy` is `Local`.
    pub local: bool,
    /// Its pods.
    pub selector: LabelMap,
    /// Addresses in its status.
    pub ingress: Vec<IpAddr>,
}

impl From<&Service> for Request {
    fn from(service: &Service) -> Self {
        Self {
            key: service.key.clone(),
            created: service.created,
            labels: service.labels.clone(),
            annotations: service.annotations.clone(),
            load_balancer: service.kind == ServiceType::LoadBalancer,
            class: service.class.clone(),
            address: service.wanted_address.clone(),
            families: service.families,
            ipv6: service.ipv6.clone(),
            ports: service
                .ports
                .iter()
                .map(|port| (port.protocol, port.port))
                .collect(),
            local: service.external_policy == TrafficPolicy::Local,
            selector: service.selector.clone(),
            ingress: service
                .ingress
                .iter()
                .map(|ingress| ingress.address)
                .collect(),
        }
    }
}

/// What the cluster has.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// IPv4 is on.
    pub ipv4: bool,
    /// IPv6 is on.
    pub ipv6: bool,
    /// Who gives addresses to services without a class.
    pub default: DefaultIpam,
}

impl Setup {
    /// Whether pools give a service its addresses.
    #[must_use]
    pub fn manages(&self, request: &Request) -> bool {
        request.load_balancer
            && match &*request.class {
                "" => self.default == DefaultIpam::Pools,
                class => class == BGP_CLASS || class == L2_CLASS,
            }
    }

    /// The families a service should have an address of; `Err` if the cluster lacks one that it must have.
    fn wanted(&self, request: &Request) -> Result<Vec<bool>, bool> {
        let on = |ipv6: &bool| if *ipv6 { self.ipv6 } else { self.ipv4 };
        match request.families {
            Families::Single => {
                let default = !self.ipv4;
                let ipv6 = request.ipv6.first().copied().unwrap_or(default);
                if on(&ipv6) { Ok(vec![ipv6]) } else { Err(ipv6) }
            }
            Families::PreferDual => Ok([false, true].into_iter().filter(on).collect()),
            Families::RequireDual => match [false, true].into_iter().find(|ipv6| !on(ipv6)) {
                Some(ipv6) => Err(ipv6),
                None => Ok(vec![false, true]),
            },
        }
    }
}

/// Why a service has not what it asks for; the words are those of its condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsatisfied {
    /// One word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Unsatisfied {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// A service and what was read of its annotations.
#[derive(Clone, Debug)]
struct Known {
    request: Request,
    notes: Result<AddressNotes, crate::Problem>,
}
