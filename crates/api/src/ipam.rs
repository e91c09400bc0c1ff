//! Address allocation.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::{
    ApiError, Validate,
    input::{require, some_text, text},
};

/// Address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// Asks for one address of each family (`POST /v1/ipam`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamRequest {
    /// Who it is for: `namespace/pod`.
    pub owner: String,
    /// Wanted families; empty means all that the node has enabled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub families: Vec<Family>,
    /// Give the addresses back when no endpoint uses them after this many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_seconds: Option<u32>,
    /// The CNI attachment that asks, `cni-attachment-id:<container>:<interface>`; the agent refuses one that has an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<String>,
}

impl Validate for IpamRequest {
    fn validate(&self) -> Result<(), ApiError> {
        some_text("owner", &self.owner, 512)?;
        require(
            self.families.len() <= 2,
            "families",
            "names each family once",
        )?;
        text(
            "attachment",
            self.attachment.as_deref().unwrap_or_default(),
            256,
        )?;
        require(
            self.expire_seconds
                .is_none_or(|s| (1..=86_400).contains(&s)),
            "expireSeconds",
            "must be 1 to 86400",
        )
    }
}

/// An address that is now taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressAllocation<A> {
    /// The address.
    pub ip: A,
    /// The pool it came from.
    #[serde(default)]
    pub pool: String,
}

/// What the pod's interface is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceMode {
    /// A veth pair.
    #[default]
    Veth,
    /// A netkit pair without Ethernet headers.
    Netkit,
    /// A netkit pair with Ethernet headers.
    NetkitL2,
}

impl DeviceMode {
    /// The word that users see.
    pub fn text(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Netkit => "netkit",
            Self::NetkitL2 => "netkit-l2",
        }
    }
}

/// Addresses and what is needed to set the pod's interface up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamResponse {
    /// IPv4 address, where the family is enabled and was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<AddressAllocation<Ipv4Addr>>,
    /// IPv6 address, where the family is enabled and was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<AddressAllocation<Ipv6Addr>>,
    /// The pod's IPv4 gateway: the node's router address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway4: Option<Ipv4Addr>,
    /// The pod's IPv6 gateway: the node's router address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<Ipv6Addr>,
    /// MTU of the pod's device.
    pub device_mtu: u32,
    /// MTU of the pod's routes (smaller than the device's where packets are encapsulated).
    pub route_mtu: u32,
    /// What the pod's interface is.
    #[serde(default)]
    pub device_mode: DeviceMode,
}

impl Validate for IpamResponse {
    fn validate(&self) -> Result<(), ApiError> {
        require(
            self.ipv4.is_some() || self.ipv6.is_some(),
            "ipv4",
            "neither family has an address",
        )?;
        require(
            self.ipv4.is_none() || self.gateway4.is_some(),
            "gateway4",
            "is missing",
        )?;
        require(
            self.ipv6.is_none() || self.gateway6.is_some(),
            "gateway6",
            "is missing",
        )?;
        require(
            (68..=65_535).contains(&self.device_mtu),
            "deviceMtu",
            "must be 68 to 65535",
        )?;
        require(
            (68..=65_535).contains(&self.route_mtu),
            "routeMtu",
            "must be 68 to 65535",
        )?;
        require(
            self.ipv6.is_none() || self.device_mtu >= 1280,
            "deviceMtu",
            "IPv6 needs at least 1280",
        )
    }
}
