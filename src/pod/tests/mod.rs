//! The plan in a simulated world.

mod world;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;

use self::world::{World, live, settle};
use super::desired::{Config, Desired, Wanted};
use super::engine::Push;
use super::state::{Observed, Origin, Source};

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
    Wanted { desired: Some(Desired { pod: Arc::new(pod), origin, config: Arc::new(Config::default()) }), grace: None }
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
fn only_the_changed_container_is_replaced_and_its_image_is_here_first() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    live(&mut world, &want(pod("Always", &[("a", "x:1"), ("b", "x:1")])), &mut seen, HOUR);
    let before = world.running.clone();
    world.missing.insert("a".into());
    let wanted = want(pod("Always", &[("a", "x:2"), ("b", "x:1")]));
    seen.forgive(true);
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(world.running, before, "nothing stops for an image that cannot be had");
    world.missing.clear();
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(world.stops, ["a"]);
    assert_eq!(world.running[&("b".to_owned(), 0)], before[&("b".to_owned(), 0)]);
    assert!(world.running.contains_key(&("a".to_owned(), 1)));
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
fn a_shorter_grace_later_counts() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    live(&mut world, &want(pod("Always", &[("a", "x:1")])), &mut seen, HOUR);
    world.stubborn.insert("a".into());
    live(&mut world, &Wanted::default(), &mut seen, Duration::from_secs(1));
    let now = Wanted { desired: None, grace: Some(Duration::ZERO) };
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
        pod: world.record.as_ref().map(|r| r.pod.clone()),
        running: world.running.keys().map(|k| k.0.clone()).collect(),
        shim: world.shim,
        refs: world.refs.len(),
    }
}

#[derive(Debug, Clone)]
enum Happening {
    Want(Option<(u8, u8, u8)>),
    Ends(bool, u8),
    Passes(u16),
    ShimDies,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => prop::option::weighted(0.8, (0..2_u8, 0..3_u8, 0..3_u8)).prop_map(Happening::Want),
        2 => (any::<bool>(), 0..2_u8).prop_map(|(a, code)| Happening::Ends(a, code)),
        2 => (0..700_u16).prop_map(Happening::Passes),
        1 => Just(Happening::ShimDies),
    ]
}

fn wanted(shape: Option<(u8, u8, u8)>) -> Wanted {
    let Some((policy, a, b)) = shape else { return Wanted::default() };
    let policy = ["Always", "OnFailure"][usize::from(policy)];
    let (a, b) = (format!("x:{a}"), format!("x:{b}"));
    want(pod(policy, &[("a", &a), ("b", &b)]))
}

/// Plays the happenings; the agent dies before step `crash` and comes back with a fresh look; step `fails` fails once.
fn play(happenings: &[Happening], mut crash: Option<usize>, fails: Option<usize>) -> World {
    let (mut world, mut seen) = (World { fails, ..World::default() }, Observed::default());
    let mut current = Wanted::default();
    for h in happenings {
        match h {
            Happening::Want(shape) => {
                current = wanted(*shape);
                seen.forgive(true);
            }
            Happening::Ends(a, code) => {
                if let Some(push) = world.ends(if *a { "a" } else { "b" }, i32::from(*code)) {
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
