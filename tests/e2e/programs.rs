//! Real programs as pods: PostgreSQL, Redis, nginx, Prometheus and a shop that needs a database, from Debian packages.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::support::node::Node;
use crate::support::wait;

/// The image `name` of the layout of real programs, which is made once and kept in the cache.
pub(crate) fn image(name: &str) -> String {
    static LAYOUT: OnceLock<String> = OnceLock::new();
    let layout = LAYOUT.get_or_init(|| {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/setup/Cargo.toml");
        let out = Command::new(env!("CARGO"))
            .args(["run", "--quiet", "--manifest-path", manifest, "--", "apps"])
            .env_remove("CARGO_TARGET_DIR")
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    });
    format!("oci:{layout}:{name}")
}

/// What a server of a pod answers, from the host; `None` if it does not answer with 200.
pub(crate) fn get(address: &str, port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect((address, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.split(' ').nth(1).filter(|status| *status == "200").map(|_| body.trim().to_owned())
}

fn address(node: &Node, pod: &str) -> Option<String> {
    node.pod(pod)?["status"]["podIP"].as_str().map(str::to_owned)
}

fn ready(node: &Node, pod: &str) {
    node.until(pod, "ready", |p| {
        let conditions = p["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    });
}

/// Where the data of a database is, and the Service by which it is found.
pub(crate) const DATABASE_PLACE: &str = "apiVersion: v1
kind: PersistentVolumeClaim
metadata: { name: data }
spec:
  accessModes: [ReadWriteOnce]
  resources: { requests: { storage: 1Gi } }
---
apiVersion: v1
kind: Service
metadata: { name: db }
spec:
  selector: { app: db }
  ports: [{ port: 5432 }]
";

/// A database whose data is on a claim, and the Service by which it is found.
fn database(hostname: &str) -> String {
    format!(
        r"{DATABASE_PLACE}---
apiVersion: v1
kind: Pod
metadata: {{ name: db, labels: {{ app: db }} }}
spec:
  hostname: {hostname}
  terminationGracePeriodSeconds: 20
  securityContext: {{ runAsUser: 999, runAsGroup: 999, fsGroup: 999, fsGroupChangePolicy: OnRootMismatch }}
  volumes: [{{ name: data, persistentVolumeClaim: {{ claimName: data }} }}]
  containers:
  - name: postgres
    image: '{}'
    imagePullPolicy: IfNotPresent
    ports: [{{ name: sql, containerPort: 5432 }}]
    readinessProbe:
      periodSeconds: 1
      exec: {{ command: [pg_isready, -h, 127.0.0.1, -U, shop] }}
    volumeMounts: [{{ name: data, mountPath: /var/lib/postgresql }}]
    lifecycle: {{ stopSignal: SIGINT }}
",
        image("postgres")
    )
}

fn shop() -> String {
    format!(
        r"apiVersion: apps/v1
kind: Deployment
metadata: {{ name: shop }}
spec:
  selector: {{ matchLabels: {{ app: shop }} }}
  template:
    metadata: {{ labels: {{ app: shop }} }}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: shop
        image: '{}'
        imagePullPolicy: IfNotPresent
        env: [{{ name: DATABASE_HOST, value: db }}]
        readinessProbe: {{ periodSeconds: 1, timeoutSeconds: 5, httpGet: {{ path: /healthz, port: 8080 }} }}
---
apiVersion: v1
kind: Service
metadata: {{ name: shop }}
spec:
  selector: {{ app: shop }}
  ports: [{{ port: 80, targetPort: 8080 }}]
",
        image("shop")
    )
}

/// The name of the one pod that the shop's Deployment has.
fn shop_pod(node: &Node) -> Option<String> {
    let pods = node.json(&["get", "pods"]);
    let names = pods["items"].as_array()?.iter().filter_map(|p| p["metadata"]["name"].as_str());
    names.filter(|n| n.starts_with("shop")).map(str::to_owned).next()
}

#[test]
fn a_shop_finds_its_database_by_the_name_of_its_service_and_the_data_outlasts_the_pod() {
    let mut node = Node::start();
    node.manifest("database.yaml", &database("first"));
    node.manifest("shop.yaml", &shop());
    let pod = wait("the shop's pod", || shop_pod(&node));
    ready(&node, "db");
    ready(&node, &pod);
    let shop = wait("the shop's address", || address(&node, &pod));
    assert_eq!(get(&shop, 8080, "/").as_deref(), Some("visits 1"));
    assert_eq!(get(&shop, 8080, "/connected").as_deref(), Some("1"));
    // The agent's death disturbs no connection.
    node.kill_agent();
    assert_eq!(get(&shop, 8080, "/").as_deref(), Some("visits 2"));
    node.start_agent();
    assert_eq!(get(&shop, 8080, "/").as_deref(), Some("visits 3"));
    assert_eq!(get(&shop, 8080, "/connected").as_deref(), Some("1"));
    // Another pod, another address, the same data behind the same name.
    let before = node.pod("db").unwrap()["metadata"]["uid"].clone();
    node.manifest("database.yaml", &database("second"));
    node.until("db", "replaced", |p| p["metadata"]["uid"] != before);
    ready(&node, "db");
    let visits = wait("the shop counts on", || get(&shop, 8080, "/").filter(|body| body.starts_with("visits ")));
    assert_eq!(visits, "visits 4");
    for file in ["shop.yaml", "database.yaml"] {
        node.remove_manifest(file);
    }
    node.gone("db");
    node.gone(&pod);
    // And the data with the claim.
    wait("the claim is gone", || (node.lamina(&["get", "pvc", "data"]).status == 4).then_some(()));
    node.finish();
}

/// The configuration of an nginx that says this and no more, as a ConfigMap.
pub(crate) fn site(answer: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: ConfigMap
metadata: {{ name: site }}
data:
  nginx.conf: |
    pid /tmp/nginx.pid;
    error_log stderr;
    events {{ }}
    http {{
      access_log off;
      client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
      server {{ listen 8080; location / {{ return 200 "{answer}\n"; }} }}
    }}
"#
    )
}

fn nginx(greeting: &str) -> String {
    format!(
        r"{}---
apiVersion: v1
kind: Pod
metadata: {{ name: web }}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{{ name: site, configMap: {{ name: site }} }}]
  containers:
  - name: nginx
    image: '{}'
    imagePullPolicy: IfNotPresent
    volumeMounts: [{{ name: site, mountPath: /etc/nginx }}]
    readinessProbe: {{ periodSeconds: 1, httpGet: {{ port: 8080 }} }}
",
        site(greeting),
        image("nginx")
    )
}

#[test]
fn nginx_takes_on_a_changed_config_map_without_a_restart() {
    let node = Node::start();
    node.manifest("web.yaml", &nginx("hello"));
    ready(&node, "web");
    let web = wait("an address", || address(&node, "web"));
    assert_eq!(get(&web, 8080, "/").as_deref(), Some("hello"));
    let pid = node.pid("web", "nginx");
    node.manifest("web.yaml", &nginx("good day"));
    wait("the mounted file has changed", || {
        node.lamina(&["exec", "web", "--", "cat", "/etc/nginx/nginx.conf"]).out.contains("good day").then_some(())
    });
    node.ok(&["exec", "web", "--", "nginx", "-s", "reload"]);
    wait("the new answer", || get(&web, 8080, "/").filter(|body| body == "good day"));
    assert_eq!(node.pid("web", "nginx"), pid);
    node.remove_manifest("web.yaml");
    node.gone("web");
    node.finish();
}

#[test]
fn redis_that_hangs_is_restarted_by_its_probe() {
    let node = Node::start();
    node.manifest(
        "cache.yaml",
        &format!(
            r"apiVersion: v1
kind: Pod
metadata: {{ name: cache }}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: redis
    image: '{}'
    imagePullPolicy: IfNotPresent
    args: [--save, '', --enable-debug-command, 'yes']
    startupProbe: {{ periodSeconds: 1, tcpSocket: {{ port: 6379 }} }}
    readinessProbe: {{ periodSeconds: 1, exec: {{ command: [redis-cli, ping] }} }}
    livenessProbe: {{ periodSeconds: 1, failureThreshold: 2, exec: {{ command: [redis-cli, ping] }} }}
",
            image("redis")
        ),
    );
    ready(&node, "cache");
    assert_eq!(node.ok(&["exec", "cache", "--", "redis-cli", "set", "key", "value"]), "OK\n");
    // It answers nobody from now on, and would not for a minute.
    let mut hang = node.command(&["exec", "cache", "--", "redis-cli", "debug", "sleep", "60"]).spawn().unwrap();
    node.until("cache", "restarted", |p| p["status"]["containerStatuses"][0]["restartCount"] == 1);
    hang.wait().unwrap();
    ready(&node, "cache");
    assert_eq!(node.ok(&["exec", "cache", "--", "redis-cli", "get", "key"]).trim(), "");
    let events = node.ok(&["get", "events"]);
    assert!(events.contains("Unhealthy"), "{events}");
    node.remove_manifest("cache.yaml");
    node.gone("cache");
    node.finish();
}

#[test]
fn prometheus_in_a_pod_scrapes_the_agent() {
    let node = Node::start_with(&["--metrics-insecure", "true"]);
    // One line: the address is filled in by the variable's own expansion.
    let config = format!(
        r#"{{ global: {{ scrape_interval: 1s }}, scrape_configs: [{{ job_name: lamina, static_configs: [{{ targets: ["$(HOST_IP):{}"] }}] }}] }}"#,
        node.metrics_port()
    );
    node.manifest(
        "watch.yaml",
        &format!(
            r#"apiVersion: v1
kind: Pod
metadata: {{ name: watch }}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: prometheus
    image: '{}'
    imagePullPolicy: IfNotPresent
    env:
    - {{ name: HOST_IP, valueFrom: {{ fieldRef: {{ fieldPath: status.hostIP }} }} }}
    - {{ name: CONFIG, value: '{config}' }}
    command: [sh, -c]
    args: ['echo "$CONFIG" >/tmp/config.yml; cd /tmp; exec prometheus --config.file=/tmp/config.yml --storage.tsdb.path=/tmp/data']
    readinessProbe: {{ periodSeconds: 1, httpGet: {{ path: /-/ready, port: 9090 }} }}
"#,
            image("prometheus")
        ),
    );
    ready(&node, "watch");
    let watch = wait("an address", || address(&node, "watch"));
    wait("a scrape has been stored", || {
        let found = get(&watch, 9090, "/api/v1/query?query=lamina_build_info")?;
        found.contains("lamina_build_info").then_some(())
    });
    node.remove_manifest("watch.yaml");
    node.gone("watch");
    node.finish();
}
