//! The plugin's log file: one line per invocation, bounded.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::Config;

const MAX_SIZE: u64 = 4 * 1024 * 1024;
const MAX_LINE: usize = 2000;

/// The log; failures to write it are nobody's failure.
pub(crate) struct Log {
    file: Option<fs::File>,
    debug: bool,
}

impl Log {
    pub(crate) fn none() -> Self {
        Self {
            file: None,
            debug: false,
        }
    }

    /// Opens the configured file; the one before is kept as `.1` once it has grown too big.
    pub(crate) fn open(config: &Config) -> Self {
        let path = &config.log_file;
        let file = (!path.as_os_str().is_empty())
            .then(|| append(path))
            .flatten();
        Self {
            file,
            debug: config.debug,
        }
    }

    pub(crate) fn debug(&mut self, text: impl FnOnce() -> String) {
        if self.debug && self.file.is_some() {
            self.line("debug", &text());
        }
    }

    pub(crate) fn line(&mut self, level: &str, text: &str) {
        let Some(file) = &mut self.file else { return };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let text: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(MAX_LINE)
            .collect();
        let line = format!(
            "time={}.{:03}Z level={level} msg={text:?}\n",
            utc(now.as_secs()),
            now.subsec_millis()
        );
        // One write: lines of concurrent invocations do not mix.
        let _ = file.write_all(line.as_bytes());
    }
}

fn append(path: &Path) -> Option<fs::File> {
    let open = || {
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .ok()
    };
    let file = open()?;
    if file.metadata().ok()?.len() < MAX_SIZE {
        return Some(file);
    }
    let mut old = path.as_os_str().to_owned();
    old.push(".1");
    fs::rename(path, old).ok()?;
    open()
}

/// Seconds since 1970 as a date and time of day.
fn utc(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from 1 March of year 0, so that leap days come last in their year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year + carry;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_709_251_200, "2024-03-01T00:00:00"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    fn the_file_is_rotated_once_it_is_big() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cni.log");
        fs::write(&path, vec![b'x'; MAX_SIZE as usize]).unwrap();
        let mut log = Log {
            file: append(&path),
            debug: false,
        };
        log.line("info", "a\nb");
        log.debug(|| "not asked for".into());
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.ends_with("level=info msg=\"a b\"\n") && text.lines().count() == 1,
            "{text}"
        );
        assert!(dir.path().join("cni.log.1").exists());
    }
}
