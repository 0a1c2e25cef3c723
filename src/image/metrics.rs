//! The metrics of pulls and registry requests.

use prometheus::{HistogramVec, IntCounterVec};
use reqwest::StatusCode;

use super::error::Reason;
use crate::metrics::{Error, Registry};

/// Upper bounds of pull durations in seconds: from an image that is here to one over a poor line.
const PULL_SECONDS: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];

/// Counters of this module. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    pulls: IntCounterVec,
    seconds: HistogramVec,
    bytes: IntCounterVec,
    requests: IntCounterVec,
}

/// How a pull ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A registry was asked.
    Pulled,
    /// It was here.
    Present,
    /// It failed.
    Failed(Reason),
}

impl Metrics {
    /// Registers the families.
    pub(super) fn new(registry: &Registry) -> Result<Self, Error> {
        let made = Self {
            pulls: registry.counters(
                "lamina_image_pulls_total",
                "Image pulls that ended, by result and, for failed ones, reason.",
                &["result", "reason"],
            )?,
            seconds: registry.histograms(
                "lamina_image_pull_duration_seconds",
                "Seconds that image pulls took, from the request to the image in the store.",
                &["result"],
                &PULL_SECONDS,
            )?,
            bytes: registry.counters(
                "lamina_image_pull_bytes_total",
                "Bytes of layers as they travel: fetched, or reused because they were here already.",
                &["kind"],
            )?,
            requests: registry.counters(
                "lamina_registry_requests_total",
                "Requests to registries and token servers, each redirect and attempt by itself, by answer.",
                &["code"],
            )?,
        };
        for kind in ["fetched", "reused"] {
            made.bytes.with_label_values(&[kind]);
        }
        Ok(made)
    }

    /// A request ended, with an answer or none.
    pub(super) fn request(&self, status: Option<StatusCode>) {
        let code = match status.map(|s| s.as_u16()) {
            None => "error",
            Some(200..=299) => "2xx",
            Some(300..=399) => "3xx",
            Some(401) => "401",
            Some(403) => "403",
            Some(404) => "404",
            Some(429) => "429",
            Some(400..=499) => "4xx",
            Some(_) => "5xx",
        };
        self.requests.with_label_values(&[code]).inc();
    }

    /// A pull ended.
    pub(super) fn pull(&self, outcome: Outcome, took: std::time::Duration) {
        let (result, reason) = match outcome {
            Outcome::Pulled => ("pulled", ""),
            Outcome::Present => ("present", ""),
            Outcome::Failed(reason) => ("failed", reason.label()),
        };
        self.pulls.with_label_values(&[result, reason]).inc();
        self.seconds.with_label_values(&[result]).observe(took.as_secs_f64());
    }

    /// Bytes of layers that came over the network.
    pub(super) fn fetched(&self, bytes: u64) {
        self.bytes.with_label_values(&["fetched"]).inc_by(bytes);
    }

    /// Bytes of layers that did not have to.
    pub(super) fn reused(&self, bytes: u64) {
        self.bytes.with_label_values(&["reused"]).inc_by(bytes);
    }
}
