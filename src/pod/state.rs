//! What is known of one pod: what was accepted (kept on disk), and what is seen of it now.
//!
//! ```text
//!   desired ──Accept──▶ record (uid) ──Amend──▶ record with newer generations ──Doom──▶ record that ends
//!                          │                                                               │
//!                          └── sandbox ── container ── attempt 1, 2, 3 …                   └─▶ nothing left
//! ```
//!
//! A *generation* numbers the versions of one container's specification within a pod, so that "does this attempt run
//! what the record says?" is a comparison of two numbers and survives a crash between any two steps.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use super::backoff::Tick;
use crate::api::ids::PodUid;

/// What one pod was accepted as; the content of `pods/<uid>/pod.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this file's form.
    pub version: u32,
    /// Made when the pod was accepted.
    pub uid: PodUid,
    /// Where it comes from; another origin is another pod.
    pub origin: Origin,
    /// The pod as accepted last, in canonical form.
    pub pod: Pod,
    /// When it was accepted, for show.
    pub created: jiff::Timestamp,
    /// Each container's generation and that of its resources.
    pub containers: BTreeMap<String, Generations>,
    /// Set once the pod is over before its time; its containers are stopped and not started again.
    pub ended: Option<Ended>,
    /// Set once the pod is to go; nothing takes that back: what is wanted under its name later is another pod.
    pub doomed: Option<Doom>,
}

/// The form of [`Record`] that this build writes.
pub const RECORD_VERSION: u32 = 1;

/// Versions within one pod of a container's specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Generations {
    /// What only a new attempt can take on.
    pub spec: u32,
    /// What a running attempt can take on: its resources.
    pub resources: u32,
}

/// Why a pod was ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// A word, as Kubernetes has them: `DeadlineExceeded`, `Evicted`.
    pub reason: String,
    /// For a person.
    pub message: String,
}

/// How a pod is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doom {
    /// Instead of the pod's own grace period.
    pub grace: Option<Duration>,
    /// When that was decided, for show.
    pub since: jiff::Timestamp,
}

/// Where a pod comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Origin {
    /// The kind of source.
    pub source: Source,
    /// The file that declares it, where there is one.
    pub file: Option<String>,
    /// The workload whose template made it.
    pub workload: Option<crate::api::workload::Owner>,
}

/// The kinds of source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A manifests directory.
    Directory,
    /// `lamina apply`.
    Desired,
    /// `lamina run`; the record itself is the only declaration.
    Run,
    /// As [`Source::Run`], and it goes with its client: nothing of it outlasts a restart of the agent.
    RunOnce,
}

impl Source {
    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Directory => "manifests",
            Self::Desired => "desired",
            Self::Run | Self::RunOnce => "run",
        }
    }

    /// Whether the pod must be known again after a power cut.
    pub const fn durable(self) -> bool {
        !matches!(self, Self::Run | Self::RunOnce)
    }
}

/// Everything seen of a pod.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observed {
    /// What was accepted; `None`: there is no such pod here.
    pub record: Option<Record>,
    /// Its shim.
    pub sandbox: Sandbox,
    /// Its containers, also those that the record names no more but of which something is left.
    pub containers: BTreeMap<String, Observation>,
    /// The content of its ConfigMap and Secret volumes that is mounted now.
    pub config: Option<u64>,
    /// When its sandbox was made first.
    pub started: Option<Tick>,
    /// Whether it holds any image.
    pub holds: bool,
    /// The last failure to make the sandbox.
    pub failure: Option<Failure>,
}

/// A pod's shim and what it owns: namespaces, cgroup, mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sandbox {
    /// None, and nothing left of one.
    #[default]
    Down,
    /// Connected.
    Up,
    /// Gone or deaf; its containers may still run.
    Lost,
}

/// What is seen of one container.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observation {
    /// The newest attempt.
    pub attempt: Option<Attempt>,
    /// The one before it, for show.
    pub previous: Option<Attempt>,
    /// How many older attempts are still on disk.
    pub older: u32,
    /// The generations of its image refs, besides the current one.
    pub stale_refs: bool,
    /// Its image, for the next attempt.
    pub image: Image,
    /// The stop under way.
    pub stop: Option<Stop>,
    /// The last failure to start it.
    pub failure: Option<Failure>,
}

impl Observation {
    /// Whether a process of it runs.
    pub fn running(&self) -> bool {
        self.attempt.as_ref().is_some_and(|a| a.exit.is_none())
    }

    /// The number that the next attempt gets.
    pub fn next_attempt(&self) -> u32 {
        self.attempt.as_ref().map_or(0, |a| a.number + 1)
    }
}

/// One start of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Counts from 0; the number of restarts.
    pub number: u32,
    /// What it was started from.
    pub generations: Generations,
    /// How many ended starts before it count for the wait (see [`super::backoff`]).
    pub level: u32,
    /// When it started.
    #[serde(skip)]
    pub started: Tick,
    /// The same, for show.
    pub started_at: jiff::Timestamp,
    /// The digest of its image's manifest.
    pub image: String,
    /// The keys of its image's layers, lowest first.
    #[serde(default)]
    pub layers: Vec<String>,
    /// Why it ended, where its exit status does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<AttemptFailure>,
    /// Its first process, as the host sees it, while it runs.
    #[serde(skip)]
    pub pid: Option<u32>,
    /// How it ended.
    #[serde(skip)]
    pub exit: Option<Exit>,
}

/// Why an attempt ended that did not come to run, or of whose end nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptFailure {
    /// A word, as Kubernetes has them.
    pub reason: String,
    /// For a person.
    pub message: String,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Its status; 128 + the signal if one ended it.
    pub code: i32,
    /// The signal.
    pub signal: Option<i32>,
    /// A word, as Kubernetes has them: `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    /// What more there is to say, as why it could not be started.
    pub message: Option<String>,
    /// When, for waits.
    pub finished: Tick,
    /// When, for show.
    pub finished_at: jiff::Timestamp,
}

/// The image of a container's next attempt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Image {
    /// Not asked for.
    #[default]
    Unknown,
    /// Being resolved or fetched.
    Fetching,
    /// Here, and held.
    Here {
        /// For this version of the container.
        generation: u32,
        /// For this attempt (with policy `Always` a tag is resolved for each).
        attempt: u32,
    },
}

/// A stop under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// When its grace ends.
    pub deadline: Tick,
    /// When it was last killed, if it came to that.
    pub killed: Option<Tick>,
}

/// A step that failed, and when it may be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How many times in a row.
    pub count: u32,
    /// When, last.
    pub at: Tick,
    /// Whether and when to try again.
    pub retry: Retry,
    /// A word, as Kubernetes has them: `ErrImagePull`, `CreateContainerConfigError`, …
    pub reason: &'static str,
    /// For a person: the object, the cause, the way out.
    pub message: String,
}

/// By class of error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Trying again cannot help while the pod is as it is.
    Never,
    /// After a wait that grows.
    Backoff,
    /// When what it depends on has changed.
    OnChange,
}

impl Record {
    /// Takes on a changed specification: `containers` get a new generation, as do the resources of `resources`.
    pub fn amend(&mut self, pod: &Pod, origin: &Origin, containers: &[String], resources: &[String]) {
        self.pod = pod.clone();
        self.origin = origin.clone();
        let mut next = BTreeMap::new();
        for container in super::plan::containers(pod) {
            let name = &container.name;
            let mut generations = self.containers.get(name).copied().unwrap_or_default();
            if containers.contains(name) {
                generations.spec += 1;
            }
            if resources.contains(name) {
                generations.resources += 1;
            }
            next.insert(name.clone(), generations);
        }
        // The generation of a container that is gone stays known, so that one of its name later differs from it.
        for (name, generations) in std::mem::take(&mut self.containers) {
            next.entry(name).or_insert(generations);
        }
        self.containers = next;
    }
}
