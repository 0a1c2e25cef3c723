//! Services: found by name, reached by their own address over rules of our own, over pods that are ready.

use crate::network::{fetch, get, inside, ip, server};
use crate::support::node::Node;
use crate::support::wait;

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {spec}\n")
}

/// A pod with the label that services below select.
fn web(name: &str, image: &str) -> String {
    server(name, image, "", "    ports: [{ name: http, containerPort: 80 }]\n")
        .replace(&format!("app: {name}"), "app: web")
}

/// What the resolver says to a pod.
fn lookup(node: &Node, pod: &str, name: &str) -> String {
    node.lamina(&["exec", pod, "--", "sh", "-c", &format!("busybox nslookup {name}")]).out
}

#[test]
fn an_app_finds_a_service_by_name_and_is_spread_over_its_pods() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    node.manifest(
        "service.yaml",
        &service("web", "{ selector: { app: web }, ports: [{ name: http, port: 8080, targetPort: http }] }"),
    );
    for name in ["a", "b"] {
        node.manifest(&format!("{name}.yaml"), &web(name, &image));
    }
    node.manifest("client.yaml", &server("client", &image, "", ""));
    for name in ["a", "b", "client"] {
        node.running(name);
    }
    let resolv = inside(&node, "client", "cat /etc/resolv.conf");
    assert!(resolv.contains("search default.svc.cluster.local svc.cluster.local cluster.local"), "{resolv}");
    assert!(resolv.contains("options ndots:5"), "{resolv}");
    let said = wait("the service has a name", || {
        let said = lookup(&node, "client", "web.default.svc.cluster.local");
        said.contains("Address: 10.").then_some(said)
    });
    let address = said.lines().rev().find_map(|l| l.strip_prefix("Address: ")).unwrap().trim().to_owned();
    assert_eq!(lookup(&node, "client", "web").matches(&address).count(), 1, "by its short name");
    wait("both pods are asked", || {
        let mut seen: Vec<String> = (0..12).map(|_| fetch(&node, "client", &address, 8080)).collect();
        seen.sort();
        seen.dedup();
        (seen == ["a", "b"]).then_some(())
    });
    assert!(["a", "b"].contains(&wait("the host reaches it", || get(&address, 8080)).as_str()));
    // A pod reaches itself by its service, too.
    wait("a reaches itself", || (fetch(&node, "a", &address, 8080) == "a").then_some(()));
    assert!(lookup(&node, "client", "nothing.default.svc.cluster.local").contains("NXDOMAIN"));
    // Another agent keeps the address, and rules follow the pods.
    node.kill_agent();
    node.start_agent();
    assert!(
        wait("the name is back", || {
            Some(lookup(&node, "client", "web.default.svc.cluster.local")).filter(|s| s.contains("Address: 10."))
        })
        .contains(&address)
    );
    node.remove_manifest("b.yaml");
    node.gone("b");
    wait("only one is left", || (0..6).all(|_| fetch(&node, "client", &address, 8080) == "a").then_some(()));
    node.remove_manifest("a.yaml");
    node.gone("a");
    let refused = format!("busybox nc -w 5 {address} 8080 </dev/null");
    wait("nobody is there, and that is said at once", || {
        let begin = std::time::Instant::now();
        let said = node.lamina(&["exec", "client", "--", "sh", "-c", &refused]);
        (said.status != 0 && begin.elapsed().as_secs() < 4).then_some(())
    });
    node.finish();
}

#[test]
fn headless_services_are_their_pods_and_node_ports_lead_in() {
    let node = Node::start();
    let (_, image) = node.busybox();
    node.manifest(
        "headless.yaml",
        &service("data", "{ clusterIP: None, selector: { app: web }, ports: [{ port: 80 }] }"),
    );
    let port = 30000 + u16::try_from(std::process::id() % 2700).unwrap();
    let spec = format!(
        "{{ type: NodePort, sessionAffinity: ClientIP, selector: {{ app: web }}, ports: [{{ port: 80, nodePort: {port} }}] }}"
    );
    node.manifest("door.yaml", &service("door", &spec));
    node.manifest("far.yaml", &service("far", "{ type: ExternalName, externalName: data.default.svc.cluster.local }"));
    let pod = web("db-0", &image).replace("spec:\n", "spec:\n  hostname: db-0\n  subdomain: data\n");
    node.manifest("db.yaml", &pod);
    let at = ip(&node.running("db-0"));
    for name in ["data", "db-0.data.default.svc.cluster.local"] {
        wait(name, || lookup(&node, "db-0", name).contains(&format!("Address: {at}")).then_some(()));
    }
    let back = lookup(&node, "db-0", &at);
    assert!(back.contains("db-0.data.default.svc.cluster.local"), "{back}");
    let alias = lookup(&node, "db-0", "far.default.svc.cluster.local");
    assert!(alias.contains("data.default.svc.cluster.local"), "{alias}");
    assert_eq!(wait("the node's port", || get("127.0.0.1", port)), "db-0");
    let again = service("again", &spec);
    node.manifest("again.yaml", &again);
    wait("the second one is told", || {
        node.ok(&["get", "events"]).contains(&format!("nodePort: TCP {port} is taken")).then_some(())
    });
    node.finish();
}

#[test]
fn services_of_two_agents_do_not_disturb_each_other() {
    let (a, b) = (Node::start(), Node::start());
    for (node, name) in [(&a, "one"), (&b, "two")] {
        let (_, image) = node.busybox();
        node.manifest("service.yaml", &service("web", "{ selector: { app: web }, ports: [{ port: 80 }] }"));
        node.manifest("web.yaml", &web(name, &image));
        node.running(name);
    }
    let address = |node: &Node, pod: &str| {
        wait("an address", || {
            let said = lookup(node, pod, "web");
            said.lines()
                .rev()
                .find_map(|l| l.strip_prefix("Address: ").map(|a| a.trim().to_owned()))
                .filter(|a| !a.contains('#') && !a.ends_with(":53"))
        })
    };
    let (at_a, at_b) = (address(&a, "one"), address(&b, "two"));
    assert_ne!(at_a, at_b);
    assert_eq!(fetch(&a, "one", &at_a, 80), "one");
    assert_eq!(fetch(&b, "two", &at_b, 80), "two");
    a.finish();
    assert_eq!(fetch(&b, "two", &at_b, 80), "two");
    b.finish();
}

#[test]
fn a_service_of_both_families_is_reached_by_each() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let port = 30000 + u16::try_from(std::process::id() % 2700).unwrap();
    let ports = format!("ports: [{{ port: 8080, targetPort: http, nodePort: {port} }}]");
    let spec = format!("{{ type: NodePort, ipFamilyPolicy: RequireDualStack, selector: {{ app: web }}, {ports} }}");
    node.manifest("both.yaml", &service("both", &spec));
    let six = "{ ipFamilies: [IPv6], clusterIP: None, selector: { app: web }, ports: [{ port: 80 }] }";
    node.manifest("pods.yaml", &service("pods", six));
    node.manifest("a.yaml", &web("a", &image));
    let pod = node.running("a");
    node.manifest("client.yaml", &server("client", &image, "", ""));
    node.running("client");
    let addresses = |name: &str| -> Vec<String> {
        let said = lookup(&node, "client", &format!("{name}.default.svc.cluster.local"));
        let all = said.lines().filter_map(|l| l.strip_prefix("Address: ")).map(|a| a.trim().to_owned());
        all.filter(|a| !a.ends_with(":53")).collect()
    };
    let of = wait("it has two addresses", || Some(addresses("both")).filter(|a| a.len() == 2));
    assert!(of.iter().any(|a| a.contains('.')) && of.iter().any(|a| a.contains(':')), "{of:?}");
    for address in &of {
        assert_eq!(wait("it is reached", || Some(fetch(&node, "client", address, 8080))), "a", "{address}");
        assert_eq!(wait("the host reaches it", || get(address, 8080)), "a");
        // A pod reaches itself, too.
        assert_eq!(fetch(&node, "a", address, 8080), "a");
    }
    let own = pod["status"]["podIPs"].as_array().unwrap().iter().map(|ip| ip["ip"].as_str().unwrap());
    let own: Vec<&str> = own.filter(|ip| ip.contains(':')).collect();
    wait("a headless one is its pods by its family", || (addresses("pods") == own).then_some(()));
    node.remove_manifest("a.yaml");
    node.gone("a");
    for address in &of {
        wait("nobody is there, and that is said at once", || {
            let refused = format!("busybox nc -w 20 {address} 8080 </dev/null");
            let begin = std::time::Instant::now();
            let said = node.lamina(&["exec", "client", "--", "sh", "-c", &refused]);
            (said.status != 0 && begin.elapsed().as_secs() < 15).then_some(())
        });
    }
    node.finish();
}
