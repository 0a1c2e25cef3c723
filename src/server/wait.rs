//! Waiting for an object to be as wanted: the node publishes each change, so nothing polls.

mod claim;
pub(super) mod rollout;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

use super::State;
use super::problem::{Problem, Reason};
use crate::api::{Kind, Object, PodChange, PodView, change};
use crate::volume;

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Goal {
    Ready,
    Succeeded,
    Deleted,
}

/// Of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) kind: Kind,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) reached: bool,
    /// It never will be, unless something else is asked for: there is no use in waiting.
    pub(super) over: bool,
    /// How things stand, for a person.
    pub(super) state: String,
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// Why a pod is not ready, in the words of its status.
fn reason(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let waiting = status
        .into_iter()
        .flat_map(|s| s.init_container_statuses.iter().chain(&s.container_statuses).flatten())
        .filter_map(|c| Some((c, c.state.as_ref()?.waiting.as_ref()?)))
        .map(|(c, waiting)| {
            let parts = [waiting.reason.as_deref(), waiting.message.as_deref()];
            format!("{}: {}", c.name, parts.into_iter().flatten().collect::<Vec<_>>().join(": "))
        });
    let message = status.and_then(|s| s.message.clone()).into_iter();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let all: Vec<String> =
        std::iter::once(format!("pod {name} is {}", phase(pod))).chain(message).chain(waiting).collect();
    all.join("; ")
}

/// Whether a pod runs no more, and will not again.
pub(super) fn is_over(state: &State, namespace: &str, name: &str) -> bool {
    let pods = state.pods();
    let found = pods.iter().find(|pod| {
        let key = pod.key();
        key.namespace == namespace && key.name == name
    });
    found.is_none_or(|pod| matches!(phase(&pod.pod), "Succeeded" | "Failed"))
}

/// How many pods an object wants.
fn wanted(object: &Object) -> usize {
    let count = match object {
        Object::Deployment(deployment) => deployment.spec.replicas.unwrap_or(1),
        Object::Job(job) => job.spec.as_ref().and_then(|spec| spec.completions.or(spec.parallelism)).unwrap_or(1),
        _ => 1,
    };
    usize::try_from(count).unwrap_or(0)
}

/// Whether it has a status of its own.
fn is_workload(kind: Kind) -> bool {
    matches!(kind, Kind::Deployment | Kind::DaemonSet | Kind::StatefulSet | Kind::Job | Kind::CronJob)
}

/// What is desired of an object: how many pods, and the pod itself if it is one.
#[derive(Debug, Default)]
struct Desired {
    count: usize,
    pod: Option<Pod>,
}

/// Whether a pod has ended for good without being as it should. One whose manifest has changed is about to be replaced.
fn is_hopeless(pod: &Pod, goal: Goal, desired: Option<&Desired>) -> bool {
    let bad = match goal {
        Goal::Ready => matches!(phase(pod), "Succeeded" | "Failed"),
        Goal::Succeeded => phase(pod) == "Failed",
        Goal::Deleted => false,
    };
    let wanted = desired.and_then(|desired| desired.pod.as_ref());
    bad && pod.metadata.deletion_timestamp.is_none()
        && wanted.is_none_or(|wanted| change(pod, wanted) == PodChange::Nothing)
}

/// How things stand, from what is desired and what is published.
fn judge(target: &Target, goal: Goal, desired: Option<&Desired>, pods: &[Arc<PodView>]) -> Result<Answer, Problem> {
    let mine: Vec<&Pod> = pods
        .iter()
        .filter(|pod| {
            let (key, owner) = (pod.key(), pod.lamina.owner.as_ref());
            let named = match target.kind {
                Kind::Pod => key.name == target.name,
                _ => owner.is_some_and(|o| o.kind == target.kind && o.name == target.name),
            };
            named && key.namespace == target.namespace
        })
        .map(|pod| &pod.pod)
        .collect();
    let said = || match mine.iter().find(|pod| !ready(pod)) {
        Some(pod) => reason(pod),
        None if mine.is_empty() => "it has no pods".to_owned(),
        None => format!("{} of its pods are ready", mine.len()),
    };
    let answer = |reached| Answer { reached, over: false, state: said() };
    let there = desired.is_some() || !mine.is_empty();
    if goal == Goal::Deleted {
        return Ok(answer(!there));
    }
    if !there {
        let name = format!("{}/{}", target.namespace, target.name);
        return Err(Problem::not_found(&target.kind.to_string().to_lowercase(), &name).hint("lamina get pods -A"));
    }
    if matches!(target.kind, Kind::ConfigMap | Kind::Secret | Kind::Service) {
        return Ok(answer(true));
    }
    // A workload's pods are replaced or added to when they end; a pod by itself stays as it is.
    if target.kind == Kind::Pod && mine.iter().any(|pod| is_hopeless(pod, goal, desired)) {
        return Ok(Answer { over: true, ..answer(false) });
    }
    let count = desired.map_or(1, |desired| desired.count);
    let succeeded = mine.iter().filter(|pod| phase(pod) == "Succeeded").count();
    let terminating = mine.iter().any(|pod| pod.metadata.deletion_timestamp.is_some());
    Ok(answer(match goal {
        Goal::Ready => {
            !terminating && mine.len() >= count && mine.iter().all(|pod| ready(pod) || phase(pod) == "Succeeded")
        }
        Goal::Succeeded => succeeded >= count,
        Goal::Deleted => false,
    }))
}

/// Waits until the object is as wanted, or the time is over. An object that is not there (yet) is waited for.
pub(super) async fn until(state: &State, target: &Target, goal: Goal, timeout: Duration) -> Result<Answer, Problem> {
    let mut pods = state.node.pods();
    let mut desired = state.node.desired();
    let mut workloads = state.node.workload_changes();
    let mut claims = state.node.machine().claims.subscribe();
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        workloads.mark_unchanged();
        let mut workload = None;
        let wanted = {
            let set = desired.borrow_and_update();
            let found = set.objects.iter().find(|sourced| {
                let key = sourced.object.key();
                key.kind == target.kind && key.namespace == target.namespace && key.name == target.name
            });
            found.map(|sourced| {
                let object = sourced.object.as_ref();
                workload = is_workload(target.kind).then(|| sourced.object.clone());
                let pod = if let Object::Pod(pod) = object { Some((**pod).clone()) } else { None };
                Desired { count: wanted(object), pod }
            })
        };
        let published = pods.borrow_and_update().clone();
        let known = claims.borrow_and_update().clone();
        let answer = match workload.filter(|_| goal != Goal::Deleted) {
            // Its status says more than its pods; one that the manager has not seen yet says nothing.
            Some(object) => Ok(match state.node.workloads().get(&object.key()) {
                Some(view) if view.object == object => rollout::judge(view, goal),
                _ => Answer { reached: false, over: false, state: "it was not looked at yet".to_owned() },
            }),
            None if target.kind == Kind::PersistentVolumeClaim => {
                Ok(claim::judge(goal, known.get(&volume::claim::key(&target.namespace, &target.name))))
            }
            None => judge(target, goal, wanted.as_ref(), &published),
        };
        if matches!(&answer, Ok(Answer { reached: true, .. } | Answer { over: true, .. })) {
            return answer;
        }
        // All are cancel-safe: a change that is not taken now is still there at the next look.
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => return answer,
            () = state.stop.cancelled() => return Err(Problem::new(Reason::Unavailable, "the agent is stopping")),
            changed = pods.changed() => changed.map_err(|e| Problem::of(Reason::Unavailable, &e))?,
            changed = claims.changed() => changed.map_err(|e| Problem::of(Reason::Unavailable, &e))?,
            changed = workloads.changed() => changed.map_err(|e| Problem::of(Reason::Unavailable, &e))?,
            changed = desired.changed() => changed.map_err(|e| Problem::of(Reason::Unavailable, &e))?,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, phase: &str, is_ready: bool) -> Arc<PodView> {
        let status = if is_ready { "True" } else { "False" };
        let view = json!({
            "metadata": {"name": name, "namespace": "default"},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": status}]},
            "lamina": {"uid": "00000000-0000-4000-8000-000000000000", "source": "desired", "containers": [],
                "owner": {"kind": "Deployment", "name": "web", "ordinal": 0}},
        });
        Arc::new(serde_json::from_value(view).unwrap())
    }

    fn target(kind: Kind, name: &str) -> Target {
        Target { kind, namespace: "default".into(), name: name.into() }
    }

    fn count(count: usize) -> Desired {
        Desired { count, pod: None }
    }

    #[test]
    fn a_pod_that_ended_for_good_is_not_waited_for() {
        let web = target(Kind::Pod, "web-0");
        for (phase, goal, over) in [
            ("Failed", Goal::Ready, true),
            ("Succeeded", Goal::Ready, true),
            ("Failed", Goal::Succeeded, true),
            ("Running", Goal::Succeeded, false),
            ("Failed", Goal::Deleted, false),
        ] {
            let answer = judge(&web, goal, None, &[pod("web-0", phase, false)]).unwrap();
            assert_eq!((answer.reached, answer.over), (false, over), "{phase} {goal:?}");
        }
        let owner = judge(&target(Kind::Deployment, "web"), Goal::Ready, None, &[pod("web-0", "Failed", false)]);
        assert!(!owner.unwrap().over, "its workload may make another");
    }

    #[test]
    fn a_failed_pod_whose_manifest_changed_is_waited_for() {
        let failed = pod("web-0", "Failed", false);
        let same = Desired { count: 1, pod: Some(failed.pod.clone()) };
        let mut other = failed.pod.clone();
        other.spec = serde_json::from_value(json!({"containers": [{"name": "a", "image": "b:1"}]})).unwrap();
        let changed = Desired { count: 1, pod: Some(other) };
        let web = target(Kind::Pod, "web-0");
        assert!(judge(&web, Goal::Ready, Some(&same), std::slice::from_ref(&failed)).unwrap().over);
        assert!(!judge(&web, Goal::Ready, Some(&changed), &[failed]).unwrap().over);
    }

    #[test]
    fn a_workload_is_ready_when_all_the_pods_it_wants_are() {
        let web = target(Kind::Deployment, "web");
        let some = [pod("web-0", "Running", true), pod("web-1", "Running", false)];
        let all = [pod("web-0", "Running", true), pod("web-1", "Running", true)];
        assert!(!judge(&web, Goal::Ready, Some(&count(2)), &some).unwrap().reached);
        assert!(judge(&web, Goal::Ready, Some(&count(2)), &all).unwrap().reached);
        assert!(!judge(&web, Goal::Ready, Some(&count(3)), &all).unwrap().reached);
    }

    #[test]
    fn what_is_not_there_is_deleted_and_otherwise_not_found() {
        let none = target(Kind::Pod, "none");
        assert!(judge(&none, Goal::Deleted, None, &[]).unwrap().reached);
        assert!(!judge(&none, Goal::Deleted, Some(&count(1)), &[]).unwrap().reached);
        assert_eq!(judge(&none, Goal::Ready, None, &[]).unwrap_err().reason, Reason::NotFound);
    }

    #[test]
    fn a_pod_that_waits_says_for_what() {
        let answer =
            judge(&target(Kind::Pod, "web-0"), Goal::Succeeded, None, &[pod("web-0", "Pending", false)]).unwrap();
        assert_eq!(answer, Answer { reached: false, over: false, state: "pod web-0 is Pending".into() });
    }
}
