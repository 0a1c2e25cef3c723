//! Probes and hooks: made from outside the container, inside its network; what they find decides.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::inits::{declare, sh, with};
use crate::support::node::Node;
use crate::support::wait;

/// A web server that says 200 for `/ok`, with a file that can be taken away.
fn web(image: &str, name: &str, port: u16) -> Value {
    let script = format!("mkdir -p /www; echo fine >/www/ok; exec httpd -f -p {port} -h /www");
    with(sh(image, name, &script), json!({ "ports": [{ "name": "http", "containerPort": port }] }))
}

fn restarts(pod: &Value, container: usize) -> u64 {
    pod["status"]["containerStatuses"][container]["restartCount"].as_u64().unwrap()
}

fn events(node: &Node, pod: &str) -> Vec<(String, String)> {
    let events = node.json(&["get", "events"]);
    let of =
        |e: &&Value| e["regarding"]["name"] == pod || e["involvedObject"]["name"] == pod || e["object"]["name"] == pod;
    let all = events["items"].as_array().unwrap();
    let text = |e: &Value, name: &str| e[name].as_str().unwrap_or_default().to_owned();
    all.iter().filter(of).map(|e| (text(e, "reason"), text(e, "message"))).collect()
}

fn wait_for_event(node: &Node, pod: &str, reason: &str, part: &str) {
    wait(&format!("the event {reason} of {pod}"), || {
        events(node, pod).iter().any(|(r, m)| r == reason && m.contains(part)).then_some(())
    });
}

#[test]
fn readiness_follows_the_probe_in_every_way_of_asking() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    let page = |more: Value| with(json!({ "path": "/ok", "port": "http" }), more);
    let probe = |handler: &str, value: Value| json!({ "readinessProbe": { handler: value, "periodSeconds": 1, "failureThreshold": 1 } });
    let containers = [
        with(
            web(&image, "page", 8001),
            probe("httpGet", page(json!({ "httpHeaders": [{ "name": "Host", "value": "x.example" }] }))),
        ),
        with(web(&image, "socket", 8002), probe("tcpSocket", json!({ "port": 8002 }))),
        with(web(&image, "command", 8003), probe("exec", json!({ "command": ["cat", "/www/ok"] }))),
    ];
    declare(&node, "app", json!({ "terminationGracePeriodSeconds": 0, "containers": containers }));
    let never = with(web(&image, "never", 8004), probe("httpGet", json!({ "path": "/missing", "port": 8004 })));
    declare(&node, "never", json!({ "terminationGracePeriodSeconds": 0, "containers": [never] }));
    node.ok(&["wait", "pod/app", "--for=ready", "--timeout", "30s"]);
    let before = node.pod("app").unwrap();
    wait_for_event(&node, "never", "Unhealthy", "Readiness probe failed: HTTP status 404");
    let pod = node.pod("never").unwrap();
    assert_eq!((&pod["status"]["containerStatuses"][0]["ready"], restarts(&pod, 0)), (&json!(false), 0));
    assert_ne!(node.lamina(&["wait", "pod/never", "--for=ready", "--timeout", "1s"]).status, 0);
    let (_, metrics) = node.http("/metrics").unwrap();
    let line = |text: &str| metrics.lines().any(|l| l.starts_with(text));
    assert!(line("lamina_pods{state=\"ready\"} 1") && line("lamina_pods{state=\"running\"} 1"), "{metrics}");
    assert!(line("lamina_probe_total{kind=\"readiness\",result=\"success\"}"));
    assert!(line("lamina_probe_total{kind=\"readiness\",result=\"failure\"}"));

    // A new agent takes over what the last one knew: never is the pod seen as not ready.
    node.kill_agent();
    node.start_agent();
    let ready = |p: &Value| {
        p["status"]["conditions"].as_array().unwrap().iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        assert!(ready(&node.pod("app").unwrap()), "not ready after a restart of the agent");
    }
    assert_eq!(node.pod("app").unwrap()["metadata"]["uid"], before["metadata"]["uid"]);
    // And goes on to ask.
    node.ok(&["exec", "app", "-c", "page", "--", "rm", "/www/ok"]);
    let pod = node.until("app", "not ready", |p| !ready(p));
    assert_eq!(pod["status"]["containerStatuses"][0]["ready"], false);
    assert_eq!(pod["status"]["containerStatuses"][1]["ready"], true);
    node.ok(&["exec", "app", "-c", "page", "--", "touch", "/www/ok"]);
    node.until("app", "ready again", ready);
    node.finish();
}

#[test]
fn a_container_that_fails_its_liveness_or_startup_probe_is_started_anew() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let probe = |handler: &str, value: Value| json!({ handler: value, "periodSeconds": 1, "failureThreshold": 2 });
    let gone = probe("exec", json!({ "command": ["cat", "/www/none"] }));
    let slow = json!({ "exec": { "command": ["sleep", "20"] }, "periodSeconds": 1, "failureThreshold": 1 });
    let page = |path: &str| probe("httpGet", json!({ "path": path, "port": "http" }));
    for (name, container) in [
        ("exec", with(web(&image, "app", 8001), json!({ "livenessProbe": gone }))),
        ("slow", with(web(&image, "app", 8002), json!({ "livenessProbe": slow }))),
        ("page", with(web(&image, "app", 8003), json!({ "livenessProbe": page("/none") }))),
        (
            "socket",
            with(web(&image, "app", 8004), json!({ "livenessProbe": probe("tcpSocket", json!({ "port": 9 })) })),
        ),
        (
            "startup",
            with(web(&image, "app", 8005), json!({ "startupProbe": page("/none"), "livenessProbe": page("/ok") })),
        ),
        ("well", with(web(&image, "app", 8006), json!({ "livenessProbe": page("/ok"), "startupProbe": page("/ok") }))),
    ] {
        declare(&node, name, json!({ "terminationGracePeriodSeconds": 1, "containers": [container] }));
    }
    for (name, why) in [
        ("exec", "liveness"),
        ("slow", "liveness"),
        ("page", "liveness"),
        ("socket", "liveness"),
        ("startup", "startup"),
    ] {
        node.until(name, "restarted", |p| restarts(p, 0) >= 1);
        wait_for_event(&node, name, "Killing", &format!("failed its {why} probe"));
        wait_for_event(&node, name, "Unhealthy", "probe failed");
    }
    wait_for_event(&node, "slow", "Unhealthy", "timed out after 1 s");
    let pod = node.until("well", "started", |p| p["status"]["containerStatuses"][0]["started"] == true);
    assert_eq!(restarts(&pod, 0), 0);
    node.finish();
}

#[test]
fn a_startup_probe_gates_liveness_and_what_comes_after_a_sidecar() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let host = node.path("shared");
    std::fs::create_dir(&host).unwrap();
    let volumes = json!([{ "name": "shared", "hostPath": { "path": host, "type": "Directory" } }]);
    let mounted = json!({ "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }] });
    let up = json!({ "exec": { "command": ["test", "-e", "/shared/up"] }, "periodSeconds": 1, "failureThreshold": 60 });
    let ready = json!({ "exec": { "command": ["test", "-e", "/shared/ready"] }, "periodSeconds": 1 });
    let dead = json!({ "exec": { "command": ["test", "!", "-e", "/shared/dead"] }, "periodSeconds": 1, "failureThreshold": 1,
                       "terminationGracePeriodSeconds": 1 });
    let proxy = with(
        with(sh(&image, "proxy", "trap '' TERM; while true; do sleep 0.1; done"), mounted),
        json!({ "restartPolicy": "Always", "startupProbe": up, "readinessProbe": ready, "livenessProbe": dead }),
    );
    std::fs::write(host.join("dead"), "").unwrap();
    declare(
        &node,
        "app",
        json!({ "volumes": volumes, "initContainers": [proxy], "containers": [sh(&image, "main", "exec sleep 1000")],
                "terminationGracePeriodSeconds": 8 }),
    );
    let pod = node.until("app", "starting its sidecar", |p| {
        p["status"]["initContainerStatuses"][0]["state"]["running"].is_object()
    });
    assert_eq!(pod["status"]["initContainerStatuses"][0]["started"], false);
    // Liveness fails all the while and counts for nothing before the start is over.
    wait_for_event(&node, "app", "Unhealthy", "Startup probe failed");
    assert!(node.pod("app").unwrap()["status"]["containerStatuses"][0]["state"]["waiting"].is_object());
    std::fs::remove_file(host.join("dead")).unwrap();
    std::fs::write(host.join("up"), "").unwrap();
    let pod = node.running("app");
    assert_eq!(pod["status"]["initContainerStatuses"][0]["restartCount"], 0);
    assert_eq!(
        pod["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap()["status"],
        "False"
    );
    std::fs::write(host.join("ready"), "").unwrap();
    node.ok(&["wait", "pod/app", "--for=ready", "--timeout", "30s"]);
    // The probe's grace period counts, not the pod's.
    let begin = Instant::now();
    std::fs::write(host.join("dead"), "").unwrap();
    node.until("app", "with a new sidecar", |p| {
        p["status"]["initContainerStatuses"][0]["restartCount"].as_u64() >= Some(1)
    });
    assert!(begin.elapsed() < Duration::from_secs(7), "{:?}", begin.elapsed());
    std::fs::remove_file(host.join("dead")).unwrap();
    node.finish();
}

#[test]
fn hooks_run_after_the_start_and_before_the_end() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let host = node.path("shared");
    std::fs::create_dir(&host).unwrap();
    let volumes = json!([{ "name": "shared", "hostPath": { "path": host, "type": "Directory" } }]);
    let script = |what: &str| json!({ "exec": { "command": ["sh", "-c", what] } });
    let polite = "trap 'echo end >>/shared/log; exit 0' TERM; while true; do sleep 0.1; done";
    let container = |name: &str, port: u16, lifecycle: Value| {
        let script = format!("mkdir -p /www; echo x >/www/ok; httpd -p {port} -h /www; {polite}");
        let mounts = json!({ "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }], "lifecycle": lifecycle });
        with(sh(&image, name, &script), mounts)
    };
    let hooks = json!({ "postStart": script("sleep 1; echo post >>/shared/log"), "preStop": script("echo pre >>/shared/log; sleep 1") });
    let second = with(
        sh(&image, "second", "echo second >>/shared/log; exec sleep 1000"),
        json!({ "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }], "lifecycle": { "preStop": { "sleep": { "seconds": 1 } } } }),
    );
    declare(&node, "app", json!({ "volumes": volumes, "containers": [container("first", 8001, hooks), second] }));
    // A hook that fails ends its container; one that asks for a page is answered from inside the pod.
    let bad =
        with(sh(&image, "app", "exec sleep 1000"), json!({ "lifecycle": { "postStart": script("echo no; exit 3") } }));
    declare(&node, "bad", json!({ "terminationGracePeriodSeconds": 0, "restartPolicy": "Never", "containers": [bad] }));
    let missing = with(
        sh(&image, "app", "trap 'exit 0' TERM; while true; do sleep 0.1; done"),
        json!({ "lifecycle": { "preStop": { "httpGet": { "path": "/", "port": 9 } } } }),
    );
    declare(&node, "missing", json!({ "containers": [missing] }));
    let log = || std::fs::read_to_string(host.join("log")).unwrap_or_default();
    node.running("app");
    wait("both have begun", || (log().lines().count() == 2).then_some(()));
    assert_eq!(log(), "post\nsecond\n", "the next container waits for the hook");
    let pod = node.until("bad", "failed", |p| p["status"]["phase"] == "Failed");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    wait_for_event(&node, "bad", "FailedPostStartHook", "no");
    node.running("missing");
    node.remove_manifest("missing.yaml");
    wait_for_event(&node, "missing", "FailedPreStopHook", "cannot connect");
    let begin = Instant::now();
    node.remove_manifest("app.yaml");
    node.gone("app");
    assert!(begin.elapsed() >= Duration::from_secs(1));
    assert_eq!(log(), "post\nsecond\npre\nend\n");
    node.finish();
}

#[test]
fn a_hook_that_takes_all_of_the_grace_period_does_not_hold_up_the_end() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let app = with(
        sh(&image, "app", "exec sleep 1000"),
        json!({ "lifecycle": { "preStop": { "exec": { "command": ["sleep", "1000"] } }, "stopSignal": "SIGKILL" } }),
    );
    declare(&node, "app", json!({ "terminationGracePeriodSeconds": 2, "containers": [app] }));
    node.running("app");
    let begin = Instant::now();
    node.remove_manifest("app.yaml");
    node.gone("app");
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(8), "{took:?}");
    node.finish();
}
