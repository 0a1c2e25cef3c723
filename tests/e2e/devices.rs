//! Devices that files of the node describe (CDI).

use std::fs;

use serde_json::json;

use crate::support::node::Node;

fn write(node: &Node, name: &str, image: &str, device: &str, script: &str) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "restartPolicy": "Never", "containers": [{
            "name": "app", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", format!("set -e; {script}")],
            "resources": { "limits": { device: "1" } },
        }] },
    });
    node.manifest(&format!("{name}.json"), &pod.to_string());
}

#[test]
fn a_device_brings_its_nodes_mounts_variables_and_groups() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(&["--cdi-dir", dir.path().to_str().unwrap()]);
    let (_, image) = node.busybox();
    let library = node.path("library");
    fs::create_dir(&library).unwrap();
    fs::write(library.join("lib"), "of the vendor").unwrap();
    // The maker of loop devices, which no container has by default.
    let file = json!({
        "cdiVersion": "0.6.0", "kind": "vendor.com/log",
        "containerEdits": { "env": ["VENDOR=all"], "mounts": [{ "hostPath": library, "containerPath": "/usr/vendor", "options": ["ro", "bind"] }] },
        "devices": [
            { "name": "one", "containerEdits": { "env": ["DEVICE=one"], "additionalGids": [4321],
                "deviceNodes": [{ "path": "/dev/vendor/log", "hostPath": "/dev/loop-control", "permissions": "r", "fileMode": 0o644, "gid": 4321 }] } },
            { "name": "two", "containerEdits": { "env": ["DEVICE=two"] } },
        ],
    });
    fs::write(dir.path().join("vendor.json"), file.to_string()).unwrap();
    fs::write(dir.path().join("broken.yaml"), "kind: other.com/thing\n").unwrap();
    fs::write(dir.path().join("hooks.yaml"), "cdiVersion: 0.5.0\nkind: hooks.com/x\ndevices:\n- name: a\n  containerEdits: { hooks: [{ hookName: createContainer, path: /bin/true }] }\n").unwrap();
    write(
        &node,
        "with",
        &image,
        "vendor.com/log=one",
        "test -c /dev/vendor/log; : </dev/vendor/log; if (: >/dev/vendor/log) 2>/dev/null; then exit 1; fi; \
         test $(stat -c %a:%g /dev/vendor/log) = 644:4321; test \"$VENDOR$DEVICE\" = allone; grep -q 'of the vendor' /usr/vendor/lib; \
         if touch /usr/vendor/x 2>/dev/null; then exit 1; fi; id -G | grep -q 4321",
    );
    write(&node, "without", &image, "vendor.com/log=two", "test ! -e /dev/vendor; test \"$VENDOR$DEVICE\" = alltwo");
    for name in ["with", "without"] {
        let pod = node.until(name, "ended", |p| matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed")));
        assert_eq!(pod["status"]["phase"], "Succeeded", "{name}: {}\n{}", node.ok(&["logs", name]), pod["status"]);
    }
    for (name, device, parts) in [
        ("unknown", "vendor.com/log=three", ["vendor.com/log=three", dir.path().to_str().unwrap()]),
        ("broken", "other.com/thing=a", ["broken.yaml", "cdiVersion"]),
        ("hooks", "hooks.com/x=a", ["hooks.yaml", "hooks are not supported"]),
    ] {
        write(&node, name, &image, device, "true");
        let pod = node.until(name, "waiting", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
                .as_str()
                .is_some_and(|m| m.contains(device))
        });
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        assert_eq!(waiting["reason"], "CreateContainerConfigError");
        for part in parts {
            assert!(waiting["message"].as_str().unwrap().contains(part), "{part}: {waiting}");
        }
    }
    node.finish();
}
