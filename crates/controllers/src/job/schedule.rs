//! Schedules in the five fields of cron.
use jiff::{
    Timestamp,
    civil::{Date, Time, Weekday},
    tz::TimeZone,
};

/// The days looked through for a match: eight years have every leap day.
const DAYS: usize = 8 * 366;

/// When something is to happen: a bit per value that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both the day of the month and the day of the week are limited: either will do.
    either_day: bool,
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Parses `minute hour day month weekday`, or `@hourly` and its like. The error says what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(format!(
                "schedule {text:?} has {} fields; it needs minute, hour, day, month and weekday, or is one of @hourly, @daily, @weekly, @monthly, @yearly",
                fields.len()
            ));
        };
        let mut weekdays = field(weekday, 0, 7, &WEEKDAYS, 0)?;
        if weekdays & (1 << 7) != 0 {
            weekdays |= 1;
        }
        let limited = |field: &str| !field.starts_with(['*', '?']);
        Ok(Self {
            minutes: field(minute, 0, 59, &[], 0)?,
            hours: field(hour, 0, 23, &[], 0)?,
            days: field(day, 1, 31, &[], 0)?,
            months: field(month, 1, 12, &MONTHS, 1)?,
            weekdays,
            either_day: limited(day) && limited(weekday),
        })
    }

    fn matches_day(&self, date: Date) -> bool {
        let has = |bits: u64, value: i8| bits & (1 << value) != 0;
        let weekday = match date.weekday() {
            Weekday::Sunday => 0,
            other => other.to_monday_one_offset(),
        };
        let (day, weekday) = (has(self.days, date.day()), has(self.weekdays, weekday));
        let fits = if self.either_day {
            day || weekday
        } else {
            day && weekday
        };
        has(self.months, date.month()) && fits
    }

    fn times(&self) -> impl DoubleEndedIterator<Item = Time> {
        let hours = (0..24_i8).filter(|hour| self.hours & (1 << hour) != 0);
        let minutes = self.minutes;
        hours.flat_map(move |hour| {
            let minutes = (0..60_i8).filter(move |minute| minutes & (1 << minute) != 0);
            minutes.filter_map(move |minute| Time::new(hour, minute, 0, 0).ok())
        })
    }

    /// The last time at or before a moment.
    pub(super) fn last(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut date = zone.to_datetime(now).date();
        for _ in 0..DAYS {
            if self.matches_day(date) {
                let moments = self
                    .times()
                    .rev()
                    .filter_map(|time| moment(date, time, zone));
                if let Some(found) = { moments }.find(|at| *at <= now) {
                    return Some(found);
                }
            }
            date = date.yesterday().ok()?;
        }
        None
    }

    /// The first time after a moment.
    pub(super) fn next(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut date = zone.to_datetime(now).date();
        for _ in 0..DAYS {
            if self.matches_day(date) {
                let moments = self.times().filter_map(|time| moment(date, time, zone));
                if let Some(found) = { moments }.find(|at| *at > now) {
                    return Some(found);
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }
}

fn moment(date: Date, time: Time, zone: &TimeZone) -> Option<Timestamp> {
    zone.to_timestamp(date.to_datetime(time)).ok()
}

/// A field: `*`, `5`, `1-5`, `*/15`, `1-31/2`, names, and lists of these.
fn field(text: &str, least: u32, most: u32, names: &[&str], base: u32) -> Result<u64, String> {
    let mut bits = 0;
    for part in text.split(',') {
        let wrong = || {
            format!(
                "schedule field {text:?}: {part:?} is no value or range between {least} and {most}"
            )
        };
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (
                range,
                step.parse().ok().filter(|s| *s > 0).ok_or_else(wrong)?,
            ),
            None => (part, 1),
        };
        let value = |text: &str| {
            let lower = text.to_lowercase();
            let named = names.iter().position(|name| *name == lower);
            let named = named.and_then(|i| u32::try_from(i).ok()).map(|i| i + base);
            named.or_else(|| text.parse().ok())
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (least, most),
            Some((first, last)) => (
                value(first).ok_or_else(wrong)?,
                value(last).ok_or_else(wrong)?,
            ),
            None => {
                let one = value(range).ok_or_else(wrong)?;
                (one, if part.contains('/') { most } else { one })
            }
        };
        if first < least || last > most || first > last {
            return Err(wrong());
        }
        for value in (first..=last).step_by(step) {
            bits |= 1 << value;
        }
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, from: &str, zone: &str) -> String {
        let zone = TimeZone::get(zone).unwrap();
        let schedule = Schedule::parse(schedule).unwrap();
        schedule
            .next(from.parse().unwrap(), &zone)
            .unwrap()
            .to_string()
    }

    #[test]
    fn the_next_time() {
        let from = "2026-11-20T23:10:30Z";
        assert_eq!(next("*/15 * * * *", from, "UTC"), "2026-11-20T23:15:00Z");
        assert_eq!(next("10 23 * * *", from, "UTC"), "2026-11-21T23:10:00Z");
        assert_eq!(next("0 0 1 jan *", from, "UTC"), "2027-01-01T00:00:00Z");
        assert_eq!(
            next("0 12 * * mon-fri", from, "UTC"),
            "2026-11-23T12:00:00Z"
        );
        assert_eq!(next("0 0 29 2 *", from, "UTC"), "2028-02-29T00:00:00Z");
        assert_eq!(
            next("0 0 24 * 7", from, "UTC"),
            "2026-11-22T00:00:00Z",
            "either day"
        );
        assert_eq!(
            next("@daily", from, "Europe/Berlin"),
            "2026-11-21T23:00:00Z"
        );
    }

    #[test]
    fn the_last_time_is_the_one_that_the_next_one_follows() {
        let zone = TimeZone::UTC;
        for text in ["*/7 * * * *", "5 4 * * sun", "0 0 1 */3 *"] {
            let schedule = Schedule::parse(text).unwrap();
            let now: Timestamp = "2026-11-20T23:10:30Z".parse().unwrap();
            let last = schedule.last(now, &zone).unwrap();
            assert!(last <= now);
            let before = Timestamp::from_second(last.as_second() - 1).unwrap();
            assert_eq!(schedule.next(before, &zone), Some(last), "{text}");
            assert!(schedule.next(last, &zone).unwrap() > now, "{text}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in [
            "",
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "x * * * *",
            "@often",
        ] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
        assert_eq!(
            Schedule::parse("0 0 30 2 *")
                .unwrap()
                .next(Timestamp::UNIX_EPOCH, &TimeZone::UTC),
            None
        );
    }
}
