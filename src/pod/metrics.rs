//! The metrics of pods and of their reconciliation; shared by all workers.

use std::time::{Duration, Instant};

use prometheus::{Histogram, HistogramVec, IntCounterVec};

use super::probe::Outcome;
use super::probe::runner::Kind;
use crate::metrics::{Error, Registry};

/// Upper bounds of a pass: most take well under a millisecond, one that starts containers tens of them.
const PASS_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// Upper bounds of a phase of a pod's start.
const START_BUCKETS: [f64; 15] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// One set for the node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    duration: Histogram,
    total: IntCounterVec,
    start: HistogramVec,
    probes: IntCounterVec,
}

/// A phase of a pod's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// From wanted to the first of its images asked for: another pod of its name had to go, or what it refers to to come.
    Wait,
    /// Its images are resolved and fetched.
    Pull,
    /// Its sandbox is made and its volumes are mounted.
    Mount,
    /// One container is made and started.
    Create,
    /// From its last container started to ready.
    Ready,
    /// From wanted to all containers running.
    Total,
}

impl Metrics {
    /// Makes the families.
    ///
    /// # Errors
    /// If a name is taken.
    pub fn new(registry: &Registry) -> Result<Self, Error> {
        Ok(Self {
            duration: registry.histogram(
                "lamina_reconcile_duration_seconds",
                "Seconds that a pass over one pod took; moves with each pass.",
                &PASS_BUCKETS,
            )?,
            total: registry.counters(
                "lamina_reconcile_total",
                "Passes over one pod, by what they came to; moves with each pass.",
                &["result"],
            )?,
            start: registry.histograms(
                "lamina_pod_start_duration_seconds",
                "Seconds that a phase of a pod's start took; moves when the phase is over.",
                &["phase"],
                &START_BUCKETS,
            )?,
            probes: registry.counters(
                "lamina_probe_total",
                "Probes of containers, by what they came to; moves with each probe.",
                &["kind", "result"],
            )?,
        })
    }

    /// Times a pass.
    pub fn pass(&self) -> Pass<'_> {
        Pass { metrics: self, begin: Instant::now() }
    }

    /// A probe was made.
    pub fn probed(&self, kind: Kind, outcome: &Outcome) {
        let result = match outcome {
            Outcome::Success => "success",
            Outcome::Failure(_) => "failure",
            Outcome::Unknown(_) => "unknown",
        };
        self.probes.with_label_values(&[kind.as_str(), result]).inc();
    }

    /// A phase of a start is over.
    pub fn phase(&self, phase: Phase, took: Duration) {
        let label = match phase {
            Phase::Wait => "wait",
            Phase::Pull => "pull",
            Phase::Mount => "mount",
            Phase::Create => "create",
            Phase::Ready => "ready",
            Phase::Total => "total",
        };
        self.start.with_label_values(&[label]).observe(took.as_secs_f64());
    }
}

/// A pass under way.
#[derive(Debug)]
pub struct Pass<'a> {
    metrics: &'a Metrics,
    begin: Instant,
}

impl Pass<'_> {
    /// The pass is over.
    pub fn done(self, changed: bool, failed: bool) {
        let result = match (failed, changed) {
            (true, _) => "failed",
            (false, true) => "changed",
            (false, false) => "unchanged",
        };
        self.metrics.duration.observe(self.begin.elapsed().as_secs_f64());
        self.metrics.total.with_label_values(&[result]).inc();
    }
}
