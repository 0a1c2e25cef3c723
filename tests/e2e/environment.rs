//! What a container runs, and the variables it has: image defaults and what replaces them, expansion, references.

use serde_json::{Value, json};

use crate::support::image::{Config, Layer};
use crate::support::node::Node;

/// Runs one container to its end and gives what it wrote.
fn said(node: &Node, name: &str, container: &Value) -> String {
    let mut app = json!({ "name": "app", "imagePullPolicy": "IfNotPresent" });
    for (key, value) in container.as_object().unwrap() {
        app[key] = value.clone();
    }
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "tier": "front" }, "annotations": { "note": "n" } },
        "spec": { "restartPolicy": "Never", "containers": [app] },
    });
    node.manifest(&format!("{name}.json"), &pod.to_string());
    let ended = node.until(name, "ended", |p| matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed")));
    assert_eq!(ended["status"]["phase"], "Succeeded", "{name}: {}", ended["status"]);
    node.ok(&["logs", name]).trim_end().to_owned()
}

#[test]
fn command_and_args_replace_the_images_own() {
    let node = Node::start();
    let (mut layout, _) = node.busybox();
    let config = Config::default().set("Entrypoint", json!(["echo", "entry"])).set("Cmd", json!(["cmd"]));
    let image = layout.add("defaults", &[Layer::busybox()], config);
    for (name, more, expected) in [
        ("neither", json!({}), "entry cmd"),
        ("args", json!({ "args": ["own", "args"] }), "entry own args"),
        ("command", json!({ "command": ["printf", "%s", "own"] }), "own"),
        ("both", json!({ "command": ["echo", "own"], "args": ["args"] }), "own args"),
    ] {
        let mut container = more;
        container["image"] = json!(image);
        assert_eq!(said(&node, name, &container), expected, "{name}");
    }
    node.finish();
}

#[test]
fn variables_are_expanded_in_variables_commands_and_args() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let env = json!([{ "name": "A", "value": "a" }, { "name": "B", "value": "b" }, { "name": "AB", "value": "$(A);;$(B);;$$(A);;$(NONE)" }]);
    for (name, command, args, expected) in [
        ("in-env", json!(["sh", "-c", "printf %s \"$AB\""]), json!([]), "a;;b;;$(A);;$(NONE)"),
        ("in-command", json!(["printf", "%s", "$(A)-$(B)"]), json!([]), "a-b"),
        ("in-args", json!(["printf", "%s"]), json!(["$(A)-$$(B)-$(NONE)"]), "a-$(B)-$(NONE)"),
    ] {
        let container = json!({ "image": image, "env": env, "command": command, "args": args });
        assert_eq!(said(&node, name, &container), expected, "{name}");
    }
    node.finish();
}

#[test]
fn variables_come_from_the_pod_its_resources_config_maps_and_secrets() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let config =
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "conf" }, "data": { "key": "of-map" } });
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "sec" }, "stringData": { "key": "of-secret" } });
    node.manifest("conf.json", &config.to_string());
    node.manifest("sec.json", &secret.to_string());
    let field = |path: &str| json!({ "fieldRef": { "fieldPath": path } });
    let resource = |name: &str| json!({ "resourceFieldRef": { "resource": name } });
    let env = [
        ("NAME", field("metadata.name")),
        ("NAMESPACE", field("metadata.namespace")),
        ("POD_UID", field("metadata.uid")),
        ("TIER", field("metadata.labels['tier']")),
        ("NOTE", field("metadata.annotations['note']")),
        ("NODE", field("spec.nodeName")),
        ("CPU_LIMIT", resource("limits.cpu")),
        ("CPU_REQUEST", json!({ "resourceFieldRef": { "resource": "requests.cpu", "divisor": "1m" } })),
        ("MEMORY_LIMIT", resource("limits.memory")),
        ("MEMORY_REQUEST", json!({ "resourceFieldRef": { "resource": "requests.memory", "divisor": "1Mi" } })),
        ("MAP", json!({ "configMapKeyRef": { "name": "conf", "key": "key" } })),
        ("SECRET", json!({ "secretKeyRef": { "name": "sec", "key": "key" } })),
        ("NONE", json!({ "configMapKeyRef": { "name": "conf", "key": "none", "optional": true } })),
    ];
    let env: Vec<Value> = env.iter().map(|(name, from)| json!({ "name": name, "valueFrom": from })).collect();
    let text = said(
        &node,
        "refs",
        &json!({
            "image": image, "command": ["env"], "env": env,
            "envFrom": [{ "prefix": "M_", "configMapRef": { "name": "conf" } }, { "prefix": "S_", "secretRef": { "name": "sec" } }],
            "resources": { "requests": { "cpu": "250m", "memory": "16Mi" }, "limits": { "cpu": "1500m", "memory": "32Mi" } },
        }),
    );
    let uid = node.pod("refs").unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    for line in [
        "NAME=refs",
        "NAMESPACE=default",
        &format!("POD_UID={uid}"),
        "TIER=front",
        "NOTE=n",
        "NODE=test-node",
        "CPU_LIMIT=2",
        "CPU_REQUEST=250",
        &format!("MEMORY_LIMIT={}", 32 << 20),
        "MEMORY_REQUEST=16",
        "MAP=of-map",
        "SECRET=of-secret",
        "M_key=of-map",
        "S_key=of-secret",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("NONE="), "{text}");
    // Without limits of its own a container may have what the node has.
    let whole = json!([
        { "name": "CPU", "valueFrom": resource("limits.cpu") }, { "name": "MEMORY", "valueFrom": resource("limits.memory") },
    ]);
    let text = said(&node, "node", &json!({ "image": image, "command": ["env"], "env": whole }));
    let cores = std::thread::available_parallelism().unwrap();
    assert!(text.lines().any(|l| l == format!("CPU={cores}")), "{text}");
    assert!(text.lines().any(|l| l.starts_with("MEMORY=") && l.len() > "MEMORY=100000000".len()), "{text}");
    node.finish();
}

#[test]
fn a_runtime_class_that_is_not_there_is_refused_by_name() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" }, "spec": { "runtimeClassName": "other", "containers": [{ "name": "app", "image": image }] } });
    std::fs::write(node.path("p.json"), pod.to_string()).unwrap();
    let said = node.lamina(&["apply", "-f", node.path("p.json").to_str().unwrap()]);
    assert!(said.status != 0 && said.err.contains("spec.runtimeClassName"), "{}", said.err);
    node.finish();
}

#[test]
fn a_container_has_the_variables_that_an_init_container_wrote_for_it() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let from = |key: &str, optional: bool| json!({"fileKeyRef": {"volumeName": "made", "path": "sub/app.env", "key": key, "optional": optional}});
    let script = "mkdir /out/sub; printf \"# made\\nADDRESS='db:5432'\\nNOTE='two\\nlines'\\n\" >/out/sub/app.env";
    let pod = |name: &str, medium: &str, key: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never", "volumes": [{"name": "made", "emptyDir": {"medium": medium}}],
                "initContainers": [{"name": "init", "image": image, "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-c", script], "volumeMounts": [{"name": "made", "mountPath": "/out"}]}],
                "containers": [{"name": "app", "image": image, "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-c", "echo \"$ADDRESS|$NOTE|${NONE-unset}\"; ls /out"],
                    "env": [{"name": "ADDRESS", "valueFrom": from(key, false)}, {"name": "NOTE", "valueFrom": from("NOTE", false)},
                        {"name": "NONE", "valueFrom": from("NONE", true)}]}]
            }
        })
    };
    for (name, medium) in [("disk", ""), ("memory", "Memory")] {
        node.manifest(&format!("{name}.json"), &pod(name, medium, "ADDRESS").to_string());
    }
    node.manifest("wrong.json", &pod("wrong", "", "ELSE").to_string());
    for name in ["disk", "memory"] {
        node.until(name, "ended", |p| matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed")));
        let said = node.ok(&["logs", name, "-c", "app"]);
        // The volume itself is not mounted there.
        assert!(said.starts_with("db:5432|two\nlines|unset\n") && !said.contains("sub"), "{name}: {said}");
    }
    node.until("wrong", "waiting", |p| {
        let waiting = &p["status"]["containerStatuses"][0]["state"]["waiting"];
        let message = waiting["message"].as_str().unwrap_or_default();
        waiting["reason"] == "CreateContainerConfigError"
            && message.contains("file \"sub/app.env\" of volume \"made\": it has no key \"ELSE\"")
    });
    node.finish();
}
