//! The API server as a source of pods.

use serde_json::json;

use crate::api_server::Cluster;
use crate::support::node::Node;
use crate::support::wait;

pub(crate) fn workload(name: &str, image: &str, command: &str) -> String {
    json!({
        "apiVersion": "lamina.dev/v1alpha1", "kind": "NodeWorkload",
        "metadata": { "name": name, "namespace": "arena" },
        "spec": { "template": { "metadata": { "labels": { "app": name } }, "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "app", "image": image, "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", command],
                "env": [{ "name": "GREETING", "valueFrom": { "configMapKeyRef": { "name": "words", "key": "hello" } } }],
            }],
        } } },
    })
    .to_string()
}

const SLEEP: &str = "echo $GREETING; exec sleep 1000";

/// Assigns the present template of a workload to a node, as the controller does.
pub(crate) fn assign(cluster: &Cluster, node: &str, names: &[&str]) {
    let assignments: Vec<_> = names
        .iter()
        .map(|name| {
            let workload = cluster.get(&["nwl", "-n", "arena", name]);
            let template = lamina::api::cluster::Template(workload["spec"]["template"].clone());
            let revision = lamina::api::cluster::revision(name, &template, 0);
            json!({ "namespace": "arena", "name": name, "revision": revision.name })
        })
        .collect();
    if assignments.is_empty() {
        cluster.ok(&["patch", "nrep", node, "--type=merge", "-p", r#"{"spec":{"assignments":null}}"#]);
        return;
    }
    let report = json!({
        "apiVersion": "lamina.dev/v1alpha1", "kind": "NodeReport", "metadata": { "name": node },
        "spec": { "assignments": assignments },
    });
    cluster.apply(&report.to_string());
}

fn prepared() -> (Cluster, Node, String) {
    let cluster = Cluster::start().with_nodes(&["node-1"]);
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: arena }\n");
    cluster
        .apply("apiVersion: v1\nkind: ConfigMap\nmetadata: { name: words, namespace: arena }\ndata: { hello: moin }\n");
    let config = cluster.account("lamina-system", "lamina-agent", Some("node-1"));
    let node = Node::start_with(&["--kubernetes", "--kubeconfig", config.to_str().unwrap(), "--node-name", "node-1"]);
    let (_, image) = node.busybox();
    (cluster, node, image)
}

#[test]
fn what_is_assigned_runs_changes_and_goes_and_an_api_server_that_is_away_changes_nothing() {
    let (mut cluster, mut node, image) = prepared();
    cluster.apply(&workload("game", &image, SLEEP));
    cluster.apply(&workload("other", &image, SLEEP));
    assert!(node.pod("arena/game").is_none(), "nothing is assigned yet");
    assign(&cluster, "node-1", &["game"]);
    let pod = node.running("arena/game");
    assert_eq!(pod["metadata"]["labels"]["lamina.dev/workload"], "game");
    assert_eq!(pod["lamina"]["source"], "kubernetes");
    wait("its variable is that of the ConfigMap", || {
        (node.ok(&["logs", "game", "-n", "arena"]) == "moin\n").then_some(())
    });
    assert!(node.pod("arena/other").is_none(), "it is not assigned");
    let pid = node.pid("arena/game", "app");

    // Away: all goes on, also over a restart of the agent, and what it is told meanwhile by others counts.
    cluster.stop_server();
    wait("the loss is noticed", || node.ok(&["info"]).contains("not heard for").then_some(()));
    node.kill_agent();
    node.start_agent();
    assert_eq!(node.pid("arena/game", "app"), pid, "the API server's absence is no reason to end anything");
    node.manifest("web.yaml", &format!("apiVersion: v1\nkind: Pod\nmetadata: {{ name: web }}\nspec: {{ terminationGracePeriodSeconds: 0, containers: [{{ name: a, image: \"{image}\", imagePullPolicy: IfNotPresent, command: [sleep, '1000'] }}] }}\n"));
    node.running("web");
    node.remove_manifest("web.yaml");
    node.gone("web");
    cluster.start_server();
    wait("it is heard again", || node.ok(&["info"]).contains("connected").then_some(()));
    assert_eq!(node.pid("arena/game", "app"), pid);

    // A new template alone changes nothing; its assignment does.
    cluster.apply(&workload("game", &image, "echo second; exec sleep 1000"));
    assign(&cluster, "node-1", &["other", "game"]);
    node.running("arena/other");
    wait("the second revision runs", || (node.ok(&["logs", "game", "-n", "arena"]) == "second\n").then_some(()));
    assign(&cluster, "node-1", &["game"]);
    node.gone("arena/other");

    // What the namespace has forbidden since it was written is not taken, and what runs stays, until it is allowed.
    let pid = node.pid("arena/game", "app");
    let mut more: serde_json::Value = serde_json::from_str(&workload("game", &image, SLEEP)).unwrap();
    more["spec"]["template"]["spec"]["hostPID"] = json!(true);
    cluster.apply(&more.to_string());
    cluster.ok(&["label", "namespace", "arena", "pod-security.kubernetes.io/enforce=baseline"]);
    assign(&cluster, "node-1", &["game"]);
    let told = wait("the node says why", || {
        let report = cluster.get(&["nrep", "node-1"]);
        let pod = report["status"]["pods"][0].clone();
        (pod["reason"] == "Rejected").then_some(pod)
    });
    let message = told["message"].as_str().unwrap();
    assert!(message.contains("spec.template.spec.hostPID: must not be true"), "{message}");
    assert_eq!((told["ready"].as_bool(), node.pid("arena/game", "app")), (Some(true), pid));
    cluster.ok(&["label", "namespace", "arena", "pod-security.kubernetes.io/enforce-"]);
    wait("it is taken once that is allowed", || (node.pod("arena/game")?["spec"]["hostPID"] == true).then_some(()));
    node.running("arena/game");

    // Tokens for pods, where the account of agents may ask for them.
    cluster.ok(&["create", "serviceaccount", "keyed", "-n", "arena"]);
    let mut keyed: serde_json::Value = serde_json::from_str(&workload("keyed", &image, SLEEP)).unwrap();
    let spec = &mut keyed["spec"]["template"]["spec"];
    spec["serviceAccountName"] = json!("keyed");
    spec["volumes"] = json!([{ "name": "t", "projected": { "sources": [
        { "serviceAccountToken": { "path": "token", "expirationSeconds": 600 } },
    ] } }]);
    spec["containers"][0]["volumeMounts"] = json!([{ "name": "t", "mountPath": "/keys" }]);
    cluster.apply(&keyed.to_string());
    assign(&cluster, "node-1", &["game", "keyed"]);
    wait("it is said that there is none", || {
        node.ok(&["get", "events", "-A"]).contains("no token of ServiceAccount arena/keyed can be had").then_some(())
    });
    let role = ["create", "role", "tokens", "-n", "arena", "--verb=create", "--resource=serviceaccounts/token"];
    cluster.ok(&[&role[..], &["--resource-name=keyed"]].concat());
    let account = "--serviceaccount=lamina-system:lamina-agent";
    cluster.ok(&["create", "rolebinding", "tokens", "-n", "arena", "--role=tokens", account]);
    node.running("arena/keyed");
    let token = node.ok(&["exec", "keyed", "-n", "arena", "--", "cat", "/keys/token"]);
    let config = cluster.kubeconfig("keyed", token.trim());
    let who = cluster.kubectl_as(&config, &["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"], "");
    assert_eq!(who.out, "system:serviceaccount:arena:keyed", "{}", who.err);

    cluster.ok(&["delete", "nwl", "keyed", "-n", "arena"]);
    cluster.ok(&["delete", "nwl", "game", "-n", "arena"]);
    node.gone("arena/game");
    node.finish();
}
