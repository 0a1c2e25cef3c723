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
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::audience::{Board, Listener, Mute};
use crate::api::workload::{self, Owner};
use crate::api::{Object, ObjectKey, PodKey, PodUid};
use crate::pod::desired::{Config, Desired, Wanted, references};
use crate::pod::real::{Machine, Real};
use crate::pod::state::{Origin, Record, Source};
use crate::pod::worker;
use crate::source::{DesiredSet, SourceKind, Sourced};

/// What the manager is told beside what the sources say.
#[derive(Debug)]
pub(super) enum Command {
    /// Run a one-off pod.
    Run { key: PodKey, pod: Box<Pod>, once: bool },
    /// Remove a one-off pod; does nothing for others.
    Stop { key: PodKey, grace: Option<Duration> },
    /// Give the containers of these pods another grace period when they go.
    Grace { keys: Vec<PodKey>, grace: Duration },
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
    synced: watch::Sender<bool>,
    workers: BTreeMap<PodKey, Worker>,
    tasks: JoinSet<Option<PodKey>>,
    one_offs: BTreeMap<PodKey, (Box<Pod>, bool)>,
    /// Pods of an earlier agent, kept as they are until the sources have told all that they want.
    found: BTreeMap<PodKey, Record>,
    graces: BTreeMap<PodKey, Duration>,
}

impl Manager {
    pub(super) fn new(
        machine: Arc<Machine>,
        board: Board,
        sets: watch::Receiver<Arc<DesiredSet>>,
        commands: mpsc::UnboundedReceiver<Command>,
        synced: watch::Sender<bool>,
        found: Vec<Found>,
    ) -> Self {
        let mut manager = Self {
            machine,
            board,
            sets,
            commands,
            synced,
            workers: BTreeMap::new(),
            tasks: JoinSet::new(),
            one_offs: BTreeMap::new(),
            found: BTreeMap::new(),
            graces: BTreeMap::new(),
        };
        for Found { key, record } in found {
            if manager.workers.contains_key(&key) {
                manager.spare(key, record.uid);
                continue;
            }
            match record.origin.source {
                Source::Run if record.doomed.is_none() => {
                    manager.one_offs.insert(key.clone(), (Box::new(record.pod.clone()), false));
                }
                // Its client went with the agent.
                Source::RunOnce => {}
                _ => {
                    manager.found.insert(key.clone(), record.clone());
                }
            }
            let wanted = Wanted { desired: kept(&record), grace: None };
            manager.spawn(key, Some(record.uid.clone()), wanted);
        }
        manager
    }

    /// Runs until the agent ends: then workers are told by their channels closing, and pods run on.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let wake = self.pass();
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
    fn pass(&mut self) -> Option<Duration> {
        let set = self.sets.borrow_and_update().clone();
        let now = Timestamp::now();
        let (mut wanted, wake) = self.wanted(&set, now);
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
        let keys: BTreeSet<PodKey> = self.workers.keys().chain(wanted.keys()).cloned().collect();
        for key in keys {
            let desired = wanted.remove(&key);
            let grace = self.graces.get(&key).copied();
            let next = Wanted { desired, grace };
            match self.workers.get(&key) {
                Some(worker) => {
                    worker.wanted.send_if_modified(|old| {
                        let changed = *old != next;
                        *old = next;
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

    /// Every pod that should be, by name: the first that claims a name has it.
    fn wanted(&self, set: &DesiredSet, now: Timestamp) -> (BTreeMap<PodKey, Desired>, Option<Duration>) {
        let mut wanted = BTreeMap::new();
        let mut wake: Option<Timestamp> = None;
        let configs = Configs::of(set);
        for sourced in &set.objects {
            let owned;
            let pods: Vec<(PodKey, Arc<Pod>, Option<Owner>)> = match sourced.object.as_ref() {
                Object::Pod(pod) => {
                    vec![(PodKey::of(&pod.metadata), Arc::new((**pod).clone()), None)]
                }
                Object::Deployment(_) | Object::DaemonSet(_) | Object::Job(_) => {
                    owned = self.board.of_workload(&sourced.object.key());
                    let expansion = workload::expand(&sourced.object, &owned, now);
                    wake = wake.into_iter().chain(expansion.wake).min();
                    self.board.workload(sourced.object.key(), expansion.status);
                    let made = expansion.pods.into_iter();
                    made.map(|w| (PodKey::of(&w.pod.metadata), Arc::new(w.pod), Some(w.owner))).collect()
                }
                _ => continue,
            };
            for (key, pod, owner) in pods {
                self.board.ignored(&key, &sourced.ignored);
                let config = configs.named(&key, &pod);
                wanted.entry(key).or_insert_with(|| Desired { pod, origin: origin(sourced, owner), config });
            }
        }
        for (key, (pod, once)) in &self.one_offs {
            let source = if *once { Source::RunOnce } else { Source::Run };
            let origin = Origin { source, file: None, workload: None };
            let config = configs.named(key, pod);
            let pod = Arc::new((**pod).clone());
            wanted.entry(key.clone()).or_insert_with(|| Desired { pod, origin, config });
        }
        let wake = wake.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
        (wanted, wake)
    }
}

/// What keeps a pod as it is.
fn kept(record: &Record) -> Option<Desired> {
    if record.doomed.is_some() || record.origin.source == Source::RunOnce {
        return None;
    }
    let pod = Arc::new(record.pod.clone());
    Some(Desired { pod, origin: record.origin.clone(), config: Arc::new(Config::default()) })
}

fn origin(sourced: &Sourced, workload: Option<Owner>) -> Origin {
    let source = match sourced.source {
        SourceKind::Manifests => Source::Directory,
        SourceKind::Desired => Source::Desired,
    };
    Origin { source, file: Some(sourced.file.to_string_lossy().into_owned()), workload }
}

/// All ConfigMaps and Secrets, by namespace and name.
struct Configs {
    maps: BTreeMap<(String, String), Arc<ConfigMap>>,
    secrets: BTreeMap<(String, String), Arc<Secret>>,
}

impl Configs {
    fn of(set: &DesiredSet) -> Self {
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
        Self { maps, secrets }
    }

    /// Those that a pod names.
    fn named(&self, key: &PodKey, pod: &Pod) -> Arc<Config> {
        let (maps, secrets) = references(pod);
        let place = |name: &str| (key.namespace.clone(), name.to_owned());
        let named = |name: &&str| (*name).to_owned();
        Arc::new(Config {
            config_maps: maps.iter().filter_map(|n| Some((named(n), self.maps.get(&place(n))?.clone()))).collect(),
            secrets: secrets.iter().filter_map(|n| Some((named(n), self.secrets.get(&place(n))?.clone()))).collect(),
        })
    }
}
