//! What to do next for one pod: a pure function of what is wanted, what is seen and the time.
//!
//! ```text
//!   no record ──────────▶ Accept
//!   changed ────────────▶ Amend (in place, or some containers) · Doom (anything else; also when nothing is wanted)
//!   doomed ─────────────▶ Stop ▸ Kill ▸ Teardown ▸ Release ▸ Erase, then Accept what is wanted under the name now
//!   shim lost ──────────▶ Bury, then by restart policy
//!   a container to run ─▶ Fetch ▸ Prepare (the sandbox) ▸ Start
//!   all ended for good ─▶ Teardown ▸ Release; record, exits and logs stay
//! ```
//!
//! The rules: stop before start; a container fails alone; an image is here before what runs is stopped for it; each
//! step is idempotent, and a fresh look after a crash between any two of them leads to the same end.
//!
//! | file | what |
//! |---|---|
//! | `run` | a pod that is to run: which container is next |
//! | `stop` | who is stopped when, and how long each has |
//! | [`health`] | who has started, who is ready |
//! | [`restart`] | who comes back, and after which wait |
//! | `renew` | all containers anew, when one asks for it by how it ended |
//! | [`roles`] | init containers, sidecars and the others |

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::backoff::Tick;
use super::desired::{Desired, Eviction, Wanted};
use super::state::{Failure, Observed, Record, Sandbox};
use crate::api::{PodChange, change};

pub mod health;
pub mod renew;
pub mod restart;
pub mod roles;
mod run;
mod stop;

pub use restart::next_start;
pub use roles::{Role, containers, everyone, find};
pub use run::{initialized, is_over, pulls_always};
pub use stop::LEAST_GRACE;

/// The grace period of a pod that names none.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// One thing to do. Each is idempotent.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Make a uid and write the record.
    Accept,
    /// Take a changed specification into the record; the containers named get a new generation.
    Amend {
        /// Which containers must be started anew for it.
        containers: Vec<String>,
        /// Which containers have other resources.
        resources: Vec<String>,
    },
    /// Mark the record: this pod goes.
    Doom {
        /// Whether something else is wanted in its place.
        replaced: bool,
        /// How long its containers have, instead of what the pod says.
        grace: Option<Duration>,
    },
    /// Mark the record: this pod took longer than it may.
    Expire,
    /// Mark the record: the node takes this pod's end in hand.
    Evict(Eviction),
    /// Mark the record: every container is to start anew, in the sandbox that is there.
    Renew {
        /// Whose end asks for it.
        container: String,
    },
    /// All of them have ended for that: count the sandbox as another.
    Again,
    /// Kill what a lost shim left, write the exits that it could not.
    Bury,
    /// Resolve and fetch a container's image, and hold it.
    Fetch {
        /// Which container.
        container: String,
        /// For which of its generations.
        generation: u32,
        /// For which attempt.
        attempt: u32,
    },
    /// Resolve and fetch the image of a volume, and hold it.
    FetchVolume {
        /// Which volume.
        volume: String,
    },
    /// Make the sandbox: shim, namespaces, volumes.
    Prepare,
    /// Bring the content of ConfigMap and Secret volumes up to date.
    Refresh,
    /// Start a container.
    Start {
        /// Which container.
        container: String,
        /// Which attempt.
        attempt: u32,
        /// How many ended starts count for its waits.
        level: u32,
    },
    /// Give a running container its new resources.
    Resize {
        /// Which container.
        container: String,
    },
    /// Ask a container to end.
    Stop {
        /// Which container.
        container: String,
        /// How long it has.
        grace: Duration,
        /// What for.
        why: Why,
        /// Whether it may be sent its signal, or only its `preStop` hook may run: others are to end first.
        turn: bool,
    },
    /// Send a container its signal: its hook is done and it is its turn.
    Signal {
        /// Which container.
        container: String,
    },
    /// Run a container's `postStart` hook.
    PostStart {
        /// Which container.
        container: String,
    },
    /// Begin to probe a container, or go on by what its manifest says now.
    Probe {
        /// Which container.
        container: String,
    },
    /// Kill a container.
    Kill {
        /// Which container.
        container: String,
    },
    /// Remove older attempts than the last two, and image refs of older generations.
    Tidy {
        /// Which container.
        container: String,
    },
    /// Take the sandbox down.
    Teardown,
    /// Let go of every image.
    Release,
    /// Remove everything that is left of the pod.
    Erase,
}

/// What a container is stopped for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The pod ends.
    End,
    /// Its manifest has changed, or does not have it any more.
    Replaced,
    /// It is not well, or its hook failed.
    Condemned,
}

/// What to do now, in this order, and when to look again if nothing happens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Done one after the other; the rest is dropped when one fails.
    pub steps: Vec<Step>,
    /// The next moment at which time alone changes the plan.
    pub wake: Option<Tick>,
}

impl Plan {
    /// One step of the pod as a whole, unless the last such failed and its wait is not over.
    fn alone(step: Step, seen: &Observed, now: Tick) -> Self {
        let mut plan = Self::default();
        if retry_due(seen.failure.as_ref(), now, &mut plan) {
            plan.push(step);
        }
        plan
    }

    fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    fn at(&mut self, tick: Tick) {
        self.wake = Some(self.wake.map_or(tick, |w| w.min(tick)));
    }
}

/// How many attempts of a container stay on disk beside the newest.
pub const KEPT_ATTEMPTS: u32 = 1;

/// What to do next.
pub fn plan(wanted: &Wanted, seen: &Observed, now: Tick) -> Plan {
    let desired = wanted.desired.as_ref();
    let alone = |step| Plan::alone(step, seen, now);
    let Some(record) = &seen.record else {
        return if desired.is_some() { alone(Step::Accept) } else { Plan::default() };
    };
    if record.doomed.is_some() {
        return end(wanted, record, seen, now);
    }
    let Some(desired) = desired else { return alone(Step::Doom { replaced: false, grace: wanted.grace }) };
    if record.origin.source != desired.origin.source {
        return alone(Step::Doom { replaced: true, grace: None });
    }
    if let Some(eviction) = &wanted.evicted
        && eviction.uid == record.uid
        && record.ended.is_none()
        && !is_over(record, seen)
    {
        return alone(Step::Evict(eviction.clone()));
    }
    match change(&record.pod, &desired.pod) {
        PodChange::Nothing => run::run(record, desired, seen, now),
        PodChange::InPlace => alone(amend(record, desired, BTreeSet::new())),
        PodChange::Containers(names) => alone(amend(record, desired, names)),
        PodChange::Replace(_) => alone(Step::Doom { replaced: true, grace: None }),
    }
}

/// What a change within a pod comes to; `changed` are the containers that must be started anew for it.
fn amend(record: &Record, desired: &Desired, mut changed: BTreeSet<String>) -> Step {
    let resources = resized(record, desired);
    let restarted = resources.iter().filter(|name| {
        let (old, new) = (find(&record.pod, name), find(&desired.pod, name));
        old.zip(new).is_some_and(|(old, new)| must_restart(old, new))
    });
    changed.extend(restarted.cloned());
    Step::Amend { containers: changed.into_iter().collect(), resources }
}

/// Whether a resource has changed that the container's `resizePolicy` wants a restart for.
fn must_restart(old: &Container, new: &Container) -> bool {
    let of = |container: &Container, name: &str| {
        let resources = container.resources.as_ref();
        let get = |map: Option<&std::collections::BTreeMap<String, Quantity>>| map.and_then(|m| m.get(name)).cloned();
        (get(resources.and_then(|r| r.limits.as_ref())), get(resources.and_then(|r| r.requests.as_ref())))
    };
    let mut policies = new.resize_policy.iter().flatten().filter(|p| p.restart_policy == "RestartContainer");
    policies.any(|policy| of(old, &policy.resource_name) != of(new, &policy.resource_name))
}

/// The containers whose resources differ from the record's.
fn resized(record: &Record, desired: &Desired) -> Vec<String> {
    let of = |pod: &Pod, name: &str| find(pod, name).and_then(|c| c.resources.clone()).unwrap_or_default();
    everyone(&desired.pod)
        .map(|(_, c)| c)
        .filter(|c| of(&record.pod, &c.name) != of(&desired.pod, &c.name))
        .map(|c| c.name.clone())
        .collect()
}

/// A doomed pod.
fn end(wanted: &Wanted, record: &Record, seen: &Observed, now: Tick) -> Plan {
    if seen.sandbox == Sandbox::Lost {
        return Plan::alone(Step::Bury, seen, now);
    }
    let given = record.doomed.and_then(|d| d.grace);
    let grace = wanted.grace.or(given).unwrap_or_else(|| grace(&record.pod));
    let mut plan = Plan::default();
    if stop::all(record, seen, grace, now, &mut plan) {
        return plan;
    }
    if !retry_due(seen.failure.as_ref(), now, &mut plan) {
        return plan;
    }
    if seen.sandbox != Sandbox::Down {
        plan.push(Step::Teardown);
    }
    plan.push(Step::Release);
    plan.push(Step::Erase);
    plan
}

/// The grace period that a pod gives.
pub fn grace(pod: &Pod) -> Duration {
    pod.spec
        .as_ref()
        .and_then(|s| s.termination_grace_period_seconds)
        .and_then(|s| u64::try_from(s).ok())
        .map_or(DEFAULT_GRACE, Duration::from_secs)
}

/// Whether what failed may be tried now; if only later, the plan wakes then.
fn retry_due(failure: Option<&Failure>, now: Tick, plan: &mut Plan) -> bool {
    let Some(failure) = failure else { return true };
    let Some(due) = failure.due() else { return false };
    if due > now {
        plan.at(due);
    }
    due <= now
}
