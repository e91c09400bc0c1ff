//! The file of names: one line for each answer that was learned, so that learning costs one short write. It is written anew when
//! it holds much that counts no longer. A line that was cut by a crash, and what nobody can read, is passed over.
use policy::fqdn::Cache;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

/// Lines beside those that count, before the file is written anew.
const SURPLUS: usize = 10_000;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Line {
    /// An endpoint was told addresses of a name.
    Learned {
        endpoint: u32,
        name: String,
        ips: Vec<IpAddr>,
        ttl: u32,
        at: u64,
    },
    /// An address counts beyond its time.
    Beyond {
        endpoint: u32,
        ip: IpAddr,
        names: BTreeSet<String>,
        alive: u64,
    },
}

impl Line {
    fn replay(self, cache: &mut Cache) {
        match self {
            Self::Learned {
                endpoint,
                name,
                ips,
                ttl,
                at,
            } => {
                cache.learn(endpoint, &name, &ips, ttl, at);
            }
            Self::Beyond {
                endpoint,
                ip,
                names,
                alive,
            } => cache.resume(endpoint, ip, names, alive),
        }
    }

    /// Everything that a cache holds.
    fn all(cache: &Cache) -> Vec<Self> {
        let mut learned: BTreeMap<(u32, &str, u64, u32), Vec<IpAddr>> = BTreeMap::new();
        for (endpoint, name, ip, entry) in cache.entries() {
            let key = (endpoint, name, entry.learned, entry.ttl);
            learned.entry(key).or_default().push(ip);
        }
        let learned = learned.into_iter();
        let learned = learned.map(|((endpoint, name, at, ttl), ips)| Self::Learned {
            endpoint,
            name: name.to_owned(),
            ips,
            ttl,
            at,
        });
        let beyond = cache.zombies().map(|(endpoint, ip, zombie)| Self::Beyond {
            endpoint,
            ip,
            names: zombie.names.clone(),
            alive: zombie.alive,
        });
        learned.chain(beyond).collect()
    }
}

/// The file.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// None: nothing is kept over a restart.
    path: Option<PathBuf>,
    file: Option<fs::File>,
    lines: usize,
    /// With how many lines to count those that count: that takes as long as there are names, so not for each line.
    look: usize,
    failed: bool,
}

impl Journal {
    /// Opens the file, and puts what it says into the cache.
    pub(super) fn open(path: Option<PathBuf>, cache: &mut Cache) -> Self {
        let mut journal = Self {
            path,
            ..Self::default()
        };
        let Some(path) = &journal.path else {
            return journal;
        };
        match fs::read(path) {
            Ok(text) => {
                for line in text.split(|byte| *byte == b'\n') {
                    if let Ok(line) = serde_json::from_slice::<Line>(line) {
                        line.replay(cache);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the file of names cannot be read; names from before the restart are not known");
            }
        }
        journal.rewrite(cache);
        journal
    }

    /// Adds a line.
    pub(super) fn add(&mut self, line: &Line, cache: &Cache) {
        if self.path.is_none() {
            return;
        }
        if self.lines >= self.look {
            self.look = self.lines + SURPLUS;
            if self.lines > 2 * cache.entries().count() {
                return self.rewrite(cache);
            }
        }
        let Ok(mut text) = serde_json::to_vec(line) else {
            return;
        };
        text.push(b'\n');
        self.lines += 1;
        match self.file.as_mut().map(|file| file.write_all(&text)) {
            Some(Ok(())) => {}
            // It may hold half a line now, or not be there: the whole is written.
            _ => self.rewrite(cache),
        }
    }

    /// Makes the file hold what counts.
    pub(super) fn rewrite(&mut self, cache: &Cache) {
        let Some(path) = &self.path else { return };
        let lines = Line::all(cache);
        let mut text = Vec::new();
        for line in &lines {
            if serde_json::to_writer(&mut text, line).is_ok() {
                text.push(b'\n');
            }
        }
        let written = crate::state::replace(path, &text).and_then(|()| {
            let mut options = fs::OpenOptions::new();
            options.append(true).mode(0o600).open(path)
        });
        self.lines = lines.len();
        self.look = self.lines + SURPLUS;
        match written {
            Ok(file) => {
                self.file = Some(file);
                self.failed = false;
            }
            Err(error) => {
                self.file = None;
                if !std::mem::replace(&mut self.failed, true) {
                    tracing::error!(path = %path.display(), %error, "names cannot be kept: connections by name end with a restart of the agent");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::fqdn::Limits;

    fn learned(name: &str, last: u8, at: u64) -> Line {
        Line::Learned {
            endpoint: 7,
            name: name.to_owned(),
            ips: vec![[192, 0, 2, last].into()],
            ttl: 30,
            at,
        }
    }

    fn names(cache: &Cache) -> Vec<(String, u64)> {
        let entries = cache.entries();
        entries
            .map(|(_, name, _, entry)| (name.to_owned(), entry.learned))
            .collect()
    }

    #[test]
    fn what_was_learned_is_known_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let path = Some(dir.path().join("names.json"));
        let mut cache = Cache::new(Limits::default());
        let mut journal = Journal::open(path.clone(), &mut cache);
        for (n, name) in [(1, "a.org"), (2, "b.org"), (3, "a.org")] {
            let line = learned(name, 1, n);
            line.clone().replay(&mut cache);
            journal.add(&line, &cache);
        }
        drop(journal);
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(path.clone().unwrap())
            .unwrap();
        file.write_all(b"{\"learned\":{\"endpoint\":7,\"na")
            .unwrap();
        let mut again = Cache::new(Limits::default());
        drop(Journal::open(path.clone(), &mut again));
        assert_eq!(
            names(&again),
            [("a.org".to_owned(), 3), ("b.org".to_owned(), 2)]
        );
        // Beyond its time, and kept.
        again.collect(60, |_, _| false);
        let mut journal = Journal::open(path.clone(), &mut Cache::default());
        journal.rewrite(&again);
        let mut third = Cache::new(Limits::default());
        drop(Journal::open(path, &mut third));
        assert_eq!(third.zombies().count(), 1);
        assert_eq!(third.names_of([192, 0, 2, 1].into()).count(), 2);
    }

    #[test]
    fn the_file_stays_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names.json");
        let mut cache = Cache::new(Limits::default());
        let mut journal = Journal::open(Some(path.clone()), &mut cache);
        let mut most = 0;
        for n in 0..2 * SURPLUS as u64 + 10 {
            let line = learned("a.org", 1, n);
            line.clone().replay(&mut cache);
            journal.add(&line, &cache);
            most = most.max(journal.lines);
        }
        assert!(most <= SURPLUS + 1, "{most}");
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), journal.lines);
    }
}
