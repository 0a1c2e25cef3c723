//! Deployment, DaemonSet and Job as the pods they stand for: pure functions of the object and what was observed.
//!
//! Pods are named `<workload>-<ordinal>`. A pod that is kept by the rolling rule, or that is done, comes back as it was
//! accepted, so that comparing it with what runs finds no change.

mod job;
mod rolling;

#[cfg(test)]
mod tests;

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
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

/// The pods that an object stands for: the pod itself, those of a workload, none for anything else. `observed` are the
/// pods that this workload has now, in any order; one that is being stopped counts as long as it is there.
pub fn expand(object: &Object, observed: &[Observed], now: Timestamp) -> Expansion {
    match object {
        Object::Deployment(d) => {
            let spec = &d.spec;
            let recreate = spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate");
            rolling::expand(
                &rolling::Rolling {
                    kind: Kind::Deployment,
                    meta: &d.metadata,
                    template: &spec.template,
                    replicas: count(spec.replicas, 1),
                    min_ready: seconds(spec.min_ready_seconds.map(i64::from)),
                    paused: spec.paused == Some(true),
                    at_once: recreate,
                },
                observed,
                now,
            )
        }
        Object::DaemonSet(d) => rolling::expand(
            &rolling::Rolling {
                kind: Kind::DaemonSet,
                meta: &d.metadata,
                template: &d.spec.template,
                replicas: 1,
                min_ready: seconds(d.spec.min_ready_seconds.map(i64::from)),
                paused: false,
                at_once: false,
            },
            observed,
            now,
        ),
        Object::Job(j) => job::expand(j, observed, now),
        Object::Pod(_) | Object::ConfigMap(_) | Object::Secret(_) | Object::Ignored(_) => Expansion::default(),
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
