//! The node: joins sources to one worker a pod, and owns what no single pod does: collection, events, recovery.
//!
//! [`Node`] is the handle that the server and tests hold; it is cheap to clone and every clone is the same node.
//!
//! | task | in | out | ends |
//! |---|---|---|---|
//! | manager | desired sets, one-off pods, how workloads' pods are | one `Wanted` a pod | [`Node::shutdown`] |
//! | worker, one a pod | its `Wanted`, its shim, its fetches | steps, its view | its pod is gone, or the manager ends |
//! | collector | released refs, what falls due, the disk | freed layers | [`Node::shutdown`] |
//! | events (a thread) | whoever tells | a ring on disk, listeners | the last handle is dropped |

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::api::ObjectKey;
use crate::api::workload::WorkloadStatus;
use crate::image::Images;
use crate::metrics::Registry;
use crate::pod::real::Machine;
use crate::rootfs::Layers;
use crate::source::DesiredSet;
use crate::source::desired::Desired;
use crate::source::directory::{Directory, Options};
use crate::source::merge::Merge;
use crate::store::{Store, SweepOptions, Swept};

mod audience;
mod collect;
mod error;
mod events;
mod manager;
mod metrics;
mod objects;
mod process;
mod repair;
mod request;
mod session;
mod settings;
mod start;

pub use crate::api::PodView;
pub use audience::Views;
pub use error::Error;
pub use events::Events;
pub use request::{
    ApplyOptions, ApplyReport, ContainerRef, DeleteOptions, ExecRequest, GcRequest, LogPath, Readiness, RunRequest,
};
pub use session::{Attach, ProcessExit, Session, Streams};
pub use settings::{Settings, StoreDriver};

use audience::Board;
use collect::{Collector, Policy, Trigger};
use manager::{Command, Manager};

/// Where below the root is what was applied.
const DESIRED: &str = "desired";
/// How long the tasks may take to end at shutdown.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// A running node.
#[derive(Debug, Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    metrics: Registry,
    machine: Arc<Machine>,
    events: Events,
    board: Board,
    collector: Collector,
    desired: Desired,
    sets: watch::Receiver<Arc<DesiredSet>>,
    commands: mpsc::UnboundedSender<Command>,
    readiness: watch::Sender<Readiness>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Watching ends when these are dropped.
    _sources: (Vec<Directory>, Merge),
}

impl Node {
    /// Opens the store, adopts what runs, starts sources and workers, and returns once all of that is under way;
    /// [`Node::readiness`] tells when every source has synced.
    ///
    /// # Errors
    /// If another agent holds the store, or the node cannot run at all.
    pub async fn start(settings: Settings, registry: Registry) -> Result<Self, Error> {
        let blocking = |e: tokio::task::JoinError| Error::failed("start the node")(e);
        let opened = {
            let (settings, registry) = (settings.clone(), registry.clone());
            tokio::task::spawn_blocking(move || open(&settings, &registry)).await.map_err(blocking)??
        };
        let Opened { machine, events, desired, found } = opened;
        let directories: Vec<Directory> =
            settings.manifests.iter().map(|path| Directory::watch(Options::new(path.clone()))).collect();
        let mut sets: Vec<_> = directories.iter().map(Directory::subscribe).collect();
        sets.push(desired.subscribe());
        let merge = Merge::start(sets);
        let sets = merge.subscribe();
        let policy = Policy {
            grace: settings.gc_grace,
            image_age: settings.gc_image_age,
            high: settings.gc_high,
            low: settings.gc_low,
        };
        let gc_metrics = collect::Metrics::new(&registry).map_err(Error::failed("set up metrics"))?;
        let collector = Collector::new(Arc::clone(&machine), events.clone(), gc_metrics, policy);
        let board = Board::new();
        let sources = metrics::Sources::new(&registry, &settings.manifests, &settings.root.join(DESIRED))
            .map_err(Error::failed("set up metrics"))?;
        metrics::Counts::register(&registry, board.clone(), Arc::clone(&machine), sets.clone(), sources.clone())
            .map_err(Error::failed("set up metrics"))?;
        let (commands, inbox) = mpsc::unbounded_channel();
        let (synced, is_synced) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let manager = Manager::new(Arc::clone(&machine), board.clone(), sets.clone(), inbox, synced, found);
        let readiness = watch::channel(Readiness::waiting("the manifests have not been read yet")).0;
        let tasks = vec![
            tokio::spawn(manager.run(stopped)),
            tokio::spawn(collector.clone().run(is_synced.clone())),
            tokio::spawn(objects::watch(sets.clone(), events.clone(), sources)),
        ];
        let inner = Inner {
            settings,
            metrics: registry,
            machine,
            events,
            board,
            collector,
            desired,
            sets,
            commands,
            readiness,
            stop,
            tasks: Mutex::new(tasks),
            _sources: (directories, merge),
        };
        let node = Self { inner: Arc::new(inner) };
        node.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(tokio::spawn(recover(
            Arc::clone(&node.inner.machine),
            node.inner.settings.root.clone(),
            node.inner.readiness.clone(),
            is_synced,
        )));
        Ok(node)
    }

    /// Stops sources and workers and releases the store; pods go on running.
    pub async fn shutdown(&self) {
        self.inner.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let mut tasks = tasks.into_iter();
        // The manager first: it ends by itself, and its workers with it.
        if let Some(manager) = tasks.next()
            && tokio::time::timeout(SHUTDOWN, manager).await.is_err()
        {
            tracing::warn!("workers did not end in time");
        }
        for task in tasks {
            task.abort();
            // What it held, the store among it, is let go when it has ended; that it was aborted is no news.
            let _ = task.await;
        }
    }

    /// The settings it was started with.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// The registry that its metrics are in.
    pub fn metrics(&self) -> &Registry {
        &self.inner.metrics
    }

    /// What all its pods share.
    pub fn machine(&self) -> &Machine {
        &self.inner.machine
    }

    /// Its store.
    pub fn store(&self) -> &Store {
        &self.inner.machine.store
    }

    /// Its pulls.
    pub fn images(&self) -> &Images {
        &self.inner.machine.images
    }

    /// Its mounted layers.
    pub fn layers(&self) -> &Layers {
        &self.inner.machine.layers
    }

    /// What happened lately.
    pub fn events(&self) -> &Events {
        &self.inner.events
    }

    /// Whether every source has synced and every shim is adopted.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.inner.readiness.subscribe()
    }

    /// Every pod with its status, sorted by namespace and name; a new value at each change.
    pub fn pods(&self) -> watch::Receiver<Views> {
        self.inner.board.subscribe()
    }

    /// All that should be, with what is wrong with it.
    pub fn desired(&self) -> watch::Receiver<Arc<DesiredSet>> {
        self.inner.sets.clone()
    }

    /// The counters of workloads.
    pub fn workloads(&self) -> std::collections::BTreeMap<ObjectKey, WorkloadStatus> {
        self.inner.board.workloads()
    }

    /// Frees what nothing holds.
    ///
    /// # Errors
    /// If the store cannot be changed at all; what could not be removed is in the answer.
    pub async fn gc(&self, request: GcRequest) -> Result<Swept, Error> {
        let options = SweepOptions {
            grace: request.grace.unwrap_or(self.inner.settings.gc_grace),
            image_age: if request.grace.is_some() { Duration::ZERO } else { self.inner.settings.gc_image_age },
            need: 0,
            dry_run: request.dry_run,
            now: std::time::Instant::now(),
        };
        self.inner.collector.sweep(Trigger::Command, options).await
    }

    /// Something was released that the node does not know of (`rmi`, `unpin`): collect what it alone held.
    pub fn released(&self) {
        self.inner.machine.released.notify_one();
    }
}

/// Registers every family of the node and of what it runs, without anything that moves them: for documentation.
///
/// # Errors
/// If a name is taken.
pub(crate) fn describe(registry: &Registry) -> Result<(), crate::metrics::Error> {
    crate::image::describe(registry)?;
    crate::pod::metrics::Metrics::new(registry)?;
    collect::Metrics::new(registry)?;
    metrics::describe(registry)
}

/// What is opened before anything runs.
struct Opened {
    machine: Arc<Machine>,
    events: Events,
    desired: Desired,
    found: Vec<manager::Found>,
}

fn open(settings: &Settings, metrics: &Registry) -> Result<Opened, Error> {
    let store = start::open_store(settings)?;
    let events = Events::open(settings.root.join("events")).map_err(Error::failed("open the events"))?;
    let machine = start::machine(settings, metrics, store, events.sender())?;
    let desired = Desired::open(&settings.root.join(DESIRED)).map_err(Error::failed("read what was applied"))?;
    let found = start::found(&machine)?;
    Ok(Opened { machine, events, desired, found })
}

/// What is done once every source has told all that it wants: what earlier agents left half done goes.
async fn recover(
    machine: Arc<Machine>,
    root: std::path::PathBuf,
    readiness: watch::Sender<Readiness>,
    mut synced: watch::Receiver<bool>,
) {
    if synced.wait_for(|synced| *synced).await.is_err() {
        return;
    }
    readiness.send_replace(Readiness { ready: true, reason: String::new() });
    let tidied = tokio::task::spawn_blocking(move || tidy(&machine, &root)).await;
    if let Err(error) = tidied {
        tracing::error!(%error, "tidying up failed");
    }
}

fn tidy(machine: &Machine, root: &Path) {
    if let Err(error) = machine.store.empty_staging_and_trash() {
        tracing::warn!(error = %crate::pod::engine::chain(&error), "cannot empty staging and trash");
    }
    objects::release_orphans(machine);
    start::remove_old_builds(machine, root);
    machine.released.notify_one();
}
