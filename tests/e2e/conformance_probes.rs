//! What the node conformance list asks of probes: who is asked, and what follows from the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::inits::{declare, sh, with};
use crate::network::in_network_of;
use crate::support::node::Node;
use crate::support::wait;

fn status(pod: &Value, container: usize) -> &Value {
    &pod["status"]["containerStatuses"][container]
}

fn restarts(pod: &Value, container: usize) -> u64 {
    status(pod, container)["restartCount"].as_u64().unwrap()
}

/// A gRPC health service in a pod's network that finds everything well, also as a page, and counts how often it is
/// asked. It speaks HTTP/2 alone.
struct Health {
    asked: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Health {
    fn serve(node: &Node, pod: &str, port: u16) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let (stop, stopped) = oneshot::channel();
        let counter = Arc::clone(&asked);
        let thread = in_network_of(node, pod, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind(("0.0.0.0", port)).await.unwrap();
                tokio::select! {
                    () = Self::answer(listener, counter) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { asked, stop: Some(stop), thread: Some(thread) }
    }

    async fn answer(listener: tokio::net::TcpListener, asked: Arc<AtomicUsize>) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let asked = Arc::clone(&asked);
            let service = service_fn(move |request: Request<Incoming>| {
                assert!(["/grpc.health.v1.Health/Check", "/healthz"].contains(&request.uri().path()), "{request:?}");
                asked.fetch_add(1, Ordering::Relaxed);
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                // One message without compression: field 1, SERVING.
                let message = Full::new(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]));
                let body = message.with_trailers(async move { Some(Ok(trailers)) });
                std::future::ready(Ok::<_, std::convert::Infallible>(Response::new(body)))
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().unwrap().join();
    }
}

#[test]
fn a_liveness_probe_that_succeeds_restarts_nothing_however_it_asks() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let probe = |more: Value| json!({ "livenessProbe": with(json!({ "periodSeconds": 1 }), more) });
    let web = |name: &str, port: u16| {
        sh(&image, name, &format!("mkdir -p /www; echo ok >/www/healthz; exec httpd -f -p {port} -h /www"))
    };
    let counted = json!({ "exec": { "command": ["sh", "-c", "echo >>/tmp/asked; cat /www/healthz"] } });
    declare(
        &node,
        "well",
        json!({ "containers": [
            with(web("page", 8001), probe(json!({ "httpGet": { "path": "/healthz", "port": 8001 } }))),
            with(web("command", 8002), probe(counted)),
            // Its pages are errors; that it listens is enough.
            with(sh(&image, "socket", "exec httpd -f -p 8080 -h /tmp"), probe(json!({ "tcpSocket": { "port": 8080 } }))),
            with(sh(&image, "grpc", "exec sleep 1000"), probe(json!({ "grpc": { "port": 5000 }, "failureThreshold": 60 }))),
        ], "terminationGracePeriodSeconds": 0 }),
    );
    node.running("well");
    let health = Health::serve(&node, "well", 5000);
    wait("every one has been asked often", || {
        let asked = node.ok(&["exec", "well", "-c", "command", "--", "wc", "-l", "/tmp/asked"]);
        let asked: usize = asked.split_whitespace().next()?.parse().ok()?;
        let (_, metrics) = node.http("/metrics")?;
        let successes = "lamina_probe_total{kind=\"liveness\",result=\"success\"} ";
        let all: f64 = metrics.lines().find_map(|l| l.strip_prefix(successes))?.parse().ok()?;
        (asked >= 5 && health.asked.load(Ordering::Relaxed) >= 5 && all >= 20.0).then_some(())
    });
    let pod = node.running("well");
    for container in 0..4 {
        assert_eq!(restarts(&pod, container), 0, "{}", status(&pod, container));
    }
    drop(health);
    node.finish();
}

#[test]
fn a_liveness_probe_that_comes_to_fail_restarts_its_container_again_and_again() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let probe =
        |more: Value| json!({ "livenessProbe": with(json!({ "periodSeconds": 1, "failureThreshold": 1 }), more) });
    let page = "mkdir -p /www; echo ok >/www/healthz; httpd -p 8001 -h /www; sleep 2; rm /www/healthz; exec sleep 1000";
    let file = "echo ok >/tmp/health; sleep 2; rm /tmp/health; exec sleep 1000";
    let cases = [
        // Not before the page is there, and then until it is not.
        ("page", page, json!({ "httpGet": { "path": "/healthz", "port": 8001 }, "initialDelaySeconds": 1 })),
        ("file", file, json!({ "exec": { "command": ["cat", "/tmp/health"] }, "initialDelaySeconds": 1 })),
        // Nobody is at that port.
        ("grpc", "exec sleep 1000", json!({ "grpc": { "port": 2333 } })),
    ];
    for (name, script, asks) in cases {
        let container = with(sh(&image, "app", script), probe(asks));
        declare(&node, name, json!({ "terminationGracePeriodSeconds": 0, "containers": [container] }));
    }
    for name in ["file", "grpc", "page"] {
        let pod =
            node.until(name, "restarted", |p| p["status"]["containerStatuses"][0]["restartCount"].as_u64() >= Some(1));
        assert!(status(&pod, 0)["lastState"]["terminated"].is_object(), "{pod}");
    }
    // The count only grows, a backoff apart.
    let mut last = 1;
    while last < 3 {
        let pod = node.until("page", "restarted once more", |p| restarts(p, 0) != last);
        assert_eq!(restarts(&pod, 0), last + 1);
        last += 1;
    }
    node.finish();
}

#[test]
fn a_container_is_not_ready_before_the_initial_delay_of_its_probe() {
    const DELAY: i64 = 3;
    let node = Node::start();
    let (_, image) = node.busybox();
    let probe = json!({ "readinessProbe": { "exec": { "command": ["true"] }, "initialDelaySeconds": DELAY, "periodSeconds": 1 } });
    declare(
        &node,
        "slow",
        json!({ "terminationGracePeriodSeconds": 0, "containers": [with(sh(&image, "app", "exec sleep 1000"), probe)] }),
    );
    let pod = node.running("slow");
    assert_eq!(status(&pod, 0)["ready"], false, "{pod}");
    let ready = |p: &Value| {
        let conditions = p["status"]["conditions"].as_array().unwrap().clone();
        conditions.into_iter().find(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let pod = node.until("slow", "ready", |p| ready(p).is_some());
    let time = |value: &Value| value.as_str().unwrap().parse::<Timestamp>().unwrap().as_second();
    let began = time(&status(&pod, 0)["state"]["running"]["startedAt"]);
    let at = time(&ready(&pod).unwrap()["lastTransitionTime"]);
    assert!(at - began >= DELAY, "{pod}");
    assert_eq!(restarts(&pod, 0), 0);
    node.finish();
}

#[test]
fn a_page_is_asked_for_by_http_2_where_that_is_wanted() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let container = |name: &str, protocol: Option<&str>| {
        let page = json!({ "path": "/healthz", "port": 5000, "protocol": protocol });
        let probe = json!({ "readinessProbe": { "httpGet": page, "periodSeconds": 1 } });
        with(sh(&image, name, "exec sleep 1000"), probe)
    };
    let containers = [container("two", Some("HTTP2")), container("one", Some("HTTP1"))];
    declare(&node, "app", json!({ "terminationGracePeriodSeconds": 0, "containers": containers }));
    node.running("app");
    let health = Health::serve(&node, "app", 5000);
    let pod = node.until("app", "half ready", |p| status(p, 0)["ready"] == true);
    assert_eq!(status(&pod, 1)["ready"], false, "{pod}");
    assert!(health.asked.load(Ordering::Relaxed) > 0);
    drop(health);
    node.finish();
}
