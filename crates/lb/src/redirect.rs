//! Local redirect policies: what is sent to a service or an address goes to a pod of the same node.
use crate::frontend::{BackendKey, FrontendKey, Scope};
use crate::input::{Pod, Protocol, Service, names};
use crate::selector::Selector;
use model::Text;
use std::net::IpAddr;

/// A port of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectPort {
    /// Joins ports of both sides where there are several; may be empty where there is one.
    pub name: Text,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// What is redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// An address.
    Address(IpAddr),
    /// The addresses in the cluster of the service with this key.
    Service(Text),
}

/// A CiliumLocalRedirectPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `namespace/name`.
    pub key: Text,
    /// When it was created, in seconds.
    pub created: i64,
    /// What is redirected.
    pub from: From,
    /// Ports of it; empty: all of the service.
    pub from_ports: Vec<RedirectPort>,
    /// Pods of the policy's namespace to which it goes.
    pub selector: Selector,
    /// Ports of them.
    pub to_ports: Vec<RedirectPort>,
    /// Those pods themselves are not redirected.
    pub skip: bool,
}

/// Why a pod that the policy selects does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It ends.
    Terminating,
    /// It is not ready.
    NotReady,
}

impl Redirect {
    /// Whether the policy selects a pod, whatever its state.
    #[must_use]
    pub fn selects(&self, pod: &Pod) -> bool {
        names(&pod.key).0 == names(&self.key).0
            && self.selector.matches(|label| pod.labels.get(label))
    }

    /// Frontends, each with the port of the pods that takes over. Ports that nobody takes over are not there.
    #[must_use]
    pub fn frontends(&self, service: Option<&Service>) -> Vec<(FrontendKey, &RedirectPort)> {
        let (addresses, ports) = match (&self.from, service) {
            (From::Address(ip), _) => (vec![*ip], self.from_ports.clone()),
            (From::Service(_), None) => return Vec::new(),
            (From::Service(_), Some(service)) => {
                (service.cluster_ips.clone(), self.ports_of(service))
            }
        };
        let key = |address, port: &RedirectPort| FrontendKey {
            address,
            port: port.port,
            protocol: port.protocol,
            scope: Scope::External,
        };
        let mut frontends = Vec::new();
        for port in &ports {
            let Some(to) = self.taker(port) else { continue };
            frontends.extend(addresses.iter().map(|address| (key(*address, port), to)));
        }
        frontends
    }

    /// Ports of the service that the policy means, under the service's names.
    fn ports_of(&self, service: &Service) -> Vec<RedirectPort> {
        let meant = |port: &&crate::input::ServicePort| {
            self.from_ports.is_empty()
                || self
                    .from_ports
                    .iter()
                    .any(|from| from.port == port.port && from.protocol == port.protocol)
        };
        let ports = service.ports.iter().filter(meant);
        ports
            .map(|port| {
                let named = self
                    .from_ports
                    .iter()
                    .find(|from| from.port == port.port && from.protocol == port.protocol);
                RedirectPort {
                    name: named.map_or_else(|| port.name.clone(), |from| from.name.clone()),
                    port: port.port,
                    protocol: port.protocol,
                }
            })
            .collect()
    }

    fn taker(&self, from: &RedirectPort) -> Option<&RedirectPort> {
        let alone = self.to_ports.len() == 1;
        self.to_ports
            .iter()
            .find(|to| to.protocol == from.protocol && (alone || to.name == from.name))
    }

    /// The pods that take over, at a port and in a family, and why others do not.
    #[must_use]
    pub fn backends<'a>(
        &self,
        pods: impl Iterator<Item = &'a Pod>,
        port: &RedirectPort,
        ipv6: bool,
    ) -> Vec<(&'a Pod, BackendKey, Option<Unfit>)> {
        let of_pod = |pod: &'a Pod| {
            let address = pod.addresses.iter().find(|ip| ip.is_ipv6() == ipv6)?;
            let unfit = if pod.terminating {
                Some(Unfit::Terminating)
            } else {
                (!pod.ready).then_some(Unfit::NotReady)
            };
            let key = BackendKey {
                address: *address,
                port: port.port,
                protocol: port.protocol,
            };
            Some((pod, key, unfit))
        };
        let mut found: Vec<_> = pods
            .filter(|pod| self.selects(pod))
            .filter_map(of_pod)
            .collect();
        found.sort_by_key(|(_, key, unfit)| (*key, unfit.is_some()));
        found.dedup_by_key(|(_, key, _)| *key);
        found
    }
}
