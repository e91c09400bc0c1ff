//! What events do not carry: the endpoint that a packet goes to, and the names of pods' devices.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use api::{Client, Endpoint, MonitorEvent, MonitorKind};

use crate::target::Agent;

/// How often the agent is asked at most.
const REFRESH: Duration = Duration::from_secs(1);

/// The endpoints of a node, asked for when an event names one that is not known.
pub struct Places {
    client: Client,
    asked: Option<Instant>,
    endpoints: BTreeMap<IpAddr, u16>,
    devices: BTreeMap<u32, String>,
}

impl Places {
    /// Those of `agent`'s node; nothing is asked yet.
    #[must_use]
    pub fn of(agent: &Agent) -> Self {
        let client = Client::new(agent.client.socket()).timeout(Duration::from_secs(2));
        Self {
            client,
            asked: None,
            endpoints: BTreeMap::new(),
            devices: BTreeMap::new(),
        }
    }

    /// The event with what is known of its places. A packet that is handed to an endpoint is reported by the program
    /// that hands it over, which may be the sender's: the receiver is found by its address.
    #[must_use]
    pub fn add(&mut self, mut event: MonitorEvent) -> MonitorEvent {
        if event.kind != MonitorKind::Trace {
            return event;
        }
        let delivered = event.point == "to-endpoint";
        let known = event
            .dst
            .is_none_or(|ip| !delivered || self.endpoints.contains_key(&ip));
        if !known && self.asked.is_none_or(|asked| asked.elapsed() > REFRESH) {
            self.refresh();
        }
        if let Some(id) = event
            .dst
            .and_then(|ip| self.endpoints.get(&ip))
            .filter(|_| delivered)
        {
            event.endpoint = *id;
        }
        if let Some(name) = self
            .devices
            .get(&event.ifindex)
            .filter(|_| event.ifname.is_empty())
        {
            event.ifname.clone_from(name);
        }
        event
    }

    fn refresh(&mut self) {
        self.asked = Some(Instant::now());
        // Without an answer the line is as good as the event alone.
        if let Ok(endpoints) = self.client.endpoints() {
            self.learn(&endpoints);
        }
    }

    fn learn(&mut self, endpoints: &[Endpoint]) {
        self.endpoints.clear();
        self.devices.clear();
        for endpoint in endpoints {
            let v4 = endpoint.ipv4.map(IpAddr::from);
            let v6 = endpoint.ipv6.map(IpAddr::from);
            self.endpoints
                .extend(v4.into_iter().chain(v6).map(|ip| (ip, endpoint.id)));
            self.devices
                .insert(endpoint.host_ifindex, endpoint.host_ifname.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_receiver_is_found_by_its_address() {
        let agent = Agent {
            node: None,
            holder: None,
            client: Client::new("/nonexistent/agent.sock"),
        };
        let mut places = Places::of(&agent);
        let endpoint = json!({
            "id": 904, "state": "ready", "identity": 1, "ipv4": "10.7.1.12", "hostIfindex": 12, "hostIfname": "lxcab12",
        });
        places.learn(&[serde_json::from_value(endpoint).unwrap()]);
        let mut event = MonitorEvent::new(MonitorKind::Trace, 0);
        event.point = "to-endpoint".into();
        event.dst = Some([10, 7, 1, 12].into());
        event.ifindex = 12;
        event.endpoint = 7;
        let added = places.add(event.clone());
        assert_eq!((added.endpoint, added.ifname.as_str()), (904, "lxcab12"));
        // An address that nobody has: what the event says stays.
        event.dst = Some([192, 0, 2, 1].into());
        assert_eq!(places.add(event.clone()).endpoint, 7);
        event.point = "to-stack".into();
        event.dst = Some([10, 7, 1, 12].into());
        assert_eq!(places.add(event).endpoint, 7);
    }
}
