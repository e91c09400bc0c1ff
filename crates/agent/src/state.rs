//! The state file: what an agent must know again after a restart and the kernel's maps do not tell.
//!
//! It is written before a request is answered, by one writer for all requests that came meanwhile. It is replaced whole (a new
//! file, renamed), so a reader sees the old one or the new one. It is not synced to a disk: the state directory is in
//! memory on every node, and what it describes does not survive a reboot either.
use anyhow::{Context, Result};
use ipnet::IpNet;
use model::{Departure, Endpoint, LocalNode, Node, Tables};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
};

/// Version of the file's format.
const FORMAT: u32 = 1;

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// Version of the format; other versions are not read.
    pub format: u32,
    /// This node's object, ranges and router addresses as last used; lets the agent start without the API server.
    pub node: Option<SavedNode>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Deleted endpoints that were not buried yet.
    pub departures: Vec<Departure>,
}

/// What is kept of [`LocalNode`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SavedNode {
    /// The node object.
    pub node: Node,
    /// Where the ranges were from, the setting `ipam`; empty in files of the first version, which knew one way.
    pub ipam: String,
    /// The ranges by pool.
    pub pools: BTreeMap<String, Vec<IpNet>>,
    /// The routers' addresses.
    pub routers: Vec<IpAddr>,
    /// The node's own setting of whether what policy denies is forwarded.
    pub policy_audit: Option<bool>,
}

impl SavedNode {
    fn of(local: &LocalNode, ipam: &str) -> Self {
        let routers = [local.router(false), local.router(true)];
        Self {
            node: local.node.clone(),
            ipam: ipam.to_owned(),
            pools: local.pools.clone(),
            routers: routers.into_iter().flatten().collect(),
            policy_audit: local.policy_audit,
        }
    }
}

/// Reads the state file; none if there is no usable one, with the reason in the log.
#[must_use]
pub fn read(path: &Path) -> Option<State> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the state file cannot be read; endpoints are taken from the kernel's maps only");
            return None;
        }
    };
    match serde_json::from_slice::<State>(&text) {
        Ok(state) if state.format == FORMAT => Some(state),
        Ok(state) => {
            tracing::warn!(path = %path.display(), format = state.format, "the state file has another format and is not used");
            None
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the state file is damaged and is not used");
            None
        }
    }
}

/// Makes a directory that only root can read.
///
/// # Errors
/// It cannot be made.
pub fn private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("making {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("protecting {}", path.display()))
}

/// Writes the state file; cheap to clone.
#[derive(Clone, Debug)]
pub struct StateFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    tables: Tables,
    ipam: String,
    progress: Mutex<Progress>,
    written: Condvar,
}

/// Requests are numbered; a write covers every request that was made before it began.
#[derive(Debug, Default)]
struct Progress {
    wanted: u64,
    done: u64,
    failed: Option<(u64, String)>,
    writing: bool,
}

impl StateFile {
    /// A writer of `path` from the rows of `tables`.
    #[must_use]
    pub fn new(path: PathBuf, tables: Tables, ipam: String) -> Self {
        Self(Arc::new(Inner {
            path,
            tables,
            ipam,
            progress: Mutex::default(),
            written: Condvar::new(),
        }))
    }

    /// Returns when everything that was in the tables at the call is in the file. The first of several callers writes for
    /// all that came until then; blocks, so call it off the async workers.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self) -> Result<()> {
        let inner = &*self.0;
        let mut progress = inner
            .progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        progress.wanted += 1;
        let mine = progress.wanted;
        loop {
            if progress.done >= mine {
                return match &progress.failed {
                    Some((at, error)) if *at >= mine => {
                        Err(anyhow::anyhow!("writing {}: {error}", inner.path.display()))
                    }
                    _ => Ok(()),
                };
            }
            if progress.writing {
                progress = inner
                    .written
                    .wait(progress)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            progress.writing = true;
            let covers = progress.wanted;
            drop(progress);
            let outcome = inner.write();
            progress = inner
                .progress
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            progress.writing = false;
            progress.done = covers;
            progress.failed = outcome.err().map(|error| (covers, error.to_string()));
            inner.written.notify_all();
        }
    }
}

impl Inner {
    fn write(&self) -> io::Result<()> {
        let snapshot = self.tables.db.snapshot();
        let saved = |local: &Arc<LocalNode>| SavedNode::of(local, &self.ipam);
        let state = View {
            format: FORMAT,
            node: self.tables.local_node.iter(&snapshot).next().map(saved),
            endpoints: self
                .tables
                .endpoints
                .iter(&snapshot)
                .map(AsRef::as_ref)
                .collect(),
            departures: self
                .tables
                .departures
                .iter(&snapshot)
                .map(AsRef::as_ref)
                .collect(),
        };
        replace(&self.path, &serde_json::to_vec(&state)?)
    }
}

/// Writes a file that only root can read, so that readers see what was there before or all of this.
///
/// # Errors
/// It cannot be written.
pub fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("json.tmp");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    io::Write::write_all(&mut file, text)?;
    fs::rename(&temporary, path)
}

/// [`State`] without copying the rows.
#[derive(Serialize)]
struct View<'a> {
    format: u32,
    node: Option<SavedNode>,
    endpoints: Vec<&'a Endpoint>,
    departures: Vec<&'a Departure>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        assert_eq!(read(&path), None);
        let tables = Tables::new().unwrap();
        let file = StateFile::new(path.clone(), tables.clone(), "crd".to_owned());
        let mut txn = tables.db.write();
        let node = Node {
            name: "n1".to_owned(),
            ..Node::default()
        };
        tables
            .local_node
            .insert(
                &mut txn,
                LocalNode {
                    node: node.clone(),
                    ..LocalNode::default()
                },
            )
            .unwrap();
        txn.commit();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| file.save().unwrap());
            }
        });
        let state = read(&path).unwrap();
        let saved = state.node.unwrap();
        assert_eq!((saved.node, saved.ipam.as_str()), (node, "crd"));
        fs::write(&path, "{").unwrap();
        assert_eq!(read(&path), None);
    }

    #[test]
    fn a_failure_reaches_the_caller() {
        let file = StateFile::new(
            "/nonexistent/dir/state.json".into(),
            Tables::new().unwrap(),
            String::new(),
        );
        assert!(
            file.save()
                .unwrap_err()
                .to_string()
                .contains("/nonexistent/dir/state.json")
        );
    }
}
