//! The CNI configuration that the agent writes for the container runtime.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde_json::json;

/// File name of the configuration.
pub const FILE: &str = "05-cilium.conflist";
/// Name of the network.
pub const NETWORK: &str = "cilium";
/// Name of the plugin binary.
pub const PLUGIN: &str = "hypha-cni";
/// Older name of the configuration; removed.
const OLD_FILE: &str = "05-cilium.conf";
/// What configurations of others are renamed to.
const SET_ASIDE: &str = "cilium_bak";
const VERSION: &str = "1.1.0";

/// What goes into the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflist {
    /// Log file of the plugin; empty for none.
    pub log_file: String,
    /// Log more.
    pub debug: bool,
    /// The agent's socket, where it is not the default one.
    pub agent_socket: Option<String>,
    /// Rename other configurations, so that ours is the only one.
    pub exclusive: bool,
}

/// A file operation of [`write`] or [`remove`] that failed.
#[derive(Debug, thiserror::Error)]
#[error("CNI configuration: {op} {}: {source}", path.display())]
pub struct ConflistError {
    op: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Conflist {
    /// The text of the file.
    pub fn text(&self) -> String {
        let mut plugin =
            json!({ "type": PLUGIN, "enable-debug": self.debug, "log-file": self.log_file });
        if let (Some(socket), Some(fields)) = (&self.agent_socket, plugin.as_object_mut()) {
            fields.insert("agent-socket".into(), socket.clone().into());
        }
        let list = json!({ "cniVersion": VERSION, "name": NETWORK, "plugins": [plugin] });
        format!("{list:#}\n")
    }

    /// Writes the file into `dir` so that a reader sees the old one or the new one, never a part; then sets other
    /// configurations aside when it is to be the only one. Returns the path.
    pub fn write(&self, dir: &Path) -> Result<PathBuf, ConflistError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .map_err(failed("create", dir))?;
        let path = dir.join(FILE);
        let text = self.text();
        if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            replace(dir, &path, &text)?;
        }
        remove_if_there(&dir.join(OLD_FILE))?;
        if self.exclusive {
            set_others_aside(dir)?;
        }
        Ok(path)
    }
}

/// Takes our configuration away (when the agent leaves the node for good). Content when it is not there.
pub fn remove(dir: &Path) -> Result<(), ConflistError> {
    remove_if_there(&dir.join(FILE))
}

fn replace(dir: &Path, path: &Path, text: &str) -> Result<(), ConflistError> {
    // A leading dot and another ending: runtimes read *.conf, *.conflist and *.json only.
    let temporary = dir.join(format!(".{FILE}.{}.tmp", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()
    };
    let written = write().map_err(failed("write", &temporary));
    let result =
        written.and_then(|()| fs::rename(&temporary, path).map_err(failed("rename to", path)));
    if result.is_err() {
        // Best effort: the caller gets the first error.
        let _ = fs::remove_file(&temporary);
        return result;
    }
    let sync = fs::File::open(dir).and_then(|d| d.sync_all());
    sync.map_err(failed("sync", dir))
}

fn set_others_aside(dir: &Path) -> Result<(), ConflistError> {
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let path = entry.map_err(failed("list", dir))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let configuration = path
            .extension()
            .is_some_and(|e| e == "conf" || e == "conflist" || e == "json");
        if name == FILE || name.starts_with('.') || !configuration {
            continue;
        }
        let aside = dir.join(format!("{name}.{SET_ASIDE}"));
        fs::rename(&path, &aside).map_err(failed("set aside", &path))?;
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), ConflistError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
        _ => Ok(()),
    }
}

fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ConflistError + use<> {
    let path = path.to_owned();
    move |source| ConflistError { op, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(exclusive: bool) -> Conflist {
        Conflist {
            log_file: "/var/run/cilium/cilium-cni.log".into(),
            debug: false,
            agent_socket: None,
            exclusive,
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn content_has_the_names_that_users_know() {
        let value: serde_json::Value = serde_json::from_str(&list(true).text()).unwrap();
        let plugin = json!({"type": "hypha-cni", "enable-debug": false, "log-file": "/var/run/cilium/cilium-cni.log"});
        assert_eq!(
            value,
            json!({"cniVersion": "1.1.0", "name": "cilium", "plugins": [plugin]})
        );
    }

    #[test]
    fn others_are_set_aside_only_when_exclusive() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("net.d");
        fs::create_dir(&at).unwrap();
        for name in ["10-other.conflist", "20-x.conf", "readme.txt", OLD_FILE] {
            fs::write(at.join(name), "{}").unwrap();
        }
        list(false).write(&at).unwrap();
        assert_eq!(
            names(&at),
            [FILE, "10-other.conflist", "20-x.conf", "readme.txt"]
        );
        for _ in 0..2 {
            list(true).write(&at).unwrap();
            assert_eq!(
                names(&at),
                [
                    FILE,
                    "10-other.conflist.cilium_bak",
                    "20-x.conf.cilium_bak",
                    "readme.txt"
                ]
            );
        }
        remove(&at).unwrap();
        remove(&at).unwrap();
        assert_eq!(names(&at).len(), 3);
    }

    #[test]
    fn errors_name_the_path() {
        let error = list(true)
            .write(Path::new("/proc/nowhere"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("/proc/nowhere"), "{error}");
    }
}
