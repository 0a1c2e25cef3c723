//! A pod as its workload sees it.

use crate::api::PodView;
use crate::api::workload::{self, Owner, Phase};
use crate::pod::state::Observed;

/// A pod that is ready when it is first seen was so before this agent: since when nobody knows, but not for longer than
/// its newest container runs.
pub(super) fn adopt_transitions(view: &mut PodView, seen: &Observed) {
    let started = seen.containers.values().filter_map(|c| c.attempt.as_ref()).map(|a| a.started_at).max();
    let Some(started) = started else { return };
    for condition in view.pod.status.iter_mut().flat_map(|s| s.conditions.iter_mut().flatten()) {
        if condition.status == "True" {
            condition.last_transition_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(started));
        }
    }
}

/// How a pod is, for its workload.
pub(super) fn observed(
    owner: &Owner,
    record: &crate::pod::state::Record,
    view: &PodView,
    phase: Phase,
    seen: &Observed,
) -> workload::Observed {
    let conditions = view.pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let mut ready = conditions.filter(|c| c.type_ == "Ready" && c.status == "True");
    let attempts = seen.containers.values().filter_map(|c| c.attempt.as_ref());
    let finished = attempts.clone().filter_map(|a| a.exit.as_ref()).map(|e| e.finished_at).max();
    // One that still runs what it was before its template changed says nothing of the new one.
    let is_current = |name: &String, attempt: &crate::pod::state::Attempt| {
        record.containers.get(name).is_none_or(|g| g.spec == attempt.generations.spec)
    };
    let running = seen.containers.iter().filter_map(|(name, c)| Some((name, c.attempt.as_ref()?)));
    let current = running.clone().all(|(name, attempt)| is_current(name, attempt));
    workload::Observed {
        ordinal: owner.ordinal,
        pod: record.pod.clone(),
        phase,
        // A container that came back within one pass leaves no trace in the condition.
        ready_since: ready
            .find_map(|c| c.last_transition_time.as_ref().map(|t| t.0))
            .map(|since| attempts.clone().map(|a| a.started_at).fold(since, std::cmp::Ord::max))
            .filter(|_| current),
        created: record.created,
        finished: finished.filter(|_| matches!(phase, Phase::Succeeded | Phase::Failed)),
        restarts: attempts.map(|a| a.number).sum(),
        index: owner.index,
        exits: {
            let exits =
                seen.containers.iter().map(|(name, c)| Some((name.clone(), c.attempt.as_ref()?.exit.as_ref()?.code)));
            exits.flatten().collect()
        },
        conditions: {
            let all = view.pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
            all.map(|c| (c.type_.clone(), c.status.clone())).collect()
        },
        images: running
            .filter(|(name, a)| !a.image.is_empty() && is_current(name, a))
            .map(|(_, a)| a.image.clone())
            .collect(),
    }
}
