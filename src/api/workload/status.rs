//! The status of a workload as `apps/v1` and `batch/v1` have it, from its counters.

use serde_json::{Map, Value, json};

use super::super::condition::Condition;
use super::super::document::Kind;
use super::WorkloadStatus;

/// The `status` of an object of this kind.
pub fn status(kind: Kind, s: &WorkloadStatus) -> Value {
    let conditions = (!s.conditions.is_empty()).then(|| conditions(kind, &s.conditions));
    let value = match kind {
        Kind::Deployment => json!({
            "replicas": s.current, "updatedReplicas": s.updated, "readyReplicas": s.ready,
            "availableReplicas": s.available, "unavailableReplicas": s.desired.saturating_sub(s.available),
            "conditions": conditions,
        }),
        Kind::StatefulSet => json!({
            "replicas": s.current, "updatedReplicas": s.updated, "readyReplicas": s.ready,
            "availableReplicas": s.available, "currentReplicas": s.current.saturating_sub(s.updated),
            "updateRevision": s.revision.to_string(),
        }),
        Kind::DaemonSet => json!({
            "desiredNumberScheduled": s.desired, "currentNumberScheduled": s.current, "numberReady": s.ready,
            "numberAvailable": s.available, "numberUnavailable": s.desired.saturating_sub(s.available),
            "updatedNumberScheduled": s.updated, "numberMisscheduled": 0,
        }),
        Kind::Job => json!({
            "active": s.current, "ready": s.ready, "succeeded": s.succeeded, "failed": s.failed,
            "startTime": s.started, "completionTime": s.finished.filter(|_| s.end == Some(super::JobEnd::Complete)),
            "completedIndexes": s.completed_indexes, "failedIndexes": s.failed_indexes, "conditions": conditions,
        }),
        Kind::CronJob => json!({
            "active": s.active.iter().map(|name| json!({"kind": "Job", "apiVersion": "batch/v1", "name": name}))
                .collect::<Vec<_>>(),
            "lastScheduleTime": s.last_schedule, "lastSuccessfulTime": s.last_success,
        }),
        _ => Value::Null,
    };
    // What is not known is left out, as the API server does.
    match value {
        Value::Object(map) => map.into_iter().filter(|(_, v)| !v.is_null()).collect::<Map<_, _>>().into(),
        other => other,
    }
}

fn conditions(kind: Kind, all: &[Condition]) -> Vec<Value> {
    // A Job's conditions have a time of the last probe, a Deployment's one of the last update.
    let second = if kind == Kind::Job { "lastProbeTime" } else { "lastUpdateTime" };
    all.iter()
        .map(|c| {
            let mut value = serde_json::to_value(c).unwrap_or_default();
            if let Value::Object(map) = &mut value {
                map.insert(second.to_owned(), json!(c.last_transition_time));
            }
            value
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::api::apps::v1::{DaemonSetStatus, DeploymentStatus, StatefulSetStatus};
    use k8s_openapi::api::batch::v1::{CronJobStatus, JobStatus};

    use super::*;

    #[test]
    fn statuses_read_as_those_of_kubernetes() {
        let condition = Condition {
            kind: "Available".into(),
            status: Some(true),
            reason: "R".into(),
            message: "m".into(),
            last_transition_time: Timestamp::UNIX_EPOCH,
        };
        let s = WorkloadStatus {
            desired: 3,
            current: 3,
            ready: 2,
            available: 1,
            updated: 2,
            conditions: vec![condition],
            active: vec!["j-1".into()],
            last_schedule: Some(Timestamp::UNIX_EPOCH),
            ..WorkloadStatus::default()
        };
        let d: DeploymentStatus = serde_json::from_value(status(Kind::Deployment, &s)).unwrap();
        assert_eq!((d.ready_replicas, d.unavailable_replicas, d.conditions.unwrap().len()), (Some(2), Some(2), 1));
        let j: JobStatus = serde_json::from_value(status(Kind::Job, &s)).unwrap();
        assert_eq!((j.active, j.completion_time), (Some(3), None));
        let c: CronJobStatus = serde_json::from_value(status(Kind::CronJob, &s)).unwrap();
        assert!(c.last_schedule_time.is_some() && c.active.unwrap().len() == 1);
        let _: StatefulSetStatus = serde_json::from_value(status(Kind::StatefulSet, &s)).unwrap();
        let ds: DaemonSetStatus = serde_json::from_value(status(Kind::DaemonSet, &s)).unwrap();
        assert_eq!(ds.desired_number_scheduled, 3);
    }
}
