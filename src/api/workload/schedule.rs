//! Schedules of cron jobs: five fields or a macro, and the times that they name in a time zone.
//!
//! ```text
//!   ┌ minute 0-59  ┌ hour 0-23  ┌ day 1-31  ┌ month 1-12 or jan-dec  ┌ weekday 0-6 or sun-sat (7 is sun, too)
//!   *              *            *           *                        *        lists `1,2`, ranges `1-5`, steps `*/15`
//! ```
//!
//! If both day and weekday are given, a day that is either counts. A time that a zone skips is not met; one that comes
//! twice is met once, unless the hour is `*`: then it is met each time.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, TimeZone};

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// The 29th of February may be eight years away.
const HORIZON: u32 = 366 * 9;

/// When something is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    any_day: bool,
    any_weekday: bool,
    any_hour: bool,
}

/// A text is not a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleError(String);

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ScheduleError {}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let text = text.trim();
        if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
            return Err(ScheduleError("must not name a time zone; timeZone does".to_owned()));
        }
        let expanded = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            text if text.starts_with('@') => {
                let known = "@yearly, @monthly, @weekly, @daily, @hourly";
                return Err(ScheduleError(format!("{text:?} is not known; there are {known}")));
            }
            text => text,
        };
        let fields: Vec<&str> = expanded.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(ScheduleError(format!("must have five fields, and has {}", fields.len())));
        };
        let (minutes, _) = field("minute", minute, 0, 59, &[])?;
        let (hours, any_hour) = field("hour", hour, 0, 23, &[])?;
        let (days, any_day) = field("day", day, 1, 31, &[])?;
        let (months, _) = field("month", month, 1, 12, &MONTHS)?;
        let (mut weekdays, any_weekday) = field("weekday", weekday, 0, 7, &WEEKDAYS)?;
        weekdays |= (weekdays >> 7) & 1;
        let schedule = Self { minutes, hours, days, months, weekdays, any_day, any_weekday, any_hour };
        // Any nine years have every date that there is.
        if schedule.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC).is_none() {
            return Err(ScheduleError(format!("{text:?} names a day that never comes")));
        }
        Ok(schedule)
    }
}

/// The values of one field as bits, and whether it is any.
fn field(what: &str, text: &str, min: u32, max: u32, names: &[&str]) -> Result<(u64, bool), ScheduleError> {
    let wrong = |why: &str| ScheduleError(format!("{what} {text:?}: {why}"));
    let value = |text: &str| -> Result<u32, ScheduleError> {
        let named = names.iter().position(|n| n.eq_ignore_ascii_case(text)).and_then(|i| u32::try_from(i).ok());
        let value = match named {
            Some(i) => i + min,
            None => text.parse().map_err(|_| wrong(&format!("{text:?} is not a number")))?,
        };
        if (min..=max).contains(&value) { Ok(value) } else { Err(wrong(&format!("must be from {min} to {max}"))) }
    };
    let (mut bits, mut any) = (0, false);
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (
                range,
                Some(step.parse::<u32>().ok().filter(|s| *s > 0).ok_or_else(|| wrong("the step is no number"))?),
            ),
            None => (part, None),
        };
        let (first, last) = match range {
            "*" | "?" => {
                any |= step.is_none_or(|s| s == 1);
                // Seven is another name for Sunday, not an eighth day.
                (min, if max == 7 { 6 } else { max })
            }
            range => match range.split_once('-') {
                Some((first, last)) => (value(first)?, value(last)?),
                // As `5/15`: from there to the end.
                None if step.is_some() => (value(range)?, max),
                None => (value(range)?, value(range)?),
            },
        };
        if first > last {
            return Err(wrong("the range ends before it begins"));
        }
        let step = usize::try_from(step.unwrap_or(1)).unwrap_or(usize::MAX);
        bits = (first..=last).step_by(step).fold(bits, |bits, n| bits | 1 << n);
    }
    Ok((bits, any))
}

fn has(bits: u64, n: i8) -> bool {
    u32::try_from(n).is_ok_and(|n| bits >> n & 1 == 1)
}

impl Schedule {
    /// The first time after `after`.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut date = zone.to_datetime(after).date();
        for _ in 0..HORIZON {
            if self.is_day(date)
                && let Some(found) = self.times(date, zone).into_iter().find(|t| *t > after)
            {
                return Some(found);
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    /// The last time up to `now` that is after `floor`.
    pub fn latest(&self, floor: Timestamp, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut date = zone.to_datetime(now).date();
        let first = zone.to_datetime(floor).date();
        for _ in 0..HORIZON {
            if date < first {
                return None;
            }
            if self.is_day(date)
                && let Some(found) = self.times(date, zone).into_iter().rev().find(|t| *t <= now)
            {
                return (found > floor).then_some(found);
            }
            date = date.yesterday().ok()?;
        }
        None
    }

    fn is_day(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let fits = if self.any_day || self.any_weekday { day && weekday } else { day || weekday };
        has(self.months, date.month()) && fits
    }

    /// The times of a day, in their order.
    fn times(&self, date: Date, zone: &TimeZone) -> Vec<Timestamp> {
        let mut times = Vec::new();
        for hour in (0..24).filter(|h| has(self.hours, *h)) {
            for minute in (0..60).filter(|m| has(self.minutes, *m)) {
                let ambiguous = zone.to_ambiguous_timestamp(date.at(hour, minute, 0, 0));
                match ambiguous.offset() {
                    AmbiguousOffset::Gap { .. } => {}
                    AmbiguousOffset::Fold { .. } if self.any_hour => {
                        times.extend(ambiguous.earlier().ok());
                        times.extend(ambiguous.later().ok());
                    }
                    _ => times.extend(ambiguous.earlier().ok()),
                }
            }
        }
        times.sort_unstable();
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(text: &str, after: &str, zone: &str) -> String {
        let zone = TimeZone::get(zone).unwrap();
        let schedule: Schedule = text.parse().unwrap();
        let after: Timestamp = after.parse().unwrap();
        let found = schedule.next(after, &zone).unwrap();
        assert!(schedule.latest(after, found, &zone) == Some(found), "{text} backwards");
        zone.to_datetime(found).to_string()
    }

    #[test]
    fn the_next_time_is_the_first_that_all_fields_allow() {
        for (text, after, expected) in [
            ("* * * * *", "2026-11-24T18:00:30Z", "2026-11-24T18:01:00"),
            ("*/15 * * * *", "2026-11-24T18:45:00Z", "2026-11-24T19:00:00"),
            ("5/20 3 * * *", "2026-11-24T03:05:00Z", "2026-11-24T03:25:00"),
            ("30 4 1,15 * *", "2026-11-24T00:00:00Z", "2026-12-01T04:30:00"),
            ("0 0 * * mon-FRI", "2026-11-27T12:00:00Z", "2026-11-30T00:00:00"),
            ("0 0 * * 7", "2026-11-24T00:00:00Z", "2026-11-29T00:00:00"),
            // A day of the month or a day of the week: either counts.
            ("0 0 13 * 5", "2026-11-24T00:00:00Z", "2026-11-27T00:00:00"),
            ("0 0 29 2 *", "2026-11-24T00:00:00Z", "2028-02-29T00:00:00"),
            ("@hourly", "2026-11-24T18:00:00Z", "2026-11-24T19:00:00"),
            ("@yearly", "2026-11-24T18:00:00Z", "2027-01-01T00:00:00"),
            ("@weekly", "2026-11-24T18:00:00Z", "2026-11-29T00:00:00"),
        ] {
            assert_eq!(next(text, after, "UTC"), expected, "{text}");
        }
    }

    #[test]
    fn a_zone_decides_when_a_day_begins_and_what_its_clock_skips() {
        assert_eq!(next("0 0 * * *", "2026-07-01T12:00:00Z", "Europe/Berlin"), "2026-07-02T00:00:00");
        // 02:30 is not there on the 29th of March.
        assert_eq!(next("30 2 * * *", "2026-03-28T12:00:00Z", "Europe/Berlin"), "2026-03-30T02:30:00");
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let count = |text: &str| {
            let schedule: Schedule = text.parse().unwrap();
            let (mut at, mut n): (Timestamp, _) = ("2026-10-24T22:00:00Z".parse().unwrap(), 0);
            while let Some(next) = schedule.next(at, &zone).filter(|t| *t < "2026-10-25T23:00:00Z".parse().unwrap()) {
                (at, n) = (next, n + 1);
            }
            n
        };
        // The hour from two to three comes twice on that day.
        assert_eq!((count("30 2 * * *"), count("30 * * * *")), (1, 25));
    }

    #[test]
    fn what_is_no_schedule_says_why() {
        for (text, why) in [
            ("* * * *", "must have five fields, and has 4"),
            ("60 * * * *", "minute \"60\": must be from 0 to 59"),
            ("5-2 * * * *", "minute \"5-2\": the range ends before it begins"),
            ("*/0 * * * *", "minute \"*/0\": the step is no number"),
            ("* * * foo *", "month \"foo\": \"foo\" is not a number"),
            ("0 0 31 2 *", "\"0 0 31 2 *\" names a day that never comes"),
            ("@every 1h", "\"@every 1h\" is not known; there are @yearly, @monthly, @weekly, @daily, @hourly"),
            ("TZ=UTC 0 * * * *", "must not name a time zone; timeZone does"),
        ] {
            assert_eq!(text.parse::<Schedule>().unwrap_err().to_string(), why);
        }
    }

    #[test]
    fn a_missed_time_is_found_however_long_ago() {
        let schedule: Schedule = "0 3 * * *".parse().unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let found = schedule.latest(at("2016-01-01T00:00:00Z"), at("2026-11-24T02:00:00Z"), &TimeZone::UTC);
        assert_eq!(found, Some(at("2026-11-23T03:00:00Z")));
        assert_eq!(schedule.latest(at("2026-11-23T03:00:00Z"), at("2026-11-24T02:00:00Z"), &TimeZone::UTC), None);
    }
}
