//! Bringing a release into a cluster, changing it, taking it away.
//!
//! Everything is tried first without storing it, so that what the API server refuses is known before anything is changed. What
//! fails all the same is recorded as failed, and the error says what is there.
mod history;
mod objects;
mod rollout;
mod steps;

pub use history::History;
pub use objects::{Objects, Outcome, identity, title};
pub use rollout::{Rollout, Workload, wait};
pub use steps::{Plan, Release, Removed};

use k8s::error::says;
use serde_json::Value;

use crate::render::RenderError;

/// A release could not be brought where it should be.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The values or the chart.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// The API server refuses an object, or does not answer.
    #[error("{object}: {text}")]
    Refused {
        /// Which object.
        object: String,
        /// What the API server says.
        text: String,
    },
    /// Records of the release.
    #[error("the release's records: {0}")]
    Records(String),
    /// The release is there, or is not, or is being worked on.
    #[error("{0}")]
    Release(String),
    /// Something was changed before it failed.
    #[error("{cause}; changed so far: {}; {undo}", if .done.is_empty() { "nothing".to_owned() } else { .done.join(", ") })]
    Half {
        /// What failed.
        cause: Box<ApplyError>,
        /// Objects that were changed.
        done: Vec<String>,
        /// What to do about it.
        undo: String,
    },
}

impl ApplyError {
    fn refused(object: &Value, text: impl Into<String>) -> Self {
        Self::Refused {
            object: title(object),
            text: text.into(),
        }
    }

    /// In one line, whatever the API server said.
    fn of(object: &Value, error: &kube::Error) -> Self {
        let mut text = says(error).split_whitespace().collect::<Vec<_>>().join(" ");
        if let kube::Error::Api(status) = error {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
            match status.code {
                409 => text.push_str("; --force-conflicts takes the fields over"),
                403 => {
                    text.push_str("; whoever installs needs the rights of a cluster administrator")
                }
                404 if text.contains("namespaces") => {
                    text.push_str(&format!("; kubectl create namespace {namespace} makes it"));
                }
                _ => {}
            }
        }
        Self::refused(object, text)
    }
}
