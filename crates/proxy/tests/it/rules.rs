//! Compiled rules against a plain reading of them: tens of thousands of random cases.
use http::{HeaderMap, HeaderName, HeaderValue};
use hypha_proxy::{
    config::{
        Direction, DnsRule, Endpoint, HeaderRule, HttpRule, KafkaRule, Mismatch, PortRules, Role,
        Rules, Snapshot, TlsRule, Transport, Value,
    },
    policy::{
        Greeting, HttpRequest, KafkaRequest, Outcome, Policy, RuleName, Scope, Topics, canonical,
    },
};

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(2) == 0).then(|| make(self))
    }

    fn list<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }
}

const PATHS: [&str; 14] = [
    "/",
    "/public",
    "/public/.*",
    "/v[0-9]+/.*",
    "/a|/b",
    "(?i)/PUBLIC",
    "/x{2,3}",
    ".*\\.html",
    "",
    "[^/]*/.*",
    "/caf\u{e9}.*",
    "/\\w+",
    "/a/(b|c)?",
    ".+",
];
const METHODS: [&str; 5] = ["GET", "POST", "GET|PUT", "P.*", ""];
const HOSTS: [&str; 4] = ["a.org", "a\\.org(:80)?", ".*\\.org", "b"];
const NAMES: [&str; 3] = ["x-a", "x-b", "authorization"];
const VALUES: [&str; 3] = ["1", "2", "Bearer x"];
const NUMBERS: [u32; 4] = [1, 2, 256, 300];

fn http_rule(dice: &mut Dice) -> HttpRule {
    let mut given = |from: &[&str]| dice.maybe(|dice| dice.pick(from).to_owned());
    HttpRule {
        path: given(&PATHS),
        method: given(&METHODS),
        host: given(&HOSTS),
        headers: Vec::new(),
    }
}

fn http_rule_with_headers(dice: &mut Dice) -> HttpRule {
    let mut rule = http_rule(dice);
    rule.headers = dice.list(2, |dice| HeaderRule {
        name: dice.pick(&NAMES).to_owned(),
        value: dice.maybe(|dice| Value(dice.pick(&VALUES).to_owned())),
        mismatch: dice.pick(&[
            Mismatch::Reject,
            Mismatch::Reject,
            Mismatch::Log,
            Mismatch::Delete,
            Mismatch::Replace,
        ]),
    });
    rule
}

const DNS: [&str; 9] = [
    "a.org",
    "*.org",
    "*.*.org",
    "a*.org",
    "*",
    "**",
    "*.b.*",
    "a*b*.c.org",
    "A.ORG.",
];
const ASKED: [&str; 12] = [
    "a.org",
    "b.org",
    "a.b.org",
    "org",
    "axb.c.org",
    "ab.c.org",
    "x.b.y",
    "localhost",
    "a-_9.org",
    "a.B.Org.",
    "q.org.",
    "a\\032b.org",
];

fn dns_rule(dice: &mut Dice) -> DnsRule {
    let text = dice.pick(&DNS).to_owned();
    if text.contains('*') || dice.below(2) == 0 {
        DnsRule::MatchPattern(text)
    } else {
        DnsRule::MatchName(text)
    }
}

fn tls_rule(dice: &mut Dice) -> TlsRule {
    let more = ["**.org", "**.b.org", "**"];
    let text = if dice.below(3) == 0 {
        dice.pick(&more)
    } else {
        dice.pick(&DNS)
    };
    TlsRule {
        server_name: text.to_owned(),
    }
}

const TOPICS: [&str; 3] = ["orders", "events", "audit"];

fn kafka_rule(dice: &mut Dice) -> KafkaRule {
    let role = dice.maybe(|dice| dice.pick(&[Role::Produce, Role::Consume]));
    KafkaRule {
        api_key: if role.is_none() {
            dice.maybe(|dice| {
                dice.pick(&["Fetch", "produce", "metadata", "heartbeat"])
                    .to_owned()
            })
        } else {
            None
        },
        role,
        api_version: (dice.below(5) == 0).then(|| dice.below(3) as i16),
        client_id: (dice.below(3) == 0).then(|| dice.pick(&["one", "two"]).to_owned()),
        topic: dice.maybe(|dice| dice.pick(&TOPICS).to_owned()),
    }
}

fn port_rules(dice: &mut Dice, index: usize) -> PortRules {
    let first = dice.pick(&[53, 80, 81]);
    let rules = match dice.below(10) {
        0 => Rules::All,
        1..=4 => Rules::Http(dice.list(5, http_rule_with_headers)),
        5..=6 => Rules::Dns(dice.list(4, dns_rule)),
        7 => Rules::Tls(dice.list(4, tls_rule)),
        _ => Rules::Kafka(dice.list(4, kafka_rule)),
    };
    PortRules {
        direction: dice.pick(&[Direction::Ingress, Direction::Egress]),
        transport: dice.pick(&[Transport::Tcp, Transport::Udp]),
        first,
        last: first + dice.pick(&[0, 0, 10]),
        peers: dice.maybe(|dice| dice.list(3, |dice| dice.pick(&NUMBERS))),
        origin: format!("policy-{index}"),
        rules,
    }
}

fn whole(pattern: &Option<String>, text: &str) -> bool {
    let regex = |pattern: &String| regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
    pattern
        .as_ref()
        .is_none_or(|pattern| regex(pattern).is_match(text))
}

/// A request in its parts.
struct Http {
    method: &'static str,
    path: &'static str,
    host: &'static str,
    headers: HeaderMap,
}

fn plain_http(rule: &HttpRule, request: &Http) -> bool {
    // What cannot be understood allows nothing: putting in a header without saying what.
    let sensible =
        |header: &HeaderRule| header.value.is_some() || header.mismatch != Mismatch::Replace;
    let fits = |header: &HeaderRule| {
        let all: Vec<_> = request
            .headers
            .get_all(&header.name)
            .iter()
            .map(|v| v.to_str().unwrap())
            .collect();
        let met = match &header.value {
            Some(value) => all == [value.0.as_str()],
            None => !all.is_empty(),
        };
        met || header.mismatch != Mismatch::Reject
    };
    rule.headers.iter().all(sensible)
        && rule.headers.iter().all(fits)
        && whole(&rule.path, request.path)
        && whole(&rule.method, request.method)
        && whole(&rule.host, request.host)
}

fn plain_tls(TlsRule { server_name }: &TlsRule, name: &str) -> bool {
    match server_name.strip_prefix("**") {
        Some(end) => name.len() > end.len() && name.ends_with(&canonical(end)),
        None => plain_dns(&DnsRule::MatchPattern(server_name.clone()), name),
    }
}

fn plain_dns(rule: &DnsRule, name: &str) -> bool {
    match rule {
        DnsRule::MatchName(wanted) => canonical(wanted) == canonical(name),
        DnsRule::MatchPattern(star) if star == "*" => true,
        DnsRule::MatchPattern(pattern) => {
            let escaped = regex::escape(&canonical(pattern)).replace("\\*", "[-a-zA-Z0-9_]*");
            regex::Regex::new(&format!("^{escaped}$"))
                .unwrap()
                .is_match(&canonical(name))
        }
    }
}

fn plain_kafka(rules: &[KafkaRule], request: &KafkaRequest<'_>) -> bool {
    let fits = |rule: &&KafkaRule| {
        let name = abi::proxy::KAFKA_REQUESTS[request.api_key as usize];
        let role = match rule.role {
            None => true,
            Some(Role::Produce) => ["produce", "metadata", "apiversions"].contains(&name),
            Some(Role::Consume) => [
                "fetch",
                "offsets",
                "metadata",
                "offsetcommit",
                "offsetfetch",
                "findcoordinator",
                "joingroup",
                "heartbeat",
                "leavegroup",
                "syncgroup",
                "apiversions",
            ]
            .contains(&name),
        };
        role && rule
            .api_key
            .as_ref()
            .is_none_or(|key| key.eq_ignore_ascii_case(name))
            && rule
                .api_version
                .is_none_or(|version| version == request.api_version)
            && rule
                .client_id
                .as_ref()
                .is_none_or(|client| client == request.client_id)
    };
    match request.topics {
        Topics::Unknown => rules.iter().any(|rule| fits(&rule) && rule.topic.is_none()),
        Topics::Named(topics) if !topics.is_empty() => topics.iter().all(|topic| {
            rules
                .iter()
                .any(|rule| fits(&rule) && rule.topic.as_ref().is_none_or(|named| named == topic))
        }),
        _ => rules.iter().any(|rule| fits(&rule)),
    }
}

fn covering<'a>(endpoint: &'a Endpoint, scope: &Scope) -> Vec<&'a PortRules> {
    let covers = |port: &&PortRules| {
        port.direction == scope.direction
            && port.transport == scope.transport
            && (port.first..=port.last).contains(&scope.port)
            && port
                .peers
                .as_ref()
                .is_none_or(|peers| peers.contains(&scope.peer))
    };
    endpoint.ports.iter().filter(covers).collect()
}

/// The rule that a plain reading finds.
fn plain(ports: &[&PortRules], meets: impl Fn(&Rules) -> Option<usize>) -> Option<RuleName> {
    let name = |port: &PortRules, index| RuleName {
        origin: port.origin.as_str().into(),
        index,
    };
    if let Some(port) = ports.iter().find(|port| port.rules == Rules::All) {
        return Some(name(port, None));
    }
    ports
        .iter()
        .find_map(|port| meets(&port.rules).map(|index| name(port, Some(index))))
}

fn request(dice: &mut Dice) -> Http {
    let mut headers = HeaderMap::new();
    for _ in 0..dice.below(4) {
        let name = HeaderName::from_static(dice.pick(&NAMES));
        headers.append(name, HeaderValue::from_static(dice.pick(&VALUES)));
    }
    Http {
        method: dice.pick(&["GET", "PUT", "POST", "PATCH"]),
        path: dice.pick(&[
            "/",
            "/public",
            "/public/x",
            "/v1/a",
            "/v/a",
            "/b",
            "/xx",
            "/i.html",
            "/caf\u{e9}/1",
            "/a/c",
            "/PUBLIC",
        ]),
        host: dice.pick(&["a.org", "a.org:80", "b", "axorg"]),
        headers,
    }
}

#[test]
fn compiled_rules_say_what_a_plain_reading_says() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut cases, mut allowed, mut kinds) = (0, 0, [0; 4]);
    let mut previous: Option<Policy> = None;
    for version in 1..=1500 {
        let endpoint = Endpoint {
            id: 7,
            audit: dice.below(8) == 0,
            ports: (0..dice.below(6))
                .map(|index| port_rules(&mut dice, index))
                .collect(),
            ..Endpoint::default()
        };
        let snapshot = Snapshot {
            version,
            endpoints: vec![endpoint.clone()],
            ..Snapshot::default()
        };
        let policy = Policy::compile(&snapshot, previous.as_ref());
        for _ in 0..20 {
            // Mostly about something that there are rules for.
            let about = (!endpoint.ports.is_empty() && dice.below(5) > 0)
                .then(|| dice.pick(&endpoint.ports));
            let mut scope = Scope {
                endpoint: 7,
                direction: dice.pick(&[Direction::Ingress, Direction::Egress]),
                transport: dice.pick(&[Transport::Tcp, Transport::Udp]),
                port: dice.pick(&[53, 80, 81, 85]),
                peer: dice.pick(&NUMBERS),
            };
            let mut kind = dice.below(4);
            if let Some(port) = about {
                (scope.direction, scope.transport, scope.port) =
                    (port.direction, port.transport, port.last);
                kind = match port.rules {
                    Rules::All => kind,
                    Rules::Http(_) => 0,
                    Rules::Dns(_) => 1,
                    Rules::Kafka(_) => 2,
                    Rules::Tls(_) | Rules::Inspect(_) => 3,
                };
            }
            let (selection, ports) = (policy.select(&scope), covering(&endpoint, &scope));
            let (found, expected) = match kind {
                0 => {
                    let asked = request(&mut dice);
                    let found = selection.http(&HttpRequest {
                        method: asked.method,
                        path: asked.path,
                        host: asked.host.as_bytes(),
                        headers: &asked.headers,
                    });
                    let expected = plain(&ports, |rules| match rules {
                        Rules::Http(rules) => {
                            rules.iter().position(|rule| plain_http(rule, &asked))
                        }
                        _ => None,
                    });
                    (found, expected)
                }
                1 => {
                    let asked = dice.pick(&ASKED);
                    let expected = plain(&ports, |rules| match rules {
                        Rules::Dns(rules) => rules.iter().position(|rule| plain_dns(rule, asked)),
                        _ => None,
                    });
                    (selection.dns(&canonical(asked)), expected)
                }
                3 => {
                    let asked = dice.maybe(|dice| canonical(dice.pick(&ASKED)));
                    let expected = plain(&ports, |rules| match (rules, &asked) {
                        (Rules::Tls(rules), Some(name)) => {
                            rules.iter().position(|rule| plain_tls(rule, name))
                        }
                        _ => None,
                    });
                    let greeting = Greeting {
                        tls: true,
                        server_name: asked,
                    };
                    (selection.greeting(&greeting), expected)
                }
                _ => {
                    let topics = dice.list(3, |dice| dice.pick(&TOPICS));
                    let asked = KafkaRequest {
                        api_key: dice.pick(&[0, 1, 3, 12, 18, 19]),
                        api_version: dice.below(3) as i16,
                        client_id: dice.pick(&["one", "two", ""]),
                        topics: dice.pick(&[
                            Topics::None,
                            Topics::Unknown,
                            Topics::Named(&topics),
                            Topics::Named(&topics),
                        ]),
                    };
                    let found = selection.kafka(&asked);
                    // Topics may be allowed by several places together, so the rules of all are read as one list.
                    let all: Vec<KafkaRule> = ports
                        .iter()
                        .filter_map(|port| match &port.rules {
                            Rules::Kafka(rules) => Some(rules.clone()),
                            _ => None,
                        })
                        .flatten()
                        .collect();
                    let unlimited = ports.iter().any(|port| port.rules == Rules::All);
                    let passes = unlimited || plain_kafka(&all, &asked);
                    assert_eq!(found.rule.is_some(), passes, "{asked:?} of {ports:#?}");
                    (found.clone(), found.rule)
                }
            };
            assert_eq!(found.rule, expected, "{scope:?} of {ports:#?}");
            let denied = if endpoint.audit {
                Outcome::Audited
            } else {
                Outcome::Denied
            };
            let outcome = if expected.is_some() {
                Outcome::Allowed
            } else {
                denied
            };
            assert_eq!(found.outcome, outcome);
            cases += 1;
            kinds[kind] += 1;
            allowed += usize::from(found.rule.is_some());
        }
        previous = Some(policy);
    }
    // Worth something only if both answers are frequent, for each kind of question.
    assert!(
        cases >= 10_000 && allowed > cases / 10 && allowed < cases / 10 * 9,
        "{allowed} of {cases}"
    );
    assert!(kinds.iter().all(|count| *count > 4000), "{kinds:?}");
}

#[test]
fn the_secret_of_a_rule_is_shown_nowhere() {
    let rule = HeaderRule {
        name: "x-token".into(),
        value: Some(Value("s3cret".into())),
        mismatch: Mismatch::Reject,
    };
    let snapshot = Snapshot {
        version: 1,
        endpoints: vec![Endpoint {
            id: 1,
            ports: vec![PortRules {
                direction: Direction::Ingress,
                transport: Transport::Tcp,
                first: 80,
                last: 80,
                peers: None,
                origin: "p".into(),
                rules: Rules::Http(vec![HttpRule {
                    headers: vec![rule],
                    ..HttpRule::default()
                }]),
            }],
            ..Endpoint::default()
        }],
        ..Snapshot::default()
    };
    assert!(!format!("{snapshot:?}").contains("s3cret"));
    assert!(!format!("{:?}", Policy::compile(&snapshot, None)).contains("s3cret"));
    assert_eq!(Snapshot::decode(&snapshot.encode()).unwrap(), snapshot);
}

#[test]
fn a_rule_that_cannot_be_understood_holds_up_no_other() {
    let broken = HttpRule {
        path: Some("(".into()),
        ..HttpRule::default()
    };
    let good = HttpRule {
        path: Some("/ok".into()),
        ..HttpRule::default()
    };
    let port = PortRules {
        direction: Direction::Ingress,
        transport: Transport::Tcp,
        first: 80,
        last: 80,
        peers: None,
        origin: "shop/web".into(),
        rules: Rules::Http(vec![broken, good]),
    };
    let endpoints = vec![Endpoint {
        id: 1,
        ports: vec![port],
        ..Endpoint::default()
    }];
    let snapshot = Snapshot {
        version: 1,
        endpoints,
        ..Snapshot::default()
    };
    let policy = Policy::compile(&snapshot, None);
    assert_eq!(
        policy.problems(),
        ["shop/web: http[0].path: \"(\" is no regular expression"]
    );
    let again = Policy::compile(&snapshot, Some(&policy));
    assert_eq!(again.problems(), policy.problems());
    let selection = again.select(&Scope {
        endpoint: 1,
        direction: Direction::Ingress,
        transport: Transport::Tcp,
        port: 80,
        peer: 5,
    });
    let ask = |path| {
        selection.http(&HttpRequest {
            method: "GET",
            path,
            host: b"h",
            headers: &HeaderMap::new(),
        })
    };
    assert_eq!(ask("/ok").rule.unwrap().to_string(), "shop/web[1]");
    assert_eq!(ask("(").outcome, Outcome::Denied);
}

#[test]
fn what_is_unknown_is_refused() {
    for text in [
        r#"{"version":1,"endpoints":[],"more":1}"#,
        r#"{"version":1}"#,
        r#"{"version":-1,"endpoints":[]}"#,
        r#"{"version":1,"endpoints":[{"id":1,"ports":[]},{"id":1,"ports":[]}]}"#,
        r#"{"version":1,"endpoints":[{"id":1,"ports":[{"direction":"ingress","transport":"tcp","first":2,"last":1,"origin":"","rules":"all"}]}]}"#,
        r#"{"version":1,"endpoints":[{"id":1,"ports":[{"direction":"ingress","transport":"tcp","first":1,"last":1,"origin":"","rules":{"http":[{"paht":"/"}]}}]}]}"#,
        "",
        "[]",
    ] {
        assert!(Snapshot::decode(text.as_bytes()).is_err(), "{text}");
    }
}
