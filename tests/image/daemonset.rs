//! The DaemonSet's container, as it is shipped: its pod template, with directories of the test for those of the node, and
//! what a kubelet adds to every pod of a service account.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api_server::Cluster;
use crate::build::{binary, image};
use crate::support::image::{Config, Layer, Layout};
use crate::support::node::Node;
use crate::support::{leftovers, registry, wait};

/// How long the agent's container has for its end, as its manifest has it, and a while.
const GRACE: Duration = Duration::from_secs(15);

/// What stands for a node's `/var/lib/lamina`, `/run/lamina` and so on.
struct Inner {
    dir: PathBuf,
    port: u16,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(instance) = self.instance()
        {
            leftovers::end(&instance);
        }
    }
}

impl Inner {
    fn instance(&self) -> Option<String> {
        let format = fs::read_to_string(self.path("root/format.json")).ok()?;
        let format: Value = serde_json::from_str(&format).ok()?;
        Some(format["instance"].as_str()?.to_owned())
    }

    /// Waits until nothing is left. An agent in a container may be cut off at its end, as by any kubelet; then it is for
    /// the next on these directories to leave nothing.
    fn end(&self, instance: &str) {
        let deadline = Instant::now() + GRACE;
        let mut left = leftovers::of(&self.dir, Some(instance));
        while !left.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            left = leftovers::of(&self.dir, Some(instance));
        }
        if left.is_empty() {
            return;
        }
        // Past the harness, which shows nothing of a test that passes.
        let _ = writeln!(std::io::stderr(), "the agent's container left {left:?}; the next agent has to clear it away");
        let log = fs::File::create(self.path("next.log")).unwrap();
        let mut next = Command::new(binary())
            .args(["agent", "--root", &self.path("root"), "--run", &self.path("run"), "--log-dir", &self.path("logs")])
            .args(["--manifests", &self.path("manifests"), "--metrics", &format!("127.0.0.1:{}", self.port)])
            .args(["--gc-high", "100", "--gc-low", "99", "--eviction-hard", "none"])
            .stderr(log)
            .spawn()
            .unwrap();
        wait("the next agent answers, and runs no pod", || {
            let (ok, text) = self.lamina(&["get", "pods", "-A", "-o", "json"]);
            let list: Value = ok.then(|| serde_json::from_str(&text).ok()).flatten()?;
            list["items"].as_array()?.is_empty().then_some(())
        });
        wait("it is ready", || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").ok()?;
            std::io::read_to_string(stream).ok()?.contains(" 200 ").then_some(())
        });
        assert!(Command::new("kill").arg(next.id().to_string()).status().unwrap().success());
        next.wait().unwrap();
        leftovers::none(&self.dir, Some(instance));
    }

    fn path(&self, below: &str) -> String {
        self.dir.join(below).display().to_string()
    }

    fn lamina(&self, args: &[&str]) -> (bool, String) {
        let out = Command::new(binary()).args(["--run", &self.path("run")]).args(args).output().unwrap();
        (
            out.status.success(),
            String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr),
        )
    }

    /// Whether the agent says that there is no such pod; that it does not answer is something else.
    fn gone(&self, name: &str) -> bool {
        let (ok, text) = self.lamina(&["get", "pod", name, "-n", "arena"]);
        !ok && text.contains(&format!("there is no pod arena/{name}"))
    }

    fn pod(&self, name: &str) -> Option<Value> {
        let (ok, text) = self.lamina(&["get", "pod", name, "-n", "arena", "-o", "json"]);
        let value: Value = ok.then(|| serde_json::from_str(&text).ok()).flatten()?;
        Some(value.pointer("/items/0").cloned().unwrap_or(value))
    }

    fn ready(&self, name: &str) -> Option<Value> {
        let pod = self.pod(name)?;
        let all = pod["status"]["conditions"].as_array()?;
        all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True").then_some(pod)
    }

    fn logs(&self) -> Vec<u64> {
        let (_, text) = self.lamina(&["logs", "counter", "-n", "arena"]);
        text.lines().filter_map(|line| line.trim().parse().ok()).collect()
    }

    /// The DaemonSet's pod, with this image.
    fn agent(&self, cluster: &Cluster, image: &str) -> String {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/base/daemonset.yaml");
        let text = fs::read_to_string(file).unwrap();
        let daemonset: Value = serde_yaml::from_str(text.trim_start_matches("---\n")).unwrap();
        let mut template = daemonset["spec"]["template"].clone();
        // The node's directories are those of the test, at the same place outside and inside, as they are on a node.
        let places = [
            ("/var/lib/lamina", self.path("root")),
            ("/run/lamina", self.path("run")),
            ("/var/log/lamina/pods", self.path("logs")),
        ];
        let spec = &mut template["spec"];
        for volume in spec["volumes"].as_array_mut().unwrap() {
            let path = &mut volume["hostPath"]["path"];
            if *path == "/etc/lamina" {
                *path = self.path("config").into();
            }
            if let Some((_, to)) = places.iter().find(|(from, _)| *path == *from) {
                *path = to.clone().into();
            }
        }
        let container = &mut spec["containers"][0];
        container["image"] = image.into();
        for mount in container["volumeMounts"].as_array_mut().unwrap() {
            if let Some((_, to)) = places.iter().find(|(from, _)| mount["mountPath"] == *from) {
                mount["mountPath"] = to.clone().into();
            }
        }
        for arg in container["args"].as_array_mut().unwrap() {
            let mut text = arg.as_str().unwrap().replace(":9640", &format!(":{}", self.port));
            for (from, to) in &places {
                text = text.replace(&format!("={from}"), &format!("={to}"));
            }
            *arg = text.into();
        }
        // On the loopback, where tests listen, TLS has to be asked for; the disk may be fuller than a node would like.
        for more in [
            "--tls-cert=/etc/lamina/tls.crt",
            "--tls-key=/etc/lamina/tls.key",
            "--gc-high=100",
            "--gc-low=99",
            "--eviction-hard=none",
        ] {
            container["args"].as_array_mut().unwrap().push(more.into());
        }
        container["ports"][0]["containerPort"] = self.port.into();
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            container[probe]["httpGet"]["host"] = "127.0.0.1".into();
        }
        for variable in container["env"].as_array_mut().unwrap() {
            if variable["name"] == "HOST_IP" {
                *variable = json!({ "name": "HOST_IP", "value": "127.0.0.1" });
            }
        }
        // What a kubelet adds.
        let (host, port) = cluster
            .url()
            .trim_start_matches("https://")
            .split_once(':')
            .map(|(h, p)| (h.to_owned(), p.to_owned()))
            .unwrap();
        let variables = container["env"].as_array_mut().unwrap();
        variables.push(json!({ "name": "KUBERNETES_SERVICE_HOST", "value": host }));
        variables.push(json!({ "name": "KUBERNETES_SERVICE_PORT", "value": port }));
        container["volumeMounts"].as_array_mut().unwrap().push(
            json!({ "name": "account", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true }),
        );
        let account = json!({ "name": "account", "hostPath": { "path": self.path("account"), "type": "Directory" } });
        spec["volumes"].as_array_mut().unwrap().push(account);
        spec.as_object_mut().unwrap().remove("serviceAccountName");
        let metadata = json!({ "name": "lamina-agent", "namespace": "lamina-system" });
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec }).to_string()
    }
}

/// A workload that counts in its log, five times a second, and is ready while it does.
fn counter(image: &str) -> String {
    let script = "n=0; touch /tmp/up; while :; do echo $n; n=$((n + 1)); sleep 0.2; done";
    let probe = json!({ "exec": { "command": ["test", "-e", "/tmp/up"] }, "periodSeconds": 1, "failureThreshold": 1 });
    json!({
        "apiVersion": "lamina.dev/v1alpha1", "kind": "NodeWorkload",
        "metadata": { "name": "counter", "namespace": "arena" },
        "spec": { "template": { "spec": { "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "app", "image": image, "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", script], "readinessProbe": probe,
        }] } } },
    })
    .to_string()
}

#[test]
fn the_daemonsets_container_runs_pods_that_do_not_notice_when_a_new_version_takes_its_place() {
    let cluster = Cluster::start().with_nodes(&["outer"]);
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: arena }\n");
    let outer = Node::start_with(&["--node-name", "outer"]);
    let inner = Inner { dir: outer.path("inner"), port: registry::free_port() };
    for sub in ["root", "run", "logs", "config/images", "account"] {
        fs::create_dir_all(inner.path(sub)).unwrap();
    }
    let made = rcgen::generate_simple_self_signed(vec!["outer".to_owned()]).unwrap();
    fs::write(inner.path("config/tls.crt"), made.cert.pem()).unwrap();
    fs::write(inner.path("config/tls.key"), made.signing_key.serialize_pem()).unwrap();
    let config = cluster.account("lamina-system", "lamina-agent", Some("outer"));
    let config: Value = serde_json::from_str(&fs::read_to_string(config).unwrap()).unwrap();
    fs::write(inner.path("account/token"), config["users"][0]["user"]["token"].as_str().unwrap()).unwrap();
    let authority = config["clusters"][0]["cluster"]["certificate-authority"].as_str().unwrap();
    fs::copy(authority, inner.path("account/ca.crt")).unwrap();
    fs::write(inner.path("account/namespace"), "lamina-system").unwrap();

    // The agent sees nothing of the host but what the DaemonSet mounts; images of the node's own are part of that.
    Layout::create(&inner.dir.join("config/images/apps")).add("busybox", &[Layer::busybox()], Config::default());

    // This version, and another: the same program with other bytes at its end.
    let other = outer.path("lamina-other");
    let mut bytes = fs::read(binary()).unwrap();
    bytes.extend_from_slice(b"another build");
    fs::write(&other, bytes).unwrap();
    let images = [("this", binary()), ("other", other)].map(|(name, binary)| {
        let layout = image(&outer.path(name), &binary);
        format!("oci:{}:agent", layout.display())
    });

    outer.manifest("agent.json", &inner.agent(&cluster, &images[0]));
    let ready = |what: &str, restarts: i64| {
        wait(what, || {
            let pod = outer.pod("lamina-system/lamina-agent")?;
            let container = &pod["status"]["containerStatuses"][0];
            (container["ready"] == true && container["restartCount"].as_i64() >= Some(restarts)).then_some(())
        });
    };
    ready("the agent's container is ready by its own probes", 0);

    // As the controller does.
    let assign = |names: &[&str]| {
        let one = |name: &&str| {
            let workload = cluster.get(&["nwl", "-n", "arena", name]);
            let template = lamina::api::cluster::Template(workload["spec"]["template"].clone());
            let revision = lamina::api::cluster::revision(name, &template, 0);
            json!({ "namespace": "arena", "name": name, "revision": revision.name })
        };
        let spec = json!({ "assignments": names.iter().map(one).collect::<Vec<_>>() });
        let metadata = json!({ "name": "outer" });
        let kind =
            json!({ "apiVersion": "lamina.dev/v1alpha1", "kind": "NodeReport", "metadata": metadata, "spec": spec });
        cluster.apply(&kind.to_string());
    };
    cluster.apply(&counter("localhost/apps:busybox"));
    wait("the agent reports", || cluster.find(&["nrep", "outer"]));
    assign(&["counter"]);
    let before = wait("what the cluster assigns runs", || inner.ready("counter"));
    let uid = before["metadata"]["uid"].as_str().unwrap().to_owned();
    let pids = leftovers::pids(&uid, "app");
    wait("it has counted", || (inner.logs().len() > 5).then_some(()));

    // The container is replaced by one of the other image, as a rollout of the DaemonSet does.
    outer.manifest("agent.json", &inner.agent(&cluster, &images[1]));
    let begun = Instant::now();
    wait("the new version answers", || {
        let pod = outer.pod("lamina-system/lamina-agent")?;
        let running = &pod["status"]["containerStatuses"][0];
        // The image is that of what runs, not only of what is wanted.
        (running["image"] == images[1] && running["ready"] == true && inner.ready("counter").is_some()).then_some(())
    });
    println!("adopted {} ms after the change", begun.elapsed().as_millis());
    assert_eq!(leftovers::pids(&uid, "app")[0], pids[0], "the pod's process went on");
    let after = inner.ready("counter").unwrap();
    assert_eq!(after["metadata"]["uid"], uid.as_str());
    assert_eq!(after["status"]["containerStatuses"][0]["restartCount"], 0);
    // Since when it is ready the new one knows no better than by its container's start, and that is long ago.
    let since = |pod: &Value| {
        let all = pod["status"]["conditions"].as_array().unwrap();
        all.iter().find(|c| c["type"] == "Ready").unwrap()["lastTransitionTime"].as_str().unwrap().to_owned()
    };
    assert!(since(&after) <= since(&before), "it was ready all the time");
    let counted = inner.logs().len();
    wait("the log goes on", || (inner.logs().len() > counted + 5).then_some(()));
    let logs = inner.logs();
    let whole: Vec<u64> = (0..u64::try_from(logs.len()).unwrap()).collect();
    assert_eq!(logs, whole, "no line is missing and none is there twice");

    // The agent's container is killed, and what runs does not notice either.
    let pod = outer.pod("lamina-system/lamina-agent").unwrap();
    let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap();
    let agent = leftovers::pids(pod["metadata"]["uid"].as_str().unwrap(), "agent")[0];
    assert!(Command::new("kill").args(["-9", &agent.to_string()]).status().unwrap().success());
    ready("the container is started again", restarts + 1);
    wait("the pod is adopted", || inner.ready("counter"));
    assert_eq!(leftovers::pids(&uid, "app")[0], pids[0]);

    let cleared = json!({ "spec": { "assignments": null } }).to_string();
    cluster.ok(&["patch", "nrep", "outer", "--type=merge", "-p", &cleared]);
    wait("nothing is assigned and nothing runs", || inner.gone("counter").then_some(()));
    let instance = inner.instance().unwrap();
    outer.remove_manifest("agent.json");
    outer.gone("lamina-system/lamina-agent");
    inner.end(&instance);
    outer.finish();
}
