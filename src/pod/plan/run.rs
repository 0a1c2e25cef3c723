//! A pod that is to run: which of its containers is next.
//!
//! Init containers run one after the other, each to its good end, a sidecar until it has started; then everything else
//! starts together. That is so once a sandbox: what was done in an earlier one counts no more, and once a main container
//! was started in this one, nothing is gone back to.

use k8s_openapi::api::core::v1::Container;

use super::restart::{failed, next_start};
use super::{
    KEPT_ATTEMPTS, Plan, Role, Step, Why, containers, everyone, find, grace, health, renew, retry_due, roles, stop,
};
use crate::pod::backoff::Tick;
use crate::pod::desired::Desired;
use crate::pod::probe::runner::Probes;
use crate::pod::state::{Image, Observation, Observed, Record, Sandbox};

/// A pod that is as it should be written down, and is to run.
pub(super) fn run(record: &Record, desired: &Desired, seen: &Observed, now: Tick) -> Plan {
    if seen.sandbox == Sandbox::Lost {
        return Plan::alone(Step::Bury, seen, now);
    }
    let mut plan = Plan::default();
    for (name, c) in &seen.containers {
        if c.older > KEPT_ATTEMPTS || (c.stale_refs && !stale_in_use(record, name, c)) {
            plan.push(Step::Tidy { container: name.clone() });
        }
    }
    if record.ended.is_some() || is_over(record, seen) {
        let most = record.ended.as_ref().and_then(|ended| ended.grace);
        let grace = grace(&record.pod).min(most.unwrap_or(std::time::Duration::MAX));
        if !stop::all(record, seen, grace, now, &mut plan) {
            finish(seen, now, &mut plan);
        }
        return plan;
    }
    if renew::under_way(record, seen) {
        renew::go_on(seen, now, &mut plan);
        return plan;
    }
    if let Some(container) = renew::asked(record, seen) {
        return Plan::alone(Step::Renew { container }, seen, now);
    }
    if seen.sandbox == Sandbox::Up
        && !seen.bare
        && !desired.config.unsure
        && seen.config != Some(desired.stamp())
        && retry_due(seen.failure.as_ref(), now, &mut plan)
    {
        plan.push(Step::Refresh);
    }
    for (name, c) in &seen.containers {
        if c.running() && find(&record.pod, name).is_none() {
            stop::replaced(record, name, c, now, &mut plan);
        }
    }
    let start = next(record, seen, now, &mut plan);
    if let Some(deadline) = deadline(record, seen) {
        if deadline <= now {
            return Plan::alone(Step::Expire, seen, now);
        }
        plan.at(deadline);
    }
    let lacks = matches!(seen.sandbox, Sandbox::Down | Sandbox::Begun) || seen.bare;
    let fetching = |step: &Step| matches!(step, Step::Fetch { .. });
    let begins = !start.is_empty()
        || plan.steps.iter().any(fetching)
        || seen.containers.values().any(|c| c.image == Image::Fetching);
    // Beside the images of the containers, not after them.
    let volumes = !(lacks && begins) || volumes(record, seen, now, &mut plan);
    if !start.is_empty() {
        if lacks {
            if !volumes || !retry_due(seen.failure.as_ref(), now, &mut plan) {
                return plan;
            }
            plan.push(Step::Prepare);
        }
        plan.steps.extend(start);
    }
    plan
}

/// Whether the images of the pod's volumes are here; those that are not are fetched.
fn volumes(record: &Record, seen: &Observed, now: Tick, plan: &mut Plan) -> bool {
    let mut here = true;
    let volumes = record.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    for volume in volumes.filter(|volume| volume.image.is_some()).map(|volume| &volume.name) {
        match seen.volumes.get(volume).unwrap_or(&Image::Unknown) {
            Image::Here { .. } => {}
            Image::Fetching => here = false,
            Image::Unknown => {
                here = false;
                if retry_due(seen.failure.as_ref(), now, plan) {
                    plan.push(Step::FetchVolume { volume: volume.clone() });
                }
            }
        }
    }
    here
}

/// Looks after what runs, fetches what is to run, and gives the starts that may be made now.
fn next(record: &Record, seen: &Observed, now: Tick, plan: &mut Plan) -> Vec<Step> {
    let initialized = initialized(record, seen);
    let mut start = Vec::new();
    // Whether all that comes before is as far as it must be.
    let mut turn = true;
    // Whether one that comes before has a hook to run first: so a kubelet starts containers, and people count on it.
    let mut hooking = false;
    for (role, container) in everyone(&record.pod) {
        let absent = Observation::default();
        let c = seen.containers.get(&container.name).map_or(&absent, AsRef::as_ref);
        if c.running() {
            look_after(record, container, c, now, plan);
            hooking |= health::awaits_hook(container, c);
            turn &= initialized || (role != Role::Init && (role == Role::Main || health::started(container, c)));
            continue;
        }
        if (initialized && role == Role::Init) || !turn || hooking {
            continue;
        }
        let Some((due, level)) = next_start(record, (role, container), seen, c) else { continue };
        let wanted = record.containers.get(&container.name).copied().unwrap_or_default();
        if due > now {
            plan.at(due);
        } else if !here(container, c, wanted.spec) {
            fetch(&container.name, c, wanted.spec, now, plan);
        } else if retry_due(c.failure.as_ref(), now, plan) {
            start.push(Step::Start { container: container.name.clone(), attempt: c.next_attempt(), level });
        }
        // One that cannot be started now holds up nobody.
        hooking |= due <= now && c.failure.is_none() && health::post_start(container).is_some();
        turn = initialized || role == Role::Main;
    }
    start
}

/// A container that runs: is it still what is wanted?
fn look_after(record: &Record, container: &Container, c: &Observation, now: Tick, plan: &mut Plan) {
    let name = &container.name;
    let wanted = record.containers.get(name).copied().unwrap_or_default();
    let Some(attempt) = &c.attempt else { return };
    if attempt.generations.spec != wanted.spec {
        // The new image first: what runs is not stopped for one that cannot be had.
        let ready = matches!(c.image, Image::Here { generation, .. } if generation == wanted.spec);
        if ready || c.stop.is_some() {
            stop::replaced(record, name, c, now, plan);
        } else {
            fetch(name, c, wanted.spec, now, plan);
        }
    } else if let Some(condemned) = &attempt.health.condemned {
        stop::one(name, c, condemned.grace.unwrap_or_else(|| grace(&record.pod)), Why::Condemned, true, now, plan);
    } else if c.stop.is_some() {
        stop::replaced(record, name, c, now, plan);
    } else if health::awaits_hook(container, c) {
        if !c.hooking {
            plan.push(Step::PostStart { container: name.clone() });
        }
    } else if c.probing.as_deref() != Probes::of(container).as_ref() {
        plan.push(Step::Probe { container: name.clone() });
    } else if attempt.generations.resources != wanted.resources && retry_due(c.failure.as_ref(), now, plan) {
        plan.push(Step::Resize { container: name.clone() });
    }
}

/// Whether a pod's init containers have done what they are there for, in this sandbox.
pub fn initialized(record: &Record, seen: &Observed) -> bool {
    let here = |c: &Container| {
        let attempt = seen.containers.get(&c.name).and_then(|c| c.attempt.as_ref());
        attempt.is_some_and(|a| a.epoch == seen.epoch)
    };
    roles::inits(&record.pod).is_empty() || containers(&record.pod).iter().any(here)
}

/// Whether a pod has come to its end by itself: what it is there for has ended for good, or cannot begin.
pub fn is_over(record: &Record, seen: &Observed) -> bool {
    let last = |c: &Container| seen.containers.get(&c.name)?.attempt.as_ref().filter(|a| !record.is_past(a));
    let exit = |c: &Container| last(c)?.exit.as_ref();
    let mut main = containers(&record.pod).iter().map(|c| (Role::Main, c));
    let ended = |(role, c): (Role, &Container)| {
        exit(c).is_some()
            && seen.containers.get(&c.name).is_some_and(|o| next_start(record, (role, c), seen, o).is_none())
    };
    main.all(ended) || everyone(&record.pod).any(|(role, c)| exit(c).is_some_and(|exit| failed(record, c, role, exit)))
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

/// When the pod's own deadline passes, if it has one.
fn deadline(record: &Record, seen: &Observed) -> Option<Tick> {
    let limit = record.pod.spec.as_ref().and_then(|s| s.active_deadline_seconds)?;
    Some(seen.started? + std::time::Duration::from_secs(u64::try_from(limit).unwrap_or_default()))
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
