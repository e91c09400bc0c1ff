//! What the supervisor tells `hypha lab up` while it brings a lab up: one JSON object per line on standard output.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::Mutex;
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// A step is done.
    Step {
        /// What.
        text: String,
        /// How long it took.
        ms: u64,
    },
    /// The lab is in service.
    Ready {
        /// How long all took.
        ms: u64,
    },
    /// It does not come up, and everything is cleaned.
    Failed {
        /// Why.
        message: String,
    },
}

/// Tells it, and counts time.
pub struct Reporter {
    start: Instant,
    last: Mutex<Instant>,
}

fn millis(since: Instant) -> u64 {
    since.elapsed().as_millis().try_into().unwrap_or(u64::MAX)
}

impl Reporter {
    /// Time runs from now.
    #[allow(clippy::new_without_default, reason = "it starts a clock")]
    pub fn new() -> Reporter {
        let start = Instant::now();
        Reporter {
            start,
            last: Mutex::new(start),
        }
    }

    fn tell(&self, progress: &Progress) {
        let Ok(mut line) = serde_json::to_string(progress) else {
            return;
        };
        line.push('\n');
        // Whoever listened may be gone.
        let mut out = io::stdout();
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    }

    /// A step is done.
    pub fn step(&self, text: &str) {
        let mut last = self
            .last
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        self.tell(&Progress::Step {
            text: text.to_owned(),
            ms: millis(*last),
        });
        *last = Instant::now();
        tracing::info!("{text}");
    }

    /// The lab is in service; nothing more will be told.
    pub fn ready(&self) {
        self.tell(&Progress::Ready {
            ms: millis(self.start),
        });
        if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
            let _ = nix::unistd::dup2_stdout(&null);
        }
    }

    /// It failed.
    pub fn failed(&self, message: &str) {
        self.tell(&Progress::Failed {
            message: message.to_owned(),
        });
    }
}
