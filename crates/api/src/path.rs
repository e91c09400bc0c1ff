//! Paths of the API, and the ways to name an endpoint in them.

use std::{fmt, net::IpAddr, str::FromStr};

use crate::{ApiError, FqdnQuery};

/// The agent's state.
pub const HEALTHZ: &str = "/v1/healthz";
/// All settings.
pub const CONFIG: &str = "/v1/config";
/// Address allocation.
pub const IPAM: &str = "/v1/ipam";
/// All endpoints.
pub const ENDPOINT: &str = "/v1/endpoint";
/// All kernel maps.
pub const MAP: &str = "/v1/map";
/// Known addresses.
pub const IP: &str = "/v1/ip";
/// Nodes of the cluster.
pub const NODES: &str = "/v1/cluster/nodes";
/// Tables of the agent's state.
pub const STATEDB: &str = "/v1/statedb";
/// Live events.
pub const MONITOR: &str = "/v1/monitor";
/// Packets as they pass.
pub const CAPTURE: &str = "/v1/capture";
/// The consistency check.
pub const CHECK: &str = "/v1/check";
/// All policies.
pub const POLICY: &str = "/v1/policy";
/// The selectors that policies use.
pub const POLICY_SELECTORS: &str = "/v1/policy/selectors";
/// The revision of the policies, and the wait for one.
pub const POLICY_REVISION: &str = "/v1/policy/revision";
/// Why a packet passes or not.
pub const POLICY_WHY: &str = "/v1/policy/why";
/// Whether policies are right, and whom they select.
pub const POLICY_CHECK: &str = "/v1/policy/check";
/// What policies would change.
pub const POLICY_DIFF: &str = "/v1/policy/diff";
/// Names that pods were told of.
pub const FQDN_CACHE: &str = "/v1/fqdn/cache";
/// Names that rules speak of.
pub const FQDN_NAMES: &str = "/v1/fqdn/names";
/// All services, as the node serves them.
pub const SERVICE: &str = "/v1/service";
/// Why a frontend has its backends.
pub const SERVICE_WHY: &str = "/v1/service/why";
/// All identities.
pub const IDENTITY: &str = "/v1/identity";

/// Names that pods were told of, those that are asked for.
pub fn fqdn_cache(query: &FqdnQuery) -> String {
    match query.matchpattern.as_str() {
        "" => FQDN_CACHE.to_owned(),
        pattern => format!("{FQDN_CACHE}?matchpattern={}", escape(pattern)),
    }
}

/// One allocated address.
pub fn ipam(ip: IpAddr) -> String {
    format!("{IPAM}/{ip}")
}

/// One endpoint.
pub fn endpoint(id: &EndpointId) -> String {
    format!("{ENDPOINT}/{}", escape(&id.to_string()))
}

/// The options of one endpoint.
pub fn endpoint_config(id: &EndpointId) -> String {
    format!("{}/config", endpoint(id))
}

/// All endpoints of a container.
pub fn endpoints_of(container: &str) -> String {
    format!("{ENDPOINT}?container-id={}", escape(container))
}

/// One kernel map.
pub fn map(name: &str) -> String {
    format!("{MAP}/{}", escape(name))
}

/// The rows of the policy map of one subject.
pub fn policy_map(subject: u32) -> String {
    format!("{MAP}/cilium_policy?subject={subject}")
}

/// The wait until the policies of a revision are enforced, for so many seconds.
pub fn policy_wait(revision: u64, seconds: u64) -> String {
    format!("{POLICY_REVISION}?wait={revision}&timeout={seconds}")
}

/// One frontend, by its number.
pub fn service(id: u16) -> String {
    format!("{SERVICE}/{id}")
}

/// Why a frontend, or every frontend of a service `namespace/name`, has its backends.
pub fn service_why(frontend: &str) -> String {
    format!("{SERVICE_WHY}?frontend={}", escape(frontend))
}

/// One identity.
pub fn identity(id: u32) -> String {
    format!("{IDENTITY}/{id}")
}

/// One table.
pub fn table(name: &str) -> String {
    format!("{STATEDB}/{}", escape(name))
}

/// The ways to name an endpoint: `612`, `cni-attachment-id:<container>:<interface>`, `container-id:…`, `pod-name:ns/name`,
/// `ipv4:…`, `ipv6:…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointId {
    /// Its number.
    Number(u16),
    /// Container and interface.
    Attachment {
        /// Container (sandbox) id.
        container: String,
        /// Interface name inside the container.
        interface: String,
    },
    /// Container, when it has one interface.
    Container(String),
    /// Namespace and name of the pod.
    Pod(String, String),
    /// One of its addresses.
    Ip(IpAddr),
}

impl EndpointId {
    /// The attachment of a container's interface.
    pub fn attachment(container: impl Into<String>, interface: impl Into<String>) -> Self {
        Self::Attachment {
            container: container.into(),
            interface: interface.into(),
        }
    }
}

impl From<u16> for EndpointId {
    fn from(id: u16) -> Self {
        Self::Number(id)
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Attachment {
                container,
                interface,
            } => write!(f, "cni-attachment-id:{container}:{interface}"),
            Self::Container(id) => write!(f, "container-id:{id}"),
            Self::Pod(namespace, name) => write!(f, "pod-name:{namespace}/{name}"),
            Self::Ip(IpAddr::V4(ip)) => write!(f, "ipv4:{ip}"),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "ipv6:{ip}"),
        }
    }
}

impl FromStr for EndpointId {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<Self, ApiError> {
        parse_id(text).ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            ApiError::bad_request(format!("`{}` does not name an endpoint", shown.escape_default())).detail(
                "a number, or one of cni-attachment-id:<container>:<interface>, container-id:<id>, pod-name:<namespace>/<name>, \
                 ipv4:<address>, ipv6:<address>",
            )
        })
    }
}

fn parse_id(text: &str) -> Option<EndpointId> {
    if text.len() > 512 || text.chars().any(char::is_control) {
        return None;
    }
    let Some((kind, rest)) = text.split_once(':') else {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        return text.parse().ok().filter(|_| digits).map(EndpointId::Number);
    };
    let whole = |a: &str, b: &str| !a.is_empty() && !b.is_empty();
    match kind {
        "cni-attachment-id" => {
            let (container, interface) = rest.split_once(':').filter(|(a, b)| whole(a, b))?;
            Some(EndpointId::attachment(container, interface))
        }
        "container-id" => (!rest.is_empty()).then(|| EndpointId::Container(rest.to_owned())),
        "pod-name" => {
            let (namespace, name) = rest.split_once('/').filter(|(a, b)| whole(a, b))?;
            Some(EndpointId::Pod(namespace.to_owned(), name.to_owned()))
        }
        "ipv4" => rest.parse().ok().map(|ip| EndpointId::Ip(IpAddr::V4(ip))),
        "ipv6" => rest.parse().ok().map(|ip| EndpointId::Ip(IpAddr::V6(ip))),
        _ => None,
    }
}

/// Percent-encodes what may not stand in a path segment or a query value.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~:,@".contains(&byte);
        if plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_is_read_as_it_is_written() {
        for text in [
            "612",
            "cni-attachment-id:c1:eth0",
            "container-id:c1",
            "pod-name:shop/cart-0",
            "ipv4:10.7.1.12",
            "ipv6:fd00::1",
        ] {
            assert_eq!(text.parse::<EndpointId>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "-1",
            "+1",
            "65536",
            "cni-attachment-id:c1",
            "cni-attachment-id::eth0",
            "pod-name:x",
            "ipv4:fd00::1",
            "what:x",
        ] {
            assert!(bad.parse::<EndpointId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn odd_characters_do_not_change_the_path() {
        assert_eq!(
            endpoint(&EndpointId::Pod("a".into(), "b?c".into())),
            "/v1/endpoint/pod-name:a%2Fb%3Fc"
        );
        assert_eq!(endpoints_of("a&b=c"), "/v1/endpoint?container-id=a%26b%3Dc");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,64}") {
            if let Ok(id) = text.parse::<EndpointId>() {
                prop_assert_eq!(id.to_string().parse::<EndpointId>().unwrap(), id);
            }
        }
    }
}
