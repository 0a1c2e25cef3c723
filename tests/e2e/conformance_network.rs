//! What the conformance list asks of a pod's network beside what `network` and `services` show: its hosts file, the
//! variables by which it finds services, and ports of the host.

use std::net::UdpSocket;

use serde_json::{Value, json};

use crate::inits::{declare, sh, with};
use crate::network::{get, inside, ping, server, udp};
use crate::support::node::Node;
use crate::support::{registry, wait};

#[test]
fn the_hosts_file_is_managed_unless_a_container_brings_its_own_or_the_network_is_the_hosts() {
    /// How one begins that is made for a pod of its own.
    const MANAGED: &str = "# Kubernetes-managed hosts file.";
    let node = Node::start();
    let (_, image) = node.busybox();
    std::fs::write(node.path("hosts"), "192.0.2.1 of-the-host\n").unwrap();
    let idle = |name: &str| sh(&image, name, "exec sleep 1000");
    let own = with(idle("own"), json!({ "volumeMounts": [{ "name": "hosts", "mountPath": "/etc/hosts" }] }));
    for (pod, host) in [("apart", false), ("host", true)] {
        declare(
            &node,
            pod,
            json!({ "hostNetwork": host, "terminationGracePeriodSeconds": 0, "containers": [idle("one"), idle("two"), own],
                    "volumes": [{ "name": "hosts", "hostPath": { "path": node.path("hosts"), "type": "File" } }] }),
        );
    }
    let hosts = |pod: &str, container: &str| node.ok(&["exec", pod, "-c", container, "--", "cat", "/etc/hosts"]);
    for pod in ["apart", "host"] {
        node.running(pod);
        assert_eq!(hosts(pod, "one"), hosts(pod, "two"));
        assert_eq!(hosts(pod, "own"), "192.0.2.1 of-the-host\n");
    }
    assert!(hosts("apart", "one").starts_with(MANAGED));
    let of_host = hosts("host", "one");
    assert!(!of_host.contains(MANAGED), "{of_host}");
    for line in std::fs::read_to_string("/etc/hosts").unwrap().lines() {
        assert!(of_host.lines().any(|l| l == line), "{line:?} is not in {of_host}");
    }
    // What a container writes there is for all of its pod, and for nobody else.
    node.ok(&["exec", "apart", "-c", "one", "--", "sh", "-c", "echo 192.0.2.2 written >>/etc/hosts"]);
    assert!(hosts("apart", "two").ends_with("192.0.2.2 written\n"));
    assert_eq!(hosts("host", "one"), of_host);
    node.finish();
}

#[test]
fn every_address_of_the_host_is_a_variable() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let env = json!({ "env": [field("ONE", "status.hostIP"), field("ALL", "status.hostIPs")] });
    let app = with(sh(&image, "app", "echo $ONE $ALL; exec sleep 1000"), env);
    declare(&node, "web", json!({ "terminationGracePeriodSeconds": 0, "containers": [app] }));
    let pod = node.running("web");
    let all: Vec<&str> =
        pod["status"]["hostIPs"].as_array().unwrap().iter().map(|ip| ip["ip"].as_str().unwrap()).collect();
    assert!(!all.is_empty(), "{pod}");
    assert_eq!(all[0], pod["status"]["hostIP"].as_str().unwrap());
    let expected = format!("{} {}\n", all[0], all.join(","));
    wait("the container says so", || (node.ok(&["logs", "web"]) == expected).then_some(()));
    node.finish();
}

#[test]
fn containers_find_services_by_variables_unless_they_want_none() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let service = |name: &str, namespace: &str, spec: Value| {
        let metadata = json!({ "name": name, "namespace": namespace });
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec }).to_string()
    };
    let ports = json!([{ "port": 8765, "targetPort": 80 }]);
    let spec = json!({ "selector": { "app": "server" }, "ports": ports });
    let headless = json!({ "selector": { "app": "server" }, "clusterIP": "None", "ports": ports });
    node.manifest("server.yaml", &server("server", &image, "", ""));
    node.running("server");
    let pod = |name: &str, links: Option<bool>| {
        let env = json!({ "env": [{ "name": "URL", "value": "http://$(FOO_SERVICE_SERVICE_HOST):$(FOO_SERVICE_SERVICE_PORT)/" }] });
        let app = with(sh(&image, "app", "exec sleep 1000"), env);
        let mut spec = json!({ "terminationGracePeriodSeconds": 0, "containers": [app] });
        if let Some(links) = links {
            spec["enableServiceLinks"] = json!(links);
        }
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec }).to_string()
    };
    // In one file and at once: what is there before the pod is what its variables are of.
    let all = [
        pod("client", None),
        pod("without", Some(false)),
        service("foo-service", "default", spec.clone()),
        service("headless", "default", headless),
        service("elsewhere", "other", spec),
    ];
    node.manifest("all.yaml", &all.join("\n---\n"));
    node.running("client");
    node.running("without");
    let env = inside(&node, "client", "env");
    let get = |name: &str| env.lines().find_map(|l| l.strip_prefix(&format!("{name}="))).unwrap_or("").to_owned();
    let host = get("FOO_SERVICE_SERVICE_HOST");
    host.parse::<std::net::Ipv4Addr>().unwrap_or_else(|e| panic!("{e}: {env}"));
    for (name, value) in [
        ("FOO_SERVICE_SERVICE_PORT", "8765".to_owned()),
        ("FOO_SERVICE_PORT", format!("tcp://{host}:8765")),
        ("FOO_SERVICE_PORT_8765_TCP", format!("tcp://{host}:8765")),
        ("FOO_SERVICE_PORT_8765_TCP_PROTO", "tcp".to_owned()),
        ("FOO_SERVICE_PORT_8765_TCP_PORT", "8765".to_owned()),
        ("FOO_SERVICE_PORT_8765_TCP_ADDR", host.clone()),
        ("URL", format!("http://{host}:8765/")),
    ] {
        assert_eq!(get(name), value, "{name}: {env}");
    }
    assert!(!env.contains("HEADLESS_") && !env.contains("ELSEWHERE_"), "{env}");
    assert_eq!(crate::network::fetch(&node, "client", &host, 8765), "server");
    let env = inside(&node, "without", "env");
    assert!(!env.contains("FOO_SERVICE_PORT") && env.contains("URL=http://$(FOO_SERVICE_SERVICE_HOST):"), "{env}");
    node.finish();
}

#[test]
fn one_port_of_the_host_is_for_several_pods_by_address_and_protocol() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let port = registry::free_port();
    let pod = |name: &str, at: &str, protocol: &str| {
        let ports =
            format!("    ports: [{{ containerPort: 80, hostPort: {port}, hostIP: {at}, protocol: {protocol} }}]\n");
        node.manifest(&format!("{name}.yaml"), &server(name, &image, "", &ports));
        node.running(name)
    };
    let first = pod("loopback", "127.0.0.1", "TCP");
    let host = first["status"]["hostIP"].as_str().unwrap().to_owned();
    pod("outside", &host, "TCP");
    pod("datagrams", &host, "UDP");
    for (address, name) in [("127.0.0.1", "loopback"), (host.as_str(), "outside")] {
        assert_eq!(wait("the host port answers", || get(address, port)), name);
    }
    ping(&UdpSocket::bind((host.as_str(), 0)).unwrap(), (&host, port), &udp(&node, "datagrams", 80));
    node.finish();
}
