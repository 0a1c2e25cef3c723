//! When to collect: at once when the last ref of something goes, when a wait is over, and when the disk fills up.
//!
//! One task. It sleeps until the store has let go of something or taken in what nothing may hold, until something falls
//! due, or until the next look at the disk; nothing is swept before every source has told all that it wants, and before
//! the manager has taken up what pods told: one that ends lets go of an image that its workload holds from then on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::{Histogram, HistogramVec, IntCounterVec};
use tokio::sync::{mpsc, oneshot, watch};

use super::manager::Command;
use super::{Error, Events};
use crate::api::problem::chain;
use crate::api::{Event, Kind, ObjectKey, Reason};
use crate::metrics::Registry;
use crate::pod::real::Machine;
use crate::store::{Store, SweepOptions, Swept};

/// How long a collection waits for the manager, at most: it is to free the disk also where that hangs.
const SETTLE: Duration = Duration::from_secs(5);
/// How often the disk is looked at: one system call.
const LOOK: Duration = Duration::from_mins(1);
/// Seconds of a collection.
const DURATION_BUCKETS: [f64; 9] = [0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0];
/// Seconds from release to free.
const FREED_BUCKETS: [f64; 12] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0, 1800.0, 3600.0];

/// What lets a collection begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trigger {
    Release,
    Pressure,
    Schedule,
    Command,
}

impl Trigger {
    const fn label(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Pressure => "pressure",
            Self::Schedule => "schedule",
            Self::Command => "command",
        }
    }
}

/// What is kept though nothing holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) grace: Duration,
    pub(super) image_age: Duration,
    pub(super) high: u8,
    pub(super) low: u8,
}

/// The space of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) total: u64,
    pub(super) free: u64,
}

impl Policy {
    /// How many bytes must become free: from above the high mark down to the low one.
    pub(super) fn need(self, space: Space) -> u64 {
        let used = space.total.saturating_sub(space.free);
        let percent = |p: u8| space.total / 100 * u64::from(p.min(100));
        if used <= percent(self.high) { 0 } else { used - percent(self.low.min(self.high)) }
    }

    fn options(self, need: u64) -> SweepOptions {
        SweepOptions { grace: self.grace, image_age: self.image_age, need, dry_run: false, now: Instant::now() }
    }
}

/// The space where a store lies.
pub(super) fn space(store: &Store) -> std::io::Result<Space> {
    let stat = rustix::fs::statvfs(store.root())?;
    // As df has it: what only root may fill, or a quota keeps from us, counts as neither used nor free.
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    let total = used.saturating_add(stat.f_bavail);
    Ok(Space { total: total.saturating_mul(stat.f_frsize), free: stat.f_bavail.saturating_mul(stat.f_frsize) })
}

/// The metrics of collection.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    total: IntCounterVec,
    duration: HistogramVec,
    freed_bytes: IntCounterVec,
    freed_layers: IntCounterVec,
    to_freed: Histogram,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, crate::metrics::Error> {
        Ok(Self {
            total: registry.counters(
                "lamina_gc_total",
                "Collections, by what let them begin and what they came to.",
                &["trigger", "result"],
            )?,
            duration: registry.histograms(
                "lamina_gc_duration_seconds",
                "Seconds that a collection took.",
                &["trigger"],
                &DURATION_BUCKETS,
            )?,
            freed_bytes: registry.counters(
                "lamina_gc_freed_bytes_total",
                "Bytes of layers that collections removed.",
                &["trigger"],
            )?,
            freed_layers: registry.counters(
                "lamina_gc_freed_layers_total",
                "Layers that collections removed.",
                &["trigger"],
            )?,
            to_freed: registry.histogram(
                "lamina_gc_release_to_freed_seconds",
                "Seconds from the release of a layer's last reference to its removal.",
                &FREED_BUCKETS,
            )?,
        })
    }

    fn done(&self, trigger: Trigger, begin: Instant, swept: &Swept) {
        let label = [trigger.label()];
        let result = match (swept.failures.is_empty(), swept.is_empty()) {
            (false, _) => "failed",
            (true, true) => "nothing",
            (true, false) => "freed",
        };
        self.total.with_label_values(&[trigger.label(), result]).inc();
        self.duration.with_label_values(&label).observe(begin.elapsed().as_secs_f64());
        self.freed_bytes.with_label_values(&label).inc_by(swept.freed_bytes);
        self.freed_layers.with_label_values(&label).inc_by(u64::try_from(swept.layers.len()).unwrap_or_default());
        let now = Instant::now();
        for layer in &swept.layers {
            self.to_freed.observe(now.saturating_duration_since(layer.idle_since).as_secs_f64());
        }
    }
}

/// The collector. Cheap to clone; [`Collector::run`] is its one task.
#[derive(Debug, Clone)]
pub(super) struct Collector {
    machine: Arc<Machine>,
    events: Events,
    metrics: Metrics,
    policy: Policy,
    node: ObjectKey,
}

impl Collector {
    pub(super) fn new(machine: Arc<Machine>, events: Events, metrics: Metrics, policy: Policy) -> Self {
        let node = ObjectKey { kind: Kind::Node, namespace: String::new(), name: machine.node.clone() };
        Self { machine, events, metrics, policy, node }
    }

    /// Collects until the agent ends. `synced`: whether every source has told all that it wants.
    pub(super) async fn run(self, mut synced: watch::Receiver<bool>, commands: mpsc::UnboundedSender<Command>) {
        // Closed: the agent ends.
        if synced.wait_for(|synced| *synced).await.is_err() {
            return;
        }
        let mut trigger = Trigger::Schedule;
        let mut pressed = false;
        loop {
            let (answer, settled) = oneshot::channel();
            if commands.send(Command::Settle(answer)).is_ok() {
                let _ = tokio::time::timeout(SETTLE, settled).await;
            }
            let need = space(&self.machine.store).map_or(0, |space| self.policy.need(space));
            if need > 0 {
                trigger = Trigger::Pressure;
            }
            let due = match self.sweep(trigger, self.policy.options(need)).await {
                Ok(swept) => {
                    self.pressure(need, &swept, &mut pressed);
                    swept.next_due
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "cannot collect");
                    None
                }
            };
            tokio::select! {
                // Cancel-safe: what is not heard now is heard by the next wait.
                () = self.machine.store.loosened() => trigger = Trigger::Release,
                () = tokio::time::sleep(due.map_or(LOOK, |due| due.min(LOOK))) => trigger = Trigger::Schedule,
            }
        }
    }

    /// Says once that the disk fills up, and whether anything could be done about it.
    fn pressure(&self, need: u64, swept: &Swept, pressed: &mut bool) {
        if need == 0 {
            *pressed = false;
        } else if !std::mem::replace(pressed, true) {
            let left = need.saturating_sub(swept.freed_bytes);
            let message = if left == 0 {
                format!("the disk was over its high mark; {} bytes were freed", swept.freed_bytes)
            } else {
                format!(
                    "the disk is over its high mark; {left} bytes more should be free, and all that is left is in use"
                )
            };
            self.tell(Reason::DiskPressure, message);
        }
    }

    fn tell(&self, reason: Reason, message: String) {
        self.events.tell(Event::new(self.node.clone(), reason, message, jiff::Timestamp::now()));
    }

    /// One collection.
    pub(super) async fn sweep(&self, trigger: Trigger, options: SweepOptions) -> Result<Swept, Error> {
        let begin = Instant::now();
        let store = self.machine.store.clone();
        let dry_run = options.dry_run;
        let swept = tokio::task::spawn_blocking(move || store.sweep(&options))
            .await
            .map_err(Error::failed("collect"))?
            .map_err(Error::failed("collect"))?;
        if dry_run {
            return Ok(swept);
        }
        self.metrics.done(trigger, begin, &swept);
        for failure in &swept.failures {
            tracing::warn!(error = %chain(failure), "something could not be removed");
        }
        if !swept.layers.is_empty() {
            let names: Vec<&str> = swept.layers.iter().map(|l| l.key.short()).collect();
            tracing::info!(layers = names.len(), bytes = swept.freed_bytes, trigger = trigger.label(), "freed layers");
            self.tell(
                Reason::Collected,
                format!("freed {} bytes of {} layers: {}", swept.freed_bytes, names.len(), names.join(" ")),
            );
        }
        Ok(swept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(high: u8, low: u8) -> Policy {
        Policy { grace: Duration::ZERO, image_age: Duration::ZERO, high, low }
    }

    #[test]
    fn nothing_is_needed_up_to_the_high_mark() {
        let space = |free| Space { total: 1000, free };
        assert_eq!(policy(80, 75).need(space(200)), 0);
        assert_eq!(policy(80, 75).need(space(199)), 51);
        assert_eq!(policy(80, 75).need(space(0)), 250);
    }

    #[test]
    fn a_low_mark_above_the_high_one_counts_as_the_high_one() {
        assert_eq!(policy(80, 95).need(Space { total: 1000, free: 100 }), 100);
        assert_eq!(policy(100, 100).need(Space { total: 1000, free: 0 }), 0);
    }

    #[test]
    fn a_file_system_without_size_needs_nothing() {
        assert_eq!(policy(80, 75).need(Space { total: 0, free: 0 }), 0);
    }
}
