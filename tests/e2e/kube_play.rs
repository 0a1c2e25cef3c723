//! The same manifests under `podman kube play`, where it can, come to the same.
//!
//! Podman has a store, a mount namespace and a network namespace of its own here; it is asked inside of that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::programs::{DATABASE_PLACE, get, image, site};
use crate::support::node::{Node, Said};
use crate::support::{leftovers, registry, wait};

/// By what name both know an image.
const PROGRAMS: &str = "localhost/programs";

/// Also what podman keeps of all its networks, whatever its options say.
const NAMESPACES: &str =
    "ip link set lo up && mkdir -p /run/containers && mount -t tmpfs tmpfs /run/containers && exec sleep infinity";

/// One at a time: the group of all its pods is one of the machine's, and goes with the last of them.
static TURN: Mutex<()> = Mutex::new(());

/// Podman with a store and namespaces of its own. What it runs ends with it.
struct Podman {
    dir: tempfile::TempDir,
    /// Keeps the namespaces.
    keeper: Child,
    _turn: MutexGuard<'static, ()>,
}

impl Podman {
    fn start(images: &[&str]) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::Builder::new().prefix("lamina-podman-").tempdir().unwrap();
        let at = dir.path().to_owned();
        let path = |name: &str| at.join(name).display().to_string();
        // The limits are those of the machine's containers, not more than this process may give.
        let config = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\nlog_driver = \"k8s-file\"\n\
                      [network]\nnetwork_backend = \"netavark\"\n[engine]\ncgroup_manager = \"cgroupfs\"\nruntime = \"runc\"\nevents_logger = \"none\"\n";
        fs::write(path("containers.conf"), config).unwrap();
        let storage = format!(
            "[storage]\ndriver = \"overlay\"\nrunroot = \"{}\"\ngraphroot = \"{}\"\n",
            path("run"),
            path("root")
        );
        fs::write(path("storage.conf"), storage).unwrap();
        fs::create_dir(path("net")).unwrap();
        let mut keeper = Command::new("unshare");
        keeper.args(["--mount", "--net", "sh", "-c", NAMESPACES]);
        let podman = Self { keeper: keeper.stdin(Stdio::null()).spawn().unwrap(), dir, _turn: turn };
        wait("namespaces of its own", || (podman.inside(&["true"]).status == 0 && podman.is_apart()).then_some(()));
        let store = format!("containers-storage:[overlay@{}+{}]", path("root"), path("run"));
        for name in images {
            let to = format!("{store}{PROGRAMS}:{name}");
            let said = podman.inside(&["skopeo", "--insecure-policy", "copy", "--quiet", &image(name), &to]);
            assert_eq!(said.status, 0, "{}", said.err);
        }
        podman
    }

    fn is_apart(&self) -> bool {
        let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).ok();
        let ours = self.keeper.id().to_string();
        // Its loopback is up once what follows has begun.
        namespace(&ours) != namespace("self")
            && fs::read_to_string(format!("/proc/{ours}/cmdline")).is_ok_and(|c| c.starts_with("sleep"))
    }

    fn inside(&self, command: &[&str]) -> Said {
        let mut enter = Command::new("nsenter");
        enter.args(["--target", &self.keeper.id().to_string(), "--mount", "--net"]);
        enter.args(command).stdin(Stdio::null());
        enter.env("CONTAINERS_CONF", self.dir.path().join("containers.conf"));
        enter.env("CONTAINERS_STORAGE_CONF", self.dir.path().join("storage.conf"));
        // Into files: what goes on running in the background may hold a pipe open for ever.
        let [out, err] = ["out", "err"].map(|name| self.dir.path().join(name));
        let file = |path: &Path| fs::File::create(path).unwrap();
        let status = enter.stdout(file(&out)).stderr(file(&err)).status().unwrap();
        let [stdout, stderr] = [out, err].map(|path| fs::read(path).unwrap());
        Output { status, stdout, stderr }.into()
    }

    fn podman(&self, args: &[&str]) -> Said {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let (root, run, tmp, net) = (path("root"), path("run"), path("tmp"), path("net"));
        let own = ["podman", "--root", &root, "--runroot", &run, "--tmpdir", &tmp, "--network-config-dir", &net];
        self.inside(&[&own[..], args].concat())
    }

    fn play(&self, manifest: &str) -> PathBuf {
        let file = self.dir.path().join("manifest.yaml");
        fs::write(&file, manifest).unwrap();
        let said = self.podman(&["kube", "play", file.to_str().unwrap()]);
        assert_eq!(said.status, 0, "{}{}", said.out, said.err);
        file
    }

    fn down(&self, file: &Path) {
        let said = self.podman(&["kube", "play", "--down", file.to_str().unwrap()]);
        assert_eq!(said.status, 0, "{}", said.err);
    }

    fn inspect(&self, container: &str, what: &str) -> String {
        self.podman(&["inspect", "--format", what, container]).out.trim().to_owned()
    }

    /// What a server answers on its port of the host.
    fn get(&self, port: u16, path: &str) -> Option<String> {
        let said =
            self.inside(&["curl", "--silent", "--fail", "--max-time", "5", &format!("http://127.0.0.1:{port}{path}")]);
        (said.status == 0).then(|| said.out.trim().to_owned())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.podman(&["pod", "rm", "--all", "--force", "--time", "0"]);
        // The resolver of its network ends by itself with the last container; mounts end with the namespace.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        // Groups that it makes for all its pods, and keeps.
        for group in leftovers::cgroups("libpod_parent") {
            leftovers::remove(Path::new(&group));
        }
    }
}

fn kill(pid: &str) {
    assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
}

fn node(images: &[&str]) -> Node {
    let node = Node::start();
    for name in images {
        node.ok(&["pull", &image(name)]);
        node.ok(&["tag", &image(name), &format!("{PROGRAMS}:{name}")]);
    }
    node
}

/// What a pod's server answers.
fn answer(node: &Node, pod: &str, path: &str) -> Option<String> {
    get(node.pod(pod)?["status"]["podIP"].as_str()?, 8080, path)
}

/// Without variables in the values of others: podman leaves `$(NAME)` as it is, Kubernetes does not.
const ONCE: &str = r#"apiVersion: v1
kind: ConfigMap
metadata: { name: words }
data: { greeting: "moin moin", number: "0755" }
---
apiVersion: v1
kind: Pod
metadata: { name: once, labels: { app: once } }
spec:
  restartPolicy: Never
  hostname: ship
  volumes:
  - { name: scratch, emptyDir: {} }
  - { name: words, configMap: { name: words } }
  initContainers:
  - name: first
    image: localhost/programs:nginx
    command: [sh, -c, "echo written by the first >/scratch/note"]
    volumeMounts: [{ name: scratch, mountPath: /scratch }]
  containers:
  - name: app
    image: localhost/programs:nginx
    workingDir: /usr/share
    securityContext: { runAsUser: 1234, runAsGroup: 4321 }
    env:
    - { name: GREETING, valueFrom: { configMapKeyRef: { name: words, key: greeting } } }
    command: [sh, -c]
    args:
    - |
      cat /scratch/note /words/number; echo
      echo "$GREETING"
      id -u; id -g; pwd; echo "$(cat /etc/hostname)"; umask
      touch /usr/share/mine 2>/dev/null || echo not mine
      echo to the error stream >&2
      exit 3
    volumeMounts:
    - { name: scratch, mountPath: /scratch }
    - { name: words, mountPath: /words, readOnly: true }
"#;

#[test]
fn a_pod_that_ends_says_the_same_and_ends_the_same() {
    let (node, podman) = (node(&["nginx"]), Podman::start(&["nginx"]));
    node.manifest("once.yaml", ONCE);
    let pod = node.until("once", "over", |p| p["status"]["phase"] == "Failed");
    let ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].clone();
    let said = node.ok(&["logs", "once", "-c", "app"]);

    let file = podman.play(ONCE);
    let peer = wait("podman's ends", || {
        let state = podman.inspect("once-app", "{{.State.Status}} {{.State.ExitCode}}");
        state.strip_prefix("exited ").map(str::to_owned)
    });
    let logs = podman.podman(&["logs", "once-app"]);
    assert_eq!(ended.to_string(), peer);
    let lines = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        // Two streams have no order between them.
        lines.sort();
        lines
    };
    assert_eq!(lines(&said), lines(&(logs.out + &logs.err)));
    for line in ["written by the first", "0755", "moin moin", "1234", "ship", "not mine"] {
        assert!(said.lines().any(|l| l == line), "{line}: {said}");
    }
    podman.down(&file);
    node.remove_manifest("once.yaml");
    node.gone("once");
    node.finish();
}

/// The shop in two tiers; a pod of podman's network finds another by its name, and here the Service has it.
fn shop() -> String {
    format!(
        r"{DATABASE_PLACE}---
apiVersion: v1
kind: Pod
metadata: {{ name: db, labels: {{ app: db }} }}
spec:
  terminationGracePeriodSeconds: 20
  securityContext: {{ runAsUser: 999, runAsGroup: 999, fsGroup: 999, fsGroupChangePolicy: OnRootMismatch }}
  volumes: [{{ name: data, persistentVolumeClaim: {{ claimName: data }} }}]
  containers:
  - name: postgres
    image: {PROGRAMS}:postgres
    imagePullPolicy: IfNotPresent
    volumeMounts: [{{ name: data, mountPath: /var/lib/postgresql }}]
    lifecycle: {{ stopSignal: SIGINT }}
---
apiVersion: v1
kind: Pod
metadata: {{ name: shop, labels: {{ app: shop }} }}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: shop
    image: {PROGRAMS}:shop
    imagePullPolicy: IfNotPresent
    env: [{{ name: DATABASE_HOST, value: db }}]
    ports: [{{ containerPort: 8080, hostPort: 8080 }}]
    readinessProbe: {{ periodSeconds: 1, timeoutSeconds: 5, httpGet: {{ path: /healthz, port: 8080 }} }}
"
    )
}

#[test]
fn a_shop_in_two_tiers_counts_its_visits_and_goes_on_when_its_database_was_killed() {
    let images = ["postgres", "shop"];
    let (node, podman) = (node(&images), Podman::start(&images));
    // A port of the host is one of this machine here, where others listen, and one of its own namespace there.
    let port = registry::free_port();
    node.manifest("shop.yaml", &shop().replace("hostPort: 8080", &format!("hostPort: {port}")));
    let visits = |ask: &dyn Fn() -> Option<String>| wait("a visit", || ask().filter(|body| body.starts_with("visits")));
    let here = || answer(&node, "shop", "/");
    assert_eq!(visits(&here), "visits 1");
    assert_eq!(visits(&here), "visits 2");
    kill(&node.pid("db", "postgres").to_string());
    assert_eq!(visits(&here), "visits 3");

    let file = podman.play(&shop());
    let there = || podman.get(8080, "/");
    assert_eq!(visits(&there), "visits 1");
    assert_eq!(visits(&there), "visits 2");
    kill(&podman.inspect("db-postgres", "{{.State.Pid}}"));
    assert_eq!(visits(&there), "visits 3");
    podman.down(&file);
    node.remove_manifest("shop.yaml");
    for pod in ["shop", "db"] {
        node.gone(pod);
    }
    node.finish();
}

/// What the server says is in its configuration, which is in a ConfigMap.
fn web() -> String {
    format!(
        r"{}---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: web }}
spec:
  selector: {{ matchLabels: {{ app: web }} }}
  template:
    metadata: {{ labels: {{ app: web }} }}
    spec:
      hostname: front
      terminationGracePeriodSeconds: 0
      volumes: [{{ name: site, configMap: {{ name: site }} }}]
      containers:
      - name: nginx
        image: {PROGRAMS}:nginx
        imagePullPolicy: IfNotPresent
        ports: [{{ containerPort: 8080, hostPort: 8080 }}]
        volumeMounts: [{{ name: site, mountPath: /etc/nginx }}]
",
        site("hello from $hostname")
    )
}

#[test]
fn a_deployment_serves_what_its_config_map_says_and_a_killed_container_comes_back() {
    let (node, podman) = (node(&["nginx"]), Podman::start(&["nginx"]));
    let port = registry::free_port();
    node.manifest("web.yaml", &web().replace("hostPort: 8080", &format!("hostPort: {port}")));
    let here = wait("the Deployment's pod", || {
        let pods = node.json(&["get", "pods"]);
        Some(pods["items"][0]["metadata"]["name"].as_str()?.to_owned())
    });
    assert_eq!(wait("an answer", || answer(&node, &here, "/")), "hello from front");
    kill(&node.pid(&here, "nginx").to_string());
    node.until(&here, "back", |p| p["status"]["containerStatuses"][0]["restartCount"] == 1);
    assert_eq!(wait("an answer again", || answer(&node, &here, "/")), "hello from front");

    let file = podman.play(&web());
    assert_eq!(wait("podman's answer", || podman.get(8080, "/")), "hello from front");
    let names = podman.podman(&["ps", "--format", "{{.Names}}"]).out;
    let there = names.lines().find(|name| name.ends_with("-nginx")).unwrap();
    let pid = podman.inspect(there, "{{.State.Pid}}");
    kill(&pid);
    wait("podman starts another", || {
        let now = podman.inspect(there, "{{.State.Pid}}");
        (now != pid && now != "0").then_some(())
    });
    assert_eq!(wait("podman's answer again", || podman.get(8080, "/")), "hello from front");
    podman.down(&file);
    node.remove_manifest("web.yaml");
    node.gone(&here);
    node.finish();
}

/// A server that looks at itself, and a cache.
fn watched() -> String {
    format!(
        r#"apiVersion: v1
kind: ConfigMap
metadata: {{ name: watch }}
data:
  prometheus.yml: |
    global: {{ scrape_interval: 1s }}
    scrape_configs: [{{ job_name: itself, static_configs: [{{ targets: ["127.0.0.1:9090"] }}] }}]
---
apiVersion: v1
kind: Pod
metadata: {{ name: watch }}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{{ name: config, configMap: {{ name: watch }} }}, {{ name: data, emptyDir: {{}} }}]
  containers:
  - name: prometheus
    image: {PROGRAMS}:prometheus
    imagePullPolicy: IfNotPresent
    command: [prometheus]
    args: ["--config.file=/config/prometheus.yml", "--storage.tsdb.path=/data"]
    ports: [{{ containerPort: 9090, hostPort: 9090 }}]
    volumeMounts: [{{ name: config, mountPath: /config, readOnly: true }}, {{ name: data, mountPath: /data }}]
---
apiVersion: v1
kind: Pod
metadata: {{ name: cache }}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: redis
    image: {PROGRAMS}:redis
    imagePullPolicy: IfNotPresent
    args: [--save, '']
"#
    )
}

#[test]
fn a_server_that_scrapes_itself_and_a_cache_do_the_same() {
    let images = ["prometheus", "redis"];
    let (node, podman) = (node(&images), Podman::start(&images));
    let scraped = |answer: Option<String>| {
        let answer: serde_json::Value = serde_json::from_str(&answer?).ok()?;
        let first = &answer["data"]["result"][0];
        (first["metric"]["job"] == "itself").then(|| first["value"][1].clone())
    };
    // Its first answers come before it can write: each asks until it is done.
    let set = |ask: &dyn Fn(&[&str]) -> Said| {
        wait("a value is set", || (ask(&["set", "a", "1"]).out == "OK\n").then_some(()));
    };
    let gone = |ask: &dyn Fn(&[&str]) -> Said| {
        wait("a new cache", || {
            let said = ask(&["exists", "a"]);
            (said.status == 0).then_some(said.out)
        })
    };
    const UP: &str = "/api/v1/query?query=up";

    let port = registry::free_port();
    node.manifest("watched.yaml", &watched().replace("hostPort: 9090", &format!("hostPort: {port}")));
    let here = |args: &[&str]| node.lamina(&[&["exec", "cache", "--", "redis-cli"], args].concat());
    set(&here);
    kill(&node.pid("cache", "redis").to_string());
    node.until("cache", "back", |p| p["status"]["containerStatuses"][0]["restartCount"] == 1);
    let kept_here = gone(&here);
    let up_here =
        wait("it has seen itself", || scraped(get(node.pod("watch")?["status"]["podIP"].as_str()?, 9090, UP)));

    let file = podman.play(&watched());
    let there = |args: &[&str]| podman.podman(&[&["exec", "cache-redis", "redis-cli"], args].concat());
    set(&there);
    let pid = podman.inspect("cache-redis", "{{.State.Pid}}");
    kill(&pid);
    wait("podman starts another", || {
        let now = podman.inspect("cache-redis", "{{.State.Pid}}");
        (now != pid && now != "0").then_some(())
    });
    assert_eq!(gone(&there), kept_here);
    assert_eq!(kept_here, "0\n");
    let up_there = wait("podman's has seen itself", || scraped(podman.get(9090, UP)));
    assert_eq!((&up_here, up_here.as_str()), (&up_there, Some("1")));
    podman.down(&file);
    node.remove_manifest("watched.yaml");
    for pod in ["watch", "cache"] {
        node.gone(pod);
    }
    node.finish();
}
