//! A file that is begun anew when it is large enough; the older ones keep their time in their names.
use super::Written;
use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Bytes that wait for each other.
const BUFFER: usize = 64 * 1024;

/// Where lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    #[default]
    Stdout,
    /// A file; its directory is made.
    File(PathBuf),
}

impl Target {
    /// `stdout`, or a path.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "stdout" => Self::Stdout,
            path => Self::File(path.into()),
        }
    }
}

/// When another file is begun, and how many older ones are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes of a file.
    pub size: u64,
    /// Older files.
    pub backups: usize,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            size: 10 << 20,
            backups: 5,
        }
    }
}

pub(super) struct File {
    target: Target,
    rotation: Rotation,
    open: Option<fs::File>,
    /// Bytes of whole lines that are in the file.
    size: u64,
    /// Lines that wait, and how many they are.
    buffer: Vec<u8>,
    waiting: u64,
    /// When it failed.
    failed: Option<Instant>,
    counts: Arc<Written>,
}

impl File {
    pub fn new(target: Target, rotation: Rotation, counts: Arc<Written>) -> Self {
        Self {
            target,
            rotation,
            open: None,
            size: 0,
            buffer: Vec::new(),
            waiting: 0,
            failed: None,
            counts,
        }
    }

    /// Adds a line, and counts what becomes of it: at once, or when it is written.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let Target::File(path) = &self.target else {
            let done = io::stdout().lock().write_all(line);
            self.count(1, done.is_ok());
            return done;
        };
        if self.failed.is_some_and(|when| when.elapsed() < AGAIN) {
            self.count(1, false);
            return Err(io::Error::other("it failed a moment ago"));
        }
        let path = path.clone();
        let outcome = self.add(&path, line);
        if outcome.is_err() {
            self.count(1, false);
        }
        self.note(&outcome);
        outcome
    }

    fn note(&mut self, outcome: &io::Result<()>) {
        self.failed = outcome.is_err().then(Instant::now);
    }

    fn count(&self, lines: u64, written: bool) {
        let counter = if written {
            &self.counts.lines
        } else {
            &self.counts.lost
        };
        counter.fetch_add(lines, Ordering::Relaxed);
    }

    fn add(&mut self, path: &Path, line: &[u8]) -> io::Result<()> {
        self.open(path)?;
        let size = self.size + self.buffer.len() as u64;
        if size > 0 && size + line.len() as u64 > self.rotation.size {
            self.put(path)?;
            self.open = None;
            rotate(path, self.rotation.backups)?;
            self.open(path)?;
        }
        if self.buffer.len() + line.len() > BUFFER {
            self.put(path)?;
        }
        self.buffer.extend_from_slice(line);
        self.waiting += 1;
        Ok(())
    }

    fn open(&mut self, path: &Path) -> io::Result<&mut fs::File> {
        if self.open.is_none() {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            self.size = file.metadata()?.len();
            self.open = Some(file);
        }
        self.open
            .as_mut()
            .ok_or_else(|| io::Error::other("no file"))
    }

    /// Puts what waits into the file: all of it, or nothing.
    fn put(&mut self, path: &Path) -> io::Result<()> {
        if self.waiting == 0 {
            return Ok(());
        }
        let lines = std::mem::take(&mut self.waiting);
        let buffer = std::mem::take(&mut self.buffer);
        let outcome = self.open(path).and_then(|file| file.write_all(&buffer));
        self.count(lines, outcome.is_ok());
        match &outcome {
            Ok(()) => self.size += buffer.len() as u64,
            Err(_) => {
                if let Some(file) = self.open.take() {
                    // A line that is cut off would spoil the next one, too.
                    let _ = file.set_len(self.size);
                }
            }
        }
        outcome
    }

    /// Lines that wait go into the file.
    pub fn flush(&mut self) -> io::Result<()> {
        match &self.target {
            Target::Stdout => io::stdout().lock().flush(),
            Target::File(path) => {
                let path = path.clone();
                let outcome = self.put(&path);
                if outcome.is_err() {
                    self.note(&outcome);
                }
                outcome
            }
        }
    }
}

/// Gives the file the name of an older one, and removes those that are too many.
fn rotate(path: &Path, backups: usize) -> io::Result<()> {
    let now = crate::observer::wall_clock();
    let (stem, suffix) = parts(path);
    // Names in the order of their times.
    let older = path.with_file_name(format!("{stem}-{now:020}{suffix}"));
    fs::rename(path, older)?;
    let all = backups_of(path)?;
    let surplus = all.len().saturating_sub(backups);
    all.iter().take(surplus).try_for_each(fs::remove_file)
}

fn parts(path: &Path) -> (String, String) {
    let text =
        |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let suffix = text(path.extension()).map_or_else(String::new, |suffix| format!(".{suffix}"));
    (text(path.file_stem()).unwrap_or_default(), suffix)
}

/// The older files, oldest first.
fn backups_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (stem, suffix) = parts(path);
    let directory = path.parent().unwrap_or(Path::new("."));
    let is_backup = |name: &str| {
        let middle = name
            .strip_prefix(&format!("{stem}-"))
            .and_then(|rest| rest.strip_suffix(suffix.as_str()));
        middle
            .is_some_and(|middle| middle.len() == 20 && middle.bytes().all(|b| b.is_ascii_digit()))
    };
    let mut all: Vec<PathBuf> = fs::read_dir(directory)?
        .filter_map(Result::ok)
        .filter(|entry| is_backup(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_begun_anew_and_the_oldest_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/events.log");
        let rotation = Rotation {
            size: 10,
            backups: 2,
        };
        let mut file = File::new(Target::File(path.clone()), rotation, Arc::default());
        for line in [
            "one\n", "two\n", "three\n", "four\n", "five\n", "six\n", "seven\n",
        ] {
            file.write(line.as_bytes()).unwrap();
        }
        file.flush().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "six\nseven\n");
        let older: Vec<String> = backups_of(&path)
            .unwrap()
            .iter()
            .map(|path| fs::read_to_string(path).unwrap())
            .collect();
        assert_eq!(older, ["three\n", "four\nfive\n"]);
    }

    #[test]
    fn a_file_goes_on_after_a_restart_and_failures_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.log");
        for line in ["one\n", "two\n"] {
            let mut file = File::new(
                Target::File(path.clone()),
                Rotation::default(),
                Arc::default(),
            );
            file.write(line.as_bytes()).unwrap();
            file.flush().unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        let mut file = File::new(
            Target::File(directory.path().into()),
            Rotation::default(),
            Arc::default(),
        );
        assert!(file.write(b"x\n").is_err() && file.write(b"y\n").is_err());
    }
}
