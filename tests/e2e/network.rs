//! Pods on the built-in bridge: addresses, names, ports of the host, and several agents on one machine.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use crate::support::node::Node;
use crate::support::{registry, wait};

/// A pod that serves its own name over HTTP on port 80, with more of a spec and more of its container.
pub(crate) fn server(name: &str, image: &str, spec: &str, ports: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, labels: {{ app: {name} }} }}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n{spec}  containers:\n  - name: app\n    image: \"{image}\"\n    \
         imagePullPolicy: IfNotPresent\n    \
         command: [sh, -c, 'mkdir -p /data/www; hostname > /data/www/index.html; exec httpd -f -p 80 -h /data/www']\n    \
         env: [{{ name: IPS, valueFrom: {{ fieldRef: {{ fieldPath: status.podIPs }} }} }}, \
         {{ name: HOST, valueFrom: {{ fieldRef: {{ fieldPath: status.hostIP }} }} }}]\n{ports}"
    )
}

pub(crate) fn ip(pod: &serde_json::Value) -> String {
    pod["status"]["podIP"].as_str().unwrap_or_else(|| panic!("no address: {pod}")).to_owned()
}

fn ips(pod: &serde_json::Value) -> Vec<String> {
    pod["status"]["podIPs"].as_array().unwrap().iter().map(|ip| ip["ip"].as_str().unwrap().to_owned()).collect()
}

/// What a program in a pod says; it must succeed in the end.
pub(crate) fn inside(node: &Node, pod: &str, script: &str) -> String {
    wait(script, || {
        let said = node.lamina(&["exec", pod, "--", "sh", "-c", script]);
        (said.status == 0).then_some(said.out)
    })
}

/// What a server says to a pod.
pub(crate) fn fetch(node: &Node, pod: &str, host: &str, port: u16) -> String {
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 3 {host} {port}");
    wait(&format!("{pod} reaches {host}:{port}"), || {
        let said = node.lamina(&["exec", pod, "--", "sh", "-c", &script]).out;
        Some(said.split_once("\r\n\r\n")?.1.trim().to_owned())
    })
}

/// A GET from this machine.
pub(crate) fn get(address: &str, port: u16) -> Option<String> {
    let mut stream = TcpStream::connect((address, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.trim().to_owned())
}

#[test]
fn pods_have_addresses_by_which_they_reach_each_other_and_the_host() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    for name in ["one", "two"] {
        node.manifest(&format!("{name}.yaml"), &server(name, &image, "", ""));
    }
    let (one, two) = (node.running("one"), node.running("two"));
    assert_ne!(ip(&one), ip(&two));
    assert_eq!(ips(&one).len(), 2, "IPv4 and IPv6: {:?}", ips(&one));
    assert_eq!(inside(&node, "one", "echo $IPS").trim(), ips(&one).join(","));
    assert_eq!(inside(&node, "one", "echo $HOST").trim(), one["status"]["hostIP"].as_str().unwrap());
    for address in ips(&two) {
        assert_eq!(fetch(&node, "one", &address, 80), "two");
        assert_eq!(wait("the host reaches a pod", || get(&address, 80)), "two");
    }
    let hosts = inside(&node, "one", "cat /etc/hosts");
    assert!(hosts.contains(&format!("\n{}\tone\n", ip(&one))), "{hosts}");
    assert_eq!(get(&ip(&one), 80).as_deref(), Some("one"));
    // Another agent finds them as they are, and they it.
    node.kill_agent();
    assert_eq!(get(&ip(&one), 80).as_deref(), Some("one"));
    node.start_agent();
    assert_eq!(ips(&node.running("one")), ips(&one));
    node.manifest("three.yaml", &server("three", &image, "", ""));
    let three = node.running("three");
    assert!(![ip(&one), ip(&two)].contains(&ip(&three)));
    assert_eq!(fetch(&node, "three", &ip(&one), 80), "one");
    node.finish();
}

/// Does something in a pod's network, on a thread of its own.
pub(crate) fn in_network_of<T: Send + 'static>(
    node: &Node,
    pod: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let container = node.pod(pod).unwrap()["spec"]["containers"][0]["name"].clone();
    let pid = node.pid(pod, container.as_str().unwrap());
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
    std::thread::spawn(move || {
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(kind)).unwrap();
        drop(namespace);
        work()
    })
}

/// A UDP socket in a pod's network, as a program in it would open one; busybox has no such program.
pub(crate) fn udp(node: &Node, pod: &str, port: u16) -> UdpSocket {
    let socket = in_network_of(node, pod, move || UdpSocket::bind(("0.0.0.0", port)).unwrap()).join().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

/// Sends a word to `to`, has `there` answer it, and checks that both arrive.
pub(crate) fn ping(here: &UdpSocket, to: (&str, u16), there: &UdpSocket) {
    let mut word = [0; 16];
    here.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    here.send_to(b"ping", to).unwrap();
    let (length, from) = there.recv_from(&mut word).unwrap();
    assert_eq!(&word[..length], b"ping");
    there.send_to(b"pong", from).unwrap();
    assert_eq!(here.recv(&mut word).unwrap(), 4);
}

#[test]
fn udp_between_pods_and_from_the_node_arrives() {
    let node = Node::start();
    let (_, image) = node.busybox();
    for name in ["one", "two"] {
        node.manifest(&format!("{name}.yaml"), &server(name, &image, "", ""));
    }
    node.running("one");
    let at = ip(&node.running("two"));
    let two = udp(&node, "two", 53);
    ping(&udp(&node, "one", 0), (&at, 53), &two);
    // From the node, too.
    ping(&UdpSocket::bind("0.0.0.0:0").unwrap(), (&at, 53), &two);
    node.finish();
}

#[test]
fn a_host_port_leads_to_its_pod_and_a_conflict_is_named() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let (tcp, udp_port) = (registry::free_port(), registry::free_port());
    let ports = format!(
        "    ports:\n    - {{ containerPort: 80, hostPort: {tcp} }}\n    \
         - {{ containerPort: 80, hostPort: {udp_port}, hostIP: 127.0.0.1 }}\n    \
         - {{ containerPort: 5353, hostPort: {udp_port}, protocol: UDP, hostIP: 127.0.0.1 }}\n"
    );
    let web = server("web", &image, "", &ports);
    node.manifest("web.yaml", &web);
    let pod = node.running("web");
    let host = pod["status"]["hostIP"].as_str().unwrap().to_owned();
    assert_eq!(wait("the host port answers", || get("127.0.0.1", tcp)), "web");
    assert_eq!(get(&host, tcp).as_deref(), Some("web"));
    assert_eq!(get("127.0.0.1", udp_port).as_deref(), Some("web"));
    assert_eq!(get(&host, udp_port), None, "the port is of 127.0.0.1 alone");
    let here = UdpSocket::bind("127.0.0.1:0").unwrap();
    ping(&here, ("127.0.0.1", udp_port), &udp(&node, "web", 5353));
    // A pod reaches itself by the host's port, and others do, too.
    assert_eq!(fetch(&node, "web", &host, tcp), "web");
    node.manifest("other.yaml", &server("other", &image, "", ""));
    node.running("other");
    assert_eq!(fetch(&node, "other", &host, tcp), "web");
    // What listens on the host's loopback alone is not for pods.
    let gateway = inside(&node, "other", "ip route").split_whitespace().nth(2).unwrap().to_owned();
    let say =
        |to: &str| format!("printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 1 {to} {}", node.metrics_port());
    let script = format!("ip route add 127.0.0.2 via {gateway}; {}", say("127.0.0.2"));
    assert_eq!(node.lamina(&["exec", "other", "--", "sh", "-c", &script]).out, "");

    let clash = format!("    ports: [{{ containerPort: 81, hostPort: {tcp} }}]\n");
    node.manifest("clash.yaml", &server("clash", &image, "", &clash));
    let pod = node.until("clash", "refused", |p| {
        p["status"]["message"].as_str().is_some_and(|m| m.contains("taken by pod default/web"))
    });
    assert!(pod["status"]["message"].as_str().unwrap().contains("spec.containers[0].ports[0].hostPort"), "{pod}");
    // Once it is free, the pod that waits for it gets it.
    node.remove_manifest("web.yaml");
    node.running("clash");
    node.finish();
}

#[test]
fn a_port_that_a_process_of_the_host_has_is_not_taken_from_it() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ports = format!("    ports: [{{ containerPort: 80, hostPort: {port} }}]\n");
    node.manifest("web.yaml", &server("web", &image, "", &ports));
    node.until("web", "refused", |p| {
        p["status"]["message"].as_str().is_some_and(|m| m.contains("taken by a process on this machine"))
    });
    drop(listener);
    node.running("web");
    node.finish();
}

#[test]
fn two_agents_do_not_disturb_each_other() {
    let (a, b) = (Node::start(), Node::start());
    for node in [&a, &b] {
        let (_, image) = node.busybox();
        node.manifest("web.yaml", &server("web", &image, "", ""));
        node.manifest("friend.yaml", &server("friend", &image, "", ""));
    }
    let (in_a, in_b) = (ip(&a.running("web")), ip(&b.running("web")));
    a.running("friend");
    b.running("friend");
    assert_ne!(in_a.rsplit_once('.').unwrap().0, in_b.rsplit_once('.').unwrap().0);
    assert_eq!(fetch(&a, "friend", &in_a, 80), "web");
    a.finish();
    assert_eq!(fetch(&b, "friend", &in_b, 80), "web");
    b.finish();
}

#[test]
fn what_a_dead_agent_left_is_removed_and_what_lives_is_kept() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    let port = registry::free_port();
    let ports = format!("    ports: [{{ containerPort: 80, hostPort: {port} }}]\n");
    node.manifest("stays.yaml", &server("stays", &image, "", &ports));
    node.manifest("goes.yaml", &server("goes", &image, "", ""));
    let (stays, goes) = (ip(&node.running("stays")), ip(&node.running("goes")));
    node.kill_agent();
    // As if rules were lost and another agent's interface had stayed.
    let instance: serde_json::Value =
        serde_json::from_slice(&std::fs::read(node.path("root/format.json")).unwrap()).unwrap();
    let instance = instance["instance"].as_str().unwrap().to_owned();
    let table = format!("lamina-{instance}");
    assert!(Command::new("nft").args(["delete", "table", "inet", &table]).status().unwrap().success());
    let stale = format!("lv{instance}.ff");
    let peer = format!("lx{instance}");
    let made = Command::new("ip").args(["link", "add", &stale, "type", "veth", "peer", "name", &peer]).status();
    assert!(made.unwrap().success());
    node.remove_manifest("goes.yaml");
    node.start_agent();
    node.gone("goes");
    assert_eq!(wait("the rules are back", || get("127.0.0.1", port)), "stays");
    wait("the stale interface goes", || (!std::path::Path::new("/sys/class/net").join(&stale).exists()).then_some(()));
    assert_eq!(get(&stays, 80).as_deref(), Some("stays"));
    assert_eq!(get(&goes, 80), None);
    node.finish();
}

#[test]
fn names_and_resolver_settings_are_as_kubernetes_writes_them() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let spec = "  hostname: db\n  subdomain: data\n  setHostnameAsFQDN: true\n  dnsPolicy: None\n  \
                dnsConfig: { nameservers: [192.0.2.53], searches: [a.example], options: [{ name: ndots, value: \"2\" }, { name: edns0 }] }\n  \
                hostAliases: [{ ip: 192.0.2.7, hostnames: [foo.local, bar.local] }]\n";
    node.manifest("web.yaml", &server("web", &image, spec, ""));
    let pod = node.running("web");
    assert_eq!(inside(&node, "web", "hostname").trim(), "db.data.default.svc.cluster.local");
    let hosts = inside(&node, "web", "cat /etc/hosts");
    assert!(hosts.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"), "{hosts}");
    assert!(hosts.contains(&format!("{}\tdb.data.default.svc.cluster.local\tdb\n", ip(&pod))), "{hosts}");
    assert!(hosts.contains("\n# Entries added by HostAliases.\n192.0.2.7\tfoo.local\tbar.local\n"), "{hosts}");
    let resolv = inside(&node, "web", "cat /etc/resolv.conf");
    assert_eq!(resolv, "nameserver 192.0.2.53\nsearch a.example\noptions ndots:2 edns0\n");
    node.finish();
}

#[test]
fn without_a_network_a_pod_has_its_loopback_alone() {
    let node = Node::start_with(&["--network", "none"]);
    let (_, image) = node.busybox();
    node.manifest("web.yaml", &server("web", &image, "", ""));
    let pod = node.running("web");
    assert!(pod["status"]["podIP"].is_null(), "{pod}");
    assert_eq!(inside(&node, "web", "ls /sys/class/net").trim(), "lo");
    node.finish();
}

#[test]
fn one_off_pods_one_after_another_find_the_bridge_there() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let info: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(node.path("root").join("format.json")).unwrap()).unwrap();
    let bridge = std::path::Path::new("/sys/class/net").join(format!("lamina-{}", info["instance"].as_str().unwrap()));
    let number = || {
        node.ok(&["run", "--rm", &image, "--", "true"]);
        wait("the pod is gone", || node.json(&["get", "pods"])["items"].as_array()?.is_empty().then_some(()));
        std::fs::read_to_string(bridge.join("ifindex")).unwrap()
    };
    assert_eq!(number(), number());
    // It goes with the agent, or after a while: nothing is left over.
    wait("the bridge that nobody needs goes", || (!bridge.exists()).then_some(()));
    node.finish();
}
