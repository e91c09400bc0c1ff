//! Logs of containers: one line of the file per line of output, with its time and stream, as container runtimes write them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{broadcast, watch};

/// A line that is longer is written in parts.
const MAX_LINE: usize = 16 << 10;
/// A file that is longer begins anew; the one before is kept.
const MAX_FILE: u64 = 10 << 20;
/// What an attached client may lag behind.
const BACKLOG: usize = 256;

/// Where output comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Output, and where it comes from.
pub type Said = (Stream, Bytes);

/// How far a log is, for those that follow it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Counts the files.
    pub file: u64,
    /// Bytes in the present one.
    pub length: u64,
    /// The container does not write any more.
    pub closed: bool,
}

struct Output {
    file: Option<File>,
    partial: [Vec<u8>; 2],
    /// Nobody was attached to the present run yet.
    unseen: bool,
}

/// The log of a container: over all its runs, each in a file.
pub struct Log {
    path: PathBuf,
    output: Mutex<Output>,
    written: watch::Sender<Written>,
    live: broadcast::Sender<Said>,
}

/// Where the run before is kept.
pub fn previous(path: &Path) -> PathBuf {
    path.with_extension("previous.log")
}

/// Output of one line as it stands in the file.
fn record(at: Timestamp, stream: Stream, whole: bool, text: &[u8]) -> Vec<u8> {
    let head = format!(
        "{} {} {} ",
        at.strftime("%Y-%m-%dT%H:%M:%S.%9fZ"),
        stream.name(),
        if whole { 'F' } else { 'P' }
    );
    [head.as_bytes(), text, b"\n"].concat()
}

impl Log {
    /// A log without a file yet. What a pod of the same name left is removed.
    pub fn new(path: PathBuf) -> Log {
        let _ = fs::remove_file(&path);
        let _ = fs::remove_file(previous(&path));
        Log {
            path,
            output: Mutex::new(Output {
                file: None,
                partial: Default::default(),
                unseen: false,
            }),
            written: watch::Sender::new(Written {
                closed: true,
                ..Written::default()
            }),
            live: broadcast::channel(BACKLOG).0,
        }
    }

    /// The present file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// To hear when there is more.
    pub fn watch(&self) -> watch::Receiver<Written> {
        self.written.subscribe()
    }

    /// To hear the output itself, from now on.
    pub fn live(&self) -> broadcast::Receiver<Said> {
        self.live.subscribe()
    }

    /// As [`Log::live`], and for the first who asks in a run with what was written before: nothing is missing, nothing is doubled.
    pub fn whole(&self) -> (Vec<Said>, broadcast::Receiver<Said>) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live.subscribe();
        if !std::mem::take(&mut output.unseen) {
            return (Vec::new(), live);
        }
        let data = fs::read(&self.path).unwrap_or_default();
        let mut past: Vec<Said> = lines(&data)
            .map(|record| (record.stream, record.output()))
            .collect();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let partial = &output.partial[stream as usize];
            past.push((stream, Bytes::copy_from_slice(partial)));
        }
        past.retain(|(_, bytes)| !bytes.is_empty());
        (past, live)
    }

    fn open(&self, output: &mut Output) -> io::Result<()> {
        let _ = fs::rename(&self.path, previous(&self.path));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)?;
        output.file = Some(file);
        self.written.send_modify(|w| {
            *w = Written {
                file: w.file + 1,
                length: 0,
                closed: false,
            };
        });
        Ok(())
    }

    /// A new run begins.
    pub fn begin(&self) -> io::Result<()> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        output.unseen = true;
        self.open(&mut output)
    }

    /// The run is over.
    pub fn end(&self) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut output.partial[stream as usize]);
            if !rest.is_empty() {
                self.put(&mut output, &record(Timestamp::now(), stream, false, &rest));
            }
        }
        self.written.send_modify(|w| w.closed = true);
    }

    /// The container wrote this.
    pub fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if self.live.receiver_count() > 0 {
            let _ = self.live.send((stream, Bytes::copy_from_slice(bytes)));
        }
        let now = Timestamp::now();
        let mut records = Vec::with_capacity(bytes.len() + 64);
        let mut partial = std::mem::take(&mut output.partial[stream as usize]);
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            partial.extend_from_slice(part);
            let whole = partial.last() == Some(&b'\n');
            if whole {
                partial.pop();
            }
            let mut rest = partial.as_slice();
            while rest.len() > MAX_LINE {
                records.extend(record(now, stream, false, &rest[..MAX_LINE]));
                rest = &rest[MAX_LINE..];
            }
            partial = if whole {
                records.extend(record(now, stream, true, rest));
                Vec::new()
            } else {
                rest.to_vec()
            };
        }
        output.partial[stream as usize] = partial;
        self.put(&mut output, &records);
    }

    fn put(&self, output: &mut Output, records: &[u8]) {
        if records.is_empty() {
            return;
        }
        if self.written.borrow().length > MAX_FILE && self.open(output).is_err() {
            return;
        }
        let Some(file) = &mut output.file else { return };
        match file.write_all(records) {
            Ok(()) => self
                .written
                .send_modify(|w| w.length += records.len() as u64),
            // /run is full, for one: the container goes on without a log.
            Err(e) => tracing::warn!("cannot write {}: {e}", self.path.display()),
        }
    }

    /// The last bytes of the log, as text: what a container that failed may say with it.
    pub fn tail(&self, lines: usize, bytes: usize) -> String {
        let data = fs::read(&self.path).unwrap_or_default();
        let options = Wanted {
            tail: Some(lines),
            ..Wanted::default()
        };
        let text = select(&data, &options);
        let from = text.len().saturating_sub(bytes);
        String::from_utf8_lossy(&text[from..]).into_owned()
    }
}

/// Which lines of a log are wanted, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only so many of the last lines.
    pub tail: Option<usize>,
    /// Only lines from then on.
    pub since: Option<Timestamp>,
    /// With their times.
    pub timestamps: bool,
    /// No more bytes than this.
    pub limit: Option<usize>,
}

/// One record of a file.
struct Record<'a> {
    time: &'a [u8],
    stream: Stream,
    whole: bool,
    text: &'a [u8],
}

impl Record<'_> {
    /// As the container wrote it.
    fn output(&self) -> Bytes {
        let end: &[u8] = if self.whole { b"\n" } else { b"" };
        [self.text, end].concat().into()
    }
}

/// The records of whole lines of a file.
fn lines(data: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let end = data
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |at| at + 1);
    let lines = data[..end].split_inclusive(|b| *b == b'\n');
    lines.filter_map(|line| parse(line.strip_suffix(b"\n").unwrap_or(line)))
}

fn parse(line: &[u8]) -> Option<Record<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let (time, stream, flag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some(Record {
        time,
        stream: match stream {
            b"stderr" => Stream::Stderr,
            _ => Stream::Stdout,
        },
        whole: flag == b"F",
        text,
    })
}

/// The records of whole lines of a file as a client sees them. A last line without its end is left out.
pub fn select(data: &[u8], wanted: &Wanted) -> Vec<u8> {
    let records: Vec<Record<'_>> = lines(data).filter(|r| recent(r, wanted.since)).collect();
    let mut from = 0;
    if let Some(tail) = wanted.tail {
        // Parts of a line count as one.
        let mut left = tail;
        from = records.len();
        while from > 0 {
            if records[from - 1].whole || from == records.len() {
                if left == 0 {
                    break;
                }
                left -= 1;
            }
            from -= 1;
        }
    }
    let mut out = Vec::with_capacity(data.len());
    let mut begins = true;
    for record in &records[from..] {
        if wanted.timestamps && begins {
            out.extend_from_slice(record.time);
            out.push(b' ');
        }
        out.extend_from_slice(record.text);
        if record.whole {
            out.push(b'\n');
        }
        begins = record.whole;
    }
    if let Some(limit) = wanted.limit {
        out.truncate(limit);
    }
    out
}

fn recent(record: &Record<'_>, since: Option<Timestamp>) -> bool {
    let Some(since) = since else { return true };
    let text = std::str::from_utf8(record.time).unwrap_or_default();
    text.parse::<Timestamp>().is_ok_and(|at| at >= since)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (tempfile::TempDir, Log) {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::new(dir.path().join("c.log"));
        log.begin().unwrap();
        (dir, log)
    }

    fn read(log: &Log, wanted: Wanted) -> String {
        String::from_utf8(select(&fs::read(log.path()).unwrap(), &wanted)).unwrap()
    }

    #[test]
    fn lines_parts_and_selections() {
        let (_dir, log) = log();
        log.write(Stream::Stdout, b"one\ntw");
        log.write(Stream::Stderr, b"err\n");
        log.write(Stream::Stdout, b"o\n");
        assert_eq!(read(&log, Wanted::default()), "one\nerr\ntwo\n");
        assert_eq!(
            read(
                &log,
                Wanted {
                    tail: Some(2),
                    ..Wanted::default()
                }
            ),
            "err\ntwo\n"
        );
        assert_eq!(
            read(
                &log,
                Wanted {
                    tail: Some(0),
                    ..Wanted::default()
                }
            ),
            ""
        );
        assert_eq!(
            read(
                &log,
                Wanted {
                    limit: Some(5),
                    ..Wanted::default()
                }
            ),
            "one\ne"
        );
        let stamped = read(
            &log,
            Wanted {
                timestamps: true,
                ..Wanted::default()
            },
        );
        let first = stamped.lines().next().unwrap();
        assert!(
            first.ends_with(" one")
                && first.parse::<Timestamp>().is_err()
                && first[..30].parse::<Timestamp>().is_ok(),
            "{first}"
        );
        let later = Timestamp::now() + jiff::SignedDuration::from_secs(5);
        assert_eq!(
            read(
                &log,
                Wanted {
                    since: Some(later),
                    ..Wanted::default()
                }
            ),
            ""
        );
        let long = vec![b'x'; 3 * MAX_LINE];
        log.write(Stream::Stdout, &long);
        log.write(Stream::Stdout, b"y\n");
        let tail = read(
            &log,
            Wanted {
                tail: Some(1),
                ..Wanted::default()
            },
        );
        assert_eq!(tail.len(), 3 * MAX_LINE + 2, "parts are one line");
        log.write(Stream::Stdout, b"no end");
        log.end();
        assert!(read(&log, Wanted::default()).ends_with("no end"));
        assert!(log.watch().borrow().closed);
        assert_eq!(log.tail(1, 3), "end");
    }

    #[test]
    fn runs_and_long_files() {
        let (_dir, log) = log();
        log.write(Stream::Stdout, b"first\n");
        log.begin().unwrap();
        log.write(Stream::Stdout, b"second\n");
        assert_eq!(read(&log, Wanted::default()), "second\n");
        assert!(
            fs::read_to_string(previous(log.path()))
                .unwrap()
                .ends_with("first\n")
        );
        let line = [vec![b'z'; 8000], b"\n".to_vec()].concat();
        for _ in 0..1500 {
            log.write(Stream::Stdout, &line);
        }
        assert!(
            fs::metadata(log.path()).unwrap().len() < MAX_FILE && log.watch().borrow().file == 3
        );
    }

    #[test]
    fn who_comes_first_hears_everything_once() {
        let (_dir, log) = log();
        log.write(Stream::Stdout, b"one\n");
        log.write(Stream::Stderr, b"err\nhal");
        let (past, mut live) = log.whole();
        log.write(Stream::Stderr, b"f\n");
        let text = |all: &[Said], stream: Stream| -> Vec<u8> {
            let of = all.iter().filter(|(from, _)| *from == stream);
            of.flat_map(|(_, bytes)| bytes.to_vec()).collect()
        };
        assert_eq!(text(&past, Stream::Stdout), b"one\n");
        assert_eq!(text(&past, Stream::Stderr), b"err\nhal");
        assert_eq!(live.try_recv().unwrap(), (Stream::Stderr, "f\n".into()));
        assert!(log.whole().0.is_empty(), "only the first one");
        log.begin().unwrap();
        log.write(Stream::Stdout, b"two\n");
        assert_eq!(text(&log.whole().0, Stream::Stdout), b"two\n", "per run");
    }

    #[test]
    fn garbage_is_left_out() {
        assert_eq!(
            select(
                b"x\n\n2026-01-01T00:00:00Z stdout F ok\nhalf",
                &Wanted::default()
            ),
            b"ok\n"
        );
    }
}
