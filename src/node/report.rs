//! What the cluster is told of the node: its pods of workloads, its store, what holds of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition as KubeCondition, Time};
use tokio::sync::watch;

use super::audience::{Board, Views};
use super::request::Readiness;
use crate::api::cluster::{self, Endpoint, NodePod, NodeReportStatus, StoreTotals, condition};
use crate::api::{Condition, PodView};
use crate::pod::real::Machine;
use crate::source::kubernetes::PLACE;
use crate::source::{DesiredSet, SourceKind};

/// How often the store is looked at when no pod changes.
const LOOK: Duration = Duration::from_secs(30);
/// How many characters of a message are told.
const MESSAGE: usize = 120;

/// What the report is made of.
pub(super) struct Parts {
    pub(super) machine: Arc<Machine>,
    pub(super) board: Board,
    pub(super) sets: watch::Receiver<Arc<DesiredSet>>,
    pub(super) readiness: watch::Receiver<Readiness>,
    pub(super) conditions: watch::Receiver<Vec<Condition>>,
    /// Where the agent answers the cluster.
    pub(super) endpoint: Option<Endpoint>,
}

/// Keeps `state` as the node is. Ends when the node does.
pub(super) async fn keep(mut parts: Parts, state: watch::Sender<Option<NodeReportStatus>>) {
    let mut views = parts.board.subscribe();
    let mut holds: Vec<Condition> = Vec::new();
    loop {
        if parts.readiness.borrow().ready {
            let now = views.borrow_and_update().clone();
            let set = Arc::clone(&parts.sets.borrow_and_update());
            let (ready, others) = (parts.readiness.borrow().clone(), parts.conditions.borrow().clone());
            let next = status(&parts.machine, &now, &set, &ready, &others, parts.endpoint.as_ref(), &mut holds);
            state.send_if_modified(|old| {
                let changed = old.as_ref() != Some(&next);
                if changed {
                    *old = Some(next);
                }
                changed
            });
        }
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return },
            changed = parts.sets.changed() => if changed.is_err() { return },
            changed = parts.readiness.changed() => if changed.is_err() { return },
            changed = parts.conditions.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn status(
    machine: &Machine,
    views: &Views,
    set: &DesiredSet,
    ready: &Readiness,
    others: &[Condition],
    endpoint: Option<&Endpoint>,
    holds: &mut Vec<Condition>,
) -> NodeReportStatus {
    let usage = machine.store.usage();
    let damaged = usage.layers.iter().filter(|layer| layer.damaged).count();
    let of = |kind: &str, status: bool, reason: &str, message: String| Condition {
        kind: kind.to_owned(),
        status: Some(status),
        reason: reason.to_owned(),
        message,
        last_transition_time: Timestamp::now(),
    };
    let unready = if ready.ready { "AgentReady" } else { "AgentNotReady" };
    Condition::set(holds, of(condition::READY, ready.ready, unready, ready.reason.clone()));
    let sound = match damaged {
        0 => of(condition::STORE_SOUND, true, "NothingDamaged", String::new()),
        n => of(condition::STORE_SOUND, false, "LayersDamaged", format!("{n} layers are damaged; see lamina check")),
    };
    Condition::set(holds, sound);
    let pressure = others.iter().find(|c| c.kind == condition::DISK_PRESSURE).cloned();
    Condition::set(
        holds,
        pressure.unwrap_or_else(|| of(condition::DISK_PRESSURE, false, "NothingShort", String::new())),
    );
    let mut pods: Vec<NodePod> = views.iter().filter_map(|view| pod(view)).collect();
    for problem in &set.problems {
        refuse(Path::new(&problem.file), &format!("{}: {}", problem.path, problem.reason), &mut pods);
    }
    pods.sort_by(|a, b| (&a.namespace, &a.workload, &a.uid).cmp(&(&b.namespace, &b.workload, &b.uid)));
    pods.dedup_by(|a, b| a.uid == b.uid);
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    NodeReportStatus {
        agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        kernel_tier: Some(machine.layers.tier().as_str().to_owned()),
        kernel_version: Some(rustix::system::uname().release().to_string_lossy().into_owned()),
        endpoint: endpoint.cloned(),
        pod_count: i32::try_from(pods.len()).unwrap_or(i32::MAX),
        pods,
        store: Some(StoreTotals {
            layers: count(usage.layers.len()),
            bytes: bytes(usage.total),
            size: Some(quantity(usage.total)),
            shared_bytes_saved: bytes(usage.saved),
            reclaimable_bytes: bytes(usage.reclaimable()),
        }),
        conditions: holds.iter().map(kube_condition).collect(),
    }
}

/// `1.2Gi`, as people read sizes.
fn quantity(bytes: u64) -> String {
    let units = [("Gi", 1_u64 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    match units.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{}.{}{name}", bytes / unit, bytes % unit * 10 / unit),
        None => bytes.to_string(),
    }
}

fn kube_condition(condition: &Condition) -> KubeCondition {
    let status = match condition.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    KubeCondition {
        type_: condition.kind.clone(),
        status: status.to_owned(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        last_transition_time: Time(condition.last_transition_time),
        observed_generation: None,
    }
}

/// What is told of a pod that came from the cluster.
fn pod(view: &PodView) -> Option<NodePod> {
    if view.lamina.source != SourceKind::Kubernetes.as_str() {
        return None;
    }
    let metadata = &view.pod.metadata;
    let status = view.pod.status.as_ref();
    let condition = status.and_then(|s| s.conditions.iter().flatten().find(|c| c.type_ == "Ready"));
    let ready = condition.is_some_and(|c| c.status == "True") && metadata.deletion_timestamp.is_none();
    let (reason, message) = if ready { (None, None) } else { status.map_or((None, None), why) };
    Some(NodePod {
        uid: view.lamina.uid.to_string(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        workload: metadata.labels.as_ref()?.get(cluster::WORKLOAD)?.clone(),
        revision: metadata.annotations.as_ref()?.get(cluster::REVISION)?.clone(),
        ready,
        since: condition.and_then(|c| c.last_transition_time.clone()),
        restarts: status.map(|s| everyone(s).map(|c| c.restart_count).fold(0, i32::saturating_add)).unwrap_or_default(),
        reason,
        message: message.map(|m| m.chars().take(MESSAGE).collect()),
    })
}

fn everyone(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
}

/// Why a pod is not ready: what a container waits for or how it ended, else what the pod says.
fn why(status: &PodStatus) -> (Option<String>, Option<String>) {
    for container in everyone(status) {
        let Some(state) = &container.state else { continue };
        if let Some(waiting) = &state.waiting
            && !matches!(waiting.reason.as_deref(), None | Some("PodInitializing" | "ContainerCreating"))
        {
            return (waiting.reason.clone(), waiting.message.clone());
        }
    }
    if status.reason.is_some() {
        return (status.reason.clone(), status.message.clone());
    }
    for container in everyone(status) {
        let state = container.state.as_ref();
        if let Some(ended) = state.and_then(|s| s.terminated.as_ref()).filter(|e| e.exit_code != 0) {
            return (ended.reason.clone(), ended.message.clone());
        }
        if state.is_some_and(|s| s.running.is_some()) && !container.ready {
            return (Some("ContainersNotReady".to_owned()), Some(format!("container {} is not ready", container.name)));
        }
    }
    (Some("ContainerCreating".to_owned()), None)
}

/// Tells of a workload that this node cannot make a pod of, or not of the revision that it should: at the pod that it
/// has, or with an entry whose uid is `workload/<namespace>/<name>`.
fn refuse(file: &Path, message: &str, pods: &mut Vec<NodePod>) {
    let Ok(below) = file.strip_prefix(Path::new(PLACE).join("NodeWorkload")) else { return };
    let Some((namespace, workload)) = below.to_str().and_then(|below| below.split_once('/')) else { return };
    let (reason, message) = (Some("Rejected".to_owned()), Some(message.chars().take(MESSAGE).collect()));
    if let Some(pod) = pods.iter_mut().find(|p| p.namespace == namespace && p.workload == workload) {
        if pod.reason.is_none() {
            (pod.reason, pod.message) = (reason, message);
        }
        return;
    }
    pods.push(NodePod {
        uid: format!("workload/{namespace}/{workload}"),
        namespace: namespace.to_owned(),
        workload: workload.to_owned(),
        revision: String::new(),
        ready: false,
        since: None,
        restarts: 0,
        reason,
        message,
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view(source: &str, status: serde_json::Value) -> PodView {
        serde_json::from_value(json!({
            "metadata": {
                "name": "game", "namespace": "arena",
                "labels": { "lamina.dev/workload": "game" }, "annotations": { "lamina.dev/revision": "game-1" },
            },
            "status": status,
            "lamina": { "uid": "0f0e0d0c-0b0a-4908-8706-050403020100", "source": source, "containers": [] },
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_is_told_with_why_it_is_not_ready() {
        let broken = json!({
            "conditions": [{ "type": "Ready", "status": "False", "lastTransitionTime": "2026-01-31T12:00:00Z" }],
            "containerStatuses": [{
                "name": "app", "image": "x", "imageID": "", "ready": false, "restartCount": 4,
                "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "m".repeat(200) } },
            }],
        });
        let told = pod(&view("kubernetes", broken.clone())).unwrap();
        assert_eq!((told.ready, told.restarts, told.revision.as_str()), (false, 4, "game-1"));
        assert_eq!(told.reason.as_deref(), Some("CrashLoopBackOff"));
        assert_eq!(told.message.unwrap().len(), MESSAGE);
        assert!(told.since.is_some());
        assert!(pod(&view("manifests", broken)).is_none(), "the cluster did not ask for it");
        let ready = json!({ "conditions": [{ "type": "Ready", "status": "True" }] });
        let told = pod(&view("kubernetes", ready)).unwrap();
        assert!(told.ready && told.reason.is_none());
        assert_eq!(pod(&view("kubernetes", json!({}))).unwrap().reason.as_deref(), Some("ContainerCreating"));
    }

    #[test]
    fn a_workload_that_makes_no_pod_is_told_once() {
        let file = Path::new("kubernetes/NodeWorkload/arena/bad");
        let mut told = Vec::new();
        refuse(file, "spec.template: must be a map", &mut told);
        assert_eq!((told[0].uid.as_str(), told[0].reason.as_deref()), ("workload/arena/bad", Some("Rejected")));
        refuse(file, "again", &mut told);
        refuse(Path::new("/etc/lamina/manifests/web.yaml"), "x", &mut told);
        assert_eq!(told.len(), 1);
        assert!(told[0].message.as_deref().unwrap().contains("must be a map"), "the first says it");
        // What runs of a former revision goes on, and says why it is still that one.
        let ready = json!({ "conditions": [{ "type": "Ready", "status": "True" }] });
        let mut running = vec![pod(&view("kubernetes", ready)).unwrap()];
        refuse(Path::new("kubernetes/NodeWorkload/arena/game"), "too much", &mut running);
        assert!(running[0].ready && running[0].reason.as_deref() == Some("Rejected") && running.len() == 1);
    }

    #[test]
    fn sizes_are_as_people_read_them() {
        for (bytes, shown) in [(0, "0"), (1023, "1023"), (1536, "1.5Ki"), (3 << 30, "3.0Gi")] {
            assert_eq!(quantity(bytes), shown);
        }
    }
}
