//! Termination messages: what a container leaves to say why it ended.

use serde_json::{Value, json};

use crate::inits::{declare, sh, with};
use crate::support::node::Node;

fn message<'a>(pod: &'a Value, state: &str) -> &'a Value {
    &pod["status"]["containerStatuses"][0][state]["terminated"]["message"]
}

/// Declares a pod of one container that ends by itself, and gives what it was when it had.
fn ended(node: &Node, name: &str, more: Value, script: &str) -> Value {
    let (_, image) = node.busybox();
    let container = with(sh(&image, "app", script), more);
    declare(node, name, json!({ "restartPolicy": "Never", "containers": [container] }));
    node.until(name, "over", |p| ["Succeeded", "Failed"].contains(&p["status"]["phase"].as_str().unwrap()))
}

#[test]
fn a_container_says_why_it_ended_in_a_file_of_its_own() {
    let node = Node::start();
    let pod = ended(&node, "root", json!({}), "echo -n DONE >/dev/termination-log");
    assert_eq!(message(&pod, "state"), "DONE");
    assert!(node.ok(&["describe", "pod/root"]).contains("message=DONE"));
    // As whoever the image or the manifest says, at another path, also where the root is read-only.
    let other = json!({ "terminationMessagePath": "/data/why",
                        "securityContext": { "runAsUser": 1000, "readOnlyRootFilesystem": true } });
    let pod = ended(&node, "other", other, "echo -n mine >/data/why; test ! -e /dev/termination-log && exit 3");
    assert_eq!(message(&pod, "state"), "mine");
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    // It cannot be taken away: it is a mount.
    let replace = "rm /dev/termination-log 2>/dev/null; ln -sf /etc/passwd /dev/termination-log 2>/dev/null; exit 1";
    let pod = ended(&node, "link", json!({}), replace);
    assert!(message(&pod, "state").is_null(), "{pod}");
    let privileged = json!({ "securityContext": { "privileged": true } });
    let pod = ended(&node, "privileged", privileged, "echo -n strong >/dev/termination-log");
    assert_eq!(message(&pod, "state"), "strong");
    // The end of what is too long, and never more than the share of one container in what a pod may say.
    let long = "head -c 100000 /dev/zero | tr '\\0' a >/dev/termination-log; echo -n END >>/dev/termination-log";
    let text = message(&ended(&node, "long", json!({}), long), "state").as_str().unwrap().to_owned();
    assert_eq!((text.len(), &text[4090..]), (4096, "aaaEND"));
    node.finish();
}

#[test]
fn the_end_of_the_log_is_the_message_of_a_container_that_fails_without_one() {
    let node = Node::start();
    let fallback = json!({ "terminationMessagePolicy": "FallbackToLogsOnError" });
    let lines = "i=0; while [ $i -lt 100 ]; do echo line $i; i=$((i+1)); done";
    let pod = ended(&node, "failed", fallback.clone(), &format!("{lines}; exit 1"));
    let text = message(&pod, "state").as_str().unwrap().to_owned();
    assert_eq!(
        (text.lines().count(), text.lines().next(), text.lines().last()),
        (80, Some("line 20"), Some("line 99"))
    );
    let pod = ended(&node, "wide", fallback.clone(), "head -c 10000 /dev/zero | tr '\\0' b; exit 1");
    assert_eq!(message(&pod, "state").as_str().unwrap().len(), 2048);
    let pod = ended(&node, "well", fallback.clone(), "echo fine");
    assert!(message(&pod, "state").is_null());
    let pod = ended(&node, "done", fallback.clone(), "echo in the log; echo -n OK >/dev/termination-log");
    assert_eq!((message(&pod, "state"), &pod["status"]["phase"]), (&json!("OK"), &json!("Succeeded")));
    let pod = ended(&node, "file", fallback, "echo in the log; echo -n in the file >/dev/termination-log; exit 1");
    assert_eq!(message(&pod, "state"), "in the file");
    let pod = ended(&node, "plain", json!({}), "echo in the log; exit 1");
    assert!(message(&pod, "state").is_null());
    node.finish();
}

#[test]
fn messages_are_known_to_the_next_agent_and_of_the_last_attempt_too() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    let again = sh(&image, "app", "echo -n bye $(cat /dev/termination-log) >/dev/termination-log; exit 1");
    declare(&node, "again", json!({ "containers": [again] }));
    // Inside a user namespace of the pod's own.
    let mapped = sh(&image, "app", "while [ ! -e /tmp/go ]; do sleep 0.1; done; echo -n mapped >/dev/termination-log");
    let mapped = with(mapped, json!({ "securityContext": { "runAsUser": 1000 } }));
    declare(&node, "mapped", json!({ "hostUsers": false, "restartPolicy": "Never", "containers": [mapped] }));
    let uid = node.running("mapped")["metadata"]["uid"].as_str().unwrap().to_owned();
    let pod = node.until("again", "restarted", |p| {
        let status = &p["status"]["containerStatuses"][0];
        status["restartCount"].as_u64() >= Some(1) && status["state"]["waiting"].is_object()
    });
    // Each attempt has a file of its own: nothing of the one before is in it.
    assert_eq!(message(&pod, "lastState"), "bye");
    node.ok(&["exec", "mapped", "--", "touch", "/tmp/go"]);
    node.kill_agent();
    let exit = node.path(&format!("root/pods/{uid}/containers/app/0/exit"));
    crate::support::wait("the container ends without an agent", || exit.exists().then_some(()));
    node.start_agent();
    let pod = node.until("mapped", "over", |p| p["status"]["phase"] == "Succeeded");
    assert_eq!(message(&pod, "state"), "mapped");
    assert_eq!(message(&node.pod("again").unwrap(), "lastState"), "bye");
    node.finish();
}

#[test]
fn the_messages_of_a_pod_share_what_it_may_say() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let script = "head -c 5000 /dev/zero | tr '\\0' a >/dev/termination-log";
    let containers: Vec<Value> = (0..6).map(|n| sh(&image, &format!("c{n}"), script)).collect();
    declare(&node, "many", json!({ "restartPolicy": "Never", "containers": containers }));
    let pod = node.until("many", "over", |p| p["status"]["phase"] == "Succeeded");
    for status in pod["status"]["containerStatuses"].as_array().unwrap() {
        assert_eq!(status["state"]["terminated"]["message"].as_str().unwrap().len(), 2048);
    }
    node.finish();
}
