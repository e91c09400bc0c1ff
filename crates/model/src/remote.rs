//! What other nodes' agents say of their pods, and which addresses rules name.
use crate::{Labels, Text};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A port of a pod that has a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamedPort {
    /// Its name.
    pub name: Text,
    /// Its protocol, by the number in the IP header.
    pub protocol: u8,
    /// Its number.
    pub port: u16,
}

impl NamedPort {
    /// Number of a protocol by its name in pods, `TCP` where none is given.
    #[must_use]
    pub fn protocol_number(name: &str) -> Option<u8> {
        Some(match name {
            "TCP" | "" => 6,
            "UDP" => 17,
            "SCTP" => 132,
            _ => return None,
        })
    }

    /// Name of its protocol.
    #[must_use]
    pub const fn protocol_name(&self) -> &'static str {
        match self.protocol {
            17 => "UDP",
            132 => "SCTP",
            _ => "TCP",
        }
    }
}

/// A pod as the agent of its node published it (`CiliumEndpoint`, or its entry in a `CiliumEndpointSlice`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RemoteEndpoint {
    /// `namespace/name` of the pod.
    pub key: Text,
    /// Its addresses.
    pub addresses: Box<[IpAddr]>,
    /// Its identity; 0 where its agent does not say.
    pub identity: u32,
    /// Address of its node.
    pub node: Option<IpAddr>,
    /// Its named ports.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub ports: Box<[NamedPort]>,
}

/// Endpoints that were published together (`CiliumEndpointSlice`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EndpointSlice {
    /// Name.
    pub name: String,
    /// Its endpoints.
    pub endpoints: Box<[RemoteEndpoint]>,
}

/// A range of addresses that needs an identity of its own, since rules or groups name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedPrefix {
    /// The range.
    pub prefix: IpNet,
    /// Labels that it has beside those that follow from its addresses, such as those of its groups.
    pub labels: Labels,
}

/// A range of addresses and the identity that all that is known of it comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixIdentity {
    /// The range.
    pub prefix: IpNet,
    /// Its identity.
    pub identity: u32,
}
