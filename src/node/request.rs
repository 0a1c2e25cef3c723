//! What the server asks of the node, and what the node answers: plain values.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::session::Attach;
use crate::api::ObjectKey;
use crate::source::desired::Applied;

/// A container by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRef {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name; `None` means the only one, or the first.
    pub container: Option<String>,
}

/// How to apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApplyOptions {
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// Remove objects that an earlier apply wrote and this one does not name.
    pub prune: bool,
}

/// What one apply or delete did, object by object, in the order of the documents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApplyReport {
    /// One row an object.
    pub objects: Vec<(ObjectKey, Applied)>,
}

/// How to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeleteOptions {
    /// Instead of each pod's own grace period.
    pub grace: Option<Duration>,
    /// Answer only when its pods are gone.
    pub wait: bool,
}

/// A one-off pod.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// The whole pod, as a manifest would have it; one container is connected: the first.
    pub pod: Pod,
    /// What the client wants to be connected to; nothing: it runs by itself.
    pub attach: Attach,
    /// Remove the pod when it ends or the session is dropped.
    pub remove: bool,
}

/// A command in a running container.
#[derive(Debug, Clone)]
pub struct ExecRequest {
    /// Where.
    pub target: ContainerRef,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// What the client wants to be connected to.
    pub attach: Attach,
}

/// A collection by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GcRequest {
    /// Say what would go, and remove nothing.
    pub dry_run: bool,
    /// Instead of `--gc-grace`.
    pub grace: Option<Duration>,
}

/// Where the logs of a container lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPath {
    /// `<log-dir>/<namespace>_<name>_<uid>/<container>`.
    pub directory: PathBuf,
    /// The newest attempt: its file is `<attempt>.log`, older attempts have lower numbers.
    pub attempt: u32,
    /// Whether that attempt still runs, so that following makes sense.
    pub running: bool,
}

/// Whether the agent is up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Readiness {
    /// Every source has synced and every running shim is adopted.
    pub ready: bool,
    /// What is waited for, when it is not.
    pub reason: String,
}

impl Readiness {
    /// Not ready, for a reason.
    pub(super) fn waiting(reason: &str) -> Self {
        Self { ready: false, reason: reason.to_owned() }
    }
}
