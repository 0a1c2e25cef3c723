//! Who hears what workers do: the board that everybody reads, the events, the log.

mod observed;
mod pulls;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use crate::api::workload::{self, Owner, Phase};
use crate::api::{Event, Kind, ObjectKey, PodKey, PodView, Reason, WorkloadView};
use crate::pod::backoff;
use crate::pod::desired::Wanted;
use crate::pod::engine::{Hook, Push, StepError};
use crate::pod::metrics;
use crate::pod::plan::{Role, Step, Why, everyone, initialized, is_over, next_start, renew};
use crate::pod::real::Machine;
use crate::pod::state::{Exit, Observed, Sandbox};
use crate::pod::view::{self, Surroundings};
use crate::pod::worker::Audience;
use pulls::{image_of, volume_image, volume_key};

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
    changes: watch::Sender<u64>,
    /// Pods of an earlier agent of which nothing was published yet.
    unseen: watch::Sender<BTreeSet<PodKey>>,
}

#[derive(Debug, Default)]
struct State {
    views: BTreeMap<PodKey, Arc<PodView>>,
    /// Pods of workloads, as their workloads see them.
    owned: BTreeMap<PodKey, (ObjectKey, workload::Observed)>,
    workloads: BTreeMap<ObjectKey, Arc<WorkloadView>>,
    ignored: BTreeMap<PodKey, Vec<String>>,
    /// Since when pods are not as desired.
    pending: BTreeMap<PodKey, Instant>,
    /// Pods whose shim is gone or deaf, and not buried yet.
    lost: BTreeSet<PodKey>,
}

impl Board {
    pub(super) fn new() -> Self {
        let (views, _) = watch::channel(Views::default());
        let changes = watch::channel(0).0;
        let unseen = watch::channel(BTreeSet::new()).0;
        Self(Arc::new(Shared { state: Mutex::default(), views, workloads: Notify::new(), changes, unseen }))
    }

    /// These pods were there before; the board is of use once their workers have looked.
    pub(super) fn expect(&self, keys: impl IntoIterator<Item = PodKey>) {
        self.0.unseen.send_modify(|unseen| unseen.extend(keys));
    }

    /// Waits until every expected pod was published or has gone.
    pub(super) async fn all_seen(&self) {
        // The sender is this board's own.
        let _ = self.0.unseen.subscribe().wait_for(BTreeSet::is_empty).await;
    }

    fn seen(&self, key: &PodKey) {
        self.0.unseen.send_if_modified(|unseen| unseen.remove(key));
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
        self.seen(key);
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
    pub(super) fn workload(&self, key: ObjectKey, view: WorkloadView) {
        let mut state = self.state();
        if state.workloads.get(&key).is_none_or(|old| **old != view) {
            state.workloads.insert(key, Arc::new(view));
            self.0.changes.send_modify(|n| *n += 1);
        }
    }

    /// A workload is no more.
    pub(super) fn forget(&self, key: &ObjectKey) {
        if self.state().workloads.remove(key).is_some() {
            self.0.changes.send_modify(|n| *n += 1);
        }
    }

    pub(super) fn workloads(&self) -> BTreeMap<ObjectKey, Arc<WorkloadView>> {
        self.state().workloads.clone()
    }

    /// Counts changes of workloads' views.
    pub(super) fn workload_changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Has the manager make a pass.
    pub(super) fn poke(&self) {
        self.0.workloads.notify_one();
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
        let why = exit.message.as_ref().map(|m| format!(": {}", first_line(m))).unwrap_or_default();
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
            addresses: seen.record.as_ref().map(|r| self.machine.addresses(&r.pod, &r.uid)).unwrap_or_default(),
        };
        let mut next = view::view(seen, &around, now);
        if let (Some(view), Some(before)) = (&mut next, &self.shown) {
            view::keep_transitions(view, before);
        }
        if let (Some(view), None) = (&mut next, &self.shown) {
            observed::adopt_transitions(view, seen);
        }
        if next.as_ref() == self.shown.as_deref() {
            self.board.seen(&self.key);
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
                self.board.owned(&self.key, owner, observed::observed(owner, record, view, phase, seen));
            }
        }
        for (container, message) in next.iter().flat_map(|view| backing_off(view, self.shown.as_deref())) {
            self.tell(seen, Some(container), Reason::BackOff, message);
        }
        let next = next.map(Arc::new);
        self.shown.clone_from(&next);
        self.board.show(&self.key, next);
        self.board.seen(&self.key);
    }

    fn before(&mut self, step: &Step, seen: &Observed) {
        match step {
            Step::Stop { container, grace, why, .. } => {
                let attempt = seen.containers.get(container).and_then(|c| c.attempt.as_ref());
                let condemned = attempt.and_then(|a| a.health.condemned.as_ref()).filter(|_| *why == Why::Condemned);
                let seconds = grace.as_secs();
                let text = match condemned {
                    Some(condemned) => {
                        format!("{}; asked to stop, with a grace period of {seconds} s", condemned.message)
                    }
                    None => format!("asked to stop, with a grace period of {seconds} s"),
                };
                self.tell(seen, Some(container), Reason::Killing, text);
            }
            Step::Kill { container } => {
                let anew = seen.record.as_ref().is_some_and(|record| renew::under_way(record, seen));
                let why = if anew { "all containers start anew" } else { "its grace period is over" };
                self.tell(seen, Some(container), Reason::Killing, format!("killed: {why}"));
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
            Step::FetchVolume { volume } => {
                self.pulling.insert(volume_key(volume), Instant::now());
                self.tell(seen, None, Reason::Pulling, format!("pulling {}", volume_image(seen, volume)));
            }
            // What is wanted under the name next has waited since then.
            Step::Doom { .. } => self.begun = Instant::now(),
            Step::Renew { container } => {
                let exit =
                    seen.containers.get(container).and_then(|c| c.attempt.as_ref()).and_then(|a| a.exit.as_ref());
                let code = exit.map_or(0, |e| e.code);
                let text = format!("container {container} exited with code {code}: all containers start anew");
                self.tell(seen, None, Reason::RestartingAllContainers, text);
            }
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
            Step::Evict(eviction) => self.tell(seen, None, Reason::Evicted, eviction.message.clone()),
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
            Push::VolumeFetched { volume, result } => {
                let took = self.pulling.remove(&volume_key(volume)).map(|begin| begin.elapsed()).unwrap_or_default();
                match result {
                    Ok(()) => {
                        let text = format!("{} is here after {} ms", volume_image(seen, volume), took.as_millis());
                        self.tell(seen, None, Reason::Pulled, text);
                    }
                    Err(error) => self.tell(seen, None, Reason::FailedPull, error.message.clone()),
                }
            }
            Push::Hooked { container, hook, result: Err(why), .. } => {
                let reason = match hook {
                    Hook::PostStart => Reason::FailedPostStartHook,
                    Hook::PreStop => Reason::FailedPreStopHook,
                };
                self.tell(seen, Some(container), reason, why.clone());
            }
            // What is found is told by what is done for it.
            Push::Hooked { .. } | Push::Probed { .. } | Push::ShimLost | Push::Look => {}
        }
    }
}

/// Containers that have begun to wait for a restart's or a pull's next try, and what their status says of it.
fn backing_off<'a>(view: &'a PodView, before: Option<&'a PodView>) -> impl Iterator<Item = (&'a str, String)> {
    let waiting = |view: &'a PodView| {
        view.statuses().filter_map(|status| {
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

/// The first line of a message, as far as an event has room.
fn first_line(text: &str) -> &str {
    const MOST: usize = 512;
    let line = text.trim().lines().next().unwrap_or_default();
    line.get(..line.floor_char_boundary(MOST)).unwrap_or_default()
}

/// Whether a pod is as desired: what waits for a restart's or a pull's next try is not.
fn settled(wanted: &Wanted, seen: &Observed) -> bool {
    let Some(record) = &seen.record else { return wanted.desired.is_none() };
    if wanted.desired.is_none() || record.doomed.is_some() || seen.failure.is_some() {
        return false;
    }
    if is_over(record, seen) {
        return !seen.containers.values().any(|c| c.running());
    }
    let initialized = initialized(record, seen);
    everyone(&record.pod).filter(|(role, _)| !initialized || *role != Role::Init).all(|(role, container)| {
        let generation = record.containers.get(&container.name).map_or(0, |g| g.spec);
        seen.containers.get(&container.name).is_some_and(|c| match &c.attempt {
            Some(a) if a.exit.is_none() => a.generations.spec == generation,
            Some(_) => next_start(record, (role, container), seen, c).is_none(),
            None => false,
        })
    })
}
