//! Which part of the record is asked for: the last ones, the first ones, between two times, and what comes.
use clap::Args;
use jiff::Timestamp;

use crate::error::Usage;
use crate::hubble::time;

/// How many are shown if nobody says.
const DEFAULT: u64 = 20;

/// Flags that choose by place and time.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Selection")]
pub struct SelectFlags {
    /// The last N of those that are kept (20 if nothing else is said)
    #[arg(long, value_name = "N")]
    pub last: Option<u64>,
    /// The first N of those that are kept
    #[arg(long, value_name = "N")]
    pub first: Option<u64>,
    /// All that are kept
    #[arg(long)]
    pub all: bool,
    /// Go on with what comes
    #[arg(short = 'f', long)]
    pub follow: bool,
    /// From then on: an age as 5m, or a time
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Until then: an age as 5m, or a time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

/// What a request says of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// How many; zero is no limit.
    pub number: u64,
    /// Counted from the oldest.
    pub first: bool,
    /// Go on with what comes.
    pub follow: bool,
    /// The first moment.
    pub since: Option<Timestamp>,
    /// The last moment.
    pub until: Option<Timestamp>,
}

impl SelectFlags {
    /// What the flags mean; a file is read as a whole, unless they say otherwise.
    ///
    /// # Errors
    /// They exclude each other, or a time is none.
    pub fn selection(&self, now: Timestamp, file: bool) -> Result<Selection, Usage> {
        let both = [
            ("first", "last", self.first.is_some() && self.last.is_some()),
            ("first", "all", self.first.is_some() && self.all),
            ("first", "follow", self.first.is_some() && self.follow),
            ("last", "all", self.last.is_some() && self.all),
        ];
        if let Some((one, other, _)) = both.iter().find(|(.., both)| *both) {
            return Err(Usage(format!("--{one} and --{other} exclude each other")));
        }
        let moment = |name: &str, text: &Option<String>| {
            let read = |text: &String| {
                time::moment(text, now).map_err(|wrong| {
                    Usage(format!("invalid value '{text}' for '--{name}': {wrong}"))
                })
            };
            text.as_ref().map(read).transpose()
        };
        let since = moment("since", &self.since)?;
        let until = moment("until", &self.until)?;
        if let (Some(since), Some(until)) = (since, until)
            && until < since
        {
            return Err(Usage("--until is before --since".to_owned()));
        }
        let number = match (self.first.or(self.last), self.all || file) {
            (Some(number), _) => number,
            (None, true) => u64::MAX,
            (None, false) if since.is_some() => 0,
            (None, false) => DEFAULT,
        };
        Ok(Selection {
            number,
            first: self.first.is_some(),
            follow: self.follow,
            since,
            until,
        })
    }
}

/// A moment as the API has it.
pub fn stamp(moment: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: moment.as_second(),
        nanos: moment.subsec_nanosecond(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_flags_mean() {
        let now: Timestamp = "2025-03-04T10:00:00Z".parse().unwrap();
        let flags = SelectFlags::default();
        let number = |flags: &SelectFlags, file| flags.selection(now, file).unwrap().number;
        assert_eq!(number(&flags, false), 20);
        assert_eq!(number(&flags, true), u64::MAX);
        let since = SelectFlags {
            since: Some("5m".to_owned()),
            follow: true,
            ..flags.clone()
        };
        let selection = since.selection(now, false).unwrap();
        assert_eq!(selection.number, 0);
        assert_eq!(selection.since, "2025-03-04T09:55:00Z".parse().ok());
        let first = SelectFlags {
            first: Some(3),
            ..flags.clone()
        };
        assert!(first.selection(now, false).unwrap().first);
        let (first, last, all, follow) = (Some(1), Some(1), true, true);
        let none = flags.clone();
        for (flags, text) in [
            (
                SelectFlags {
                    first,
                    last,
                    ..none.clone()
                },
                "--first and --last",
            ),
            (
                SelectFlags {
                    first,
                    all,
                    ..none.clone()
                },
                "--first and --all",
            ),
            (
                SelectFlags {
                    first,
                    follow,
                    ..none.clone()
                },
                "--first and --follow",
            ),
            (
                SelectFlags {
                    last,
                    all,
                    ..none.clone()
                },
                "--last and --all",
            ),
        ] {
            let error = flags.selection(now, false).unwrap_err().to_string();
            assert_eq!(error, format!("{text} exclude each other"));
        }
        let until = SelectFlags {
            since: Some("1m".to_owned()),
            until: Some("2m".to_owned()),
            ..flags.clone()
        };
        let error = until.selection(now, false).unwrap_err().to_string();
        assert_eq!(error, "--until is before --since");
        let wrong = SelectFlags {
            since: Some("soon".to_owned()),
            ..flags
        };
        let error = wrong.selection(now, false).unwrap_err().to_string();
        assert!(error.starts_with("invalid value 'soon' for '--since': accepted: an age"));
    }
}
