//! All containers of a pod anew, in the sandbox that it has: what a container's rule may ask for by how it ended.
//!
//! ```text
//!   one ends so that its rule says RestartAllContainers ─▶ Renew (written down) ▸ Kill the others ▸ Again ▸ as a new pod starts
//! ```
//!
//! Network, volumes and uid stay, and nobody is asked first: no hook runs, no grace period counts, as a kubelet has it.

use std::time::Duration;

use super::restart::{RESTART_ALL, rule};
use super::{Plan, Step, Why, everyone, stop};
use crate::pod::backoff::Tick;
use crate::pod::state::{Observed, Record, Sandbox};

/// The container whose end asks for it, where that was not heeded yet.
pub fn asked(record: &Record, seen: &Observed) -> Option<String> {
    let mut all = everyone(&record.pod).map(|(_, container)| container);
    let asks = all.find(|container| {
        let attempt = seen.containers.get(&container.name).and_then(|c| c.attempt.as_ref());
        let ended = attempt.filter(|a| !record.is_past(a)).and_then(|a| a.exit.as_ref());
        ended.and_then(|exit| rule(container, exit)).is_some_and(|rule| rule.action == RESTART_ALL)
    });
    asks.map(|container| container.name.clone())
}

/// Whether it was decided, and something of before may still run.
pub fn under_way(record: &Record, seen: &Observed) -> bool {
    record.renewed > seen.epoch && seen.sandbox != Sandbox::Down
}

/// Ends what ran before.
pub(super) fn go_on(seen: &Observed, now: Tick, plan: &mut Plan) {
    let mut any = false;
    for (name, c) in seen.containers.iter().filter(|(_, c)| c.running()) {
        any = true;
        match c.stop {
            None => plan.push(Step::Kill { container: name.clone() }),
            Some(_) => stop::one(name, c, Duration::ZERO, Why::End, true, now, plan),
        }
    }
    if !any {
        plan.push(Step::Again);
    }
}
