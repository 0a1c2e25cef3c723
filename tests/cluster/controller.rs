//! The controller with real agents: three on one machine, each with its own root and node name, stand for three nodes.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api_server::Cluster;
use crate::support::node::{LAMINA, Node};
use crate::support::{PATIENCE, registry, wait};

const NAMES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// A controller as a process.
struct Controller(Child);

impl Controller {
    fn start(cluster: &Cluster) -> Self {
        let config = cluster.account("lamina-system", "lamina-controller", None);
        let metrics = format!("127.0.0.1:{}", registry::free_port());
        let child = Command::new(LAMINA)
            .args(["controller", "--kubeconfig", config.to_str().unwrap(), "--metrics", &metrics])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn workload(image: &str, words: &str, selector: &Value) -> String {
    json!({
        "apiVersion": "lamina.dev/v1alpha1", "kind": "NodeWorkload",
        "metadata": { "name": "game", "namespace": "arena" },
        "spec": {
            "updateStrategy": { "rollingUpdate": { "maxUnavailable": 1 } },
            "template": { "spec": {
                "nodeSelector": selector,
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "app", "image": image, "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-c", format!("echo {words}; exec sleep 1000")],
                }],
            } },
        },
    })
    .to_string()
}

fn agent(cluster: &Cluster, name: &str) -> Node {
    let config = cluster.account("lamina-system", "lamina-agent", Some(name));
    Node::start_with(&["--kubernetes", "--kubeconfig", config.to_str().unwrap(), "--node-name", name])
}

/// Each node's revision of the workload, and whether it is ready, as the reports say.
fn reported(cluster: &Cluster) -> BTreeMap<String, (String, bool)> {
    let reports = cluster.get(&["nrep"]);
    let of = |report: &Value| {
        let pod = report["status"]["pods"].as_array()?.iter().find(|p| p["workload"] == "game")?;
        let name = report["metadata"]["name"].as_str()?.to_owned();
        Some((name, (pod["revision"].as_str()?.to_owned(), pod["ready"].as_bool()?)))
    };
    reports["items"].as_array().unwrap().iter().filter_map(of).collect()
}

fn condition(workload: &Value, kind: &str) -> (String, String) {
    let all = workload["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|c| c["type"] == kind).cloned().unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

fn until(cluster: &Cluster, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE * 2;
    let mut last = Value::Null;
    while Instant::now() < deadline {
        // The API server may be away in a test.
        if let Some(found) = cluster.find(&["nwl", "game", "-n", "arena"]) {
            if is(&found) {
                return found;
            }
            last = found;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("waited in vain: {what}: {last:#}");
}

fn is_done(workload: &Value) -> bool {
    let status = &workload["status"];
    status["observedGeneration"] == workload["metadata"]["generation"]
        && condition(workload, "Ready").0 == "True"
        && status["currentRevision"] == status["updateRevision"]
}

fn logs(node: &Node) -> String {
    node.lamina(&["logs", "game", "-n", "arena"]).out
}

#[test]
fn a_rollout_over_three_nodes_goes_one_by_one_whatever_dies_and_can_be_undone() {
    let mut cluster = Cluster::start().with_nodes(&NAMES);
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: arena }\n");
    let mut nodes: Vec<Node> = NAMES.iter().map(|name| agent(&cluster, name)).collect();
    let (_, image) = nodes[0].busybox();
    let mut controller = Controller::start(&cluster);

    cluster.apply(&workload(&image, "first", &json!({})));
    let first = until(&cluster, "the first revision is everywhere", is_done);
    assert_eq!(first["status"]["desiredNodes"], 3);
    assert_eq!(first["status"]["availableNodes"], 3);
    cluster.ok(&["wait", "--for=condition=Ready", "nwl/game", "-n", "arena", "--timeout=10s"]);
    for node in &nodes {
        node.running("arena/game");
        assert_eq!(logs(node), "first\n");
    }
    // What each node tells.
    let report = cluster.get(&["nrep", "node-1"]);
    assert_eq!(report["metadata"]["ownerReferences"][0]["kind"], "Node");
    assert_eq!(report["status"]["agentVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["status"]["store"]["layers"], 1);
    let lease = cluster.get(&["lease", "node-1", "-n", "lamina-system"]);
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 60);
    assert!(cluster.ok(&["get", "nrep"]).contains("True"));
    wait("each node's events are there", || {
        let described = cluster.ok(&["describe", "nwl", "game", "-n", "arena"]);
        let all = ["Accepted", "Pulled", "Started"].iter().all(|reason| described.contains(reason));
        (all && NAMES.iter().all(|name| described.contains(&format!("{name}: container app: started")))).then_some(())
    });

    // The second revision, and everything dies on the way: an agent, the controller, the API server.
    cluster.apply(&workload(&image, "second", &json!({})));
    let second = cluster.get(&["nwl", "game", "-n", "arena"])["metadata"]["generation"].clone();
    let mut step = 0;
    let deadline = Instant::now() + PATIENCE * 3;
    loop {
        assert!(Instant::now() < deadline, "{:#}", cluster.get(&["nwl", "game", "-n", "arena"]));
        let now = reported(&cluster);
        let workload = cluster.get(&["nwl", "game", "-n", "arena"]);
        let old = first["status"]["updateRevision"].as_str().unwrap();
        let updated = now.values().filter(|(revision, _)| revision != old).count();
        match step {
            0 if updated == 1 => {
                controller.kill();
                controller = Controller::start(&cluster);
                step = 1;
            }
            1 if updated == 2 => {
                nodes[2].kill_agent();
                nodes[2].start_agent();
                cluster.stop_server();
                cluster.start_server();
                step = 2;
            }
            _ => {}
        }
        let away = now.values().filter(|(_, ready)| !ready).count() + NAMES.len() - now.len();
        assert!(away <= 1, "{now:?}");
        if workload["status"]["observedGeneration"] == second && is_done(&workload) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(step, 2, "something did not die");
    for node in &nodes {
        assert_eq!(logs(node), "second\n");
    }
    let history = cluster.get(&["controllerrevisions", "-n", "arena", "-l", "lamina.dev/workload=game"]);
    assert_eq!(history["items"].as_array().unwrap().len(), 2);

    // Back to the first, by its number.
    // One that there is not is said, with those that there are, and changes nothing.
    cluster.ok(&["annotate", "nwl", "game", "-n", "arena", "lamina.dev/rollback-to=17"]);
    let said = wait("an event says that there is no such revision", || {
        let events = cluster.ok(&["get", "events.events.k8s.io", "-n", "arena", "-o", "json"]);
        let events: Value = serde_json::from_str(&events).unwrap();
        let of = |e: &Value| e["reason"] == "RollbackRevisionNotFound" && e["regarding"]["name"] == "game";
        let event = events["items"].as_array().unwrap().iter().find(|e| of(e)).cloned();
        event.map(|e| e["note"].as_str().unwrap().to_owned())
    });
    assert!(said.contains("no revision 17") && said.contains("1 (game-"), "{said}");
    assert!(is_done(&until(&cluster, "the request is taken away", |workload| {
        workload["metadata"]["annotations"]["lamina.dev/rollback-to"].is_null()
    })));

    cluster.ok(&["annotate", "nwl", "game", "-n", "arena", "lamina.dev/rollback-to=1"]);
    let back = until(&cluster, "the first revision is back", |workload| {
        is_done(workload) && workload["status"]["updateRevision"] == first["status"]["updateRevision"]
    });
    assert!(back["metadata"]["annotations"]["lamina.dev/rollback-to"].is_null());
    for node in &nodes {
        assert_eq!(logs(node), "first\n");
    }

    // Only where the label is.
    cluster.ok(&["label", "node", "node-2", "disk=ssd"]);
    cluster.apply(&workload(&image, "first", &json!({ "disk": "ssd" })));
    let chosen = until(&cluster, "one node is chosen", |w| w["status"]["desiredNodes"] == 1 && is_done(w));
    assert_eq!(chosen["status"]["readyNodes"], 1);
    nodes[0].gone("arena/game");
    nodes[2].gone("arena/game");
    nodes[1].running("arena/game");

    // What cannot run is said, and reaches no node.
    let pid = nodes[1].pid("arena/game", "app");
    let wrong = workload(&image, "third", &json!({ "disk": "ssd" }))
        .replace("\"imagePullPolicy\":\"IfNotPresent\"", "\"imagePullPolicy\":\"Sometimes\"");
    cluster.apply(&wrong);
    let refused = until(&cluster, "the template is refused", |w| condition(w, "Accepted").0 == "False");
    assert_eq!(condition(&refused, "Stalled"), ("True".into(), "TemplateInvalid".into()));
    assert!(refused["status"]["conditions"].to_string().contains("spec.template.spec.containers[0].imagePullPolicy"));
    assert_eq!(nodes[1].pid("arena/game", "app"), pid);

    cluster.ok(&["delete", "nwl", "game", "-n", "arena"]);
    nodes[1].gone("arena/game");
    drop(controller);
    for node in nodes {
        node.finish();
    }
}

#[test]
fn two_controllers_share_one_lease_and_a_node_that_falls_silent_is_unknown_until_it_is_back() {
    let cluster = Cluster::start().with_nodes(&["node-1"]);
    let first = Controller::start(&cluster);
    let holder = || {
        cluster.find(&["lease", "lamina-controller", "-n", "lamina-system"])?["spec"]["holderIdentity"]
            .as_str()
            .map(str::to_owned)
    };
    let one = wait("one leads", holder);
    let second = Controller::start(&cluster);
    let mut node = agent(&cluster, "node-1");
    let ready = || {
        let report = cluster.find(&["nrep", "node-1"])?;
        let found = report["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == "Ready")?.clone();
        found["status"].as_str().map(str::to_owned)
    };
    wait("the node is ready", || ready().filter(|status| status == "True"));
    assert_eq!(holder().unwrap(), one, "the first still leads");
    first.kill();
    let other = wait("the other takes over", || holder().filter(|now| *now != one));
    assert_ne!(other, one);

    // Its Lease runs out.
    node.stop_agent();
    let deadline = Instant::now() + PATIENCE * 3;
    while ready().is_none_or(|status| status != "Unknown") {
        assert!(Instant::now() < deadline, "waited in vain: the silence is noticed");
        std::thread::sleep(Duration::from_millis(500));
    }
    node.start_agent();
    wait("it is heard again", || ready().filter(|status| status == "True"));
    drop(second);
    node.finish();
}
