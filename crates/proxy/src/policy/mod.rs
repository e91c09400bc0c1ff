//! Rules compiled for fast answers, and who asks which of them.
//!
//! ```text
//! Snapshot ─compile→ Policy ─select(endpoint, direction, port, peer)→ Selection(s) ─http · dns · kafka→ Decision
//! ```
//!
//! The rules of all entries that cover a port and a peer add up. One without any limit lifts that of the others. Nothing is
//! allowed that no rule allows: endpoints and ports that the snapshot does not name are denied.
mod behind;
mod both;
mod dns;
mod http;
mod inspect;
mod kafka;
mod text;
mod tls;

pub(crate) use behind::{PATIENCE, caught_up};
pub use both::Selections;
pub use dns::canonical;
pub use http::{Change, HttpRequest};
pub use inspect::{Ends, Greeting, check_authorities, check_certificate};
pub use kafka::{KafkaRequest, Topics, api_name};

use crate::config::{Direction, Rules, Settings, Snapshot, Transport};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

/// A snapshot, compiled.
#[derive(Debug, Default)]
pub struct Policy {
    version: u64,
    settings: Settings,
    endpoints: HashMap<u32, Endpoint>,
    addresses: HashMap<IpAddr, u32>,
    problems: Vec<String>,
    /// Names whose addresses the agent has to have before they are used.
    awaited: dns::DnsRules,
    /// What is compiled already, for the next snapshot.
    compiled: HashMap<Rules, Shared>,
}

#[derive(Debug, Default)]
struct Endpoint {
    audit: bool,
    entries: Vec<Arc<Entry>>,
}

/// Rules of one place for some peers.
#[derive(Debug)]
struct Entry {
    direction: Direction,
    transport: Transport,
    ports: std::ops::RangeInclusive<u16>,
    /// Sorted; none: anybody.
    peers: Option<Box<[u32]>>,
    origin: Arc<str>,
    rules: Arc<Compiled>,
}

#[derive(Debug)]
enum Compiled {
    All,
    Http(http::HttpRules),
    Kafka(kafka::KafkaRules),
    Dns(dns::DnsRules),
    Tls(tls::TlsRules),
    Inspect(Box<inspect::Inspect>),
    /// What cannot be understood.
    Nothing,
}

#[derive(Clone, Debug)]
struct Shared {
    rules: Arc<Compiled>,
    problems: Arc<[String]>,
}

/// Whose rules are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The endpoint of this node.
    pub endpoint: u32,
    /// Which end it is.
    pub direction: Direction,
    /// TCP or UDP.
    pub transport: Transport,
    /// The server's port.
    pub port: u16,
    /// Identity of the other end.
    pub peer: u32,
}

/// The rules for one peer at one port.
#[derive(Clone, Debug)]
pub struct Selection {
    version: u64,
    direction: Direction,
    audit: bool,
    /// The connection's beginning has been held against the rules, and these are what is left.
    greeted: bool,
    entries: Vec<Arc<Entry>>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A rule allows it.
    Allowed,
    /// No rule does.
    Denied,
    /// No rule does, and it passes since the endpoint is only watched.
    Audited,
}

/// What becomes of a request, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of it.
    pub outcome: Outcome,
    /// Which end's rules said so.
    pub direction: Direction,
    /// The rule that allows it.
    pub rule: Option<RuleName>,
    /// What is to be done to an HTTP request that passes.
    pub changes: Vec<Change>,
}

/// A rule, as people are shown it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleName {
    /// The policy and the place in it.
    #[serde(serialize_with = "write_shared", deserialize_with = "read_shared")]
    pub origin: Arc<str>,
    /// Which of the rules there; none: everything is allowed.
    pub index: Option<usize>,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "{}[{index}]", self.origin),
            None => f.write_str(&self.origin),
        }
    }
}

fn write_shared<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn read_shared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    String::deserialize(deserializer).map(Into::into)
}

impl Decision {
    /// Whether the request goes on.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.outcome != Outcome::Denied
    }
}

impl Policy {
    /// Compiles a snapshot. A rule that cannot be understood allows nothing and is among the [`problems`](Self::problems); the
    /// others are not held up by it. What `previous` has compiled is used again.
    #[must_use]
    pub fn compile(snapshot: &Snapshot, previous: Option<&Self>) -> Self {
        let mut policy = Self {
            version: snapshot.version,
            settings: snapshot.settings.clone(),
            awaited: dns::DnsRules::compile(&snapshot.settings.names),
            ..Self::default()
        };
        let mut told = HashSet::new();
        for endpoint in &snapshot.endpoints {
            let mut entries = Vec::with_capacity(endpoint.ports.len());
            for port in &endpoint.ports {
                let shared = policy.rules(&port.rules, previous);
                if !shared.problems.is_empty() && told.insert((&port.origin, &port.rules)) {
                    let placed = |text: &String| format!("{}: {text}", port.origin);
                    policy.problems.extend(shared.problems.iter().map(placed));
                }
                let peers = port.peers.as_ref().map(|peers| {
                    let mut peers = peers.clone();
                    peers.sort_unstable();
                    peers.into_boxed_slice()
                });
                entries.push(Arc::new(Entry {
                    direction: port.direction,
                    transport: port.transport,
                    ports: port.first..=port.last,
                    peers,
                    origin: port.origin.as_str().into(),
                    rules: shared.rules,
                }));
            }
            for address in &endpoint.addresses {
                policy.addresses.insert(*address, endpoint.id);
            }
            let audit = endpoint.audit;
            policy
                .endpoints
                .insert(endpoint.id, Endpoint { audit, entries });
        }
        policy
    }

    fn rules(&mut self, rules: &Rules, previous: Option<&Self>) -> Shared {
        if let Some(shared) = self.compiled.get(rules) {
            return shared.clone();
        }
        let known = previous.and_then(|previous| previous.compiled.get(rules));
        let shared = known.cloned().unwrap_or_else(|| compile(rules));
        self.compiled.insert(rules.clone(), shared.clone());
        shared
    }

    /// The snapshot's number; zero before there is any.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What holds for all endpoints.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether answers about a [canonical] name wait until the agent has its addresses.
    #[must_use]
    pub fn awaits(&self, name: &str) -> bool {
        self.awaited.first(name).is_some()
    }

    /// Rules that cannot be understood, with their places.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The endpoint with this address.
    #[must_use]
    pub fn endpoint_at(&self, address: IpAddr) -> Option<u32> {
        self.addresses.get(&address.to_canonical()).copied()
    }

    /// The rules for one peer at one port.
    #[must_use]
    pub fn select(&self, scope: &Scope) -> Selection {
        let endpoint = self.endpoints.get(&scope.endpoint);
        let entries = endpoint.into_iter().flat_map(|e| &e.entries);
        Selection {
            version: self.version,
            direction: scope.direction,
            audit: endpoint.is_some_and(|endpoint| endpoint.audit),
            greeted: false,
            entries: entries.filter(|e| e.covers(scope)).cloned().collect(),
        }
    }
}

fn compile(rules: &Rules) -> Shared {
    let mut problems = Vec::new();
    let compiled = match rules {
        Rules::All => Compiled::All,
        Rules::Http(rules) => Compiled::Http(http::HttpRules::compile(rules, &mut problems)),
        Rules::Kafka(rules) => Compiled::Kafka(kafka::KafkaRules::compile(rules, &mut problems)),
        Rules::Dns(rules) => Compiled::Dns(dns::DnsRules::compile(rules)),
        Rules::Tls(rules) => Compiled::Tls(tls::TlsRules::compile(rules)),
        Rules::Inspect(rules) => match inspect::Inspect::compile(rules, &mut problems) {
            Some(rules) => Compiled::Inspect(Box::new(rules)),
            None => Compiled::Nothing,
        },
    };
    Shared {
        rules: Arc::new(compiled),
        problems: problems.into(),
    }
}

impl Compiled {
    /// The first rule that the beginning of a connection meets.
    fn greeted(&self, greeting: &Greeting) -> Option<usize> {
        match (self, greeting.server_name.as_deref()) {
            (Self::Tls(rules), Some(name)) => rules.first(name),
            (Self::Inspect(rules), _) => rules.first(greeting),
            _ => None,
        }
    }

    /// Whether everything passes, of connections whose beginning did.
    fn is_unlimited(&self, greeted: bool) -> bool {
        match self {
            Self::All => true,
            Self::Tls(_) => greeted,
            Self::Inspect(rules) => greeted && rules.http.is_none(),
            _ => false,
        }
    }
}

impl Entry {
    fn covers(&self, scope: &Scope) -> bool {
        self.direction == scope.direction
            && self.transport == scope.transport
            && self.ports.contains(&scope.port)
            && self
                .peers
                .as_ref()
                .is_none_or(|peers| peers.binary_search(&scope.peer).is_ok())
    }
}

impl Selection {
    /// The snapshot that it was made of.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether an HTTP request may pass.
    #[must_use]
    pub fn http(&self, request: &HttpRequest<'_>) -> Decision {
        self.decide(|rules| match rules {
            Compiled::Http(rules) => rules.first(request),
            Compiled::Inspect(rules) => rules.http.as_ref()?.first(request),
            _ => None,
        })
    }

    /// Whether a [canonical] name may be asked for.
    #[must_use]
    pub fn dns(&self, name: &str) -> Decision {
        self.decide(|rules| match rules {
            Compiled::Dns(rules) => rules.first(name).map(|index| (index, Vec::new())),
            _ => None,
        })
    }

    /// Whether a connection that begins so may pass.
    #[must_use]
    pub fn greeting(&self, greeting: &Greeting) -> Decision {
        self.decide(|rules| rules.greeted(greeting).map(|index| (index, Vec::new())))
    }

    /// The rules that such a beginning meets: by theirs alone it is decided what may be asked for.
    #[must_use]
    pub fn greeted(mut self, greeting: &Greeting) -> Self {
        self.entries.retain(|entry| {
            matches!(*entry.rules, Compiled::All) || entry.rules.greeted(greeting).is_some()
        });
        self.greeted = true;
        self
    }

    /// What the proxy is to both ends of a connection that begins so, if it is more than a witness.
    #[must_use]
    pub fn ends(&self, greeting: &Greeting) -> Option<Ends> {
        self.entries.iter().find_map(|entry| match &*entry.rules {
            Compiled::Inspect(rules) => rules.first(greeting).map(|_| rules.ends.clone()),
            _ => None,
        })
    }

    /// Whether everything passes, whatever it is.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        let inspects = |entry: &Arc<Entry>| matches!(*entry.rules, Compiled::Inspect(_));
        let unlimited = |entry: &Arc<Entry>| matches!(*entry.rules, Compiled::All);
        self.entries.iter().any(unlimited) && !self.entries.iter().any(inspects)
    }

    /// Whether a Kafka request may pass. Topics may be allowed by different entries.
    #[must_use]
    pub fn kafka(&self, request: &KafkaRequest<'_>) -> Decision {
        let ask = |request: &KafkaRequest<'_>| {
            self.decide(|rules| match rules {
                Compiled::Kafka(rules) => rules.first(request).map(|index| (index, Vec::new())),
                _ => None,
            })
        };
        let whole = ask(request);
        match request.topics {
            Topics::Named(topics) if whole.outcome != Outcome::Allowed && topics.len() > 1 => {
                let each = topics.chunks(1).map(|topic| {
                    ask(&KafkaRequest {
                        topics: Topics::Named(topic),
                        ..*request
                    })
                });
                let mut first = None;
                for decision in each {
                    if decision.outcome != Outcome::Allowed {
                        return decision;
                    }
                    first.get_or_insert(decision);
                }
                first.unwrap_or(whole)
            }
            _ => whole,
        }
    }

    fn decide(&self, first: impl Fn(&Compiled) -> Option<(usize, Vec<Change>)>) -> Decision {
        let unlimited = |entry: &&Arc<Entry>| entry.rules.is_unlimited(self.greeted);
        let name = |entry: &Entry, index| RuleName {
            origin: entry.origin.clone(),
            index,
        };
        if let Some(entry) = self.entries.iter().find(unlimited) {
            return Decision {
                outcome: Outcome::Allowed,
                direction: self.direction,
                rule: Some(name(entry, None)),
                changes: Vec::new(),
            };
        }
        for entry in &self.entries {
            if let Some((index, changes)) = first(&entry.rules) {
                return Decision {
                    outcome: Outcome::Allowed,
                    direction: self.direction,
                    rule: Some(name(entry, Some(index))),
                    changes,
                };
            }
        }
        let outcome = if self.audit {
            Outcome::Audited
        } else {
            Outcome::Denied
        };
        Decision {
            outcome,
            direction: self.direction,
            rule: None,
            changes: Vec::new(),
        }
    }
}
