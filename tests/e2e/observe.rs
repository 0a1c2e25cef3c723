//! Metrics, health and events, as a real Prometheus and its tools see them.

use std::process::{Command, Stdio};

use crate::support::node::Node;
use crate::support::{registry, wait};

fn pod(name: &str, image: &str, command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
         - {{ name: app, image: \"{image}\", imagePullPolicy: IfNotPresent, command: [sh, -c, \"{command}\"] }}\n"
    )
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let node = Node::start();
    let (_, image) = node.busybox();
    node.manifest("web.yaml", &pod("web", &image, "sleep 1000"));
    node.running("web");
    let (status, text) = node.http("/metrics").unwrap();
    assert_eq!(status, 200);
    for family in [
        "lamina_build_info",
        "lamina_pods",
        "lamina_layers",
        "container_memory_working_set_bytes",
        "process_cpu_seconds_total",
    ] {
        assert!(text.lines().any(|l| l.starts_with(family)), "{family} is not in\n{text}");
    }
    let ours: String = text
        .lines()
        .filter(|l| l.trim_start_matches("# HELP ").trim_start_matches("# TYPE ").starts_with("lamina_"))
        .flat_map(|l| [l, "\n"])
        .collect();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("prometheus is installed (lamina-setup packages test)");
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), ours.as_bytes()).unwrap();
    let out = promtool.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && said.trim().is_empty(), "{said}");
    node.finish();
}

#[test]
fn a_real_prometheus_scrapes_the_agent() {
    let node = Node::start();
    let (_, image) = node.busybox();
    node.manifest("web.yaml", &pod("web", &image, "sleep 1000"));
    node.running("web");
    let port = registry::free_port();
    let config = node.path("prometheus.yml");
    std::fs::write(
        &config,
        format!(
            "global: {{ scrape_interval: 1s }}\nscrape_configs: [{{ job_name: lamina, honor_labels: true, \
             static_configs: [{{ targets: [\"127.0.0.1:{}\"] }}] }}]\n",
            node.metrics_port()
        ),
    )
    .unwrap();
    let mut prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", node.path("tsdb").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("prometheus is installed (lamina-setup packages test)");
    wait("Prometheus has our pods", || {
        let query = format!(
            "http://127.0.0.1:{port}/api/v1/query?query=container_memory_working_set_bytes%7Bpod%3D%22web%22%7D"
        );
        let out = Command::new("curl").args(["-s", "-m", "5", &query]).output().unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&out.stdout).ok()?;
        answer["data"]["result"].as_array().filter(|r| !r.is_empty()).map(|_| ())
    });
    prometheus.kill().unwrap();
    prometheus.wait().unwrap();
    node.finish();
}

#[test]
fn events_tell_a_pods_story_and_count_repeats_across_restarts_of_the_agent() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    node.manifest("crash.yaml", &pod("crash", &image, "exit 1"));
    node.until("crash", "restarted", |p| p["status"]["containerStatuses"][0]["restartCount"].as_u64() >= Some(1));
    let reasons = |node: &Node| -> Vec<String> {
        let events = node.json(&["get", "events"]);
        events["items"].as_array().unwrap().iter().map(|e| e["reason"].as_str().unwrap().to_owned()).collect()
    };
    for reason in ["Pulled", "Created", "Started", "BackOff"] {
        wait(reason, || reasons(&node).iter().any(|r| r == reason).then_some(()));
    }
    let described = node.ok(&["describe", "pod/crash"]);
    assert!(described.contains("BackOff"), "{described}");
    let before = reasons(&node).len();
    node.kill_agent();
    node.start_agent();
    assert!(reasons(&node).len() >= before, "events were lost with the agent");
    node.finish();
}

#[test]
fn the_overview_commands_answer() {
    let node = Node::start();
    let (_, image) = node.busybox();
    node.manifest("web.yaml", &pod("web", &image, "sleep 1000"));
    node.running("web");
    for args in [
        &["get", "pods"][..],
        &["get", "pods", "-o", "wide"],
        &["get", "containers"],
        &["get", "images"],
        &["get", "layers"],
        &["get", "volumes"],
        &["get", "events"],
        &["get", "manifests"],
        &["describe", "pod/web"],
        &["history", &image],
        &["df"],
        &["why", &image],
        &["gc", "--dry-run"],
        &["check"],
        &["info"],
        &["top", "pods"],
        &["top", "node"],
        &["get", "pods", "-o", "name"],
        &["get", "pods", "-o", "yaml"],
        &["completion", "bash"],
        &["--help"],
        &["--version"],
    ] {
        let said = node.lamina(args);
        assert_eq!(said.status, 0, "{args:?}: {}{}", said.out, said.err);
        assert!(!said.out.is_empty() || args[0] == "gc" || args[1] == "volumes", "{args:?} says nothing");
    }
    assert_eq!(node.ok(&["get", "pods", "-o", "name"]), "pod/web\n");
    node.finish();
}
