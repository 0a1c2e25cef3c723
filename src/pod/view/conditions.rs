//! A pod's conditions, as a kubelet sets them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::workload::Phase;
use crate::pod::plan::{Role, everyone, renew};
use crate::pod::state::{Observed, Record, Sandbox};

/// A condition that holds, or why it does not.
type Held = Result<(), (&'static str, Option<String>)>;

/// All conditions; `inits` and `mains` are the statuses of init containers and sidecars, and of the others.
pub(super) fn conditions(
    record: &Record,
    seen: &Observed,
    (inits, mains): (&[ContainerStatus], &[ContainerStatus]),
    now: Timestamp,
) -> Vec<PodCondition> {
    let phase = super::phase(record, seen);
    let ready = ready(record, phase, inits, mains);
    let sandbox =
        if seen.sandbox == Sandbox::Up && !seen.bare { Ok(()) } else { Err(("PodNotReadyToStartContainers", None)) };
    let mut all = vec![
        condition("PodReadyToStartContainers", sandbox, now),
        condition("PodScheduled", Ok(()), now),
        condition("Initialized", begun(record, phase, inits, mains), now),
        condition("ContainersReady", ready.clone(), now),
        condition("Ready", ready, now),
    ];
    all.extend(restarting(record, seen, now));
    all.extend(disrupted(record, now));
    // Nothing is left to be ready for, and a kubelet says so of these alone.
    if let (Phase::Succeeded, Some(initialized)) = (phase, all.get_mut(2)) {
        initialized.reason = Some("PodCompleted".to_owned());
    }
    all
}

fn condition(type_: &str, held: Held, now: Timestamp) -> PodCondition {
    let (status, reason, message) = match held {
        Ok(()) => ("True", None, None),
        Err((reason, message)) => ("False", Some(reason.to_owned()), message),
    };
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason,
        message,
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    }
}

/// Whether all containers are being ended to start anew; of a pod where that was never so nothing is said.
fn restarting(record: &Record, seen: &Observed, now: Timestamp) -> Option<PodCondition> {
    let held = if renew::under_way(record, seen) || renew::asked(record, seen).is_some() {
        Ok(())
    } else if record.renewed > 0 {
        Err(("ContainersRestarted", None))
    } else {
        return None;
    };
    Some(condition("AllContainersRestarting", held, now))
}

/// Whether the pod was ended for the node's sake.
fn disrupted(record: &Record, now: Timestamp) -> Option<PodCondition> {
    let ended = record.ended.as_ref().filter(|ended| ended.disruption)?;
    let condition = condition("DisruptionTarget", Ok(()), now);
    Some(PodCondition {
        reason: Some("TerminationByNode".to_owned()),
        message: Some(ended.message.clone()),
        ..condition
    })
}

/// Whether the init containers are done and the sidecars have started.
fn begun(record: &Record, phase: Phase, inits: &[ContainerStatus], mains: &[ContainerStatus]) -> Held {
    let main_began =
        mains.iter().any(|s| s.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some()));
    // What was initialized once stays so when everything begins anew in its place.
    let before = record.renewed > 0 && mains.iter().any(|s| s.container_id.is_some());
    if phase == Phase::Succeeded || main_began || before {
        return Ok(());
    }
    let is_done = |(role, status): &(Role, &ContainerStatus)| match role {
        Role::Sidecar => status.started == Some(true),
        Role::Init | Role::Main => status.ready,
    };
    let roles = everyone(&record.pod).map(|(role, _)| role);
    let left: Vec<&str> = roles.zip(inits).filter(|one| !is_done(one)).map(|(_, s)| s.name.as_str()).collect();
    if left.is_empty() {
        return Ok(());
    }
    Err(("ContainersNotInitialized", Some(format!("containers with incomplete status: [{}]", left.join(" ")))))
}

/// Whether every container that stays is ready.
fn ready(record: &Record, phase: Phase, inits: &[ContainerStatus], mains: &[ContainerStatus]) -> Held {
    match phase {
        Phase::Succeeded => return Err(("PodCompleted", None)),
        Phase::Failed => return Err(("PodFailed", None)),
        Phase::Pending | Phase::Running => {}
    }
    let roles = everyone(&record.pod).map(|(role, _)| role);
    let staying = roles.zip(inits.iter().chain(mains)).filter(|(role, _)| *role != Role::Init);
    let unready: Vec<&str> = staying.filter(|(_, s)| !s.ready).map(|(_, s)| s.name.as_str()).collect();
    if unready.is_empty() && !mains.is_empty() {
        return Ok(());
    }
    Err(("ContainersNotReady", Some(format!("containers with unready status: [{}]", unready.join(" ")))))
}
