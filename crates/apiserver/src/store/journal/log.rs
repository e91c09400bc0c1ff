//! Changes that have been answered and are not in the database yet, in two files beside it that take turns: while the database
//! takes over what one holds, the other one is written.
//!
//! A change in them survives the process, whose end it does not have to see. A batch is a length, a sum, and so many bytes: its
//! revision, then for every record the length of the key, the key, the length of the object (all ones: it is gone), the object.
//! Whatever does not add up is the torn end of a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::super::super::object::Object;
use super::Record;

/// In place of an object's length.
const GONE: u32 = u32::MAX;

/// The two files.
pub struct Log {
    files: [File; 2],
    /// Which one is written.
    current: usize,
}

/// Changes that lead to a revision, as the files had them.
#[derive(Debug)]
pub struct Batch {
    pub revision: u64,
    pub records: Vec<Record>,
}

fn path(database: &Path, index: usize) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(format!(".log{index}"));
    name.into()
}

impl Log {
    /// Opens or makes the files beside a database, and reads what is in them, in the order of revisions.
    pub fn open(database: &Path) -> io::Result<(Self, Vec<Batch>)> {
        let open = |index| {
            let mut options = OpenOptions::new();
            options.read(true).append(true).create(true);
            options.open(path(database, index))
        };
        let mut files = [open(0)?, open(1)?];
        let mut batches = Vec::new();
        for file in &mut files {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let mut rest = bytes.as_slice();
            while let Some(batch) = next(&mut rest) {
                batches.push(batch);
            }
        }
        batches.sort_by_key(|batch| batch.revision);
        Ok((Self { files, current: 0 }, batches))
    }

    /// Adds changes that lead to a revision: they are in the kernel's hands when this returns.
    pub fn add(&mut self, records: &[Record], revision: u64) -> io::Result<()> {
        let mut body = revision.to_be_bytes().to_vec();
        for record in records {
            put(&mut body, record.key.as_bytes());
            match &record.object {
                Some(object) => put(&mut body, object.text()),
                None => body.extend(GONE.to_be_bytes()),
            }
        }
        let mut all = Vec::with_capacity(body.len() + 12);
        all.extend(length(&body).to_be_bytes());
        all.extend(sum(&body).to_be_bytes());
        all.extend(body);
        self.files[self.current].write_all(&all)
    }

    /// From now on the other file is written; which one was until now.
    pub fn turn(&mut self) -> usize {
        let before = self.current;
        self.current = 1 - before;
        before
    }

    /// The database has what this file holds.
    pub fn clear(&mut self, index: usize) -> io::Result<()> {
        self.files[index].set_len(0)
    }
}

fn length(bytes: &[u8]) -> u32 {
    // Requests are limited to a few megabytes.
    u32::try_from(bytes.len()).unwrap_or(GONE)
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(length(bytes).to_be_bytes());
    out.extend(bytes);
}

/// FNV-1a: tells a torn end, which nobody has made on purpose.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The next batch, if it is whole.
fn next(rest: &mut &[u8]) -> Option<Batch> {
    let size = number(rest)?;
    let expected = u64::from_be_bytes(take(rest, 8)?.try_into().ok()?);
    let mut body = take(rest, size)?;
    if sum(body) != expected {
        return None;
    }
    let revision = u64::from_be_bytes(take(&mut body, 8)?.try_into().ok()?);
    let mut records = Vec::new();
    while !body.is_empty() {
        let size = number(&mut body)?;
        let key = String::from_utf8(take(&mut body, size)?.to_vec()).ok()?;
        let object = match number(&mut body)? {
            GONE => None,
            size => {
                let value = serde_json::from_slice(take(&mut body, size)?).ok()?;
                Some(Object::shared(value))
            }
        };
        records.push(Record { key, object });
    }
    Some(Batch { revision, records })
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(take(rest, 4)?.try_into().ok()?))
}

fn take<'a>(rest: &mut &'a [u8], size: impl TryInto<usize>) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(size.try_into().ok()?)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(name: &str, value: Option<u32>) -> Record {
        let object = |v| Object::shared(json!({"metadata": {"name": name}, "v": v}));
        Record {
            key: format!("t\0\0{name}"),
            object: value.map(object),
        }
    }

    fn told(batches: &[Batch]) -> Vec<String> {
        let one = |record: &Record| match &record.object {
            Some(object) => format!("{}={}", object["metadata"]["name"], object["v"]),
            None => format!("-{}", record.key.replace('\0', "/")),
        };
        let batch = |batch: &Batch| {
            let records: Vec<_> = batch.records.iter().map(one).collect();
            format!("{}: {}", batch.revision, records.join(" "))
        };
        batches.iter().map(batch).collect()
    }

    #[test]
    fn files_take_turns_and_are_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("objects");
        let (mut log, found) = Log::open(&file).unwrap();
        assert!(found.is_empty());
        log.add(&[record("a", Some(1)), record("b", Some(1))], 7)
            .unwrap();
        assert_eq!(log.turn(), 0);
        log.add(&[record("a", None)], 8).unwrap();
        let both = ["7: \"a\"=1 \"b\"=1", "8: -t//a"];
        assert_eq!(told(&Log::open(&file).unwrap().1), both);
        log.clear(0).unwrap();
        assert_eq!(told(&Log::open(&file).unwrap().1), both[1..]);
        assert_eq!(log.turn(), 1);
        log.add(&[record("c", Some(3))], 9).unwrap();
        let order = Log::open(&file).unwrap().1;
        assert_eq!(told(&order), ["8: -t//a", "9: \"c\"=3"]);
    }

    #[test]
    fn a_torn_end_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("objects");
        let (mut log, _) = Log::open(&file).unwrap();
        log.add(&[record("a", Some(1))], 1).unwrap();
        let whole = std::fs::read(path(&file, 0)).unwrap();
        log.add(&[record("b", Some(2))], 2).unwrap();
        let both = std::fs::read(path(&file, 0)).unwrap();
        for end in whole.len()..both.len() {
            std::fs::write(path(&file, 0), &both[..end]).unwrap();
            assert_eq!(told(&Log::open(&file).unwrap().1), ["1: \"a\"=1"]);
        }
        let mut odd = both.clone();
        odd[whole.len() + 20] ^= 1;
        std::fs::write(path(&file, 0), odd).unwrap();
        assert_eq!(Log::open(&file).unwrap().1.len(), 1);
        std::fs::write(path(&file, 0), vec![0; 64]).unwrap();
        assert!(Log::open(&file).unwrap().1.is_empty());
    }
}
