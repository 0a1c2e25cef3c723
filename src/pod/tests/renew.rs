//! All containers anew, in the simulated world.

use std::time::Duration;

use super::lifecycle::{ends, inits, names, phase, status};
use super::world::{World, live, settle};
use super::{HOUR, pod, want};
use crate::pod::desired::Wanted;
use crate::pod::engine::{Hook, Push};
use crate::pod::state::Observed;
use crate::pod::view;

/// A pod with an init container, a sidecar and two main containers, one of which has a rule for status 88.
fn wanted(policy: &str, source: &str) -> Wanted {
    let mut pod = pod(policy, &[("a", "x:1"), ("b", "x:1")]);
    inits(&mut pod, &[("first", ""), ("proxy", "Always")]);
    let spec = pod.spec.as_mut().unwrap();
    let mut all = spec.init_containers.as_mut().unwrap().iter_mut().chain(&mut spec.containers);
    let container = all.find(|c| c.name == source).unwrap();
    if container.restart_policy.is_none() {
        container.restart_policy = Some("Never".to_owned());
    }
    let rules = serde_json::json!([
        {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}},
    ]);
    container.restart_policy_rules = Some(serde_json::from_value(rules).unwrap());
    spec.containers[1].lifecycle =
        serde_json::from_value(serde_json::json!({"preStop": {"exec": {"command": ["x"]}}})).unwrap();
    want(pod)
}

fn condition(seen: &Observed, name: &str) -> Option<String> {
    let now = (Duration::ZERO, jiff::Timestamp::UNIX_EPOCH);
    let shown = view::view(seen, &view::Surroundings::default(), now).unwrap();
    let conditions = shown.pod.status.unwrap().conditions.unwrap();
    conditions.into_iter().find(|c| c.type_ == name).map(|c| c.status)
}

#[test]
fn one_that_asks_for_it_has_all_containers_start_anew_in_their_sandbox() {
    for source in ["a", "proxy"] {
        let (mut world, mut seen) = (World::brief(&["first"]), Observed::default());
        let wanted = wanted("Never", source);
        live(&mut world, &wanted, &mut seen, HOUR);
        assert_eq!(condition(&seen, "AllContainersRestarting"), None);
        // One that ended for good comes back with the others; one that is stubborn is not asked.
        world.stubborn.insert("b".to_owned());
        if source == "proxy" {
            ends(&mut world, &mut seen, "a", 0);
            live(&mut world, &wanted, &mut seen, HOUR);
        }
        ends(&mut world, &mut seen, source, 88);
        assert_eq!(condition(&seen, "AllContainersRestarting").as_deref(), Some("True"));
        let begin = world.now;
        live(&mut world, &wanted, &mut seen, HOUR);
        assert_eq!(names(&world)[4..], ["first", "proxy", "a", "b"], "{source}");
        assert!(world.starts[4..].iter().all(|(_, at)| *at == begin), "the first time without a wait");
        assert!(world.hooks.iter().all(|(_, hook)| *hook != Hook::PreStop));
        assert_eq!(condition(&seen, "AllContainersRestarting").as_deref(), Some("False"));
        assert_eq!((phase(&seen).as_str(), status(&seen, "b").restart_count), ("Running", 1));
        // What it does later counts for itself, and an end without the rule ends it.
        ends(&mut world, &mut seen, "b", 0);
        live(&mut world, &wanted, &mut seen, HOUR);
        assert_eq!(world.starts.len(), 8);
        ends(&mut world, &mut seen, "a", 0);
        live(&mut world, &wanted, &mut seen, HOUR);
        assert_eq!(phase(&seen), "Succeeded");
    }
}

#[test]
fn one_that_asks_for_it_again_and_again_waits_longer_each_time() {
    let (mut world, mut seen) = (World::brief(&["first"]), Observed::default());
    let wanted = wanted("Always", "a");
    settle(&mut world, &wanted, &mut seen, &mut None);
    let mut at = Vec::new();
    for _ in 0..4 {
        let before = world.starts.iter().filter(|(c, _)| c == "a").count();
        ends(&mut world, &mut seen, "a", 88);
        while world.starts.iter().filter(|(c, _)| c == "a").count() == before {
            live(&mut world, &wanted, &mut seen, Duration::from_secs(5));
        }
        world.now = world.starts.iter().rev().find(|(c, _)| c == "a").unwrap().1;
        at.push(world.now.as_secs());
    }
    assert_eq!(at, [0, 10, 30, 70]);
}

#[test]
fn an_agent_that_dies_in_between_or_a_machine_that_does_changes_nothing() {
    for down in [false, true] {
        for crash in 0..12 {
            let (mut world, mut seen) = (World::brief(&["first"]), Observed::default());
            let wanted = wanted("Never", "a");
            live(&mut world, &wanted, &mut seen, HOUR);
            ends(&mut world, &mut seen, "a", 88);
            let died = !settle(&mut world, &wanted, &mut seen, &mut Some(crash));
            if died {
                seen = world.look();
                if down {
                    world.shim = false;
                    seen.push(Push::ShimLost, world.now);
                    seen = world.look();
                }
            }
            live(&mut world, &wanted, &mut seen, HOUR);
            for name in ["first", "proxy", "a"] {
                let starts = names(&world).into_iter().filter(|n| *n == name).count();
                assert!(starts >= 2, "{name} started {starts} times after a crash before step {crash}, {down}");
            }
            assert!(!died || down || world.starts.len() == 8, "{crash}: {:?}", names(&world));
            assert_ne!(phase(&seen), "Pending", "{crash} {down}");
        }
    }
}
