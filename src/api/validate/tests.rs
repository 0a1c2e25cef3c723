//! Each rule, broken by one change to a good pod.

use serde_json::{Value, json};

use super::super::document::parse;

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {
            "containers": [{"name": "app", "image": "web:1"}],
            "volumes": [{"name": "d", "emptyDir": {}}]
        }
    })
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod()["spec"]}
        }
    })
}

fn job() -> Value {
    let mut spec = pod()["spec"].clone();
    spec["restartPolicy"] = "Never".into();
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": {"spec": spec}}})
}

fn said(document: &Value) -> Vec<String> {
    let parsed = parse("f", document.to_string().as_bytes());
    parsed.problems.iter().map(|p| format!("{}: {}", p.path, p.reason)).collect()
}

/// Sets a value at a JSON pointer, whose last part may be new.
fn with(mut document: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).unwrap();
    match parent {
        Value::Object(map) => {
            map.insert(key.to_owned(), value);
        }
        Value::Array(list) => list.push(value),
        _ => panic!("{pointer}"),
    }
    document
}

#[test]
fn good_objects_pass() {
    for document in [pod(), deployment(), job()] {
        assert_eq!(said(&document), [""; 0]);
    }
}

#[test]
fn a_rule_that_is_broken_is_named_by_path() {
    for (pointer, value, expected) in [
        ("/metadata/name", json!("Web"), "metadata.name: "),
        ("/metadata/name", json!("a/../b"), "metadata.name: "),
        ("/metadata/namespace", json!(".."), "metadata.namespace: "),
        ("/metadata/name", json!("a".repeat(250)), "metadata.name: must be no longer than 217"),
        ("/metadata/labels", json!({"-x": "y"}), "metadata.labels[\"-x\"]: the key"),
        ("/metadata/labels", json!({"x": "y z"}), "metadata.labels[\"x\"]: the value"),
        ("/metadata/annotations", json!({"x": "y".repeat(300_000)}), "metadata.annotations: must have no more"),
        ("/spec/containers", json!([]), "spec.containers: must have at least one"),
        ("/spec/containers/0/name", json!("A"), "spec.containers[0].name: "),
        ("/spec/containers/0/image", json!(""), "spec.containers[0].image: must not be empty"),
        ("/spec/containers/0/image", json!("a b"), "spec.containers[0].image: must not contain spaces"),
        ("/spec/containers/0/imagePullPolicy", json!("Maybe"), "spec.containers[0].imagePullPolicy: must be one of"),
        ("/spec/containers/1", json!({"name": "app", "image": "x"}), "spec.containers[1].name: \"app\" is there twice"),
        ("/spec/restartPolicy", json!("Sometimes"), "spec.restartPolicy: must be one of"),
        ("/spec/terminationGracePeriodSeconds", json!(-1), "spec.terminationGracePeriodSeconds: "),
        ("/spec/dnsPolicy", json!("None"), "spec.dnsConfig.nameservers: must have one"),
        ("/spec/dnsConfig", json!({"nameservers": ["ns"]}), "spec.dnsConfig.nameservers[0]: must be an IP"),
        ("/spec/dnsConfig", json!({"options": [{"value": "1"}]}), "spec.dnsConfig.options[0]: must have a name"),
        ("/spec/hostAliases", json!([{"ip": "x"}]), "spec.hostAliases[0].ip: must be an IP"),
        ("/spec/subdomain", json!("a.b"), "spec.subdomain: "),
        ("/spec/hostname", json!("a.b"), "spec.hostname: "),
        ("/spec/os", json!({"name": "windows"}), "spec.os.name: must be linux"),
        ("/spec/containers/0/env", json!([{"name": "A=B"}]), "spec.containers[0].env[0].name: "),
        (
            "/spec/containers/0/env",
            json!([{"name": "A", "valueFrom": {}}]),
            "spec.containers[0].env[0].valueFrom: must have exactly one",
        ),
        (
            "/spec/containers/0/env",
            json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: ",
        ),
        ("/spec/containers/0/envFrom", json!([{}]), "spec.containers[0].envFrom[0]: must have either"),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 0}]),
            "spec.containers[0].ports[0].containerPort: must be from 1 to 65535",
        ),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 80, "hostPort": 80, "hostIP": "localhost"}]),
            "spec.containers[0].ports[0].hostIP: must be an IP",
        ),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 80, "name": "UPPER"}]),
            "spec.containers[0].ports[0].name: ",
        ),
        (
            "/spec/containers/0/resources",
            json!({"limits": {"cpu": "x"}}),
            "spec.containers[0].resources.limits[\"cpu\"]: must be a quantity",
        ),
        (
            "/spec/containers/0/resources",
            json!({"limits": {"cpu": -1}}),
            "spec.containers[0].resources.limits[\"cpu\"]: must not be negative",
        ),
        (
            "/spec/containers/0/resources",
            json!({"limits": {"memory": "1Mi"}, "requests": {"memory": "2Mi"}}),
            "spec.containers[0].resources.requests[\"memory\"]: must not be more",
        ),
        (
            "/spec/containers/0/resources",
            json!({"limits": {"nvidia.com/gpu": 1}}),
            "spec.containers[0].resources.limits[\"nvidia.com/gpu\"]: is not a resource",
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "x", "mountPath": "/x"}]),
            "spec.containers[0].volumeMounts[0].name: there is no volume",
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "d", "mountPath": "/"}]),
            "spec.containers[0].volumeMounts[0].mountPath: ",
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "d", "mountPath": "/a/../b"}]),
            "spec.containers[0].volumeMounts[0].mountPath: ",
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "d", "mountPath": "/a"}, {"name": "d", "mountPath": "/a/"}]),
            "spec.containers[0].volumeMounts[1].mountPath: is mounted twice",
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "d", "mountPath": "/a", "subPath": "../x"}]),
            "spec.containers[0].volumeMounts[0].subPath: ",
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "d", "mountPath": "/a", "subPath": "x", "subPathExpr": "$(X)"}]),
            "spec.containers[0].volumeMounts[0].subPathExpr: must not stand beside subPath",
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "d", "mountPath": "/a", "mountPropagation": "Bidirectional"}]),
            "spec.containers[0].volumeMounts[0].mountPropagation: Bidirectional is for privileged",
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "d", "mountPath": "/a", "recursiveReadOnly": "Enabled"}]),
            "spec.containers[0].volumeMounts[0].recursiveReadOnly: needs readOnly: true",
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "d", "mountPath": "/a", "readOnly": true, "recursiveReadOnly": "IfPossible",
                    "mountPropagation": "HostToContainer"}]),
            "spec.containers[0].volumeMounts[0].recursiveReadOnly: must not stand beside",
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "d", "mountPath": "/a", "bindMountOptions": ["sync"]}]),
            "spec.containers[0].volumeMounts[0].bindMountOptions[0]: must be one of",
        ),
        ("/spec/volumes/1", json!({"name": "d", "emptyDir": {}}), "spec.volumes[1].name: \"d\" is there twice"),
        (
            "/spec/volumes/1",
            json!({"name": "e", "downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "status.podIP"}}]}}),
            "spec.volumes[1].downwardAPI.items[0].fieldRef.fieldPath: must be metadata.name",
        ),
        (
            "/spec/volumes/1",
            json!({"name": "e", "downwardAPI": {"items": [
                {"path": "a", "resourceFieldRef": {"resource": "limits.cpu"}}]}}),
            "spec.volumes[1].downwardAPI.items[0].resourceFieldRef.containerName: there is no container",
        ),
        (
            "/spec/volumes/1",
            json!({"name": "e", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}),
            "spec.volumes[1].projected.sources[0].serviceAccountToken: not supported: pods from a directory get no token",
        ),
        (
            "/spec/volumes/1",
            json!({"name": "e", "projected": {"sources": [
                {"configMap": {"name": "c", "items": [{"key": "k", "path": "a"}]}},
                {"downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}}),
            "spec.volumes[1].projected.sources[1]: \"a\" is the path of an earlier source",
        ),
        ("/spec/volumes/1", json!({"name": "e", "emptyDir": {"mode": 1024}}), "spec.volumes[1].emptyDir.mode: "),
        (
            "/spec/volumes/1",
            json!({"name": "e", "emptyDir": {}, "hostPath": {"path": "/x"}}),
            "spec.volumes[1]: must have one type only",
        ),
        (
            "/spec/volumes/1",
            json!({"name": "e", "hostPath": {"path": "x"}}),
            "spec.volumes[1].hostPath.path: must be an absolute path",
        ),
        ("/spec/volumes/1", json!({"name": "e", "hostPath": {"path": "/a/../b"}}), "spec.volumes[1].hostPath.path: "),
        (
            "/spec/volumes/1",
            json!({"name": "e", "hostPath": {"path": "/", "type": "Dir"}}),
            "spec.volumes[1].hostPath.type: must be one of",
        ),
        ("/spec/volumes/1", json!({"name": "e", "secret": {}}), "spec.volumes[1].secret.secretName: must not be empty"),
        (
            "/spec/volumes/1",
            json!({"name": "e", "configMap": {"name": "c", "defaultMode": 512}}),
            "spec.volumes[1].configMap.defaultMode: ",
        ),
        (
            "/spec/volumes/1",
            json!({"name": "e", "configMap": {"name": "c", "items": [{"key": "k", "path": "a/../../b"}]}}),
            "spec.volumes[1].configMap.items[0].path: must not contain",
        ),
        (
            "/spec/volumes/1",
            json!({"name": "e", "emptyDir": {"medium": "HugePages-2Mi"}}),
            "spec.volumes[1].emptyDir.medium: needs a container with a limit of huge pages of this size",
        ),
        (
            "/spec/volumes/1",
            json!({"name": "e", "emptyDir": {"sizeLimit": "much"}}),
            "spec.volumes[1].emptyDir.sizeLimit: ",
        ),
        (
            "/spec/volumes/1",
            json!({"name": "e", "emptyDir": {"medium": "Memory", "sizeLimit": "-1"}}),
            "spec.volumes[1].emptyDir.sizeLimit: must not be negative",
        ),
        (
            "/spec/securityContext",
            json!({"runAsUser": 4_294_967_296_i64}),
            "spec.securityContext.runAsUser: must be from 0 to",
        ),
        (
            "/spec/securityContext",
            json!({"seccompProfile": {"type": "Localhost"}}),
            "spec.securityContext.seccompProfile.localhostProfile: must name a file",
        ),
        (
            "/spec/securityContext",
            json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "../x.json"}}),
            "spec.securityContext.seccompProfile.localhostProfile: must not contain",
        ),
        (
            "/spec/securityContext",
            json!({"seccompProfile": {"type": "Unconfined", "localhostProfile": "x.json"}}),
            "spec.securityContext.seccompProfile.localhostProfile: goes with type Localhost only",
        ),
        (
            "/spec/securityContext",
            json!({"seLinuxOptions": {"level": "s0:c1,c2", "type": "a:b"}}),
            "spec.securityContext.seLinuxOptions.type: must be the name",
        ),
        (
            "/spec/securityContext",
            json!({"sysctls": [{"name": "foo-", "value": "1"}]}),
            "spec.securityContext.sysctls[0].name: must be the name",
        ),
        (
            "/spec/securityContext",
            json!({"sysctls": [{"name": "vm.swappiness", "value": "1"}]}),
            "spec.securityContext.sysctls[0].name: is the whole machine's",
        ),
        (
            "/spec/securityContext",
            json!({"sysctls": [{"name": "kernel.sem", "value": "1"}, {"name": "kernel/sem", "value": "2"}]}),
            "spec.securityContext.sysctls[1].name: \"kernel.sem\" is there twice",
        ),
        (
            "/spec/securityContext",
            json!({"fsGroupChangePolicy": "Never"}),
            "spec.securityContext.fsGroupChangePolicy: must be one of Always, OnRootMismatch",
        ),
        (
            "/spec/resources",
            json!({"limits": {"memory": "1Mi"}, "requests": {"memory": "2Mi"}}),
            "spec.resources.requests[\"memory\"]: must not be more than its limit",
        ),
        (
            "/spec/resources",
            json!({"limits": {"vendor.example/class=name": "1"}}),
            "spec.resources[\"vendor.example/class=name\"]: is for containers",
        ),
        (
            "/spec/containers/0/securityContext",
            json!({"procMount": "Unmasked"}),
            "spec.containers[0].securityContext.procMount: ",
        ),
        (
            "/spec/containers/0/livenessProbe",
            json!({"httpGet": {"port": 80, "protocol": "HTTP3"}}),
            "spec.containers[0].livenessProbe.httpGet.protocol: ",
        ),
        (
            "/spec/containers/0/livenessProbe",
            json!({"httpGet": {"port": 80, "protocol": "HTTP2", "scheme": "HTTPS"}}),
            "spec.containers[0].livenessProbe.httpGet.protocol: HTTP2 is for scheme HTTP alone",
        ),
        (
            "/spec/containers/0/livenessProbe",
            json!({"httpGet": {"port": 80, "protocol": "HTTP2", "host": "x.example"}}),
            "spec.containers[0].livenessProbe.httpGet.host: must not be set with protocol HTTP2",
        ),
        (
            "/spec/containers/0/securityContext",
            json!({"runAsUser": -1}),
            "spec.containers[0].securityContext.runAsUser: ",
        ),
        (
            "/spec/containers/0/securityContext",
            json!({"runAsUser": 0, "runAsNonRoot": true}),
            "spec.containers[0].securityContext.runAsNonRoot: ",
        ),
        (
            "/spec/containers/0/securityContext",
            json!({"capabilities": {"add": ["FLY"]}}),
            "spec.containers[0].securityContext.capabilities.add[0]: ",
        ),
        (
            "/spec/containers/0/securityContext",
            json!({"privileged": true, "allowPrivilegeEscalation": false}),
            "spec.containers[0].securityContext.allowPrivilegeEscalation: ",
        ),
    ] {
        let said = said(&with(pod(), pointer, value.clone()));
        assert!(said.len() == 1 && said[0].starts_with(expected), "{pointer} {value}: {said:?}");
    }
}

#[test]
fn workloads_have_rules_of_their_own() {
    for (document, pointer, value, expected) in [
        (deployment(), "/spec/replicas", json!(-1), "spec.replicas: must be from 0"),
        (deployment(), "/spec/selector", json!({}), "spec.selector: must not be empty"),
        (deployment(), "/spec/selector", json!({"matchLabels": {"app": "x"}}), "spec.selector: does not select"),
        (
            deployment(),
            "/spec/template/spec/restartPolicy",
            json!("Never"),
            "spec.template.spec.restartPolicy: must be one of Always",
        ),
        (deployment(), "/metadata/name", json!("a".repeat(207)), "metadata.name: must be no longer than 206"),
        (
            job(),
            "/spec/template/spec/restartPolicy",
            json!(null),
            "spec.template.spec.restartPolicy: must be one of OnFailure, Never",
        ),
        (job(), "/spec/completionMode", json!("Indexed"), "spec.completions: must be given for an indexed job"),
        (job(), "/spec/maxFailedIndexes", json!(1), "spec.maxFailedIndexes: needs "),
        (
            deployment(),
            "/spec/strategy",
            json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}),
            "spec.strategy.rollingUpdate.maxUnavailable: must not be 0",
        ),
        (job(), "/spec/parallelism", json!(-1), "spec.parallelism: "),
    ] {
        let said = said(&with(document, pointer, value));
        assert!(said.len() == 1 && said[0].starts_with(expected), "{pointer}: {said:?}");
    }
}

#[test]
fn everything_is_found_not_only_the_first() {
    let mut bad = pod();
    bad["metadata"]["name"] = "UP".into();
    bad["spec"]["runtimeClassName"] = "x".into();
    bad["spec"]["containers"][0]["image"] = "".into();
    assert_eq!(said(&bad).len(), 3);
}

#[test]
fn data_has_limits() {
    let map = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data});
    assert_eq!(said(&map(json!({"a.b-c_D": "x"}))), [""; 0]);
    assert_eq!(said(&map(json!({"k": "x".repeat((1 << 20) - 1)}))), [""; 0]);
    assert_eq!(said(&map(json!({"k": "x".repeat(1 << 20)}))).len(), 1);
    for key in ["", "..", "..data", "a/b", "ä", "a b"] {
        assert_eq!(said(&map(json!({key: "x"}))).len(), 1, "{key}");
    }
}
