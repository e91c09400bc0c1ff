//! What health-check node ports answer: whether this node has backends of a service.
use crate::claims::{candidates, view};
use crate::input::{ServiceType, TrafficPolicy, names};
use crate::planner::Planner;
use crate::select::{Fate, choose};
use model::Text;
use std::collections::BTreeSet;

/// A health-check node port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `namespace/name` of the service.
    pub service: Text,
    /// The port.
    pub port: u16,
    /// Backends on this node that are ready.
    pub local: usize,
}

impl HealthCheck {
    /// Status code of the answer.
    #[must_use]
    pub const fn status(&self) -> u16 {
        if self.local > 0 { 200 } else { 503 }
    }

    /// Body of the answer, JSON.
    #[must_use]
    pub fn body(&self) -> String {
        let (namespace, name) = names(&self.service);
        serde_json::json!({
            "service": {"namespace": namespace, "name": name},
            "localEndpoints": self.local,
        })
        .to_string()
    }
}

impl Planner {
    /// The health-check node port of a service; none where it has none: only load balancers of the policy `Local` do.
    #[must_use]
    pub fn health_check(&self, service: &str) -> Option<HealthCheck> {
        let service = self.world.services.get(service)?;
        let wanted = service.kind == ServiceType::LoadBalancer
            && service.external_policy == TrafficPolicy::Local
            && service.health_check_port != 0
            && self.world.is_ours(service);
        if !wanted {
            return None;
        }
        let mut ready = BTreeSet::new();
        for port in &service.ports {
            for ipv6 in [false, true] {
                let (candidates, crossed) = candidates(&self.world, service, port, ipv6);
                if crossed {
                    continue;
                }
                let fates = choose(&candidates, &view(&self.world, true));
                let used = candidates
                    .iter()
                    .zip(fates)
                    .filter(|(_, fate)| *fate == Fate::Used);
                ready
                    .extend(used.map(|(candidate, _)| (candidate.key.address, candidate.key.port)));
            }
        }
        // A pod of two families or ports counts once for each family and port; what matters is whether there is any. The
        // greatest number for a port of a family is the number of pods.
        Some(HealthCheck {
            service: service.key.clone(),
            port: service.health_check_port,
            local: pods(&ready),
        })
    }

    /// The health-check node ports of all services.
    #[must_use]
    pub fn health_checks(&self) -> Vec<HealthCheck> {
        let services = self.world.services.keys();
        services.filter_map(|key| self.health_check(key)).collect()
    }
}

fn pods(ready: &BTreeSet<(std::net::IpAddr, u16)>) -> usize {
    let of = |ipv6: bool| {
        let own = ready.iter().filter(|(ip, _)| ip.is_ipv6() == ipv6);
        own.map(|(ip, _)| ip).collect::<BTreeSet<_>>().len()
    };
    of(false).max(of(true))
}
