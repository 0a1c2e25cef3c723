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

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::backoff::{self, Tick};
use super::desired::{Desired, Wanted};
use super::state::{Exit, Failure, Image, Observation, Observed, Record, Retry, Sandbox};
use crate::api::{PodChange, change};

/// The grace period of a pod that names none.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// How long to wait for a killed process to be gone before killing it again (it may be in the D state for long).
const KILL_AGAIN: Duration = Duration::from_secs(10);

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
    match change(&record.pod, &desired.pod) {
        PodChange::Nothing => run(record, desired, seen, now),
        PodChange::InPlace => alone(Step::Amend { containers: Vec::new(), resources: resized(record, desired) }),
        PodChange::Containers(names) => {
            alone(Step::Amend { containers: names.into_iter().collect(), resources: resized(record, desired) })
        }
        PodChange::Replace(_) => alone(Step::Doom { replaced: true, grace: None }),
    }
}

/// The containers whose resources differ from the record's.
fn resized(record: &Record, desired: &Desired) -> Vec<String> {
    let of = |pod: &Pod, name: &str| {
        containers(pod).iter().find(|c| c.name == name).and_then(|c| c.resources.clone()).unwrap_or_default()
    };
    containers(&desired.pod)
        .iter()
        .filter(|c| of(&record.pod, &c.name) != of(&desired.pod, &c.name))
        .map(|c| c.name.clone())
        .collect()
}

/// A pod's containers.
pub fn containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map_or(&[], |s| s.containers.as_slice())
}

/// A doomed pod.
fn end(wanted: &Wanted, record: &Record, seen: &Observed, now: Tick) -> Plan {
    if seen.sandbox == Sandbox::Lost {
        return Plan::alone(Step::Bury, seen, now);
    }
    let given = record.doomed.and_then(|d| d.grace);
    let grace = wanted.grace.or(given).unwrap_or_else(|| grace(&record.pod));
    let mut plan = Plan::default();
    if stop_all(seen, grace, now, &mut plan) {
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

/// Stops every running container; whether there was one.
fn stop_all(seen: &Observed, grace: Duration, now: Tick, plan: &mut Plan) -> bool {
    let mut any = false;
    for (name, c) in &seen.containers {
        if c.running() {
            any = true;
            stop(name, c, grace, now, plan);
        }
    }
    any
}

fn stop(name: &str, c: &Observation, grace: Duration, now: Tick, plan: &mut Plan) {
    let container = name.to_owned();
    match c.stop {
        None => plan.push(Step::Stop { container, grace }),
        Some(stop) => {
            // A shorter grace that was asked for later (delete --now) counts from then on.
            let deadline = stop.deadline.min(now + grace);
            let due = stop.killed.map_or(deadline, |k| k + KILL_AGAIN);
            if due <= now {
                plan.push(Step::Kill { container });
                plan.at(now + KILL_AGAIN);
            } else {
                plan.at(due);
            }
        }
    }
}

/// The grace period that a pod gives.
pub fn grace(pod: &Pod) -> Duration {
    pod.spec
        .as_ref()
        .and_then(|s| s.termination_grace_period_seconds)
        .and_then(|s| u64::try_from(s).ok())
        .map_or(DEFAULT_GRACE, Duration::from_secs)
}

/// A pod that is as it should be written down, and is to run.
fn run(record: &Record, desired: &Desired, seen: &Observed, now: Tick) -> Plan {
    if seen.sandbox == Sandbox::Lost {
        return Plan::alone(Step::Bury, seen, now);
    }
    let mut plan = Plan::default();
    for (name, c) in &seen.containers {
        if c.older > KEPT_ATTEMPTS || (c.stale_refs && !stale_in_use(record, name, c)) {
            plan.push(Step::Tidy { container: name.clone() });
        }
    }
    if record.ended.is_some() {
        if !stop_all(seen, grace(&record.pod), now, &mut plan) {
            finish(seen, now, &mut plan);
        }
        return plan;
    }
    if seen.sandbox == Sandbox::Up
        && seen.config != Some(desired.config.stamp())
        && retry_due(seen.failure.as_ref(), now, &mut plan)
    {
        plan.push(Step::Refresh);
    }
    let mut start = Vec::new();
    let mut over = true;
    for (name, c) in &seen.containers {
        if c.running() && !containers(&record.pod).iter().any(|known| known.name == *name) {
            over = false;
            stop(name, c, grace(&record.pod), now, &mut plan);
        }
    }
    for container in containers(&record.pod) {
        let name = &container.name;
        let absent = Observation::default();
        let c = seen.containers.get(name).unwrap_or(&absent);
        let wanted = record.containers.get(name).copied().unwrap_or_default();
        if let Some(attempt) = c.attempt.as_ref().filter(|a| a.exit.is_none()) {
            over = false;
            if attempt.generations.spec != wanted.spec {
                // The new image first: what runs is not stopped for one that cannot be had.
                let ready = matches!(c.image, Image::Here { generation, .. } if generation == wanted.spec);
                if ready || c.stop.is_some() {
                    stop(name, c, grace(&record.pod), now, &mut plan);
                } else {
                    fetch(name, c, wanted.spec, now, &mut plan);
                }
            } else if c.stop.is_some() {
                stop(name, c, grace(&record.pod), now, &mut plan);
            } else if attempt.generations.resources != wanted.resources && retry_due(c.failure.as_ref(), now, &mut plan)
            {
                plan.push(Step::Resize { container: name.clone() });
            }
            continue;
        }
        let Some((due, level)) = next_start(record, wanted.spec, c) else { continue };
        over = false;
        if due > now {
            plan.at(due);
        } else if !here(container, c, wanted.spec) {
            fetch(name, c, wanted.spec, now, &mut plan);
        } else if retry_due(c.failure.as_ref(), now, &mut plan) {
            start.push(Step::Start { container: name.clone(), attempt: c.next_attempt(), level });
        }
    }
    if over {
        finish(seen, now, &mut plan);
        return plan;
    }
    if let Some(deadline) = deadline(record, seen) {
        if deadline <= now {
            return Plan::alone(Step::Expire, seen, now);
        }
        plan.at(deadline);
    }
    if !start.is_empty() {
        if seen.sandbox == Sandbox::Down {
            if !retry_due(seen.failure.as_ref(), now, &mut plan) {
                return plan;
            }
            plan.push(Step::Prepare);
        }
        plan.steps.extend(start);
    }
    plan
}

/// An old generation's image ref is of use while an attempt of that generation runs.
fn stale_in_use(record: &Record, name: &str, c: &Observation) -> bool {
    let wanted = record.containers.get(name).copied().unwrap_or_default();
    c.attempt.as_ref().is_some_and(|a| a.exit.is_none() && a.generations.spec != wanted.spec)
}

/// Every container ended for good.
fn finish(seen: &Observed, now: Tick, plan: &mut Plan) {
    if !retry_due(seen.failure.as_ref(), now, plan) {
        return;
    }
    if seen.sandbox != Sandbox::Down {
        plan.push(Step::Teardown);
    }
    if seen.holds {
        plan.push(Step::Release);
    }
}

/// When the pod's own deadline passes, if it has one and has begun.
fn deadline(record: &Record, seen: &Observed) -> Option<Tick> {
    let limit = record.pod.spec.as_ref().and_then(|s| s.active_deadline_seconds)?;
    Some(seen.started? + Duration::from_secs(u64::try_from(limit).unwrap_or_default()))
}

/// When a container that does not run is to start, and with which level; `None`: it ended for good.
pub fn next_start(record: &Record, generation: u32, c: &Observation) -> Option<(Tick, u32)> {
    let Some(attempt) = &c.attempt else { return Some((Tick::ZERO, 0)) };
    let Some(exit) = &attempt.exit else { return None };
    if attempt.generations.spec != generation {
        return Some((Tick::ZERO, 0));
    }
    if !restarts(&record.pod, exit) {
        return None;
    }
    let level = backoff::next_level(attempt.level, exit.finished.saturating_sub(attempt.started));
    Some((exit.finished + backoff::restart(level), level))
}

/// Whether the restart policy wants a container back that ended so.
pub fn restarts(pod: &Pod, exit: &Exit) -> bool {
    match pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) {
        Some("Never") => false,
        Some("OnFailure") => exit.code != 0,
        _ => true,
    }
}

/// Whether an image is to be resolved anew for each attempt.
pub fn pulls_always(container: &Container) -> bool {
    container.image_pull_policy.as_deref() == Some("Always")
}

fn here(container: &Container, c: &Observation, generation: u32) -> bool {
    match c.image {
        Image::Here { generation: g, attempt } => {
            g == generation && (!pulls_always(container) || attempt == c.next_attempt())
        }
        Image::Unknown | Image::Fetching => false,
    }
}

fn fetch(name: &str, c: &Observation, generation: u32, now: Tick, plan: &mut Plan) {
    if c.image != Image::Fetching && retry_due(c.failure.as_ref(), now, plan) {
        plan.push(Step::Fetch { container: name.to_owned(), generation, attempt: c.next_attempt() });
    }
}

/// Whether what failed may be tried now; if only later, the plan wakes then.
fn retry_due(failure: Option<&Failure>, now: Tick, plan: &mut Plan) -> bool {
    let Some(failure) = failure else { return true };
    match failure.retry {
        Retry::Never | Retry::OnChange => false,
        Retry::Backoff => {
            let due = failure.at + backoff::retry(failure.count);
            if due > now {
                plan.at(due);
            }
            due <= now
        }
    }
}
