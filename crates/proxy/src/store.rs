//! The last snapshot on disk, so that a proxy that was killed goes on with it while no agent is there.
//!
//! One line with the format, length and checksum of what follows, then the snapshot. A new one takes the old one's place at once
//! or not at all. It may hold values from secrets: nobody but the owner reads it.
use crate::{
    config::{DecodeError, SNAPSHOT_MAX, Snapshot},
    folder,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

const FILE: &str = "snapshot.json";
const NEW: &str = "snapshot.json.new";
const FORMAT: &str = "hypha-proxy-snapshot 1";
/// Longest first line.
const LINE: usize = 256;

/// The folder that holds it.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

/// Why there is a snapshot on disk that is not taken.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("{path}: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// It is whole, and no snapshot that this version knows.
    #[error("{path}: {source}")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DecodeError,
    },
}

impl Store {
    /// The store of a folder, which is made if it is not there.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(dir: &Path) -> io::Result<Self> {
        folder::private(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// Puts a snapshot in the old one's place.
    ///
    /// # Errors
    /// It cannot be written; the old one is still there.
    pub fn save(&self, snapshot: &Snapshot) -> io::Result<()> {
        let body = snapshot.encode();
        let new = self.dir.join(NEW);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        let head = format!("{FORMAT} {} {}\n", body.len(), checksum(&body));
        file.write_all(head.as_bytes())?;
        file.write_all(&body)?;
        file.sync_all()?;
        fs::rename(&new, self.dir.join(FILE))?;
        // The name itself has to reach the disk, too.
        File::open(&self.dir)?.sync_all()
    }

    /// The snapshot that was written last; `None` where none ever was.
    ///
    /// # Errors
    /// It is damaged, or of another version.
    pub fn load(&self) -> Result<Option<Snapshot>, LoadError> {
        let path = self.dir.join(FILE);
        let bytes = match read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LoadError::Read { path, source }),
        };
        let body = match whole(&bytes) {
            Ok(body) => body,
            Err(why) => return Err(LoadError::Damaged { path, why }),
        };
        match Snapshot::decode(body) {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(source) => Err(LoadError::Unknown { path, source }),
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = (SNAPSHOT_MAX + LINE) as u64;
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What stands behind the first line, if that fits it.
fn whole(bytes: &[u8]) -> Result<&[u8], &'static str> {
    let end = bytes.iter().take(LINE).position(|byte| *byte == b'\n');
    let (head, body) = bytes.split_at(end.ok_or("it does not begin with a line about itself")?);
    let body = &body[1..];
    let head = std::str::from_utf8(head).map_err(|_| "its first line is no text")?;
    let rest = head
        .strip_prefix(FORMAT)
        .ok_or("it is of an unknown format")?;
    let (length, sum) = rest
        .trim_start()
        .split_once(' ')
        .ok_or("its first line is cut")?;
    if length.parse() != Ok(body.len()) {
        return Err("it is cut");
    }
    if sum != checksum(body) {
        return Err("its checksum is wrong");
    }
    Ok(body)
}

fn checksum(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn snapshot(version: u64) -> Snapshot {
        Snapshot {
            version,
            ..Snapshot::default()
        }
    }

    #[test]
    fn the_last_one_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        assert_eq!(store.load().unwrap(), None);
        for version in 1..4 {
            store.save(&snapshot(version)).unwrap();
            assert_eq!(store.load().unwrap(), Some(snapshot(version)));
        }
        let path = dir.path().join("state").join(FILE);
        assert_eq!(
            fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn any_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(&snapshot(7)).unwrap();
        let path = dir.path().join(FILE);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(store.load().is_err(), "byte {at} of {}", good.len());
            fs::write(&path, &good[..at]).unwrap();
            assert!(store.load().is_err(), "cut at {at}");
        }
        // What was begun and never finished is in nobody's way.
        fs::write(&path, &good).unwrap();
        fs::write(dir.path().join(NEW), "hal").unwrap();
        assert_eq!(store.load().unwrap(), Some(snapshot(7)));
        store.save(&snapshot(8)).unwrap();
        assert_eq!(store.load().unwrap(), Some(snapshot(8)));
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let body = br#"{"version":1,"endpoints":[],"surprise":true}"#;
        let head = format!("{FORMAT} {} {}\n", body.len(), checksum(body));
        fs::write(dir.path().join(FILE), [head.as_bytes(), body].concat()).unwrap();
        assert!(matches!(store.load(), Err(LoadError::Unknown { .. })));
    }
}
