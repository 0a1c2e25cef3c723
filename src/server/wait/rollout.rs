//! How a workload stands: is it rolled out, ready, done; or will it never be.

use serde::Serialize;

use super::{Answer, Goal};
use crate::api::workload::JobEnd;
use crate::api::{Kind, Object, ObjectKey, WorkloadView};
use crate::server::State;
use crate::server::problem::{Problem, Reason};

/// How a rollout gets on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::server) struct Stand {
    /// It is through.
    pub(in crate::server) done: bool,
    /// It stands still for longer than it may.
    pub(in crate::server) failed: bool,
    /// For a person.
    pub(in crate::server) message: String,
}

/// How the rollout of a workload gets on now.
pub(in crate::server) fn look(state: &State, key: &ObjectKey) -> Result<Stand, Problem> {
    if !matches!(key.kind, Kind::Deployment | Kind::DaemonSet | Kind::StatefulSet) {
        return Err(Problem::new(Reason::Refused, format!("{key} has no rollout"))
            .hint("deployments, statefulsets and daemonsets have one"));
    }
    let missing = || Problem::not_found(&key.kind.as_str().to_lowercase(), &format!("{}/{}", key.namespace, key.name));
    let view = state.node.workloads().get(key).cloned();
    let set = state.node.desired().borrow().clone();
    let declared = set.objects.iter().find(|s| s.object.key() == *key).ok_or_else(missing)?;
    Ok(match view {
        // The manager has not seen the change yet.
        Some(view) if view.object == declared.object => stand(&view, key),
        _ => Stand { done: false, failed: false, message: format!("{key} is being looked at") },
    })
}

fn stand(view: &WorkloadView, key: &ObjectKey) -> Stand {
    let s = &view.status;
    let name = format!("{} {}", key.kind.as_str().to_lowercase(), key.name);
    let stuck = s.conditions.iter().find(|c| c.reason == "ProgressDeadlineExceeded");
    let paused = s.conditions.iter().any(|c| c.reason == "DeploymentPaused");
    let done = s.updated >= s.desired && s.available >= s.desired && s.current == s.desired;
    let message = match stuck {
        _ if done => format!("{name}: revision {} is rolled out", s.revision),
        Some(stuck) => format!("{name}: {}", stuck.message),
        None if paused => format!("{name} is paused"),
        None => format!(
            "{name}: {} of {} pods updated, {} available, {} in all",
            s.updated, s.desired, s.available, s.current
        ),
    };
    Stand { done, failed: !done && (stuck.is_some() || paused), message }
}

/// How a wait for a workload stands.
pub(super) fn judge(view: &WorkloadView, goal: Goal) -> Answer {
    let s = &view.status;
    let counts = format!("{} of {} pods are ready, {} of them of the newest template", s.ready, s.desired, s.updated);
    let failed = match &s.end {
        Some(JobEnd::Failed(reason, message)) => Some(format!("{reason}: {message}")),
        _ => None,
    };
    let complete = s.end == Some(JobEnd::Complete);
    let reached = match (goal, view.object.as_ref()) {
        (Goal::Ready, Object::CronJob(_)) => true,
        (Goal::Ready, Object::Job(_)) => complete || (s.current > 0 && s.ready == s.current),
        (Goal::Ready, _) => s.updated >= s.desired && s.available >= s.desired && s.current == s.desired,
        (Goal::Succeeded, _) => complete,
        (Goal::Deleted, _) => false,
    };
    let state = match &failed {
        Some(why) => why.clone(),
        None if s.end.is_some() || matches!(view.object.as_ref(), Object::Job(_)) => {
            format!("{} of {} completions, {} pods active", s.succeeded, s.desired, s.current)
        }
        None => counts,
    };
    Answer { reached, over: failed.is_some(), state }
}
