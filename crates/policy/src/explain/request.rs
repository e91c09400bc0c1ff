//! Whether a request may pass on a connection that goes by way of the proxy: for people. The proxy has its own, fast way to the answer.
use crate::reference::{Decision, Via};
use crate::rule::{
    DnsRule, HttpRule, KafkaRole, KafkaRule, L7, L7Kind, L7Rules, Mismatch, canonical,
};
use abi::proxy::{KAFKA_CONSUME, KAFKA_PRODUCE, KAFKA_REQUESTS};
use regex::RegexBuilder;
use std::{fmt, sync::Arc};

/// Something that is asked for on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// An HTTP request.
    Http {
        /// Its method.
        method: String,
        /// Its path, with its query.
        path: String,
        /// Its host, if it is known.
        host: Option<String>,
    },
    /// A Kafka request.
    Kafka {
        /// Its name, as `produce` or `fetch`.
        request: String,
        /// The topic that it is about.
        topic: String,
    },
    /// A DNS question for this name.
    Dns(String),
    /// A connection of TLS to the server of this name.
    ServerName(String),
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The connection does not go by way of the proxy: nobody looks at requests.
    NotSeen,
    /// Every request passes.
    All,
    /// This rule allows it: `CiliumNetworkPolicy shop/web: spec.ingress[0].toPorts[0].rules.http[1]`.
    Rule {
        /// The rule.
        rule: String,
        /// What the question says nothing of, and has to be as the rule has it.
        provided: Option<&'static str>,
    },
    /// No rule allows it.
    Denied,
    /// The proxy takes the connection for another kind.
    OtherKind(L7Kind),
}

impl Request {
    const fn kind(&self) -> L7Kind {
        match self {
            Self::Http { .. } => L7Kind::Http,
            Self::Kafka { .. } => L7Kind::Kafka,
            Self::Dns(_) => L7Kind::Dns,
            Self::ServerName(_) => L7Kind::Tls,
        }
    }
}

impl Answer {
    /// True if the request passes.
    #[must_use]
    pub const fn passes(&self) -> bool {
        !matches!(self, Self::Denied | Self::OtherKind(_))
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { method, path, host } => match host {
                Some(host) => write!(f, "{method} {path} of {host}"),
                None => write!(f, "{method} {path}"),
            },
            Self::Kafka { request, topic } => write!(f, "{request} of topic {topic}"),
            Self::Dns(name) => write!(f, "the question for {name}"),
            Self::ServerName(name) => write!(f, "TLS to {name}"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSeen => f.write_str("allowed: requests are not looked at"),
            Self::All => f.write_str("allowed: every request is"),
            Self::Rule { rule, provided } => {
                write!(f, "allowed by {rule}")?;
                match provided {
                    Some(what) => write!(f, ", if its {what} are as the rule has them"),
                    None => Ok(()),
                }
            }
            Self::Denied => f.write_str("denied: no rule above the transport allows it"),
            Self::OtherKind(kind) => write!(f, "denied: the proxy takes the connection for {kind}"),
        }
    }
}

/// What becomes of a request on a connection of which this is decided at one end; none where the connection does not pass.
#[must_use]
pub fn ask(decision: &Decision, request: &Request) -> Option<Answer> {
    match decision {
        Decision::AllowedVia(via) => Some(of_via(via, request)),
        other => other.passes().then_some(Answer::NotSeen),
    }
}

fn of_via(via: &Via, request: &Request) -> Answer {
    let decrypts = |(_, l7): &(_, Arc<L7>)| matches!(*l7.rules, L7Rules::Inspect(_));
    let reads = request.kind() == L7Kind::Http && via.rules.iter().any(decrypts);
    if via.kind != request.kind() && !reads {
        return Answer::OtherKind(via.kind);
    }
    if via.all {
        return Answer::All;
    }
    let mut found = None;
    for (policy, l7) in &via.rules {
        for (place, provided) in met(&l7.rules, request) {
            let rule = format!("{policy}: {}{place}", l7.path);
            let answer = Answer::Rule { rule, provided };
            if provided.is_none() {
                return answer;
            }
            found.get_or_insert(answer);
        }
    }
    found.unwrap_or(Answer::Denied)
}

/// The rules that a request meets, by their places, and what of it matters besides.
fn met(rules: &L7Rules, request: &Request) -> Vec<(String, Option<&'static str>)> {
    match (rules, request) {
        (L7Rules::Http(rules), Request::Http { .. }) => of_http(rules, request, ""),
        (L7Rules::Inspect(rules), Request::Http { .. }) => match &rules.http {
            Some(http) => of_http(http, request, ".rules.http"),
            None => vec![(String::new(), None)],
        },
        (L7Rules::Kafka(rules), Request::Kafka { request, topic }) => {
            let rules = rules.iter().enumerate();
            let rules = rules.filter(|(_, rule)| is_about(rule, request, topic));
            let more = |rule: &KafkaRule| rule.client_id.is_some() || rule.api_version.is_some();
            let named = rules.map(|(index, rule)| {
                let provided = more(rule).then_some("version and client");
                (place("", index), provided)
            });
            named.collect()
        }
        (L7Rules::Dns(rules), Request::Dns(name)) => {
            let rules = rules.iter().enumerate();
            let rules = rules.filter(|(_, rule)| is_like(rule, name));
            rules.map(|(index, _)| (place("", index), None)).collect()
        }
        (L7Rules::Tls(names), Request::ServerName(name)) => of_names(names, name, ""),
        (L7Rules::Inspect(rules), Request::ServerName(name)) => match &rules.server_names[..] {
            [] => vec![(String::new(), None)],
            names => of_names(names, name, ".serverNames"),
        },
        _ => Vec::new(),
    }
}

fn place(list: &str, index: usize) -> String {
    format!("{list}[{index}]")
}

fn of_http(
    rules: &[HttpRule],
    request: &Request,
    list: &str,
) -> Vec<(String, Option<&'static str>)> {
    let Request::Http { method, path, host } = request else {
        return Vec::new();
    };
    let meets = |rule: &HttpRule| {
        meets(&rule.method, Some(method))
            && meets(&rule.path, Some(path))
            && meets(&rule.host, host.as_deref())
    };
    let rules = rules.iter().enumerate();
    let rules = rules.filter(|(_, rule)| meets(rule));
    let named =
        rules.map(|(index, rule)| (place(list, index), needs_headers(rule).then_some("headers")));
    named.collect()
}

fn of_names(names: &[String], name: &str, list: &str) -> Vec<(String, Option<&'static str>)> {
    let names = names.iter().enumerate();
    let names = names.filter(|(_, pattern)| is_server(pattern, name));
    names.map(|(index, _)| (place(list, index), None)).collect()
}

fn needs_headers(rule: &HttpRule) -> bool {
    rule.headers
        .iter()
        .any(|header| header.mismatch == Mismatch::Reject)
}

/// True if the rule is about such a request and topic.
fn is_about(rule: &KafkaRule, request: &str, topic: &str) -> bool {
    let key = KAFKA_REQUESTS.iter().position(|known| *known == request);
    let key = key.and_then(|key| i16::try_from(key).ok());
    let asked = match (rule.role, &rule.api_key) {
        (Some(KafkaRole::Produce), _) => key.is_some_and(|key| KAFKA_PRODUCE.contains(&key)),
        (Some(KafkaRole::Consume), _) => key.is_some_and(|key| KAFKA_CONSUME.contains(&key)),
        (None, own) => own.as_ref().is_none_or(|own| own == request),
    };
    asked && rule.topic.as_ref().is_none_or(|own| own == topic)
}

/// True if the whole text is as the expression says; a text that is not known meets any.
fn meets(expression: &Option<String>, text: Option<&str>) -> bool {
    let (Some(expression), Some(text)) = (expression, text) else {
        return true;
    };
    // A comment at its end would swallow what stands behind, but for a new line, which stands for itself elsewhere.
    let whole = [
        format!(r"\A(?:{expression})\z"),
        format!("\\A(?:{expression}\n)\\z"),
    ];
    let built = whole
        .iter()
        .find_map(|text| RegexBuilder::new(text).build().ok());
    built.is_some_and(|regex| regex.is_match(text))
}

/// As [`is_like`], of servers: two stars stand for any number of labels.
fn is_server(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("**") {
        Some("") => true,
        Some(end) => canonical(name)
            .strip_suffix(&canonical(end))
            .is_some_and(|rest| !rest.is_empty()),
        None => is_like(&DnsRule::MatchPattern(pattern.to_owned()), name),
    }
}

fn is_like(rule: &DnsRule, name: &str) -> bool {
    rule.is_met_by(&canonical(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{HeaderRule, Inspection, PolicyKind, PolicyName};

    fn via(rules: L7Rules) -> Decision {
        let policy = PolicyName {
            kind: PolicyKind::CiliumNetworkPolicy,
            namespace: "a".to_owned(),
            name: "p".to_owned(),
        };
        let l7 = L7 {
            path: "rules".to_owned(),
            rules: Arc::new(rules),
        };
        Decision::AllowedVia(Via {
            kind: l7.rules.kind(),
            sources: Vec::new(),
            rules: vec![(policy, Arc::new(l7))],
            all: false,
            conflicts: Vec::new(),
        })
    }

    #[test]
    fn the_whole_request_is_held_against_the_rules() {
        let rule = |method: &str, path: &str| HttpRule {
            method: Some(method.to_owned()),
            path: Some(path.to_owned()),
            ..HttpRule::default()
        };
        let mut guarded = rule("PUT", "/a");
        guarded.headers.push(HeaderRule::default());
        let rules = L7Rules::Http(vec![
            rule("GET|HEAD", "/a.*"),
            guarded,
            rule("GET", "(?x) /x # b"),
        ]);
        let asked = |method: &str, path: &str| {
            let request = Request::Http {
                method: method.to_owned(),
                path: path.to_owned(),
                host: None,
            };
            ask(&via(rules.clone()), &request).unwrap().to_string()
        };
        assert_eq!(
            asked("GET", "/ab"),
            "allowed by CiliumNetworkPolicy a/p: rules[0]"
        );
        assert_eq!(
            asked("GET", "/x"),
            "allowed by CiliumNetworkPolicy a/p: rules[2]"
        );
        assert!(asked("PUT", "/a").ends_with("rules[1], if its headers are as the rule has them"));
        for (method, path) in [("HEADS", "/a"), ("GET", "x/a"), ("POST", "/a")] {
            assert!(asked(method, path).starts_with("denied"), "{method} {path}");
        }
        let question = Request::Dns("a.b".to_owned());
        assert_eq!(
            ask(&via(rules), &question),
            Some(Answer::OtherKind(L7Kind::Http))
        );
        assert_eq!(ask(&Decision::NotAllowed, &question), None);
        assert_eq!(
            ask(&Decision::NotEnforced, &question),
            Some(Answer::NotSeen)
        );
    }

    #[test]
    fn topics() {
        let rules = L7Rules::Kafka(vec![
            KafkaRule {
                role: Some(KafkaRole::Produce),
                topic: Some("orders".to_owned()),
                ..KafkaRule::default()
            },
            KafkaRule {
                api_key: Some("fetch".to_owned()),
                client_id: Some("reader".to_owned()),
                ..KafkaRule::default()
            },
        ]);
        let asked = |request: &str, topic: &str| {
            let request = Request::Kafka {
                request: request.to_owned(),
                topic: topic.to_owned(),
            };
            ask(&via(rules.clone()), &request).unwrap().to_string()
        };
        for request in ["produce", "metadata"] {
            assert!(asked(request, "orders").ends_with("rules[0]"), "{request}");
            assert!(asked(request, "wages").starts_with("denied"), "{request}");
        }
        let fetched = asked("fetch", "wages");
        assert!(fetched.ends_with("rules[1], if its version and client are as the rule has them"));
    }

    #[test]
    fn names_of_servers() {
        assert!(
            is_server("**.a.org", "c.B.a.org.") && is_server("**", "a") && is_server("*.a", "b.a")
        );
        assert!(!is_server("**.a.org", "a.org") && !is_server("*.a", "c.b.a"));
        let names = L7Rules::Tls(vec!["a.org".to_owned(), "*.a.org".to_owned()]);
        let asked = |name: &str| ask(&via(names.clone()), &Request::ServerName(name.to_owned()));
        assert!(asked("b.a.org").unwrap().to_string().ends_with("rules[1]"));
        assert_eq!(asked("b.org"), Some(Answer::Denied));
    }

    #[test]
    fn what_is_decrypted_is_asked_for_by_name_and_by_request() {
        let rules = L7Rules::Inspect(Box::new(Inspection {
            server_names: vec!["a.org".to_owned()],
            http: Some(vec![HttpRule {
                method: Some("GET".to_owned()),
                ..HttpRule::default()
            }]),
            ..Inspection::default()
        }));
        let asked = |request: Request| ask(&via(rules.clone()), &request).unwrap().to_string();
        let http = |method: &str| Request::Http {
            method: method.to_owned(),
            path: "/".to_owned(),
            host: None,
        };
        assert!(asked(http("GET")).ends_with("rules.rules.http[0]"));
        assert!(asked(http("PUT")).starts_with("denied"));
        let name = |name: &str| Request::ServerName(name.to_owned());
        assert!(asked(name("a.org")).ends_with("rules.serverNames[0]"));
        assert!(asked(name("b.org")).starts_with("denied"));
        assert!(asked(Request::Dns("a".to_owned())).contains("takes the connection for tls"));
    }

    #[test]
    fn stars_stop_at_dots() {
        let like =
            |pattern: &str, name: &str| is_like(&DnsRule::MatchPattern(pattern.to_owned()), name);
        assert!(
            like("*.Example.org.", "a.example.org")
                && like("*", "a.b.c")
                && like("a*c.org", "ac.org")
        );
        assert!(!like("*.example.org", "a.b.example.org") && !like("*.org", "aorg"));
        assert!(is_like(&DnsRule::MatchName("A.b".to_owned()), "a.B."));
    }
}
