//! What the node conformance list asks of volumes, as tables: many pods at once, each says what it sees in its log.
//! `tests/conformance/storage.md` tells which row is which behaviour.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::{Value, json};

use crate::support::node::Node;
use crate::support::wait;

/// What one pod has, runs and must say.
struct Case {
    name: String,
    spec: Value,
    says: String,
}

/// A case of one container.
fn case(name: &str, volumes: Value, mounts: Value, script: &str, says: &str) -> Case {
    let spec = json!({
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "volumes": volumes,
        "containers": [{"name": "app", "command": ["sh", "-c", script], "volumeMounts": mounts}]
    });
    Case { name: name.to_owned(), spec, says: says.to_owned() }
}

impl Case {
    fn security(mut self, context: Value) -> Self {
        self.spec["securityContext"] = context;
        self
    }
}

/// Runs all of them side by side; every one must end well and have said what it should.
fn run(node: &Node, image: &str, cases: Vec<Case>) {
    for case in &cases {
        let mut spec = case.spec.clone();
        for container in spec["containers"].as_array_mut().unwrap() {
            container["image"] = image.into();
            container["imagePullPolicy"] = "IfNotPresent".into();
        }
        let metadata = json!({"name": case.name, "labels": {"a": "one"}, "annotations": {"n": "note"}});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        node.manifest(&format!("{}.yaml", case.name), &pod.to_string());
    }
    let mut wrong = Vec::new();
    for case in &cases {
        let over = |p: &Value| matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let pod = node.until(&case.name, "ended", over);
        let said = node.ok(&["logs", &case.name, "-c", "app"]);
        if pod["status"]["phase"] != "Succeeded" || said.trim_end() != case.says.trim_end() {
            wrong.push(format!("{}: {said:?} instead of {:?}\n{}", case.name, case.says, pod["status"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_empty_dir_is_for_everyone_on_either_medium() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let mut cases = Vec::new();
    for (medium, media) in [("default", json!({})), ("tmpfs", json!({"medium": "Memory"}))] {
        let volumes = json!([{"name": "v", "emptyDir": media}]);
        let mounts = json!([{"name": "v", "mountPath": "/v"}]);
        for user in [0, 1001] {
            for mode in ["644", "666", "777"] {
                let script = format!("echo content >/v/f && chmod {mode} /v/f && stat -c '%a %u' /v/f && cat /v/f");
                let says = format!("{mode} {user}\ncontent\n");
                let name = format!("{medium}-{user}-{mode}");
                let case = case(&name, volumes.clone(), mounts.clone(), &script, &says);
                cases.push(case.security(json!({"runAsUser": user})));
            }
        }
        let script = "stat -c %a /v; grep -c ' /v tmpfs ' /proc/mounts; true";
        let says = if medium == "tmpfs" { "777\n1\n" } else { "777\n0\n" };
        cases.push(case(&format!("{medium}-mode"), volumes.clone(), mounts.clone(), script, says));
        let group =
            case(&format!("{medium}-group"), volumes.clone(), mounts.clone(), "touch /v/f; stat -c %g /v/f", "123\n");
        cases.push(group.security(json!({"runAsUser": 1001, "fsGroup": 123})));
    }
    let own = json!([{"name": "v", "emptyDir": {"mode": 0o1750}}]);
    cases.push(case("own-mode", own, json!([{"name": "v", "mountPath": "/v"}]), "stat -c %a /v", "1750\n"));
    let shared = json!([{"name": "v", "emptyDir": {}}]);
    let mounts = json!([{"name": "v", "mountPath": "/v"}]);
    let mut both = case("shared", shared, mounts.clone(), "until cat /v/f 2>/dev/null; do sleep 0.05; done", "hello\n");
    // The link comes once there is something behind it.
    let command = json!(["sh", "-c", "echo hello >/v/t; ln -s t /v/f"]);
    let writer = json!({"name": "writer", "command": command, "volumeMounts": mounts});
    both.spec["containers"].as_array_mut().unwrap().push(writer);
    cases.push(both);
    run(&node, &image, cases);
    node.finish();
}

/// The kinds of volume that show a ConfigMap or a Secret.
const KINDS: [&str; 4] = ["config-map", "secret", "projected-config-map", "projected-secret"];

/// A volume that shows the object `name`.
fn showing(kind: &str, volume: &str, name: &str, items: &Value, mode: Option<u32>, optional: bool) -> Value {
    let mut source = json!({"items": items, "optional": optional});
    source[if kind == "secret" { "secretName" } else { "name" }] = name.into();
    let (field, projected) = match kind {
        "config-map" => ("configMap", false),
        "secret" => ("secret", false),
        "projected-config-map" => ("configMap", true),
        _ => ("secret", true),
    };
    let mut shown = if projected { json!({ "sources": [{ field: source }] }) } else { source };
    if let Some(mode) = mode {
        shown["defaultMode"] = mode.into();
    }
    json!({ "name": volume, if projected { "projected" } else { field }: shown })
}

/// A ConfigMap and a Secret of one name and content.
fn objects(node: &Node, namespace: &str, name: &str, data: &Value) {
    for (kind, field) in [("ConfigMap", "data"), ("Secret", "stringData")] {
        let object =
            json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, field: data});
        node.manifest(&format!("{kind}-{namespace}-{name}.yaml"), &object.to_string());
    }
}

fn no_objects(node: &Node, name: &str) {
    for kind in ["ConfigMap", "Secret"] {
        node.remove_manifest(&format!("{kind}-default-{name}.yaml"));
    }
}

#[test]
fn config_maps_and_secrets_are_files_as_their_items_and_modes_say() {
    let node = Node::start();
    let (_, image) = node.busybox();
    objects(&node, "default", "o", &json!({"data-1": "one", "data-2": "two"}));
    objects(&node, "other", "o", &json!({"data-1": "of another namespace"}));
    let binary = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"},
        "data": {"text": "t"}, "binaryData": {"bytes": "/u3w"}});
    node.manifest("ConfigMap-b.yaml", &binary.to_string());
    let mounts = json!([{"name": "v", "mountPath": "/v"}]);
    let item = json!([{"key": "data-2", "path": "path/to/it"}]);
    let moded = json!([{"key": "data-2", "path": "path/to/it", "mode": 0o400}]);
    let mut cases = Vec::new();
    for kind in KINDS {
        let add = |name: &str, items: &Value, mode, script: &str, says: &str, context: Value| {
            let volumes = json!([showing(kind, "v", "o", items, mode, false)]);
            case(&format!("{kind}-{name}"), volumes, mounts.clone(), script, says).security(context)
        };
        let (none, root) = (json!([]), json!({}));
        let other = json!({"runAsUser": 1000});
        let group = json!({"runAsUser": 1000, "fsGroup": 1001});
        let plain = "cat /v/data-1; stat -Lc ' %a' /v/data-1; ls /v; ! touch /v/x 2>/dev/null";
        cases.push(add("plain", &none, None, plain, "one 644\ndata-1\ndata-2\n", root.clone()));
        cases.push(add("other-user", &none, None, plain, "one 644\ndata-1\ndata-2\n", other.clone()));
        let mode = "cat /v/data-1; stat -Lc ' %a %g' /v/data-1";
        cases.push(add("mode", &none, Some(0o400), mode, "one 400 0\n", root.clone()));
        cases.push(add("mode-and-group", &none, Some(0o440), mode, "one 440 1001\n", group));
        let mapped = "cat /v/path/to/it; stat -Lc ' %a' /v/path/to/it; ls /v";
        cases.push(add("items", &item, None, mapped, "two 644\npath\n", root.clone()));
        cases.push(add("items-other-user", &item, None, mapped, "two 644\npath\n", other));
        cases.push(add("item-mode", &moded, None, mapped, "two 400\npath\n", root));
        let two = json!([showing(kind, "v", "o", &none, None, false), showing(kind, "w", "o", &item, None, false)]);
        let both = json!([{"name": "v", "mountPath": "/v"}, {"name": "w", "mountPath": "/w"}]);
        cases.push(case(&format!("{kind}-twice"), two, both, "cat /v/data-1 /w/path/to/it", "onetwo"));
        let part = json!([{"name": "v", "mountPath": "/etc/passwd", "subPath": "data-1"},
            {"name": "v", "mountPath": "/new/file", "subPath": "data-2"}]);
        let volume = json!([showing(kind, "v", "o", &none, None, false)]);
        cases.push(case(&format!("{kind}-sub-path"), volume, part, "cat /etc/passwd /new/file", "onetwo"));
    }
    let volume = json!([{"name": "v", "configMap": {"name": "b"}}]);
    let bytes = "od -An -tx1 /v/bytes; cat /v/text";
    cases.push(case("binary", volume, mounts.clone(), bytes, " fe ed f0\nt"));
    let every = json!([{"name": "v", "projected": {"sources": [
        {"configMap": {"name": "o", "items": [{"key": "data-1", "path": "map"}]}},
        {"secret": {"name": "o", "items": [{"key": "data-2", "path": "secret"}]}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}}]);
    cases.push(case("combined", every, mounts, "cat /v/map /v/secret /v/name", "onetwocombined"));
    run(&node, &image, cases);
    node.finish();
}

#[test]
fn what_changes_is_seen_in_every_kind_of_volume_and_optional_ones_come_and_go() {
    let node = Node::start();
    let (_, image) = node.busybox();
    objects(&node, "default", "changes", &json!({"data-1": "one"}));
    objects(&node, "default", "goes", &json!({"data-1": "one"}));
    let (mut volumes, mut mounts) = (Vec::new(), Vec::new());
    for kind in KINDS {
        for name in ["changes", "goes", "comes"] {
            let volume = format!("{kind}-{name}");
            volumes.push(showing(kind, &volume, name, &json!([]), None, name != "changes"));
            mounts.push(json!({"name": volume, "mountPath": format!("/{volume}")}));
        }
    }
    let fields = json!([{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}}]);
    volumes.push(json!({"name": "down", "downwardAPI": {"items": fields}}));
    volumes.push(json!({"name": "projected-down", "projected": {"sources": [{"downwardAPI": {"items": fields}}]}}));
    for name in ["down", "projected-down"] {
        mounts.push(json!({"name": name, "mountPath": format!("/{name}")}));
    }
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"a": "1"}}, "spec": {
        "terminationGracePeriodSeconds": 0, "volumes": volumes, "containers": [{"name": "app", "image": image,
        "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1000"], "volumeMounts": mounts}]}});
    node.manifest("web.yaml", &pod.to_string());
    node.running("web");
    let file = |path: &str| {
        let said = node.lamina(&["exec", "web", "--", "cat", path]);
        (said.status == 0).then_some(said.out)
    };
    for kind in KINDS {
        assert_eq!(file(&format!("/{kind}-goes/data-1")).as_deref(), Some("one"));
        assert_eq!(file(&format!("/{kind}-comes/data-1")), None);
    }
    objects(&node, "default", "changes", &json!({"data-1": "two", "data-3": "three"}));
    objects(&node, "default", "comes", &json!({"data-1": "one"}));
    no_objects(&node, "goes");
    pod["metadata"]["labels"] = json!({"a": "2", "b": "3"});
    pod["metadata"]["annotations"] = json!({"n": "new"});
    node.manifest("web.yaml", &pod.to_string());
    let mut wanted = Vec::new();
    for kind in KINDS {
        wanted.push((format!("/{kind}-changes/data-1"), Some("two")));
        wanted.push((format!("/{kind}-changes/data-3"), Some("three")));
        wanted.push((format!("/{kind}-comes/data-1"), Some("one")));
        wanted.push((format!("/{kind}-goes/data-1"), None));
    }
    for name in ["down", "projected-down"] {
        wanted.push((format!("/{name}/labels"), Some("a=\"2\"\nb=\"3\"")));
        wanted.push((format!("/{name}/annotations"), Some("n=\"new\"")));
    }
    for (path, text) in wanted {
        wait(&format!("{path} is {text:?}"), || (file(&path).as_deref() == text).then_some(()));
    }
    assert_eq!(node.running("web")["status"]["containerStatuses"][0]["restartCount"], 0);
    node.finish();
}

#[test]
fn a_pod_reads_its_name_and_its_resources_in_files() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let resource = |path: &str, resource: &str, divisor: &str| {
        let field = json!({"containerName": "app", "resource": resource, "divisor": divisor});
        json!({"path": path, "resourceFieldRef": field})
    };
    let items = json!([
        {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}},
        {"path": "private", "mode": 0o400, "fieldRef": {"fieldPath": "metadata.namespace"}},
        resource("cpu-limit", "limits.cpu", "1m"), resource("cpu-request", "requests.cpu", "1m"),
        resource("memory-limit", "limits.memory", "1Mi"), resource("memory-request", "requests.memory", "1Mi")
    ]);
    let script = "for f in name cpu-limit cpu-request memory-limit memory-request; do cat /v/$f; echo; done; \
                  stat -Lc %a /v/name /v/private";
    let mounts = json!([{"name": "v", "mountPath": "/v"}]);
    let mut cases = Vec::new();
    for (name, projected) in [("own", false), ("projected", true)] {
        let volume = |items: &Value, mode: u32| {
            if projected {
                let sources = json!([{"downwardAPI": {"items": items}}]);
                json!([{"name": "v", "projected": {"defaultMode": mode, "sources": sources}}])
            } else {
                json!([{"name": "v", "downwardAPI": {"defaultMode": mode, "items": items}}])
            }
        };
        let says = format!("{name}\n1250\n250\n64\n32\n440\n400\n");
        let mut limited = case(name, volume(&items, 0o440), mounts.clone(), script, &says);
        limited.spec["containers"][0]["resources"] =
            json!({"limits": {"cpu": "1250m", "memory": "64Mi"}, "requests": {"cpu": "250m", "memory": "32Mi"}});
        cases.push(limited);
        let whole = json!([resource("cpu", "limits.cpu", "1"), resource("memory", "limits.memory", "1Ki")]);
        let memory = "m=$(cat /v/memory); t=$(sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo); \
                      cat /v/cpu; test $((t-m)) -ge -1 && test $((t-m)) -le 1 && echo ' all'";
        let cores = std::thread::available_parallelism().unwrap();
        let says = format!("{cores} all\n");
        cases.push(case(&format!("{name}-whole"), volume(&whole, 0o644), mounts.clone(), memory, &says));
    }
    run(&node, &image, cases);
    node.finish();
}

#[test]
fn a_host_path_is_what_its_type_says_or_the_reason_names_it() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let host = node.path("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::set_permissions(&host, std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::write(host.join("file"), "content\n").unwrap();
    symlink("file", host.join("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(host.join("socket")).unwrap();
    let block = std::process::Command::new("mknod").arg(host.join("block")).args(["b", "7", "250"]).status();
    assert!(block.unwrap().success());
    let volume = |path: &str, kind: &str| {
        let path = if path.starts_with('/') { path.into() } else { host.join(path) };
        json!([{"name": "v", "hostPath": {"path": path, "type": kind}}])
    };
    let at = |sub: &str| json!([{"name": "v", "mountPath": "/v", "subPath": sub}]);
    let good = [
        ("mode", "/", "", "stat -c %a /v/tmp >/dev/null; test -d /v/proc && echo ok", "ok\n", ""),
        ("sticky", "", "Directory", "stat -c %a /v; echo x >/v/new; cat /v/new", "1777\nx\n", ""),
        ("file", "file", "File", "cat /v", "content\n", ""),
        ("followed", "link", "File", "cat /v", "content\n", ""),
        ("char", "/dev/null", "CharDevice", "test -c /v && echo x >/v && echo ok", "ok\n", ""),
        ("block", "block", "BlockDevice", "test -b /v && echo ok", "ok\n", ""),
        ("socket", "socket", "Socket", "test -S /v && echo ok", "ok\n", ""),
        ("made", "made/deep", "DirectoryOrCreate", "stat -c '%a %u' /v", "755 0\n", ""),
        ("touched", "touched", "FileOrCreate", "stat -c '%a %s' /v", "644 0\n", ""),
        ("part", "", "Directory", "stat -c %a /v", "1777\n", "part/of/it"),
        ("one-file", "", "Directory", "cat /v", "content\n", "file"),
    ];
    let cases = good.map(|(name, path, kind, script, says, sub)| case(name, volume(path, kind), at(sub), script, says));
    run(&node, &image, cases.into());
    assert!(host.join("made/deep").is_dir() && host.join("part/of/it").is_dir());

    let bad = [
        ("no-directory", "file", "Directory", "not a directory"),
        ("no-file", "", "File", "not a file"),
        ("no-socket", "file", "Socket", "not a socket"),
        ("no-char", "file", "CharDevice", "not a character device"),
        ("no-block", "/dev/null", "BlockDevice", "not a block device"),
        ("nothing", "nothing", "Directory", "No such file or directory"),
        ("no-parent", "nothing/file", "FileOrCreate", "No such file or directory"),
        ("not-made", "file", "DirectoryOrCreate", "not a directory"),
    ];
    for (name, path, kind, _) in bad {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"restartPolicy": "Never",
            "volumes": volume(path, kind), "containers": [{"name": "app", "image": image, "command": ["true"],
            "imagePullPolicy": "IfNotPresent", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}});
        node.manifest(&format!("{name}.yaml"), &pod.to_string());
    }
    for (name, _, _, why) in bad {
        let pod = node.until(name, "refused", |p| p["status"]["phase"] == "Failed");
        let message =
            pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(why) && message.contains("hostPath /"), "{name}: {message}");
    }
    node.finish();
}
