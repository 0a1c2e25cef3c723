//! Each row of "What replaces what".

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"a": "b"}},
        "spec": {
            "containers": [
                {"name": "app", "image": "x:1", "resources": {"limits": {"memory": "1Gi"}}},
                {"name": "log", "image": "y:1"}
            ],
            "volumes": [{"name": "v", "emptyDir": {}}]
        }
    })
}

fn with(pointer: &str, value: Value) -> Value {
    let mut pod = pod();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match pod.pointer_mut(parent).unwrap() {
        Value::Object(map) => {
            map.insert(key.to_owned(), value);
        }
        Value::Array(list) => list.push(value),
        _ => panic!("{pointer}"),
    }
    pod
}

fn compare(old: Value, new: Value) -> PodChange {
    change(&serde_json::from_value(old).unwrap(), &serde_json::from_value(new).unwrap())
}

fn names(names: &[&str]) -> PodChange {
    PodChange::Containers(names.iter().map(|n| (*n).to_owned()).collect())
}

#[test]
fn each_change_does_as_little_as_it_can() {
    for (pointer, value, expected) in [
        ("/spec/containers/0/image", json!("x:2"), names(&["app"])),
        ("/spec/containers/1/command", json!(["sh"]), names(&["log"])),
        ("/spec/containers/0/env", json!([{"name": "A", "value": "1"}]), names(&["app"])),
        ("/spec/containers/2", json!({"name": "new", "image": "z:1"}), names(&["new"])),
        ("/spec/containers", json!([{"name": "log", "image": "y:1"}]), names(&["app"])),
        ("/spec/containers/0/resources", json!({"limits": {"memory": "2Gi"}}), PodChange::InPlace),
        ("/spec/containers/0/imagePullPolicy", json!("Always"), PodChange::InPlace),
        ("/metadata/labels", json!({"a": "c"}), PodChange::InPlace),
        ("/metadata/annotations", json!({"x": "y"}), PodChange::InPlace),
        ("/spec/terminationGracePeriodSeconds", json!(5), PodChange::InPlace),
        ("/spec/restartPolicy", json!("Never"), PodChange::InPlace),
        ("/spec/hostNetwork", json!(true), PodChange::Replace("spec.hostNetwork".into())),
        ("/spec/hostname", json!("h"), PodChange::Replace("spec.hostname".into())),
        ("/spec/securityContext", json!({"runAsUser": 1}), PodChange::Replace("spec.securityContext".into())),
        ("/spec/volumes/1", json!({"name": "w"}), PodChange::Replace("spec.volumes".into())),
        ("/spec/terminationGracePeriodSeconds", json!(30), PodChange::Nothing),
        ("/spec/nodeName", json!("n"), PodChange::Nothing),
        ("/metadata/creationTimestamp", json!("2020-01-01T00:00:00Z"), PodChange::Nothing),
        ("/metadata/namespace", json!("default"), PodChange::Nothing),
        ("/metadata/namespace", json!("other"), PodChange::Replace("metadata.name".into())),
        ("/spec/containers/0/resources", json!({"limits": {"memory": "1024Mi"}}), PodChange::Nothing),
    ] {
        assert_eq!(compare(pod(), with(pointer, value.clone())), expected, "{pointer} {value}");
    }
}

#[test]
fn the_order_of_containers_is_no_change() {
    let mut turned = pod();
    turned["spec"]["containers"].as_array_mut().unwrap().reverse();
    assert_eq!(compare(pod(), turned), PodChange::Nothing);
}

#[test]
fn a_pod_level_change_wins_over_a_container_s() {
    let mut both = with("/spec/hostNetwork", json!(true));
    both["spec"]["containers"][0]["image"] = "x:2".into();
    assert!(matches!(compare(pod(), both), PodChange::Replace(_)));
}

fn any_change() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(pod()),
        "[a-z]{1,3}:[0-9]".prop_map(|i| with("/spec/containers/0/image", i.into())),
        any::<bool>().prop_map(|h| with("/spec/hostNetwork", h.into())),
        (0_i64..60).prop_map(|g| with("/spec/terminationGracePeriodSeconds", g.into())),
        "[a-z]{1,3}".prop_map(|l| with("/metadata/labels", json!({ "a": l }))),
        "[a-z]{1,3}".prop_map(|n| with("/spec/containers/2", json!({"name": n, "image": "z"}))),
    ]
}

proptest! {
    #[test]
    fn nothing_changes_exactly_when_the_forms_are_equal(old in any_change(), new in any_change()) {
        let (a, b): (Pod, Pod) =
            (serde_json::from_value(old.clone()).unwrap(), serde_json::from_value(new.clone()).unwrap());
        let equal = canonical::pod(&a) == canonical::pod(&b);
        prop_assert_eq!(change(&a, &b) == PodChange::Nothing, equal);
        prop_assert_eq!(change(&a, &a), PodChange::Nothing);
        // The way back is of the same weight.
        let weight = |c: &PodChange| match c {
            PodChange::Nothing => 0,
            PodChange::InPlace => 1,
            PodChange::Containers(_) => 2,
            PodChange::Replace(_) => 3,
        };
        prop_assert_eq!(weight(&change(&a, &b)), weight(&change(&b, &a)));
    }
}

#[test]
fn differences_are_named_as_a_person_would() {
    let mut new = with("/spec/containers/0/image", "x:2".into());
    new["spec"]["containers"][0]["resources"] = json!({});
    new["spec"]["containers"][1]["name"] = "sidecar".into();
    new["spec"]["hostNetwork"] = true.into();
    new["metadata"]["labels"] = json!({"a": "c"});
    let read = |value: Value| serde_json::from_value::<Pod>(value).unwrap();
    assert_eq!(
        differences(&read(pod()), &read(new)),
        [
            "metadata.labels",
            "spec.hostNetwork",
            "spec.containers{app}.image",
            "spec.containers{app}.resources",
            "spec.containers{log}",
            "spec.containers{sidecar}",
        ]
    );
    assert!(differences(&read(pod()), &read(pod())).is_empty());
}
