//! What the node as a whole shows: how many pods are how far, what is pending, what the sources say. Counted when it is
//! scraped, from what everybody may read: no pass is held up.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, GaugeVec, IntCounterVec, IntGaugeVec, Opts};
use tokio::sync::watch;

use super::audience::Board;
use crate::api::PodView;
use crate::metrics::{self, Described, Registry};
use crate::pod::real::Machine;
use crate::source::kubernetes::{self, Link};
use crate::source::{DesiredSet, SourceKind};

/// How far a pod is, in one word.
const STATES: [&str; 7] = ["pending", "starting", "running", "ready", "stopping", "succeeded", "failed"];

/// The sources that have series.
const SOURCES: [(SourceKind, &str); 3] =
    [(SourceKind::Manifests, DIRECTORY), (SourceKind::Desired, DESIRED), (SourceKind::Kubernetes, KUBERNETES)];
const DIRECTORY: &str = "directory";
const DESIRED: &str = "desired";
const KUBERNETES: &str = "kubernetes";

/// What sources did and how they are, as the task that hears of each change of theirs knows it. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    errors: IntCounterVec,
    /// Watched directories.
    directories: Arc<[PathBuf]>,
    /// Where objects are that were applied.
    desired: Arc<Path>,
    /// Since when a directory cannot be read.
    cut: Arc<Mutex<Option<Instant>>>,
    /// Whether the API server is heard, where it is a source.
    link: Option<watch::Receiver<Link>>,
}

impl Sources {
    /// Makes the family.
    pub(super) fn new(
        registry: &Registry,
        directories: &[PathBuf],
        desired: &Path,
        link: Option<watch::Receiver<Link>>,
    ) -> Result<Self, metrics::Error> {
        let errors = registry.counters(
            "lamina_source_errors_total",
            "What was found wrong with manifests or with reading them, each thing once; moves when it is found.",
            &["source"],
        )?;
        for (_, name) in SOURCES {
            errors.with_label_values(&[name]);
        }
        // Until it was looked at for the first time, nothing is known of a directory.
        let cut = (!directories.is_empty()).then(Instant::now);
        Ok(Self {
            errors,
            directories: directories.into(),
            desired: desired.into(),
            cut: Arc::new(Mutex::new(cut)),
            link,
        })
    }

    /// Something new is wrong with a file.
    pub(super) fn problem(&self, file: &Path) {
        let source = match file {
            file if file.starts_with(&self.desired) => DESIRED,
            file if file.starts_with(kubernetes::PLACE) => KUBERNETES,
            _ => DIRECTORY,
        };
        self.errors.with_label_values(&[source]).inc();
    }

    /// The set has changed.
    pub(super) fn heard(&self, set: &DesiredSet) {
        let cut = self.directories.iter().any(|dir| !set.synced || set.uncertain.contains(dir));
        let mut since = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        *since = if cut { since.or_else(|| Some(Instant::now())) } else { None };
    }

    /// For how long the API server has not been heard.
    fn away(&self) -> f64 {
        let since = self.link.as_ref().and_then(|link| link.borrow().away);
        since.map_or(0.0, |since| since.elapsed().as_secs_f64())
    }

    fn cut(&self) -> f64 {
        let since = *self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(0.0, |since| since.elapsed().as_secs_f64())
    }
}

/// Registers the families of the node without anything that moves them, for documentation.
pub(super) fn describe(registry: &Registry) -> Result<(), metrics::Error> {
    let gauges = Gauges::new().map_err(|source| metrics::Error { action: "register", source })?;
    registry.collector(Box::new(gauges.pods.clone()), gauges.described())?;
    Sources::new(registry, &[], Path::new(""), None).map(drop)
}

#[derive(Debug)]
struct Gauges {
    pods: IntGaugeVec,
    shims: IntGaugeVec,
    pending: Gauge,
    objects: IntGaugeVec,
    disconnected: GaugeVec,
}

impl Gauges {
    fn new() -> Result<Self, prometheus::Error> {
        let family = |name: &str, help: &str, label: &str| IntGaugeVec::new(Opts::new(name, help), &[label]);
        Ok(Self {
            pods: family("lamina_pods", "Pods, by how far they are; moves as they do.", "state")?,
            shims: family("lamina_shims", "Shims, by whether they can be reached; moves as they do.", "state")?,
            pending: Gauge::with_opts(Opts::new(
                "lamina_reconcile_pending_seconds",
                "Age in seconds of the oldest desired change that is not applied yet; 0 when all is as desired.",
            ))?,
            objects: family("lamina_source_objects", "Objects that a source wants; moves as manifests do.", "source")?,
            disconnected: GaugeVec::new(
                Opts::new(
                    "lamina_source_disconnected_seconds",
                    "For how many seconds a source could not be read; 0 while it can.",
                ),
                &["source"],
            )?,
        })
    }

    fn families(&self) -> [&dyn Collector; 5] {
        [&self.pods, &self.shims, &self.pending, &self.objects, &self.disconnected]
    }

    fn described(&self) -> Vec<Described> {
        self.families().into_iter().flat_map(|family| Described::of(family, metrics::Kind::Gauge)).collect()
    }
}

/// Counts at each scrape.
pub(super) struct Counts {
    board: Board,
    machine: Arc<Machine>,
    sets: watch::Receiver<Arc<DesiredSet>>,
    sources: Sources,
    gauges: Gauges,
}

impl Counts {
    /// Adds the counts to a registry.
    pub(super) fn register(
        registry: &Registry,
        board: Board,
        machine: Arc<Machine>,
        sets: watch::Receiver<Arc<DesiredSet>>,
        sources: Sources,
    ) -> Result<(), metrics::Error> {
        let gauges = Gauges::new().map_err(|source| metrics::Error { action: "register", source })?;
        let described = gauges.described();
        registry.collector(Box::new(Self { board, machine, sets, sources, gauges }), described)
    }
}

impl Collector for Counts {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges.families().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let gauges = &self.gauges;
        let whole = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let views = self.board.subscribe().borrow().clone();
        for name in STATES {
            let count = views.iter().filter(|v| state(v) == name).count();
            gauges.pods.with_label_values(&[name]).set(whole(count));
        }
        gauges.shims.with_label_values(&["live"]).set(whole(self.machine.sandbox_count()));
        gauges.shims.with_label_values(&["lost"]).set(whole(self.board.lost()));
        let oldest = self.board.pending().map_or(0.0, |since| Instant::now().duration_since(since).as_secs_f64());
        gauges.pending.set(oldest);
        let set = self.sets.borrow().clone();
        for (source, name) in SOURCES {
            let count = set.objects.iter().filter(|o| o.source == source).count();
            gauges.objects.with_label_values(&[name]).set(whole(count));
        }
        gauges.disconnected.with_label_values(&[DIRECTORY]).set(self.sources.cut());
        gauges.disconnected.with_label_values(&[DESIRED]).set(0.0);
        gauges.disconnected.with_label_values(&[KUBERNETES]).set(self.sources.away());
        gauges.families().into_iter().flat_map(Collector::collect).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_cut_off_until_every_directory_was_read_and_while_one_cannot_be() {
        let (a, b) = (PathBuf::from("/a"), PathBuf::from("/b"));
        let sources = Sources::new(&Registry::default(), &[a, b.clone()], Path::new("/root/desired"), None).unwrap();
        assert!(sources.cut() > 0.0);
        let fine = DesiredSet { synced: true, uncertain: vec!["/a/x.yaml".into()], ..DesiredSet::default() };
        sources.heard(&fine);
        assert!(sources.cut() == 0.0);
        sources.heard(&DesiredSet { uncertain: vec![b], ..fine.clone() });
        assert!(sources.cut() > 0.0);
        sources.heard(&fine);
        assert!(sources.cut() == 0.0);
    }

    #[test]
    fn what_is_wrong_counts_for_the_source_that_it_is_in() {
        let sources = Sources::new(&Registry::default(), &[], Path::new("/root/desired"), None).unwrap();
        sources.problem(Path::new("/etc/x.yaml"));
        sources.problem(Path::new("/root/desired/y.yaml"));
        sources.problem(Path::new("/etc"));
        sources.problem(Path::new("kubernetes/NodeWorkload/arena/game"));
        assert_eq!(sources.errors.with_label_values(&[DIRECTORY]).get(), 2);
        assert_eq!(sources.errors.with_label_values(&[DESIRED]).get(), 1);
        assert_eq!(sources.errors.with_label_values(&[KUBERNETES]).get(), 1);
    }
}
