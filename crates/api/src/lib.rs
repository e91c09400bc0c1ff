//! The agent's API: its types, its paths, its errors, and a small synchronous client.
//!
//! HTTP/1.1 with JSON over a unix socket, version 1 under `/v1`. Readers tolerate fields they do not know; what comes from
//! outside is bounded and checked by [`parse`].
//!
//! Two more contracts between the CNI plugin and the agent live here: the [`delete_queue`] of deletions that happened while
//! the agent was down, and the CNI configuration that the agent writes ([`conflist`]).
#![forbid(unsafe_code)]

mod capture;
mod check;
mod client;
pub mod conflist;
pub mod delete_queue;
mod endpoint;
mod error;
mod fqdn;
mod http;
#[cfg(feature = "hubble")]
pub mod hubble;
mod input;
mod ipam;
mod monitor;
pub mod path;
mod policy;
mod service;
mod status;
mod tables;

pub use capture::CaptureRequest;
pub use check::{CheckReport, Finding, Severity};
pub use client::{Client, ClientError, Lines, Pieces};
pub use endpoint::{
    Endpoint, EndpointConfig, EndpointDeleted, EndpointRequest, EndpointState, PodRef,
};
pub use error::{ApiError, ErrorCode};
pub use fqdn::{FqdnCleaned, FqdnLookup, FqdnNames, FqdnQuery, FqdnSelector};
pub use input::{MAX_BODY, Validate, parse, parse_up_to};
pub use ipam::{AddressAllocation, DeviceMode, Family, IpamRequest, IpamResponse};
pub use monitor::{MonitorEvent, MonitorKind, MonitorQuery, MonitorRequest};
pub use policy::{
    CheckedPolicy, IdentityInfo, MAX_PROPOSAL, PolicyCheck, PolicyDiff, PolicyEffect, PolicyInfo,
    PolicyList, PolicyMapRow, PolicyProblem, PolicyProposal, PolicyRevision, PolicyStatus,
    RulePlace, SelectorInfo, VerdictChange, Why, WhyEnd, WhyQuery, WhySide,
};
pub use service::{
    ServiceBackend, ServiceCandidate, ServiceInfo, ServiceList, ServiceProblem, ServiceWhy,
    ServicesStatus,
};
pub use status::{
    AgentStatus, Component, ComponentState, HubbleStatus, IpamStatus, Masquerading, ProxyRedirect,
    ProxyRequests, ProxyStatus, Routing, Setting,
};
pub use tables::{IpEntry, MapInfo, MapRow, NodeInfo, TableDump, TableInfo};

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/cilium/cilium.sock";
