//! Claims: data outlast pods, restarts and the agent, and go with the claim alone.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::node::Node;
use crate::support::wait;

/// A claim with one access mode and a reclaim policy.
fn claim(name: &str, mode: &str, policy: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "annotations": {"lamina.dev/reclaim-policy": policy}},
        "spec": {"accessModes": [mode], "resources": {"requests": {"storage": "1Mi"}}}
    })
}

/// A pod of one container that has a claim at `/data`, and runs `script`.
fn pod(name: &str, image: &str, claim: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}],
            "containers": [{
                "name": "app", "image": image, "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", script], "volumeMounts": [{"name": "v", "mountPath": "/data"}]
            }]
        }
    })
}

fn file(object: &Value) -> String {
    format!("{}-{}.yaml", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap())
}

fn put(node: &Node, object: &Value) {
    node.manifest(&file(object), &object.to_string());
}

fn take_away(node: &Node, object: &Value) {
    node.remove_manifest(&file(object));
}

/// A claim as `lamina get` gives it, if it is there.
fn shown(node: &Node, name: &str) -> Option<Value> {
    let said = node.lamina(&["get", "pvc", name, "-o", "json"]);
    (said.status == 0).then(|| serde_json::from_str(&said.out).unwrap())
}

fn until_phase(node: &Node, name: &str, phase: &str) -> Value {
    wait(&format!("claim {name} is {phase}"), || shown(node, name).filter(|c| c["status"]["phase"] == phase))
}

fn data(node: &Node, claim: &str) -> PathBuf {
    node.path("root/volumes/default").join(claim).join("data")
}

/// Waits until a pod waits, and says why.
fn waits(node: &Node, name: &str, why: &str) {
    node.until(name, &format!("waiting for {why}"), |p| {
        p["status"]["message"].as_str().is_some_and(|message| message.contains(why))
    });
}

const SLEEP: &str = "exec sleep 1000";

#[test]
fn data_outlast_the_pod_and_the_agent_and_go_with_the_claim() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    // The pod comes first: it waits, and says for what.
    put(&node, &pod("web", &image, "data", "echo one >>/data/file; exec sleep 1000"));
    waits(&node, "web", "persistentvolumeclaim \"data\" not found");
    let object = claim("data", "ReadWriteOnce", "Delete");
    put(&node, &object);
    node.running("web");
    let bound = until_phase(&node, "data", "Bound");
    assert_eq!(bound["status"]["capacity"]["storage"], "1048576");
    assert_eq!(bound["lamina"]["pods"], json!(["web"]));
    // Another pod, under another uid, with what the first one wrote.
    let before = node.pod("web").unwrap()["metadata"]["uid"].clone();
    let mut next = pod("web", &image, "data", "echo two >>/data/file; exec sleep 1000");
    next["spec"]["hostname"] = "other".into();
    put(&node, &next);
    node.until("web", "replaced", |p| p["metadata"]["uid"] != before);
    node.running("web");
    wait("both lines", || (node.lamina(&["exec", "web", "--", "cat", "/data/file"]).out == "one\ntwo\n").then_some(()));
    node.kill_agent();
    node.start_agent();
    let again = until_phase(&node, "data", "Bound");
    assert_eq!((&again["metadata"]["uid"], &again["lamina"]["pods"]), (&bound["metadata"]["uid"], &json!(["web"])));

    // A claim that a pod has waits for the pod, over a restart of the agent, too; and nobody new gets it.
    take_away(&node, &object);
    until_phase(&node, "data", "Terminating");
    node.kill_agent();
    node.start_agent();
    until_phase(&node, "data", "Terminating");
    put(&node, &pod("late", &image, "data", SLEEP));
    waits(&node, "late", "persistentvolumeclaim \"data\" is being deleted");
    assert_eq!(node.ok(&["exec", "web", "--", "cat", "/data/file"]), "one\ntwo\n");
    take_away(&node, &next);
    wait("the claim is gone", || shown(&node, "data").is_none().then_some(()));
    assert!(!data(&node, "data").exists());
    waits(&node, "late", "persistentvolumeclaim \"data\" not found");
    // Declared again, it is another one.
    put(&node, &object);
    node.running("late");
    assert_eq!(node.ok(&["exec", "late", "--", "ls", "/data"]), "");
    let events = node.ok(&["get", "events"]);
    assert!(events.contains("ProvisioningSucceeded") && events.contains("removed with its data"), "{events}");
    node.finish();
}

#[test]
fn what_is_retained_is_there_for_the_next_claim_of_its_name() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let path = node.path("claim.json");
    std::fs::write(&path, claim("kept", "ReadWriteMany", "Retain").to_string()).unwrap();
    let apply = || node.ok(&["apply", "-f", path.to_str().unwrap()]);
    assert!(apply().contains("created"));
    assert!(apply().contains("unchanged"));
    let mut writer = pod("writer", &image, "kept", "echo precious >/data/file");
    writer["spec"]["restartPolicy"] = "Never".into();
    put(&node, &writer);
    node.until("writer", "done", |p| p["status"]["phase"] == "Succeeded");
    let described = node.ok(&["describe", "persistentvolumeclaim/kept"]);
    assert!(described.contains("reclaimPolicy:") && described.contains("Retain"), "{described}");
    // A pod that has ended holds nothing up.
    node.ok(&["delete", "pvc/kept"]);
    assert_eq!(until_phase(&node, "kept", "Released")["lamina"]["reclaimPolicy"], "Retain");
    assert_eq!(node.lamina(&["delete", "pvc/kept"]).status, 4);
    assert_eq!(std::fs::read_to_string(data(&node, "kept").join("file")).unwrap(), "precious\n");
    assert!(apply().contains("created"));
    put(&node, &pod("reader", &image, "kept", SLEEP));
    node.running("reader");
    assert_eq!(node.ok(&["exec", "reader", "--", "cat", "/data/file"]), "precious\n");
    node.finish();
}

#[test]
fn a_directory_that_is_watched_no_more_or_is_not_there_costs_no_data() {
    let mut node = Node::start();
    let more = node.path("more");
    std::fs::create_dir(&more).unwrap();
    let flags = ["--manifests", more.to_str().unwrap()];
    node.restart_with(&flags);
    std::fs::write(more.join("claim.json"), claim("data", "ReadWriteOnce", "Delete").to_string()).unwrap();
    until_phase(&node, "data", "Bound");
    std::fs::write(data(&node, "data").join("file"), "precious").unwrap();
    // A flag that was forgotten.
    node.restart_with(&[]);
    // A directory whose file system was not mounted yet.
    let away = node.path("away");
    std::fs::rename(&more, &away).unwrap();
    std::fs::create_dir(&more).unwrap();
    node.restart_with(&flags);
    put(&node, &claim("other", "ReadWriteOnce", "Delete"));
    until_phase(&node, "other", "Bound");
    assert_eq!(shown(&node, "data").unwrap()["status"]["phase"], "Bound");
    assert_eq!(std::fs::read_to_string(data(&node, "data").join("file")).unwrap(), "precious");
    // What is declared nowhere goes when a person says so.
    node.ok(&["delete", "pvc/data"]);
    assert!(!data(&node, "data").exists());
    node.finish();
}

#[test]
fn one_pod_alone_has_a_claim_that_says_so_and_others_only_read_where_they_say_so() {
    let node = Node::start();
    let (_, image) = node.busybox();
    put(&node, &claim("alone", "ReadWriteOncePod", "Delete"));
    put(&node, &claim("shared", "ReadWriteMany", "Delete"));
    let first = pod("first", &image, "alone", SLEEP);
    put(&node, &first);
    node.running("first");
    put(&node, &pod("second", &image, "alone", SLEEP));
    waits(&node, "second", "ReadWriteOncePod, and pod first has it");
    take_away(&node, &first);
    node.running("second");

    put(&node, &pod("writer", &image, "shared", "mkdir -p /data/sub; echo x >/data/sub/file; exec sleep 1000"));
    node.running("writer");
    let mut reader = pod("reader", &image, "shared", SLEEP);
    reader["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"] = true.into();
    reader["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "v", "mountPath": "/data"}, {"name": "v", "mountPath": "/part", "subPath": "sub"}]);
    put(&node, &reader);
    node.running("reader");
    wait("the file", || (node.lamina(&["exec", "reader", "--", "cat", "/part/file"]).out == "x\n").then_some(()));
    for path in ["/data/new", "/part/new"] {
        assert_ne!(node.lamina(&["exec", "reader", "--", "touch", path]).status, 0, "{path}");
    }
    node.finish();
}

#[test]
fn a_claim_belongs_to_the_group_of_its_pod_and_is_counted() {
    let node = Node::start();
    let (_, image) = node.busybox();
    put(&node, &claim("data", "ReadWriteOnce", "Delete"));
    let mut root = pod(
        "root",
        &image,
        "data",
        "mkdir -m 700 /data/dir; echo x >/data/dir/file; dd if=/dev/zero of=/data/big bs=1M count=2",
    );
    root["spec"]["restartPolicy"] = "Never".into();
    put(&node, &root);
    node.until("root", "done", |p| p["status"]["phase"] == "Succeeded");
    let mut user = pod(
        "user",
        &image,
        "data",
        "cat /data/dir/file && touch /data/dir/new && stat -c '%a %g' /data/dir /data/dir/new",
    );
    user["spec"]["restartPolicy"] = "Never".into();
    user["spec"]["securityContext"] = json!({"runAsUser": 1000, "fsGroup": 4321});
    put(&node, &user);
    node.until("user", "done", |p| p["status"]["phase"] == "Succeeded");
    assert_eq!(node.ok(&["logs", "user"]), "x\n2770 4321\n644 4321\n");

    let used = wait("its size is known", || shown(&node, "data")?["lamina"]["usedBytes"].as_u64().filter(|n| *n > 0));
    assert!((2 << 20..4 << 20).contains(&used), "{used}");
    let metric = "lamina_volume_bytes{namespace=\"default\",claim=\"data\"}";
    wait("the metric", || node.http("/metrics").filter(|(_, text)| text.contains(metric)));
    let table = node.ok(&["get", "persistentvolumeclaims"]);
    assert!(table.contains("RWO") && table.contains("2.1") && table.contains("Delete"), "{table}");
    let volumes = node.ok(&["get", "volumes"]);
    assert!(volumes.contains("persistentVolumeClaim") && volumes.contains("data"), "{volumes}");
    let df = node.json(&["df"]);
    let row = df["rows"].as_array().unwrap().iter().find(|row| row["kind"] == "Volumes").unwrap().clone();
    assert!(row["count"] == 1 && row["totalBytes"].as_u64().unwrap() >= 2 << 20, "{row}");
    // It asked for 1 MiB.
    wait("an event says that it is too large", || {
        node.ok(&["get", "events"]).contains("ExceededCapacity").then_some(())
    });
    node.finish();
}

/// A StatefulSet with a template of claims, and what becomes of these.
fn set(image: &str, replicas: u32, (deleted, scaled): (&str, &str)) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {
            "replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled},
            "volumeClaimTemplates": [{
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
            }],
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
                    "name": "app", "image": image, "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-c", "hostname >>/data/name; exec sleep 1000"],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}]
                }]}
            }
        }
    })
}

#[test]
fn each_pod_of_a_set_has_a_claim_of_its_own_that_the_set_keeps_or_deletes() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    put(&node, &set(&image, 2, ("Retain", "Retain")));
    node.running("db-0");
    node.running("db-1");
    wait("its name", || (names(&node, "db-1") == "db-1\n").then_some(()));
    let made = until_phase(&node, "data-db-1", "Bound");
    assert_eq!(
        (&made["lamina"]["owner"], &made["metadata"]["labels"]["app"]),
        (&json!("StatefulSet/db"), &json!("db"))
    );

    // Kept when scaled down, and had again.
    put(&node, &set(&image, 1, ("Retain", "Retain")));
    node.gone("db-1");
    put(&node, &set(&image, 2, ("Retain", "Delete")));
    node.running("db-1");
    wait("both starts", || (names(&node, "db-1") == "db-1\ndb-1\n").then_some(()));
    // Deleted when scaled down, once the pod is gone.
    put(&node, &set(&image, 1, ("Retain", "Delete")));
    wait("the claim is gone", || shown(&node, "data-db-1").is_none().then_some(()));
    assert!(!data(&node, "data-db-1").exists());
    node.running("db-0");

    // Kept without the set, over a restart of the agent, until a person deletes it.
    take_away(&node, &set(&image, 1, ("Retain", "Delete")));
    node.gone("db-0");
    node.kill_agent();
    node.start_agent();
    until_phase(&node, "data-db-0", "Bound");
    node.ok(&["delete", "pvc/data-db-0"]);
    assert!(shown(&node, "data-db-0").is_none());

    let all = set(&image, 1, ("Delete", "Retain"));
    put(&node, &all);
    node.running("db-0");
    take_away(&node, &all);
    wait("the claim is gone", || shown(&node, "data-db-0").is_none().then_some(()));
    node.finish();
}

/// What the pods of a set have written.
fn names(node: &Node, pod: &str) -> String {
    node.lamina(&["exec", pod, "--", "cat", "/data/name"]).out
}
