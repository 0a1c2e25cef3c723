//! The node: joins sources to one worker a pod, and owns what no single pod does: collection, events, recovery.
//!
//! [`Node`] is the handle that the server and tests hold; it is cheap to clone and every clone is the same node.
//!
//! | task | in | out | ends |
//! |---|---|---|---|
//! | manager | desired sets, one-off pods, how workloads' pods are | one `Wanted` a pod | [`Node::shutdown`] |
//! | worker, one a pod | its `Wanted`, its shim, its fetches | steps, its view | its pod is gone, or the manager ends |
//! | claims | desired sets, who has which claim | volumes that outlast pods | [`Node::shutdown`] |
//! | drain | whether the node is drained | the images of what was stopped let go | [`Node::shutdown`] |
//! | collector | what the store let go of, what falls due, the disk | freed layers | [`Node::shutdown`] |
//! | keeper | what pods take of the disk, what the node has left | evictions, conditions | [`Node::shutdown`] |
//! | events (a thread) | whoever tells | a ring on disk, listeners | the last handle is dropped |

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::api::cluster::NodeReportStatus;
use crate::api::condition::Condition;
use crate::api::problem::chain;
use crate::api::{Event, Kind, ObjectKey, Reason, WorkloadView};
use crate::image::Images;
use crate::metrics::Registry;
use crate::pod::real::Machine;
use crate::rootfs::Layers;
use crate::source::DesiredSet;
use crate::source::desired::Desired;
use crate::source::directory::{Directory, Options};
use crate::source::kubernetes::{self, Kubernetes, Link};
use crate::source::merge::Merge;
use crate::store::{Store, SweepOptions, Swept};

mod archives;
mod audience;
mod claims;
mod collect;
pub mod copy;
pub(crate) mod drain;
mod error;
mod events;
mod eviction;
mod forward;
mod manager;
mod memories;
mod metrics;
mod objects;
mod preview;
mod process;
mod repair;
mod report;
mod request;
mod rollout;
mod services;
mod session;
mod settings;
mod start;
mod workloads;

pub use crate::api::PodView;
pub use audience::Views;
pub use error::Error;
pub use events::Events;
pub use eviction::Thresholds;
pub use forward::PodPort;
pub use preview::{ApplyPlan, Fetch, Free, ObjectPlan, Replace};
pub use request::{
    ApplyOptions, ApplyReport, ContainerRef, DeleteOptions, ExecRequest, GcRequest, LogPath, Readiness, RunRequest,
};
pub use session::{Attach, ProcessExit, Session, Streams};
pub use settings::{Cluster, Settings, StoreDriver};

use audience::Board;
pub use drain::DrainOptions;

use collect::{Collector, Policy, Trigger};
use drain::Drain;
use manager::{Command, Manager};
use memories::Memories;
pub use rollout::Undone;
use workloads::Workloads;

/// Where below the root is what was applied.
const DESIRED: &str = "desired";
/// Where below the root is what is remembered of workloads.
const WORKLOADS: &str = "workloads";
/// Where below the root it says which archives were loaded.
const ARCHIVES: &str = "archives.json";
/// Where below the root it says that the node is drained.
const DRAINED: &str = "drained";
/// How long the tasks may take to end at shutdown.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// How long being ready waits for pods that were there: a shim that is stopped must not hold it up.
const ADOPTION: Duration = Duration::from_secs(10);

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
    memories: Memories,
    drain: Drain,
    sets: watch::Receiver<Arc<DesiredSet>>,
    commands: mpsc::UnboundedSender<Command>,
    readiness: watch::Sender<Readiness>,
    conditions: watch::Receiver<Vec<Condition>>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Watching ends when these are dropped.
    /// Whether the API server is heard, where it is a source.
    link: Option<watch::Receiver<Link>>,
    _sources: (Vec<Directory>, Option<Kubernetes>, Merge),
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
        let Opened { machine, events, desired, memories, drain, found } = opened;
        let directories: Vec<Directory> =
            settings.manifests.iter().map(|path| Directory::watch(Options::new(path.clone()))).collect();
        let mut sets: Vec<_> = directories.iter().map(Directory::subscribe).collect();
        sets.push(desired.subscribe());
        let (report, told) = watch::channel(None);
        let kubernetes = follow_cluster(&settings, &machine, told, &events).await?;
        sets.extend(kubernetes.iter().map(Kubernetes::subscribe));
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
        let link = kubernetes.as_ref().map(Kubernetes::link);
        let sources = metrics::Sources::new(&registry, &settings.manifests, &settings.root.join(DESIRED), link.clone())
            .map_err(Error::failed("set up metrics"))?;
        metrics::Counts::register(&registry, board.clone(), Arc::clone(&machine), sets.clone(), sources.clone())
            .map_err(Error::failed("set up metrics"))?;
        let (commands, inbox) = mpsc::unbounded_channel();
        let (synced, is_synced) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let workloads = Workloads::new(Arc::clone(&machine), board.clone(), memories.clone(), desired.clone());
        let mut watched = settings.manifests.clone();
        watched.push(settings.root.join(DESIRED));
        let told = (inbox, workloads, drain.clone());
        let manager = Manager::new(Arc::clone(&machine), board.clone(), sets.clone(), told, synced, found);
        let (keeper, conditions) = eviction::Keeper::new(eviction::Parts {
            machine: Arc::clone(&machine),
            board: board.clone(),
            events: events.clone(),
            collector: collector.clone(),
            commands: commands.clone(),
            thresholds: settings.eviction_hard.clone(),
            transition: settings.eviction_transition,
        });
        let archives = archives::start(&settings, &machine, &events, &commands).await;
        let readiness = watch::channel(Readiness::waiting("the manifests have not been read yet")).0;
        let mut tasks = vec![
            tokio::spawn(manager.run(stopped)),
            tokio::spawn(collector.clone().run(is_synced.clone(), commands.clone())),
            tokio::spawn(keeper.run(is_synced.clone())),
            tokio::spawn(objects::watch(sets.clone(), events.clone(), sources)),
            tokio::spawn(claims::follow(Arc::clone(&machine), board.clone(), sets.clone(), events.clone(), watched)),
            tokio::spawn(services::follow(Arc::clone(&machine), board.clone(), sets.clone(), events.clone())),
            tokio::spawn(machine.network.resolver()),
            tokio::spawn(drain::let_go(Arc::clone(&machine), board.clone(), drain.subscribe())),
            tokio::spawn(Arc::clone(&machine.network).keep()),
        ];
        tasks.extend(archives);
        if kubernetes.is_some() {
            let parts = report::Parts {
                machine: Arc::clone(&machine),
                board: board.clone(),
                sets: sets.clone(),
                readiness: readiness.subscribe(),
                conditions: conditions.clone(),
                endpoint: settings.kubernetes.as_ref().and_then(|cluster| cluster.endpoint.clone()),
            };
            tasks.push(tokio::spawn(report::keep(parts, report)));
        }
        let inner = Inner {
            settings,
            metrics: registry,
            machine,
            events,
            board,
            collector,
            desired,
            memories,
            drain,
            sets,
            commands,
            readiness,
            conditions,
            stop,
            tasks: Mutex::new(tasks),
            link,
            _sources: (directories, kubernetes, merge),
        };
        let node = Self { inner: Arc::new(inner) };
        node.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(tokio::spawn(recover(
            Arc::clone(&node.inner.machine),
            node.inner.settings.root.clone(),
            node.inner.readiness.clone(),
            is_synced,
            node.inner.board.clone(),
        )));
        Ok(node)
    }

    /// Whether the API server of the cluster is heard; `None` where it is no source.
    pub fn link(&self) -> Option<Link> {
        self.inner.link.as_ref().map(|link| link.borrow().clone())
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
        let machine = Arc::clone(&self.inner.machine);
        let rest = move || {
            if let Err(error) = machine.network.rest() {
                tracing::warn!(error = %chain(&error), "the bridge that nobody needs is still there");
            }
            machine.remove_unused_cgroup();
        };
        let _ = tokio::task::spawn_blocking(rest).await;
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

    /// What holds of the node: whether it is short of something.
    pub fn conditions(&self) -> Vec<Condition> {
        self.inner.conditions.borrow().clone()
    }

    /// Every pod with its status, sorted by namespace and name; a new value at each change.
    pub fn pods(&self) -> watch::Receiver<Views> {
        self.inner.board.subscribe()
    }

    /// All that should be, with what is wrong with it.
    pub fn desired(&self) -> watch::Receiver<Arc<DesiredSet>> {
        self.inner.sets.clone()
    }

    /// Every workload with its status, those that cron jobs made among them.
    pub fn workloads(&self) -> std::collections::BTreeMap<ObjectKey, Arc<WorkloadView>> {
        self.inner.board.workloads()
    }

    /// Changes whenever a workload's view does.
    pub fn workload_changes(&self) -> watch::Receiver<u64> {
        self.inner.board.workload_changes()
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
    memories: Memories,
    drain: Drain,
    found: Vec<manager::Found>,
}

fn open(settings: &Settings, metrics: &Registry) -> Result<Opened, Error> {
    let store = start::open_store(settings)?;
    let events = Events::open(settings.root.join("events")).map_err(Error::failed("open the events"))?;
    let machine = start::machine(settings, metrics, store, events.sender())?;
    let desired = Desired::open(&settings.root.join(DESIRED)).map_err(Error::failed("read what was applied"))?;
    let memories =
        Memories::open(settings.root.join(WORKLOADS)).map_err(Error::failed("read what is remembered of workloads"))?;
    let drain = Drain::open(settings.root.join(DRAINED));
    let found = start::found(&machine)?;
    Ok(Opened { machine, events, desired, memories, drain, found })
}

/// Begins to take pods from the API server, where that is set.
async fn follow_cluster(
    settings: &Settings,
    machine: &Machine,
    report: watch::Receiver<Option<NodeReportStatus>>,
    events: &Events,
) -> Result<Option<Kubernetes>, Error> {
    let Some(cluster) = &settings.kubernetes else { return Ok(None) };
    let options = kubernetes::Options {
        kubeconfig: cluster.kubeconfig.clone(),
        node: machine.node.clone(),
        accepted: settings.root.join("kubernetes/accepted.json"),
        namespace: cluster.namespace.clone(),
        report,
        events: events.news(),
    };
    let source = Kubernetes::watch(options).await;
    source.map(Some).map_err(Error::failed("read what the cluster wanted of this node"))
}

/// What is done once every source has told all that it wants: what earlier agents left half done goes.
async fn recover(
    machine: Arc<Machine>,
    root: std::path::PathBuf,
    readiness: watch::Sender<Readiness>,
    mut synced: watch::Receiver<bool>,
    board: Board,
) {
    if synced.wait_for(|synced| *synced).await.is_err() {
        return;
    }
    if tokio::time::timeout(ADOPTION, board.all_seen()).await.is_err() {
        tracing::warn!("not every pod that was there could be looked at; the node is ready without");
    }
    readiness.send_replace(Readiness { ready: true, reason: String::new() });
    let tidied = tokio::task::spawn_blocking(move || tidy(&machine, &root)).await;
    if let Err(error) = tidied {
        tracing::error!(%error, "tidying up failed");
    }
}

fn tidy(machine: &Machine, root: &Path) {
    if let Err(error) = machine.store.empty_staging_and_trash() {
        tracing::warn!(error = %chain(&error), "cannot empty staging and trash");
    }
    objects::release_orphans(machine);
    machine.claims.tidy();
    match machine.network.sync(|uid| machine.dir(uid).exists()) {
        Ok(problems) => {
            for (pod, error) in problems {
                let message = format!("the pod's network is not as it was made: {}", chain(&error));
                let (namespace, name) = pod.split_once('/').unwrap_or(("", &pod));
                let (namespace, name) = (namespace.to_owned(), name.to_owned());
                let object = ObjectKey { kind: Kind::Pod, namespace, name };
                // Nobody hears of it when the agent ends.
                let _ = machine.events.send(Event::new(object, Reason::Failed, message, Timestamp::now()));
            }
        }
        Err(error) => {
            tracing::warn!(error = %chain(&error), "the network of pods is not as it should be");
        }
    }
    machine.remove_unused_cgroup();
    start::remove_old_builds(machine, root);
}
