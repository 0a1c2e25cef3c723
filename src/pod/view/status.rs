//! What is shown of one container, as in `core/v1`.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    Pod, VolumeMount, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pod::backoff::Tick;
use crate::pod::plan::{Role, everyone, health, initialized, is_over, next_start, roles};
use crate::pod::state::{Attempt, Image, Observation, Observed, Record};

/// The status of one container.
pub(super) fn status(
    (role, container): (Role, &Container),
    record: &Record,
    seen: &Observed,
    now: Tick,
) -> ContainerStatus {
    let absent = Observation::default();
    let c = seen.containers.get(&container.name).map_or(&absent, AsRef::as_ref);
    let running = c.running();
    let id = |a: &Attempt| format!("lamina://{}/{}/{}", record.uid, container.name, a.number);
    let ended = |a: &Attempt| {
        a.exit.as_ref().map(|exit| ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some(id(a)),
                exit_code: exit.code,
                signal: exit.signal,
                reason: Some(exit.reason.clone()),
                message: exit.message.as_deref().map(|m| head(m, longest_message(&record.pod))),
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
        _ => match waiting(record, (role, container), c, seen, now) {
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
        // While an attempt of an earlier version runs, the pod's specification names another image.
        image: c
            .attempt
            .as_ref()
            .map(|a| a.image_name.clone())
            .filter(|name| !name.is_empty())
            .or_else(|| container.image.clone())
            .unwrap_or_default(),
        image_id: c.attempt.as_ref().map(|a| a.image.clone()).unwrap_or_default(),
        container_id: c.attempt.as_ref().map(id),
        ready: match role {
            Role::Init => state.terminated.as_ref().is_some_and(|t| t.exit_code == 0),
            Role::Sidecar | Role::Main => health::ready(container, c),
        },
        volume_mounts: volume_mounts(container),
        started: Some(health::started(container, c)),
        restart_count: c.attempt.as_ref().map_or(0, |a| i32::try_from(a.number).unwrap_or(i32::MAX)),
        last_state: last_state.and_then(ended),
        state: Some(state),
        ..ContainerStatus::default()
    }
}

/// What all messages of a pod together may come to, in bytes.
const ALL_MESSAGES: usize = 12 << 10;

/// How long one container's message may be.
fn longest_message(pod: &Pod) -> usize {
    ALL_MESSAGES / everyone(pod).count().max(1)
}

/// The beginning of a text, in whole characters.
fn head(text: &str, bytes: usize) -> String {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or_default().to_owned()
}

/// What is mounted where, and whether reading is all that can be done below, too.
fn volume_mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let one = |mount: &VolumeMount| {
        let read_only = mount.read_only == Some(true);
        let all = matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: read_only.then_some(true),
            recursive_read_only: read_only.then(|| if all { "Enabled" } else { "Disabled" }.to_owned()),
            ..VolumeMountStatus::default()
        }
    };
    container.volume_mounts.as_ref().map(|mounts| mounts.iter().map(one).collect())
}

/// Why a container that does not run is going to; `None`: it is not.
fn waiting(
    record: &Record,
    (role, container): (Role, &Container),
    c: &Observation,
    seen: &Observed,
    now: Tick,
) -> Option<(String, Option<String>)> {
    if record.doomed.is_some() || record.ended.is_some() {
        return None;
    }
    if is_over(record, seen) || (role == Role::Init && initialized(record, seen)) {
        return None;
    }
    let (due, _) = next_start(record, (role, container), seen, c)?;
    if due > now {
        // Rounded up: it is not sooner.
        let wait = due.saturating_sub(now).as_millis().div_ceil(1000);
        let exit = c.attempt.as_ref().and_then(|a| a.exit.as_ref());
        let ended = exit.map(|e| format!("{} (exit status {})", e.reason, e.code)).unwrap_or_default();
        return Some(("CrashLoopBackOff".to_owned(), Some(format!("starts again in {wait} s; it ended: {ended}"))));
    }
    if let Some(failure) = c.failure.as_ref().or(seen.failure.as_ref()) {
        return Some((failure.reason.to_owned(), Some(failure.message.clone())));
    }
    let message = (c.image == Image::Fetching).then(|| "the image is being fetched".to_owned());
    let reason = if roles::inits(&record.pod).is_empty() { "ContainerCreating" } else { "PodInitializing" };
    Some((reason.to_owned(), message))
}
