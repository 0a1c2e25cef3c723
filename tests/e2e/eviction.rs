//! Evictions: of pods that take more of the disk than they may, and of those that go when the node is short.

use serde_json::{Value, json};

use crate::inits::{declare, sh, with};
use crate::support::node::{LAMINA, Node};
use crate::support::wait;

/// Writes so many bytes, and stays.
fn writes(path: &str, bytes: u64) -> String {
    format!("head -c {bytes} /dev/zero >{path}; exec sleep 1000")
}

fn limited(limit: &str) -> Value {
    json!({ "resources": { "limits": { "ephemeral-storage": limit } } })
}

fn evicted(node: &Node, name: &str) -> String {
    let pod = node.until(name, "evicted", |p| p["status"]["reason"] == "Evicted" && p["status"]["phase"] == "Failed");
    pod["status"]["message"].as_str().unwrap().to_owned()
}

/// Whether a pod takes nothing of the disk any more but for how it ended.
fn is_empty(node: &Node, name: &str) -> bool {
    let uid = node.pod(name).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let dir = node.path(&format!("root/pods/{uid}"));
    !dir.join("volumes").exists() && !dir.join("containers/app/0/upper").exists()
}

#[test]
fn a_pod_that_takes_more_of_the_disk_than_it_may_is_evicted() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let volume = |limit: &str| json!([{ "name": "v", "emptyDir": { "sizeLimit": limit } }]);
    let mounted = json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }] });
    let on_volume = with(sh(&image, "app", &writes("/v/big", 3 << 20)), mounted);
    declare(&node, "volume", json!({ "volumes": volume("2Mi"), "containers": [on_volume.clone()] }));
    declare(&node, "roomy", json!({ "volumes": volume("100Mi"), "containers": [on_volume] }));
    declare(
        &node,
        "layer",
        json!({ "containers": [with(sh(&image, "app", &writes("/big", 3 << 20)), limited("2Mi"))] }),
    );
    let talks = "yes a-line-of-a-log | head -c 3000000; exec sleep 1000";
    let other = with(sh(&image, "other", "exec sleep 1000"), limited("100Mi"));
    declare(&node, "log", json!({ "containers": [with(sh(&image, "app", talks), limited("2Mi")), other] }));
    assert_eq!(evicted(&node, "volume"), "Usage of EmptyDir volume \"v\" exceeds the limit \"2Mi\".");
    let whole = "Pod ephemeral local storage usage exceeds the total limit of containers 2048Ki.";
    assert_eq!(evicted(&node, "layer"), whole);
    assert_eq!(evicted(&node, "log"), "Container app exceeded its local ephemeral storage limit \"2Mi\".");
    // The room is there again; what they said is kept.
    for name in ["volume", "layer", "log"] {
        wait("what it took is given back", || is_empty(&node, name).then_some(()));
    }
    assert!(node.ok(&["logs", "log", "-c", "app", "--tail", "1"]).starts_with("a-line"));
    assert!(node.ok(&["get", "events"]).contains("Evicted"));
    assert!(node.ok(&["get", "pods"]).lines().filter(|l| l.contains("Evicted")).count() == 3);
    assert_eq!(node.running("roomy")["status"]["phase"], "Running");
    node.finish();
}

#[test]
fn an_evicted_pod_of_a_workload_is_replaced() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    std::fs::create_dir(node.path("shared")).unwrap();
    // Too much the first time.
    let script =
        "if [ ! -e /shared/was ]; then touch /shared/was; head -c 3000000 /dev/zero >/big; fi; exec sleep 1000";
    let app =
        with(sh(&image, "app", script), json!({ "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }] }));
    let spec = json!({
        "terminationGracePeriodSeconds": 0,
        "volumes": [{ "name": "shared", "hostPath": { "path": node.path("shared") } }],
        "containers": [with(app, limited("1Mi"))],
    });
    let template = json!({ "metadata": { "labels": { "app": "web" } }, "spec": spec });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": { "replicas": 1, "selector": { "matchLabels": { "app": "web" } }, "template": template },
    });
    node.manifest("web.json", &deployment.to_string());
    let uid = |node: &Node| {
        let pods = node.json(&["get", "pods"]);
        let pod = pods["items"].as_array()?.first()?.clone();
        let runs = pod["status"]["phase"] == "Running";
        Some((pod["metadata"]["uid"].as_str()?.to_owned(), runs))
    };
    let first = wait("a pod is there", || uid(&node)).0;
    let second = wait("another has taken its place", || uid(&node).filter(|(uid, runs)| *uid != first && *runs)).0;
    assert!(node.ok(&["get", "events"]).contains("Evicted"));
    // A new agent does not evict it for what the one before it took.
    node.kill_agent();
    node.start_agent();
    assert_eq!(wait("the pod is there", || uid(&node).filter(|(_, runs)| *runs)).0, second);
    node.finish();
}

#[test]
fn a_node_that_runs_short_of_disk_evicts_who_takes_most_and_starts_nobody_else() {
    let flags = ["--eviction-hard", "nodefs.available<24Mi"];
    // The agent's own binary lies there, too.
    let binary = std::fs::metadata(LAMINA).unwrap().len();
    let mut node = Node::on_a_disk_with(binary + (64 << 20), &flags);
    let (_, image) = node.busybox();
    let asks = json!({ "resources": { "requests": { "ephemeral-storage": "20Mi" } } });
    let modest = with(sh(&image, "app", &writes("/big", 10 << 20)), asks);
    declare(&node, "modest", json!({ "containers": [modest] }));
    let critical = sh(&image, "app", &writes("/big", 3 << 20));
    declare(&node, "critical", json!({ "priorityClassName": "system-node-critical", "containers": [critical] }));
    node.running("modest");
    node.running("critical");
    let greedy = sh(
        &image,
        "app",
        "while [ ! -e /tmp/go ]; do sleep 0.1; done; head -c 30000000 /dev/zero >/big; exec sleep 1000",
    );
    declare(&node, "greedy", json!({ "containers": [greedy] }));
    node.running("greedy");
    let info = || node.ok(&["info"]);
    assert!(
        info().lines().any(|l| l.contains("DiskPressure") && l.contains("False (HasNoDiskPressure)")),
        "{}",
        info()
    );
    node.ok(&["exec", "greedy", "--", "touch", "/tmp/go"]);
    let message = evicted(&node, "greedy");
    assert!(
        message.starts_with("The node was low on resource: ephemeral-storage. Threshold quantity: 24576Ki"),
        "{message}"
    );
    assert!(message.contains("Container app was using ") && message.contains(", request is 0"), "{message}");
    let pod = node.pod("greedy").unwrap();
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["type"] == "DisruptionTarget" && c["status"] == "True"), "{pod}");
    assert!(info().lines().any(|l| l.contains("DiskPressure") && l.contains("True (HasDiskPressure)")), "{}", info());
    assert!(node.ok(&["get", "events", "-A"]).contains("EvictionThresholdMet"));
    // For a while nobody new is started but what the node needs, and it says why.
    declare(&node, "late", json!({ "containers": [sh(&image, "app", "exec sleep 1000")] }));
    declare(
        &node,
        "needed",
        json!({ "priority": 2_000_000_000, "containers": [sh(&image, "app", "exec sleep 1000")] }),
    );
    node.until("late", "waiting", |p| {
        let waiting = &p["status"]["containerStatuses"][0]["state"]["waiting"];
        waiting["reason"] == "NodeUnderPressure" && waiting["message"].as_str().unwrap().contains("[DiskPressure]")
    });
    node.running("needed");
    for name in ["modest", "critical"] {
        assert_eq!(node.running(name)["status"]["containerStatuses"][0]["restartCount"], 0, "{name}");
    }
    // The next agent finds enough, and starts it.
    node.stop_agent();
    node.start_agent();
    node.running("late");
    node.finish();
}

#[test]
fn a_node_short_of_memory_starts_nobody_who_asks_for_none() {
    // There is always less than all of it.
    let node = Node::start_with(&["--eviction-hard", "memory.available<99.9%"]);
    let (_, image) = node.busybox();
    let sleeper = sh(&image, "app", "exec sleep 1000");
    declare(
        &node,
        "critical",
        json!({ "priorityClassName": "system-cluster-critical", "containers": [sleeper.clone()] }),
    );
    declare(&node, "effort", json!({ "containers": [sleeper.clone()] }));
    let asking = with(sleeper, json!({ "resources": { "requests": { "memory": "64Mi" } } }));
    declare(&node, "asking", json!({ "containers": [asking] }));
    node.running("critical");
    let pod = node.until("effort", "waiting", |p| {
        p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "NodeUnderPressure"
    });
    assert_eq!(pod["status"]["phase"], "Pending");
    // The one that may run is the only one that may go, and is no use to a node that stays short.
    let message = evicted(&node, "asking");
    assert!(message.starts_with("The node was low on resource: memory. Threshold quantity: "), "{message}");
    assert!(node.ok(&["info"]).lines().any(|l| l.contains("MemoryPressure") && l.contains("True")));
    assert_eq!(node.running("critical")["status"]["containerStatuses"][0]["restartCount"], 0);
    node.finish();
}
