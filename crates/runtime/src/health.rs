//! How the parts of a process are: one line each, for status, metrics and the health endpoint.
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// How a component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Works.
    Ok,
    /// Works in part, or waits for something outside; tries again by itself.
    Degraded,
    /// Does not work, and the process is not healthy without it.
    Failed,
}

/// What a component said of itself last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Component, as `kubernetes/pods`.
    pub name: String,
    /// How it is.
    pub level: Level,
    /// Why, or what it does.
    pub message: String,
    /// Seconds since the level or message changed.
    pub since_seconds: u64,
    /// How often it was not well.
    pub failures: u64,
}

/// The health of all components; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<BTreeMap<String, State>>>);

#[derive(Debug)]
struct State {
    level: Level,
    message: String,
    since: Instant,
    failures: u64,
}

impl Health {
    /// A handle for the component `name`, which starts as degraded with the message "starting".
    #[must_use]
    pub fn component(&self, name: &str) -> Component {
        let component = Component {
            health: self.clone(),
            name: name.to_owned(),
        };
        component.set(Level::Degraded, "starting");
        component
    }

    /// All reports, in the order of the names.
    #[must_use]
    pub fn reports(&self) -> Vec<Report> {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let report = |(name, state): (&String, &State)| Report {
            name: name.clone(),
            level: state.level,
            message: state.message.clone(),
            since_seconds: state.since.elapsed().as_secs(),
            failures: state.failures,
        };
        states.iter().map(report).collect()
    }

    /// The worst level of all.
    #[must_use]
    pub fn worst(&self) -> Level {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states
            .values()
            .map(|state| state.level)
            .max()
            .unwrap_or(Level::Ok)
    }
}

/// One component's way to say how it is.
#[derive(Clone, Debug)]
pub struct Component {
    health: Health,
    name: String,
}

impl Component {
    /// It works.
    pub fn ok(&self, message: impl Into<String>) {
        self.set(Level::Ok, message);
    }

    /// It works in part.
    pub fn degraded(&self, message: impl Into<String>) {
        self.set(Level::Degraded, message);
    }

    /// It does not work.
    pub fn failed(&self, message: impl Into<String>) {
        self.set(Level::Failed, message);
    }

    fn set(&self, level: Level, message: impl Into<String>) {
        let message = message.into();
        let mut states = self.health.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let fresh = || State {
            level,
            message: String::new(),
            since: now,
            failures: 0,
        };
        let state = states.entry(self.name.clone()).or_insert_with(fresh);
        if state.level != level || state.message != message {
            state.since = now;
        }
        if level != Level::Ok && message != "starting" {
            state.failures += 1;
        }
        state.level = level;
        state.message = message;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_component_counts() {
        let health = Health::default();
        assert_eq!(health.worst(), Level::Ok);
        let (a, b) = (health.component("a"), health.component("b"));
        a.ok("fine");
        assert_eq!(health.worst(), Level::Degraded);
        b.failed("no map");
        assert_eq!(health.worst(), Level::Failed);
        b.ok("");
        let reports = health.reports();
        assert_eq!(
            reports
                .iter()
                .map(|r| (r.name.as_str(), r.failures))
                .collect::<Vec<_>>(),
            [("a", 0), ("b", 1)]
        );
    }
}
