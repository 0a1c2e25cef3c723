//! Requests and limits as the cgroups of this machine have them, of containers and of whole pods.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::node::Node;
use crate::support::wait;

/// The directory of a controller for the cgroup of a container's first process, and whether it speaks v2.
fn cgroup(pid: u32, controller: &str) -> (PathBuf, bool) {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let named = text.lines().find(|l| l.split(':').nth(1).unwrap().split(',').any(|c| c == controller));
    if let Some(line) = named {
        let path = line.splitn(3, ':').nth(2).unwrap();
        return (PathBuf::from(format!("/sys/fs/cgroup/{controller}{path}")), false);
    }
    let path = text.lines().find_map(|l| l.strip_prefix("0::")).unwrap();
    (PathBuf::from(format!("/sys/fs/cgroup{path}")), true)
}

fn read(pid: u32, whole: bool, controller: &str, v1: &str, v2: &str) -> String {
    let (mut dir, unified) = cgroup(pid, controller);
    if whole {
        dir.pop();
    }
    let path = dir.join(if unified { v2 } else { v1 });
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}

fn sleeper(name: &str, image: &str, resources: &Value) -> Value {
    json!({ "name": name, "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1000"], "resources": resources })
}

fn write(node: &Node, name: &str, spec: &Value) {
    let mut spec = spec.clone();
    spec["terminationGracePeriodSeconds"] = json!(0);
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec });
    node.manifest(&format!("{name}.json"), &pod.to_string());
}

#[test]
fn a_pods_class_follows_from_its_requests_and_limits() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let both = json!({ "limits": { "cpu": "100m", "memory": "32Mi" } });
    for (name, resources, class) in [
        ("guaranteed", both.clone(), "Guaranteed"),
        ("burstable", json!({ "requests": { "memory": "32Mi" }, "limits": { "memory": "64Mi" } }), "Burstable"),
        ("best-effort", json!({}), "BestEffort"),
    ] {
        write(&node, name, &json!({ "containers": [sleeper("app", &image, &resources)] }));
        assert_eq!(node.running(name)["status"]["qosClass"], class);
        let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", node.pid(name, "app"))).unwrap();
        let score: i32 = score.trim().parse().unwrap();
        match class {
            "BestEffort" => assert_eq!(score, 1000),
            "Burstable" => assert!((2..1000).contains(&score), "{score}"),
            // A lower one than the agent's own needs a right that it may lack.
            _ => assert!(score <= 0, "{score}"),
        }
    }
    write(&node, "whole", &json!({ "resources": both, "containers": [sleeper("app", &image, &json!({}))] }));
    assert_eq!(node.running("whole")["status"]["qosClass"], "Guaranteed");
    node.finish();
}

#[test]
fn limits_of_a_whole_pod_hold_for_all_its_containers_together() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let spec = json!({
        "resources": { "limits": { "cpu": "500m", "memory": "48Mi" } },
        "restartPolicy": "Never",
        "containers": [
            sleeper("quiet", &image, &json!({})),
            { "name": "greedy", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", "while ! test -e /tmp/go; do sleep 0.1; done; tail /dev/zero"] },
        ],
    });
    write(&node, "whole", &spec);
    node.running("whole");
    let pid = node.pid("whole", "quiet");
    assert_eq!(read(pid, true, "memory", "memory.limit_in_bytes", "memory.max"), (48 << 20).to_string());
    assert_eq!(read(pid, true, "cpu", "cpu.cfs_quota_us", "cpu.max").split(' ').next().unwrap(), "50000");
    node.ok(&["exec", "whole", "-c", "greedy", "--", "touch", "/tmp/go"]);
    let pod = node.until("whole", "out of memory", |p| {
        p["status"]["containerStatuses"].as_array().unwrap().iter().any(|c| c["state"]["terminated"].is_object())
    });
    let greedy = pod["status"]["containerStatuses"].as_array().unwrap().iter().find(|c| c["name"] == "greedy").unwrap();
    assert_eq!(greedy["state"]["terminated"]["exitCode"], 137, "{greedy}");
    assert_eq!(node.pid("whole", "quiet"), pid);
    node.finish();
}

#[test]
fn containers_may_not_have_more_than_their_pod() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let big = json!({ "requests": { "memory": "40Mi" }, "limits": { "memory": "50Mi" } });
    let spec = json!({ "resources": { "limits": { "memory": "45Mi" }, "requests": { "memory": "10Mi" } }, "containers": [sleeper("app", &image, &big)] });
    let text = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "big" }, "spec": spec }).to_string();
    let file = node.path("big.json");
    fs::write(&file, text).unwrap();
    let said = node.lamina(&["apply", "-f", file.to_str().unwrap()]);
    assert_ne!(said.status, 0);
    for part in [
        "spec.resources.requests[\"memory\"]: must not be less",
        "spec.containers[0].resources.limits[\"memory\"]: must not be more than the pod",
    ] {
        assert!(said.err.contains(part), "{}", said.err);
    }
    node.finish();
}

#[test]
fn a_container_whose_resize_policy_asks_for_it_is_restarted_for_new_resources() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let with = |memory: &str, cpu: &str| {
        let resources = json!({ "limits": { "memory": memory, "cpu": cpu } });
        let (mut restarts, stays) = (sleeper("restarts", &image, &resources), sleeper("stays", &image, &resources));
        restarts["resizePolicy"] = json!([
            { "resourceName": "memory", "restartPolicy": "RestartContainer" },
            { "resourceName": "cpu", "restartPolicy": "NotRequired" },
        ]);
        json!({ "containers": [restarts, stays] })
    };
    write(&node, "app", &with("32Mi", "100m"));
    let before = node.running("app");
    let pids = ["restarts", "stays"].map(|name| node.pid("app", name));
    let has =
        |pid: u32, memory: u64| read(pid, false, "memory", "memory.limit_in_bytes", "memory.max") == memory.to_string();
    let quota = |pid: u32| read(pid, false, "cpu", "cpu.cfs_quota_us", "cpu.max").split(' ').next().unwrap().to_owned();
    // What its policy takes in place is taken in place.
    write(&node, "app", &with("32Mi", "200m"));
    wait("both have more cpu", || pids.iter().all(|pid| quota(*pid) == "20000").then_some(()));
    write(&node, "app", &with("48Mi", "200m"));
    let after = node.until("app", "resized", |p| {
        let all = p["status"]["containerStatuses"].as_array().unwrap();
        all[0]["restartCount"] == 1 && all.iter().all(|c| c["state"]["running"].is_object())
    });
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
    assert_eq!(after["status"]["containerStatuses"][1]["restartCount"], 0);
    assert_ne!(node.pid("app", "restarts"), pids[0]);
    assert_eq!(node.pid("app", "stays"), pids[1]);
    wait("both have more memory", || {
        (has(node.pid("app", "restarts"), 48 << 20) && has(pids[1], 48 << 20)).then_some(())
    });
    node.finish();
}

#[test]
fn a_pod_that_wants_what_the_node_has_not_is_over_and_says_why() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let over = |name: &str, container: Value| {
        write(&node, name, &json!({ "restartPolicy": "Never", "containers": [container] }));
        let pod = node.until(name, "over", |p| p["status"]["phase"] == "Failed");
        (pod["status"]["reason"].as_str().unwrap_or_default().to_owned(), pod)
    };
    let huge = json!({ "limits": { "hugepages-1Gi": "1000Gi", "memory": "32Mi" } });
    let (reason, pod) = over("huge", sleeper("app", &image, &huge));
    assert_eq!(reason, "OutOfhugepages-1Gi");
    let message = pod["status"]["message"].as_str().unwrap();
    assert!(message.contains("requested: 1073741824000, capacity: "), "{message}");
    let mut guarded = sleeper("app", &image, &json!({}));
    guarded["securityContext"] =
        json!({ "appArmorProfile": { "type": "Localhost", "localhostProfile": "not-loaded" } });
    let (reason, pod) = over("guarded", guarded);
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    if enabled.trim() == "Y" {
        let ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"].to_string();
        assert!(ended.contains("AppArmor profile"), "{pod}");
    } else {
        assert_eq!(reason, "AppArmor");
    }
    if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        let mut labelled = sleeper("app", &image, &json!({}));
        labelled["securityContext"] = json!({ "seLinuxOptions": { "level": "s0:c1,c2" } });
        assert_eq!(over("labelled", labelled).0, "SELinux");
    }
    node.finish();
}
