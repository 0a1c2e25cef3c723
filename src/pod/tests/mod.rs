//! The plan in a simulated world.

mod lifecycle;
mod renew;
mod world;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;

use self::world::{World, live, settle};
use super::desired::{Config, Desired, Eviction, Wanted};
use super::engine::{Push, StepError};
use super::plan::{Step, plan};
use super::state::{Observed, Origin, Retry, Source};

fn pod(policy: &str, containers: &[(&str, &str)]) -> Pod {
    let containers: Vec<_> =
        containers.iter().map(|(name, image)| serde_json::json!({"name": name, "image": image})).collect();
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"restartPolicy": policy, "containers": containers},
    }))
    .unwrap()
}

fn want(pod: Pod) -> Wanted {
    let origin = Origin { source: Source::Directory, file: None, workload: None };
    Wanted {
        desired: Some(Desired { pod: Arc::new(pod), origin, config: Arc::new(Config::default()) }),
        ..Wanted::default()
    }
}

fn started(world: &World) -> Vec<(&str, u64)> {
    world.starts.iter().map(|(c, t)| (c.as_str(), t.as_secs())).collect()
}

const HOUR: Duration = Duration::from_hours(1);

#[test]
fn a_pod_runs_and_then_nothing_more_is_done() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    let wanted = want(pod("Always", &[("a", "x:1"), ("b", "x:1")]));
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(started(&world), [("a", 0), ("b", 0)]);
}

#[test]
fn a_container_that_keeps_ending_waits_longer_each_time() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    let wanted = want(pod("Always", &[("a", "x:1")]));
    settle(&mut world, &wanted, &mut seen, &mut None);
    for _ in 0..5 {
        let push = world.ends("a", 1).unwrap();
        let before = world.starts.len();
        seen.push(push, world.now);
        while world.starts.len() == before {
            live(&mut world, &wanted, &mut seen, Duration::from_secs(5));
        }
        world.now = world.starts.last().unwrap().1;
    }
    assert_eq!(started(&world).iter().map(|s| s.1).collect::<Vec<_>>(), [0, 0, 10, 30, 70, 150]);
    assert!(world.attempts["a"].len() <= 3, "old attempts are tidied away");
}

#[test]
fn a_container_killed_after_long_running_is_back_at_once() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    let wanted = want(pod("Always", &[("a", "x:1")]));
    for _ in 0..3 {
        live(&mut world, &wanted, &mut seen, HOUR);
        let push = world.ends("a", 137).unwrap();
        seen.push(push, world.now);
    }
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(started(&world).iter().map(|s| s.1).collect::<Vec<_>>(), [0, 3600, 7200, 10800]);
}

#[test]
fn restart_policies_are_kept() {
    for (policy, code, again) in
        [("Never", 1, false), ("OnFailure", 1, true), ("OnFailure", 0, false), ("Always", 0, true)]
    {
        let (mut world, mut seen) = (World::default(), Observed::default());
        let wanted = want(pod(policy, &[("a", "x:1")]));
        settle(&mut world, &wanted, &mut seen, &mut None);
        let push = world.ends("a", code).unwrap();
        seen.push(push, world.now);
        live(&mut world, &wanted, &mut seen, HOUR);
        assert_eq!(world.starts.len() == 2, again, "{policy} {code}");
        assert_eq!(world.shim, again, "a finished pod has no shim");
        assert_eq!(world.refs.is_empty(), !again, "a finished pod holds no image");
        assert!(world.record.is_some());
    }
}

#[test]
fn the_image_of_a_volume_is_here_before_the_sandbox_and_goes_with_the_pod() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    let mut with_volume = pod("Always", &[("a", "x:1")]);
    let volume = serde_json::json!([{"name": "data", "image": {"reference": "data:1"}}]);
    with_volume.spec.as_mut().unwrap().volumes = serde_json::from_value(volume).unwrap();
    let wanted = want(with_volume);
    world.missing.insert("data".into());
    live(&mut world, &wanted, &mut seen, HOUR);
    assert!(!world.shim && world.refs.contains(&("a".to_owned(), 0)), "the container's image is fetched beside it");
    assert_eq!(seen.failure.as_ref().map(|f| f.reason), Some("ErrImagePull"));
    world.missing.clear();
    live(&mut world, &wanted, &mut seen, HOUR);
    assert!(world.running.contains_key(&("a".to_owned(), 0)) && seen.failure.is_none());
    live(&mut world, &Wanted::default(), &mut seen, HOUR);
    assert!(world.record.is_none() && world.volumes.is_empty());
}

#[test]
fn only_the_changed_container_is_replaced_and_its_image_is_here_first() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    live(&mut world, &want(pod("Always", &[("a", "x:1"), ("b", "x:1")])), &mut seen, HOUR);
    let before = world.running.clone();
    world.missing.insert("a".into());
    let wanted = want(pod("Always", &[("a", "x:2"), ("b", "x:1")]));
    seen.forgive(true);
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(world.running, before, "nothing stops for an image that cannot be had");
    assert_eq!(lifecycle::status(&seen, "a").image, "x:1", "what runs is shown, not what is wanted");
    world.missing.clear();
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(world.stops, ["a"]);
    assert_eq!(world.running[&("b".to_owned(), 0)], before[&("b".to_owned(), 0)]);
    assert!(world.running.contains_key(&("a".to_owned(), 1)));
    assert_eq!(lifecycle::status(&seen, "a").image, "x:2");
    assert_eq!(world.refs.len(), 2, "the old image is let go: {:?}", world.refs);
}

#[test]
fn a_container_that_ignores_its_stop_is_killed_when_its_grace_is_over() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    live(&mut world, &want(pod("Always", &[("a", "x:1")])), &mut seen, HOUR);
    world.stubborn.insert("a".into());
    live(&mut world, &Wanted::default(), &mut seen, Duration::from_secs(29));
    assert_eq!(world.running.len(), 1);
    live(&mut world, &Wanted::default(), &mut seen, Duration::from_secs(2));
    assert!(world.record.is_none() && world.running.is_empty());
}

#[test]
fn an_evicted_pod_ends_soon_and_stays_so_and_another_of_its_name_is_not_meant() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    let mut wanted = want(pod("Always", &[("a", "x:1")]));
    live(&mut world, &wanted, &mut seen, HOUR);
    world.stubborn.insert("a".into());
    let uid = world.record.clone().unwrap().uid;
    let grace = Duration::from_secs(1);
    wanted.evicted = Some(Eviction { uid, message: "full".into(), grace, disruption: true });
    let begin = world.now;
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(world.last_end.saturating_sub(begin), grace, "the pod's own grace period is longer");
    assert!(!world.shim && world.refs.is_empty() && world.record.clone().unwrap().ended.unwrap().is_eviction());
    assert_eq!(started(&world), [("a", 0)]);
    // It goes, and is wanted again; the word still lies there.
    live(&mut world, &Wanted::default(), &mut seen, HOUR);
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(world.running.len(), 1);
}

#[test]
fn a_shorter_grace_later_counts() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    live(&mut world, &want(pod("Always", &[("a", "x:1")])), &mut seen, HOUR);
    world.stubborn.insert("a".into());
    live(&mut world, &Wanted::default(), &mut seen, Duration::from_secs(1));
    let now = Wanted { grace: Some(Duration::ZERO), ..Wanted::default() };
    live(&mut world, &now, &mut seen, Duration::ZERO);
    assert!(world.record.is_none() && world.running.is_empty());
}

#[test]
fn what_is_wanted_again_while_it_goes_is_another_pod() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    let wanted = want(pod("Always", &[("a", "x:1")]));
    live(&mut world, &wanted, &mut seen, HOUR);
    let old = world.record.clone().unwrap().uid;
    world.stubborn.insert("a".into());
    settle(&mut world, &Wanted::default(), &mut seen, &mut None);
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_ne!(world.record.clone().unwrap().uid, old);
    assert_eq!(world.running.len(), 1);
}

#[test]
fn a_lost_shim_is_buried_and_the_pod_is_back_by_policy() {
    for (policy, back) in [("Always", true), ("Never", false)] {
        let (mut world, mut seen) = (World::default(), Observed::default());
        let wanted = want(pod(policy, &[("a", "x:1")]));
        live(&mut world, &wanted, &mut seen, HOUR);
        world.shim = false;
        assert!(seen.push(Push::ShimLost, world.now));
        seen.renew(world.look());
        live(&mut world, &wanted, &mut seen, HOUR);
        assert_eq!(world.shim, back, "{policy}");
        assert_eq!(world.running.len(), usize::from(back));
    }
}

#[test]
fn a_sandbox_that_was_left_half_made_is_made_whole_before_anything_starts() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    let wanted = want(pod("Always", &[("a", "x:1")]));
    // Accept, Fetch, and the agent dies in the middle of Prepare.
    assert!(!settle(&mut world, &wanted, &mut seen, &mut Some(2)));
    assert!(world.shim && !world.prepared, "the test is about a shim without volumes");
    let mut seen = world.look();
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(started(&world), [("a", 0)]);
}

#[test]
fn a_registry_that_asks_to_be_left_alone_is_left_alone_for_that_long() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    let wanted = want(pod("Always", &[("a", "x:1")]));
    world.missing.insert("a".into());
    settle(&mut world, &wanted, &mut seen, &mut None);
    for (least, wait) in [(300, 300), (1, 10)] {
        let failure = seen.containers.get_mut("a").and_then(|c| c.failure.as_mut()).unwrap();
        failure.retry = Retry::NotBefore(Duration::from_secs(least));
        let plan = plan(&wanted, &seen, world.now);
        assert_eq!((plan.steps, plan.wake), (Vec::new(), Some(world.now + Duration::from_secs(wait))));
    }
}

#[test]
fn what_a_fetch_for_an_older_version_holds_is_let_go() {
    for result in [Ok(()), Err(StepError::on_change("ErrImagePull", "no such image"))] {
        let (mut world, mut seen) = (World::default(), Observed::default());
        live(&mut world, &want(pod("Always", &[("a", "x:1")])), &mut seen, HOUR);
        live(&mut world, &want(pod("Always", &[("a", "x:2")])), &mut seen, HOUR);
        let late = Push::Fetched { container: "a".into(), generation: 0, attempt: 1, result };
        seen.push(late, world.now);
        let plan = plan(&want(pod("Always", &[("a", "x:2")])), &seen, world.now);
        assert_eq!(plan.steps, [Step::Tidy { container: "a".into() }]);
    }
}

#[test]
fn an_image_that_was_held_before_the_first_start_is_let_go_when_the_container_changes() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    assert!(!settle(&mut world, &want(pod("Always", &[("a", "x:1")])), &mut seen, &mut Some(2)));
    assert_eq!(world.refs.len(), 1);
    // A new agent sees nothing of the container; then the image is another.
    let (mut seen, wanted) = (world.look(), want(pod("Always", &[("a", "x:2")])));
    let amend = plan(&wanted, &seen, world.now).steps;
    world.apply(&amend[0], wanted.desired.as_ref(), &mut seen).unwrap();
    seen.done(&amend[0]);
    assert!(plan(&wanted, &seen, world.now).steps.contains(&Step::Tidy { container: "a".into() }));
}

/// What a person can tell of a world that has settled, whatever happened on the way. Generations may differ: a change
/// and its opposite that meet in one pass are no change.
#[derive(Debug, PartialEq)]
struct End {
    pod: Option<Pod>,
    running: Vec<String>,
    shim: bool,
    refs: usize,
}

fn end(world: &World) -> End {
    End {
        pod: world.record.as_ref().map(|r| Pod::clone(&r.pod)),
        running: world.running.keys().map(|k| k.0.clone()).collect(),
        shim: world.shim,
        refs: world.refs.len(),
    }
}

#[derive(Debug, Clone)]
enum Happening {
    Want(Option<(u8, u8, u8)>),
    Ends(u8, u8),
    Passes(u16),
    ShimDies,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => prop::option::weighted(0.8, (0..3_u8, 0..3_u8, 0..3_u8)).prop_map(Happening::Want),
        2 => (0..3_u8, 0..2_u8).prop_map(|(which, code)| Happening::Ends(which, code)),
        2 => (0..700_u16).prop_map(Happening::Passes),
        1 => Just(Happening::ShimDies),
    ]
}

fn wanted(shape: Option<(u8, u8, u8)>) -> Wanted {
    let Some((policy, a, b)) = shape else { return Wanted::default() };
    let (a, b) = (format!("x:{a}"), format!("x:{b}"));
    let mut made = pod(["Always", "OnFailure", "Always"][usize::from(policy)], &[("a", &a), ("b", &b)]);
    if policy == 2 {
        // `setup` ends by itself in these worlds.
        lifecycle::inits(&mut made, &[("setup", ""), ("proxy", "Always"), ("migrate", "")]);
    }
    want(made)
}

/// Plays the happenings; the agent dies before step `crash` and comes back with a fresh look; step `fails` fails once.
fn play(happenings: &[Happening], mut crash: Option<usize>, fails: Option<usize>) -> World {
    let (mut world, mut seen) = (World { fails, ..World::brief(&["setup", "migrate"]) }, Observed::default());
    let mut current = Wanted::default();
    for h in happenings {
        match h {
            Happening::Want(shape) => {
                current = wanted(*shape);
                seen.forgive(true);
            }
            Happening::Ends(which, code) => {
                if let Some(push) = world.ends(["a", "b", "proxy"][usize::from(*which)], i32::from(*code)) {
                    seen.push(push, world.now);
                }
            }
            Happening::Passes(seconds) => world.now += Duration::from_secs((*seconds).into()),
            Happening::ShimDies => {
                if world.shim {
                    world.shim = false;
                    seen.push(Push::ShimLost, world.now);
                    seen.renew(world.look());
                }
            }
        }
        let pids = world.running.clone();
        let stops = world.stops.len();
        while !settle(&mut world, &current, &mut seen, &mut crash) {
            seen = world.look();
        }
        if fails.is_none() && world.stops.len() == stops && matches!(h, Happening::Passes(_)) {
            for (key, pid) in &pids {
                assert_eq!(world.running.get(key), Some(pid), "a crash of the agent touches no process");
            }
        }
    }
    // Let every wait be over.
    live(&mut world, &current, &mut seen, Duration::from_secs(400));
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// For every step of a random life: dying right before it ends in the same place.
    #[test]
    fn a_crash_between_any_two_steps_ends_in_the_same_place(life in prop::collection::vec(happening(), 1..8)) {
        let whole = play(&life, None, None);
        for at in 0..200 {
            let broken = play(&life, Some(at), None);
            prop_assert_eq!(end(&broken), end(&whole), "died before step {}", at);
        }
    }

    /// For every step of a random life: failing once ends in the same place, some waits later.
    #[test]
    fn a_step_that_fails_once_is_made_good(life in prop::collection::vec(happening(), 1..8)) {
        // Whether a container had time to end by itself depends on the waits, and so would the comparison.
        let life: Vec<_> = life.into_iter().filter(|h| !matches!(h, Happening::Ends(..))).collect();
        let whole = play(&life, None, None);
        for at in 0..100 {
            let broken = play(&life, None, Some(at));
            prop_assert_eq!(end(&broken), end(&whole), "step {} failed", at);
        }
    }

    /// What runs in the end is what the record says, and an image is held for each container that may start again.
    #[test]
    fn what_runs_is_what_is_wanted(life in prop::collection::vec(happening(), 1..12)) {
        let world = play(&life, None, None);
        if let Some(record) = &world.record {
            for (container, number) in world.running.keys() {
                let attempt = world.attempts[container].iter().find(|a| a.number == *number).unwrap();
                prop_assert_eq!(attempt.generations, record.containers[container]);
                prop_assert!(world.refs.contains(&(container.clone(), attempt.generations.spec)));
            }
        } else {
            prop_assert!(world.running.is_empty() && world.refs.is_empty() && !world.shim && world.attempts.is_empty());
        }
    }
}
