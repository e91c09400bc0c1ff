//! Rules of Kafka requests, compiled.
use crate::config::{KafkaRule, Role};
use abi::proxy::{KAFKA_CONSUME, KAFKA_PRODUCE, KAFKA_REQUESTS};

/// Name of a request.
#[must_use]
pub fn api_name(key: i16) -> Option<&'static str> {
    KAFKA_REQUESTS.get(usize::try_from(key).ok()?).copied()
}

/// What the rules look at.
#[derive(Clone, Copy, Debug)]
pub struct KafkaRequest<'a> {
    /// Number of the request.
    pub api_key: i16,
    /// Its version.
    pub api_version: i16,
    /// What the client calls itself.
    pub client_id: &'a str,
    /// The topics that it is about.
    pub topics: Topics<'a>,
}

/// The topics that a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topics<'a> {
    /// Such requests have none, or this one adds none to those that were asked about before.
    None,
    /// These.
    Named(&'a [&'a str]),
    /// All that there are, or ones that cannot be told: rules that name a topic do not allow it.
    Unknown,
}

/// Rules of one place, compiled.
#[derive(Debug, Default)]
pub(super) struct KafkaRules {
    rules: Vec<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    keys: Option<Box<[i16]>>,
    version: Option<i16>,
    client: Option<Box<str>>,
    topic: Option<Box<str>>,
}

impl KafkaRules {
    pub(super) fn compile(rules: &[KafkaRule], problems: &mut Vec<String>) -> Self {
        let mut compiled = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let keys = keys(rule).unwrap_or_else(|why| {
                problems.push(format!("kafka[{index}].apiKey: {why}"));
                Some(Box::default())
            });
            let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
            compiled.push(Compiled {
                keys,
                version: rule.api_version,
                client: given(&rule.client_id).map(String::into_boxed_str),
                topic: given(&rule.topic).map(String::into_boxed_str),
            });
        }
        Self { rules: compiled }
    }

    /// The first rule that allows the request, or the first of those that together allow all its topics.
    pub(super) fn first(&self, request: &KafkaRequest<'_>) -> Option<usize> {
        let meet = |topic: Option<&str>| {
            let mut rules = self.rules.iter();
            rules.position(|rule| {
                let named = rule.topic.as_deref();
                rule.fits(request) && topic.is_none_or(|topic| named.is_none_or(|n| n == topic))
            })
        };
        match request.topics {
            Topics::None => meet(None),
            Topics::Unknown => self
                .rules
                .iter()
                .position(|rule| rule.fits(request) && rule.topic.is_none()),
            Topics::Named([]) => meet(None),
            Topics::Named(topics) => {
                let found: Option<Vec<usize>> = topics.iter().map(|t| meet(Some(t))).collect();
                found?.into_iter().min()
            }
        }
    }
}

fn keys(rule: &KafkaRule) -> Result<Option<Box<[i16]>>, String> {
    match (rule.role, &rule.api_key) {
        (Some(Role::Produce), None) => Ok(Some(KAFKA_PRODUCE.into())),
        (Some(Role::Consume), None) => Ok(Some(KAFKA_CONSUME.into())),
        (None, Some(name)) if !name.is_empty() => {
            let lower = name.to_ascii_lowercase();
            let at = KAFKA_REQUESTS.iter().position(|known| *known == lower);
            let key = at.and_then(|at| i16::try_from(at).ok());
            let key = key.ok_or_else(|| format!("{name:?} is no request, as fetch is"))?;
            Ok(Some([key].into()))
        }
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err("a role and a request exclude each other".into()),
    }
}

impl Compiled {
    /// Whether all but the topic is as the rule says.
    fn fits(&self, request: &KafkaRequest<'_>) -> bool {
        self.keys
            .as_ref()
            .is_none_or(|keys| keys.contains(&request.api_key))
            && self.version.is_none_or(|v| v == request.api_version)
            && self
                .client
                .as_deref()
                .is_none_or(|c| c == request.client_id)
    }
}
