//! Containers and clients that misbehave: each hurts its own pod at most, and the agent's memory, descriptors and threads
//! come back to what they were.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::node::Node;
use crate::support::wait;

/// Descriptors, threads and resident KiB of the agent.
fn agent(node: &Node) -> (usize, usize, u64) {
    let proc = PathBuf::from(format!("/proc/{}", node.agent_pid()));
    let count = |dir: &str| fs::read_dir(proc.join(dir)).unwrap().count();
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    (count("fd"), count("task"), resident.trim().trim_end_matches(" kB").parse().unwrap())
}

fn write(node: &Node, name: &str, image: &str, restart: &str, grace: u32, script: &str) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "restartPolicy": restart, "terminationGracePeriodSeconds": grace,
            "containers": [{ "name": "app", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script] }] },
    });
    node.manifest(&format!("{name}.json"), &pod.to_string());
}

#[test]
fn exec_clients_that_vanish_leave_nothing_in_the_agent() {
    let node = Node::start();
    let (_, image) = node.busybox();
    write(&node, "target", &image, "Always", 0, "sleep 1000");
    node.running("target");
    node.ok(&["exec", "target", "--", "true"]);
    let (fds, threads, _) = agent(&node);
    for round in 0..10 {
        let clients: Vec<_> = (0..10)
            .map(|_| {
                let mut command = node.command(&["exec", "-i", "target", "--", "sleep", "1"]);
                command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
            })
            .collect();
        // At various moments of their lives.
        std::thread::sleep(Duration::from_millis(20 * round));
        for mut client in clients {
            client.kill().unwrap();
            client.wait().unwrap();
        }
    }
    let mut last = (0, 0);
    wait("descriptors and threads are back", || {
        let (now, tasks, _) = agent(&node);
        if last != (now, tasks) {
            println!("{now} descriptors where there were {fds}, {tasks} threads where there were {threads}");
            last = (now, tasks);
        }
        (now <= fds + 2 && tasks <= threads + 4).then_some(())
    });
    wait("no process is left", || (!node.ok(&["exec", "target", "--", "ps"]).contains("sleep 1\n")).then_some(()));
    node.finish();
}

#[test]
fn a_line_of_a_hundred_megabytes_is_logged_in_bounded_memory() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let (_, _, before) = agent(&node);
    write(&node, "line", &image, "Never", 0, "head -c 100000000 /dev/zero | tr '\\000' x; echo end");
    node.until("line", "ended", |p| p["status"]["phase"] == "Succeeded");
    let (_, _, after) = agent(&node);
    assert!(after < before + (48 << 10), "{before} KiB became {after} KiB");
    assert!(node.ok(&["logs", "line", "--tail", "1"]).ends_with("end\n"));
    node.finish();
}

#[test]
fn a_log_file_that_became_a_link_is_not_written_through() {
    let node = Node::start();
    let (_, image) = node.busybox();
    write(
        &node,
        "logger",
        &image,
        "Always",
        0,
        "echo up; while ! test -e /tmp/go; do sleep 0.1; done; yes a-long-line-of-a-flood | head -c 25000000; exit 1",
    );
    node.running("logger");
    let uid = node.pod("logger").unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let dir = node.path(&format!("log/default_logger_{uid}/app"));
    let canary = node.path("canary");
    fs::write(&canary, "canary").unwrap();
    for name in ["0.log", "1.log"] {
        let _ = fs::remove_file(dir.join(name));
        std::os::unix::fs::symlink(&canary, dir.join(name)).unwrap();
    }
    node.ok(&["exec", "logger", "--", "touch", "/tmp/go"]);
    // It rotates, ends, and is started again.
    node.until("logger", "over its first attempt", |p| {
        let c = &p["status"]["containerStatuses"][0];
        c["restartCount"].as_i64() >= Some(1)
            || c["state"]["waiting"]["message"].is_string()
            || c["lastState"]["terminated"].is_object()
    });
    assert_eq!(fs::read_to_string(&canary).unwrap(), "canary");
    node.finish();
}

#[test]
fn a_container_that_ignores_sigterm_is_killed_when_its_grace_is_over() {
    let node = Node::start();
    let (_, image) = node.busybox();
    write(&node, "deaf", &image, "Always", 2, "trap '' TERM INT HUP; while :; do sleep 1; done");
    node.running("deaf");
    let begin = Instant::now();
    node.remove_manifest("deaf.json");
    node.gone("deaf");
    assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
    node.finish();
}

#[test]
fn a_container_that_exits_at_once_is_started_again_with_waits_between() {
    let node = Node::start();
    let (_, image) = node.busybox();
    write(&node, "brief", &image, "Always", 0, "exit 3");
    let pod = node.until("brief", "waiting for its next start", |p| {
        p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3, "{status}");
    assert!(status["restartCount"].as_i64().unwrap() <= 2, "{status}");
    node.finish();
}
