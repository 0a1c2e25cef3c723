//! The API server of a cluster as a source: the NodeWorkloads that the node's NodeReport assigns to it, as pods, with the
//! ConfigMaps and Secrets that they name.
//!
//! ```text
//!  watch: NodeWorkloads ────────┐
//!  watch: the own NodeReport ───┼─▶ one task: known ─▶ accepted set on disk ─▶ DesiredSet
//!  watch: each named ConfigMap, │        └─▶ revisions that it lacks are read
//!         each named Secret ────┘
//! written: the own NodeReport's status (`report`), the node's Lease (`lease`), events (`events`)
//! ```
//!
//! Nothing that an interruption hides counts as gone: a watch that breaks is begun anew with backoff and jitter, and what
//! is not in a list counts once that list is complete. Every watch lives for up to 290 s, so each costs the API server
//! about 0.2 requests a minute.

pub mod accepted;
pub mod access;
pub mod client;
pub mod events;
mod known;
pub mod lease;
mod listed;
mod references;
pub mod report;
mod tokens;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::runtime::watcher::Event as Change;
use tokio::sync::{broadcast, mpsc, watch as channel};
use tokio_util::task::AbortOnDropHandle;

use self::client::Refusals;
use self::known::Known;
use self::watch::{Told, Watches};
use super::DesiredSet;
use crate::api::Event;
use crate::api::cluster::NodeReportStatus;
use crate::api::problem::chain;

pub use self::client::connect;
pub use self::known::PLACE;
pub use self::listed::Listed;

/// How many things the watches may be ahead.
const AHEAD: usize = 256;
/// Changes that come closer than this are taken together.
const TOGETHER: Duration = Duration::from_millis(50);
/// The longest that a change waits for others.
const AT_MOST: Duration = Duration::from_millis(500);
/// After how long the credentials are read anew while the API server is away.
const RENEW: Duration = Duration::from_mins(1);
/// What stands for the credentials among the kinds that cannot be followed.
const CREDENTIALS: &str = "credentials";
/// How long to wait before the credentials are read again when they cannot be.
const AGAIN: Duration = Duration::from_secs(10);

/// Which API server, and for which node.
#[derive(Debug, Clone)]
pub struct Options {
    /// The kubeconfig; the service account of the pod when `None`.
    pub kubeconfig: Option<PathBuf>,
    /// The node's name in the cluster.
    pub node: String,
    /// Where the accepted set is kept.
    pub accepted: PathBuf,
    /// The namespace of the node's Lease.
    pub namespace: String,
    /// What the cluster is told of the node; `None` while that is not known.
    pub report: channel::Receiver<Option<NodeReportStatus>>,
    /// What happens on the node.
    pub events: broadcast::Sender<Event>,
}

/// Whether the API server is heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Since when it is not; `None` while it is.
    pub away: Option<Instant>,
    /// Why.
    pub reason: String,
}

/// The source; it ends when this is dropped.
#[derive(Debug)]
pub struct Kubernetes {
    set: channel::Receiver<Arc<DesiredSet>>,
    link: channel::Receiver<Link>,
    _task: AbortOnDropHandle<()>,
}

impl Kubernetes {
    /// Starts to watch. What was accepted before is there at once. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the accepted set is there and cannot be read: what runs would be taken for unwanted.
    pub async fn watch(options: Options) -> Result<Self, accepted::Error> {
        let path = options.accepted.clone();
        let read = tokio::task::spawn_blocking(move || accepted::read(&path)).await;
        let kept = read.map_err(|lost| accepted::Error::Read {
            path: options.accepted.clone(),
            source: io::Error::other(lost),
        })??;
        let known = Known::new(kept.clone());
        let (publish, set) = channel::channel(Arc::new(known.desired()));
        let lost: BTreeMap<String, String> =
            watch::KINDS.map(|kind| (kind.to_owned(), "not heard yet".to_owned())).into();
        let away = Link { away: Some(Instant::now()), reason: "not heard yet".to_owned() };
        let (tell, link) = channel::channel(away);
        let task = Task {
            options,
            known,
            kept,
            publish,
            lost,
            link: tell,
            overwritten: channel::channel(0).0,
            uids: channel::channel(events::Workloads::new()).0,
        };
        Ok(Self { set, link, _task: AbortOnDropHandle::new(tokio::spawn(task.run())) })
    }

    /// What should be, newest always.
    pub fn subscribe(&self) -> channel::Receiver<Arc<DesiredSet>> {
        self.set.clone()
    }

    /// Whether the API server is heard.
    pub fn link(&self) -> channel::Receiver<Link> {
        self.link.clone()
    }
}

struct Task {
    options: Options,
    known: Known,
    /// What is on disk.
    kept: accepted::Set,
    publish: channel::Sender<Arc<DesiredSet>>,
    /// What cannot be followed, and why.
    lost: BTreeMap<String, String>,
    link: channel::Sender<Link>,
    /// Counts how often the controller took the agent for silent.
    overwritten: channel::Sender<u64>,
    /// The workloads that the node runs.
    uids: channel::Sender<events::Workloads>,
}

impl Task {
    async fn run(mut self) {
        loop {
            let refusals = Refusals::default();
            match client::connect_telling(self.options.kubeconfig.as_deref(), &refusals).await {
                Ok(client) => {
                    self.lost.remove(CREDENTIALS);
                    self.follow(client, &refusals).await;
                }
                Err(error) => {
                    self.lost(CREDENTIALS.to_owned(), chain(&error));
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Follows the cluster until the credentials should be read anew.
    async fn follow(&mut self, client: kube::Client, refusals: &Refusals) {
        let begun = tokio::time::Instant::now();
        // Those that it has may have been replaced, or be about to be.
        let mut refused = pin!(async {
            refusals.next().await;
            tokio::time::sleep_until(begun + AGAIN).await;
        });
        let (tell, mut told) = mpsc::channel(AHEAD);
        let mut watches = Watches::new(client.clone(), self.options.node.clone(), tell);
        watches.follow(self.known.references());
        watches.keep(self.known.tokens());
        let (node, namespace) = (self.options.node.clone(), self.options.namespace.clone());
        let _telling = [
            AbortOnDropHandle::new(tokio::spawn(report::write(
                client.clone(),
                node.clone(),
                self.options.report.clone(),
                self.overwritten.subscribe(),
            ))),
            AbortOnDropHandle::new(tokio::spawn(lease::renew(client.clone(), namespace, node.clone()))),
            AbortOnDropHandle::new(tokio::spawn(events::write(
                client,
                node,
                self.options.events.subscribe(),
                self.uids.subscribe(),
            ))),
        ];
        loop {
            let away = self.link.borrow().away.is_some();
            let first = tokio::select! {
                first = told.recv() => first,
                // Certificates may have been replaced.
                () = tokio::time::sleep_until(begun + RENEW), if away => return,
                () = &mut refused => {
                    tracing::info!("the API server does not take the credentials; they are read anew");
                    return;
                }
            };
            let Some(first) = first else { return };
            self.take(first);
            let burst = Instant::now();
            // What comes in a burst is looked at once: of a thousand changes to one object, the last counts.
            while burst.elapsed() < AT_MOST
                && let Ok(Some(next)) = tokio::time::timeout(TOGETHER, told.recv()).await
            {
                self.take(next);
            }
            watches.read(self.known.settle());
            watches.follow(self.known.references());
            watches.keep(self.known.tokens());
            self.keep().await;
            self.uids.send_if_modified(|old| {
                let uids = self.known.uids();
                let changed = *old != uids;
                *old = uids;
                changed
            });
            let next = Arc::new(self.known.desired());
            self.publish.send_if_modified(|old| {
                let changed = **old != *next;
                if changed {
                    *old = next;
                }
                changed
            });
        }
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Workload(event) => self.known.workloads.take(event, watch::workload),
            Told::Report(event) => {
                if let Change::Apply(report) | Change::InitApply(report) = &event
                    && watch::is_silent(report)
                {
                    self.overwritten.send_modify(|times| *times += 1);
                }
                self.known.assignments.take(event, watch::assignments);
            }
            Told::Revision { workload, revision, template } => self.known.revision(workload, revision, template),
            Told::Level { workload, revision, level } => self.known.level(workload, revision, level),
            Told::Object { reference, found } => self.known.object(reference, found),
            Told::Token { token, found } => self.known.token(token, found),
            Told::Heard(kind) => self.heard(&kind),
            Told::Lost { kind, reason } => self.lost(kind, reason),
        }
    }

    /// One kind is heard; the API server is when all are.
    fn heard(&mut self, kind: &str) {
        self.lost.remove(kind);
        let left = self.lost.values().next().cloned();
        self.link.send_if_modified(|link| match left {
            Some(reason) => std::mem::replace(&mut link.reason, reason.clone()) != reason,
            None if link.away.is_some() => {
                tracing::info!("the API server is heard");
                *link = Link { away: None, reason: String::new() };
                true
            }
            None => false,
        });
    }

    fn lost(&mut self, kind: String, reason: String) {
        self.link.send_if_modified(|link| {
            let changed = link.reason != reason;
            if changed {
                tracing::warn!(reason, "the API server cannot be followed; what runs goes on");
                *link = Link { away: link.away.or_else(|| Some(Instant::now())), reason: reason.clone() };
            }
            changed
        });
        self.lost.insert(kind, reason);
    }

    /// Writes the accepted set down if it has changed; before it is published, so that what runs is known after a reboot.
    async fn keep(&mut self) {
        let set = self.known.set();
        if set == self.kept {
            return;
        }
        let (path, copy) = (self.options.accepted.clone(), set.clone());
        match tokio::task::spawn_blocking(move || accepted::write(&path, &copy)).await {
            Ok(Ok(())) => self.kept = set,
            Ok(Err(error)) => {
                tracing::error!(error = chain(&error), "what the node runs would not be known after a reboot");
            }
            Err(_) => {}
        }
    }
}
