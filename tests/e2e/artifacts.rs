//! Volumes that are images: shared like the layers of any, held while the pod is there, and only read.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::image::{Config, Layer, Layout};
use crate::support::node::Node;
use crate::support::wait;

/// A pod of one container that has an image at `/v`, and `sub` of it at `/part`.
fn pod(name: &str, image: &str, reference: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "v", "image": {"reference": reference, "pullPolicy": "IfNotPresent"}}],
            "containers": [{
                "name": "app", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/part", "subPath": "sub"}]
            }]
        }
    })
}

fn put(node: &Node, pod: &Value) {
    node.manifest(&format!("{}.yaml", pod["metadata"]["name"].as_str().unwrap()), &pod.to_string());
}

fn file(node: &Node, pod: &str, path: &str) -> Option<String> {
    let said = node.lamina(&["exec", pod, "--", "cat", path]);
    (said.status == 0).then_some(said.out)
}

/// A layout with an image to run, and two images of data that share a layer.
fn images(node: &Node) -> (Layout, [String; 3]) {
    let mut layout = Layout::create(&node.path("images"));
    let base = Layer::new().file("file", b"base", 0o644).dir("sub", 0o755).file("sub/file", b"part", 0o644);
    let above = Layer::new().file("file", b"above", 0o644).file("more", b"x", 0o644);
    let run = layout.add("busybox", &[Layer::busybox()], Config::default());
    let one = layout.add("one", std::slice::from_ref(&base), Config::default());
    let two = layout.add("two", &[base, above], Config::default());
    (layout, [run, one, two])
}

#[test]
fn an_image_is_a_volume_whose_layers_are_shared_and_go_with_the_pod() {
    let mut node = Node::start();
    let (_layout, [run, one, two]) = images(&node);
    put(&node, &pod("one", &run, &one, "exec sleep 1000"));
    put(&node, &pod("two", &run, &two, "exec sleep 1000"));
    node.running("one");
    node.running("two");
    assert_eq!(node.layers().len(), 3, "what both have is stored once");
    assert_eq!(file(&node, "one", "/v/file").as_deref(), Some("base"));
    assert_eq!(file(&node, "one", "/part/file").as_deref(), Some("part"));
    assert_eq!(
        (file(&node, "two", "/v/file").as_deref(), file(&node, "two", "/part/file").as_deref()),
        (Some("above"), Some("part"))
    );
    for path in ["/v/new", "/v/file", "/part/new"] {
        assert_ne!(node.lamina(&["exec", "two", "--", "touch", path]).status, 0, "{path}");
    }
    let why = node.ok(&["why", &two]);
    assert!(why.contains("pod default/two"), "{why}");
    let volumes = node.ok(&["get", "volumes"]);
    assert!(volumes.contains("image"), "{volumes}");

    // A new agent goes on with what is mounted, and starts a container on it again.
    node.kill_agent();
    node.start_agent();
    let before = node.pid("two", "app");
    assert!(Command::new("kill").args(["-9", &before.to_string()]).status().unwrap().success());
    node.until("two", "restarted", |p| p["status"]["containerStatuses"][0]["restartCount"] == 1);
    node.running("two");
    assert_ne!(node.pid("two", "app"), before);
    assert_eq!(file(&node, "two", "/v/more").as_deref(), Some("x"));

    node.remove_manifest("two.yaml");
    node.gone("two");
    wait("what it alone had is freed", || (node.layers().len() == 2).then_some(()));
    assert_eq!(file(&node, "one", "/v/file").as_deref(), Some("base"));
    node.remove_manifest("one.yaml");
    node.gone("one");
    wait("all is freed", || node.layers().is_empty().then_some(()));
    node.finish();
}

#[test]
fn an_image_that_cannot_be_had_keeps_the_pod_waiting_with_its_reason() {
    let node = Node::start();
    let (mut layout, [run, _, _]) = images(&node);
    let late = format!("oci:{}:late", node.path("images").display());
    let mut web = pod("web", &run, &late, "exec sleep 1000");
    put(&node, &web);
    let waits = |p: &Value| {
        let status = &p["status"];
        let message = status["message"].as_str().unwrap_or_default();
        status["reason"] == "ErrImagePull" && message.contains("volume v: cannot pull") && message.contains("late")
    };
    node.until("web", "waiting", waits);
    assert!(node.ok(&["get", "events"]).contains("FailedPull"));
    let layer = Layer::new().dir("sub", 0o755).file("sub/file", b"late", 0o644);
    assert_eq!(layout.add("late", &[layer], Config::default()), late);
    // Nobody tells of a change in a layout: the pod is tried again when it is changed.
    web["spec"]["hostname"] = "again".into();
    put(&node, &web);
    node.running("web");
    assert_eq!(file(&node, "web", "/part/file").as_deref(), Some("late"));
    node.finish();
}

#[test]
fn a_pod_in_a_user_namespace_reads_the_files_of_an_image_as_its_own() {
    let node = Node::start();
    let (_layout, [run, one, two]) = images(&node);
    for (name, reference) in [("one", &one), ("two", &two)] {
        let mut pod = pod(name, &run, reference, "stat -c '%u %g' /v/file /part/file; cat /v/file");
        pod["spec"]["hostUsers"] = false.into();
        pod["spec"]["restartPolicy"] = "Never".into();
        put(&node, &pod);
    }
    for (name, text) in [("one", "base"), ("two", "above")] {
        node.until(name, "done", |p| p["status"]["phase"] == "Succeeded");
        assert_eq!(node.ok(&["logs", name]).trim_end(), format!("0 0\n0 0\n{text}"));
    }
    node.finish();
}
