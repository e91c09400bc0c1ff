//! What is shown of names.
use super::Names;
use api::{FqdnLookup, FqdnNames, FqdnSelector};
use policy::{fqdn::Counts, rule::DnsRule};
use std::{collections::BTreeMap, net::IpAddr};

impl Names {
    /// Every address of every name, by endpoint.
    pub fn lookups(&self) -> Vec<FqdnLookup> {
        let state = self.state();
        let mut groups: BTreeMap<(u32, &str, u64, u32), Vec<IpAddr>> = BTreeMap::new();
        for (endpoint, name, ip, entry) in state.cache.entries() {
            let key = (endpoint, name, entry.learned, entry.ttl);
            groups.entry(key).or_default().push(ip);
        }
        let learned = groups.into_iter();
        let learned = learned.map(|((endpoint_id, name, at, ttl), ips)| FqdnLookup {
            fqdn: dotted(name),
            ips,
            lookup_time: time(at),
            ttl,
            expiration_time: time(at.saturating_add(ttl.into())),
            endpoint_id,
            source: "lookup".to_owned(),
        });
        let mut all: Vec<FqdnLookup> = learned.collect();
        for (endpoint_id, ip, zombie) in state.cache.zombies() {
            all.extend(zombie.names.iter().map(|name| FqdnLookup {
                fqdn: dotted(name),
                ips: vec![ip],
                lookup_time: time(zombie.alive),
                ttl: 0,
                expiration_time: time(zombie.alive),
                endpoint_id,
                source: "connection".to_owned(),
            }));
        }
        all.sort_by(|a, b| (a.endpoint_id, &a.fqdn).cmp(&(b.endpoint_id, &b.fqdn)));
        all
    }

    /// What rules speak of.
    pub fn selectors(&self) -> FqdnNames {
        let rules = self.0.rules.borrow().clone();
        let one = |rule: &DnsRule| FqdnSelector {
            regex_string: rule.expression(),
            selector_string: rule.to_string(),
        };
        FqdnNames {
            poll_names: None,
            selectors: rules.iter().map(one).collect(),
        }
    }

    /// Forgets the names that a pattern means, or all; how many addresses of names.
    pub fn clear(&self, pattern: &str) -> usize {
        let rule = DnsRule::MatchPattern(pattern.to_owned());
        let mut state = self.state();
        let count = state
            .cache
            .clear(|name| pattern.is_empty() || rule.is_met_by(name));
        self.settle(&mut state);
        count
    }

    /// The names of an address, whoever was told.
    pub fn of(&self, ip: IpAddr) -> Vec<String> {
        let state = self.state();
        state.cache.names_of(ip).map(str::to_owned).collect()
    }

    /// What there is of each endpoint.
    pub fn counts(&self) -> Vec<(u32, Counts)> {
        self.state().cache.counts().collect()
    }

    /// What was counted.
    pub fn stats(&self) -> super::Stats {
        self.state().stats
    }
}

fn dotted(name: &str) -> String {
    format!("{name}.")
}

/// A time as people and machines read it.
fn time(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds)
        .unwrap_or(jiff::Timestamp::MAX)
        .to_string()
}
