//! Credentials that are replaced while the agent runs, as a kubelet and a certificate manager do it.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api_server::Cluster;
use crate::source::{assign, workload};
use crate::support::node::Node;

const SLEEP: &str = "echo $GREETING; exec sleep 1000";
/// Less than it takes until a token's file is read anyway (a minute) and a watch begins anew (290 s).
const SOON: Duration = Duration::from_secs(45);

fn prepared() -> Cluster {
    let cluster = Cluster::start().with_nodes(&["node-1"]);
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: arena }\n");
    cluster
        .apply("apiVersion: v1\nkind: ConfigMap\nmetadata: { name: words, namespace: arena }\ndata: { hello: moin }\n");
    cluster
}

fn agent(config: &Path) -> (Node, String) {
    let node = Node::start_with(&["--kubernetes", "--kubeconfig", config.to_str().unwrap(), "--node-name", "node-1"]);
    let (_, image) = node.busybox();
    (node, image)
}

/// When the node said last that it is alive.
fn renewed(cluster: &Cluster) -> Option<Value> {
    Some(cluster.find(&["lease", "node-1", "-n", "lamina-system"])?["spec"]["renewTime"].clone())
}

/// Until the Lease is renewed again, and what is assigned then runs.
fn heard(cluster: &Cluster, node: &Node, image: &str, names: [&str; 2]) {
    let begun = Instant::now();
    let before = renewed(cluster);
    while renewed(cluster) == before {
        assert!(begun.elapsed() < SOON, "the Lease is not renewed");
        std::thread::sleep(Duration::from_millis(200));
    }
    cluster.apply(&workload(names[1], image, SLEEP));
    assign(cluster, "node-1", &names);
    node.running(&format!("arena/{}", names[1]));
}

fn done(cluster: &Cluster, node: Node, names: [&str; 2]) {
    assign(cluster, "node-1", &[]);
    for name in names {
        node.gone(&format!("arena/{name}"));
    }
    node.finish();
}

#[test]
fn a_token_that_is_replaced_in_its_file_is_taken_up() {
    let cluster = prepared();
    let token = |bound: &str| {
        cluster.apply(&format!("apiVersion: v1\nkind: Secret\nmetadata: {{ name: {bound}, namespace: arena }}\n"));
        let secret = cluster.get(&["secret", bound, "-n", "arena"]);
        let uid = secret["metadata"]["uid"].as_str().unwrap();
        let args = ["create", "token", "agent", "-n", "arena", "--bound-object-kind=Secret", "--bound-object-name"];
        cluster.ok(&[&args[..], &[bound, "--bound-object-uid", uid]].concat())
    };
    cluster.apply("apiVersion: v1\nkind: ServiceAccount\nmetadata: { name: agent, namespace: arena }\n");
    let binding = ["create", "clusterrolebinding", "agent", "--clusterrole=cluster-admin"];
    cluster.ok(&[&binding[..], &["--serviceaccount=arena:agent"]].concat());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, token("first")).unwrap();
    let config = cluster.kubeconfig_with("agent", &json!({ "tokenFile": file }), &cluster.url());
    let (node, image) = agent(&config);
    cluster.apply(&workload("game", &image, SLEEP));
    assign(&cluster, "node-1", &["game"]);
    node.running("arena/game");
    let pid = node.pid("arena/game", "app");

    // The old one is worth nothing any more: what it was bound to is gone.
    std::fs::write(&file, token("second")).unwrap();
    cluster.ok(&["delete", "secret", "first", "-n", "arena"]);
    heard(&cluster, &node, &image, ["game", "other"]);
    assert_eq!(node.pid("arena/game", "app"), pid);
    done(&cluster, node, ["game", "other"]);
}

#[test]
fn a_certificate_that_is_replaced_before_it_expires_is_taken_up_when_it_has() {
    let cluster = prepared();
    let good = Duration::from_secs(20);
    let [certificate, key] = cluster.certificate("agent", good);
    let expires = Instant::now() + good;
    let credentials = json!({ "client-certificate": certificate, "client-key": key });
    let config = cluster.kubeconfig_with("agent", &credentials, &cluster.url());
    let (node, image) = agent(&config);
    cluster.apply(&workload("game", &image, SLEEP));
    assign(&cluster, "node-1", &["game"]);
    node.running("arena/game");
    let pid = node.pid("arena/game", "app");

    let files = cluster.certificate("agent", Duration::from_hours(24));
    assert_eq!(files, [certificate, key]);
    std::thread::sleep(expires.saturating_duration_since(Instant::now()) + Duration::from_secs(2));
    heard(&cluster, &node, &image, ["game", "other"]);
    assert_eq!(node.pid("arena/game", "app"), pid);
    done(&cluster, node, ["game", "other"]);
}
