//! What is shown of a pod: the Kubernetes object with its status, from what is wanted and what is seen. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    PodCondition, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::backoff::Tick;
use super::plan::{containers, next_start};
use super::state::{Attempt, Image, Observation, Observed, Record, Retry};
use crate::api::PodView;
use crate::api::view::{ContainerExtras, Extras};
use crate::api::workload::Phase;

/// What a view needs beside what is seen.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Fields of the manifest that do nothing here.
    pub ignored: Vec<String>,
    /// The workload that wants the pod.
    pub owner: Option<crate::api::workload::Owner>,
    /// The pod's cgroup.
    pub cgroup: String,
    /// The pod's directory.
    pub dir: std::path::PathBuf,
    /// The pid of its shim.
    pub shim: Option<u32>,
    /// The node's name.
    pub node: String,
}

/// A pod's view; `None` while nothing was accepted.
pub fn view(seen: &Observed, around: &Surroundings, now: (Tick, Timestamp)) -> Option<PodView> {
    let record = seen.record.as_ref()?;
    let mut pod = record.pod.clone();
    // As the API server does: an object says where it is, also where its manifest does not.
    pod.metadata.namespace.get_or_insert_with(|| crate::api::ids::DEFAULT_NAMESPACE.to_owned());
    pod.metadata.uid = Some(record.uid.to_string());
    pod.metadata.creation_timestamp = Some(Time(record.created));
    if let Some(doom) = &record.doomed {
        pod.metadata.deletion_timestamp = Some(Time(doom.since));
    }
    if let Some(spec) = &mut pod.spec {
        spec.node_name = Some(around.node.clone());
    }
    let statuses: Vec<ContainerStatus> =
        containers(&record.pod).iter().map(|c| status(c, record, seen, now.0)).collect();
    let phase = phase(record, seen);
    let ready = !statuses.is_empty() && statuses.iter().all(|s| s.ready);
    let started = seen.containers.values().filter_map(|c| c.previous.as_ref().or(c.attempt.as_ref()));
    pod.status = Some(PodStatus {
        phase: Some(phase_name(phase).to_owned()),
        conditions: Some(conditions(phase, ready, &statuses, now.1)),
        reason: record
            .ended
            .as_ref()
            .map(|e| e.reason.clone())
            .or_else(|| seen.failure.as_ref().map(|f| f.reason.to_owned())),
        message: record
            .ended
            .as_ref()
            .map(|e| e.message.clone())
            .or_else(|| seen.failure.as_ref().map(|f| f.message.clone())),
        start_time: started.map(|a| a.started_at).min().map(Time),
        container_statuses: Some(statuses),
        ..PodStatus::default()
    });
    let containers = containers(&record.pod).iter().map(|c| extras(c, record, seen, around, now)).collect();
    let lamina = Extras {
        uid: record.uid.clone(),
        source: record.origin.source.as_str().to_owned(),
        file: record.origin.file.clone().map(Into::into),
        owner: around.owner.clone(),
        ignored: around.ignored.clone(),
        containers,
        shim: around.shim,
    };
    Some(PodView { pod, lamina })
}

/// How far a pod is.
pub fn phase(record: &Record, seen: &Observed) -> Phase {
    let all = containers(&record.pod);
    let of = |c: &Container| seen.containers.get(&c.name);
    let running = seen.containers.values().any(Observation::running);
    if record.ended.is_some() && !running {
        return Phase::Failed;
    }
    let done = |c: &Container| {
        let generation = record.containers.get(&c.name).map_or(0, |g| g.spec);
        of(c).is_some_and(|o| !o.running() && o.attempt.is_some() && next_start(record, generation, o).is_none())
    };
    if !all.is_empty() && all.iter().all(done) {
        let bad = |c: &Container| {
            of(c).and_then(|o| o.attempt.as_ref()).and_then(|a| a.exit.as_ref()).is_some_and(|e| e.code != 0)
        };
        return if all.iter().any(bad) { Phase::Failed } else { Phase::Succeeded };
    }
    if all.iter().all(|c| of(c).is_some_and(|o| o.attempt.is_some())) { Phase::Running } else { Phase::Pending }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
    }
}

fn status(container: &Container, record: &Record, seen: &Observed, now: Tick) -> ContainerStatus {
    let absent = Observation::default();
    let c = seen.containers.get(&container.name).unwrap_or(&absent);
    let running = c.running();
    let id = |a: &Attempt| format!("lamina://{}/{}/{}", record.uid, container.name, a.number);
    let ended = |a: &Attempt| {
        a.exit.as_ref().map(|exit| ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some(id(a)),
                exit_code: exit.code,
                signal: exit.signal,
                reason: Some(exit.reason.clone()),
                message: exit.message.clone(),
                started_at: Some(Time(a.started_at)),
                finished_at: Some(Time(exit.finished_at)),
            }),
            ..ContainerState::default()
        })
    };
    let last = if running { c.previous.as_ref() } else { c.attempt.as_ref() };
    let state = match &c.attempt {
        Some(a) if a.exit.is_none() => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(a.started_at)) }),
            ..ContainerState::default()
        },
        _ => match waiting(record, container, c, seen, now) {
            Some((reason, message)) => ContainerState {
                waiting: Some(ContainerStateWaiting { reason: Some(reason), message }),
                ..ContainerState::default()
            },
            None => c.attempt.as_ref().and_then(ended).unwrap_or_default(),
        },
    };
    let last_state = if state.terminated.is_some() { c.previous.as_ref() } else { last };
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        image_id: c.attempt.as_ref().map(|a| a.image.clone()).unwrap_or_default(),
        container_id: c.attempt.as_ref().map(id),
        ready: running && c.stop.is_none(),
        started: Some(running),
        restart_count: c.attempt.as_ref().map_or(0, |a| i32::try_from(a.number).unwrap_or(i32::MAX)),
        last_state: last_state.and_then(ended),
        state: Some(state),
        ..ContainerStatus::default()
    }
}

/// Why a container that does not run is going to; `None`: it is not.
fn waiting(
    record: &Record,
    container: &Container,
    c: &Observation,
    seen: &Observed,
    now: Tick,
) -> Option<(String, Option<String>)> {
    let generation = record.containers.get(&container.name).map_or(0, |g| g.spec);
    if record.doomed.is_some() || record.ended.is_some() {
        return None;
    }
    let (due, _) = next_start(record, generation, c)?;
    if due > now {
        let wait = due.saturating_sub(now).as_secs().max(1);
        let exit = c.attempt.as_ref().and_then(|a| a.exit.as_ref());
        let ended = exit.map(|e| format!("{} (exit status {})", e.reason, e.code)).unwrap_or_default();
        return Some(("CrashLoopBackOff".to_owned(), Some(format!("starts again in {wait} s; it ended: {ended}"))));
    }
    if let Some(failure) = c.failure.as_ref().or(seen.failure.as_ref()) {
        return Some((failure.reason.to_owned(), Some(failure.message.clone())));
    }
    let message = (c.image == Image::Fetching).then(|| "the image is being fetched".to_owned());
    Some(("ContainerCreating".to_owned(), message))
}

/// Whether a pod is shown as ready.
pub fn is_ready(view: &PodView) -> bool {
    let conditions = view.pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn conditions(phase: Phase, ready: bool, statuses: &[ContainerStatus], now: Timestamp) -> Vec<PodCondition> {
    let condition = |type_: &str, holds: bool, reason: Option<&str>, message: Option<String>| PodCondition {
        type_: type_.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: reason.filter(|_| !holds).map(str::to_owned),
        message: message.filter(|_| !holds),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    };
    let over = matches!(phase, Phase::Succeeded | Phase::Failed);
    let reason = if over { "PodCompleted" } else { "ContainersNotReady" };
    let unready: Vec<&str> = statuses.iter().filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    let message = (!over).then(|| format!("containers with unready status: [{}]", unready.join(" ")));
    vec![
        condition("PodScheduled", true, None, None),
        condition("Initialized", true, None, None),
        condition("ContainersReady", ready, Some(reason), message.clone()),
        condition("Ready", ready, Some(reason), message),
    ]
}

/// Keeps the time of each condition's last change from the view before.
pub fn keep_transitions(view: &mut PodView, before: &PodView) {
    let old = before.pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let old: Vec<&PodCondition> = old.collect();
    for condition in view.pod.status.iter_mut().flat_map(|s| s.conditions.iter_mut().flatten()) {
        if let Some(same) = old.iter().find(|o| o.type_ == condition.type_ && o.status == condition.status) {
            condition.last_transition_time.clone_from(&same.last_transition_time);
        }
    }
}

fn extras(
    container: &Container,
    record: &Record,
    seen: &Observed,
    around: &Surroundings,
    now: (Tick, Timestamp),
) -> ContainerExtras {
    let mut extras = ContainerExtras { name: container.name.clone(), ..ContainerExtras::default() };
    let Some(c) = seen.containers.get(&container.name) else { return extras };
    let generation = record.containers.get(&container.name).map_or(0, |g| g.spec);
    if let Some(attempt) = &c.attempt {
        extras.attempt = attempt.number;
        extras.pid = attempt.pid.filter(|_| attempt.exit.is_none());
        extras.image_digest = Some(attempt.image.clone());
        extras.layers.clone_from(&attempt.layers);
        extras.cgroup =
            attempt.exit.is_none().then(|| format!("{}/{}-{}", around.cgroup, container.name, attempt.number));
        let dir = around.dir.join("containers").join(&container.name).join(attempt.number.to_string());
        extras.upper = Some(dir.join("upper"));
    }
    if let Some((due, _)) = next_start(record, generation, c).filter(|(due, _)| *due > now.0) {
        extras.next_start = now.1.checked_add(due.saturating_sub(now.0)).ok();
    } else if let Some(failure) = c.failure.as_ref().filter(|f| f.retry == Retry::Backoff) {
        let due = failure.at + super::backoff::retry(failure.count);
        extras.next_start = now.1.checked_add(due.saturating_sub(now.0)).ok();
    }
    extras
}
