//! Exports that a file asks for: it is looked at again and again, and what it asks for anew begins or ends without a restart.
//!
//! ```yaml
//! flowLogs:
//! - name: drops
//!   filePath: /var/run/cilium/hubble/drops.log
//!   includeFilters: [{verdict: [DROPPED]}]
//!   fieldMask: [time, source.pod_name, drop_reason_desc]
//!   end: 2030-01-02T03:04:05Z
//! ```
use super::{Export, Rotation, Target, Written};
use crate::{
    observer::{Observer, wall_clock},
    watched::Watched,
};
use api::hubble::{
    flow::FlowFilter,
    json::{self, Unknown},
};
use runtime::stop::{self, Stop, Stopper};
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::PathBuf,
    sync::Arc,
};

/// One export that the file asks for.
#[derive(Clone, Debug, PartialEq)]
struct FlowLog {
    export: Export,
    /// When it ends, in nanoseconds since 1970.
    end: Option<u64>,
}

type FlowLogs = BTreeMap<String, FlowLog>;

/// How the exports of a file stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Each by name, and whether it is written: not after its end.
    pub exports: BTreeMap<String, bool>,
    /// How often one was added, changed and taken away.
    pub changes: [u64; 3],
    /// What the file in force is known by.
    pub hash: u64,
    /// When it was taken over, in seconds since 1970.
    pub applied: u64,
    /// What is wrong with the file as it is now; the last one that was right stays in force.
    pub trouble: Option<String>,
}

/// What the names of [`Standing::changes`] are.
pub const CHANGES: [&str; 3] = ["add", "update", "remove"];

struct Running {
    log: FlowLog,
    /// Ends it when it goes; none after its own end.
    stopper: Option<Stopper>,
}

/// Follows a file.
pub struct Dynamic {
    file: Watched,
    rotation: Rotation,
    observer: Observer,
    running: BTreeMap<String, Running>,
    standing: Standing,
}

impl Dynamic {
    /// The exports of a file, none of which has begun; `rotation` is that of those that do not say it.
    #[must_use]
    pub fn new(path: PathBuf, rotation: Rotation, observer: Observer) -> Self {
        Self {
            file: Watched::new(path),
            rotation,
            observer,
            running: BTreeMap::new(),
            standing: Standing::default(),
        }
    }

    /// Does what the file asks for until `stop`; `told` hears how it stands whenever that changes.
    pub async fn run(mut self, mut told: impl FnMut(&Standing) + Send, stop: Stop) {
        let mut before = None;
        loop {
            self.look();
            if before.as_ref() != Some(&self.standing) {
                told(&self.standing);
                before = Some(self.standing.clone());
            }
            if stop.or(self.file.pause()).await.is_none() {
                return;
            }
        }
    }

    fn look(&mut self) {
        if let Some(text) = self.file.look() {
            let parsed = text.and_then(|text| {
                let logs = parse(&text, self.rotation);
                let logs = logs.map_err(|problem| self.file.wrong(&problem))?;
                Ok((logs, text))
            });
            match parsed {
                Ok((logs, text)) => {
                    self.standing.trouble = None;
                    self.take(logs, &text);
                }
                Err(problem) => self.standing.trouble = Some(problem),
            }
        }
        self.end_those_that_are_over();
    }

    fn take(&mut self, mut logs: FlowLogs, text: &str) {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        self.standing.hash = hasher.finish();
        self.standing.applied = wall_clock() / 1_000_000_000;
        let mut again = 0;
        let [added, changed, removed] = &mut self.standing.changes;
        self.running.retain(|name, running| match logs.get(name) {
            Some(log) if *log == running.log => {
                logs.remove(name);
                true
            }
            Some(_) => {
                *changed += 1;
                again += 1;
                false
            }
            None => {
                *removed += 1;
                false
            }
        });
        *added += logs.len() as u64 - again;
        for (name, log) in logs {
            let stopper = self.begin(&name, &log);
            self.running.insert(name, Running { log, stopper });
        }
    }

    fn begin(&self, name: &str, log: &FlowLog) -> Option<Stopper> {
        if log.end.is_some_and(|end| end <= wall_clock()) {
            return None;
        }
        let (stopper, stop) = stop::channel();
        let (export, observer, name) = (log.export.clone(), self.observer.clone(), name.to_owned());
        tokio::spawn(async move {
            // What the file says was looked at before.
            if let Err(error) = export
                .run(observer, Arc::new(Written::default()), stop)
                .await
            {
                tracing::warn!(%error, %name, "an export ended");
            }
        });
        Some(stopper)
    }

    fn end_those_that_are_over(&mut self) {
        let now = wall_clock();
        for running in self.running.values_mut() {
            if running.log.end.is_some_and(|end| end <= now) {
                running.stopper = None;
            }
        }
        let exports = self.running.iter();
        self.standing.exports = exports
            .map(|(name, running)| (name.clone(), running.stopper.is_some()))
            .collect();
    }
}

/// What a file asks for: all of it, or what is wrong.
fn parse(text: &str, rotation: Rotation) -> Result<FlowLogs, String> {
    if text.trim().is_empty() {
        return Ok(FlowLogs::new());
    }
    let file: Map<String, Value> =
        serde_saphyr::from_str(text).map_err(|error| format!("no YAML of an object: {error}"))?;
    let mut logs = FlowLogs::new();
    let mut paths = BTreeMap::new();
    for (key, value) in &file {
        if key != "flowLogs" {
            return Err(format!("it has {key:?}; accepted is flowLogs"));
        }
        for (place, entry) in list(value, key)?.iter().enumerate() {
            let (name, log) = flow_log(entry, rotation)
                .map_err(|problem| format!("flowLogs[{place}]: {problem}"))?;
            if let Target::File(path) = &log.export.target
                && let Some(other) = paths.insert(path.clone(), name.clone())
            {
                return Err(format!(
                    "{other:?} and {name:?} write to the same file {}",
                    path.display()
                ));
            }
            if logs.contains_key(&name) {
                return Err(format!("two exports are called {name:?}"));
            }
            logs.insert(name, log);
        }
    }
    Ok(logs)
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a [Value], String> {
    match value {
        Value::Null => Ok(&[]),
        Value::Array(list) => Ok(list),
        _ => Err(format!("{key}: no list")),
    }
}

fn flow_log(entry: &Value, rotation: Rotation) -> Result<(String, FlowLog), String> {
    let entry = entry.as_object().ok_or("no object")?;
    let mut name = String::new();
    let mut path = String::new();
    let mut log = FlowLog {
        export: Export {
            rotation,
            ..Export::default()
        },
        end: None,
    };
    for (key, value) in entry {
        let text = || value.as_str().ok_or_else(|| format!("{key}: no text"));
        let number = || value.as_u64().ok_or_else(|| format!("{key}: no number"));
        match key.as_str() {
            "name" => text()?.clone_into(&mut name),
            "filePath" => text()?.clone_into(&mut path),
            "fieldMask" => {
                let fields = list(value, key)?.iter();
                let fields = fields.map(|field| field.as_str().map(str::to_owned));
                let fields: Option<Vec<String>> = fields.collect();
                log.export.fields = fields.ok_or_else(|| format!("{key}: no list of texts"))?;
            }
            "includeFilters" => log.export.wanted = filters(value, key)?,
            "excludeFilters" => log.export.unwanted = filters(value, key)?,
            "fileMaxSizeMb" => log.export.rotation.size = number()?.max(1) << 20,
            "fileMaxBackups" => {
                log.export.rotation.backups = usize::try_from(number()?).unwrap_or(usize::MAX);
            }
            "end" if value.is_null() => {}
            "end" => log.end = Some(moment(text()?)?),
            _ => {
                return Err(format!(
                    "it has {key:?}; accepted are name, filePath, fieldMask, includeFilters, excludeFilters, fileMaxSizeMb, fileMaxBackups and end"
                ));
            }
        }
    }
    if name.is_empty() || path.is_empty() {
        return Err("it has no name or no filePath; both are needed".to_owned());
    }
    log.export.target = Target::parse(&path);
    log.export.check().map_err(|error| error.to_string())?;
    Ok((name, log))
}

/// Filters of the flow API.
pub(crate) fn filters(value: &Value, key: &str) -> Result<Vec<FlowFilter>, String> {
    let filters = list(value, key)?.iter();
    filters
        .map(|filter| json::from_str(&filter.to_string(), Unknown::Refuse))
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{key}: {error}"))
}

/// Nanoseconds since 1970 of a time as RFC 3339 has it.
fn moment(text: &str) -> Result<u64, String> {
    let time: prost_types::Timestamp = text.trim().parse().map_err(|_| {
        format!("end: {text:?} is no time; accepted are times as 2030-01-02T03:04:05Z")
    })?;
    Ok(crate::record::nanos(&time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<String>, String> {
        parse(text, Rotation::default()).map(|logs| logs.into_keys().collect())
    }

    const TWO: &str = r#"
flowLogs:
- name: drops
  filePath: /a/drops.log
  includeFilters: [{verdict: [DROPPED]}]
  fieldMask: [time, source.pod_name]
  end: 2030-01-02T03:04:05+01:00
- {name: all, filePath: stdout, excludeFilters: [], fileMaxSizeMb: 3}
"#;

    #[test]
    fn a_file_is_taken_whole_or_refused() {
        assert_eq!(parsed(TWO), Ok(vec!["all".into(), "drops".into()]));
        assert_eq!(parsed(""), Ok(vec![]));
        assert_eq!(parsed("flowLogs:"), Ok(vec![]));
        let logs = parse(TWO, Rotation::default()).unwrap();
        assert_eq!(logs["drops"].end, Some(1_893_549_845_000_000_000));
        assert_eq!(
            (logs["all"].end, logs["all"].export.rotation.size),
            (None, 3 << 20)
        );
        for (text, says) in [
            ("flowLogs: [{name: a}]", "filePath"),
            ("flowLogs: [{filePath: /a}]", "name"),
            (
                "flowLogs: [{name: a, filePath: /a}, {name: a, filePath: /b}]",
                "called \"a\"",
            ),
            (
                "flowLogs: [{name: a, filePath: /a}, {name: b, filePath: /a}]",
                "same file /a",
            ),
            (
                "flowLogs: [{name: a, filePath: /a, fields: []}]",
                "\"fields\"",
            ),
            ("flowLogs: [{name: a, filePath: /a, end: soon}]", "soon"),
            (
                "flowLogs: [{name: a, filePath: /a, fieldMask: [x.y]}]",
                "x.y",
            ),
            (
                "flowLogs: [{name: a, filePath: /a, includeFilters: [{verdict: [LOST]}]}]",
                "includeFilters",
            ),
            (
                "flowLogs: [{name: a, filePath: /a, includeFilters: [{source_ip: [x]}]}]",
                "source_ip",
            ),
            ("flows: []", "flowLogs"),
            ("[", "YAML"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn changes_begin_and_end_exports() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flowlogs.yaml");
        let log = |name: &str, more: &str| {
            let file = directory.path().join(name);
            format!("- {{name: {name}, filePath: {}{more}}}\n", file.display())
        };
        let put = |logs: &[String]| {
            std::fs::write(&path, format!("flowLogs:\n{}", logs.concat())).unwrap()
        };
        let observer = Observer::new(7, crate::record::About::default());
        let mut dynamic = Dynamic::new(path.clone(), Rotation::default(), observer);
        dynamic.look();
        let trouble = dynamic.standing.trouble.clone().unwrap();
        assert!(trouble.contains("flowlogs.yaml"), "{trouble}");
        put(&[
            log("a", ""),
            log("b", ""),
            log("c", ", end: 2001-01-01T00:00:00Z"),
        ]);
        dynamic.look();
        let standing = |dynamic: &Dynamic| {
            let all = dynamic.standing.exports.iter();
            let all: Vec<(String, bool)> = all.map(|(name, up)| (name.clone(), *up)).collect();
            (all, dynamic.standing.changes)
        };
        let (a, b, c) = (
            ("a".to_owned(), true),
            ("b".to_owned(), true),
            ("c".to_owned(), false),
        );
        assert_eq!(standing(&dynamic), (vec![a.clone(), b, c], [3, 0, 0]));
        assert_eq!(dynamic.standing.trouble, None);
        let hash = dynamic.standing.hash;
        // A mistake leaves what there is.
        std::fs::write(&path, "flowLogs: 7").unwrap();
        dynamic.look();
        assert!(dynamic.standing.trouble.is_some() && dynamic.standing.hash == hash);
        assert_eq!(dynamic.standing.exports.len(), 3);
        put(&[log("a", ""), log("b", ", fieldMask: [time]"), log("d", "")]);
        dynamic.look();
        let (all, changes) = standing(&dynamic);
        assert_eq!((all.len(), changes), (3, [4, 1, 1]));
        assert_eq!(all[0], a);
        assert_ne!(dynamic.standing.hash, hash);
    }
}
