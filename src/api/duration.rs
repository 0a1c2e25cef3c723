//! Durations as people write them: `90`, `90s`, `1m30s`, `500ms`, `2h`, `1d`.

use std::time::Duration;

/// A text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a duration such as 0s, 500ms, 90s, 1m30s, 2h or 7d")]
pub struct DurationError;

/// Reads a duration: numbers with a unit (`ms`, `s`, `m`, `h`, `d`), one after another; a bare number is seconds.
///
/// # Errors
/// If it is none, or does not fit.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    if text.is_empty() || !text.is_ascii() {
        return Err(DurationError);
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map(Duration::from_secs).map_err(|_| DurationError);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, after) = after.split_at(letters);
        let number: u64 = number.parse().map_err(|_| DurationError)?;
        let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs).ok_or(DurationError);
        let part = match unit {
            "ms" => Duration::from_millis(number),
            "s" => seconds(1)?,
            "m" => seconds(60)?,
            "h" => seconds(60 * 60)?,
            "d" => seconds(24 * 60 * 60)?,
            _ => return Err(DurationError),
        };
        total = total.checked_add(part).ok_or(DurationError)?;
        rest = after;
    }
    Ok(total)
}

/// Writes a duration as `kubectl` shows ages: the two largest units that matter.
pub fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 && !seconds.is_multiple_of(60) => format!("{minutes}m{}s", seconds % 60),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 && !minutes.is_multiple_of(60) => format!("{hours}h{}m", minutes % 60),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 && !hours.is_multiple_of(24) => format!("{days}d{}h", hours % 24),
        () => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_unit() {
        for (text, millis) in [
            ("0", 0),
            ("90", 90_000),
            ("0s", 0),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "1x", "1.5s", "-1s", "1s2", "99999999999999999999s", "18446744073709551615d", "ä"] {
            assert_eq!(parse(text), Err(DurationError), "{text}");
        }
    }

    #[test]
    fn ages_are_short() {
        for (seconds, text) in
            [(5, "5s"), (119, "119s"), (125, "2m5s"), (600, "10m"), (3 * 3600 + 60, "3h1m"), (90000, "25h")]
        {
            assert_eq!(short(Duration::from_secs(seconds)), text);
        }
    }
}
