//! Who comes back after it ended, and after which wait.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod};

use super::Role;
use crate::pod::backoff::{self, Tick};
use crate::pod::state::{Exit, Observation, Observed, Record};

/// When a container that does not run is to start, and with which level; `None`: it ended for good.
pub fn next_start(
    record: &Record,
    (role, container): (Role, &Container),
    seen: &Observed,
    c: &Observation,
) -> Option<(Tick, u32)> {
    let Some(attempt) = &c.attempt else { return Some((Tick::ZERO, 0)) };
    let Some(exit) = &attempt.exit else { return None };
    let generation = record.containers.get(&container.name).map_or(0, |g| g.spec);
    if attempt.generations.spec != generation {
        return Some((Tick::ZERO, 0));
    }
    let level = backoff::next_level(attempt.level, exit.finished.saturating_sub(attempt.started));
    if record.is_past(attempt) {
        // Whatever its policy, and however it ended; one that has the others start anew again and again waits for it.
        return Some((exit.finished + backoff::restart(level), level));
    }
    if role != Role::Main && attempt.epoch != seen.epoch && !failed(record, container, role, exit) {
        // A new sandbox begins with its init containers, whatever they did in the one before.
        return Some((Tick::ZERO, 0));
    }
    if !restarts(&record.pod, container, role, exit) {
        return None;
    }
    Some((exit.finished + backoff::restart(level), level))
}

/// Whether a container comes back that ended so.
pub fn restarts(pod: &Pod, container: &Container, role: Role, exit: &Exit) -> bool {
    if role == Role::Sidecar {
        return true;
    }
    if let Some(rule) = rule(container, exit) {
        // Validation has let no other action through.
        return [RESTART, RESTART_ALL].contains(&rule.action.as_str());
    }
    let of_pod = || pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    match container.restart_policy.as_deref().filter(|p| !p.is_empty()).or_else(of_pod) {
        Some("Never") => false,
        Some("OnFailure") => exit.code != 0 || exit.condemned,
        // An init container that did what it is there for is done.
        _ => role == Role::Main || exit.code != 0,
    }
}

/// The action of a restart rule: the container starts again.
const RESTART: &str = "Restart";
/// The other action: all containers of the pod start again.
pub(super) const RESTART_ALL: &str = "RestartAllContainers";

/// The rule that counts for a container that ended so: the first that matches.
pub(super) fn rule<'a>(container: &'a Container, exit: &Exit) -> Option<&'a ContainerRestartRule> {
    container.restart_policy_rules.iter().flatten().find(|rule| matches(rule, exit))
}

fn matches(rule: &ContainerRestartRule, exit: &Exit) -> bool {
    let Some(codes) = &rule.exit_codes else { return false };
    let named = codes.values.iter().flatten().any(|code| *code == exit.code);
    match codes.operator.as_str() {
        "In" => named,
        "NotIn" => !named,
        _ => false,
    }
}

/// Whether an init container has failed and stays so, and with it the pod.
pub(super) fn failed(record: &Record, container: &Container, role: Role, exit: &Exit) -> bool {
    role == Role::Init && exit.code != 0 && !restarts(&record.pod, container, role, exit)
}
