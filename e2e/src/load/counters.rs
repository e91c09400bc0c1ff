//! What the kernel counts per network namespace: losses that TCP hides show there.

use std::fmt;

use netlink::Netns;

/// Counters of TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Segments sent.
    pub segments: u64,
    /// Segments sent again.
    pub repeated: u64,
    /// SYNs (and their answers) sent again: the first one was lost, or nobody answered for a second.
    pub repeated_syns: u64,
    /// Segments that were sent again although the first one had arrived.
    pub needless: u64,
    /// Established connections that were reset.
    pub resets: u64,
}

impl Counters {
    /// As they stand now.
    ///
    /// # Panics
    /// If the kernel does not tell.
    #[must_use]
    #[track_caller]
    pub fn of(ns: &Netns) -> Counters {
        let read = |file: &'static str| {
            let path = format!("/proc/thread-self/net/{file}");
            super::made_in(ns, &path, || std::fs::read_to_string(&path))
        };
        let (snmp, netstat) = (read("snmp"), read("netstat"));
        Counters {
            segments: value(&snmp, "Tcp:", "OutSegs"),
            repeated: value(&snmp, "Tcp:", "RetransSegs"),
            repeated_syns: value(&netstat, "TcpExt:", "TCPSynRetrans"),
            needless: value(&netstat, "TcpExt:", "TCPDSACKRecv"),
            resets: value(&snmp, "Tcp:", "EstabResets"),
        }
    }

    /// What came since.
    #[must_use]
    pub fn since(self, before: &Counters) -> Counters {
        self.with(before, u64::saturating_sub)
    }

    /// The sum.
    #[must_use]
    pub fn plus(self, other: &Counters) -> Counters {
        self.with(other, u64::saturating_add)
    }

    fn with(self, other: &Counters, work: impl Fn(u64, u64) -> u64) -> Counters {
        Counters {
            segments: work(self.segments, other.segments),
            repeated: work(self.repeated, other.repeated),
            repeated_syns: work(self.repeated_syns, other.repeated_syns),
            needless: work(self.needless, other.needless),
            resets: work(self.resets, other.resets),
        }
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "kernel: {} TCP segments, {} repeated ({} needlessly), {} SYNs repeated, {} resets",
            self.segments, self.repeated, self.needless, self.repeated_syns, self.resets
        )
    }
}

/// A column of the two lines, names and values, that begin with `prefix`.
fn value(text: &str, prefix: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        return 0;
    };
    let mut both = names.split_whitespace().zip(values.split_whitespace());
    both.find(|(n, _)| *n == name)
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name() {
        let text = "Ip: A B\nIp: 1 2\nTcp: MaxConn OutSegs RetransSegs\nTcp: -1 17 3\n";
        assert_eq!(value(text, "Tcp:", "OutSegs"), 17);
        assert_eq!(value(text, "Tcp:", "RetransSegs"), 3);
        assert_eq!(value(text, "Tcp:", "MaxConn"), 0);
        assert_eq!(value(text, "Udp:", "X"), 0);
    }
}
