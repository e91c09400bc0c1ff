//! Where policies send connections to the proxy, and what was asked for there.
use abi::ProxyKind;
use api::{ProxyRedirect, ProxyRequests};
use proxy::{
    config::{self, Direction, Rules, Transport},
    record::{Layer7, Record, Verdict},
};
use std::collections::BTreeMap;

/// Ports of an endpoint whose connections are taken for one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    endpoint: u32,
    direction: Direction,
    transport: Transport,
    first: u16,
    last: u16,
    /// Number of the kind.
    kind: u8,
}

/// All places, with what was asked for since there were such rules; and what was asked for at all.
#[derive(Default)]
pub(super) struct Redirects {
    places: BTreeMap<Place, ProxyRequests>,
    /// Of names, and of all else.
    totals: [ProxyRequests; 2],
}

impl Redirects {
    /// Takes over what there is by now. What was counted at a place goes with it.
    pub(super) fn renew(&mut self, endpoints: &[config::Endpoint]) {
        let mut before = std::mem::take(&mut self.places);
        for endpoint in endpoints {
            for place in endpoint
                .ports
                .iter()
                .filter_map(|at| place(endpoint.id, at))
            {
                let counts = before.remove(&place);
                let here = self.places.entry(place).or_default();
                *here = counts.unwrap_or(*here);
            }
        }
    }

    /// Counts a request, or what went wrong with one.
    pub(super) fn count(&mut self, record: &Record) {
        let kind = kind_of(record);
        let total = &mut self.totals[usize::from(kind != ProxyKind::Dns)];
        note(total, record);
        let port = record.session.destination.port();
        let Some(endpoint) = (match record.direction {
            Direction::Ingress => record.session.ingress,
            Direction::Egress => record.session.egress,
        }) else {
            return;
        };
        let start = Place {
            endpoint,
            direction: record.direction,
            transport: record.transport,
            first: 0,
            last: 0,
            kind: 0,
        };
        let of_end = |place: &Place| {
            (place.endpoint, place.direction, place.transport)
                == (start.endpoint, start.direction, start.transport)
        };
        let mut here = self
            .places
            .range_mut(start..)
            .take_while(|(place, _)| of_end(place));
        // Requests may come in TLS that ends here.
        let is_within = |of: u8| kind == ProxyKind::Http && of == ProxyKind::Tls as u8;
        let found = here.find(|(place, _)| {
            (place.kind == kind as u8 || is_within(place.kind))
                && (place.first..=place.last).contains(&port)
        });
        if let Some((_, counts)) = found {
            note(counts, record);
        }
    }

    /// How many places there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// All places.
    pub(super) fn list(&self) -> Vec<ProxyRedirect> {
        let one = |(place, requests): (&Place, &ProxyRequests)| {
            let kind = ProxyKind::from_u8(place.kind).unwrap_or(ProxyKind::None);
            ProxyRedirect {
                endpoint: place.endpoint,
                direction: match place.direction {
                    Direction::Ingress => "ingress",
                    Direction::Egress => "egress",
                }
                .to_owned(),
                transport: match place.transport {
                    Transport::Tcp => "TCP",
                    Transport::Udp => "UDP",
                }
                .to_owned(),
                first: place.first,
                last: place.last,
                protocol: protocol(kind).to_owned(),
                proxy_port: kind.port().unwrap_or(0),
                requests: *requests,
            }
        };
        self.places.iter().map(one).collect()
    }

    /// What was asked for at all: of names, and of all else.
    pub(super) fn totals(&self) -> [ProxyRequests; 2] {
        self.totals
    }
}

/// Where rules lead; nowhere by themselves where they name no kind.
fn place(endpoint: u32, at: &config::PortRules) -> Option<Place> {
    let kind = match at.rules {
        Rules::All => return None,
        Rules::Http(_) => ProxyKind::Http,
        Rules::Kafka(_) => ProxyKind::Kafka,
        Rules::Dns(_) => ProxyKind::Dns,
        Rules::Tls(_) | Rules::Inspect(_) => ProxyKind::Tls,
    };
    Some(Place {
        endpoint,
        direction: at.direction,
        transport: at.transport,
        first: at.first,
        last: at.last,
        kind: kind as u8,
    })
}

fn kind_of(record: &Record) -> ProxyKind {
    match record.layer7 {
        Layer7::Http(_) => ProxyKind::Http,
        Layer7::Kafka(_) => ProxyKind::Kafka,
        Layer7::Dns(_) => ProxyKind::Dns,
        Layer7::Tls(_) => ProxyKind::Tls,
    }
}

/// As rules have it.
const fn protocol(kind: ProxyKind) -> &'static str {
    match kind {
        ProxyKind::Http => "http",
        ProxyKind::Kafka => "kafka",
        ProxyKind::Dns => "dns",
        ProxyKind::Tls => "tls",
        ProxyKind::None => "none",
    }
}

/// An answer is not counted again, but where it tells of an error.
fn note(counts: &mut ProxyRequests, record: &Record) {
    let is_answer = record.latency.is_some();
    counts.received += u64::from(!is_answer);
    match record.verdict {
        Verdict::Error => counts.errors += 1,
        _ if is_answer => {}
        Verdict::Denied => counts.denied += 1,
        Verdict::Forwarded | Verdict::Audited => counts.forwarded += 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy::{origin::Session, record::Http};
    use std::time::{Duration, SystemTime};

    fn port(first: u16, last: u16, rules: Rules) -> config::PortRules {
        config::PortRules {
            direction: Direction::Ingress,
            transport: Transport::Tcp,
            first,
            last,
            peers: None,
            origin: "a policy".to_owned(),
            rules,
        }
    }

    fn request(port: u16, verdict: Verdict, latency: Option<Duration>) -> Record {
        Record {
            time: SystemTime::now(),
            session: Session {
                source: "192.0.2.1:40000".parse().unwrap(),
                destination: (std::net::Ipv4Addr::LOCALHOST, port).into(),
                client: 1,
                server: 2,
                egress: None,
                ingress: Some(9),
            },
            direction: Direction::Ingress,
            transport: Transport::Tcp,
            verdict,
            rule: None,
            latency,
            layer7: Layer7::Http(Http::default()),
        }
    }

    #[test]
    fn requests_are_counted_where_they_were_sent_to_the_proxy() {
        let endpoint = |ports| config::Endpoint {
            id: 9,
            ports,
            ..config::Endpoint::default()
        };
        let web = || Rules::Http(Vec::new());
        let mut all = Redirects::default();
        // Two policies about one port, one that allows everything there, and another port.
        let ports = vec![
            port(80, 80, web()),
            port(80, 80, web()),
            port(80, 80, Rules::All),
            port(8000, 8010, web()),
        ];
        all.renew(&[endpoint(ports)]);
        assert_eq!(all.len(), 2);
        for (port, verdict, latency) in [
            (80, Verdict::Forwarded, None),
            (80, Verdict::Forwarded, Some(Duration::from_secs(1))),
            (80, Verdict::Denied, None),
            (8010, Verdict::Audited, None),
            (8010, Verdict::Error, Some(Duration::from_secs(1))),
            (9, Verdict::Denied, None),
        ] {
            all.count(&request(port, verdict, latency));
        }
        let counts = |received, forwarded, denied, errors| ProxyRequests {
            received,
            forwarded,
            denied,
            errors,
        };
        let list = all.list();
        assert_eq!(
            (list[0].to_string().as_str(), list[0].requests),
            ("9:ingress:TCP:80:", counts(2, 1, 1, 0))
        );
        assert_eq!(
            (list[1].to_string().as_str(), list[1].requests),
            ("9:ingress:TCP:8000-8010:", counts(1, 1, 0, 1))
        );
        assert_eq!(
            (list[1].protocol.as_str(), list[1].proxy_port),
            ("http", 15001)
        );
        assert_eq!(all.totals(), [counts(0, 0, 0, 0), counts(4, 2, 2, 1)]);
        // What stays keeps its numbers, what goes takes them with it.
        all.renew(&[endpoint(vec![port(80, 80, web())])]);
        assert_eq!(all.list()[0].requests.received, 2);
        all.renew(&[]);
        assert_eq!((all.len(), all.totals()[1].received), (0, 4));
    }
}
