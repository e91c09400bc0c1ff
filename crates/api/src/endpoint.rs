//! Endpoints: pods of this node.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use crate::{
    ApiError, DeviceMode, Validate,
    input::{interface, mac, non_zero, require, some_text, text},
};

/// The pod behind an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Unique id of this incarnation; empty when the runtime does not tell.
    #[serde(default)]
    pub uid: String,
}

/// Where an endpoint is in its life.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointState {
    /// Being set up.
    #[default]
    Creating,
    /// Taken over from before a restart, not compared with the kernel yet.
    Restoring,
    /// Works, but the pod's labels are not known yet.
    WaitingForIdentity,
    /// In the kernel as desired.
    Ready,
    /// Being taken down.
    Disconnecting,
    /// Gone.
    Disconnected,
    /// Cannot work; see the message.
    Invalid,
    /// A state of a newer agent.
    #[serde(other)]
    Unknown,
}

impl EndpointState {
    /// The word that users and metrics see.
    pub fn text(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Restoring => "restoring",
            Self::WaitingForIdentity => "waiting-for-identity",
            Self::Ready => "ready",
            Self::Disconnecting => "disconnecting",
            Self::Disconnected => "disconnected",
            Self::Invalid => "invalid",
            Self::Unknown => "unknown",
        }
    }
}

/// Makes an endpoint of a pod's interface (`PUT /v1/endpoint/{attachment}`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointRequest {
    /// Container (sandbox) id.
    pub container_id: String,
    /// The pod.
    pub pod: PodRef,
    /// IPv4 address, as allocated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 address, as allocated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// Path of the pod's network namespace.
    pub netns: String,
    /// Host-side device.
    pub host_ifname: String,
    /// Its index.
    pub host_ifindex: u32,
    /// Its link-layer address; empty where it has none.
    #[serde(default)]
    pub host_mac: String,
    /// Device inside the pod.
    pub container_ifname: String,
    /// Its index, in the pod's namespace.
    #[serde(default)]
    pub container_ifindex: u32,
    /// Its link-layer address; empty where it has none.
    #[serde(default)]
    pub container_mac: String,
    /// What kind of device pair it is.
    #[serde(default)]
    pub device_mode: DeviceMode,
}

impl Validate for EndpointRequest {
    fn validate(&self) -> Result<(), ApiError> {
        some_text("containerId", &self.container_id, 128)?;
        some_text("pod.namespace", &self.pod.namespace, 63)?;
        some_text("pod.name", &self.pod.name, 253)?;
        text("pod.uid", &self.pod.uid, 128)?;
        require(
            self.ipv4.is_some() || self.ipv6.is_some(),
            "ipv4",
            "an endpoint needs an address of at least one family",
        )?;
        some_text("netns", &self.netns, 4096)?;
        interface("hostIfname", &self.host_ifname)?;
        non_zero("hostIfindex", self.host_ifindex)?;
        mac("hostMac", &self.host_mac)?;
        interface("containerIfname", &self.container_ifname)?;
        mac("containerMac", &self.container_mac)
    }
}

/// An endpoint as the agent has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Number, unique on the node.
    pub id: u16,
    /// Where it is in its life.
    pub state: EndpointState,
    /// Why it is there, where that needs words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The runtime's name for it: `cni-attachment-id:<container>:<interface>`; empty for the node's own endpoint.
    #[serde(default)]
    pub attachment: String,
    /// The pod; empty names for the node's own endpoint.
    #[serde(default)]
    pub pod: PodRef,
    /// Security identity.
    pub identity: u32,
    /// Security-relevant labels, `source:key=value`, sorted.
    #[serde(default)]
    pub labels: Vec<String>,
    /// IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// Path of the network namespace.
    #[serde(default)]
    pub netns: String,
    /// Host-side device.
    #[serde(default)]
    pub host_ifname: String,
    /// Its index.
    #[serde(default)]
    pub host_ifindex: u32,
    /// Its link-layer address; empty where it has none.
    #[serde(default)]
    pub host_mac: String,
    /// Device inside the pod.
    #[serde(default)]
    pub container_ifname: String,
    /// Its link-layer address; empty where it has none.
    #[serde(default)]
    pub container_mac: String,
    /// Whether a policy is enforced on what comes in.
    #[serde(default)]
    pub policy_ingress: bool,
    /// Whether a policy is enforced on what goes out.
    #[serde(default)]
    pub policy_egress: bool,
    /// What policy denies is forwarded and reported.
    #[serde(default)]
    pub policy_audit: bool,
    /// Number under which its rows stand in the policy map; 0 before it has any.
    #[serde(default)]
    pub subject: u32,
    /// Revision of the policies that the kernel enforces for it.
    #[serde(default)]
    pub policy_revision: u64,
}

/// Options of an endpoint (`GET /v1/endpoint/{id}/config`), or those that are to be changed (`PATCH`, which answers with all).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointConfig {
    /// Values by name, as `PolicyAuditMode` and `Enabled`.
    pub options: BTreeMap<String, String>,
}

impl Validate for EndpointConfig {
    fn validate(&self) -> Result<(), ApiError> {
        for (name, value) in &self.options {
            some_text("options", name, 64)?;
            text("options", value, 64)?;
        }
        require(!self.options.is_empty(), "options", "names no option")
    }
}

/// Answer to the removal of an endpoint (`DELETE /v1/endpoint/{id}`); an empty body means all defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointDeleted {
    /// The agent removes the host-side device itself. The kernel needs 10 to 40 ms for that, most of it waiting; an agent
    /// that does it in the background spares the container runtime the wait. Otherwise the plugin removes the device.
    #[serde(default)]
    pub device_removed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> EndpointRequest {
        EndpointRequest {
            container_id: "c1".into(),
            pod: PodRef {
                namespace: "shop".into(),
                name: "cart-0".into(),
                uid: String::new(),
            },
            ipv4: Some(Ipv4Addr::new(10, 244, 1, 7)),
            ipv6: None,
            netns: "/run/netns/c1".into(),
            host_ifname: "lxc0123456789ab".into(),
            host_ifindex: 12,
            host_mac: "02:00:00:00:00:01".into(),
            container_ifname: "eth0".into(),
            container_ifindex: 2,
            container_mac: "02:00:00:00:00:02".into(),
            device_mode: DeviceMode::Veth,
        }
    }

    #[test]
    fn options_to_change_are_named_and_short() {
        let of = |name: &str| EndpointConfig {
            options: [(name.to_owned(), "Enabled".to_owned())].into(),
        };
        assert_eq!(of("PolicyAuditMode").validate(), Ok(()));
        for bad in ["", "a\nb", &"x".repeat(65)] {
            assert!(of(bad).validate().is_err(), "{bad:?}");
        }
        let error = EndpointConfig::default().validate().unwrap_err();
        assert_eq!(error.message, "options: names no option");
    }

    #[test]
    fn a_sound_request_passes_and_each_mistake_names_its_field() {
        assert_eq!(request().validate(), Ok(()));
        type Spoil = fn(&mut EndpointRequest);
        let cases: [(&str, Spoil); 9] = [
            ("containerId", |r| r.container_id.clear()),
            ("pod.namespace", |r| r.pod.namespace = "x".repeat(64)),
            ("pod.name", |r| r.pod.name = "a\nb".into()),
            ("ipv4", |r| r.ipv4 = None),
            ("netns", |r| r.netns.clear()),
            ("hostIfname", |r| r.host_ifname = "a/b".into()),
            ("hostIfindex", |r| r.host_ifindex = 0),
            ("hostMac", |r| r.host_mac = "02:00".into()),
            ("containerIfname", |r| {
                r.container_ifname = "much-too-long-name".into()
            }),
        ];
        for (field, spoil) in cases {
            let mut bad = request();
            spoil(&mut bad);
            let error = bad.validate().unwrap_err();
            assert_eq!(
                error.detail.as_deref(),
                Some(format!("field {field}").as_str()),
                "{error}"
            );
        }
    }
}
