//! What the node as a whole shows: how many pods are how far, what is pending, what the sources say. Counted when it is
//! scraped, from what everybody may read: no pass is held up.

use std::sync::Arc;
use std::time::Instant;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntGaugeVec, Opts};
use tokio::sync::watch;

use super::audience::Board;
use crate::api::PodView;
use crate::pod::real::Machine;
use crate::source::{DesiredSet, SourceKind};

/// How far a pod is, in one word.
const STATES: [&str; 7] = ["pending", "starting", "running", "ready", "stopping", "succeeded", "failed"];

/// Counts at each scrape.
pub(super) struct Counts {
    board: Board,
    machine: Arc<Machine>,
    sets: watch::Receiver<Arc<DesiredSet>>,
    pods: IntGaugeVec,
    shims: IntGaugeVec,
    pending: Gauge,
    objects: IntGaugeVec,
    problems: IntGaugeVec,
}

impl Counts {
    pub(super) fn new(
        board: Board,
        machine: Arc<Machine>,
        sets: watch::Receiver<Arc<DesiredSet>>,
    ) -> Result<Self, prometheus::Error> {
        let family = |name: &str, help: &str, label: &str| IntGaugeVec::new(Opts::new(name, help), &[label]);
        Ok(Self {
            board,
            machine,
            sets,
            pods: family("lamina_pods", "Pods, by how far they are; moves as they do.", "state")?,
            shims: family("lamina_shims", "Shims, by whether they can be reached; moves as they do.", "state")?,
            pending: Gauge::with_opts(Opts::new(
                "lamina_reconcile_pending_seconds",
                "Age in seconds of the oldest desired change that is not applied yet; 0 when all is as desired.",
            ))?,
            objects: family("lamina_source_objects", "Objects that a source wants; moves as manifests do.", "source")?,
            problems: family(
                "lamina_source_problems",
                "What is wrong with manifests at the moment; moves as they do.",
                "source",
            )?,
        })
    }

    fn families(&self) -> [&dyn Collector; 5] {
        [&self.pods, &self.shims, &self.pending, &self.objects, &self.problems]
    }
}

impl Collector for Counts {
    fn desc(&self) -> Vec<&Desc> {
        self.families().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let views = self.board.subscribe().borrow().clone();
        for name in STATES {
            let count = views.iter().filter(|v| state(v) == name).count();
            self.pods.with_label_values(&[name]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let live = i64::try_from(self.machine.sandbox_count()).unwrap_or(i64::MAX);
        self.shims.with_label_values(&["live"]).set(live);
        let oldest = self.board.pending().map_or(0.0, |since| Instant::now().duration_since(since).as_secs_f64());
        self.pending.set(oldest);
        let set = self.sets.borrow().clone();
        for (source, name) in [(SourceKind::Manifests, "directory"), (SourceKind::Desired, "desired")] {
            let count = set.objects.iter().filter(|o| o.source == source).count();
            self.objects.with_label_values(&[name]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.problems.with_label_values(&["directory"]).set(i64::try_from(set.problems.len()).unwrap_or(i64::MAX));
        self.families().into_iter().flat_map(Collector::collect).collect()
    }
}

fn state(view: &PodView) -> &'static str {
    if view.pod.metadata.deletion_timestamp.is_some() {
        return "stopping";
    }
    let status = view.pod.status.as_ref();
    let ready = || {
        let conditions = status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    match status.and_then(|s| s.phase.as_deref()) {
        Some("Running") if ready() => "ready",
        Some("Running") => "running",
        Some("Succeeded") => "succeeded",
        Some("Failed") => "failed",
        _ if view.lamina.shim.is_some() => "starting",
        _ => "pending",
    }
}
