//! How the controllers are, as plain values.
use jiff::Timestamp;
use serde::Serialize;

use crate::{Key, write::Failure};

/// How a controller is.
#[derive(Clone, Debug, Serialize)]
pub struct ControllerHealth {
    /// Its name.
    pub name: &'static str,
    /// Kinds that have not been listed yet, or whose watch does not work at the moment. Before the first complete list of
    /// all its kinds a controller does nothing.
    pub waiting_for: Vec<Missing>,
    /// Keys that wait to be looked at, or are being worked on.
    pub queued: usize,
    /// Keys whose last writes failed.
    pub failing: usize,
    /// Plans made since the start.
    pub plans: u64,
    /// Writes begun since the start.
    pub writes: u64,
    /// Failures since the start; conflicts with others' writes are none.
    pub errors: u64,
    /// The last failure.
    pub last_error: Option<LastError>,
}

/// A kind that is not there yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Its plural name.
    pub kind: &'static str,
    /// Why, if that is known.
    pub error: Option<String>,
}

/// A failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// The object it was about.
    pub key: String,
    /// What the server said.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

impl ControllerHealth {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            waiting_for: Vec::new(),
            queued: 0,
            failing: 0,
            plans: 0,
            writes: 0,
            errors: 0,
            last_error: None,
        }
    }

    pub(crate) fn failed(&mut self, key: &Key, failure: &Failure, at: Timestamp) {
        self.errors += 1;
        self.last_error = Some(LastError {
            key: key.to_string(),
            message: failure.message.clone(),
            at,
        });
    }

    /// Whether it works: all its kinds are watched and nothing fails.
    pub fn is_well(&self) -> bool {
        self.waiting_for.is_empty() && self.failing == 0
    }
}
