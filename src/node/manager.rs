//! The one task that decides which pods there should be, and keeps a worker for each.
//!
//! ```text
//!  sources ─▶ desired set ─┐
//!  lamina run ─▶ one-offs ─┼─▶ expand workloads ─▶ one `Wanted` a pod ─▶ its worker ─▶ view ─┐
//!  how workloads' pods are ┘◀────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A pass over all of this is pure but for telling workers; it runs when a set, a one-off or a workload's pod changes, or
//! when a workload asks to be looked at again by time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::audience::{Board, Listener, Mute};
use super::claims;
use super::drain::{self, Drain};
use super::workloads::{Made, Workloads};
use crate::api::workload::{Owner, owner_key};
use crate::api::{Kind, Object, ObjectKey, PodKey, PodUid};
use crate::pod::desired::{Claim, Config, Desired, Eviction, Wanted, references};
use crate::pod::real::{Machine, Real};
use crate::pod::state::{Origin, Record, Source};
use crate::pod::worker;
use crate::source::{DesiredSet, SourceKind, Sourced};
use crate::volume::claim::{self, Declared};

/// How long a pod that an earlier agent left may stay unseen: then its workload goes on without it.
const UNSEEN: Duration = Duration::from_mins(1);

/// What the manager is told beside what the sources say.
#[derive(Debug)]
pub(super) enum Command {
    /// Run a one-off pod.
    Run { key: PodKey, pod: Box<Pod>, once: bool },
    /// Remove a one-off pod; does nothing for others.
    Stop { key: PodKey, grace: Option<Duration> },
    /// Give the containers of these pods another grace period when they go.
    Grace { keys: Vec<PodKey>, grace: Duration },
    /// End a pod for the node's sake.
    Evict { key: PodKey, eviction: Eviction },
    /// End a pod and make it anew.
    Restart { key: PodKey, uid: String },
    /// Images came without a pull: what waits for one looks again.
    ImagesCame,
    /// Answer once all that pods have told by now is taken up, and workloads hold what they are to hold.
    Settle(oneshot::Sender<()>),
}

/// A pod that was found on disk at start.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: PodKey,
    pub(super) record: Record,
}

struct Worker {
    wanted: watch::Sender<Wanted>,
}

pub(super) struct Manager {
    machine: Arc<Machine>,
    board: Board,
    sets: watch::Receiver<Arc<DesiredSet>>,
    commands: mpsc::UnboundedReceiver<Command>,
    workloads: Workloads,
    synced: watch::Sender<bool>,
    workers: BTreeMap<PodKey, Worker>,
    tasks: JoinSet<Option<PodKey>>,
    one_offs: BTreeMap<PodKey, (Box<Pod>, bool)>,
    /// Pods of an earlier agent, kept as they are until the sources have told all that they want.
    found: BTreeMap<PodKey, Record>,
    graces: BTreeMap<PodKey, Duration>,
    /// Pods of workloads that an earlier agent left, until each workload's are all seen: before that, nothing can be said
    /// of it, and its pods stay as they are.
    unseen: BTreeMap<PodKey, Record>,
    /// Pods that are to be over.
    evicted: BTreeMap<PodKey, Eviction>,
    /// Pods that go to come back.
    restarting: BTreeMap<PodKey, String>,
    begun: Instant,
    drain: Drain,
    /// Counts [`Command::ImagesCame`].
    images: u64,
    /// Who waits until what pods have told is taken up.
    settling: Vec<oneshot::Sender<()>>,
    /// The services that were handed their addresses last, and whether those were all.
    promised: (Vec<Service>, bool),
}

impl Manager {
    pub(super) fn new(
        machine: Arc<Machine>,
        board: Board,
        sets: watch::Receiver<Arc<DesiredSet>>,
        (commands, workloads, drain): (mpsc::UnboundedReceiver<Command>, Workloads, Drain),
        synced: watch::Sender<bool>,
        found: Vec<Found>,
    ) -> Self {
        let mut manager = Self {
            machine,
            board,
            sets,
            commands,
            workloads,
            synced,
            workers: BTreeMap::new(),
            tasks: JoinSet::new(),
            one_offs: BTreeMap::new(),
            found: BTreeMap::new(),
            graces: BTreeMap::new(),
            evicted: BTreeMap::new(),
            restarting: BTreeMap::new(),
            unseen: BTreeMap::new(),
            begun: Instant::now(),
            drain,
            images: 0,
            settling: Vec::new(),
            promised: (Vec::new(), false),
        };
        manager.board.expect(found.iter().map(|f| f.key.clone()));
        for Found { key, record } in found {
            if manager.workers.contains_key(&key) {
                manager.spare(key, record.uid);
                continue;
            }
            match record.origin.source {
                Source::Run if record.doomed.is_none() => {
                    manager.one_offs.insert(key.clone(), (Box::new(Pod::clone(&record.pod)), false));
                }
                // Its client went with the agent.
                Source::RunOnce => {}
                _ => {
                    manager.found.insert(key.clone(), record.clone());
                }
            }
            if record.origin.workload.is_some() && record.doomed.is_none() {
                manager.unseen.insert(key.clone(), record.clone());
            }
            let wanted = Wanted { desired: kept(&record), ..Wanted::default() };
            manager.spawn(key, Some(record.uid.clone()), wanted);
        }
        manager
    }

    /// Runs until the agent ends: then workers are told by their channels closing, and pods run on.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let (mut views, mut claims) = (self.board.subscribe(), self.machine.claims.subscribe());
        loop {
            views.mark_unchanged();
            claims.mark_unchanged();
            let wake = self.pass().await;
            let asleep = async {
                match wake {
                    Some(wake) => tokio::time::sleep(wake).await,
                    None => std::future::pending().await,
                }
            };
            // Every arm is cancel-safe: watches keep the newest value, channels keep what was not received, and a join
            // that is dropped joins later.
            tokio::select! {
                changed = self.sets.changed() => if changed.is_err() { break },
                Some(command) = self.commands.recv() => self.command(command),
                Some(ended) = self.tasks.join_next() => self.ended(ended),
                () = self.board.workloads_changed() => {}
                // The sender is the machine's.
                _ = claims.changed() => {}
                // Who goes next depends on who is gone, and on what is seen of those that an earlier agent left.
                Ok(()) = views.changed(), if self.drain.since().is_some() => {}
                () = asleep => {}
                _ = stop.changed() => break,
            }
        }
        self.workers.clear();
        while self.tasks.join_next().await.is_some() {}
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Run { key, pod, once } => {
                self.one_offs.insert(key, (pod, once));
            }
            Command::Stop { key, grace } => {
                if let Some(grace) = grace {
                    self.graces.insert(key.clone(), grace);
                }
                self.one_offs.remove(&key);
            }
            Command::Evict { key, eviction } => {
                self.evicted.insert(key, eviction);
            }
            Command::ImagesCame => self.images += 1,
            Command::Settle(answer) => self.settling.push(answer),
            Command::Restart { key, uid } => {
                self.restarting.insert(key, uid);
            }
            Command::Grace { keys, grace } => self.graces.extend(keys.into_iter().map(|key| (key, grace))),
        }
    }

    /// A worker has ended: its pod is gone, unless something came to be wanted at the last moment.
    fn ended(&mut self, ended: Result<Option<PodKey>, tokio::task::JoinError>) {
        match ended {
            Ok(None) => {}
            Ok(Some(key)) => {
                self.workers.remove(&key);
                self.graces.remove(&key);
                self.board.remove(&key);
                // Streams for a start that never came are closed, and their client is told by that.
                drop(self.machine.take_attach(&key));
            }
            Err(error) => {
                // A bug; the pods of workers that are gone get new ones, which begin with a look.
                tracing::error!(%error, "a pod's worker has failed");
                self.workers.retain(|_, worker| worker.wanted.receiver_count() > 0);
            }
        }
    }

    /// One pass. Returns when to make another though nothing changes.
    async fn pass(&mut self) -> Option<Duration> {
        let set = self.sets.borrow_and_update().clone();
        self.promise(&set).await;
        let now = Timestamp::now();
        let (mut wanted, wake) = self.wanted(&set, now);
        self.workloads.settle(&set);
        // Before anything acts on it.
        self.workloads.keep().await;
        if self.unseen.is_empty() {
            for answer in self.settling.drain(..) {
                // Whoever asked may have given up.
                let _ = answer.send(());
            }
        }
        if set.synced {
            // What a file that cannot be read now would ask for is not known: what was taken from it stays as it is.
            let unsure = |file: &String| !set.is_gone(Path::new(file));
            self.found.retain(|_, record| record.origin.file.as_ref().is_some_and(unsure));
        }
        for (key, record) in &self.found {
            if !wanted.contains_key(key)
                && let Some(desired) = kept(record)
            {
                wanted.insert(key.clone(), desired);
            }
        }
        if self.drain.since().is_some() {
            let there = self.workers.keys().map(|key| (key.clone(), self.board.view(key))).collect();
            drain::keep(&mut wanted, &there);
        }
        // One that is to be made anew is not wanted until it is gone.
        let is_there = |key: &PodKey, uid: &str| self.board.view(key).is_some_and(|v| v.lamina.uid.as_str() == uid);
        self.restarting.retain(|key, uid| is_there(key, uid));
        self.evicted.retain(|key, eviction| is_there(key, eviction.uid.as_str()));
        wanted.retain(|key, _| !self.restarting.contains_key(key));
        let keys: BTreeSet<PodKey> = self.workers.keys().chain(wanted.keys()).cloned().collect();
        for key in keys {
            let desired = wanted.remove(&key);
            let grace = self.graces.get(&key).copied();
            let next = Wanted { desired, grace, evicted: self.evicted.get(&key).cloned(), images: self.images };
            match self.workers.get(&key) {
                Some(worker) => {
                    worker.wanted.send_if_modified(|old| {
                        let changed = *old != next;
                        // What is the same is not kept twice: the worker has the old one.
                        if changed {
                            *old = next;
                        }
                        changed
                    });
                }
                None if next.desired.is_some() => self.spawn(key, None, next),
                None => {}
            }
        }
        self.synced.send_if_modified(|synced| set.synced && !std::mem::replace(synced, true));
        wake
    }

    /// Hands services their addresses before pods that may ask for them start. What cannot be had is told by whoever makes
    /// their rules.
    async fn promise(&mut self, set: &DesiredSet) {
        let wanted = (super::services::of(set), super::services::is_all(set));
        if wanted == self.promised {
            return;
        }
        let machine = Arc::clone(&self.machine);
        self.promised.clone_from(&wanted);
        let done = tokio::task::spawn_blocking(move || {
            machine.network.promise_services(&wanted.0.iter().collect::<Vec<_>>(), wanted.1)
        });
        if let Ok(Err(error)) = done.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "services have no addresses yet");
            self.promised = Default::default();
        }
    }

    fn spawn(&mut self, key: PodKey, uid: Option<PodUid>, wanted: Wanted) {
        let (sender, receiver) = watch::channel(wanted);
        let engine = Real::new(Arc::clone(&self.machine), key.clone(), uid);
        let listener = Listener::new(Arc::clone(&self.machine), self.board.clone(), key.clone());
        let metrics = self.machine.metrics.clone();
        self.workers.insert(key.clone(), Worker { wanted: sender });
        self.tasks.spawn(async move {
            worker::run(engine, listener, receiver, metrics).await;
            Some(key)
        });
    }

    /// A second pod under a name that is taken, which only a fault can leave behind: it goes, and nobody sees it.
    fn spare(&mut self, key: PodKey, uid: PodUid) {
        tracing::warn!(pod = %key, %uid, "a second pod of this name is removed");
        let (sender, receiver) = watch::channel(Wanted::default());
        let engine = Real::new(Arc::clone(&self.machine), key, Some(uid));
        let metrics = self.machine.metrics.clone();
        self.tasks.spawn(async move {
            worker::run(engine, Mute, receiver, metrics).await;
            drop(sender);
            None
        });
    }

    /// Workloads of which not every pod was seen yet.
    fn waiting(&mut self) -> BTreeSet<ObjectKey> {
        if self.begun.elapsed() > UNSEEN {
            self.unseen.clear();
        }
        let unseen = self.unseen.iter().filter(|(key, _)| self.board.view(key).is_none());
        let waiting: BTreeSet<_> = unseen.filter_map(|(key, record)| waiting_for(key, record)).collect();
        self.unseen.retain(|key, record| waiting_for(key, record).is_some_and(|workload| waiting.contains(&workload)));
        waiting
    }

    /// Every pod that should be, by name: the first that claims a name has it.
    fn wanted(&mut self, set: &DesiredSet, now: Timestamp) -> (BTreeMap<PodKey, Desired>, Option<Duration>) {
        let mut wanted = BTreeMap::new();
        let mut wake: Option<Timestamp> = None;
        let configs = Configs::of(set, self.machine.claims.views());
        let waiting = self.waiting();
        for sourced in &set.objects {
            let pods: Vec<Made> = match sourced.object.as_ref() {
                Object::Pod(pod) => {
                    vec![(PodKey::of(&pod.metadata), Arc::new((**pod).clone()), None)]
                }
                object if waiting.iter().any(|key| is_of(key, object)) => {
                    self.workloads.wait_for(&object.key());
                    let left = self.unseen.iter().filter(|(key, record)| {
                        waiting_for(key, record).is_some_and(|workload| is_of(&workload, object))
                    });
                    left.map(|(key, r)| (key.clone(), Arc::clone(&r.pod), r.origin.workload.clone())).collect()
                }
                _ => match self.workloads.expand(sourced, now) {
                    Some((made, next)) => {
                        wake = wake.into_iter().chain(next).min();
                        made
                    }
                    None => continue,
                },
            };
            for (key, pod, owner) in pods {
                self.board.ignored(&key, &sourced.ignored);
                let made = owner.as_ref().map(|owner| claims::of_pod(sourced, owner)).unwrap_or_default();
                let config = configs.named(&key, &pod, &made);
                wanted.entry(key).or_insert_with(|| Desired { pod, origin: origin(sourced, owner), config });
            }
        }
        for (key, (pod, once)) in &self.one_offs {
            let source = if *once { Source::RunOnce } else { Source::Run };
            let origin = Origin { source, file: None, workload: None };
            let config = configs.named(key, pod, &BTreeMap::new());
            let pod = Arc::new((**pod).clone());
            wanted.entry(key.clone()).or_insert_with(|| Desired { pod, origin, config });
        }
        let wake = wake.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
        (wanted, wake)
    }
}

/// The workload that a pod of an earlier agent is of.
fn waiting_for(key: &PodKey, record: &Record) -> Option<ObjectKey> {
    record.origin.workload.as_ref().map(|owner| owner_key(owner, &key.namespace))
}

/// Whether a workload is this object, or may be a job of it.
fn is_of(workload: &ObjectKey, object: &Object) -> bool {
    let key = object.key();
    let of_cron = || {
        let job = workload.kind == Kind::Job && workload.namespace == key.namespace;
        key.kind == Kind::CronJob && job && workload.name.starts_with(&format!("{}-", key.name))
    };
    *workload == key || of_cron()
}

/// What keeps a pod as it is.
fn kept(record: &Record) -> Option<Desired> {
    if record.doomed.is_some() || record.origin.source == Source::RunOnce {
        return None;
    }
    let pod = Arc::clone(&record.pod);
    Some(Desired { pod, origin: record.origin.clone(), config: Arc::new(Config { unsure: true, ..Config::default() }) })
}

fn origin(sourced: &Sourced, workload: Option<Owner>) -> Origin {
    let source = match sourced.source {
        SourceKind::Manifests => Source::Directory,
        SourceKind::Desired => Source::Desired,
        SourceKind::Kubernetes => Source::Kubernetes,
    };
    Origin { source, file: Some(sourced.file.to_string_lossy().into_owned()), workload }
}

/// All ConfigMaps, Secrets and claims, by namespace and name.
pub(super) struct Configs {
    maps: BTreeMap<(String, String), Arc<ConfigMap>>,
    secrets: BTreeMap<(String, String), Arc<Secret>>,
    declared: BTreeMap<ObjectKey, Declared>,
    claims: claim::Views,
}

impl Configs {
    pub(super) fn of(set: &DesiredSet, claims: claim::Views) -> Self {
        let (mut maps, mut secrets) = (BTreeMap::new(), BTreeMap::new());
        let place = |key: ObjectKey| (key.namespace, key.name);
        for sourced in &set.objects {
            match sourced.object.as_ref() {
                Object::ConfigMap(map) => {
                    maps.insert(place(sourced.object.key()), Arc::new((**map).clone()));
                }
                Object::Secret(secret) => {
                    secrets.insert(place(sourced.object.key()), Arc::new((**secret).clone()));
                }
                _ => {}
            }
        }
        Self { maps, secrets, declared: claims::declared(set), claims }
    }

    /// Those that a pod names; `made` are the claims that its workload makes for it.
    pub(super) fn named(&self, key: &PodKey, pod: &Pod, made: &BTreeMap<String, Declared>) -> Arc<Config> {
        let (maps, secrets) = references(pod);
        let place = |name: &str| (key.namespace.clone(), name.to_owned());
        let named = |name: &&str| (*name).to_owned();
        Arc::new(Config {
            config_maps: maps.iter().filter_map(|n| Some((named(n), self.maps.get(&place(n))?.clone()))).collect(),
            secrets: secrets.iter().filter_map(|n| Some((named(n), self.secrets.get(&place(n))?.clone()))).collect(),
            claims: crate::api::claim::named(pod)
                .map(|name| (name.to_owned(), self.claim(&claim::key(&key.namespace, name), made.get(name))))
                .collect(),
            unsure: false,
        })
    }

    /// An object comes before a template.
    fn claim(&self, key: &ObjectKey, made: Option<&Declared>) -> Claim {
        let here = self.claims.get(key);
        let holder = here.filter(|view| crate::api::claim::is_pod_only(&view.claim)).and_then(|view| {
            // One at most.
            view.users.keys().next().cloned()
        });
        let declared = self.declared.get(key).or(made).cloned();
        Claim { declared, phase: here.map(|view| view.phase), holder }
    }
}
