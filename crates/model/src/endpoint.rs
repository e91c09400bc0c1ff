//! Endpoints: the pods of this node.
use crate::{Labels, Mac, NamedPort};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Where an endpoint is in its life.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointState {
    /// Being set up; nothing is promised yet.
    #[default]
    Creating,
    /// Works, under the identity `init`: the pod's labels are not known yet.
    WaitingForIdentity,
    /// Taken over from before a restart, not checked against the kernel yet.
    Restoring,
    /// In the kernel as desired.
    Ready,
    /// Being taken down.
    Disconnecting,
}

impl EndpointState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Creating,
        Self::WaitingForIdentity,
        Self::Restoring,
        Self::Ready,
        Self::Disconnecting,
    ];

    /// The word that users and metrics see.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::WaitingForIdentity => "waiting-for-identity",
            Self::Restoring => "restoring",
            Self::Ready => "ready",
            Self::Disconnecting => "disconnecting",
        }
    }
}

impl fmt::Display for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// The pod behind an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Unique number of the incarnation; empty if the runtime did not tell.
    pub uid: String,
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What joins a pod to the node.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// A pair of virtual Ethernet devices.
    #[default]
    Veth,
    /// A netkit pair without link-layer addresses.
    Netkit,
    /// A netkit pair with link-layer addresses.
    NetkitL2,
}

impl DeviceKind {
    /// Programs are attached by the netkit hooks.
    #[must_use]
    pub const fn is_netkit(self) -> bool {
        !matches!(self, Self::Veth)
    }
}

/// One interface of one container: the name under which the container runtime asks for an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    /// Container (sandbox) id.
    pub container: String,
    /// Interface name inside the container.
    pub interface: String,
}

impl Attachment {
    const PREFIX: &str = "cni-attachment-id:";
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}:{}", Self::PREFIX, self.container, self.interface)
    }
}

impl FromStr for Attachment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_prefix(Self::PREFIX)
            .and_then(|rest| rest.split_once(':'))
            .filter(|(container, interface)| !container.is_empty() && !interface.is_empty())
            .map(|(container, interface)| Self {
                container: container.to_owned(),
                interface: interface.to_owned(),
            })
            .ok_or_else(|| {
                format!(
                    "{text:?} is not of the form {}<container id>:<interface>",
                    Self::PREFIX
                )
            })
    }
}

impl Serialize for Attachment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Attachment {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A pod's attachment to the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Number, unique on the node; 0 and 1 are never used for a pod.
    pub id: u16,
    /// Where it is in its life.
    pub state: EndpointState,
    /// The container runtime's name for it.
    pub attachment: Attachment,
    /// The pod.
    pub pod: PodRef,
    /// Security-relevant labels; empty until the pod object was seen.
    pub labels: Labels,
    /// Security identity; `init` until the labels are known.
    pub identity: u32,
    /// IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Host-side device.
    pub ifname: String,
    /// Its number.
    pub ifindex: u32,
    /// Its MAC address.
    pub host_mac: Mac,
    /// MAC address inside the pod.
    pub container_mac: Mac,
    /// Path of the pod's network namespace as the runtime gave it.
    pub netns: String,
    /// Kind of the device pair.
    #[serde(default)]
    pub device: DeviceKind,
    /// The pod's ports that have names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NamedPort>,
    /// Number under which policy has rows for it; 0: policy is not asked.
    #[serde(default)]
    pub subject: u32,
    /// Bits of `abi::endpoint_flags` of its record, beside those that follow from its device.
    #[serde(default)]
    pub flags: u16,
    /// Its own setting of whether what policy denies is forwarded and told; none: as for the whole node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_audit: Option<bool>,
    /// Whether policy decides on what it receives, and on what it sends.
    #[serde(default)]
    pub enforcing: [bool; 2],
}

/// A deleted endpoint of which something is still in the kernel: its device, its connections. Its addresses are nobody's,
/// but not to be given yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// Number it had.
    pub id: u16,
    /// Host-side device.
    pub ifname: String,
    /// Its number.
    pub ifindex: u32,
    /// Addresses it had.
    pub addresses: Vec<IpAddr>,
}

impl Endpoint {
    /// What is left of it once it is deleted.
    #[must_use]
    pub fn departure(&self) -> Departure {
        let addresses = self.addresses().collect();
        Departure {
            id: self.id,
            ifname: self.ifname.clone(),
            ifindex: self.ifindex,
            addresses,
        }
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ipv4
            .map(IpAddr::V4)
            .into_iter()
            .chain(self.ipv6.map(IpAddr::V6))
    }

    /// Value of its rows in `cilium_lxc`.
    #[must_use]
    pub fn abi_info(&self) -> abi::EndpointInfo {
        abi::EndpointInfo {
            ifindex: self.ifindex,
            sec_id: self.identity,
            id: self.id,
            flags: if self.device.is_netkit() {
                self.flags | abi::endpoint_flags::NETKIT
            } else {
                self.flags
            },
            mac: self.container_mac.0,
            node_mac: self.host_mac.0,
            subject: self.subject,
        }
    }

    /// Value of its row in `cilium_lxc_if`.
    #[must_use]
    pub fn abi_local(&self) -> abi::LocalEndpoint {
        abi::LocalEndpoint {
            info: self.abi_info(),
            ipv4: self.ipv4.map_or([0; 4], |ip| ip.octets()),
            ipv6: self.ipv6.map_or([0; 16], |ip| ip.octets()),
        }
    }

    /// Keys of its rows in `cilium_lxc`.
    pub fn abi_keys(&self) -> impl Iterator<Item = abi::EndpointKey> {
        self.addresses().map(|ip| match ip {
            IpAddr::V4(v4) => abi::EndpointKey::v4(v4.octets()),
            IpAddr::V6(v6) => abi::EndpointKey::v6(v6.octets()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_parse_and_print() {
        let text = "cni-attachment-id:0123abcd:eth0";
        let parsed: Attachment = text.parse().unwrap();
        assert_eq!(
            (parsed.container.as_str(), parsed.interface.as_str()),
            ("0123abcd", "eth0")
        );
        assert_eq!(parsed.to_string(), text);
    }

    #[test]
    fn malformed_attachments_are_refused_with_the_text() {
        for bad in [
            "",
            "x",
            "cni-attachment-id:",
            "cni-attachment-id::eth0",
            "cni-attachment-id:abc:",
        ] {
            let error = bad.parse::<Attachment>().unwrap_err();
            assert!(
                error.contains("cni-attachment-id:<container id>:<interface>"),
                "{error}"
            );
        }
    }
}
