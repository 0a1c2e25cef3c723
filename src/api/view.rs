//! What the node shows of a pod: the Kubernetes object with its status, and what Kubernetes has no word for.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde::{Deserialize, Serialize};

use super::document::{Object, ObjectKey};
use super::ids::{PodKey, PodUid};
use super::workload::{Owner, WorkloadStatus};

/// One pod as the node publishes it. Serialises as the Pod, with everything else under `lamina`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodView {
    /// Metadata, spec and status.
    #[serde(flatten)]
    pub pod: Pod,
    /// What Kubernetes has no word for.
    pub lamina: Extras,
}

/// What Lamina knows of a pod beyond Kubernetes' status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Extras {
    /// Its uid.
    pub uid: PodUid,
    /// Where its manifest is from: `manifests`, `desired`.
    pub source: String,
    /// The file of its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The workload that wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Fields of its manifest that do nothing here, on purpose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
    /// Its containers.
    pub containers: Vec<ContainerExtras>,
    /// The pid of its shim, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shim: Option<u32>,
}

/// What Lamina knows of a container beyond Kubernetes' status.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerExtras {
    /// Its name.
    pub name: String,
    /// Which start of it this is, from 0.
    pub attempt: u32,
    /// Its first process's pid on the host, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The digest of the manifest of its image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// Keys of its image's layers, lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// Its cgroup below each hierarchy's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// What is written on top of its image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper: Option<PathBuf>,
    /// The host's id of its user 0, where it is in a user namespace of its pod's; else 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub first_id: u32,
    /// When it may start again, while it waits for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_start: Option<Timestamp>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// One workload as the node publishes it.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadView {
    /// As it is declared, or as its cron job made it.
    pub object: Arc<Object>,
    /// How it is.
    pub status: WorkloadStatus,
    /// Since when it is known.
    pub since: Option<Timestamp>,
    /// Where it is from: `manifests`, `desired`.
    pub source: &'static str,
    /// The file that declares it, or its cron job.
    pub file: PathBuf,
    /// Fields of its manifest that do nothing here, on purpose.
    pub ignored: Vec<String>,
    /// The cron job that made it.
    pub controller: Option<ObjectKey>,
}

/// How many users a pod has in a namespace of its own: all that 16 bits can name, as Kubernetes gives.
pub const OWN_USERS: u32 = 65_536;

/// Whether a pod has a user namespace of its own (`hostUsers: false`).
pub fn has_own_users(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_users) == Some(false)
}

impl PodView {
    /// The statuses of its containers: the main ones, then those that come before them.
    pub fn statuses(&self) -> impl Iterator<Item = &ContainerStatus> {
        let lists =
            self.pod.status.as_ref().map(|s| [s.container_statuses.as_ref(), s.init_container_statuses.as_ref()]);
        lists.into_iter().flatten().flatten().flatten()
    }

    /// The status of one container.
    pub fn status_of(&self, container: &str) -> Option<&ContainerStatus> {
        self.statuses().find(|s| s.name == container)
    }

    /// Its namespace and name.
    pub fn key(&self) -> PodKey {
        PodKey::of(&self.pod.metadata)
    }
}
