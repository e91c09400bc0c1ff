//! A file that is looked at again and again: what is mounted into a pod changes without anybody being told.
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// How often.
const LOOK: Duration = Duration::from_secs(5);

/// A file with what was in it.
#[derive(Debug)]
pub(crate) struct Watched {
    path: PathBuf,
    text: Option<Result<String, String>>,
}

impl Watched {
    pub fn new(path: PathBuf) -> Self {
        Self { path, text: None }
    }

    /// What is in the file, or why nobody knows; none if that is as it was.
    pub fn look(&mut self) -> Option<Result<String, String>> {
        let now = std::fs::read_to_string(&self.path);
        let now = Some(now.map_err(|error| self.wrong(&error.to_string())));
        if now == self.text {
            return None;
        }
        self.text = now;
        self.text.clone()
    }

    /// Says of the file what is wrong with it.
    pub fn wrong(&self, problem: &str) -> String {
        format!("{}: {problem}", Path::display(&self.path))
    }

    /// Until it is to be looked at again.
    pub async fn pause(&self) {
        tokio::time::sleep(LOOK).await;
    }
}
