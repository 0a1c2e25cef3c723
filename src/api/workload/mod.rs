//! Workloads as the pods they stand for: pure functions of the object, what is remembered of it, and what was observed.
//!
//! ```text
//!   object ─┐                      ┌─▶ pods (rolling: Deployment, DaemonSet · stateful · job, index)
//!   memory ─┼─▶ expand / cron::runs ┼─▶ jobs (CronJob)
//!   pods   ─┘      at a time        └─▶ status, memory to keep, images to hold, when to ask again
//! ```
//!
//! Pods are named `<workload>-<ordinal>`. A pod that is kept by the rolling rule, or that is done, comes back as it was
//! accepted, so that comparing it with what runs finds no change. What the pods cannot tell is in [`Memory`], which is
//! kept on disk: revisions, how a job ended, when a schedule was last met.

mod condition;
pub mod cron;
mod index;
mod job;
mod memory;
mod rolling;
pub mod schedule;
mod settled;
mod stateful;
pub mod status;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::document::{Kind, Object, ObjectKey};
pub use index::parse as indexes;
pub use memory::{CronMemory, JobMemory, Memory, Progress, Revision, Run};
pub use settled::{Settled, settled};
pub use stateful::{claims, ordinals};

/// Which workload wants a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// The workload; its namespace is the pod's.
    pub kind: Kind,
    /// The workload's name.
    pub name: String,
    /// Which of its pods this is, from 0.
    pub ordinal: u32,
    /// Of an indexed job: which completion it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
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
    pub pod: Arc<Pod>,
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
    /// Of an indexed job: which completion it is for.
    pub index: Option<u32>,
    /// The containers that ended, and their statuses.
    pub exits: Vec<(String, i32)>,
    /// Its conditions: type and status.
    pub conditions: Vec<(String, String)>,
    /// The images that it runs: digests of their manifests.
    pub images: BTreeSet<String>,
}

/// A pod that a workload wants.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Which workload, and which of its pods.
    pub owner: Owner,
    /// The pod, named and in its namespace.
    pub pod: Arc<Pod>,
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
    /// The number of the template that is rolled out, or is to be.
    #[serde(default)]
    pub revision: u64,
    /// What holds of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Of a job: when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// Of a job: when it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
    /// Of an indexed job: the completions that it has, as in `0-2,5`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_indexes: Option<String>,
    /// Of an indexed job: the completions that failed for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_indexes: Option<String>,
    /// Of a cron job: the jobs that are active.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub active: Vec<String>,
    /// Of a cron job: the time for which it made a job last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule: Option<Timestamp>,
    /// Of a cron job: when one of its jobs ended well, last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<Timestamp>,
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
    /// What to remember of it, and to give back next time.
    pub memory: Memory,
    /// Images to hold though no pod may need them now: digests of their manifests.
    pub holds: BTreeSet<String>,
}

/// The pods that a workload stands for; none for anything else. `observed` are the pods that it has now, in any order;
/// one that is being stopped counts as long as it is there.
pub fn expand(object: &Object, observed: &[Observed], memory: &Memory, now: Timestamp) -> Expansion {
    match object {
        Object::Deployment(d) => rolling::deployment(d, observed, memory, now),
        Object::DaemonSet(d) => rolling::daemon_set(d, observed, memory, now),
        Object::StatefulSet(s) => stateful::expand(s, observed, memory, now),
        Object::Job(j) => job::expand(j, observed, memory, now),
        _ => Expansion { memory: memory.clone(), ..Expansion::default() },
    }
}

/// Which object a pod's owner is.
pub fn owner_key(owner: &Owner, namespace: &str) -> ObjectKey {
    ObjectKey { kind: owner.kind, namespace: namespace.to_owned(), name: owner.name.clone() }
}

/// The pod that a template makes: named after the workload, in its namespace, with the template's labels.
fn instantiate(meta: &ObjectMeta, template: &PodTemplateSpec, ordinal: u32) -> Pod {
    let own = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            name: Some(format!("{}-{ordinal}", meta.name.as_deref().unwrap_or_default())),
            namespace: meta.namespace.clone(),
            labels: own.labels,
            annotations: own.annotations,
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Whether a pod counts as available: ready for as long as it has to be.
fn is_available(pod: &Observed, min_ready: SignedDuration, now: Timestamp) -> bool {
    pod.phase == Phase::Running
        && pod.ready_since.is_some_and(|since| {
            // Ready since a time to come: the clock was set back, and says nothing.
            since > now || after(since, min_ready) <= now
        })
}

/// A number or a part of `of`, as `maxUnavailable` has it: parts are rounded up or down.
fn part(value: &IntOrString, of: u32, up: bool) -> u32 {
    match value {
        IntOrString::Int(n) => u32::try_from(*n).unwrap_or(0),
        IntOrString::String(text) => {
            let percent: u64 = text.strip_suffix('%').and_then(|n| n.parse().ok()).unwrap_or(0);
            let exact = percent.saturating_mul(u64::from(of));
            let whole = if up { exact.div_ceil(100) } else { exact / 100 };
            u32::try_from(whole).unwrap_or(u32::MAX)
        }
    }
}

/// A count that validation has seen.
fn count(given: Option<i32>, default: u32) -> u32 {
    given.map_or(default, |n| u32::try_from(n).unwrap_or(0))
}

fn seconds(given: Option<i64>) -> SignedDuration {
    SignedDuration::from_secs(given.unwrap_or(0).max(0))
}

/// A time plus a span, at most the end of time.
fn after(start: Timestamp, span: SignedDuration) -> Timestamp {
    start.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// The earlier of two times, where there are any.
fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
