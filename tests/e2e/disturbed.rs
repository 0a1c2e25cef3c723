//! What others on the machine do to a node's directories: a second agent, something mounted in them, a file that stays
//! open, a writable layer that is in use still. Nothing is lost, and what can go goes.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::support::node::{LAMINA, Node};
use crate::support::{registry, wait};

/// A pod that sleeps, with an emptyDir at `/v`.
fn write(node: &Node, name: &str, image: &str) {
    let container = json!({ "name": "app", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1000"],
        "volumeMounts": [{ "name": "v", "mountPath": "/v" }] });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "terminationGracePeriodSeconds": 0, "containers": [container], "volumes": [{ "name": "v", "emptyDir": {} }] },
    });
    node.manifest(&format!("{name}.json"), &pod.to_string());
}

#[test]
fn a_second_agent_on_the_same_store_or_socket_ends_and_names_the_first() {
    let node = Node::start();
    let (_, image) = node.busybox();
    write(&node, "first", &image);
    node.running("first");
    let pid = node.pid("first", "app");
    let other = tempfile::tempdir().unwrap();
    let agent = |root: &str, run: &str| {
        let out = Command::new(LAMINA)
            .args(["agent", "--root", root, "--run", run, "--manifests"])
            .arg(other.path().join("manifests"))
            .arg("--log-dir")
            .arg(other.path().join("log"))
            .args(["--metrics", &format!("127.0.0.1:{}", registry::free_port())])
            .output()
            .unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (own_root, own_run) = (node.path("root").display().to_string(), node.path("run").display().to_string());
    let (root, run) = (other.path().join("root").display().to_string(), other.path().join("run").display().to_string());
    let (status, said) = agent(&own_root, &run);
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains(&own_root) && said.contains(&format!("process {}", node.agent_pid())), "{said}");
    assert!(said.contains("--root"), "it says what to do: {said}");
    let (status, said) = agent(&root, &own_run);
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains(&own_run) && said.contains("--run"), "{said}");
    assert_eq!(node.pid("first", "app"), pid);
    write(&node, "second", &image);
    node.running("second");
    node.finish();
}

#[test]
fn what_is_mounted_in_a_pods_directory_keeps_its_content_and_holds_nothing_up() {
    let node = Node::start();
    let (_, image) = node.busybox();
    write(&node, "mounted", &image);
    let pod = node.running("mounted");
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
    let precious = node.path("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "kept").unwrap();
    let dir = node.path(&format!("root/pods/{uid}"));
    let place = dir.join("volumes/v/place");
    fs::create_dir(&place).unwrap();
    assert!(Command::new("mount").arg("--bind").arg(&precious).arg(&place).status().unwrap().success());
    node.remove_manifest("mounted.json");
    node.gone("mounted");
    assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "kept");
    wait("its directory is gone", || (!dir.exists()).then_some(()));
    assert!(node.agent_log().contains(place.to_str().unwrap()), "{}", node.agent_log());
    node.finish();
}

#[test]
fn a_writable_layer_that_is_in_use_still_is_not_used_again_and_goes_with_its_pod() {
    let node = Node::start();
    let (_, image) = node.busybox();
    write(&node, "busy", &image);
    let pod = node.running("busy");
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
    node.ok(&["exec", "busy", "--", "sh", "-c", "echo first >/mark"]);
    // Somebody's directory and open file keep the first start's file system mounted.
    let first = node.pid("busy", "app");
    let mut holder = Command::new("sleep")
        .arg("1000")
        .current_dir(format!("/proc/{first}/root/v/.."))
        .stdin(fs::File::open(format!("/proc/{first}/root/mark")).unwrap())
        .spawn()
        .unwrap();
    assert!(Command::new("kill").args(["-9", &first.to_string()]).status().unwrap().success());
    node.until("busy", "started again", |p| {
        let status = &p["status"]["containerStatuses"][0];
        status["restartCount"] == 1 && status["state"]["running"].is_object()
    });
    assert_ne!(node.lamina(&["exec", "busy", "--", "test", "-e", "/mark"]).status, 0, "its writable layer is new");
    node.ok(&["exec", "busy", "--", "sh", "-c", "echo second >/mark && grep -qx second /mark"]);
    assert_eq!(fs::read_to_string(format!("/proc/{}/cwd/mark", holder.id())).unwrap(), "first\n");
    node.remove_manifest("busy.json");
    node.gone("busy");
    wait("its directory is gone", || (!node.path(&format!("root/pods/{uid}")).exists()).then_some(()));
    wait("its layers are freed", || node.layers().is_empty().then_some(()));
    holder.kill().unwrap();
    holder.wait().unwrap();
    node.finish();
}
