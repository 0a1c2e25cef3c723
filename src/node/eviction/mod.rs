//! Evicts pods that take more of the disk than they may, and those that must go when the node runs short of something.
//!
//! ```text
//!   every 10 s ─┬─ pods with a limit of disk: measured; one that is over it ends
//!               └─ the node's levels ▸ thresholds ▸ conditions ─▶ no new pod is started
//!                                          └─ crossed: unused images go, then pods, one after the other
//! ```
//!
//! One task. Nobody is told of a file that grows, so this is what looks again and again; a node without such limits pays
//! for four reads every ten seconds. Measuring takes a twentieth of the time at most: when it took long, the next one
//! waits. An evicted pod is ended like one past its deadline: the manager hands the word to its worker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::audience::Board;
use super::collect::{Collector, Trigger};
use super::manager::Command;
use super::{Events, Views};
use crate::api::condition::Condition;
use crate::api::problem::chain;
use crate::api::{Event, Kind, ObjectKey, PodView, Reason};
use crate::pod::desired::Eviction;
use crate::pod::pressure::{self, Pressure};
use crate::pod::real::Machine;
use crate::runtime::spec::{container_memory_request, memory_request};
use crate::store::SweepOptions;
use crate::sys::cgroup::Cgroup;

mod level;
mod rank;
mod storage;
mod threshold;

pub use threshold::Thresholds;

use level::Levels;
use rank::Candidate;
use storage::{Limits, Places};
use threshold::{Level, Signal, Threshold};

/// How often levels are looked at: what a kubelet does.
const LOOK: Duration = Duration::from_secs(10);
/// How soon again after a pod went.
const SOON: Duration = Duration::from_secs(1);
/// How long that is waited for.
const GOING: Duration = Duration::from_secs(30);
/// Measuring may take one part in so many of the time,
const SHARE: u32 = 20;
/// but waits no longer than this.
const LONGEST: Duration = Duration::from_mins(10);
/// How long the containers of an evicted pod have to end: what a kubelet gives them.
const GRACE: Duration = Duration::from_secs(1);

/// What the keeper works with.
pub(super) struct Parts {
    pub(super) machine: Arc<Machine>,
    pub(super) board: Board,
    pub(super) events: Events,
    pub(super) collector: Collector,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) thresholds: Thresholds,
    /// How long a condition stays after its threshold was crossed last.
    pub(super) transition: Duration,
}

/// The one who looks.
pub(super) struct Keeper {
    parts: Parts,
    views: watch::Receiver<Views>,
    conditions: watch::Sender<Vec<Condition>>,
    /// When each was last seen.
    pressed: BTreeMap<Pressure, Instant>,
    /// When pods are measured next.
    due: Instant,
    /// Nothing was left to evict, and that was said.
    helpless: bool,
}

impl Keeper {
    pub(super) fn new(parts: Parts) -> (Self, watch::Receiver<Vec<Condition>>) {
        let views = parts.board.subscribe();
        let (conditions, seen) = watch::channel(Vec::new());
        let keeper = Self { parts, views, conditions, pressed: BTreeMap::new(), due: Instant::now(), helpless: false };
        (keeper, seen)
    }

    /// Looks until the agent ends.
    pub(super) async fn run(mut self, mut synced: watch::Receiver<bool>) {
        // Before anything is started, what the node is short of must be known; before anything is evicted, who there is.
        let levels = Levels::read(self.parts.machine.store.root());
        self.note(&levels);
        if synced.wait_for(|synced| *synced).await.is_err() {
            return;
        }
        self.parts.board.all_seen().await;
        loop {
            let again = self.round().await;
            tokio::time::sleep(if again { SOON } else { LOOK }).await;
        }
    }

    /// One round; whether the next is to come soon.
    async fn round(&mut self) -> bool {
        let views = self.views.borrow().clone();
        if Instant::now() >= self.due {
            self.measure(&views).await;
        }
        let levels = Levels::read(self.parts.machine.store.root());
        if !self.note(&levels) {
            return false;
        }
        let thresholds = self.parts.thresholds.clone();
        let Some((threshold, level)) = thresholds.met(|signal| levels.of(signal)).into_iter().next() else {
            return false;
        };
        if threshold.signal.pressure() == Pressure::Disk {
            self.collect().await;
            let levels = Levels::read(self.parts.machine.store.root());
            if levels.of(threshold.signal).is_none_or(|level| !threshold.is_met(level)) {
                return false;
            }
        }
        self.relieve(&views, threshold, level).await
    }

    /// Measures the pods that have a limit, and evicts those that are over it.
    async fn measure(&mut self, views: &Views) {
        let begin = Instant::now();
        let limited = views.iter().filter(|view| runs(view)).filter_map(|view| {
            let limits = Limits::of(&view.pod)?;
            Some((Arc::clone(view), limits, self.places(view)))
        });
        let limited: Vec<_> = limited.collect();
        let walked = tokio::task::spawn_blocking(move || {
            let over = |(view, limits, places): (Arc<PodView>, Limits, Places)| {
                Some((view, limits.exceeded(&limits.measure(&places))?))
            };
            limited.into_iter().filter_map(over).collect::<Vec<_>>()
        });
        match walked.await {
            Ok(over) => over.into_iter().for_each(|(view, message)| self.evict(&view, message, false)),
            Err(error) => tracing::error!(%error, "measuring what pods take of the disk failed"),
        }
        self.due = Instant::now() + (begin.elapsed() * SHARE).clamp(LOOK / 2, LONGEST);
    }

    fn places(&self, view: &PodView) -> Places {
        let (machine, uid, key) = (&self.parts.machine, &view.lamina.uid, view.key());
        let attempts = view.lamina.containers.iter().filter(|c| c.upper.is_some()).map(|c| (c.name.clone(), c.attempt));
        let logs = machine.log_dir.join(machine.log_name(&key, uid));
        Places::of(&view.pod, &machine.dir(uid), &logs, attempts)
    }

    /// Takes note of what the node is short of; whether it is of anything right now.
    fn note(&mut self, levels: &Levels) -> bool {
        let now = Instant::now();
        let thresholds = self.parts.thresholds.clone();
        let met = thresholds.met(|signal| levels.of(signal));
        for (threshold, level) in &met {
            if self.pressed.insert(threshold.signal.pressure(), now).is_none() {
                let text =
                    format!("attempting to reclaim {}: {}", threshold.signal.resource(), amounts(threshold, *level));
                self.tell(Reason::EvictionThresholdMet, text);
            }
        }
        let transition = self.parts.transition;
        self.pressed.retain(|_, last| now.saturating_duration_since(*last) <= transition);
        let holds: BTreeSet<Pressure> = self.pressed.keys().copied().collect();
        self.parts.machine.pressures.set(holds.clone());
        self.conditions.send_if_modified(|list| {
            let one = |pressure: Pressure| {
                let status = holds.contains(&pressure);
                let message = if status { "no new pod is started that adds to it" } else { "" };
                let condition = Condition {
                    kind: pressure.condition().to_owned(),
                    status: Some(status),
                    reason: pressure.reason(status).to_owned(),
                    message: message.to_owned(),
                    last_transition_time: Timestamp::now(),
                };
                Condition::set(list, condition)
            };
            Pressure::ALL.map(one).contains(&true)
        });
        if met.is_empty() {
            self.helpless = false;
        }
        !met.is_empty()
    }

    /// Frees every image that nothing uses.
    async fn collect(&self) {
        let options = SweepOptions {
            grace: Duration::ZERO,
            image_age: Duration::ZERO,
            need: u64::MAX,
            dry_run: false,
            now: Instant::now(),
        };
        if let Err(error) = self.parts.collector.sweep(Trigger::Pressure, options).await {
            tracing::warn!(error = %chain(&error), "cannot collect");
        }
    }

    /// Evicts the pod whose turn it is, and waits until it has ended.
    async fn relieve(&mut self, views: &Views, threshold: &Threshold, level: Level) -> bool {
        let signal = threshold.signal;
        let candidates: Vec<_> = views.iter().filter(|view| may_go(view)).cloned().collect();
        let used = self.used(&candidates, signal).await;
        let ranked = candidates.iter().zip(&used).filter(|(_, used)| used.total > 0).map(|(view, used)| Candidate {
            key: view.key(),
            uid: view.lamina.uid.clone(),
            priority: view.pod.spec.as_ref().map_or(0, pressure::priority),
            used: used.total,
            asked: used.asked,
        });
        let Some(first) = rank::first(ranked.collect()) else {
            if !std::mem::replace(&mut self.helpless, true) {
                tracing::warn!(resource = signal.resource(), "the node is short of this, and there is no pod to evict");
            }
            return false;
        };
        let Some((view, used)) = candidates.iter().zip(&used).find(|(view, _)| view.lamina.uid == first.uid) else {
            return false;
        };
        let mut message =
            format!("The node was low on resource: {}. {}.", signal.resource(), amounts(threshold, level));
        for (name, used, asked) in used.containers.iter().filter(|(_, used, asked)| used > asked) {
            let (used, asked) = (signal.amount(*used), signal.amount(*asked));
            let more = format!(
                " Container {name} was using {used}, request is {asked}, has larger consumption of {}.",
                signal.resource()
            );
            message.push_str(&more);
        }
        self.evict(view, message, true);
        let (key, uid) = (view.key(), view.lamina.uid.clone());
        let is_gone = |views: &Views| {
            let there = views.iter().find(|v| v.key() == key && v.lamina.uid == uid);
            there.is_none_or(|v| !runs(v) && v.lamina.shim.is_none())
        };
        // One that does not go in time is no reason to spare the next.
        let _ = tokio::time::timeout(GOING, self.views.wait_for(is_gone)).await;
        true
    }

    /// What each pod uses of something.
    async fn used(&self, pods: &[Arc<PodView>], signal: Signal) -> Vec<Use> {
        let machine = Arc::clone(&self.parts.machine);
        let pods: Vec<_> = pods.iter().map(|view| (Arc::clone(view), self.places(view))).collect();
        let count = pods.len();
        let all = tokio::task::spawn_blocking(move || {
            pods.iter().map(|(view, places)| use_of(&machine, view, places, signal)).collect::<Vec<_>>()
        });
        all.await.unwrap_or_else(|_| vec![Use::default(); count])
    }

    fn evict(&self, view: &PodView, message: String, disruption: bool) {
        let key = view.key();
        tracing::warn!(pod = %key, "evicted: {message}");
        let eviction = Eviction { uid: view.lamina.uid.clone(), message, grace: GRACE, disruption };
        // Closed: the agent ends, and the next one looks again.
        let _ = self.parts.commands.send(Command::Evict { key, eviction });
    }

    fn tell(&self, reason: Reason, message: String) {
        let name = self.parts.machine.node.clone();
        let node = ObjectKey { kind: Kind::Node, namespace: String::new(), name };
        self.parts.events.tell(Event::new(node, reason, message, Timestamp::now()));
    }
}

/// What a pod uses of something, and what it asked for.
#[derive(Debug, Clone, Default)]
struct Use {
    total: u64,
    asked: Option<u64>,
    /// The same of its containers, where that is known.
    containers: Vec<(String, u64, u64)>,
}

fn use_of(machine: &Machine, view: &PodView, places: &Places, signal: Signal) -> Use {
    let stats = |path: &str| Cgroup::open(&machine.hierarchies, path).stats();
    let spec = view.pod.spec.as_ref();
    let container = |name: &str| spec.and_then(|s| s.containers.iter().find(|c| c.name == name));
    match signal {
        Signal::Memory => {
            let running = view.lamina.containers.iter().filter_map(|c| Some((&c.name, c.cgroup.as_deref()?)));
            let one = |(name, cgroup): (&String, &str)| {
                let asked = container(name).map_or(0, container_memory_request);
                (name.clone(), stats(cgroup).memory_working_set.unwrap_or(0), asked)
            };
            Use {
                total: stats(&machine.pod_cgroup(&view.lamina.uid)).memory_working_set.unwrap_or(0),
                asked: Some(memory_request(&view.pod)),
                containers: running.map(one).collect(),
            }
        }
        Signal::Pids => Use { total: stats(&machine.pod_cgroup(&view.lamina.uid)).pids.unwrap_or(0), ..Use::default() },
        Signal::Disk => {
            let used = places.measure(u64::MAX);
            let containers = used.containers.iter().map(|(name, usage)| (name.clone(), usage.bytes, 0));
            Use { total: used.total().bytes, asked: Some(storage::asked(&view.pod)), containers: containers.collect() }
        }
        Signal::Inodes => Use { total: places.measure(u64::MAX).total().inodes, ..Use::default() },
    }
}

/// Whether a pod is neither over nor on its way out.
fn runs(view: &PodView) -> bool {
    let phase = view.pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Pending" | "Running")) && view.pod.metadata.deletion_timestamp.is_none()
}

fn may_go(view: &PodView) -> bool {
    runs(view) && !view.pod.spec.as_ref().is_some_and(pressure::is_critical)
}

fn amounts(threshold: &Threshold, level: Level) -> String {
    let amount = |n| threshold.signal.amount(n);
    format!("Threshold quantity: {}, available: {}", amount(threshold.least(level.capacity)), amount(level.available))
}
