//! Init containers and sidecars: in order, again where they must be, and never in the way of a pod's end.

use serde_json::{Value, json};

use crate::support::node::Node;
use crate::support::wait;

/// A container that runs a shell script.
pub(crate) fn sh(image: &str, name: &str, script: &str) -> Value {
    json!({ "name": name, "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script] })
}

/// A container with more fields.
pub(crate) fn with(mut container: Value, more: Value) -> Value {
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    container
}

/// Declares a pod.
pub(crate) fn declare(node: &Node, name: &str, spec: Value) {
    let mut spec = spec;
    if spec["terminationGracePeriodSeconds"].is_null() {
        spec["terminationGracePeriodSeconds"] = json!(5);
    }
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec });
    node.manifest(&format!("{name}.yaml"), &pod.to_string());
}

/// A script that ends politely when it is asked to, and says so in a shared file.
const POLITE: &str = "trap 'echo $NAME ends >>/shared/log; exit 0' TERM; echo $NAME begins >>/shared/log; \
                      while true; do sleep 0.1; done";

fn shared(container: Value) -> Value {
    let name = container["name"].clone();
    with(
        container,
        json!({ "env": [{ "name": "NAME", "value": name }],
                "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }] }),
    )
}

/// A directory of the host as the volume `shared`.
fn volume(node: &Node) -> Value {
    std::fs::create_dir_all(node.path("shared")).unwrap();
    json!([{ "name": "shared", "hostPath": { "path": node.path("shared"), "type": "Directory" } }])
}

fn log(node: &Node) -> Vec<String> {
    let text = std::fs::read_to_string(node.path("shared/log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn condition<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    conditions.iter().find(|c| c["type"] == name).unwrap_or_else(|| panic!("no condition {name}: {pod}"))
}

#[test]
fn init_containers_run_in_order_before_the_app_and_the_status_says_so() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let step = |name: &str| {
        shared(sh(&image, name, "while [ ! -e /shared/go-$NAME ]; do sleep 0.05; done; echo $NAME >>/shared/log"))
    };
    declare(
        &node,
        "app",
        json!({ "restartPolicy": "Never", "volumes": volume(&node), "initContainers": [step("one"), step("two")],
                "containers": [shared(sh(&image, "main", "echo main >>/shared/log"))] }),
    );
    let pod = node.until("app", "at its first init container", |p| {
        p["status"]["initContainerStatuses"][0]["state"]["running"].is_object()
    });
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(pod["status"]["initContainerStatuses"][1]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(condition(&pod, "PodReadyToStartContainers")["status"], "True");
    let initialized = condition(&pod, "Initialized");
    assert_eq!((&initialized["status"], &initialized["reason"]), (&json!("False"), &json!("ContainersNotInitialized")));
    assert_eq!(initialized["message"], "containers with incomplete status: [one two]");
    assert!(node.ok(&["get", "pods"]).contains("Init:0/2"));
    std::fs::write(node.path("shared/go-one"), "").unwrap();
    node.until("app", "at its second", |p| p["status"]["initContainerStatuses"][1]["state"]["running"].is_object());
    assert!(node.ok(&["get", "pods"]).contains("Init:1/2"));
    std::fs::write(node.path("shared/go-two"), "").unwrap();
    let pod = node.until("app", "done", |p| p["status"]["phase"] == "Succeeded");
    assert_eq!(log(&node), ["one", "two", "main"]);
    for status in pod["status"]["initContainerStatuses"].as_array().unwrap() {
        assert_eq!(status["state"]["terminated"]["reason"], "Completed");
        assert_eq!((&status["ready"], &status["restartCount"]), (&json!(true), &json!(0)));
    }
    assert_eq!(condition(&pod, "Initialized")["status"], "True");
    assert_eq!(condition(&pod, "Ready")["reason"], "PodCompleted");
    node.finish();
}

#[test]
fn a_failing_init_container_is_restarted_and_the_app_waits_or_the_pod_fails() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let app = |policy: &str| {
        json!({ "restartPolicy": policy, "initContainers": [sh(&image, "bad", "exit 1"), sh(&image, "never", "true")],
                "containers": [sh(&image, "main", "sleep 1000")] })
    };
    declare(&node, "always", app("Always"));
    declare(&node, "never", app("Never"));
    let pod = node.until("never", "failed", |p| p["status"]["phase"] == "Failed");
    assert_eq!(pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 1);
    assert!(pod["status"]["initContainerStatuses"][1]["state"]["terminated"].is_null());
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    let pod = node.until("always", "restarting its init container", |p| {
        let init = &p["status"]["initContainerStatuses"][0];
        init["restartCount"] == 1 && init["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    assert_eq!(pod["status"]["initContainerStatuses"][0]["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(condition(&pod, "Initialized")["status"], "False");
    node.finish();
}

#[test]
fn a_lost_shim_makes_a_new_sandbox_and_its_init_containers_run_again() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    declare(
        &node,
        "app",
        json!({ "volumes": volume(&node), "initContainers": [shared(sh(&image, "one", "echo one >>/shared/log"))],
                "containers": [shared(sh(&image, "main", "echo main >>/shared/log; exec sleep 1000"))] }),
    );
    node.running("app");
    // A restart of the agent is none of the pod's.
    node.kill_agent();
    node.start_agent();
    let pod = node.running("app");
    wait("the container has written", || (log(&node).len() == 2).then_some(()));
    let shim = pod["lamina"]["shim"].as_u64().unwrap();
    assert!(std::process::Command::new("kill").args(["-9", &shim.to_string()]).status().unwrap().success());
    wait("the pod has begun anew", || (log(&node) == ["one", "main", "one", "main"]).then_some(()));
    let after =
        node.until("app", "running again", |p| p["status"]["containerStatuses"][0]["state"]["running"].is_object());
    assert_eq!(after["metadata"]["uid"], pod["metadata"]["uid"]);
    assert_eq!(after["status"]["initContainerStatuses"][0]["restartCount"], 1);
    node.finish();
}

#[test]
fn sidecars_start_first_end_last_and_let_a_job_finish() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let sidecar = |name: &str| with(shared(sh(&image, name, POLITE)), json!({ "restartPolicy": "Always" }));
    let main = "echo main >>/shared/log; while [ ! -e /shared/done ]; do sleep 0.05; done";
    declare(
        &node,
        "job",
        json!({ "restartPolicy": "Never", "volumes": volume(&node),
                "initContainers": [sidecar("one"), shared(sh(&image, "between", "while [ ! -s /shared/log ]; do sleep 0.05; done; echo between >>/shared/log")), sidecar("two")],
                "containers": [shared(sh(&image, "main", main))] }),
    );
    let pod = node.running("job");
    assert_eq!(pod["status"]["phase"], "Running");
    assert!(node.ok(&["get", "pods"]).contains("3/3"));
    assert_eq!(condition(&pod, "Ready")["status"], "True");
    // A sidecar comes back though the pod's policy is Never.
    node.ok(&["exec", "job", "-c", "one", "--", "kill", "1"]);
    node.until("job", "with its sidecar back", |p| {
        let one = &p["status"]["initContainerStatuses"][0];
        one["restartCount"] == 1 && one["state"]["running"].is_object()
    });
    wait("it has begun again", || (log(&node).iter().filter(|l| *l == "one begins").count() == 2).then_some(()));
    std::fs::write(node.path("shared/done"), "").unwrap();
    let pod = node.until("job", "done", |p| p["status"]["phase"] == "Succeeded");
    assert_eq!(pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
    let said = log(&node);
    assert_eq!(said.last().unwrap(), "one ends");
    assert_eq!(said[said.len() - 2], "two ends");
    assert_eq!(said[..2], ["one begins", "between"]);
    node.finish();
}

#[test]
fn a_pod_that_goes_stops_its_sidecars_after_the_app_in_reverse_order() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let sidecar = |name: &str| with(shared(sh(&image, name, POLITE)), json!({ "restartPolicy": "Always" }));
    declare(
        &node,
        "app",
        json!({ "volumes": volume(&node), "initContainers": [sidecar("one"), sidecar("two")],
                "containers": [shared(sh(&image, "main", POLITE))] }),
    );
    node.running("app");
    wait("all have begun", || (log(&node).len() == 3).then_some(()));
    node.remove_manifest("app.yaml");
    node.gone("app");
    assert_eq!(log(&node)[3..], ["main ends", "two ends", "one ends"]);
    node.finish();
}

#[test]
fn restart_policies_and_rules_of_single_containers_count_before_the_pods() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let once = |code: i32, rules: Value| {
        let script = format!("[ -e /shared/$NAME ] && exec sleep 1000; touch /shared/$NAME; exit {code}");
        with(
            shared(sh(&image, &format!("c{code}"), &script)),
            json!({ "restartPolicy": "Never", "restartPolicyRules": rules }),
        )
    };
    let rules = json!([{ "action": "Restart", "exitCodes": { "operator": "In", "values": [42] } }]);
    declare(
        &node,
        "app",
        json!({ "restartPolicy": "Always", "volumes": volume(&node),
                "containers": [once(42, rules.clone()), once(1, rules)] }),
    );
    let pod = node.until("app", "half restarted", |p| {
        let statuses = &p["status"]["containerStatuses"];
        statuses[0]["restartCount"] == 1
            && statuses[0]["state"]["running"].is_object()
            && statuses[1]["state"]["terminated"].is_object()
    });
    assert_eq!(pod["status"]["containerStatuses"][1]["state"]["terminated"]["exitCode"], 1);
    assert_eq!(pod["status"]["phase"], "Running");
    // What makes no sense is refused by name.
    let wrong = with(sh(&image, "a", "true"), json!({ "restartPolicyRules": [{ "action": "Explode" }] }));
    declare(
        &node,
        "wrong",
        json!({ "initContainers": [with(sh(&image, "i", "true"), json!({ "lifecycle": {} }))], "containers": [wrong] }),
    );
    let said = wait("the manifest is refused", || {
        let said = node.ok(&["get", "manifests", "-o", "json"]);
        said.contains("restartPolicyRules[0].action").then_some(said)
    });
    assert!(said.contains("initContainers[0].lifecycle"), "{said}");
    node.finish();
}

#[test]
fn a_rule_may_have_all_containers_of_a_pod_start_anew_in_its_sandbox() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    let counting = |name: &str, then: &str| shared(sh(&image, name, &format!("echo $NAME >>/shared/log; {then}")));
    let rules = json!([{ "action": "RestartAllContainers", "exitCodes": { "operator": "In", "values": [88] } }]);
    let source = with(
        counting("source", "while [ ! -e /shared/go ]; do sleep 0.05; done; rm /shared/go; exit 88"),
        json!({ "restartPolicy": "Never", "restartPolicyRules": rules }),
    );
    // It is not asked first: its hook would tell.
    let stubborn = with(
        counting("stubborn", "trap '' TERM; while true; do sleep 1; done"),
        json!({ "lifecycle": { "preStop": { "exec": { "command": ["touch", "/shared/hooked"] } } } }),
    );
    declare(
        &node,
        "app",
        json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 2, "volumes": volume(&node),
                "initContainers": [counting("first", "true"), with(counting("proxy", "exec sleep 1000"), json!({ "restartPolicy": "Always" }))],
                "containers": [source, stubborn, counting("done", "true")] }),
    );
    let is_at = |p: &Value, restarts: u64| {
        let all = p["status"]["containerStatuses"].as_array().unwrap();
        all.iter().all(|c| c["restartCount"] == restarts)
            && all[2]["state"]["terminated"].is_object()
            && all[1]["state"]["running"].is_object()
    };
    let before = node.until("app", "up", |p| is_at(p, 0));
    std::fs::write(node.path("shared/go"), "").unwrap();
    let after = node.until("app", "up again", |p| is_at(p, 1));
    for same in ["/metadata/uid", "/status/podIP", "/lamina/shim"] {
        assert_eq!(before.pointer(same), after.pointer(same), "{same}");
    }
    assert_eq!(after["status"]["phase"], "Running");
    assert_eq!(condition(&after, "AllContainersRestarting")["status"], "False");
    assert_eq!(after["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 88);
    let mut seen = log(&node);
    assert_eq!([&seen[0], &seen[1], &seen[5], &seen[6]], ["first", "proxy", "first", "proxy"]);
    seen.sort();
    assert_eq!(seen, ["done", "done", "first", "first", "proxy", "proxy", "source", "source", "stubborn", "stubborn"]);
    assert!(!node.path("shared/hooked").exists());
    assert!(node.ok(&["get", "events"]).contains("RestartingAllContainers"));
    // The next agent knows that this was so and begins nothing anew.
    node.kill_agent();
    node.start_agent();
    node.until("app", "as it was", |p| is_at(p, 1));
    assert_eq!(log(&node).len(), 10);
    node.finish();
}
