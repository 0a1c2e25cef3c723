//! What the node conformance list asks of a pod's life: hooks that ask a server, restarts, changes, and its end.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::inits::{declare, sh, with};
use crate::network::ip;
use crate::support::node::Node;
use crate::support::wait;

fn status(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

/// Applies an object by hand, as `lamina apply -f` does.
fn apply(node: &Node, object: &Value) -> String {
    let file = node.path("applied.json");
    std::fs::write(&file, object.to_string()).unwrap();
    node.ok(&["apply", "-f", file.to_str().unwrap()])
}

#[test]
fn hooks_ask_a_server_after_the_start_and_before_the_end() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let pages = ["post-page", "pre-page", "post-command", "pre-command"];
    let made = pages.map(|page| format!("echo hello >/www/{page}; ")).concat();
    let script = format!("mkdir -p /www; {made}exec httpd -f -vv -p 8080 -h /www");
    declare(&node, "server", json!({ "terminationGracePeriodSeconds": 0, "containers": [sh(&image, "app", &script)] }));
    let server = ip(&node.running("server"));
    let page = |name: &str| json!({ "httpGet": { "host": server, "port": 8080, "path": format!("/{name}") } });
    let command = |name: &str| {
        let script = format!("printf 'GET /{name} HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 5 {server} 8080 | grep hello");
        json!({ "exec": { "command": ["sh", "-c", script] } })
    };
    for (name, post, pre) in
        [("page", page("post-page"), page("pre-page")), ("command", command("post-command"), command("pre-command"))]
    {
        let hooks = json!({ "lifecycle": { "postStart": post, "preStop": pre } });
        declare(&node, name, json!({ "containers": [with(sh(&image, "app", "exec sleep 1000"), hooks)] }));
    }
    let asked = |page: &str| node.ok(&["logs", "server"]).contains(&format!("/{page}"));
    for name in ["page", "command"] {
        node.running(name);
        wait("the hook after the start has asked", || asked(&format!("post-{name}")).then_some(()));
        assert!(!asked(&format!("pre-{name}")));
        node.remove_manifest(&format!("{name}.yaml"));
        node.gone(name);
        assert!(asked(&format!("pre-{name}")), "{}", node.ok(&["logs", "server"]));
    }
    node.finish();
}

#[test]
fn a_container_that_exits_is_restarted_as_its_policy_says() {
    let node = Node::start();
    let (_, image) = node.busybox();
    // Fails the first time, ends well the second, and stays the third.
    let script = "echo >>/count/n; case $(wc -l </count/n) in 1) exit 1;; 2) exit 0;; *) exec sleep 1000;; esac";
    let policies =
        [("Always", "Running", 2, true), ("OnFailure", "Succeeded", 1, false), ("Never", "Failed", 0, false)];
    for (policy, ..) in policies {
        let app =
            with(sh(&image, "app", script), json!({ "volumeMounts": [{ "name": "count", "mountPath": "/count" }] }));
        declare(
            &node,
            &policy.to_lowercase(),
            json!({ "restartPolicy": policy, "terminationGracePeriodSeconds": 0, "containers": [app],
                    "volumes": [{ "name": "count", "emptyDir": {} }] }),
        );
    }
    for (policy, phase, restarts, ready) in policies.into_iter().rev() {
        let pod = node.until(&policy.to_lowercase(), phase, |p| {
            p["status"]["phase"] == phase && status(p)["restartCount"] == restarts && status(p)["ready"] == ready
        });
        assert_eq!(status(&pod)["state"]["running"].is_object(), policy == "Always", "{pod}");
    }
    node.finish();
}

#[test]
fn a_command_that_always_fails_has_a_reason_and_its_pod_can_be_deleted() {
    let node = Node::start();
    let (_, image) = node.busybox();
    for policy in ["Never", "Always"] {
        let name = format!("fails-{}", policy.to_lowercase());
        apply(
            &node,
            &json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": {
                "restartPolicy": policy, "terminationGracePeriodSeconds": 0,
                "containers": [with(sh(&image, "app", ""), json!({ "command": ["/bin/false"] }))] } }),
        );
        let pod = node.until(&name, "terminated", |p| {
            [&status(p)["state"], &status(p)["lastState"]].iter().any(|s| s["terminated"].is_object())
        });
        let ended = [&status(&pod)["state"]["terminated"], &status(&pod)["lastState"]["terminated"]];
        let ended = ended.iter().find(|s| s.is_object()).unwrap();
        assert_eq!((&ended["reason"], &ended["exitCode"]), (&json!("Error"), &json!(1)), "{pod}");
        node.ok(&["delete", &format!("pod/{name}")]);
        node.gone(&name);
    }
    node.finish();
}

#[test]
fn a_pod_is_found_by_its_label_changed_in_place_and_watched_until_it_is_gone() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let pod = |time: &str, deadline: Option<u32>| {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web", "labels": { "time": time } }, "spec": {
            "terminationGracePeriodSeconds": 1, "activeDeadlineSeconds": deadline,
            // It ends by its grace period alone: there is time to see it go.
            "containers": [sh(&image, "app", "trap '' TERM; while true; do sleep 0.1; done")] } })
    };
    let mut watch = node.command(&["get", "pods", "-w", "-o", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let found = |selector: &str| -> Vec<String> {
        let list = node.json(&["get", "pods", "-l", selector]);
        list["items"].as_array().unwrap().iter().map(|p| p["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(found("time=one"), none);
    apply(&node, &pod("one", None));
    let before = node.running("web");
    assert_eq!(found("time=one"), ["web"]);
    apply(&node, &pod("two", None));
    wait("the other label finds it", || (found("time=two") == ["web"]).then_some(()));
    assert_eq!(found("time=one"), none);
    let after = node.running("web");
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(status(&after)["containerID"], status(&before)["containerID"], "it was restarted");

    // A deadline that is set later ends it, as the same pod.
    apply(&node, &pod("two", Some(1)));
    let over = node.until("web", "over its deadline", |p| p["status"]["phase"] == "Failed");
    assert_eq!(over["status"]["reason"], "DeadlineExceeded", "{over}");
    assert_eq!(over["metadata"]["uid"], before["metadata"]["uid"]);

    node.ok(&["delete", "pod/web"]);
    node.gone("web");
    apply(&node, &pod("three", None));
    node.running("web");
    node.ok(&["delete", "pod/web"]);
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut going = false;
    for line in &mut lines {
        let change: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let object = &change["object"];
        if object["metadata"]["labels"]["time"] != "three" {
            continue;
        }
        going |= object["metadata"]["deletionTimestamp"].is_string();
        if change["type"] == "DELETED" {
            break;
        }
    }
    assert!(going, "nobody was told that the pod goes");
    watch.kill().unwrap();
    watch.wait().unwrap();
    node.gone("web");
    assert_eq!(found("time"), none);
    node.finish();
}

#[test]
fn a_config_map_that_is_updated_is_what_the_next_pod_sees() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let map = |value: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "map" }, "data": { "key": value } });
    for value in ["one", "two"] {
        let said = apply(&node, &map(value));
        assert!(said.contains("configmap/map"), "{said}");
        let from =
            json!({ "env": [{ "name": "KEY", "valueFrom": { "configMapKeyRef": { "name": "map", "key": "key" } } }] });
        let app = with(sh(&image, "app", "echo $KEY"), from);
        declare(&node, value, json!({ "restartPolicy": "Never", "containers": [app] }));
        node.until(value, "over", |p| p["status"]["phase"] == "Succeeded");
        assert_eq!(node.ok(&["logs", value]).trim(), value);
    }
    node.finish();
}
