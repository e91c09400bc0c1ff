//! Query options.

use std::time::Duration;

use super::super::error::ApiError;
use super::super::kind::Kind;
use super::super::selector::{FieldSelector, LabelSelector};
use super::super::store::{
    DeleteOptions, Filter, ListOptions, Propagation, RevisionMatch, UnknownFields, Warnings,
    WatchStart, WriteOptions,
};
use super::path::percent_decode;

/// Longest text of a selector or token.
const MAX_VALUE: usize = 64 << 10;

/// The options of a request, decoded.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

/// What a watch was asked for.
#[derive(Debug)]
pub struct WatchOptions {
    /// Which objects.
    pub filter: Filter,
    /// Where to begin.
    pub start: WatchStart,
    /// The revision that the initial objects may not be older than.
    pub not_older: Option<u64>,
    /// Whether to tell the revision now and then.
    pub bookmarks: bool,
    /// Whether to tell where the initial objects end.
    pub mark_initial: bool,
    /// How long at most.
    pub timeout: Option<Duration>,
}

impl Query {
    /// Decodes a query string. Unknown options are left alone, as the protocol wants.
    pub fn parse(text: Option<&str>) -> Result<Self, ApiError> {
        let mut options = Vec::new();
        for pair in text
            .unwrap_or_default()
            .split('&')
            .filter(|p| !p.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = percent_decode(name, true).zip(percent_decode(value, true));
            let Some((name, value)) = decoded.filter(|(_, v)| v.len() <= MAX_VALUE) else {
                return Err(ApiError::bad_request(format!(
                    "the query option \"{name}\" is malformed or too long"
                )));
            };
            options.push((name, value));
        }
        Ok(Self(options))
    }

    /// The value of an option; an empty one counts as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
            .filter(|v| !v.is_empty())
    }

    /// Every value of an option that may be given several times.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let same = move |(n, value): &'a (String, String)| (n == name).then_some(value.as_str());
        self.0.iter().filter_map(same)
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some("true" | "True" | "TRUE" | "t" | "1") => Ok(Some(true)),
            Some("false" | "False" | "FALSE" | "f" | "0") => Ok(Some(false)),
            Some(other) => Err(ApiError::bad_request(format!(
                "{name}: \"{other}\" is neither true nor false"
            ))),
        }
    }

    fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                ApiError::bad_request(format!("{name}: \"{text}\" is not a whole number from 0"))
            })
        };
        self.get(name).map(parse).transpose()
    }

    /// Whether a GET of a collection is a watch.
    pub fn is_watch(&self) -> Result<bool, ApiError> {
        Ok(self.flag("watch")?.unwrap_or(false))
    }

    /// Which objects a request is about.
    pub fn filter(&self, kind: &Kind, namespace: Option<&str>) -> Result<Filter, ApiError> {
        let fields = self.get("fieldSelector").unwrap_or_default();
        let fields = match kind.face {
            Some(face) => &face.selector(fields),
            None => fields,
        };
        Ok(Filter {
            namespace: namespace.map(str::to_owned),
            labels: LabelSelector::parse(self.get("labelSelector").unwrap_or_default())?,
            fields: FieldSelector::parse(kind, fields)?,
        })
    }

    /// Options of a list.
    pub fn list(&self, kind: &Kind, namespace: Option<&str>) -> Result<ListOptions, ApiError> {
        let limit = self
            .number("limit")?
            .map(|l| usize::try_from(l).unwrap_or(usize::MAX))
            .filter(|l| *l > 0);
        let token = self.get("continue").map(str::to_owned);
        if self.flag("sendInitialEvents")?.is_some() {
            return Err(ApiError::bad_request(
                "sendInitialEvents is forbidden for list",
            ));
        }
        let revision = self.number("resourceVersion")?;
        let revision = match (self.get("resourceVersionMatch"), revision) {
            (Some("Exact"), Some(revision)) if revision > 0 => RevisionMatch::Exact(revision),
            (Some("Exact"), _) => {
                return Err(ApiError::bad_request(
                    "resourceVersionMatch \"Exact\" needs a resourceVersion above 0",
                ));
            }
            (Some("NotOlderThan"), Some(revision)) => RevisionMatch::NotOlderThan(revision),
            (Some(other), _) => {
                return Err(ApiError::bad_request(format!(
                    "resourceVersionMatch \"{other}\" is unknown or lacks a resourceVersion"
                )));
            }
            // As in every server that pages: a page of a given revision is of exactly that one.
            (None, Some(revision)) if revision > 0 && limit.is_some() => {
                RevisionMatch::Exact(revision)
            }
            (None, Some(revision)) => RevisionMatch::NotOlderThan(revision),
            (None, None) => RevisionMatch::Newest,
        };
        Ok(ListOptions {
            filter: self.filter(kind, namespace)?,
            limit,
            token,
            revision,
        })
    }

    /// Options of a watch.
    pub fn watch(&self, kind: &Kind, namespace: Option<&str>) -> Result<WatchOptions, ApiError> {
        let revision = self.number("resourceVersion")?;
        let initial = self.flag("sendInitialEvents")?;
        let matching = self.get("resourceVersionMatch");
        if initial.is_some() && matching != Some("NotOlderThan") {
            return Err(ApiError::bad_request(
                "sendInitialEvents needs resourceVersionMatch=NotOlderThan",
            ));
        }
        if initial.is_none() && matching.is_some() {
            return Err(ApiError::bad_request(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is given",
            ));
        }
        let start = match (initial, revision.filter(|r| *r > 0)) {
            (Some(true), _) | (None, None) => WatchStart::Everything,
            (Some(false), None) => WatchStart::Now,
            (_, Some(revision)) => WatchStart::After(revision),
        };
        let bookmarks = self.flag("allowWatchBookmarks")?.unwrap_or(false);
        Ok(WatchOptions {
            filter: self.filter(kind, namespace)?,
            start,
            not_older: revision.filter(|_| initial == Some(true)),
            bookmarks,
            mark_initial: bookmarks && initial == Some(true),
            timeout: self
                .number("timeoutSeconds")?
                .filter(|s| *s > 0)
                .map(Duration::from_secs),
        })
    }

    /// Options of a write by somebody who calls itself `agent` unless the request says otherwise.
    pub fn write(&self, agent: &str) -> Result<WriteOptions, ApiError> {
        let unknown = match self.get("fieldValidation") {
            Some("Ignore") => UnknownFields::Drop,
            None | Some("Warn") => UnknownFields::Warn,
            Some("Strict") => UnknownFields::Refuse,
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "fieldValidation: \"{other}\" is none of Ignore, Warn, Strict"
                )));
            }
        };
        Ok(WriteOptions {
            dry_run: self.dry_run()?,
            unknown,
            manager: Some(self.manager(agent)?),
            repeated: Vec::new(),
            force: self.flag("force")?.unwrap_or(false),
            warnings: Warnings::default(),
        })
    }

    /// Under what name fields are owned.
    fn manager(&self, agent: &str) -> Result<String, ApiError> {
        match self.get("fieldManager") {
            Some(name) if name.len() > 128 || name.chars().any(char::is_control) => {
                Err(ApiError::bad_request(
                    "fieldManager: must have at most 128 characters that can be printed",
                ))
            }
            Some(name) => Ok(name.to_owned()),
            None => {
                let name = agent.split('/').next().unwrap_or_default();
                let name: String = name.chars().filter(|c| !c.is_control()).take(128).collect();
                Ok(if name.is_empty() {
                    "unknown".to_owned()
                } else {
                    name
                })
            }
        }
    }

    fn propagation(&self, body: &serde_json::Value) -> Result<Propagation, ApiError> {
        let given = body["propagationPolicy"]
            .as_str()
            .or(self.get("propagationPolicy"));
        match given {
            Some("Background") => Ok(Propagation::Background),
            Some("Foreground") => Ok(Propagation::Foreground),
            Some("Orphan") => Ok(Propagation::Orphan),
            Some(other) => Err(ApiError::bad_request(format!(
                "propagationPolicy: \"{other}\" is none of Background, Foreground, Orphan"
            ))),
            None if body["orphanDependents"] == true => Ok(Propagation::Orphan),
            None => Ok(Propagation::default()),
        }
    }

    fn dry_run(&self) -> Result<bool, ApiError> {
        match self.get("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(ApiError::bad_request(format!(
                "dryRun: \"{other}\" is not \"All\""
            ))),
        }
    }

    /// Options of a deletion, those of the body (`DeleteOptions`) completed by those of the query.
    pub fn delete(&self, body: &serde_json::Value) -> Result<DeleteOptions, ApiError> {
        if !body.is_null() && !body.is_object() {
            return Err(ApiError::bad_request(
                "the body of a deletion is not a DeleteOptions object",
            ));
        }
        let text = |field: &str| body["preconditions"][field].as_str().map(str::to_owned);
        let asked = &body["gracePeriodSeconds"];
        if !asked.is_null() && !asked.is_i64() {
            return Err(ApiError::bad_request(format!(
                "gracePeriodSeconds: {asked} is not a whole number of seconds"
            )));
        }
        let grace_period = match asked.as_i64() {
            Some(seconds) => Some(seconds),
            None => self
                .number("gracePeriodSeconds")?
                .map(|s| i64::try_from(s).unwrap_or(i64::MAX)),
        };
        let dry_run = self.dry_run()? || body["dryRun"].as_array().is_some_and(|d| !d.is_empty());
        Ok(DeleteOptions {
            grace_period,
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            propagation: self.propagation(body)?,
            dry_run,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::kinds;
    use super::*;
    use proptest::prelude::*;

    fn query(text: &str) -> Query {
        Query::parse(Some(text)).unwrap()
    }

    #[test]
    fn watches() {
        let pod = kinds::pod();
        let start = |text: &str| query(text).watch(&pod, None).map(|w| w.start);
        assert_eq!(start("").unwrap(), WatchStart::Everything);
        assert_eq!(start("resourceVersion=0").unwrap(), WatchStart::Everything);
        assert_eq!(start("resourceVersion=7").unwrap(), WatchStart::After(7));
        assert_eq!(
            start("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=7")
                .unwrap(),
            WatchStart::Everything
        );
        assert!(start("sendInitialEvents=true").is_err());
        assert!(start("resourceVersion=x").is_err());
        assert!(start("labelSelector=%2C").is_err());
    }

    #[test]
    fn lists() {
        let pod = kinds::pod();
        let revision = |text: &str| query(text).list(&pod, None).map(|l| l.revision);
        assert_eq!(revision("").unwrap(), RevisionMatch::Newest);
        assert_eq!(
            revision("resourceVersion=5").unwrap(),
            RevisionMatch::NotOlderThan(5)
        );
        assert_eq!(
            revision("resourceVersion=5&limit=2").unwrap(),
            RevisionMatch::Exact(5)
        );
        assert!(revision("resourceVersionMatch=Exact").is_err());
        assert!(revision("limit=-1").is_err());
        assert!(Query::parse(Some("a=%")).is_err());
    }

    proptest! {
        #[test]
        fn any_query_is_fine(text in "((limit|watch|continue|resourceVersion|labelSelector|fieldSelector|dryRun)=[a-z0-9%=!,+]{0,8}&?){0,5}") {
            let pod = kinds::pod();
            if let Ok(query) = Query::parse(Some(&text)) {
                let _ = (query.list(&pod, None), query.watch(&pod, Some("d")), query.write("x/1"), query.is_watch());
                let _ = query.delete(&serde_json::Value::Null);
            }
        }
    }
}
