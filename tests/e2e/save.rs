//! Images as archives: what is saved is what was pulled, and others load it.

use std::process::Command;

use serde_json::Value;

use crate::support::image::{Config, Layer};
use crate::support::node::Node;
use crate::support::registry::Registry;
use crate::support::wait;

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The diffIDs of an image, as skopeo reads them from its config.
fn diff_ids(image: &str) -> Vec<String> {
    let text = run(Command::new("skopeo").args(["inspect", "--config", "--raw", "--tls-verify=false", image]));
    let config: Value = serde_json::from_str(&text).unwrap();
    let ids = config["rootfs"]["diff_ids"].as_array().unwrap();
    ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_saved_image_has_the_same_layers_wherever_it_is_loaded() {
    let node = Node::start();
    let registry = Registry::start();
    let (mut layout, _) = node.busybox();
    let mut layers = vec![Layer::busybox()];
    // One that does not stand alone, and is kept by its chain.
    layers.push(Layer::new().file("data/a/b/undeclared", b"below what no entry declares", 0o640));
    layers.push(Layer::new().file("bin/.wh.yes", b"", 0o644).link("data/link", "/etc/passwd").fifo("data/pipe"));
    layout.add("1", &layers, Config::default().set("Env", serde_json::json!(["A=b"])));
    layout.add("2", &layers[..1], Config::default());
    let one = registry.push(layout.dir(), "1", "game:1");
    let two = registry.push(layout.dir(), "2", "other/game:2");
    for name in [&one, &two] {
        node.ok(&["pull", name]);
    }
    let original = diff_ids(&format!("docker://{one}"));
    assert_eq!(original.len(), 3);
    let keys = node.layers();

    let path = |name: &str| node.path(name).display().to_string();
    node.ok(&["save", &one, &two, "-o", &path("oci.tar")]);
    node.ok(&["save", &one, "-o", &path("docker.tar"), "--format", "docker-archive"]);
    // The same content is the same archive, on standard output, too.
    let again = node.command(&["save", &one, &two]).output().unwrap();
    assert!(again.status.success() && again.stdout == std::fs::read(node.path("oci.tar")).unwrap());
    assert_eq!(diff_ids(&format!("docker-archive:{}:{one}", path("docker.tar"))), original);
    let copy = format!("oci:{}:copy", path("copied"));
    run(Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet"])
        .arg(format!("docker-archive:{}", path("docker.tar")))
        .arg(&copy));
    assert_eq!(diff_ids(&copy), original);
    let listed = run(Command::new("tar").args(["-xOf", &path("oci.tar"), "index.json"]));
    assert!(listed.contains(&one) && listed.contains(&two), "{listed}");

    // Elsewhere they become the very same layers.
    let other = Node::start();
    for archive in ["oci.tar", "docker.tar"] {
        other.ok(&["load", "-i", &path(archive)]);
        assert_eq!(other.layers(), keys, "{archive}");
        let said = other.ok(&[
            "run",
            "--rm",
            &one,
            "--",
            "sh",
            "-c",
            "cat /data/a/b/undeclared; test -e /bin/yes || echo gone; echo $A",
        ]);
        assert_eq!(said, "below what no entry declaresgone\nb\n", "{archive}");
        for name in [&one, &two] {
            let _ = other.lamina(&["rmi", name]);
        }
        wait("the store is empty", || other.layers().is_empty().then_some(()));
    }
    other.finish();

    // What is not there leaves no file behind.
    let missing = node.lamina(&["save", "none:1", "-o", &path("none.tar")]);
    assert!(missing.status == 4 && !node.path("none.tar").exists(), "{}", missing.err);
    for name in [&one, &two] {
        node.ok(&["rmi", name]);
    }
    node.finish();
}
