//! Processes that the lab started, told apart from strangers that got the same pid later.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process as it was when the lab started it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcId {
    /// Its id in the root pid namespace.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

impl ProcId {
    /// The identity of a running process; `None` when there is none.
    pub fn of(pid: i32) -> Option<ProcId> {
        let (state, start) = stat(pid)?;
        let ended = state == 'X' || state == 'Z' && !has_other_threads(pid);
        (!ended).then_some(ProcId { pid, start })
    }

    /// This very process runs still (a zombie does not count).
    pub fn alive(&self) -> bool {
        ProcId::of(self.pid).as_ref() == Some(self)
    }

    /// Sends a signal, if it is still the same process. True when it was sent.
    pub fn signal(&self, signal: Signal) -> bool {
        self.alive() && kill(Pid::from_raw(self.pid), signal) != Err(Errno::ESRCH)
    }

    /// Waits until it is gone. False when it is still there after `limit`.
    pub fn wait_gone(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.alive() {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// A file below its directory in /proc.
    pub fn proc_path(&self, rest: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{rest}", self.pid))
    }
}

/// A killed process shows as a zombie as soon as its first thread ended, while the others still hold its files and locks.
fn has_other_threads(pid: i32) -> bool {
    fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() > 1)
}

/// State letter and start time out of /proc/<pid>/stat.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&text)
}

fn parse_stat(text: &str) -> Option<(char, u64)> {
    // The command name stands in parentheses and may hold anything, so count from the last one.
    let rest = &text[text.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nasty_name_does_not_confuse() {
        let line = "42 (a) S 7 (x) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(parse_stat(line), Some(('R', 4711)));
        assert_eq!(parse_stat("garbage"), None);
    }

    #[test]
    fn alive_and_gone() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let id = ProcId::of(child.id() as i32).unwrap();
        assert!(id.alive());
        assert!(
            !ProcId {
                start: id.start + 1,
                ..id.clone()
            }
            .alive(),
            "another start time is another process"
        );
        assert!(
            !ProcId {
                start: id.start + 1,
                ..id.clone()
            }
            .signal(Signal::SIGKILL)
        );
        assert!(id.signal(Signal::SIGKILL));
        assert!(
            id.wait_gone(Duration::from_secs(5)),
            "a zombie counts as gone"
        );
        child.wait().unwrap();
        assert!(!id.alive());
    }
}
