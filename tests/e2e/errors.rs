//! Bad input gets a clear error, and hurts nobody else.

use crate::support::node::Node;
use crate::support::wait;

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
         - {{ name: app, image: \"{image}\", imagePullPolicy: IfNotPresent, command: [sleep, \"1000\"] }}\n"
    )
}

#[test]
fn one_bad_file_hurts_no_other_and_is_named() {
    let node = Node::start();
    let (_, image) = node.busybox();
    node.manifest(
        "bad.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: { name: bad }\nspec:\n  containers:\n  - { name: a, imag: x }\n",
    );
    node.manifest("good.yaml", &pod("good", &image));
    node.running("good");
    wait("the problem is shown", || {
        let manifests = node.ok(&["get", "manifests"]);
        (manifests.contains("bad.yaml") && manifests.contains("imag")).then_some(())
    });
    node.finish();
}

#[test]
fn apply_refuses_with_file_field_and_reason_and_changes_nothing() {
    let node = Node::start();
    for (text, words) in [
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a, image: b, volumeDevices: [{name: c, devicePath: /d}]}]}",
            "spec.containers[0].volumeDevices",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: X_y}\nspec: {containers: [{name: a, image: b}]}",
            "metadata.name",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a, image: b, env: [{name: c, value: 1}]}]}",
            "env",
        ),
        ("apiVersion: v1\nkind: Widget\nmetadata: {name: x}", "Widget"),
        ("apiVersion: v1\nkind: [", ""),
        // What a template left.
        ("", "no object"),
        ("---\n# nothing\n", "no object"),
    ] {
        let file = node.path("try.yaml");
        std::fs::write(&file, text).unwrap();
        let said = node.lamina(&["apply", "-f", file.to_str().unwrap()]);
        assert_eq!(said.status, 2, "{text}: {}{}", said.out, said.err);
        assert!(said.err.contains("try.yaml") && said.err.contains(words), "{text}: {}", said.err);
    }
    assert!(node.json(&["get", "pods", "-A"])["items"].as_array().unwrap().is_empty());
    node.finish();
}

#[test]
fn an_image_that_is_not_there_is_reported_and_other_pods_run() {
    let node = Node::start();
    let (_, image) = node.busybox();
    node.manifest("missing.yaml", &pod("missing", "127.0.0.1:1/nothing:1"));
    node.manifest("good.yaml", &pod("good", &image));
    node.running("good");
    let pod = node.until("missing", "waiting for its image", |p| {
        let reason = &p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
        reason == "ErrImagePull" || reason == "ImagePullBackOff"
    });
    let message =
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("127.0.0.1:1"), "{message}");
    let said = node.lamina(&["pull", "127.0.0.1:1/nothing:1"]);
    assert_eq!(said.status, 1);
    assert!(said.err.contains("hint:"), "{}", said.err);
    node.finish();
}

#[test]
fn apply_and_delete_by_hand_and_a_refusal_for_what_a_file_owns() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let file = node.path("web.yaml");
    std::fs::write(&file, pod("web", &image)).unwrap();
    node.ok(&["apply", "-f", file.to_str().unwrap()]);
    node.ok(&["wait", "pod/web", "--for=ready", "--timeout", "30s"]);
    node.ok(&["delete", "pod/web"]);
    node.ok(&["wait", "pod/web", "--for=deleted", "--timeout", "30s"]);
    assert_eq!(node.lamina(&["delete", "pod/web"]).status, 4);
    node.manifest("owned.yaml", &pod("owned", &image));
    node.running("owned");
    let said = node.lamina(&["delete", "pod/owned"]);
    assert_ne!(said.status, 0);
    assert!(said.err.contains("owned.yaml"), "{}", said.err);
    assert_eq!(node.lamina(&["wait", "pod/owned", "--for=succeeded", "--timeout", "200ms"]).status, 5);
    let waited = node.lamina(&["wait", "pod/owned", "--for=succeeded", "--timeout", "1s"]);
    assert!(waited.err.contains("after 1s:"), "the time that was asked for: {}", waited.err);
    node.finish();
}

#[test]
fn exit_statuses_are_those_of_the_command_lines_page() {
    let node = Node::start();
    assert_eq!(node.lamina(&["get", "pods", "nothing"]).status, 4);
    assert_eq!(node.lamina(&["get", "no-such-kind"]).status, 2);
    assert_eq!(node.lamina(&["--no-such-flag"]).status, 2);
    assert_eq!(node.lamina(&["logs", "nothing"]).status, 4);
    assert_eq!(node.lamina(&["get", "pods", "--run", "/nonexistent"]).status, 3);
    let second = node.lamina(&[
        "agent",
        "--root",
        node.path("root").to_str().unwrap(),
        "--run",
        node.path("run2").to_str().unwrap(),
    ]);
    assert_eq!(second.status, 3, "{}", second.err);
    assert!(second.err.contains(&node.agent_pid().to_string()), "the holder is not named: {}", second.err);
    node.finish();
}

#[test]
fn a_manifest_directory_that_goes_away_stops_nothing() {
    let node = Node::start();
    let (_, image) = node.busybox();
    node.manifest("web.yaml", &pod("web", &image));
    node.running("web");
    let pid = node.pid("web", "app");
    let (manifests, aside) = (node.path("manifests"), node.path("aside"));
    std::fs::rename(&manifests, &aside).unwrap();
    std::fs::create_dir(&manifests).unwrap();
    // Another pod that comes in by hand shows that the agent has looked since.
    std::fs::write(node.path("other.yaml"), pod("other", &image)).unwrap();
    node.ok(&["apply", "-f", node.path("other.yaml").to_str().unwrap()]);
    node.running("other");
    assert_eq!(node.pid("web", "app"), pid);
    std::fs::remove_dir(&manifests).unwrap();
    std::fs::rename(&aside, &manifests).unwrap();
    assert_eq!(node.pid("web", "app"), pid);
    node.finish();
}

#[test]
fn an_immutable_config_map_keeps_its_data_until_it_is_deleted() {
    let node = Node::start();
    let path = node.path("map.yaml");
    let apply = |value: &str| {
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: c }}\nimmutable: true\ndata: {{ key: {value} }}\n"
        );
        std::fs::write(&path, text).unwrap();
        node.lamina(&["apply", "-f", path.to_str().unwrap()])
    };
    assert_eq!(apply("one").status, 0);
    let refused = apply("two");
    assert_eq!(refused.status, 2, "{}", refused.err);
    assert!(refused.err.contains("ConfigMap default/c: data: must not change"), "{}", refused.err);
    assert!(apply("one").out.contains("unchanged"));
    node.ok(&["delete", "configmap/c"]);
    assert!(apply("two").out.contains("created"));
    node.finish();
}

#[test]
fn an_export_that_cannot_be_mounted_keeps_the_pod_waiting_with_its_reason() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {
            "volumes": [{"name": "files", "nfs": {"server": "127.0.0.9", "path": "/exports"}}],
            "containers": [{"name": "app", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1000"],
                "volumeMounts": [{"name": "files", "mountPath": "/files"}]}]
        }
    });
    node.manifest("web.json", &pod.to_string());
    // Not every kernel has a client; with one it is the server that is not there.
    let client = std::fs::read_to_string("/proc/filesystems").unwrap().contains("nfs4");
    let why = if client { "the server cannot be reached at 127.0.0.9:2049" } else { "this kernel has no NFS client" };
    node.until("web", "waiting", |p| {
        let message = p["status"]["message"].as_str().unwrap_or_default();
        p["status"]["reason"] == "FailedMount"
            && message.contains("volume files: cannot mount nfs 127.0.0.9:/exports: ")
            && message.contains(why)
    });
    node.finish();
}
