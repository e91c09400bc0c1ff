//! Numbers that must be the same after a restart: a file beside the state file, which changes with every endpoint and is small.
use model::ClusterIdentity;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Name of the file.
const NAME: &str = "identities.json";
/// Version of its format.
const FORMAT: u32 = 1;

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Numbers {
    format: u32,
    /// Numbers of the cluster, as last seen.
    pub cluster: Vec<ClusterIdentity>,
    /// Numbers of ranges of addresses and of nodes, given by this node.
    pub local: Vec<ClusterIdentity>,
}

impl Numbers {
    /// These numbers.
    #[must_use]
    pub fn new(cluster: Vec<ClusterIdentity>, local: Vec<ClusterIdentity>) -> Self {
        Self {
            format: FORMAT,
            cluster,
            local,
        }
    }

    fn path(directory: &Path) -> PathBuf {
        directory.join(NAME)
    }

    /// Reads the file of `directory`; nothing where there is no usable one.
    #[must_use]
    pub fn read(directory: &Path) -> Self {
        let path = Self::path(directory);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the file of identities cannot be read");
                return Self::default();
            }
        };
        match serde_json::from_slice::<Self>(&text) {
            Ok(numbers) if numbers.format == FORMAT => numbers,
            _ => {
                tracing::warn!(path = %path.display(), "the file of identities is damaged and is not used");
                Self::default()
            }
        }
    }

    /// Writes the file of `directory`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        crate::state::replace(&Self::path(directory), &serde_json::to_vec(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Numbers::read(dir.path()), Numbers::default());
        let row = |id| ClusterIdentity {
            id,
            labels: model::Labels::reserved("x"),
        };
        let numbers = Numbers::new(vec![row(300)], vec![row(0x0100_0001)]);
        numbers.write(dir.path()).unwrap();
        assert_eq!(Numbers::read(dir.path()), numbers);
        fs::write(Numbers::path(dir.path()), "{").unwrap();
        assert_eq!(Numbers::read(dir.path()), Numbers::default());
    }
}
