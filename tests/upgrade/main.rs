//! An earlier agent and this one take turns on one node: `LAMINA_PREVIOUS` names the earlier binary, which
//! `tests/run upgrade` builds of the revision in `tests/upgrade/previous`. Needs root.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by panicking")]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::node::{LAMINA, Node};
use support::wait;

fn previous() -> PathBuf {
    std::env::var_os("LAMINA_PREVIOUS").expect("LAMINA_PREVIOUS names the earlier binary: `tests/run upgrade`").into()
}

/// A pod that counts in its log, keeps a file in a volume and one in its writable layer, and reads a ConfigMap.
fn manifest(name: &str, image: &str) -> String {
    let count =
        "echo kept >/data/file; echo own >/tmp/own; n=0; while :; do n=$((n + 1)); echo \"line $n\"; sleep 0.05; done";
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name} }}\ndata: {{ key: value }}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  hostNetwork: true\n  terminationGracePeriodSeconds: 0\n  \
         volumes: [{{ name: data, emptyDir: {{}} }}, {{ name: conf, configMap: {{ name: {name} }} }}]\n  containers:\n  - name: app\n    \
         image: \"{image}\"\n    imagePullPolicy: IfNotPresent\n    command: [sh, -c, '{count}']\n    \
         volumeMounts: [{{ name: data, mountPath: /data }}, {{ name: conf, mountPath: /conf }}]\n"
    )
}

/// The numbers that a pod has logged so far: every one, once.
fn lines(node: &Node, pod: &str) -> usize {
    let log = node.ok(&["logs", pod]);
    for (n, line) in log.lines().enumerate() {
        assert_eq!(line, format!("line {}", n + 1), "the log of {pod} has a gap");
    }
    log.lines().count()
}

#[test]
fn an_earlier_agent_and_this_one_take_over_from_each_other() {
    let (previous, this) = (previous(), Path::new(LAMINA));
    let mut node = Node::start();
    let (_, image) = node.busybox();
    let mut pods: Vec<(String, u32)> = Vec::new();
    let mut adopted = Vec::new();
    for (turn, binary) in [&previous, this, &previous, this].into_iter().enumerate() {
        if turn % 2 == 0 {
            node.stop_agent()
        } else {
            node.kill_agent()
        }
        let before: Vec<usize> = pods.iter().map(|(pod, _)| lines_on_disk(&node, pod)).collect();
        node.run_as(binary);
        let begin = Instant::now();
        node.start_agent();
        for ((pod, pid), before) in pods.iter().zip(before) {
            let seen = node.running(pod);
            adopted.push(begin.elapsed());
            assert_eq!(seen["status"]["containerStatuses"][0]["restartCount"], 0, "{pod}");
            assert_eq!(node.pid(pod, "app"), *pid, "{pod} has another process");
            wait("the log goes on", || (lines(&node, pod) > before).then_some(()));
            let inside = "cat /data/file /tmp/own /conf/key";
            assert_eq!(node.ok(&["exec", pod, "--", "sh", "-c", inside]), "kept\nown\nvalue");
        }
        let name = format!("turn-{turn}");
        node.manifest(&format!("{name}.yaml"), &manifest(&name, &image));
        node.running(&name);
        let pid = node.pid(&name, "app");
        pods.push((name, pid));
        node.ok(&["check", "--full"]);
    }
    // One that an earlier agent had started starts anew under this one, and another ends.
    let first = pods[0].0.clone();
    assert!(std::process::Command::new("kill").args(["-9", &pods[0].1.to_string()]).status().unwrap().success());
    node.until(&first, "restarted", |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        status["restartCount"] == 1 && status["state"]["running"].is_object()
    });
    assert_eq!(node.ok(&["exec", &first, "--", "cat", "/data/file"]), "kept\n");
    let slowest = adopted.iter().max().copied().unwrap_or_default();
    println!("adopted after at most {} ms, the start of the agent included", slowest.as_millis());
    assert!(slowest < Duration::from_secs(60));
    for (pod, _) in &pods {
        node.remove_manifest(&format!("{pod}.yaml"));
    }
    for (pod, _) in &pods {
        node.gone(pod);
    }
    wait("every layer is freed", || node.layers().is_empty().then_some(()));
    node.finish();
}

/// How many lines a pod has logged, while no agent runs.
fn lines_on_disk(node: &Node, pod: &str) -> usize {
    let dir = std::fs::read_dir(node.path("log")).unwrap().flatten();
    let of_pod = dir.filter(|e| e.file_name().to_string_lossy().starts_with(&format!("default_{pod}_")));
    let logs = of_pod.map(|e| std::fs::read_to_string(e.path().join("app/0.log")).unwrap_or_default());
    logs.map(|log| log.lines().count()).sum()
}
