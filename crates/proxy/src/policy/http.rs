//! Rules of HTTP requests, compiled.
use super::text::{Builder, Patterns, Test};
use crate::config::{HeaderRule, HttpRule, Mismatch};
use http::{HeaderMap, HeaderName, HeaderValue};

/// What the rules look at.
#[derive(Clone, Copy, Debug)]
pub struct HttpRequest<'a> {
    /// Method, as sent.
    pub method: &'a str,
    /// Path with its query, as sent.
    pub path: &'a str,
    /// Host, with its port where the client gives one.
    pub host: &'a [u8],
    /// All headers.
    pub headers: &'a HeaderMap,
}

/// What is to be done to a request that passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing: the record says that the header was not as the rule has it.
    Note(HeaderName),
    /// One more line of the header.
    Add(HeaderName, HeaderValue),
    /// No such header.
    Remove(HeaderName),
    /// This value alone.
    Replace(HeaderName, HeaderValue),
}

impl Change {
    /// The header in question.
    #[must_use]
    pub fn header(&self) -> &HeaderName {
        match self {
            Self::Note(name) | Self::Add(name, _) | Self::Remove(name) | Self::Replace(name, _) => {
                name
            }
        }
    }

    /// Does it.
    pub fn apply(&self, headers: &mut HeaderMap) {
        match self {
            Self::Note(_) => {}
            Self::Add(name, value) => {
                headers.append(name.clone(), value.clone());
            }
            Self::Remove(name) => {
                headers.remove(name);
            }
            Self::Replace(name, value) => {
                headers.insert(name.clone(), value.clone());
            }
        }
    }
}

/// Rules of one place, compiled.
#[derive(Debug)]
pub(super) struct HttpRules {
    rules: Vec<Compiled>,
    paths: Patterns,
    methods: Patterns,
    hosts: Patterns,
}

#[derive(Debug)]
struct Compiled {
    path: Test,
    method: Test,
    host: Test,
    headers: Vec<Header>,
}

#[derive(Debug)]
struct Header {
    name: HeaderName,
    value: Option<HeaderValue>,
    mismatch: Mismatch,
}

impl HttpRules {
    /// Compiles rules. One that cannot be understood allows nothing, and is told of in `problems` with its place.
    pub(super) fn compile(rules: &[HttpRule], problems: &mut Vec<String>) -> Self {
        let (mut paths, mut methods, mut hosts) =
            (Builder::default(), Builder::default(), Builder::default());
        let mut compiled = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let mut problem = |field: &str, why: String| {
                problems.push(format!("http[{index}].{field}: {why}"));
            };
            let mut test = |builder: &mut Builder, field: &str, text: Option<&String>| {
                builder.add(text.map(String::as_str)).unwrap_or_else(|why| {
                    problem(field, why);
                    Test::Never
                })
            };
            let method = test(&mut methods, "method", rule.method.as_ref());
            let host = test(&mut hosts, "host", rule.host.as_ref());
            let mut path = test(&mut paths, "path", rule.path.as_ref());
            let headers: Result<Vec<_>, _> = rule.headers.iter().map(header).collect();
            let headers = headers.unwrap_or_else(|why| {
                problem("headers", why);
                path = Test::Never;
                Vec::new()
            });
            compiled.push(Compiled {
                path,
                method,
                host,
                headers,
            });
        }
        Self {
            rules: compiled,
            paths: paths.finish(),
            methods: methods.finish(),
            hosts: hosts.finish(),
        }
    }

    /// The first rule that is met, and what it has done to the request.
    pub(super) fn first(&self, request: &HttpRequest<'_>) -> Option<(usize, Vec<Change>)> {
        let mut path = self.paths.subject(request.path.as_bytes());
        let mut method = self.methods.subject(request.method.as_bytes());
        let mut host = self.hosts.subject(request.host);
        self.rules.iter().enumerate().find_map(|(index, rule)| {
            let met =
                method.meets(&rule.method) && host.meets(&rule.host) && path.meets(&rule.path);
            let changes = met.then(|| rule.headers(request.headers)).flatten()?;
            Some((index, changes))
        })
    }
}

fn header(rule: &HeaderRule) -> Result<Header, String> {
    let name = HeaderName::from_bytes(rule.name.as_bytes())
        .map_err(|_| format!("{:?} is no name of a header", rule.name))?;
    let value = rule.value.as_ref().map(|value| {
        let mut made = HeaderValue::from_str(&value.0)
            .map_err(|_| format!("the value of {name} cannot stand in a header"))?;
        made.set_sensitive(true);
        Ok::<_, String>(made)
    });
    let value = value.transpose()?;
    if value.is_none() && matches!(rule.mismatch, Mismatch::Add | Mismatch::Replace) {
        return Err(format!("{name} has no value to be put in"));
    }
    Ok(Header {
        name,
        value,
        mismatch: rule.mismatch,
    })
}

impl Compiled {
    /// What is to be done if the headers will do.
    fn headers(&self, headers: &HeaderMap) -> Option<Vec<Change>> {
        let mut changes = Vec::new();
        for rule in &self.headers {
            if rule.met(headers) {
                continue;
            }
            let name = rule.name.clone();
            changes.push(match (rule.mismatch, &rule.value) {
                (Mismatch::Reject, _) => return None,
                (Mismatch::Delete, _) => Change::Remove(name),
                (Mismatch::Add, Some(value)) => Change::Add(name, value.clone()),
                (Mismatch::Replace, Some(value)) => Change::Replace(name, value.clone()),
                (Mismatch::Log | Mismatch::Add | Mismatch::Replace, _) => Change::Note(name),
            });
        }
        Some(changes)
    }
}

impl Header {
    /// With a value: the header is there once, and with it. A second line could say the opposite to whoever reads that one.
    fn met(&self, headers: &HeaderMap) -> bool {
        let Some(value) = &self.value else {
            return headers.contains_key(&self.name);
        };
        let mut lines = headers.get_all(&self.name).iter();
        lines.next() == Some(value) && lines.next().is_none()
    }
}
