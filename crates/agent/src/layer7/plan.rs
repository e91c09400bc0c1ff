//! What the proxy shall have.
use super::secrets::Secrets;
use crate::policy::Layer7;
use model::Endpoint;
use policy::{
    resolve::ProxyRules,
    rule::{self, L7Rules},
};
use proxy::config;
use std::time::{Duration, Instant};

/// How long rules outlive their policy at the proxy: the rows that send connections there go first.
const LINGER: Duration = Duration::from_secs(2);

/// The endpoints with rules, under a number that grows with every change.
#[derive(Default)]
pub(super) struct Plan {
    number: u64,
    begun: bool,
    settings: config::Settings,
    now: Vec<config::Endpoint>,
    /// Rules that no policy has any longer.
    gone: Vec<(Instant, u32, config::PortRules)>,
}

impl Plan {
    /// Takes over what there is by now; the number under which it is known.
    pub(super) fn renew(
        &mut self,
        settings: config::Settings,
        fresh: Vec<config::Endpoint>,
        now: Instant,
    ) -> u64 {
        let expired = self.gone.iter().any(|(until, ..)| *until <= now);
        self.gone.retain(|(until, ..)| *until > now);
        if fresh == self.now && settings == self.settings && !expired && self.begun {
            return self.number;
        }
        for endpoint in &fresh {
            let before = self.now.iter().find(|one| one.id == endpoint.id);
            let before = before.into_iter().flat_map(|one| &one.ports);
            for port in before.filter(|port| !endpoint.ports.iter().any(|new| meets(new, port))) {
                self.gone.push((now + LINGER, endpoint.id, port.clone()));
            }
        }
        for old in &self.now {
            if !fresh.iter().any(|endpoint| endpoint.id == old.id) {
                let ports = old.ports.iter().cloned();
                let gone = ports.map(|port| (now + LINGER, old.id, port));
                self.gone.extend(gone);
            }
        }
        let same_port = |id: u32, gone: &config::PortRules| {
            let endpoint = fresh.iter().find(|one| one.id == id);
            endpoint.is_some_and(|one| one.ports.iter().any(|new| meets(new, gone)))
        };
        // What has rules again is not widened by old ones.
        self.gone.retain(|(_, id, port)| !same_port(*id, port));
        self.now = fresh;
        self.settings = settings;
        self.begun = true;
        self.number += 1;
        self.number
    }

    /// When it changes by itself.
    pub(super) fn again(&self) -> Option<Instant> {
        self.gone.iter().map(|(until, ..)| *until).min()
    }

    /// The number under which it is known.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// What holds for all endpoints.
    pub(super) fn settings(&self) -> config::Settings {
        self.settings.clone()
    }

    /// All that the proxy shall have.
    pub(super) fn all(&self) -> Vec<config::Endpoint> {
        let mut all = self.now.clone();
        for (_, id, port) in &self.gone {
            match all.iter_mut().find(|endpoint| endpoint.id == *id) {
                Some(endpoint) => endpoint.ports.push(port.clone()),
                None => all.push(config::Endpoint {
                    id: *id,
                    ports: vec![port.clone()],
                    ..config::Endpoint::default()
                }),
            }
        }
        all
    }
}

/// Whether both are about some port of the same direction and transport.
fn meets(one: &config::PortRules, other: &config::PortRules) -> bool {
    one.direction == other.direction
        && one.transport == other.transport
        && one.first <= other.last
        && other.first <= one.last
}

/// The endpoints of subjects with rules.
pub(super) fn endpoints<'a>(
    layer7: &Layer7,
    endpoints: impl Iterator<Item = &'a Endpoint>,
    secrets: Secrets<'_>,
    audit: bool,
) -> Vec<config::Endpoint> {
    let with_rules = endpoints.filter_map(|endpoint| {
        let rules = layer7.subjects.get(&endpoint.subject)?;
        Some(config::Endpoint {
            id: endpoint.id.into(),
            addresses: endpoint.addresses().collect(),
            audit: endpoint.policy_audit.unwrap_or(audit),
            ports: rules.iter().filter_map(|one| ports(one, secrets)).collect(),
        })
    });
    with_rules.collect()
}

/// Rules of ports of a subject.
pub(super) fn ports(rules: &ProxyRules, secrets: Secrets<'_>) -> Option<config::PortRules> {
    let transport = match rules.transport.number() {
        6 => config::Transport::Tcp,
        17 => config::Transport::Udp,
        _ => return None,
    };
    let direction = match rules.direction {
        rule::Direction::Ingress => config::Direction::Ingress,
        rule::Direction::Egress => config::Direction::Egress,
    };
    let peers = rules.peers.as_ref();
    Some(config::PortRules {
        direction,
        transport,
        first: rules.first,
        last: rules.last,
        peers: peers.map(|peers| peers.iter().copied().collect()),
        origin: rules.origin.to_string(),
        rules: match rules.rules.as_deref() {
            None => config::Rules::All,
            Some(L7Rules::Http(rules)) => {
                config::Rules::Http(rules.iter().map(|rule| secrets.http(rule)).collect())
            }
            Some(L7Rules::Kafka(rules)) => config::Rules::Kafka(rules.iter().map(kafka).collect()),
            Some(L7Rules::Dns(rules)) => config::Rules::Dns(rules.iter().map(dns).collect()),
            Some(L7Rules::Tls(names)) => {
                config::Rules::Tls(names.iter().map(|name| tls(name)).collect())
            }
            Some(L7Rules::Inspect(rules)) => secrets.inspect(rules),
        },
    })
}

pub(super) fn mismatch(mismatch: rule::Mismatch) -> config::Mismatch {
    match mismatch {
        rule::Mismatch::Reject => config::Mismatch::Reject,
        rule::Mismatch::Log => config::Mismatch::Log,
        rule::Mismatch::Add => config::Mismatch::Add,
        rule::Mismatch::Delete => config::Mismatch::Delete,
        rule::Mismatch::Replace => config::Mismatch::Replace,
    }
}

fn kafka(rule: &rule::KafkaRule) -> config::KafkaRule {
    config::KafkaRule {
        role: rule.role.map(|role| match role {
            rule::KafkaRole::Produce => config::Role::Produce,
            rule::KafkaRole::Consume => config::Role::Consume,
        }),
        api_key: rule.api_key.clone(),
        api_version: rule.api_version,
        client_id: rule.client_id.clone(),
        topic: rule.topic.clone(),
    }
}

pub(super) fn tls(name: &str) -> config::TlsRule {
    config::TlsRule {
        server_name: name.to_owned(),
    }
}

pub(crate) fn dns(rule: &rule::DnsRule) -> config::DnsRule {
    match rule {
        rule::DnsRule::MatchName(name) => config::DnsRule::MatchName(name.clone()),
        rule::DnsRule::MatchPattern(pattern) => config::DnsRule::MatchPattern(pattern.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(first: u16, last: u16) -> config::PortRules {
        config::PortRules {
            direction: config::Direction::Ingress,
            transport: config::Transport::Tcp,
            first,
            last,
            peers: None,
            origin: format!("{first}"),
            rules: config::Rules::All,
        }
    }

    fn endpoint(id: u32, ports: Vec<config::PortRules>) -> config::Endpoint {
        config::Endpoint {
            id,
            ports,
            ..config::Endpoint::default()
        }
    }

    #[test]
    fn rules_linger_where_nothing_takes_their_place() {
        let start = Instant::now();
        let mut plan = Plan::default();
        assert_eq!(
            plan.renew(config::Settings::default(), Vec::new(), start),
            1,
            "no rules are known, too"
        );
        assert_eq!(
            plan.renew(config::Settings::default(), Vec::new(), start),
            1
        );
        let both = vec![endpoint(1, vec![port(80, 80), port(90, 99)])];
        assert_eq!(
            plan.renew(config::Settings::default(), both.clone(), start),
            2
        );
        // One port has other rules, the other none.
        let one = vec![endpoint(1, vec![port(80, 81)])];
        assert_eq!(plan.renew(config::Settings::default(), one, start), 3);
        let kept: Vec<_> = plan.all()[0].ports.iter().map(|port| port.first).collect();
        assert_eq!(kept, [80, 90]);
        assert_eq!(plan.all()[0].ports[0].last, 81);
        // The endpoint has none at all.
        assert_eq!(
            plan.renew(config::Settings::default(), Vec::new(), start),
            4
        );
        assert_eq!((plan.now.len(), plan.all()[0].ports.len()), (0, 2));
        let late = plan.again().unwrap();
        assert_eq!(plan.renew(config::Settings::default(), Vec::new(), late), 5);
        assert!(plan.all().is_empty() && plan.again().is_none());
    }
}
