//! What a person is shown of services, the network and a pod, and how they leave a terminal.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use crate::support::node::{LAMINA, Node};
use crate::support::wait;

const WEB: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: web, labels: { app: web } }
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{ name: data, emptyDir: {} }]
  containers:
  - name: app
    image: "IMAGE"
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "echo page > /data/index.html; exec httpd -f -p 8080 -h /data"]
    ports: [{ name: http, containerPort: 8080 }]
    env: [{ name: COLOUR, value: green }]
    resources: { limits: { memory: 64Mi } }
    readinessProbe: { httpGet: { path: /, port: http }, periodSeconds: 1 }
    volumeMounts: [{ name: data, mountPath: /data }]
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { type: NodePort, selector: { app: web }, ports: [{ port: 80, targetPort: http }] }
---
apiVersion: v1
kind: Service
metadata: { name: nobody }
spec: { clusterIP: None, selector: { app: nobody }, ports: [{ port: 80 }] }
"#;

#[test]
fn services_and_the_network_are_shown() {
    let node = Node::start();
    let (_, image) = node.busybox();
    node.manifest("web.yaml", &WEB.replace("IMAGE", &image));
    node.running("web");
    let web = wait("the service has its pod", || {
        let web = node.json(&["get", "services", "web"]);
        (!web["lamina"]["endpoints"].as_array()?.is_empty()).then_some(web)
    });
    let pod = node.pod("web").unwrap();
    let endpoint = format!("{}:8080", pod["status"]["podIP"].as_str().unwrap());
    assert_eq!(web["lamina"]["endpoints"][0], endpoint.as_str());
    let address = web["spec"]["clusterIP"].as_str().unwrap();
    let table = node.ok(&["get", "svc", "-o", "wide"]);
    let line = table.lines().find(|l| l.starts_with("web ")).unwrap();
    let port = web["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    for part in ["NodePort", address, &format!("80:{port}/TCP"), &endpoint, "app=web"] {
        assert!(line.contains(part), "{part}: {table}");
    }
    assert!(table.lines().any(|l| l.starts_with("nobody ") && l.contains("None")), "{table}");
    assert_eq!(node.ok(&["get", "services", "-o", "name"]), "service/nobody\nservice/web\n");
    let info = node.ok(&["info"]);
    for part in ["network", "bridge", "addresses of services", "cluster.local", "forwarding, IPv4"] {
        assert!(info.contains(part), "{part}: {info}");
    }
    let described = node.ok(&["describe", "pod/web"]);
    for part in [
        "8080/TCP (http)",
        "memory=64Mi",
        "http-get http://:http/ delay=0s timeout=1s period=1s",
        "COLOUR=green",
        "/data from data",
        "emptyDir",
    ] {
        assert!(described.contains(part), "{part}: {described}");
    }
    assert!(node.ok(&["describe", "service/web"]).contains(&endpoint));
    node.finish();
}

#[test]
fn detach_keys_leave_a_terminal_and_what_runs_there_goes_on() {
    let node = Node::start();
    let (_, image) = node.busybox();
    node.manifest("web.yaml", &WEB.replace("IMAGE", &image));
    node.running("web");
    let leave = |more: &str, keys: &[u8], name: &str| {
        // A terminal of its own; it is done when the command is.
        let line = format!("{LAMINA} exec -it {more} web -- sh -c 'echo begun; touch /data/{name}; exec sleep 1000'");
        let mut script = Command::new("script")
            .args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"])
            .env("LAMINA_RUN", node.path("run"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = script.stdin.take().unwrap();
        wait("the command runs", || {
            (node.lamina(&["exec", "web", "--", "test", "-e", &format!("/data/{name}")]).status == 0).then_some(())
        });
        stdin.write_all(keys).unwrap();
        stdin.flush().unwrap();
        let status = wait("the terminal is left", || script.try_wait().unwrap());
        let mut said = String::new();
        script.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(status.success() && said.contains("begun") && said.contains("goes on"), "{status}: {said}");
    };
    leave("", &[16, 17], "usual");
    leave("--detach-keys=ctrl-a,d", &[1, b'd'], "other");
    let left = node.ok(&["exec", "web", "--", "ps"]);
    assert_eq!(left.matches("sleep 1000").count(), 2, "{left}");
    let refused = node.lamina(&["exec", "--detach-keys", "nothing", "web", "--", "true"]);
    assert_eq!(refused.status, 2, "{}", refused.err);
    node.finish();
}
