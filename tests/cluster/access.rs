//! `kubectl lamina` and Prometheus: agents answer on their nodes' addresses, over TLS, and to whoever may.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::api_server::Cluster;
use crate::source::{assign, workload};
use crate::support::node::{LAMINA, Node, Said};
use crate::support::wait;

/// A person: an account with a token, as a kubeconfig has it.
struct Person<'a> {
    cluster: &'a Cluster,
    config: PathBuf,
    token: String,
    bin: PathBuf,
}

impl<'a> Person<'a> {
    fn new(cluster: &'a Cluster, name: &str, rules: &[Value], cluster_roles: &[&str]) -> Self {
        cluster.ok(&["create", "serviceaccount", name, "-n", "arena"]);
        let subjects = json!([{ "kind": "ServiceAccount", "name": name, "namespace": "arena" }]);
        if !rules.is_empty() {
            let metadata = json!({ "name": name, "namespace": "arena" });
            let api = "rbac.authorization.k8s.io/v1";
            cluster
                .apply(&json!({ "apiVersion": api, "kind": "Role", "metadata": metadata, "rules": rules }).to_string());
            let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name });
            cluster.apply(
                &json!({ "apiVersion": api, "kind": "RoleBinding", "metadata": metadata, "roleRef": role, "subjects": subjects })
                    .to_string(),
            );
        }
        for role in cluster_roles {
            let account = format!("--serviceaccount=arena:{name}");
            let binding = format!("{name}-{role}");
            cluster.ok(&["create", "clusterrolebinding", &binding, &format!("--clusterrole={role}"), &account]);
        }
        let config = cluster.account("arena", name, None);
        let read: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
        let token = read["users"][0]["user"]["token"].as_str().unwrap().to_owned();
        let bin = config.with_extension("bin");
        fs::create_dir_all(&bin).unwrap();
        symlink(LAMINA, bin.join("kubectl-lamina")).unwrap();
        Self { cluster, config, token, bin }
    }

    /// `kubectl lamina …`, as kubectl starts it.
    fn lamina(&self, args: &[&str]) -> Said {
        let path = format!("{}:{}", self.bin.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(self.cluster.kubectl_program());
        command.arg("lamina").args(args).env("PATH", path).env("KUBECONFIG", &self.config).env("HOME", &self.bin);
        command.stdin(Stdio::null()).output().unwrap().into()
    }

    fn ok(&self, args: &[&str]) -> String {
        let said = self.lamina(args);
        assert_eq!(said.status, 0, "kubectl lamina {args:?}: {}{}", said.out, said.err);
        said.out
    }
}

/// An agent with a certificate of its own, known to the cluster as a node.
fn agent(cluster: &Cluster, name: &str) -> Node {
    let config = cluster.account("lamina-system", "lamina-agent", Some(name));
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let (certificate, key) = (config.with_extension("crt"), config.with_extension("key"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let [config, certificate, key] = [&config, &certificate, &key].map(|p| p.to_str().unwrap());
    let tls = ["--tls-cert", certificate, "--tls-key", key];
    Node::start_with(&[&["--kubernetes", "--kubeconfig", config, "--node-name", name], &tls[..]].concat())
}

#[test]
fn people_ask_the_agents_of_all_nodes_with_their_own_tokens_and_learn_what_they_may() {
    let cluster = Cluster::start().with_nodes(&["node-1", "node-2"]);
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: arena }\n");
    cluster
        .apply("apiVersion: v1\nkind: ConfigMap\nmetadata: { name: words, namespace: arena }\ndata: { hello: moin }\n");
    let nodes = [agent(&cluster, "node-1"), agent(&cluster, "node-2")];
    let script = "echo $GREETING; exec sleep 1000";
    for (name, node) in [("game", &nodes[0]), ("solo", &nodes[1])] {
        let (_, image) = node.busybox();
        cluster.apply(&workload(name, &image, script));
    }
    assign(&cluster, "node-1", &["game"]);
    assign(&cluster, "node-2", &["solo"]);
    nodes[0].running("arena/game");
    nodes[1].running("arena/solo");
    wait("both nodes say where their agents answer", || {
        let reports = cluster.get(&["nrep"]);
        let told = |r: &&Value| {
            r["status"]["endpoint"]["certificate"].is_string() && r["status"]["podCount"].as_i64() == Some(1)
        };
        (reports["items"].as_array().unwrap().iter().filter(told).count() == 2).then_some(())
    });

    let pods = |verbs: &[&str]| json!({ "apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": verbs });
    let exec = json!({ "apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"] });
    let viewer = Person::new(&cluster, "viewer", &[pods(&["get", "list"])], &["lamina-view"]);
    let operator = Person::new(&cluster, "operator", &[pods(&["get", "list"]), exec], &["lamina-view"]);
    let nobody = Person::new(&cluster, "nobody", &[], &[]);

    // What is on all nodes, in one table.
    let listed = viewer.ok(&["get", "pods", "-n", "arena"]);
    let row = |name: &str, node: &str| listed.lines().any(|l| l.contains(name) && l.contains(node));
    assert!(row("game", "node-1") && row("solo", "node-2") && !row("solo", "node-1"), "{listed}");
    let images = viewer.ok(&["get", "images"]);
    assert!(images.contains("node-1") && images.contains("node-2") && images.contains("busybox"), "{images}");
    // The node that has a pod is found by itself.
    wait("the pod has spoken", || (viewer.ok(&["logs", "solo", "-n", "arena"]) == "moin\n").then_some(()));
    assert!(viewer.ok(&["describe", "pod/game", "-n", "arena"]).contains("game"));
    assert!(
        viewer.ok(&["df", "--node", "node-1"]).contains("LAYER") || !viewer.ok(&["df", "--node", "node-1"]).is_empty()
    );
    assert_eq!(operator.ok(&["exec", "solo", "-n", "arena", "--", "echo", "from", "inside"]), "from inside\n");
    let failed = operator.lamina(&["exec", "solo", "-n", "arena", "--", "sh", "-c", "exit 7"]);
    assert_eq!(failed.status, 7, "{}", failed.err);

    // What they may not is said, with the rule that is missing, and not done.
    let said = viewer.lamina(&["exec", "solo", "-n", "arena", "--", "touch", "/tmp/done"]);
    assert!(said.status != 0 && said.err.contains("may not create pods/exec in namespace arena"), "{}", said.err);
    assert!(nodes[1].lamina(&["exec", "-n", "arena", "solo", "--", "test", "-e", "/tmp/done"]).status != 0);
    let said = viewer.lamina(&["get", "pods", "-A"]);
    assert!(said.err.contains("may not list pods in all namespaces"), "{}", said.err);
    let said = nobody.lamina(&["get", "pods", "-n", "arena"]);
    assert!(said.status != 0 && said.err.contains("lamina-view"), "{}", said.err);

    // Whoever goes to the agent itself gets no further.
    let status = |path: &str, token: Option<&str>| nodes[0].https(path, token).unwrap().0;
    assert_eq!((status("/healthz", None), status("/readyz", None)), (200, 200));
    assert_eq!(status("/metrics", None), 401);
    assert_eq!(status("/metrics", Some("made-up")), 401);
    assert_eq!(status("/v1/pods?namespace=arena", Some(&nobody.token)), 403);
    assert_eq!(status("/v1/pods?namespace=arena", Some(&viewer.token)), 200);
    assert_eq!(status("/v1/logs?namespace=other&pod=game", Some(&viewer.token)), 403);
    assert_eq!(status("/v1/images/save?image=x", Some(&operator.token)), 403);
    assert_eq!(status("/metrics", Some(&operator.token)), 403);
    cluster.ok(&["create", "clusterrole", "scrape", "--verb=get", "--non-resource-url=/metrics"]);
    let prometheus = Person::new(&cluster, "prometheus", &[], &["scrape"]);
    let (code, text) = nodes[0].https("/metrics", Some(&prometheus.token)).unwrap();
    assert!(code == 200 && text.contains("lamina_pods"), "{code} {text}");

    for name in ["node-1", "node-2"] {
        assign(&cluster, name, &[]);
    }
    nodes[0].gone("arena/game");
    nodes[1].gone("arena/solo");
    nodes.into_iter().for_each(Node::finish);
}
