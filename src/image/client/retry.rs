//! How often and when a request is tried again.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// All waits and bounds of the client, in one value so that tests can make them short.
#[derive(Debug, Clone)]
pub(in crate::image) struct Timing {
    /// For a connection: a few lost SYNs and a slow handshake.
    pub(in crate::image) connect: Duration,
    /// For the head of an answer: some registries look a blob up in cold storage.
    pub(in crate::image) answer: Duration,
    /// Between two reads of a body. Runs only while we wait for the network, not while the disk is slow.
    pub(in crate::image) idle: Duration,
    /// Over this much waiting, a body must bring `slow_bytes`, else it counts as stalled.
    pub(in crate::image) slow_window: Duration,
    /// See `slow_window`: 1 KiB/s, below what any usable line gives.
    pub(in crate::image) slow_bytes: u64,
    /// How often one request is made; for a body, without progress between.
    pub(in crate::image) attempts: u32,
    /// The first wait between attempts; doubled each time.
    pub(in crate::image) first_wait: Duration,
    /// The longest wait between attempts that we choose ourselves.
    pub(in crate::image) longest_wait: Duration,
    /// A `Retry-After` up to this is waited for within the pull. A longer one ends it, and its owner waits.
    pub(in crate::image) patience: Duration,
    /// The longest `Retry-After` that is believed: servers have sent years.
    pub(in crate::image) retry_after_cap: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            answer: Duration::from_mins(1),
            idle: Duration::from_secs(30),
            slow_window: Duration::from_mins(1),
            slow_bytes: 60 << 10,
            attempts: 5,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(10),
            patience: Duration::from_secs(30),
            retry_after_cap: Duration::from_mins(10),
        }
    }
}

/// HTTP dates; nobody is to be hammered for a wrong weekday.
static DATES: jiff::fmt::rfc2822::DateTimeParser = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);

impl Timing {
    /// How long to wait after `failures` (1 or more) failures in a row: doubled each time, the upper half at random so
    /// that many nodes do not come back at once.
    pub(super) fn wait(&self, failures: u32) -> Duration {
        let doubled = self.first_wait.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let full = doubled.min(self.longest_wait);
        full.mul_f64(0.5 + 0.5 * rand::random::<f64>())
    }

    /// What a server's `Retry-After` asks for, capped; `None` where it says nothing that can be read.
    pub(super) fn retry_after(&self, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
        let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        let asked = if let Ok(seconds) = text.parse::<u64>() {
            Duration::from_secs(seconds)
        } else if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
            Duration::MAX
        } else {
            let date = DATES.parse_timestamp(text).ok()?;
            SystemTime::from(date).duration_since(now).unwrap_or_default()
        };
        Some(asked.min(self.retry_after_cap))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
        Timing::default().retry_after(&headers, now)
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_as_a_date_and_capped() {
        let now = SystemTime::from("2026-01-02T03:04:05Z".parse::<jiff::Timestamp>().unwrap());
        let cap = Some(Timing::default().retry_after_cap);
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Fri, 02 Jan 2026 03:04:35 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Fri, 02 Jan 2015 03:04:35 GMT", now), Some(Duration::ZERO));
        for absurd in ["99999999999", "99999999999999999999999999", "Fri, 01 Jan 9990 00:00:00 GMT"] {
            assert_eq!(retry_after(absurd, now), cap, "{absurd}");
        }
        for nothing in ["", "-1", "soon", "1.5"] {
            assert_eq!(retry_after(nothing, now), None, "{nothing}");
        }
    }

    #[test]
    fn waits_double_with_jitter_and_end_at_a_bound() {
        let timing = Timing::default();
        for failures in 1..40 {
            let full = timing.first_wait.saturating_mul(1 << (failures - 1).min(16)).min(timing.longest_wait);
            let wait = timing.wait(failures);
            assert!(wait >= full / 2 && wait <= full, "{failures}: {wait:?}");
        }
    }
}
