//! The node: joins sources to one worker a pod, and owns what no single pod does: collection, events, recovery.
//!
//! [`Node`] is the handle that the server and tests hold; it is cheap to clone and every clone is the same node.

#![expect(clippy::unused_async, reason = "the signatures land before the bodies")]
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use crate::metrics::Registry;

mod error;
mod request;
mod session;
mod settings;

pub use error::Error;
pub use request::{
    Applied, ApplyOptions, ApplyReport, ContainerRef, DeleteOptions, ExecRequest, GcRequest, LogPath, ObjectRef,
    Readiness, RunRequest,
};
pub use session::{Attach, ProcessExit, Session, Streams};
pub use settings::{Settings, StoreDriver};

/// What the node publishes of one pod; becomes `api::view::PodView`.
pub type PodView = Pod;

/// A running node.
#[derive(Debug, Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    metrics: Registry,
    pods: watch::Sender<Arc<Vec<Arc<PodView>>>>,
    readiness: watch::Sender<Readiness>,
}

impl Node {
    /// Opens the store, adopts what runs, starts sources and workers, and returns once all of that is under way;
    /// [`Node::readiness`] tells when every source has synced.
    ///
    /// # Errors
    /// If another agent holds the store, or the node cannot run at all.
    pub async fn start(settings: Settings, metrics: Registry) -> Result<Self, Error> {
        let (pods, _) = watch::channel(Arc::new(Vec::new()));
        let (readiness, _) = watch::channel(Readiness::default());
        Ok(Self { inner: Arc::new(Inner { settings, metrics, pods, readiness }) })
    }

    /// Stops sources and workers and releases the store; pods go on running.
    pub async fn shutdown(&self) {}

    /// The settings it was started with.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// The registry that its metrics are in.
    pub fn metrics(&self) -> &Registry {
        &self.inner.metrics
    }

    /// Whether every source has synced and every shim is adopted.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.inner.readiness.subscribe()
    }

    /// Every pod with its status, sorted by namespace and name; a new value at each change.
    pub fn pods(&self) -> watch::Receiver<Arc<Vec<Arc<PodView>>>> {
        self.inner.pods.subscribe()
    }

    /// Adds or changes desired objects from the text of manifests (`name` is what errors call it).
    ///
    /// # Errors
    /// If a document is invalid (nothing is then applied) or cannot be kept.
    pub async fn apply(&self, name: &str, text: &[u8], options: ApplyOptions) -> Result<ApplyReport, Error> {
        let _ = (name, text, options);
        Ok(ApplyReport::default())
    }

    /// Removes a desired object.
    ///
    /// # Errors
    /// If it is not there, or comes from a manifests directory.
    pub async fn delete(&self, target: &ObjectRef, options: DeleteOptions) -> Result<ApplyReport, Error> {
        let _ = options;
        Err(Error::NotFound { kind: "object", name: target.name.clone() })
    }

    /// Runs a one-off pod.
    ///
    /// # Errors
    /// If the pod is invalid, or cannot be started.
    pub async fn run(&self, request: RunRequest) -> Result<Session, Error> {
        Err(Error::Invalid { problems: vec![format!("{:?}", request.attach)] })
    }

    /// Runs a command in a running container.
    ///
    /// # Errors
    /// If there is no such container, or the command does not start.
    pub async fn exec(&self, request: ExecRequest) -> Result<Session, Error> {
        Err(Error::NotFound { kind: "pod", name: request.target.pod })
    }

    /// Connects to a running container's own process.
    ///
    /// # Errors
    /// If there is no such container.
    pub async fn attach(&self, target: &ContainerRef, attach: Attach) -> Result<Session, Error> {
        let _ = attach;
        Err(Error::NotFound { kind: "pod", name: target.pod.clone() })
    }

    /// Where a container's logs are.
    ///
    /// # Errors
    /// If there is no such container.
    pub fn log_path(&self, target: &ContainerRef) -> Result<LogPath, Error> {
        Err(Error::NotFound { kind: "pod", name: target.pod.clone() })
    }
}
