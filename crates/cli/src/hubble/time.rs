//! Times as people write and read them: layouts by name, moments as ages or dates.
use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

/// How times are printed, and one of the ways in which they may be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// `Mar  4 09:12:01.402`
    #[default]
    StampMilli,
    /// `2025-03-04`
    YearMonthDay,
    /// `2025-03-04T09Z`
    YearMonthDayHour,
    /// `2025-03-04T09:12Z`
    YearMonthDayHourMinute,
    /// `2025-03-04T09:12:01Z`
    Rfc3339,
    /// With up to three digits of the second's fraction.
    Rfc3339Milli,
    /// With up to six.
    Rfc3339Micro,
    /// With up to nine.
    Rfc3339Nano,
    /// `Tue, 04 Mar 2025 09:12:01 +0000`
    Rfc1123Z,
}

const LAYOUTS: [(Layout, &str); 9] = [
    (Layout::StampMilli, "StampMilli"),
    (Layout::YearMonthDay, "YearMonthDay"),
    (Layout::YearMonthDayHour, "YearMonthDayHour"),
    (Layout::YearMonthDayHourMinute, "YearMonthDayHourMinute"),
    (Layout::Rfc3339, "RFC3339"),
    (Layout::Rfc3339Milli, "RFC3339Milli"),
    (Layout::Rfc3339Micro, "RFC3339Micro"),
    (Layout::Rfc3339Nano, "RFC3339Nano"),
    (Layout::Rfc1123Z, "RFC1123Z"),
];

impl FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = LAYOUTS
            .iter()
            .find(|(_, name)| name.eq_ignore_ascii_case(text));
        found.map(|(layout, _)| *layout).ok_or_else(|| {
            let names: Vec<&str> = LAYOUTS.iter().map(|(_, name)| *name).collect();
            format!("accepted: {}", names.join(", "))
        })
    }
}

impl Layout {
    /// The moment in UTC, or `N/A` if there is none.
    pub fn show(self, moment: Option<Timestamp>) -> String {
        let Some(moment) = moment else {
            return "N/A".to_owned();
        };
        let at = moment.to_zoned(TimeZone::UTC);
        match self {
            Self::StampMilli => at.strftime("%b %e %H:%M:%S%.3f").to_string(),
            Self::YearMonthDay => at.strftime("%Y-%m-%d").to_string(),
            Self::YearMonthDayHour => at.strftime("%Y-%m-%dT%HZ").to_string(),
            Self::YearMonthDayHourMinute => at.strftime("%Y-%m-%dT%H:%MZ").to_string(),
            Self::Rfc3339 => with_fraction(&at, 0),
            Self::Rfc3339Milli => with_fraction(&at, 3),
            Self::Rfc3339Micro => with_fraction(&at, 6),
            Self::Rfc3339Nano => with_fraction(&at, 9),
            Self::Rfc1123Z => at.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string(),
        }
    }
}

/// With at most so many digits of the fraction, and no zeros at its end.
fn with_fraction(at: &Zoned, digits: usize) -> String {
    let nanos = format!("{:09}", at.subsec_nanosecond());
    let fraction = nanos[..digits].trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    format!("{}{dot}{fraction}Z", at.strftime("%Y-%m-%dT%H:%M:%S"))
}

/// A moment: how long ago, or when.
///
/// # Errors
/// It is neither; the text says what is accepted.
pub fn moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(age) = duration(text) {
        return now
            .checked_sub(age)
            .map_err(|_| "that is too long ago".to_owned());
    }
    date(text, now).ok_or_else(|| {
        "accepted: an age as 5m, 1h30m or 90s, or a time as 2025-03-04, 2025-03-04T09:12Z or 2025-03-04T09:12:01.402Z".to_owned()
    })
}

fn date(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(full) = text.parse() {
        return Some(full);
    }
    if let Ok(full) = jiff::fmt::rfc2822::parse(text) {
        return Some(full.timestamp());
    }
    for pattern in ["%Y-%m-%dT%H%:z", "%Y-%m-%dT%H:%M%:z"] {
        let spelt = match text.strip_suffix('Z') {
            Some(rest) => format!("{rest}+00:00"),
            None => text.to_owned(),
        };
        // Minutes and seconds that are not said are zero.
        let mut broken = match jiff::fmt::strtime::parse(pattern, &spelt) {
            Ok(broken) => broken,
            Err(_) => continue,
        };
        if broken.minute().is_none() {
            broken.set_minute(Some(0)).ok()?;
        }
        return broken.to_timestamp().ok();
    }
    let utc = |at: DateTime| {
        at.to_zoned(TimeZone::UTC)
            .ok()
            .map(|zoned| zoned.timestamp())
    };
    if let Ok(day) = jiff::civil::Date::strptime("%Y-%m-%d", text) {
        return utc(day.at(0, 0, 0, 0));
    }
    // As the lines themselves show it: of this year.
    let year = now.to_zoned(TimeZone::UTC).year();
    let stamp = DateTime::strptime("%Y %b %d %H:%M:%S%.f", format!("{year} {text}")).ok()?;
    utc(stamp)
}

/// A span as `1h30m`, `1.5s` or `300ms`.
///
/// # Errors
/// It is none.
pub fn duration(text: &str) -> Result<SignedDuration, String> {
    let wrong = || "accepted: a duration as 300ms, 5s, 1m30s or 2h".to_owned();
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        rest = &rest[end..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        seconds += number * unit;
        rest = &rest[end..];
    }
    SignedDuration::try_from_secs_f64(sign * seconds).map_err(|_| wrong())
}

/// A span that is not negative, for limits of time.
///
/// # Errors
/// It is none.
pub fn limit(text: &str) -> Result<std::time::Duration, String> {
    let span = duration(text)?;
    span.try_into()
        .map_err(|_| "accepted: a duration that is not negative, as 5s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn layouts() {
        let moment = Some(at("2025-03-04T09:12:01.402500Z"));
        for (name, text) in [
            ("StampMilli", "Mar  4 09:12:01.402"),
            ("stampmilli", "Mar  4 09:12:01.402"),
            ("YearMonthDay", "2025-03-04"),
            ("YearMonthDayHour", "2025-03-04T09Z"),
            ("YearMonthDayHourMinute", "2025-03-04T09:12Z"),
            ("RFC3339", "2025-03-04T09:12:01Z"),
            ("RFC3339Milli", "2025-03-04T09:12:01.402Z"),
            ("RFC3339Micro", "2025-03-04T09:12:01.4025Z"),
            ("RFC3339Nano", "2025-03-04T09:12:01.4025Z"),
            ("RFC1123Z", "Tue, 04 Mar 2025 09:12:01 +0000"),
        ] {
            let layout: Layout = name.parse().unwrap();
            assert_eq!(layout.show(moment), text, "{name}");
            assert_eq!(layout.show(None), "N/A");
        }
        assert_eq!(
            Layout::StampMilli.show(Some(at("2025-11-21T00:00:00Z"))),
            "Nov 21 00:00:00.000"
        );
        assert!("Kitchen".parse::<Layout>().unwrap_err().contains("RFC3339"));
    }

    #[test]
    fn moments() {
        let now = at("2025-03-04T10:00:00Z");
        for (text, meant) in [
            ("5m", "2025-03-04T09:55:00Z"),
            ("1h30m", "2025-03-04T08:30:00Z"),
            ("1.5s", "2025-03-04T09:59:58.5Z"),
            ("300ms", "2025-03-04T09:59:59.7Z"),
            ("-1m", "2025-03-04T10:01:00Z"),
            ("2025-03-01", "2025-03-01T00:00:00Z"),
            ("2025-03-01T07Z", "2025-03-01T07:00:00Z"),
            ("2025-03-01T07:30Z", "2025-03-01T07:30:00Z"),
            ("2025-03-01T07:30+02:00", "2025-03-01T05:30:00Z"),
            ("2025-03-01T07:30:01Z", "2025-03-01T07:30:01Z"),
            ("2025-03-01T07:30:01.25+01:00", "2025-03-01T06:30:01.25Z"),
            ("Sat, 01 Mar 2025 07:30:00 +0000", "2025-03-01T07:30:00Z"),
            ("Mar  1 07:30:00.125", "2025-03-01T07:30:00.125Z"),
        ] {
            assert_eq!(moment(text, now), Ok(at(meant)), "{text}");
        }
        for text in ["", "soon", "5", "5x", "2025-13-01", "h", "1..2s"] {
            assert!(
                moment(text, now).unwrap_err().contains("accepted"),
                "{text}"
            );
        }
        assert!(limit("-5s").is_err());
    }
}
