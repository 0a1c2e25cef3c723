//! Init containers, sidecars and rules of restart, in the simulated world.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::world::{World, live, settle};
use super::{HOUR, pod, started, want};
use crate::pod::desired::Wanted;
use crate::pod::engine::{Hook, Push};
use crate::pod::probe::runner::Finding;
use crate::pod::state::Observed;
use crate::pod::view;

/// Gives a pod init containers: name and restart policy.
pub(super) fn inits(pod: &mut Pod, inits: &[(&str, &str)]) {
    let init = |(name, policy): &(&str, &str)| Container {
        name: (*name).to_owned(),
        image: Some("x:1".to_owned()),
        restart_policy: Some((*policy).to_owned()).filter(|p| !p.is_empty()),
        ..Container::default()
    };
    pod.spec.as_mut().unwrap().init_containers = Some(inits.iter().map(init).collect());
}

fn with_inits(policy: &str, list: &[(&str, &str)]) -> Wanted {
    let mut pod = pod(policy, &[("a", "x:1"), ("b", "x:1")]);
    inits(&mut pod, list);
    want(pod)
}

pub(super) fn names(world: &World) -> Vec<&str> {
    started(world).into_iter().map(|(name, _)| name).collect()
}

pub(super) fn phase(seen: &Observed) -> String {
    format!("{:?}", view::phase(seen.record.as_ref().unwrap(), seen))
}

pub(super) fn ends(world: &mut World, seen: &mut Observed, container: &str, code: i32) {
    let push = world.ends(container, code).unwrap_or_else(|| panic!("{container} does not run"));
    seen.push(push, world.now);
}

#[test]
fn init_containers_run_one_after_the_other_before_the_others() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    let wanted = with_inits("Always", &[("first", ""), ("second", "")]);
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(names(&world), ["first"]);
    assert_eq!(phase(&seen), "Pending");
    ends(&mut world, &mut seen, "first", 0);
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(names(&world), ["first", "second"]);
    ends(&mut world, &mut seen, "second", 0);
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(names(&world), ["first", "second", "a", "b"]);
    assert_eq!(phase(&seen), "Running");
    ends(&mut world, &mut seen, "a", 1);
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(names(&world)[4..], ["a"], "a restart of one container begins nothing anew");
}

#[test]
fn an_init_container_that_fails_is_tried_again_unless_the_policy_is_never() {
    for (policy, phase_then) in [("Always", "Pending"), ("OnFailure", "Pending"), ("Never", "Failed")] {
        let (mut world, mut seen) = (World::default(), Observed::default());
        let wanted = with_inits(policy, &[("first", "")]);
        live(&mut world, &wanted, &mut seen, HOUR);
        ends(&mut world, &mut seen, "first", 1);
        live(&mut world, &wanted, &mut seen, HOUR);
        assert_eq!(names(&world).len(), if policy == "Never" { 1 } else { 2 }, "{policy}");
        assert!(!names(&world).contains(&"a"));
        assert_eq!(phase(&seen), phase_then, "{policy}");
        assert_eq!(world.shim, policy != "Never", "a failed pod has no sandbox");
    }
}

#[test]
fn a_new_sandbox_begins_with_its_init_containers() {
    let (mut world, mut seen) = (World::brief(&["first", "second"]), Observed::default());
    let wanted = with_inits("Always", &[("first", ""), ("proxy", "Always"), ("second", "")]);
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(names(&world), ["first", "proxy", "second", "a", "b"]);
    world.shim = false;
    assert!(seen.push(Push::ShimLost, world.now));
    seen.renew(world.look());
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(names(&world)[5..], ["first", "proxy", "second", "a", "b"]);
}

#[test]
fn a_finished_pod_stays_so_though_its_sandbox_is_gone() {
    let (mut world, mut seen) = (World::brief(&["first"]), Observed::default());
    let wanted = with_inits("Never", &[("first", "")]);
    live(&mut world, &wanted, &mut seen, HOUR);
    ends(&mut world, &mut seen, "a", 0);
    ends(&mut world, &mut seen, "b", 0);
    live(&mut world, &wanted, &mut seen, HOUR);
    seen = world.look();
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(names(&world), ["first", "a", "b"]);
    assert_eq!(phase(&seen), "Succeeded");
}

#[test]
fn sidecars_come_back_whatever_the_policy_and_hold_up_no_end() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    let wanted = with_inits("Never", &[("one", "Always"), ("two", "Always")]);
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(names(&world), ["one", "two", "a", "b"]);
    ends(&mut world, &mut seen, "one", 0);
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(names(&world)[4..], ["one"]);
    ends(&mut world, &mut seen, "a", 0);
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(phase(&seen), "Running");
    assert!(world.stops.is_empty());
    ends(&mut world, &mut seen, "b", 0);
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(phase(&seen), "Succeeded");
    assert!(!world.shim && world.running.is_empty());
}

#[test]
fn sidecars_are_stopped_last_and_in_reverse_order() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    let wanted = with_inits("Always", &[("one", "Always"), ("two", "Always")]);
    live(&mut world, &wanted, &mut seen, HOUR);
    live(&mut world, &Wanted::default(), &mut seen, HOUR);
    assert_eq!(world.stops, ["a", "b", "two", "one"]);
    assert!(world.record.is_none());
}

#[test]
fn the_grace_period_runs_for_all_together_and_a_sidecar_has_two_seconds_at_least() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    let wanted = with_inits("Always", &[("one", "Always"), ("two", "Always")]);
    live(&mut world, &wanted, &mut seen, HOUR);
    for container in ["a", "one", "two"] {
        world.stubborn.insert(container.to_owned());
    }
    let begin = world.now;
    live(&mut world, &Wanted::default(), &mut seen, HOUR);
    assert!(world.record.is_none());
    let took = world.last_end.saturating_sub(begin);
    assert_eq!(took, Duration::from_secs(30 + 2 + 2), "a took the grace period, each sidecar its least");
}

#[test]
fn a_container_has_a_restart_policy_of_its_own_and_rules_before_it() {
    let rules = |operator: &str, values: &[i32]| serde_json::json!([{"action": "Restart", "exitCodes": {"operator": operator, "values": values}}]);
    for (policy, rules, code, again) in [
        ("Never", serde_json::json!([]), 1, false),
        ("Always", serde_json::json!([]), 0, true),
        ("Never", rules("In", &[42]), 42, true),
        ("Never", rules("In", &[42]), 1, false),
        ("Never", rules("NotIn", &[42]), 1, true),
        ("OnFailure", rules("NotIn", &[42]), 42, true),
    ] {
        let (mut world, mut seen) = (World::default(), Observed::default());
        let mut made = pod("OnFailure", &[("a", "x:1")]);
        let container = &mut made.spec.as_mut().unwrap().containers[0];
        container.restart_policy = Some(policy.to_owned());
        container.restart_policy_rules = Some(serde_json::from_value(rules.clone()).unwrap());
        let wanted = want(made);
        settle(&mut world, &wanted, &mut seen, &mut None);
        ends(&mut world, &mut seen, "a", code);
        live(&mut world, &wanted, &mut seen, HOUR);
        assert_eq!(world.starts.len() == 2, again, "{policy} {rules} {code}");
    }
}

/// A pod of one container with one more field.
fn with_field(policy: &str, field: &str, value: serde_json::Value) -> Wanted {
    let mut made = serde_json::to_value(pod(policy, &[("a", "x:1"), ("b", "x:1")])).unwrap();
    made["spec"]["containers"][0][field] = value;
    want(serde_json::from_value(made).unwrap())
}

pub(super) fn status(seen: &Observed, name: &str) -> k8s_openapi::api::core::v1::ContainerStatus {
    let around = view::Surroundings::default();
    let shown = view::view(seen, &around, (Duration::ZERO, jiff::Timestamp::UNIX_EPOCH)).unwrap();
    shown.status_of(name).unwrap().clone()
}

#[test]
fn a_startup_probe_holds_up_what_comes_after_a_sidecar() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    let mut wanted = with_inits("Always", &[("proxy", "Always")]);
    let mut made = (*wanted.desired.as_ref().unwrap().pod).clone();
    let proxy = &mut made.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[0];
    proxy.startup_probe = Some(k8s_openapi::api::core::v1::Probe::default());
    wanted = want(made);
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(names(&world), ["proxy"]);
    assert_eq!(world.probed, ["proxy"]);
    let push = world.finds("proxy", Finding::Started);
    seen.push(push, world.now);
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(names(&world), ["proxy", "a", "b"]);
    // A new agent knows that it has started.
    seen = world.look();
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(status(&seen, "proxy").started, Some(true));
    assert_eq!(world.probed, ["proxy", "proxy"]);
    assert_eq!(names(&world).len(), 3);
}

#[test]
fn readiness_outlives_the_agent_and_ends_with_the_container() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    let wanted = with_field("Always", "readinessProbe", serde_json::json!({"exec": {"command": ["true"]}}));
    live(&mut world, &wanted, &mut seen, HOUR);
    assert!(!status(&seen, "a").ready && status(&seen, "b").ready);
    let push = world.finds("a", Finding::Ready(true));
    seen.push(push, world.now);
    assert!(status(&seen, "a").ready);
    seen = world.look();
    assert!(status(&seen, "a").ready, "ready though this agent has not probed yet");
    ends(&mut world, &mut seen, "a", 1);
    live(&mut world, &wanted, &mut seen, Duration::ZERO);
    assert!(seen.containers["a"].running() && !status(&seen, "a").ready);
}

#[test]
fn an_unhealthy_container_is_stopped_with_the_probes_grace_and_comes_back_by_policy() {
    for (policy, back) in [("Always", true), ("OnFailure", true), ("Never", false)] {
        let (mut world, mut seen) = (World::default(), Observed::default());
        let wanted = with_field(policy, "livenessProbe", serde_json::json!({"exec": {"command": ["true"]}}));
        live(&mut world, &wanted, &mut seen, HOUR);
        world.stubborn.insert("a".to_owned());
        let finding = Finding::Unhealthy { grace: Some(Duration::from_secs(3)), message: String::new() };
        let push = world.finds("a", finding);
        seen.push(push, world.now);
        let begin = world.now;
        live(&mut world, &wanted, &mut seen, Duration::from_mins(1));
        assert_eq!(world.last_end.checked_sub(begin).unwrap(), Duration::from_secs(3), "{policy}");
        assert_eq!(names(&world).len(), if back { 3 } else { 2 }, "{policy}");
        if back {
            assert!(seen.containers["a"].attempt.as_ref().unwrap().health.condemned.is_none());
        }
    }
}

#[test]
fn a_hook_after_the_start_holds_up_the_next_container_and_its_failure_ends_its_own() {
    let hook = serde_json::json!({"postStart": {"exec": {"command": ["x"]}}});
    let (mut world, mut seen) = (World::default(), Observed::default());
    let wanted = with_field("Always", "lifecycle", hook.clone());
    settle(&mut world, &wanted, &mut seen, &mut Some(3));
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(names(&world), ["a", "b"]);
    assert_eq!(world.hooks, [("a".to_owned(), Hook::PostStart)]);
    let (mut world, mut seen) = (World::default(), Observed::default());
    world.bad_hooks.insert("a".to_owned());
    let wanted = with_field("Never", "lifecycle", hook);
    live(&mut world, &wanted, &mut seen, HOUR);
    assert_eq!(world.stops[0], "a");
    assert_eq!(names(&world), ["a", "b"]);
}

#[test]
fn hooks_before_the_end_run_at_once_and_signals_wait_their_turn() {
    let (mut world, mut seen) = (World::default(), Observed::default());
    let mut made = (*with_inits("Always", &[("proxy", "Always")]).desired.unwrap().pod).clone();
    let hook: k8s_openapi::api::core::v1::Lifecycle =
        serde_json::from_value(serde_json::json!({"preStop": {"exec": {"command": ["x"]}}})).unwrap();
    let spec = made.spec.as_mut().unwrap();
    spec.containers[0].lifecycle = Some(hook.clone());
    spec.init_containers.as_mut().unwrap()[0].lifecycle = Some(hook);
    let wanted = want(made);
    live(&mut world, &wanted, &mut seen, HOUR);
    world.stubborn.insert("b".to_owned());
    live(&mut world, &Wanted::default(), &mut seen, Duration::from_secs(1));
    assert_eq!(world.hooks, [("a".to_owned(), Hook::PreStop), ("proxy".to_owned(), Hook::PreStop)]);
    assert_eq!(world.stops, ["b", "a"], "the sidecar's turn has not come");
    live(&mut world, &Wanted::default(), &mut seen, HOUR);
    assert_eq!(world.stops, ["b", "a", "proxy"]);
    assert!(world.record.is_none());
    // No grace, no hook.
    let (mut world, mut seen) = (World::default(), Observed::default());
    live(&mut world, &wanted, &mut seen, HOUR);
    let now = Wanted { grace: Some(Duration::ZERO), ..Wanted::default() };
    live(&mut world, &now, &mut seen, HOUR);
    assert!(world.hooks.is_empty() && world.record.is_none());
}
