//! Workloads, driven step by step by a node that does what it is told.

mod remembered;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::batch::v1::Job;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::change::change;
use super::*;

/// With nothing to remember.
fn expand(object: &Object, observed: &[Observed], now: Timestamp) -> Expansion {
    super::expand(object, observed, &Memory::default(), now)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn deployment(replicas: u32, image: &str, more: Value) -> Object {
    let mut spec = json!({
        "replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": image}]}}
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let d: Deployment = serde_json::from_value(
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "n"}, "spec": spec}),
    )
    .unwrap();
    Object::Deployment(Box::new(d))
}

fn job(more: Value) -> Object {
    let mut spec = json!({
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x:1"}]}}
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let j: Job = serde_json::from_value(
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": spec}),
    )
    .unwrap();
    Object::Job(Box::new(j))
}

/// A node that does what an expansion says: new pods are pending, changed ones start anew, others go.
fn step(observed: &mut Vec<Observed>, object: &Object, now: Timestamp) {
    let expansion = expand(object, observed, now);
    obey(observed, &expansion, now);
}

fn obey(observed: &mut Vec<Observed>, expansion: &Expansion, now: Timestamp) {
    observed.retain(|o| expansion.pods.iter().any(|w| w.owner.ordinal == o.ordinal));
    for wanted in &expansion.pods {
        let fresh = Observed {
            ordinal: wanted.owner.ordinal,
            pod: wanted.pod.clone(),
            phase: Phase::Pending,
            ready_since: None,
            created: now,
            finished: None,
            restarts: 0,
            index: wanted.owner.index,
            exits: Vec::new(),
            conditions: Vec::new(),
            images: BTreeSet::new(),
        };
        match observed.iter_mut().find(|o| o.ordinal == wanted.owner.ordinal) {
            Some(o) if matches!(change(&o.pod, &wanted.pod), PodChange::Nothing | PodChange::InPlace) => {
                o.pod = wanted.pod.clone();
            }
            Some(o) => *o = fresh,
            None => observed.push(fresh),
        }
    }
}

use super::super::change::PodChange;

fn ready(observed: &mut [Observed], now: Timestamp) {
    for o in observed.iter_mut().filter(|o| o.phase == Phase::Pending) {
        (o.phase, o.ready_since) = (Phase::Running, Some(now));
    }
}

fn finish(observed: &mut [Observed], ordinal: u32, phase: Phase, now: Timestamp) {
    let o = observed.iter_mut().find(|o| o.ordinal == ordinal).unwrap();
    (o.phase, o.ready_since, o.finished) = (phase, None, Some(now));
}

fn images(observed: &[Observed]) -> Vec<String> {
    let mut sorted: Vec<_> = observed.iter().collect();
    sorted.sort_by_key(|o| o.ordinal);
    sorted.iter().map(|o| o.pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap()).collect()
}

#[test]
fn replicas_are_named_by_ordinal_and_scaled_from_the_end() {
    let mut pods = Vec::new();
    let first = expand(&deployment(3, "x:1", json!({})), &pods, at(0));
    let names: Vec<_> = first.pods.iter().map(|w| w.pod.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["web-0", "web-1", "web-2"]);
    assert_eq!(first.pods[0].pod.metadata.namespace.as_deref(), Some("n"));
    obey(&mut pods, &first, at(0));
    let fewer = expand(&deployment(1, "x:1", json!({})), &pods, at(1));
    assert_eq!(fewer.pods.len(), 1);
    assert!(expand(&deployment(0, "x:1", json!({})), &pods, at(1)).pods.is_empty());
}

#[test]
fn a_new_template_is_rolled_one_after_another() {
    let mut pods = Vec::new();
    step(&mut pods, &deployment(3, "x:1", json!({})), at(0));
    ready(&mut pods, at(1));
    let new = deployment(3, "x:2", json!({}));
    for expected in [["x:2", "x:1", "x:1"], ["x:2", "x:2", "x:1"], ["x:2", "x:2", "x:2"]] {
        step(&mut pods, &new, at(2));
        assert_eq!(images(&pods), expected);
        // Until that one is ready, nothing more.
        step(&mut pods, &new, at(2));
        assert_eq!(images(&pods), expected);
        ready(&mut pods, at(3));
    }
    let done = expand(&new, &pods, at(4));
    assert_eq!((done.status.updated, done.status.ready, done.status.available, done.wake), (3, 3, 3, None));
}

#[test]
fn a_new_template_that_never_gets_ready_takes_one_pod_only() {
    let mut pods = Vec::new();
    step(&mut pods, &deployment(3, "x:1", json!({})), at(0));
    ready(&mut pods, at(1));
    let bad = deployment(3, "x:bad", json!({}));
    for _ in 0..5 {
        step(&mut pods, &bad, at(2));
    }
    assert_eq!(images(&pods), ["x:bad", "x:1", "x:1"]);
    // The way back needs nobody's leave: the pod that is not ready is replaced at once.
    step(&mut pods, &deployment(3, "x:1", json!({})), at(3));
    assert_eq!(images(&pods), ["x:1", "x:1", "x:1"]);
}

#[test]
fn min_ready_seconds_and_pause_hold_a_roll_back() {
    let mut pods = Vec::new();
    step(&mut pods, &deployment(2, "x:1", json!({})), at(0));
    ready(&mut pods, at(0));
    let new = deployment(2, "x:2", json!({"minReadySeconds": 10}));
    let early = expand(&new, &pods, at(5));
    assert_eq!(early.wake, Some(at(10)));
    step(&mut pods, &deployment(2, "x:2", json!({"paused": true})), at(20));
    assert_eq!(images(&pods), ["x:1", "x:1"]);
    step(&mut pods, &new, at(20));
    assert_eq!(images(&pods), ["x:2", "x:1"]);
}

#[test]
fn recreate_replaces_all_at_once_and_a_daemon_set_has_one_pod() {
    let mut pods = Vec::new();
    step(&mut pods, &deployment(2, "x:1", json!({})), at(0));
    ready(&mut pods, at(1));
    step(&mut pods, &deployment(2, "x:2", json!({"strategy": {"type": "Recreate"}})), at(2));
    assert_eq!(images(&pods), ["x:2", "x:2"]);
    let d: DaemonSet = serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d"},
        "spec": {"selector": {}, "template": {"spec": {"containers": []}}}
    }))
    .unwrap();
    let one = expand(&Object::DaemonSet(Box::new(d)), &[], at(0));
    assert_eq!(one.pods[0].owner.to_string(), "DaemonSet d");
    assert_eq!(one.pods[0].pod.metadata.name.as_deref(), Some("d-0"));
}

#[test]
fn a_job_runs_until_it_has_its_completions() {
    let job = job(json!({"completions": 3, "parallelism": 2, "ttlSecondsAfterFinished": 60}));
    let mut pods = Vec::new();
    step(&mut pods, &job, at(0));
    assert_eq!(pods.len(), 2);
    finish(&mut pods, 0, Phase::Succeeded, at(1));
    step(&mut pods, &job, at(1));
    assert_eq!(pods.len(), 3);
    finish(&mut pods, 1, Phase::Succeeded, at(2));
    step(&mut pods, &job, at(2));
    assert_eq!(pods.len(), 3, "only one completion is missing, and it runs");
    finish(&mut pods, 2, Phase::Succeeded, at(3));
    let done = expand(&job, &pods, at(4));
    assert_eq!(
        (done.status.end, done.pods.len(), done.wake, done.expired),
        (Some(JobEnd::Complete), 3, Some(at(63)), false)
    );
    assert!(expand(&job, &pods, at(63)).expired);
}

#[test]
fn a_jobs_pods_are_wanted_whichever_of_them_is_seen_first() {
    let ordinals = |e: &Expansion| e.pods.iter().map(|w| w.owner.ordinal).collect::<BTreeSet<_>>();
    for more in [json!({}), json!({"completionMode": "Indexed"})] {
        let mut spec = json!({"completions": 2, "parallelism": 2});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let job = job(spec);
        let mut pods = Vec::new();
        step(&mut pods, &job, at(0));
        let both = ordinals(&expand(&job, &pods, at(0)));
        assert_eq!(both, BTreeSet::from([0, 1]));
        assert_eq!(ordinals(&expand(&job, &pods[1..], at(0))), both);
        assert_eq!(ordinals(&expand(&job, &pods[..1], at(0))), both);
    }
}

#[test]
fn a_job_that_fails_waits_longer_each_time_and_gives_up() {
    let job = job(json!({"backoffLimit": 2}));
    let mut pods = Vec::new();
    step(&mut pods, &job, at(0));
    finish(&mut pods, 0, Phase::Failed, at(1));
    let waits = expand(&job, &pods, at(2));
    assert_eq!((waits.pods.len(), waits.wake), (1, Some(at(11))));
    step(&mut pods, &job, at(11));
    finish(&mut pods, 1, Phase::Failed, at(12));
    assert_eq!(expand(&job, &pods, at(13)).wake, Some(at(32)));
    step(&mut pods, &job, at(32));
    finish(&mut pods, 2, Phase::Failed, at(33));
    let over = expand(&job, &pods, at(34));
    assert!(matches!(over.status.end, Some(JobEnd::Failed(ref reason, _)) if reason == "BackoffLimitExceeded"));
    assert_eq!(over.pods.len(), 3, "what has ended stays for its logs");
}

#[test]
fn restarts_within_a_pod_count_and_running_pods_of_a_failed_job_go() {
    let job = job(json!({"backoffLimit": 1, "parallelism": 2, "completions": 2}));
    let mut pods = Vec::new();
    step(&mut pods, &job, at(0));
    pods[0].restarts = 2;
    let over = expand(&job, &pods, at(1));
    assert!(over.pods.is_empty() && matches!(over.status.end, Some(JobEnd::Failed(..))));
}

#[test]
fn a_deadline_ends_a_job_and_suspend_stops_it() {
    let slow = job(json!({"activeDeadlineSeconds": 30}));
    let mut pods = Vec::new();
    step(&mut pods, &slow, at(100));
    assert_eq!(expand(&slow, &pods, at(110)).wake, Some(at(130)));
    let over = expand(&slow, &pods, at(130));
    assert!(matches!(over.status.end, Some(JobEnd::Failed(ref reason, _)) if reason == "DeadlineExceeded"));
    assert!(over.pods.is_empty());
    let suspended = expand(&job(json!({"suspend": true})), &pods, at(110));
    assert!(suspended.pods.is_empty() && suspended.status.end.is_none());
}

#[test]
fn a_queue_is_done_when_one_ended_well_and_the_others_are_through() {
    let queue = job(json!({"parallelism": 2}));
    let mut pods = Vec::new();
    step(&mut pods, &queue, at(0));
    finish(&mut pods, 0, Phase::Succeeded, at(1));
    let one = expand(&queue, &pods, at(1));
    assert_eq!((one.pods.len(), one.status.end), (2, None));
    finish(&mut pods, 1, Phase::Succeeded, at(2));
    assert_eq!(expand(&queue, &pods, at(2)).status.end, Some(JobEnd::Complete));
}

proptest! {
    /// Whatever the pods do, and however often templates change: never more than one available pod is taken away at a
    /// time, and once pods get ready, all are of the newest template.
    #[test]
    fn a_roll_takes_one_pod_at_a_time_and_ends(
        replicas in 1_u32..6,
        steps in prop::collection::vec((0_u8..3, any::<prop::sample::Index>()), 0..30),
    ) {
        let mut pods = Vec::new();
        let mut version = 1;
        let mut now = 0;
        for (what, which) in steps {
            now += 1;
            match what {
                0 => version += 1,
                1 => ready(&mut pods, at(now)),
                _ if !pods.is_empty() => {
                    let o: &mut Observed = &mut pods[which.index(which.index(100) + 1) % replicas as usize];
                    (o.phase, o.ready_since) = (Phase::Pending, None);
                }
                _ => {}
            }
            let before = pods.iter().filter(|o| o.ready_since.is_some()).count();
            let expansion = expand(&deployment(replicas, &format!("x:{version}"), json!({})), &pods, at(now));
            prop_assert_eq!(expansion.pods.len(), replicas as usize);
            obey(&mut pods, &expansion, at(now));
            let left = pods.iter().filter(|o| o.ready_since.is_some()).count();
            prop_assert!(before - left <= 1);
            prop_assert!(before == left || before == replicas as usize, "taken away while another was away");
        }
        for _ in 0..=replicas {
            now += 1;
            ready(&mut pods, at(now));
            step(&mut pods, &deployment(replicas, &format!("x:{version}"), json!({})), at(now));
        }
        ready(&mut pods, at(now));
        prop_assert_eq!(images(&pods), vec![format!("x:{version}"); replicas as usize]);
    }
}

#[test]
fn where_a_rollout_ends_is_known_before_it_begins() {
    let names =
        |settled: &Settled| settled.pods.iter().map(|w| w.pod.metadata.name.clone().unwrap()).collect::<Vec<_>>();
    let images = |settled: &Settled| {
        let of = |w: &Wanted| w.pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
        settled.pods.iter().map(of).collect::<BTreeSet<_>>()
    };
    let old = deployment(3, "x:1", json!({}));
    let fresh = settled(&old, &[], &Memory::default(), at(0));
    assert_eq!(names(&fresh), ["web-0", "web-1", "web-2"]);
    let mut observed = Vec::new();
    step(&mut observed, &old, at(0));
    // In place, and beside the old ones.
    let in_place =
        settled(&deployment(2, "x:2", json!({"minReadySeconds": 600})), &observed, &Memory::default(), at(9));
    assert_eq!(
        (names(&in_place), images(&in_place)),
        (vec!["web-0".into(), "web-1".into()], ["x:2".to_owned()].into())
    );
    let surge = json!({"strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}});
    let beside = settled(&deployment(3, "x:2", surge), &observed, &Memory::default(), at(9));
    assert_eq!((beside.pods.len(), images(&beside)), (3, ["x:2".to_owned()].into()));
    let paused = settled(&deployment(3, "x:2", json!({"paused": true})), &observed, &Memory::default(), at(9));
    assert_eq!(images(&paused), ["x:1".to_owned()].into());
    assert_eq!(
        settled(&job(json!({"completions": 5, "parallelism": 2})), &[], &Memory::default(), at(0)).pods.len(),
        2
    );
}
