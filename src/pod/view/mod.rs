//! What is shown of a pod: the Kubernetes object with its status, from what is wanted and what is seen. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::backoff::Tick;
use super::plan::{Role, containers, everyone, initialized, is_over, next_start};
use super::state::{Observed, Record};
use crate::api::PodView;
use crate::api::view::{ContainerExtras, Extras};
use crate::api::workload::Phase;
use crate::runtime::spec::qos;

mod conditions;
mod status;

use conditions::conditions;
use status::status;

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
    /// The pod's addresses, and the node's.
    pub addresses: (Vec<String>, Vec<String>),
}

/// A pod's view; `None` while nothing was accepted.
pub fn view(seen: &Observed, around: &Surroundings, now: (Tick, Timestamp)) -> Option<PodView> {
    let record = seen.record.as_ref()?;
    let mut pod = Pod::clone(&record.pod);
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
    let of = |wanted: fn(Role) -> bool| -> Vec<ContainerStatus> {
        let them = everyone(&record.pod).filter(|(role, _)| wanted(*role));
        them.map(|(role, c)| status((role, c), record, seen, now.0)).collect()
    };
    let (inits, mains) = (of(|r| r != Role::Main), of(|r| r == Role::Main));
    let phase = phase(record, seen);
    let (own, hosts) = &around.addresses;
    pod.status = Some(PodStatus {
        qos_class: qos(&record.pod).ok().map(|class| class.as_str().to_owned()),
        phase: Some(phase_name(phase).to_owned()),
        conditions: Some(conditions(record, seen, (&inits, &mains), now.1)),
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
        start_time: Some(Time(record.created)),
        pod_ip: own.first().cloned(),
        pod_ips: some(own.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        host_ip: hosts.first().cloned(),
        host_ips: some(hosts.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        init_container_statuses: Some(inits).filter(|i| !i.is_empty()),
        container_statuses: Some(mains),
        ..PodStatus::default()
    });
    // Who names no container means the first of the main ones.
    let (mains, inits): (Vec<_>, Vec<_>) = everyone(&record.pod).partition(|(role, _)| *role == Role::Main);
    let containers = mains.into_iter().chain(inits).map(|c| extras(c, record, seen, around, now)).collect();
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

/// A list that has something in it.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|l| !l.is_empty())
}

/// How far a pod is.
pub fn phase(record: &Record, seen: &Observed) -> Phase {
    let of = |c: &Container| seen.containers.get(&c.name);
    let running = seen.containers.values().any(|c| c.running());
    if record.ended.is_some() && !running {
        return Phase::Failed;
    }
    // As a kubelet has it: over only once everything has ended, sidecars too.
    if is_over(record, seen) && !running {
        let bad = |c: &Container| {
            of(c).and_then(|o| o.attempt.as_ref()).is_none_or(|a| a.exit.as_ref().is_some_and(|e| e.code != 0))
        };
        return if containers(&record.pod).iter().any(bad) { Phase::Failed } else { Phase::Succeeded };
    }
    let begun = (initialized(record, seen) || record.renewed > 0)
        && containers(&record.pod).iter().all(|c| of(c).is_some_and(|o| o.attempt.is_some()));
    if begun { Phase::Running } else { Phase::Pending }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
    }
}

/// Whether a pod is shown as ready.
pub fn is_ready(view: &PodView) -> bool {
    let conditions = view.pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
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
    (role, container): (Role, &Container),
    record: &Record,
    seen: &Observed,
    around: &Surroundings,
    now: (Tick, Timestamp),
) -> ContainerExtras {
    let mut extras = ContainerExtras { name: container.name.clone(), ..ContainerExtras::default() };
    let Some(c) = seen.containers.get(&container.name) else { return extras };
    if let Some(attempt) = &c.attempt {
        extras.attempt = attempt.number;
        extras.pid = attempt.pid.filter(|_| attempt.exit.is_none());
        extras.image_digest = Some(attempt.image.clone());
        extras.layers.clone_from(&attempt.layers);
        extras.cgroup =
            attempt.exit.is_none().then(|| format!("{}/{}-{}", around.cgroup, container.name, attempt.number));
        let dir = around.dir.join("containers").join(&container.name).join(attempt.number.to_string());
        extras.upper = Some(dir.join("upper"));
        extras.first_id = record.users.unwrap_or_default();
    }
    if let Some((due, _)) = next_start(record, (role, container), seen, c).filter(|(due, _)| *due > now.0) {
        extras.next_start = now.1.checked_add(due.saturating_sub(now.0)).ok();
    } else if let Some(due) = c.failure.as_ref().and_then(super::state::Failure::due) {
        extras.next_start = now.1.checked_add(due.saturating_sub(now.0)).ok();
    }
    extras
}
