//! Limits hold: memory, processes, devices; and what a container is denied, it is denied.

use crate::support::node::Node;

fn run(node: &Node, name: &str, container: &str, script: &str) -> serde_json::Value {
    let script = serde_json::to_string(script).unwrap();
    let (_, image) = node.busybox();
    node.manifest(
        &format!("{name}.yaml"),
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  restartPolicy: Never\n  \
             terminationGracePeriodSeconds: 0\n  containers:\n  - name: app\n    image: \"{image}\"\n    \
             imagePullPolicy: IfNotPresent\n    command: [sh, -c, {script}]\n    {container}\n"
        ),
    );
    node.until(name, "ended", |p| matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed")))
}

#[test]
fn a_container_over_its_memory_limit_is_killed_and_says_so() {
    let node = Node::start();
    let pod = run(&node, "oom", "resources: { limits: { memory: 32Mi } }", "tail /dev/zero");
    let state = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&state["reason"], &state["exitCode"]), (&"OOMKilled".into(), &137.into()));
    node.finish();
}

#[test]
fn a_fork_bomb_stays_in_its_pod() {
    let node = Node::start_with(&["--pod-pids-limit", "64"]);
    let script = "i=0; while [ $i -lt 200 ]; do sleep 20 & i=$((i+1)); done";
    let pod = run(&node, "bomb", "", script);
    // The shell cannot fork any more, says so, and fails; the node and the next pod do not notice.
    assert_eq!(pod["status"]["phase"], "Failed", "{pod}");
    assert!(node.ok(&["logs", "bomb"]).contains("fork"), "{}", node.ok(&["logs", "bomb"]));
    assert_eq!(run(&node, "next", "", "exit 0")["status"]["phase"], "Succeeded");
    node.finish();
}

#[test]
fn cpu_limits_reach_the_cgroup() {
    let node = Node::start();
    let (_, image) = node.busybox();
    node.manifest(
        "cpu.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: cpu }}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
             - {{ name: app, image: \"{image}\", command: [sleep, \"1000\"], \
             resources: {{ limits: {{ cpu: 250m, memory: 64Mi }} }} }}\n"
        ),
    );
    node.running("cpu");
    let pid = node.pid("cpu", "app");
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let of = |controller: &str| {
        let line = cgroups.lines().find(|l| l.split(':').nth(1).unwrap().split(',').any(|c| c == controller))?;
        Some(format!("/sys/fs/cgroup/{controller}{}", line.splitn(3, ':').nth(2).unwrap()))
    };
    let read = |path: String| std::fs::read_to_string(path).unwrap().trim().to_owned();
    if let Some(dir) = of("cpu") {
        assert_eq!(read(format!("{dir}/cpu.cfs_quota_us")), "25000");
        assert_eq!(read(format!("{}/memory.limit_in_bytes", of("memory").unwrap())), (64 << 20).to_string());
    } else {
        let dir = cgroups.lines().find_map(|l| l.strip_prefix("0::")).unwrap();
        assert_eq!(read(format!("/sys/fs/cgroup{dir}/cpu.max")), "25000 100000");
    }
    node.finish();
}

#[test]
fn a_container_that_may_make_device_nodes_cannot_open_the_hosts_disk() {
    let node = Node::start();
    // 254:0 and 8:0 are disks on usual machines; 1:1 is /dev/mem; 1:3 is /dev/null and allowed.
    let script = "mknod /tmp/a b 254 0 && mknod /tmp/b b 8 0 && mknod /tmp/c c 1 1 && mknod /tmp/null c 1 3 || exit 9; \
                  for d in a b c; do if head -c 1 /tmp/$d >/dev/null 2>/tmp/e; then exit 1; fi; \
                  grep -q 'not permitted' /tmp/e || { cat /tmp/e; exit 2; }; done; echo >/tmp/null";
    let pod = run(&node, "mknod", "", script);
    assert_eq!(pod["status"]["phase"], "Succeeded", "{pod}\n{}", node.ok(&["logs", "mknod"]));
    node.finish();
}

#[test]
fn a_container_has_the_default_profile_and_no_more() {
    let node = Node::start();
    let script = "set -e; grep -q 'Seccomp:.2' /proc/self/status; \
                  grep -q 'CapEff:.00000000a80425fb' /proc/self/status; \
                  ! mount -t tmpfs x /tmp 2>/dev/null; ! echo 1 2>/dev/null >/proc/sys/kernel/domainname; \
                  test -z \"$(cat /proc/kcore 2>/dev/null | head -c 1)\"; ls -l /proc/self/fd >/tmp/fds 2>/dev/null || true; \
                  test $(grep -c ' -> ' /tmp/fds) -le 4; test \"$(hostname)\" = profile; test $$$$ = 1";
    let pod = run(&node, "profile", "", script);
    assert_eq!(pod["status"]["phase"], "Succeeded", "{}", node.ok(&["logs", "profile"]));
    node.finish();
}

#[test]
fn a_log_flood_is_rotated_and_hurts_nobody() {
    let node = Node::start();
    let pod = run(&node, "flood", "", "yes a-line-that-is-repeated-a-great-many-times | head -c 80000000");
    assert_eq!(pod["status"]["phase"], "Succeeded");
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let total: u64 = std::fs::read_dir(node.path(&format!("log/default_flood_{uid}/app")))
        .unwrap()
        .map(|e| e.unwrap().metadata().unwrap().len())
        .sum();
    assert!(total <= 5 * (10 << 20) + (1 << 20), "{total} bytes of logs are kept");
    assert!(node.ok(&["logs", "flood", "--tail", "1"]).starts_with('a'));
    node.finish();
}
