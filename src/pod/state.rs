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
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use super::backoff::Tick;
use super::probe::runner::{Finding, Probes};
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
    pub pod: Arc<Pod>,
    /// When it was accepted, for show.
    pub created: jiff::Timestamp,
    /// Each container's generation and that of its resources.
    pub containers: BTreeMap<String, Generations>,
    /// The host's id of root in the pod's own user namespace, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<u32>,
    /// Attempts of earlier sandboxes than this one count no more: their containers start anew, all of them, also where
    /// no sandbox was lost (see [`super::plan::Step::Renew`]).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub renewed: u32,
    /// Set once the pod is over before its time; its containers are stopped and not started again.
    pub ended: Option<Ended>,
    /// Set once the pod is to go; nothing takes that back: what is wanted under its name later is another pod.
    pub doomed: Option<Doom>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &u32) -> bool {
    *n == 0
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
    /// How long its containers have at most, where that is less than the pod gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Duration>,
    /// It is not at fault: the node was short of something.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disruption: bool,
}

impl Ended {
    /// The reason of a pod that was evicted.
    pub const EVICTED: &'static str = "Evicted";

    /// An end of the pod's own.
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into(), grace: None, disruption: false }
    }

    /// Whether it was evicted: then what it took of the disk goes, too.
    pub fn is_eviction(&self) -> bool {
        self.reason == Self::EVICTED
    }
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
    /// The API server of a cluster.
    Kubernetes,
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
            Self::Kubernetes => "kubernetes",
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
    /// The sandbox is up and lacks some of its volumes: making it did not come to its end.
    pub bare: bool,
    /// Its containers, also those that the record names no more but of which something is left.
    /// Boxed: a map makes room for many, and most pods have one.
    pub containers: BTreeMap<String, Box<Observation>>,
    /// The images of its volumes, by volume, for the next sandbox.
    pub volumes: BTreeMap<String, Image>,
    /// The content of its ConfigMap and Secret volumes that is mounted now.
    pub config: Option<u64>,
    /// When it was accepted.
    pub started: Option<Tick>,
    /// Counts its sandboxes, and how often everything in one began anew: the number of the one there is, or else of the
    /// next. Init containers run in each anew.
    pub epoch: u32,
    /// When its end began; known to this agent only.
    pub ending: Option<Tick>,
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
    /// Its shim is there, but what its containers need may not be: the agent that made it was cut off. No container
    /// was started in it.
    Begun,
    /// Connected, with all that its containers need.
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
    /// Whether its `postStart` hook is under way.
    pub hooking: bool,
    /// The probes that are being made of the newest attempt.
    pub probing: Option<Box<Probes>>,
    /// The last failure to start it.
    pub failure: Option<Failure>,
}

impl Observed {
    /// The sandbox is gone: the next one has the number after that of the last in which anything was started.
    pub fn down(&mut self) {
        self.sandbox = Sandbox::Down;
        self.volumes.clear();
        self.config = None;
        let last = self.containers.values().filter_map(|c| c.attempt.as_ref()).map(|a| a.epoch).max();
        let renewed = self.record.as_ref().map_or(0, |r| r.renewed);
        self.epoch = last.map_or(0, |last| last + 1).max(renewed);
    }
}

impl Record {
    /// Whether an attempt counts no more, since everything begins anew after it.
    pub fn is_past(&self, attempt: &Attempt) -> bool {
        attempt.epoch < self.renewed
    }
}

impl Observed {
    /// The number from which on attempts count, if everything is to begin anew from here.
    pub fn next_round(&self) -> u32 {
        // Without a sandbox, nothing was started under the number that there is.
        self.epoch + u32::from(self.sandbox != Sandbox::Down)
    }
}

impl Observation {
    /// Takes in that it is to end: by its hook first, or at once, or when it is its turn.
    pub fn stopping(&mut self, grace: Duration, now: Tick, (hook, asked): (bool, bool)) {
        self.stop = Some(Stop { deadline: now + grace, killed: None, hook, asked });
        self.probing = None;
        self.hooking = false;
    }

    /// Takes in that it was asked to end, some time after its stop began; `least` is what it has at any rate.
    pub fn asked(&mut self, least: Duration, now: Tick) {
        if let Some(stop) = &mut self.stop {
            stop.asked = true;
            stop.deadline = stop.deadline.max(now + least);
        }
    }

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
    /// In which of the pod's sandboxes, counted from 0.
    #[serde(default)]
    pub epoch: u32,
    /// What is known of how it is.
    #[serde(default, skip_serializing_if = "Health::is_new")]
    pub health: Health,
    /// When it started.
    #[serde(skip)]
    pub started: Tick,
    /// The same, for show.
    pub started_at: jiff::Timestamp,
    /// The name of its image, as the pod had it when it was started.
    #[serde(default)]
    pub image_name: String,
    /// The digest of its image's manifest.
    pub image: String,
    /// The keys of its image's layers, lowest first.
    #[serde(default)]
    pub layers: Vec<String>,
    /// Why it ended, where its exit status does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<AttemptFailure>,
    /// Where its log lies, if the end of that is its message when it fails without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<std::path::PathBuf>,
    /// Its first process, as the host sees it, while it runs.
    #[serde(skip)]
    pub pid: Option<u32>,
    /// How it ended.
    #[serde(skip)]
    pub exit: Option<Exit>,
}

/// What probes and hooks have said of an attempt; kept on disk, so that a new agent knows it from the start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Its startup probe has succeeded.
    pub up: bool,
    /// Its readiness probe says that it may be used.
    pub ready: bool,
    /// Its `postStart` hook is done.
    pub hooked: bool,
    /// Set once it must be ended, to be started anew by policy.
    pub condemned: Option<Condemned>,
}

impl Health {
    fn is_new(&self) -> bool {
        *self == Self::default()
    }

    /// Takes in what a probe has found.
    pub fn found(&mut self, finding: Finding) {
        match finding {
            Finding::Started => self.up = true,
            Finding::Ready(ready) => self.ready = ready,
            Finding::Unhealthy { grace, message } => self.condemned = Some(Condemned { grace, message }),
        }
    }

    /// Takes in what became of the `postStart` hook.
    pub fn post_start(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => self.hooked = true,
            Err(why) => {
                let message = format!("its postStart hook failed: {why}");
                self.condemned = Some(Condemned { grace: None, message });
            }
        }
    }
}

/// Why an attempt must be ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condemned {
    /// How long it has to end, instead of what the pod says.
    pub grace: Option<Duration>,
    /// For a person.
    pub message: String,
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
    /// Whether it was ended for not being well.
    pub condemned: bool,
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
    /// Whether its `preStop` hook is under way.
    pub hook: bool,
    /// Whether it was sent its signal.
    pub asked: bool,
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

impl Failure {
    /// When it may be tried again by time alone; `None`: not at all.
    pub fn due(&self) -> Option<Tick> {
        let wait = super::backoff::retry(self.count);
        match self.retry {
            Retry::Never | Retry::OnChange => None,
            Retry::Backoff => Some(self.at + wait),
            Retry::NotBefore(least) => Some(self.at + wait.max(least)),
        }
    }
}

/// By class of error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Trying again cannot help while the pod is as it is.
    Never,
    /// After a wait that grows.
    Backoff,
    /// The same, but not before so much time has passed: someone asked to be left alone for that long.
    NotBefore(Duration),
    /// When what it depends on has changed.
    OnChange,
}

impl Record {
    /// Takes on a changed specification: `containers` get a new generation, as do the resources of `resources`.
    pub fn amend(&mut self, pod: &Arc<Pod>, origin: &Origin, containers: &[String], resources: &[String]) {
        self.pod = Arc::clone(pod);
        self.origin = origin.clone();
        let mut next = BTreeMap::new();
        for (_, container) in super::plan::everyone(pod) {
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
