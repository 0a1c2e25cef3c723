//! Sizes and ages as people read them.

use std::time::Duration;

use jiff::Timestamp;

/// Bytes in decimal units, three digits: `1.43 GB`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        // What would be shown as 1000 is 1.00 of the next.
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {unit}")
}

/// A duration as kubectl shows ages: two units where the first is small.
pub(crate) fn duration(d: Duration) -> String {
    let s = d.as_secs();
    let (m, h, days) = (s / 60, s / 3600, s / 86400);
    match s {
        0..120 => format!("{s}s"),
        120..600 if !s.is_multiple_of(60) => format!("{m}m{}s", s % 60),
        120..10_800 => format!("{m}m"),
        10_800..28_800 if !m.is_multiple_of(60) => format!("{h}h{}m", m % 60),
        10_800..172_800 => format!("{h}h"),
        172_800..691_200 if !h.is_multiple_of(24) => format!("{days}d{}h", h % 24),
        172_800..63_072_000 => format!("{days}d"),
        _ => format!("{}y{}d", days / 365, days % 365),
    }
}

/// How long ago `time` (RFC 3339) was; `<unknown>` when it is not a time.
pub(crate) fn age(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(then) => duration(Duration::try_from(now.duration_since(then)).unwrap_or_default()),
        Err(_) => "<unknown>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (12_345, "12.3 kB"),
            (446_000_000, "446 MB"),
            (999_600, "1.00 MB"),
            (1_430_000_000, "1.43 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn ages_are_those_of_kubectl() {
        for (s, text) in
            [(0, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (3600, "60m"), (10_860, "3h1m"), (172_800, "2d")]
        {
            assert_eq!(duration(Duration::from_secs(s)), text);
        }
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        assert_eq!(age("2026-01-01T00:00:00Z", now), "60s");
        assert_eq!(age("2027-01-01T00:00:00Z", now), "0s");
        assert_eq!(age("soon", now), "<unknown>");
    }
}
