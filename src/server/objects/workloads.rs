//! Deployments, StatefulSets, DaemonSets, Jobs and CronJobs with their status, as Kubernetes shows them.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::workload::status::status;
use crate::api::{Kind, Object, WorkloadView};
use crate::server::State;

/// Every workload of a kind.
pub(super) fn list(state: &State, kind: Kind) -> Vec<Value> {
    let all = state.node.workloads();
    all.iter().filter(|(key, _)| key.kind == kind).map(|(_, view)| shown(kind, view)).collect()
}

fn shown(kind: Kind, view: &Arc<WorkloadView>) -> Value {
    let declared = match view.object.as_ref() {
        Object::Deployment(o) => serde_json::to_value(o),
        Object::StatefulSet(o) => serde_json::to_value(o),
        Object::DaemonSet(o) => serde_json::to_value(o),
        Object::Job(o) => serde_json::to_value(o),
        Object::CronJob(o) => serde_json::to_value(o),
        _ => Ok(Value::Null),
    };
    let mut object = declared.unwrap_or_default();
    let key = view.object.key();
    object["metadata"]["namespace"] = json!(key.namespace);
    object["metadata"]["creationTimestamp"] = json!(view.since);
    if let Some(cron) = &view.controller {
        let owner = json!({"apiVersion": "batch/v1", "kind": cron.kind.as_str(), "name": cron.name,
            "uid": "", "controller": true});
        object["metadata"]["ownerReferences"] = json!([owner]);
    }
    object["status"] = status(kind, &view.status);
    object["lamina"] = json!({
        "source": view.source, "file": view.file, "ignored": view.ignored, "revision": view.status.revision,
    });
    object
}
