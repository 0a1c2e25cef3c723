//! Networks of CNI plugins: real ones as Debian packages them, and one that can be made to fail, to hang and to tell.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::network::{fetch, get, inside, ip, server};
use crate::support::node::Node;
use crate::support::{registry, wait};

/// A node with a directory for configurations, and one for programs beside those of the machine.
fn node(flags: &[&str]) -> (Node, tempfile::TempDir) {
    let dir = tempfile::Builder::new().prefix("lamina-cni-").tempdir().unwrap();
    for sub in ["net.d", "bin"] {
        fs::create_dir(dir.path().join(sub)).unwrap();
    }
    let (conf, bin) = (dir.path().join("net.d"), format!("{}:/usr/lib/cni", dir.path().join("bin").display()));
    let mut all = vec!["--cni-conf-dir", conf.to_str().unwrap(), "--cni-bin-dir", &bin, "--cni-timeout", "3s"];
    all.extend(flags);
    (Node::start_with(&all), dir)
}

/// Something that no other test, and no other run of it, calls its network.
fn name() -> String {
    format!("lt{}", registry::free_port())
}

/// What plugins leave of a network when nobody is on it any more: that is theirs.
struct Leftovers(String);

impl Drop for Leftovers {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.0]).output();
        let _ = fs::remove_dir_all(format!("/var/lib/cni/networks/{}", self.0));
        // Ours only if nothing else was there before.
        let _ = fs::remove_dir("/var/lib/cni/networks");
        let _ = fs::remove_dir("/var/lib/cni");
    }
}

fn handed_out(network: &str) -> Vec<String> {
    let entries = fs::read_dir(format!("/var/lib/cni/networks/{network}")).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().into_string().unwrap()).filter(|n| n.starts_with("10.")).collect()
}

#[test]
fn pods_are_on_the_network_that_plugins_make() {
    let network = name();
    let _leftovers = Leftovers(network.clone());
    let (mut node, dir) = node(&[]);
    let (_, image) = node.busybox();
    let [high, low] = (u16::try_from(std::process::id() % 50_000).unwrap() + 7).to_be_bytes();
    // Beside the ranges that agents take of themselves.
    let (subnet, gateway) = (format!("10.{}.{low}.0/24", 120 + high % 60), format!("10.{}.{low}.1", 120 + high % 60));
    let list = json!({ "cniVersion": "1.0.0", "name": network, "plugins": [
        { "type": "bridge", "bridge": network, "isGateway": true, "ipMasq": true, "hairpinMode": true,
          "ipam": { "type": "host-local", "ranges": [[{ "subnet": subnet }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
        { "type": "portmap", "capabilities": { "portMappings": true } },
    ] });
    fs::write(dir.path().join("net.d/10-pods.conflist"), list.to_string()).unwrap();
    let port = registry::free_port();
    let ports = format!("    ports: [{{ containerPort: 80, hostPort: {port} }}]\n");
    node.manifest("web.yaml", &server("web", &image, "", &ports));
    node.manifest("client.yaml", &server("client", &image, "", ""));
    let (web, client) = (node.running("web"), node.running("client"));
    let prefix = gateway.rsplit_once('.').unwrap().0;
    for pod in [&web, &client] {
        assert!(ip(pod).starts_with(prefix), "{} is not of {subnet}", ip(pod));
        assert_eq!(pod["status"]["podIPs"].as_array().unwrap().len(), 1);
    }
    assert_eq!(fetch(&node, "client", &ip(&web), 80), "web");
    assert_eq!(get(&ip(&web), 80).as_deref(), Some("web"));
    assert!(inside(&node, "web", "cat /etc/hosts").contains(&format!("\n{}\tweb\n", ip(&web))));
    assert_eq!(inside(&node, "web", "echo $IPS").trim(), ip(&web));
    assert!(inside(&node, "web", "ip route").contains(&format!("default via {gateway}")));
    let host = web["status"]["hostIP"].as_str().unwrap().to_owned();
    assert_eq!(wait("the host port answers", || get(&host, port)), "web");
    // A conflict is found before any plugin is asked.
    node.manifest("clash.yaml", &server("clash", &image, "", &ports));
    node.until("clash", "refused", |p| {
        p["status"]["message"].as_str().is_some_and(|m| m.contains("taken by pod default/web"))
    });
    node.remove_manifest("clash.yaml");
    node.gone("clash");
    assert_eq!(handed_out(&network).len(), 2);

    // Another agent leaves everything as it is, also when the configuration is another.
    node.kill_agent();
    fs::remove_file(dir.path().join("net.d/10-pods.conflist")).unwrap();
    node.start_agent();
    assert_eq!(ip(&node.running("web")), ip(&web));
    assert_eq!(get(&host, port).as_deref(), Some("web"));
    node.manifest("bridged.yaml", &server("bridged", &image, "", ""));
    let bridged = ip(&node.running("bridged"));
    assert!(!bridged.starts_with(prefix), "{bridged} is of {subnet}");
    for name in ["web", "client"] {
        node.remove_manifest(&format!("{name}.yaml"));
        node.gone(name);
    }
    assert_eq!(handed_out(&network), Vec::<String>::new());
    assert_eq!(get(&host, port), None);
    let rules = Command::new("iptables-save").args(["-t", "nat"]).output().unwrap();
    let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
    assert!(!rules.contains(&network) && !rules.contains(&ip(&web)), "{rules}");
    node.finish();
}

/// A plugin of which every call is written down, and of which files say what it does for which pod.
const FAKE: &str = r#"#!/bin/sh
dir=@DIR@
input=$(cat)
pod=$(echo "$CNI_ARGS" | sed 's/.*K8S_POD_NAME=\([^;]*\).*/\1/')
if [ "$CNI_COMMAND" = VERSION ]; then echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}'; exit; fi
echo "$input" >"$dir/input-$CNI_COMMAND-$pod"
echo "$CNI_COMMAND $pod $CNI_CONTAINERID ${CNI_NETNS:-gone}" >>"$dir/calls"
if [ -e "$dir/hang-$CNI_COMMAND-$pod" ]; then tail -f "$dir/calls" >/dev/null; fi
if [ -e "$dir/fail-$CNI_COMMAND-$pod" ]; then
  echo '{"cniVersion":"1.1.0","code":50,"msg":"no address is left","details":"ask again"}'; exit 1
fi
if [ "$CNI_COMMAND" = ADD ]; then
  echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"192.0.2.9/24","interface":0}]}'
fi
"#;

/// The directory of a fake plugin, and its calls.
struct Fake(PathBuf);

impl Fake {
    fn new(dir: &Path, network: &str) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let program = dir.join("bin/fake");
        fs::write(&program, FAKE.replace("@DIR@", dir.to_str().unwrap())).unwrap();
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        let list = json!({ "cniVersion": "1.1.0", "name": network, "plugins": [
            { "type": "fake", "capabilities": { "bandwidth": true }, "own": "value" },
        ] });
        fs::write(dir.join("net.d/fake.conflist"), list.to_string()).unwrap();
        Self(dir.to_owned())
    }

    /// Makes a task fail or hang for a pod.
    fn make(&self, what: &str) {
        fs::write(self.0.join(what), "").unwrap();
    }

    fn unmake(&self, what: &str) {
        fs::remove_file(self.0.join(what)).unwrap();
    }

    /// The calls for a task and a pod: container and namespace of each.
    fn calls(&self, task: &str, pod: &str) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.0.join("calls")).unwrap_or_default();
        let call = |line: &str| -> Option<(String, String)> {
            let rest = line.strip_prefix(&format!("{task} {pod} "))?;
            rest.split_once(' ').map(|(container, namespace)| (container.to_owned(), namespace.to_owned()))
        };
        text.lines().filter_map(call).collect()
    }

    fn input(&self, task: &str, pod: &str) -> Value {
        let path = self.0.join(format!("input-{task}-{pod}"));
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap()
    }
}

fn says(node: &Node, pod: &str, part: &str) {
    node.until(pod, part, |p| p["status"]["message"].as_str().is_some_and(|m| m.contains(part)));
}

#[test]
fn a_plugin_that_fails_or_hangs_hurts_its_pod_alone_and_is_asked_again() {
    let network = name();
    let (node, dir) = node(&[]);
    let fake = Fake::new(dir.path(), &network);
    let (_, image) = node.busybox();
    for what in ["fail-ADD-fails", "hang-ADD-hangs", "fail-DEL-stays"] {
        fake.make(what);
    }
    for name in ["fails", "hangs", "stays", "well"] {
        node.manifest(&format!("{name}.yaml"), &server(name, &image, "", ""));
    }
    assert_eq!(ip(&node.running("well")), "192.0.2.9");
    says(&node, "fails", &format!("network {network}: plugin fake failed ADD: no address is left: ask again"));
    says(&node, "hangs", "plugin fake took longer than 3 s for ADD and was killed");
    // What was begun is undone each time.
    assert!(!fake.calls("DEL", "fails").is_empty());
    fake.unmake("fail-ADD-fails");
    fake.unmake("hang-ADD-hangs");
    node.running("fails");
    node.running("hangs");

    // A pod goes when its plugin has let it go, and others go meanwhile.
    node.running("stays");
    node.remove_manifest("stays.yaml");
    node.remove_manifest("well.yaml");
    node.gone("well");
    wait("it is asked again", || (fake.calls("DEL", "stays").len() >= 2).then_some(()));
    assert!(node.pod("stays").is_some());
    fake.unmake("fail-DEL-stays");
    node.gone("stays");
    // While the namespace was there, and with what ADD had said.
    let (container, namespace) = fake.calls("DEL", "stays").pop().unwrap();
    assert!(namespace.starts_with("/proc/"), "{namespace}");
    assert_eq!(fake.calls("ADD", "stays"), [(container, namespace)]);
    assert_eq!(fake.input("DEL", "stays")["prevResult"]["ips"][0]["address"], "192.0.2.9/24");
    node.finish();
}

#[test]
fn plugins_are_told_what_a_pod_asks_for_and_what_is_still_there() {
    let network = name();
    let _leftovers = Leftovers(network.clone());
    let (mut node, dir) = node(&[]);
    let fake = Fake::new(dir.path(), &network);
    let (_, image) = node.busybox();
    let annotated = |name: &str| {
        let note = "annotations: { kubernetes.io/ingress-bandwidth: 10M, kubernetes.io/egress-bandwidth: \"2000000\" }";
        server(name, &image, "", "").replace("metadata: {", &format!("metadata: {{ {note},"))
    };
    // Not before it is ready.
    fake.make("fail-STATUS-");
    node.manifest("web.yaml", &annotated("web"));
    says(&node, "web", "plugin fake failed STATUS: no address is left");
    assert!(fake.calls("ADD", "web").is_empty());
    fake.unmake("fail-STATUS-");
    let uid = node.running("web")["metadata"]["uid"].as_str().unwrap().to_owned();
    let told = fake.input("ADD", "web");
    assert_eq!((&told["cniVersion"], &told["name"], &told["own"]), (&json!("1.1.0"), &json!(network), &json!("value")));
    let burst = i32::MAX;
    let rates =
        json!({ "ingressRate": 10_000_000, "ingressBurst": burst, "egressRate": 2_000_000, "egressBurst": burst });
    assert_eq!(told["runtimeConfig"], json!({ "bandwidth": rates }));
    let (container, _) = fake.calls("ADD", "web").remove(0);
    assert!(container.starts_with("lamina-") && container.ends_with(&uid), "{container}");
    // A port of the host needs a plugin that makes it.
    node.manifest("port.yaml", &server("port", &image, "", "    ports: [{ containerPort: 80, hostPort: 8099 }]\n"));
    says(&node, "port", "spec.containers[0].ports[0].hostPort: no plugin of network");
    node.remove_manifest("port.yaml");
    node.gone("port");

    // The next agent asks whether all is well, and has what is of nobody freed.
    node.kill_agent();
    node.start_agent();
    wait("the pod's network is checked", || (fake.calls("CHECK", "web").len() == 1).then_some(()));
    wait("garbage is collected", || dir.path().join("input-GC-").exists().then_some(()));
    assert_eq!(fake.input("CHECK", "web")["prevResult"]["ips"][0]["address"], "192.0.2.9/24");
    let valid = json!([{ "containerID": container, "ifname": "eth0" }]);
    wait("it is told who is there", || (fake.input("GC", "")["cni.dev/valid-attachments"] == valid).then_some(()));

    // Not where somebody else has an address of the network, and a check that fails is told.
    let foreign = PathBuf::from(format!("/var/lib/cni/networks/{network}/10.1.2.3"));
    fs::create_dir_all(foreign.parent().unwrap()).unwrap();
    fs::write(&foreign, "somebody\neth0").unwrap();
    fake.make("fail-CHECK-web");
    node.kill_agent();
    fs::remove_file(dir.path().join("input-GC-")).unwrap();
    node.start_agent();
    wait("the check is told", || {
        node.ok(&["get", "events"]).contains("plugin fake failed CHECK: no address is left").then_some(())
    });
    wait("why nothing is collected is told", || node.agent_log().contains("is not collected").then_some(()));
    assert!(!dir.path().join("input-GC-").exists());

    // A pod that nobody wants any more while there is no agent is taken off by the next.
    node.kill_agent();
    node.remove_manifest("web.yaml");
    node.start_agent();
    node.gone("web");
    assert_eq!(fake.calls("DEL", "web").len(), 1);
    node.finish();
}

#[test]
fn a_network_that_cannot_be_used_is_named() {
    let (node, dir) = node(&["--network", "cni"]);
    let (_, image) = node.busybox();
    let none = ("none", "", "net.d has no network configuration");
    let wrong = ("wrong", r#"{"name": "x"}"#, "a.conflist: plugins: is missing");
    let missing = r#"{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "no-such-plugin"}]}"#;
    let missing = ("missing", missing, "network x: there is no plugin no-such-plugin in ");
    let newer = r#"{"cniVersion": "1.1.0", "name": "x", "plugins": [{"type": "loopback"}]}"#;
    let newer = ("newer", newer, "network x is written for version 1.1.0, and plugin loopback speaks 0.1.0, ");
    for (name, text, said) in [none, wrong, missing, newer] {
        if !text.is_empty() {
            fs::write(dir.path().join("net.d/a.conflist"), text).unwrap();
        }
        node.manifest("pod.yaml", &server(name, &image, "", ""));
        says(&node, name, said);
    }
    node.finish();
}
