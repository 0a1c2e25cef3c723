//! Who is stopped when, and how long each has.
//!
//! Everything but sidecars goes at once; a sidecar goes when all that came after it in the manifest is gone, so that
//! each can be used until its last user has ended. The pod's grace period runs for all of them together.

use std::time::Duration;

use super::health::pre_stop;
use super::{Plan, Role, Step, Why, everyone, grace, roles};
use crate::pod::backoff::Tick;
use crate::pod::state::{Observation, Observed, Record};

/// How long to wait for a killed process to be gone before killing it again (it may be in the D state for long).
const KILL_AGAIN: Duration = Duration::from_secs(10);
/// What a sidecar has at least, also when those before it took all of the grace period; as a kubelet has it.
pub const LEAST_GRACE: Duration = Duration::from_secs(2);

/// Stops every running container; whether there was one.
pub(super) fn all(record: &Record, seen: &Observed, grace: Duration, now: Tick, plan: &mut Plan) -> bool {
    let is_sidecar = |name: &str| everyone(&record.pod).any(|(r, c)| c.name == name && r == Role::Sidecar);
    let mut turn = true;
    for (name, c) in seen.containers.iter().filter(|(name, c)| c.running() && !is_sidecar(name)) {
        turn = false;
        one(name, c, grace, Why::End, true, now, plan);
    }
    let mut any = !turn;
    for container in roles::inits(&record.pod).iter().rev().filter(|c| is_sidecar(&c.name)) {
        let Some(c) = seen.containers.get(&container.name).filter(|c| c.running()) else { continue };
        any = true;
        let left = match seen.ending {
            Some(begun) if !grace.is_zero() => (begun + grace).saturating_sub(now).max(LEAST_GRACE),
            _ => grace,
        };
        // Its hook runs along with the others, to make ready for the end; its signal waits for its turn.
        if turn || pre_stop(container).is_some() {
            one(&container.name, c, left, Why::End, turn, now, plan);
        }
        turn = false;
    }
    any
}

/// Stops one container: its hook, its signal, and when its time is over its death.
pub(super) fn one(name: &str, c: &Observation, grace: Duration, why: Why, turn: bool, now: Tick, plan: &mut Plan) {
    let container = name.to_owned();
    let Some(stop) = c.stop else {
        plan.push(Step::Stop { container, grace, why, turn });
        return;
    };
    if !stop.asked && !grace.is_zero() && stop.killed.is_none() {
        // A hook limits itself to the grace period, and what is left to the container then is the least.
        let late = stop.deadline + LEAST_GRACE;
        if turn && (!stop.hook || late <= now) {
            plan.push(Step::Signal { container });
        } else if turn {
            plan.at(late);
        }
        return;
    }
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

/// Stops a container of a pod that runs on.
pub(super) fn replaced(record: &Record, name: &str, c: &Observation, now: Tick, plan: &mut Plan) {
    one(name, c, grace(&record.pod), Why::Replaced, true, now, plan);
}
