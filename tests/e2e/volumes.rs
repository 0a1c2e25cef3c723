//! Volumes under running pods: what they are filled with changes in place, parts of them are mounted, nothing leads out.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::node::Node;
use crate::support::wait;

/// A pod of one container that sleeps, or runs `script`.
fn pod(name: &str, image: &str, script: &str, volumes: &Value, mounts: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "volumes": volumes,
            "containers": [{
                "name": "app", "image": image, "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", script], "volumeMounts": mounts
            }]
        }
    })
}

fn put(node: &Node, pod: &Value) {
    node.manifest(&format!("{}.yaml", pod["metadata"]["name"].as_str().unwrap()), &pod.to_string());
}

fn ended(node: &Node, name: &str) -> Value {
    node.until(name, "ended", |p| matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed")))
}

/// Reads a file in a container until it says what it should.
fn reads(node: &Node, pod: &str, file: &str, text: &str) {
    wait(&format!("{file} of {pod} reads {text:?}"), || {
        let said = node.lamina(&["exec", pod, "--", "cat", file]);
        (said.status == 0 && said.out == text).then_some(())
    });
}

#[test]
fn labels_that_change_show_up_in_the_file_and_restart_nothing() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    let volumes = json!([
        {"name": "down", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "all", "projected": {"sources": [
            {"downwardAPI": {"items": [
                {"path": "note", "fieldRef": {"fieldPath": "metadata.annotations['note']"}},
                {"path": "memory", "resourceFieldRef": {"containerName": "app", "resource": "limits.memory"}}]}},
            {"configMap": {"name": "late", "optional": true}}]}}
    ]);
    let mounts = json!([{"name": "down", "mountPath": "/down"}, {"name": "all", "mountPath": "/all"}]);
    let mut web = pod("web", &image, "exec sleep 1000", &volumes, &mounts);
    web["metadata"]["labels"] = json!({"tier": "one"});
    web["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "32Mi"}});
    put(&node, &web);
    let before = node.running("web");
    reads(&node, "web", "/down/labels", "tier=\"one\"");
    reads(&node, "web", "/all/memory", "33554432");
    reads(&node, "web", "/all/note", "");

    web["metadata"]["labels"] = json!({"tier": "two", "a": "b"});
    web["metadata"]["annotations"] = json!({"note": "changed"});
    put(&node, &web);
    reads(&node, "web", "/down/labels", "a=\"b\"\ntier=\"two\"");
    reads(&node, "web", "/all/note", "changed");
    node.manifest("late.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: late }\ndata: { came: later }\n");
    reads(&node, "web", "/all/came", "later");
    // A new agent finds what is mounted and goes on with it; what it does not know yet does not empty anything.
    node.kill_agent();
    node.start_agent();
    reads(&node, "web", "/all/came", "later");
    web["metadata"]["annotations"] = json!({"note": "again"});
    put(&node, &web);
    reads(&node, "web", "/all/note", "again");
    node.remove_manifest("late.yaml");
    wait("an optional ConfigMap that is gone leaves no file", || {
        (node.lamina(&["exec", "web", "--", "cat", "/all/came"]).status != 0).then_some(())
    });
    let after = node.running("web");
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
    assert_eq!(after["status"]["containerStatuses"][0]["restartCount"], 0);
    node.finish();
}

#[test]
fn a_pod_waits_for_its_config_map_and_says_so() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    let volumes = json!([{"name": "c", "configMap": {"name": "late"}}, {"name": "d", "emptyDir": {}}]);
    let mounts = json!([{"name": "c", "mountPath": "/c"}, {"name": "d", "mountPath": "/d"}]);
    put(&node, &pod("web", &image, "cat /c/key", &volumes, &mounts));
    let says = |pod: &Value| pod["status"]["message"].to_string().contains("ConfigMap \\\"late\\\" not found");
    node.until("web", "waiting", says);
    // A new agent finds a sandbox that is half made.
    node.kill_agent();
    node.start_agent();
    node.until("web", "waiting", says);
    node.manifest("late.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: late }\ndata: { key: here }\n");
    assert_eq!(ended(&node, "web")["status"]["phase"], "Succeeded");
    assert_eq!(node.ok(&["logs", "web"]).trim_end(), "here");
    node.finish();
}

#[test]
fn sub_paths_are_expanded_made_for_everyone_and_stay_as_they_are() {
    let node = Node::start();
    let (_, image) = node.busybox();
    node.manifest("c.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: c }\ndata: { key: one, other: x }\n");
    let volumes = json!([{"name": "d", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c"}}]);
    let mounts = json!([
        {"name": "d", "mountPath": "/all"},
        {"name": "d", "mountPath": "/mine", "subPathExpr": "logs/$(POD)-$$(X)"},
        {"name": "c", "mountPath": "/etc/app.conf", "subPath": "key"},
        {"name": "c", "mountPath": "/conf"}
    ]);
    let mut web = pod("web", &image, "echo x >/mine/file; exec sleep 1000", &volumes, &mounts);
    web["spec"]["securityContext"] = json!({"runAsUser": 1000, "fsGroup": 4321});
    web["spec"]["containers"][0]["env"] =
        json!([{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    put(&node, &web);
    node.running("web");
    reads(&node, "web", "/all/logs/web-$(X)/file", "x\n");
    assert_eq!(node.ok(&["exec", "web", "--", "stat", "-c", "%a %g", "/mine"]), "2777 4321\n");
    reads(&node, "web", "/etc/app.conf", "one");
    node.manifest("c.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: c }\ndata: { key: two }\n");
    reads(&node, "web", "/conf/key", "two");
    // As on a kubelet: one file that is mounted is that file.
    reads(&node, "web", "/etc/app.conf", "one");
    assert_ne!(node.lamina(&["exec", "web", "--", "cat", "/conf/other"]).status, 0);
    assert_ne!(node.lamina(&["exec", "web", "--", "touch", "/conf/mine"]).status, 0);
    node.finish();
}

#[test]
fn a_sub_path_expression_that_fails_says_why_and_can_be_mended() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let volumes = json!([{"name": "d", "emptyDir": {}}]);
    let env = json!([{"name": "PART", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['part']"}}}]);
    for (name, expression, part, said) in [
        ("up", "$(PART)", "../up", "must be relative"),
        ("absolute", "$(PART)", "/tmp", "must be relative"),
        ("unknown", "$(NOT_THERE)", "x", "names NOT_THERE"),
    ] {
        let mounts = json!([{"name": "d", "mountPath": "/d", "subPathExpr": expression}]);
        let mut web = pod(name, &image, "true", &volumes, &mounts);
        web["spec"]["containers"][0]["env"] = env.clone();
        web["metadata"]["annotations"] = json!({"part": part});
        put(&node, &web);
        let refused = node.until(name, "refused", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
        });
        let message = refused["status"]["containerStatuses"][0]["state"]["waiting"]["message"].to_string();
        assert!(message.contains(said), "{message}");
        if part != "x" {
            web["metadata"]["annotations"] = json!({"part": "fine"});
            put(&node, &web);
            assert_eq!(ended(&node, name)["status"]["phase"], "Succeeded");
        }
    }
    node.finish();
}

#[test]
fn links_that_a_container_plants_lead_nowhere_even_while_they_change() {
    let node = Node::start();
    let (_, image) = node.busybox();
    std::fs::create_dir(node.path("secret")).unwrap();
    std::fs::write(node.path("secret/file"), "secret").unwrap();
    let canary = node.path("secret");
    // The first container swaps a directory for a link to the host's as fast as it can; the second, which is started
    // again and again, has that path mounted and writes there.
    let swap = format!(
        "mkdir /d/real; i=0; while [ ! -e /d/stop ]; do ln -sfn {0} /d/x 2>/dev/null; rm -rf /d/x; ln -sfn ../../../../../../../../..{0} /d/x; \
         rm -rf /d/x; mkdir /d/x 2>/dev/null; rmdir /d/x 2>/dev/null; ln -sfn real /d/x; rm -f /d/x; done",
        canary.display()
    );
    let volumes = json!([{"name": "d", "emptyDir": {}}]);
    let mut web = pod("web", &image, &swap, &volumes, &json!([{"name": "d", "mountPath": "/d"}]));
    web["spec"]["restartPolicy"] = "Always".into();
    for n in 0..6 {
        let script = "test -e /x/file && echo out >/x/escaped; touch /x/written; exit 0";
        web["spec"]["containers"].as_array_mut().unwrap().push(json!({
            "name": format!("victim{n}"), "image": image, "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", script], "volumeMounts": [{"name": "d", "mountPath": "/x", "subPath": "x/deep"},
            {"name": "d", "mountPath": "/y", "subPath": "x"}]
        }));
    }
    put(&node, &web);
    node.until("web", "tried often", |p| {
        let statuses = p["status"]["containerStatuses"].as_array();
        statuses.is_some_and(|s| s.iter().map(|c| c["restartCount"].as_u64().unwrap_or(0)).sum::<u64>() >= 6)
    });
    let names: Vec<_> =
        std::fs::read_dir(&canary).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, ["file"], "something was made outside of the volume");
    // Quiet now, with a link that leads out: refused with its name.
    let mounts = json!([{"name": "h", "mountPath": "/x", "subPath": "out/file"}]);
    std::fs::create_dir(node.path("shared")).unwrap();
    std::os::unix::fs::symlink(&canary, node.path("shared/out")).unwrap();
    let host = json!([{"name": "h", "hostPath": {"path": node.path("shared")}}]);
    put(&node, &pod("out", &image, "cat /x", &host, &mounts));
    let failed = ended(&node, "out");
    let message = failed["status"]["containerStatuses"][0]["state"]["terminated"]["message"].to_string();
    assert!(message.contains("subPath out/file"), "{failed}");
    node.finish();
}

/// A mount of the host's that a test made, taken away at its end.
struct HostMount(std::path::PathBuf);

impl HostMount {
    fn shared(path: &Path) -> Self {
        std::fs::create_dir(path).unwrap();
        run("mount", &["-t", "tmpfs", "lamina-test", path.to_str().unwrap()]);
        run("mount", &["--make-shared", path.to_str().unwrap()]);
        Self(path.to_owned())
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-R", "-l"]).arg(&self.0).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program} {arguments:?}");
}

#[test]
fn mounts_travel_as_the_propagation_says_and_no_further() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let host = HostMount::shared(&node.path("host"));
    let volumes = json!([{"name": "h", "hostPath": {"path": host.0}}]);
    for (name, propagation) in [("none", "None"), ("down", "HostToContainer"), ("both", "Bidirectional")] {
        let mounts = json!([{"name": "h", "mountPath": "/h", "mountPropagation": propagation}]);
        let mut one = pod(name, &image, "exec sleep 1000", &volumes, &mounts);
        one["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
        put(&node, &one);
        node.running(name);
    }
    let sees = |pod: &str, file: &str| node.lamina(&["exec", pod, "--", "test", "-e", file]).status == 0;
    std::fs::create_dir(host.0.join("later")).unwrap();
    run("mount", &["-t", "tmpfs", "lamina-test", host.0.join("later").to_str().unwrap()]);
    std::fs::write(host.0.join("later/file"), "").unwrap();
    assert!(sees("down", "/h/later/file") && sees("both", "/h/later/file"));
    assert!(!sees("none", "/h/later/file"));

    for name in ["none", "down", "both"] {
        let script = format!("mkdir /h/by-{name} && mount -t tmpfs x /h/by-{name} && touch /h/by-{name}/file");
        node.ok(&["exec", name, "--", "sh", "-c", &script]);
    }
    assert!(host.0.join("by-both/file").exists(), "what is mounted both ways is not on the host");
    assert!(!host.0.join("by-down/file").exists() && !host.0.join("by-none/file").exists());
    assert!(sees("down", "/h/by-both/file") && !sees("none", "/h/by-both/file"));
    for name in ["none", "down", "both"] {
        node.ok(&["exec", name, "--", "busybox", "umount", &format!("/h/by-{name}")]);
    }
    assert!(!host.0.join("by-both/file").exists());
    drop(host);
    node.finish();
}

#[test]
fn read_only_reaches_what_is_mounted_below_where_it_should() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let host = HostMount::shared(&node.path("host"));
    std::fs::create_dir(host.0.join("below")).unwrap();
    run("mount", &["-t", "tmpfs", "lamina-test", host.0.join("below").to_str().unwrap()]);
    let volumes = json!([{"name": "h", "hostPath": {"path": host.0}}]);
    let mounts = json!([
        {"name": "h", "mountPath": "/rw"},
        {"name": "h", "mountPath": "/ro", "readOnly": true},
        {"name": "h", "mountPath": "/all", "readOnly": true, "recursiveReadOnly": "Enabled"},
        {"name": "h", "mountPath": "/some", "readOnly": true, "recursiveReadOnly": "IfPossible"},
        {"name": "h", "mountPath": "/quiet", "bindMountOptions": ["noexec", "nodev", "nosuid"]}
    ]);
    let script = "for d in rw ro all some quiet; do touch /$d/x 2>/dev/null && echo $d; touch /$d/below/x 2>/dev/null && \
                  echo $d/below; done; cat /bin/busybox >/rw/busybox; chmod 755 /rw/busybox; /rw/busybox true && echo runs; \
                  /quiet/busybox true 2>/dev/null || echo denied; grep -c ' /quiet .*nosuid,nodev,noexec' /proc/self/mountinfo";
    put(&node, &pod("web", &image, script, &volumes, &mounts));
    let seen = ended(&node, "web");
    assert_eq!(node.ok(&["logs", "web"]), "rw\nrw/below\nro/below\nquiet\nquiet/below\nruns\ndenied\n1\n", "{seen}");
    let mut shown: Vec<_> = seen["status"]["containerStatuses"][0]["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| (m["mountPath"].as_str().unwrap(), m["recursiveReadOnly"].as_str()))
        .collect();
    shown.sort_unstable();
    assert_eq!(
        shown,
        [
            ("/all", Some("Enabled")),
            ("/quiet", None),
            ("/ro", Some("Disabled")),
            ("/rw", None),
            ("/some", Some("Enabled"))
        ]
    );
    drop(host);
    node.finish();
}
