//! Who hears what workers do: the board that everybody reads, the events, the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use crate::api::workload::{self, Owner, Phase, WorkloadStatus};
use crate::api::{Event, Kind, ObjectKey, PodKey, PodView, Reason};
use crate::pod::backoff;
use crate::pod::desired::Wanted;
use crate::pod::engine::{Push, StepError};
use crate::pod::metrics;
use crate::pod::plan::{Step, containers, next_start};
use crate::pod::real::Machine;
use crate::pod::state::{Exit, Observed, Sandbox};
use crate::pod::view::{self, Surroundings};
use crate::pod::worker::Audience;

/// All views, sorted by namespace and name.
pub type Views = Arc<Vec<Arc<PodView>>>;

/// What everybody may read of pods and workloads. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Board(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    views: watch::Sender<Views>,
    workloads: Notify,
}

#[derive(Debug, Default)]
struct State {
    views: BTreeMap<PodKey, Arc<PodView>>,
    /// Pods of workloads, as their workloads see them.
    owned: BTreeMap<PodKey, (ObjectKey, workload::Observed)>,
    statuses: BTreeMap<ObjectKey, WorkloadStatus>,
    ignored: BTreeMap<PodKey, Vec<String>>,
    /// Since when pods are not as desired.
    pending: BTreeMap<PodKey, Instant>,
    /// Pods whose shim is gone or deaf, and not buried yet.
    lost: BTreeSet<PodKey>,
}

impl Board {
    pub(super) fn new() -> Self {
        let (views, _) = watch::channel(Views::default());
        Self(Arc::new(Shared { state: Mutex::default(), views, workloads: Notify::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changed by whole insertions and removals only.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Views> {
        self.0.views.subscribe()
    }

    /// The view of one pod.
    pub(super) fn view(&self, key: &PodKey) -> Option<Arc<PodView>> {
        self.state().views.get(key).cloned()
    }

    fn show(&self, key: &PodKey, view: Option<Arc<PodView>>) {
        let mut state = self.state();
        match view {
            Some(view) => state.views.insert(key.clone(), view),
            None => state.views.remove(key),
        };
        // Sent under the lock, so that an older list never follows a newer one.
        self.0.views.send_replace(Arc::new(state.views.values().cloned().collect()));
    }

    /// Notes whether a pod is as desired.
    fn settled(&self, key: &PodKey, settled: bool) {
        let mut state = self.state();
        if settled {
            state.pending.remove(key);
        } else {
            state.pending.entry(key.clone()).or_insert_with(Instant::now);
        }
    }

    /// Since when the pod that waits longest is not as desired.
    pub(super) fn pending(&self) -> Option<Instant> {
        self.state().pending.values().min().copied()
    }

    /// Notes whether a pod's shim is lost.
    fn shim_lost(&self, key: &PodKey, lost: bool) {
        let mut state = self.state();
        if lost {
            state.lost.insert(key.clone());
        } else {
            state.lost.remove(key);
        }
    }

    /// How many shims are lost.
    pub(super) fn lost(&self) -> usize {
        self.state().lost.len()
    }

    pub(super) fn remove(&self, key: &PodKey) {
        let owned = {
            let mut state = self.state();
            state.pending.remove(key);
            state.lost.remove(key);
            state.ignored.remove(key);
            state.owned.remove(key).is_some()
        };
        self.show(key, None);
        if owned {
            self.0.workloads.notify_one();
        }
    }

    /// Waits until a pod of a workload has changed. Cancel-safe.
    pub(super) async fn workloads_changed(&self) {
        self.0.workloads.notified().await;
    }

    /// The pods of a workload.
    pub(super) fn of_workload(&self, key: &ObjectKey) -> Vec<workload::Observed> {
        self.state().owned.values().filter(|(owner, _)| owner == key).map(|(_, pod)| pod.clone()).collect()
    }

    fn owned(&self, key: &PodKey, owner: &Owner, observed: workload::Observed) {
        let workload = workload::owner_key(owner, &key.namespace);
        self.state().owned.insert(key.clone(), (workload, observed));
        self.0.workloads.notify_one();
    }

    /// How a workload is.
    pub(super) fn workload(&self, key: ObjectKey, status: WorkloadStatus) {
        self.state().statuses.insert(key, status);
    }

    pub(super) fn workloads(&self) -> BTreeMap<ObjectKey, WorkloadStatus> {
        self.state().statuses.clone()
    }

    /// Which fields of a pod's manifest do nothing.
    pub(super) fn ignored(&self, key: &PodKey, fields: &[String]) {
        if !fields.is_empty() {
            self.state().ignored.insert(key.clone(), fields.to_vec());
        }
    }
}

/// Hears a worker of which nobody needs to know.
pub(super) struct Mute;

impl Audience for Mute {
    fn publish(&mut self, _: &Wanted, _: &Observed) {}
    fn after(&mut self, _: &Step, _: &Observed, _: &Result<(), StepError>) {}
    fn pushed(&mut self, _: &Push, _: &Observed) {}
}

/// Hears one worker.
pub(super) struct Listener {
    machine: Arc<Machine>,
    board: Board,
    key: PodKey,
    shown: Option<Arc<PodView>>,
    /// Since when the pod is wanted that is to be accepted next.
    begun: Instant,
    /// The same of the pod that starts.
    accepted: Option<Instant>,
    /// Whether that pod's first image was not asked for yet.
    waiting: bool,
    /// When the last of its containers was started, until it is ready.
    started: Option<Instant>,
    pulling: BTreeMap<String, Instant>,
}

impl Listener {
    pub(super) fn new(machine: Arc<Machine>, board: Board, key: PodKey) -> Self {
        let begun = Instant::now();
        Self {
            machine,
            board,
            key,
            shown: None,
            begun,
            accepted: None,
            waiting: false,
            started: None,
            pulling: BTreeMap::new(),
        }
    }

    fn tell(&self, seen: &Observed, container: Option<&str>, reason: Reason, message: impl Into<String>) {
        let object = ObjectKey { kind: Kind::Pod, namespace: self.key.namespace.clone(), name: self.key.name.clone() };
        let mut event = Event::new(object, reason, message, Timestamp::now());
        event.uid = seen.record.as_ref().map(|r| r.uid.to_string());
        event.container = container.map(str::to_owned);
        tracing::info!(pod = %self.key, container, reason = %reason, "{}", event.message);
        // The ring is there as long as the node is.
        let _ = self.machine.events.send(event);
    }

    fn ended(&self, seen: &Observed, container: &str, exit: &Exit) {
        let reason = match (exit.reason.as_str(), exit.code) {
            ("OOMKilled", _) => Reason::OomKilled,
            (_, 0) => Reason::Exited,
            _ if seen.containers.get(container).is_some_and(|c| c.stop.is_some()) => Reason::Exited,
            _ => Reason::Crashed,
        };
        let why = exit.message.as_ref().map(|m| format!(": {m}")).unwrap_or_default();
        self.tell(seen, Some(container), reason, format!("ended with status {} ({}){why}", exit.code, exit.reason));
    }
}

impl Audience for Listener {
    fn publish(&mut self, wanted: &Wanted, seen: &Observed) {
        self.board.settled(&self.key, settled(wanted, seen));
        self.board.shim_lost(&self.key, seen.sandbox == Sandbox::Lost);
        let now = (backoff::now(), Timestamp::now());
        let uid = seen.record.as_ref().map(|r| &r.uid);
        let around = Surroundings {
            ignored: self.board.state().ignored.get(&self.key).cloned().unwrap_or_default(),
            owner: seen.record.as_ref().and_then(|r| r.origin.workload.clone()),
            cgroup: uid.map(|uid| self.machine.pod_cgroup(uid)).unwrap_or_default(),
            dir: uid.map(|uid| self.machine.dir(uid)).unwrap_or_default(),
            shim: uid.and_then(|uid| self.machine.sandbox(uid)).map(|h| h.client.hello().pid),
            node: self.machine.node.clone(),
        };
        let mut next = view::view(seen, &around, now);
        if let (Some(view), Some(before)) = (&mut next, &self.shown) {
            view::keep_transitions(view, before);
        }
        if next.as_ref() == self.shown.as_deref() {
            return;
        }
        if let (Some(view), Some(record)) = (&next, &seen.record) {
            let phase = view::phase(record, seen);
            if phase == Phase::Running
                && let Some(accepted) = self.accepted.take()
            {
                self.machine.metrics.phase(metrics::Phase::Total, accepted.elapsed());
            }
            if view::is_ready(view)
                && let Some(started) = self.started.take()
            {
                self.machine.metrics.phase(metrics::Phase::Ready, started.elapsed());
            }
            if let Some(owner) = &record.origin.workload {
                self.board.owned(&self.key, owner, observed(owner, record, view, phase, seen));
            }
        }
        for (container, message) in next.iter().flat_map(|view| backing_off(view, self.shown.as_deref())) {
            self.tell(seen, Some(container), Reason::BackOff, message);
        }
        let next = next.map(Arc::new);
        self.shown.clone_from(&next);
        self.board.show(&self.key, next);
    }

    fn before(&mut self, step: &Step, seen: &Observed) {
        match step {
            Step::Stop { container, grace } => self.tell(
                seen,
                Some(container),
                Reason::Killing,
                format!("asked to stop, with a grace period of {} s", grace.as_secs()),
            ),
            Step::Kill { container } => {
                self.tell(seen, Some(container), Reason::Killing, "killed: its grace period is over");
            }
            Step::Fetch { container, .. } => {
                self.pulling.insert(container.clone(), Instant::now());
                self.tell(seen, Some(container), Reason::Pulling, format!("pulling {}", image_of(seen, container)));
                if std::mem::take(&mut self.waiting)
                    && let Some(accepted) = self.accepted
                {
                    self.machine.metrics.phase(metrics::Phase::Wait, accepted.elapsed());
                }
            }
            // What is wanted under the name next has waited since then.
            Step::Doom { .. } => self.begun = Instant::now(),
            Step::Bury => self.tell(seen, None, Reason::ShimLost, "the pod's shim is gone; what it ran is killed"),
            Step::Erase => self.tell(seen, None, Reason::Deleted, "removed"),
            _ => {}
        }
    }

    fn after(&mut self, step: &Step, seen: &Observed, result: &Result<(), StepError>) {
        if let Err(error) = result {
            let container = match step {
                Step::Start { container, .. } | Step::Fetch { container, .. } | Step::Resize { container } => {
                    Some(container.as_str())
                }
                _ => None,
            };
            let reason = if error.reason == "FailedMount" { Reason::FailedMount } else { Reason::Failed };
            self.tell(seen, container, reason, format!("{}: {}", error.reason, error.message));
            return;
        }
        match step {
            Step::Accept => {
                (self.accepted, self.waiting) = (Some(self.begun), true);
                self.tell(seen, None, Reason::Accepted, "accepted");
            }
            Step::Amend { containers, .. } if containers.is_empty() => {
                self.tell(seen, None, Reason::Updated, "changed in place");
            }
            Step::Amend { containers, .. } => {
                let names = containers.join(", ");
                self.tell(seen, None, Reason::Replacing, format!("replacing containers: {names}"));
            }
            Step::Doom { replaced: true, .. } => {
                self.tell(seen, None, Reason::Replacing, "replacing the pod for a change in its manifest");
            }
            Step::Expire => self.tell(seen, None, Reason::DeadlineExceeded, "active for longer than it may"),
            Step::Start { container, attempt, .. } => {
                if self.accepted.is_some() {
                    self.started = Some(Instant::now());
                }
                let attempted = seen.containers.get(container).and_then(|c| c.attempt.as_ref());
                if let Some(exit) = attempted.and_then(|a| a.exit.clone()) {
                    self.ended(seen, container, &exit);
                } else {
                    self.tell(seen, Some(container), Reason::Created, format!("created (attempt {attempt})"));
                    self.tell(seen, Some(container), Reason::Started, format!("started (attempt {attempt})"));
                }
            }
            _ => {}
        }
    }

    fn pushed(&mut self, push: &Push, seen: &Observed) {
        match push {
            Push::Exited { container, exit, .. } => self.ended(seen, container, exit),
            Push::Fetched { container, result, .. } => {
                let took = self.pulling.remove(container).map(|begin| begin.elapsed()).unwrap_or_default();
                match result {
                    Ok(()) => {
                        self.machine.metrics.phase(metrics::Phase::Pull, took);
                        let text = format!("{} is here after {} ms", image_of(seen, container), took.as_millis());
                        self.tell(seen, Some(container), Reason::Pulled, text);
                    }
                    Err(error) => self.tell(seen, Some(container), Reason::FailedPull, error.message.clone()),
                }
            }
            Push::ShimLost | Push::Look => {}
        }
    }
}

/// Containers that have begun to wait for a restart's or a pull's next try, and what their status says of it.
fn backing_off<'a>(view: &'a PodView, before: Option<&'a PodView>) -> impl Iterator<Item = (&'a str, String)> {
    let waiting = |view: &'a PodView| {
        let statuses = view.pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
        statuses.filter_map(|status| {
            let waiting = status.state.as_ref()?.waiting.as_ref()?;
            let reason = waiting.reason.as_deref().filter(|r| r.ends_with("BackOff"))?;
            Some((status.name.as_str(), status.restart_count, reason, waiting.message.clone()))
        })
    };
    let known: Vec<_> =
        before.into_iter().flat_map(waiting).map(|(name, count, reason, _)| (name, count, reason)).collect();
    waiting(view)
        .filter(move |(name, count, reason, _)| !known.contains(&(*name, *count, *reason)))
        .map(|(name, _, reason, message)| (name, message.unwrap_or_else(|| reason.to_owned())))
}

/// What a container's image is called in its manifest.
fn image_of(seen: &Observed, container: &str) -> String {
    let all = seen.record.iter().flat_map(|record| containers(&record.pod));
    let name = all.filter(|c| c.name == container).find_map(|c| c.image.clone());
    format!("image {}", name.unwrap_or_default())
}

/// Whether a pod is as desired: what waits for a restart's or a pull's next try is not.
fn settled(wanted: &Wanted, seen: &Observed) -> bool {
    let Some(record) = &seen.record else { return wanted.desired.is_none() };
    if wanted.desired.is_none() || record.doomed.is_some() || seen.failure.is_some() {
        return false;
    }
    containers(&record.pod).iter().all(|container| {
        let generation = record.containers.get(&container.name).map_or(0, |g| g.spec);
        seen.containers.get(&container.name).is_some_and(|c| match &c.attempt {
            Some(a) if a.exit.is_none() => a.generations.spec == generation,
            Some(_) => next_start(record, generation, c).is_none(),
            None => false,
        })
    })
}

fn observed(
    owner: &Owner,
    record: &crate::pod::state::Record,
    view: &PodView,
    phase: Phase,
    seen: &Observed,
) -> workload::Observed {
    let conditions = view.pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let mut ready = conditions.filter(|c| c.type_ == "Ready" && c.status == "True");
    let attempts = seen.containers.values().filter_map(|c| c.attempt.as_ref());
    let finished = attempts.clone().filter_map(|a| a.exit.as_ref()).map(|e| e.finished_at).max();
    workload::Observed {
        ordinal: owner.ordinal,
        pod: record.pod.clone(),
        phase,
        ready_since: ready.find_map(|c| c.last_transition_time.as_ref().map(|t| t.0)),
        created: record.created,
        finished: finished.filter(|_| matches!(phase, Phase::Succeeded | Phase::Failed)),
        restarts: attempts.map(|a| a.number).sum(),
    }
}
