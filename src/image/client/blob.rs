//! A blob as it comes, resumed where it broke: by Range at the same place, then at the next one.
//!
//! The bytes are checked by whoever stores them (the store hashes all of a blob in its pipeline); here only their number
//! is, so that a server can neither flood us nor end early unnoticed. A blob is fetched from several places in one go
//! without harm: the digest at its end covers all of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;

use super::error::{ClientError, show};
use super::repository::{Repository, Site};
use super::transport::Answer;
use crate::oci::Digest;

/// A failure after this much progress since the last counts as the first: a long blob over a poor line arrives, and one
/// that breaks at every byte still ends.
const PROGRESS: u64 = 1 << 20;

/// A blob that is being fetched.
#[derive(Debug)]
pub(in crate::image) struct Blob {
    repository: Arc<Repository>,
    digest: String,
    size: u64,
    /// Bytes given so far.
    offset: u64,
    /// The place that is asked now.
    site: usize,
    open: Option<Open>,
    failures: u32,
    /// `offset` when `failures` last began at zero.
    mark: u64,
    pace: Pace,
}

/// A body that is being read.
#[derive(Debug)]
struct Open {
    answer: Answer,
    /// Bytes to read and drop: the server does not know ranges and began anew.
    skip: u64,
}

/// How fast a body comes, counting only the time that we wait for it.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Blob {
    /// Prepares the fetch of `size` bytes; the first request is made by [`Blob::next`].
    pub(in crate::image) fn new(repository: Arc<Repository>, digest: &Digest, size: u64) -> Self {
        Self {
            repository,
            digest: digest.to_string(),
            size,
            offset: 0,
            site: 0,
            open: None,
            failures: 0,
            mark: 0,
            pace: Pace::default(),
        }
    }

    /// The next bytes, as they came from the network; `None` after the last.
    ///
    /// # Errors
    /// When no place gives them, each having been asked as often as it is worth.
    pub(in crate::image) async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.step().await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) if self.offset == self.size => return Ok(None),
                // Dropped bytes of a body that began anew.
                Ok(None) => {}
                Err(error) => self.failed(error).await?,
            }
        }
    }

    /// Reads once. `None` at the end, or where what came was to be dropped.
    async fn step(&mut self) -> Result<Option<Bytes>, ClientError> {
        let repository = Arc::clone(&self.repository);
        let transport = &repository.transport;
        if self.open.is_none() {
            let Some(site) = repository.sites.get(self.site) else { return Err(repository.nowhere()) };
            self.open = Some(self.ask(&repository, site).await?);
            self.pace = Pace::default();
        }
        let Some(open) = self.open.as_mut() else { return Ok(None) };
        let far = tokio::time::Instant::now() + transport.timing.idle;
        let before = Instant::now();
        let read = transport.chunk(&mut open.answer, far).await?;
        let url = || show(&open.answer.url);
        let Some(mut bytes) = read else {
            self.open = None;
            if self.offset == self.size {
                return Ok(None);
            }
            let url = repository.sites.get(self.site).map_or_else(String::new, |s| show(&s.endpoint.base));
            let source = format!("the body ended after {} of {} bytes", self.offset, self.size).into();
            return Err(ClientError::Transport { action: "read from", url, fault: super::Fault::Broken, source });
        };
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.pace.is_slow(before.elapsed(), length, &transport.timing) {
            let after = transport.timing.slow_window;
            return Err(ClientError::Stalled { url: url(), what: "next to no data", after });
        }
        if open.skip > 0 {
            let drop = open.skip.min(length);
            open.skip -= drop;
            bytes = bytes.split_off(usize::try_from(drop).unwrap_or(bytes.len()).min(bytes.len()));
        }
        let left = self.size - self.offset;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if length > left {
            return Err(ClientError::TooLarge { url: url(), max: self.size });
        }
        self.offset += length;
        if self.offset - self.mark >= PROGRESS {
            (self.mark, self.failures) = (self.offset, 0);
        }
        Ok(Some(bytes).filter(|b| !b.is_empty()))
    }

    /// Asks one place for what is missing, and checks that its answer is that.
    async fn ask(&self, repository: &Repository, site: &Site) -> Result<Open, ClientError> {
        let (answer, _) = repository.get(site, ["blobs", &self.digest], None, self.offset).await?;
        let bad = |reason: String| ClientError::Protocol { url: show(&answer.url), reason };
        let length = answer.response.content_length();
        let skip = if answer.status() == StatusCode::PARTIAL_CONTENT {
            let range = answer.response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok()).unwrap_or_default();
            let (start, total) = content_range(range).ok_or_else(|| bad("a part without a usable range".to_owned()))?;
            if start != self.offset || total.is_some_and(|t| t != self.size) {
                return Err(bad(format!("another range than was asked for: {range}")));
            }
            0
        } else {
            if length.is_some_and(|length| length != self.size) {
                let (got, want) = (length.unwrap_or_default(), self.size);
                return Err(bad(format!("{got} bytes where the manifest says {want}")));
            }
            self.offset
        };
        Ok(Open { answer, skip })
    }

    /// After a failure: waits, or goes on to the next place, or gives up.
    async fn failed(&mut self, error: ClientError) -> Result<(), ClientError> {
        self.open = None;
        self.failures += 1;
        let repository = Arc::clone(&self.repository);
        let Some(site) = repository.sites.get(self.site) else { return Err(error) };
        if let Err(error) = repository.pause(site, self.failures, error).await {
            if self.site + 1 >= repository.sites.len() || matches!(error, ClientError::TooLarge { .. }) {
                return Err(error);
            }
            tracing::debug!(host = %site.host, %error, "going on at the next place");
            self.site += 1;
            self.failures = 0;
        }
        Ok(())
    }
}

impl Pace {
    /// Notes a read; whether the body has been all but still for a whole window.
    fn is_slow(&mut self, waited: Duration, bytes: u64, timing: &super::retry::Timing) -> bool {
        self.waited += waited;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.waited < timing.slow_window {
            return false;
        }
        let slow = self.bytes < timing.slow_bytes;
        *self = Self::default();
        slow
    }
}

/// The first byte and the whole length of `bytes 5-9/10` or `bytes 5-9/*`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (start.trim().parse::<u64>().ok()?, end.trim().parse::<u64>().ok()?);
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    (end >= start && total.is_none_or(|t| end < t)).then_some((start, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_nonsense_is_refused() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for text in ["", "bytes */10", "bytes 9-5/10", "bytes 5-10/10", "items 5-9/10", "bytes 5-9/x", "bytes -5-9/10"]
        {
            assert_eq!(content_range(text), None, "{text}");
        }
    }

    #[test]
    fn a_body_is_slow_by_the_time_waited_for_it_and_not_by_the_time_it_takes_to_store() {
        let timing = super::super::retry::Timing::default();
        let mut pace = Pace::default();
        let second = Duration::from_secs(1);
        let slow = |pace: &mut Pace, bytes| (0..60).any(|_| pace.is_slow(second, bytes, &timing));
        assert!(slow(&mut pace, 1));
        assert!(!slow(&mut pace, 1024));
        assert!(!(0..1000).any(|_| pace.is_slow(Duration::ZERO, 1, &timing)));
    }
}
