//! One meaning, one form.

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn of(spec: Value) -> Pod {
    let pod: Pod =
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec}))
            .unwrap();
    super::pod(&pod)
}

#[test]
fn explicit_defaults_are_the_same_as_none() {
    let short = of(json!({
        "containers": [{
            "name": "c", "image": "x:1", "resources": {"limits": {"cpu": "1"}},
            "ports": [{"containerPort": 80}], "volumeMounts": [{"name": "v", "mountPath": "/d/"}],
            "securityContext": {"capabilities": {"add": ["NET_RAW", "CHOWN"]}}
        }],
        "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "m"}}]
    }));
    let long = of(json!({
        "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
        "hostNetwork": false, "hostPID": false, "hostUsers": true, "enableServiceLinks": true, "schedulerName": "x",
        "initContainers": [], "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}, "hostname": "",
        "tolerations": [{"key": "a"}], "nodeName": "n", "os": {"name": "linux"},
        "containers": [{
            "name": "c", "image": "x:1", "imagePullPolicy": "IfNotPresent", "command": [], "env": [],
            "resources": {"limits": {"cpu": "1000m"}, "requests": {"cpu": "1.0"}},
            "ports": [{"containerPort": 80, "protocol": "TCP", "name": ""}],
            "volumeMounts": [{"name": "v", "mountPath": "/d", "readOnly": false, "mountPropagation": "None"}],
            "securityContext": {
                "privileged": false, "allowPrivilegeEscalation": true, "procMount": "Default",
                "seccompProfile": {"type": "RuntimeDefault"}, "capabilities": {"add": ["CAP_CHOWN", "NET_RAW"], "drop": []}
            },
            "stdin": false, "tty": false, "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File", "workingDir": "",
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]
        }],
        "volumes": [
            {"name": "c", "configMap": {"name": "m", "defaultMode": 420, "optional": false, "items": []}},
            {"name": "v", "emptyDir": {"medium": ""}}
        ]
    }));
    assert_eq!(short, long);
}

#[test]
fn what_means_something_stays() {
    let base = json!({"containers": [{"name": "c", "image": "x:1"}]});
    for (pointer, value) in [
        ("/hostNetwork", json!(true)),
        ("/hostname", json!("h")),
        ("/enableServiceLinks", json!(false)),
        ("/restartPolicy", json!("Never")),
        ("/securityContext", json!({"runAsUser": 0})),
        ("/securityContext", json!({"seccompProfile": {"type": "Unconfined"}})),
        ("/containers/0/securityContext", json!({"runAsNonRoot": false})),
        ("/containers/0/securityContext", json!({"allowPrivilegeEscalation": false})),
        ("/containers/0/env", json!([{"name": "A"}])),
        ("/containers/0/tty", json!(true)),
        ("/volumes", json!([{"name": "v"}])),
    ] {
        let mut changed = base.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        changed.pointer_mut(parent).unwrap()[key] = value.clone();
        assert_ne!(of(changed), of(base.clone()), "{pointer} {value}");
    }
    let own = |kind: &str| {
        of(json!({
            "securityContext": {"seccompProfile": {"type": "Unconfined"}},
            "containers": [{"name": "c", "image": "x:1", "securityContext": {"seccompProfile": {"type": kind}}}]
        }))
    };
    assert_ne!(own("RuntimeDefault"), own("Unconfined"));
}

#[test]
fn the_pull_policy_depends_on_the_tag() {
    for (image, policy) in [
        ("web", "Always"),
        ("web:latest", "Always"),
        ("web:1", "IfNotPresent"),
        ("localhost:5000/web", "Always"),
        ("localhost:5000/web:1", "IfNotPresent"),
        ("web@sha256:00", "IfNotPresent"),
        ("web:latest@sha256:00", "IfNotPresent"),
    ] {
        assert_eq!(default_pull_policy(image), policy, "{image}");
    }
}

fn quantity_text() -> impl Strategy<Value = String> {
    (1_u32..5000, prop_oneof![Just(""), Just("m"), Just("k"), Just("Mi"), Just("e2")])
        .prop_map(|(n, s)| format!("{n}{s}"))
}

fn any_spec() -> impl Strategy<Value = Value> {
    let boolean = || prop::option::of(any::<bool>());
    let container = (
        "[a-c]{1,3}",
        "[a-z]{1,4}(:[a-z0-9]{1,6})?",
        prop::option::of(quantity_text()),
        prop::option::of(quantity_text()),
        boolean(),
        prop::collection::vec("/?[a-z]{1,3}(/[a-z]{1,3})?/?", 0..3),
        prop::collection::vec(("[A-C]{1,2}", "[a-z]{0,3}"), 0..3),
    )
        .prop_map(|(name, image, limit, request, flag, mounts, env)| {
            json!({
                "name": name, "image": image, "tty": flag, "stdin": flag,
                "resources": {
                    "limits": limit.map(|l| json!({"memory": l})), "requests": request.map(|r| json!({"cpu": r}))
                },
                "securityContext": {"privileged": flag, "readOnlyRootFilesystem": flag, "allowPrivilegeEscalation": flag},
                "volumeMounts": mounts.iter().map(|m| json!({"name": "v", "mountPath": m})).collect::<Vec<_>>(),
                "env": env.iter().map(|(n, v)| json!({"name": n, "value": v})).collect::<Vec<_>>(),
            })
        });
    (prop::collection::vec(container, 1..4), boolean(), prop::option::of(0_i64..100), prop::option::of("[a-z]{0,3}"))
        .prop_map(|(containers, flag, grace, hostname)| {
            json!({
                "containers": containers, "hostNetwork": flag, "terminationGracePeriodSeconds": grace,
                "hostname": hostname, "volumes": [{"name": "v"}],
            })
        })
}

proptest! {
    #[test]
    fn the_form_of_a_form_is_itself(spec in any_spec()) {
        let once = of(spec);
        prop_assert_eq!(super::pod(&once), once);
    }

    #[test]
    fn the_form_survives_being_written_down(spec in any_spec()) {
        let once = of(spec);
        let text = serde_json::to_string(&once).unwrap();
        prop_assert_eq!(super::pod(&serde_json::from_str(&text).unwrap()), once);
    }
}
