//! Deployment, DaemonSet and Job as the pods they stand for: pure functions of the object and what was observed.
//!
//! Pods are named `<workload>-<ordinal>`. A pod that is kept by the rolling rule, or that is done, comes back as it was
//! accepted, so that comparing it with what runs finds no change.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use super::document::{Kind, Object, ObjectKey};

/// Which workload wants a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// The workload; its namespace is the pod's.
    pub kind: Kind,
    /// The workload's name.
    pub name: String,
    /// Which of its pods this is, from 0.
    pub ordinal: u32,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// How far a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Not all its containers have started yet.
    Pending,
    /// It runs.
    Running,
    /// All its containers ended well, and none will start again.
    Succeeded,
    /// All its containers ended, one of them badly, and none will start again.
    Failed,
}

/// A pod of a workload, as observed.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Which of the workload's pods this is.
    pub ordinal: u32,
    /// Its accepted manifest (pod.json).
    pub pod: Pod,
    /// How far it is.
    pub phase: Phase,
    /// Since when all its containers are ready; nothing if they are not.
    pub ready_since: Option<Timestamp>,
    /// When it was accepted.
    pub created: Timestamp,
    /// When it came to its end, if it did.
    pub finished: Option<Timestamp>,
    /// Restarts of its containers, all together.
    pub restarts: u32,
}

/// A pod that a workload wants.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Which workload, and which of its pods.
    pub owner: Owner,
    /// The pod, named and in its namespace.
    pub pod: Pod,
}

/// Why a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobEnd {
    /// It has its completions.
    Complete,
    /// It gave up: one word for programs and one sentence for people.
    Failed(String, String),
}

/// Counters of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// How many pods it wants; for a job its completions.
    pub desired: u32,
    /// How many run.
    pub current: u32,
    /// How many are ready.
    pub ready: u32,
    /// How many have been ready for `minReadySeconds`.
    pub available: u32,
    /// How many are of the newest template.
    pub updated: u32,
    /// Of a job: pods that ended well.
    pub succeeded: u32,
    /// Of a job: pods (and restarts within pods) that ended badly.
    pub failed: u32,
    /// Of a job: how it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<JobEnd>,
}

/// The pods of a workload for now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Expansion {
    /// The pods; an observed one that is not among them goes.
    pub pods: Vec<Wanted>,
    /// Its counters.
    pub status: WorkloadStatus,
    /// When to ask again even if nothing changes (a deadline, a backoff, `minReadySeconds`).
    pub wake: Option<Timestamp>,
    /// `ttlSecondsAfterFinished` has passed: the workload itself may be forgotten.
    pub expired: bool,
}

/// The pods that an object stands for: the pod itself, those of a workload, none for anything else.
pub fn expand(object: &Object, observed: &[Observed], now: Timestamp) -> Expansion {
    let _ = (object.key(), observed, now);
    Expansion::default()
}

/// Which object a pod's owner is.
pub fn owner_key(owner: &Owner, namespace: &str) -> ObjectKey {
    ObjectKey { kind: owner.kind, namespace: namespace.to_owned(), name: owner.name.clone() }
}
