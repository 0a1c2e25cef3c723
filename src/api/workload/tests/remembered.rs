//! Rollouts, sets, jobs and schedules as they go on over time, with what is remembered between steps.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::CronJob;

use super::*;

/// A node that remembers, and does what it is told.
#[derive(Default)]
struct World {
    pods: Vec<Observed>,
    memory: Memory,
}

impl World {
    fn look(&mut self, object: &Object, now: i64) -> Expansion {
        let out = super::super::expand(object, &self.pods, &self.memory, at(now));
        self.memory = out.memory.clone();
        out
    }

    fn step(&mut self, object: &Object, now: i64) -> Expansion {
        let out = self.look(object, now);
        obey(&mut self.pods, &out, at(now));
        for pod in &mut self.pods {
            let image = pod.pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
            pod.images = [image].into();
        }
        out
    }

    /// Steps until nothing changes, with every pod ready as soon as it is there.
    fn settle(&mut self, object: &Object, now: i64) -> Expansion {
        for n in 0..30 {
            self.step(object, now + n);
            ready(&mut self.pods, at(now + n));
        }
        self.look(object, now + 30)
    }

    fn ordinals(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.pods.iter().map(|o| o.ordinal).collect();
        all.sort_unstable();
        all
    }
}

fn set(replicas: u32, image: &str, more: Value) -> Object {
    let mut spec = json!({
        "replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": image}]}}
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let s: StatefulSet = serde_json::from_value(
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "n"}, "spec": spec}),
    )
    .unwrap();
    Object::StatefulSet(Box::new(s))
}

#[test]
fn revisions_are_kept_and_one_that_comes_back_gets_a_new_number() {
    let mut world = World::default();
    let of = |image| deployment(1, image, json!({"revisionHistoryLimit": 1}));
    world.settle(&of("x:1"), 0);
    world.settle(&of("x:2"), 100);
    assert_eq!((world.memory.revision(), world.memory.settled), (2, 2));
    world.settle(&of("x:1"), 200);
    let numbers: Vec<u64> = world.memory.revisions.iter().map(|r| r.number).collect();
    assert_eq!(numbers, [2, 3]);
    world.settle(&of("x:3"), 300);
    let numbers: Vec<u64> = world.memory.revisions.iter().map(|r| r.number).collect();
    assert_eq!(numbers, [3, 4], "one older template is kept");
}

#[test]
fn the_images_before_a_rollout_are_held_until_it_is_through() {
    let mut world = World::default();
    let idle = world.settle(&deployment(2, "x:1", json!({})), 0);
    assert!(idle.holds.is_empty());
    let bad = deployment(2, "x:bad", json!({}));
    world.step(&bad, 100);
    world.step(&bad, 101);
    let held = ["x:1".to_owned()].into();
    assert_eq!(world.look(&bad, 102).holds, held);
    // Another try on top of it: still what ran last is held.
    let other = deployment(2, "x:3", json!({}));
    world.step(&other, 103);
    assert!(world.look(&other, 104).holds.is_superset(&held));
    assert!(world.settle(&other, 105).holds.is_empty());
}

#[test]
fn conditions_tell_of_availability_and_of_progress() {
    let mut world = World::default();
    let of = |image| deployment(1, image, json!({"progressDeadlineSeconds": 60}));
    let done = world.settle(&of("x:1"), 0);
    let reasons = |e: &Expansion| e.status.conditions.iter().map(|c| c.reason.clone()).collect::<Vec<_>>();
    assert_eq!(reasons(&done), ["MinimumReplicasAvailable", "NewReplicaSetAvailable"]);
    world.step(&of("x:bad"), 100);
    let stuck = world.look(&of("x:bad"), 101);
    assert_eq!((reasons(&stuck)[1].as_str(), stuck.wake), ("ReplicaSetUpdated", Some(at(161))));
    let late = world.look(&of("x:bad"), 200);
    assert_eq!(reasons(&late)[1], "ProgressDeadlineExceeded");
}

#[test]
fn with_surge_new_pods_come_first_and_old_ones_go_as_they_are_available() {
    let mut world = World::default();
    let more = json!({"strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}});
    world.settle(&deployment(2, "x:1", more.clone()), 0);
    let new = deployment(2, "x:2", more);
    world.step(&new, 100);
    assert_eq!(
        (world.ordinals(), images(&world.pods)),
        (vec![0, 1, 2], vec!["x:1".into(), "x:1".into(), "x:2".into()])
    );
    // Until the new one is ready, nothing more.
    world.step(&new, 101);
    assert_eq!(world.ordinals(), [0, 1, 2]);
    ready(&mut world.pods, at(102));
    world.step(&new, 103);
    assert_eq!(world.ordinals(), [1, 2]);
    let done = world.settle(&new, 104);
    assert_eq!((world.pods.len(), done.status.updated, done.status.available), (2, 2, 2));
}

#[test]
fn max_unavailable_says_how_many_go_at_once() {
    let mut world = World::default();
    let more = json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "50%"}}});
    world.settle(&deployment(4, "x:1", more.clone()), 0);
    world.step(&deployment(4, "x:2", more), 100);
    assert_eq!(images(&world.pods), ["x:2", "x:2", "x:1", "x:1"]);
}

#[test]
fn a_restart_makes_each_pod_anew_one_after_another() {
    let mut world = World::default();
    let web = deployment(2, "x:1", json!({}));
    world.settle(&web, 0);
    world.memory.restarted = Some(at(100));
    world.step(&web, 101);
    assert_eq!(world.ordinals(), [1], "the first is ended");
    world.step(&web, 102);
    assert_eq!((world.ordinals(), world.pods.iter().filter(|p| p.created < at(100)).count()), (vec![0, 1], 1));
    world.settle(&web, 103);
    assert!(world.pods.len() == 2 && world.pods.iter().all(|p| p.created > at(100)));
}

#[test]
fn a_set_starts_its_pods_in_order_and_ends_them_in_the_reverse_one() {
    let mut world = World::default();
    world.step(&set(3, "x:1", json!({})), 0);
    assert_eq!(world.ordinals(), [0]);
    world.step(&set(3, "x:1", json!({})), 1);
    assert_eq!(world.ordinals(), [0], "the second waits for the first");
    ready(&mut world.pods, at(2));
    world.step(&set(3, "x:1", json!({})), 3);
    assert_eq!(world.ordinals(), [0, 1]);
    world.settle(&set(3, "x:1", json!({})), 4);
    let pod = &world.pods[2].pod;
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(
        (pod.metadata.name.as_deref(), spec.hostname.as_deref(), spec.subdomain.as_deref()),
        (Some("db-2"), Some("db-2"), Some("db"))
    );
    world.step(&set(1, "x:1", json!({})), 100);
    assert_eq!(world.ordinals(), [0, 1], "one at a time, the highest first");
    world.step(&set(1, "x:1", json!({})), 101);
    assert_eq!(world.ordinals(), [0]);
    let mut world = World::default();
    world.step(&set(3, "x:1", json!({"podManagementPolicy": "Parallel", "ordinals": {"start": 5}})), 0);
    assert_eq!(world.ordinals(), [5, 6, 7]);
}

#[test]
fn a_set_is_updated_from_its_last_pod_down_to_the_partition() {
    let mut world = World::default();
    world.settle(&set(3, "x:1", json!({})), 0);
    let new = set(3, "x:2", json!({"updateStrategy": {"rollingUpdate": {"partition": 1}}}));
    world.step(&new, 100);
    assert_eq!(images(&world.pods), ["x:1", "x:1", "x:2"]);
    world.step(&new, 101);
    assert_eq!(images(&world.pods), ["x:1", "x:1", "x:2"], "the next waits until that one is ready");
    world.settle(&new, 102);
    assert_eq!(images(&world.pods), ["x:1", "x:2", "x:2"]);
    // One below the partition that is lost comes back as it was.
    world.pods.retain(|p| p.ordinal != 0);
    world.step(&new, 200);
    assert_eq!(images(&world.pods), ["x:1", "x:2", "x:2"]);
    ready(&mut world.pods, at(201));
    let on_delete = set(3, "x:3", json!({"updateStrategy": {"type": "OnDelete"}}));
    world.settle(&on_delete, 202);
    assert_eq!(images(&world.pods), ["x:1", "x:2", "x:2"]);
    world.pods.retain(|p| p.ordinal != 2);
    world.step(&on_delete, 300);
    assert_eq!(images(&world.pods), ["x:1", "x:2", "x:3"]);
}

#[test]
fn each_pod_of_a_set_has_claims_of_its_own() {
    let claims = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]});
    let out = expand(&set(1, "x:1", claims), &[], at(0));
    let volume = out.pods[0].pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0].clone();
    assert_eq!(
        (volume.name.as_str(), volume.persistent_volume_claim.unwrap().claim_name.as_str()),
        ("data", "data-db-0")
    );
}

#[test]
fn a_job_that_has_ended_stays_so_when_its_pods_are_gone() {
    let mut world = World::default();
    let slow = job(json!({"activeDeadlineSeconds": 30}));
    world.step(&slow, 100);
    world.step(&slow, 130);
    assert!(world.pods.is_empty());
    let after = world.step(&slow, 140);
    assert!(matches!(after.status.end, Some(JobEnd::Failed(ref reason, _)) if reason == "DeadlineExceeded"));
    assert!(world.pods.is_empty() && after.status.finished == Some(at(140)));
    // Another template is another job.
    let mut other = slow.clone();
    if let Object::Job(j) = &mut other {
        j.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image = Some("x:2".into());
    }
    world.step(&other, 150);
    assert_eq!(images(&world.pods), ["x:2"]);
}

#[test]
fn an_indexed_job_has_a_pod_for_each_number_and_tries_each_for_itself() {
    let mut world = World::default();
    let spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimitPerIndex": 0});
    let indexed = job(spec);
    world.step(&indexed, 0);
    let names: Vec<_> = world.pods.iter().map(|p| p.pod.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["j-0-0", "j-1-1", "j-2-2"]);
    let spec = world.pods[1].pod.spec.as_ref().unwrap();
    let env = &spec.containers[0].env.as_ref().unwrap()[0];
    assert_eq!((env.name.as_str(), env.value.as_deref()), ("JOB_COMPLETION_INDEX", Some("1")));
    finish(&mut world.pods, 0, Phase::Succeeded, at(1));
    finish(&mut world.pods, 1, Phase::Failed, at(1));
    finish(&mut world.pods, 2, Phase::Succeeded, at(1));
    let end = world.look(&indexed, 2).status;
    assert!(matches!(end.end, Some(JobEnd::Failed(ref reason, _)) if reason == "FailedIndexes"), "{end:?}");
    assert_eq!((end.completed_indexes.as_deref(), end.failed_indexes.as_deref()), (Some("0,2"), Some("1")));
}

#[test]
fn policies_of_failure_and_of_success_end_a_job_early() {
    let mut world = World::default();
    let policy = json!({"podFailurePolicy": {"rules": [
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [3]}},
        {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [42]}},
    ]}});
    let picky = job(policy);
    world.step(&picky, 0);
    finish(&mut world.pods, 0, Phase::Failed, at(1));
    world.pods[0].exits = vec![("c".into(), 3)];
    assert_eq!(world.look(&picky, 2).status.failed, 0);
    world.pods[0].exits = vec![("c".into(), 42)];
    let end = world.look(&picky, 3).status.end;
    assert!(matches!(end, Some(JobEnd::Failed(ref reason, _)) if reason == "PodFailurePolicy"));

    let mut world = World::default();
    let first = job(json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3,
        "successPolicy": {"rules": [{"succeededIndexes": "0-1", "succeededCount": 1}]}}));
    world.step(&first, 0);
    finish(&mut world.pods, 1, Phase::Succeeded, at(1));
    let done = world.step(&first, 2);
    assert_eq!((done.status.end, done.pods.len()), (Some(JobEnd::Complete), 1));
}

fn cron(more: Value) -> CronJob {
    let mut spec = json!({
        "schedule": "*/10 * * * *", "timeZone": "UTC",
        "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x:1"}]}}}}
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(
        json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick", "namespace": "n"}, "spec": spec}),
    )
    .unwrap()
}

/// A cron job over time: names of its jobs after each look; `done` are those that have ended.
fn names(cron: &CronJob, memory: &mut Memory, done: &[&str], now: i64) -> Vec<String> {
    let finished = JobMemory {
        template: PodTemplateSpec::default(),
        started: Some(at(0)),
        end: Some(JobEnd::Complete),
        finished: Some(at(now)),
        counts: (1, 0),
        expired: false,
    };
    let runs = super::super::cron::runs(cron, memory, |name| done.contains(&name).then_some(&finished), at(now));
    *memory = runs.memory;
    runs.jobs.iter().map(|j| j.metadata.name.clone().unwrap()).collect()
}

#[test]
fn a_schedule_is_neither_missed_nor_met_twice() {
    let (cron, mut memory) = (cron(json!({})), Memory::default());
    assert!(names(&cron, &mut memory, &[], 6_000_030).is_empty(), "nothing is due for the time before it was there");
    assert_eq!(names(&cron, &mut memory, &[], 6_000_600), ["tick-100010"]);
    // The same memory again, as after a restart; a clock that goes back a little; then the next.
    assert_eq!(names(&cron, &mut memory, &["tick-100010"], 6_000_601).len(), 1);
    assert_eq!(names(&cron, &mut memory, &["tick-100010"], 6_000_590).len(), 1);
    assert_eq!(names(&cron, &mut memory, &["tick-100010"], 6_000_600).len(), 1);
    // An hour without an agent: the newest of the missed counts.
    assert_eq!(names(&cron, &mut memory, &["tick-100010"], 6_004_210), ["tick-100010", "tick-100070"]);
    // A clock that was set back by a year: it goes on from there.
    let year = 6_004_210 - 31_536_000;
    names(&cron, &mut memory, &[], year);
    let last = names(&cron, &mut memory, &[], year + 600);
    assert_eq!(last.len(), 3, "{last:?}");
}

#[test]
fn concurrency_deadline_suspension_and_history_are_kept() {
    let mut memory = Memory::default();
    let forbid = cron(json!({"concurrencyPolicy": "Forbid"}));
    names(&forbid, &mut memory, &[], 6_000_030);
    names(&forbid, &mut memory, &[], 6_000_600);
    assert_eq!(names(&forbid, &mut memory, &[], 6_001_200), ["tick-100010"], "the first still runs");
    assert_eq!(names(&forbid, &mut memory, &["tick-100010"], 6_001_300), ["tick-100010", "tick-100020"]);
    let replace = cron(json!({"concurrencyPolicy": "Replace", "successfulJobsHistoryLimit": 0}));
    assert_eq!(names(&replace, &mut memory, &["tick-100010"], 6_001_800), ["tick-100030"]);
    let late = cron(json!({"startingDeadlineSeconds": 60}));
    assert_eq!(names(&late, &mut memory, &[], 6_002_500), ["tick-100030"], "more than a minute late");
    let suspended = cron(json!({"suspend": true}));
    assert_eq!(names(&suspended, &mut memory, &[], 6_003_000), ["tick-100030"]);
}
