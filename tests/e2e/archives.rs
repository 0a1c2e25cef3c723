//! The image directory: archives there are images, without a registry, for as long as they lie there.

use std::path::Path;
use std::process::Command;

use crate::support::image::{Config, Layer};
use crate::support::node::Node;
use crate::support::wait;

fn run(command: &mut Command) {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
         - {{ name: app, image: \"{image}\", imagePullPolicy: IfNotPresent, command: [sleep, \"1000\"] }}\n"
    )
}

/// Puts what `make` makes into the image directory in one step.
fn put(node: &Node, name: &str, make: impl FnOnce(&Path)) {
    let tmp = node.path(&format!("making-{name}"));
    make(&tmp);
    std::fs::rename(tmp, node.path("image-files").join(name)).unwrap();
}

fn names(node: &Node) -> Vec<String> {
    let images = node.json(&["get", "images"]);
    let of = |i: &serde_json::Value| {
        i["status"]["references"].as_array().unwrap().iter().map(|n| n.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    images["items"].as_array().unwrap().iter().flat_map(of).collect()
}

#[test]
fn archives_in_the_image_directory_are_images_while_they_lie_there() {
    let mut node = Node::start();
    let (mut layout, _) = node.busybox();
    let own = |n: &str| Layer::new().file("which", n.as_bytes(), 0o644);
    for n in ["1", "2", "3"] {
        layout.add(n, &[Layer::busybox(), own(n)], Config::default());
    }
    let skopeo = |tag: &str, to: String| {
        run(Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet"])
            .arg(format!("oci:{}:{tag}", layout.dir().display()))
            .arg(to));
    };
    // A docker archive compressed as a whole, an OCI archive, an OCI layout as a directory, and noise.
    let docker = |to: &Path| {
        skopeo("1", format!("docker-archive:{}:game.example/game:1", to.with_extension("plain").display()));
        run(Command::new("gzip").arg(to.with_extension("plain")));
        std::fs::rename(to.with_extension("plain.gz"), to).unwrap();
    };
    // The pod comes first: its image's registry does not exist.
    node.manifest("one.yaml", &pod("one", "game.example/game:1"));
    node.until("one", "without its image", |p| {
        p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].as_str().is_some_and(|r| r.contains("Pull"))
    });
    put(&node, "noise.tar", |to| std::fs::write(to, b"this is no archive").unwrap());
    put(&node, "one.tar.gz", docker);
    node.running("one");
    put(&node, "two.tar", |to| skopeo("2", format!("oci-archive:{}:game.example/game:2", to.display())));
    put(&node, "three", |to| skopeo("3", format!("oci:{}:three", to.display())));
    wait("all three are there", || {
        let all = names(&node);
        ["game.example/game:1", "game.example/game:2", "localhost/three:three"]
            .iter()
            .all(|n| all.contains(&(*n).to_owned()))
            .then_some(())
    });
    let events = node.ok(&["get", "events", "-A"]);
    assert!(
        events.contains("noise.tar")
            && events.contains("cannot be loaded")
            && events.contains("loaded game.example/game:2"),
        "{events}"
    );
    assert!(
        node.ok(&["why", "game.example/game:2"]).contains("two.tar"),
        "{}",
        node.ok(&["why", "game.example/game:2"])
    );
    assert_eq!(node.layers().len(), 4, "the base is there once");
    assert_eq!(node.ok(&["run", "--rm", "localhost/three:three", "--", "cat", "/which"]), "3");

    // Over a restart of the agent all is as it was, and nothing is read again.
    node.stop_agent();
    std::fs::remove_file(node.path("image-files/two.tar")).unwrap();
    node.start_agent();
    wait("what is gone is freed", || (node.layers().len() == 3).then_some(()));
    assert!(!node.agent_log().contains("loaded "), "{}", node.agent_log());
    assert!(names(&node).contains(&"localhost/three:three".to_owned()));
    // Another version in its place: what only the old one had goes.
    put(&node, "new.tar", |to| skopeo("2", format!("oci-archive:{}:game.example/game:1", to.display())));
    wait("the name means the new one", || {
        (node.lamina(&["run", "--rm", "game.example/game:1", "--", "cat", "/which"]).out == "2").then_some(())
    });
    // What a pod runs stays for it.
    for name in ["one.tar.gz", "noise.tar", "new.tar"] {
        std::fs::remove_file(node.path("image-files").join(name)).unwrap();
    }
    std::fs::remove_dir_all(node.path("image-files/three")).unwrap();
    wait("only the pod's image is left", || (node.layers().len() == 2).then_some(()));
    node.ok(&["exec", "one", "--", "cat", "/which"]);
    node.remove_manifest("one.yaml");
    wait("the store is empty", || node.layers().is_empty().then_some(()));
    node.finish();
}

#[test]
fn an_archive_that_found_no_room_is_loaded_once_there_is_some() {
    let binary = std::fs::metadata(crate::support::node::LAMINA).unwrap().len();
    let node = Node::on_a_disk_of(binary + (32 << 20));
    let (mut layout, _) = node.busybox();
    // Nothing that would be smaller in the store.
    let mut noise = vec![0; 8 << 20];
    std::fs::File::open("/dev/urandom").and_then(|mut f| std::io::Read::read_exact(&mut f, &mut noise)).unwrap();
    layout.add("big", &[Layer::busybox(), Layer::new().file("noise", &noise, 0o644)], Config::default());
    // All but a little of the disk is somebody else's.
    let filler = node.path("root/filler");
    let file = std::fs::File::create(&filler).unwrap();
    let room = rustix::fs::statvfs(node.path("root")).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, room.f_bavail * room.f_bsize - (4 << 20))
        .unwrap();
    drop(file);
    put(&node, "big.tar", |to| {
        run(Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet"])
            .arg(format!("oci:{}:big", layout.dir().display()))
            .arg(format!("oci-archive:{}:game.example/big:1", to.display())));
    });
    wait("it is told of", || {
        let events = node.ok(&["get", "events", "-A"]);
        (events.contains("big.tar") && events.contains("No space left")).then_some(())
    });
    // Nothing is said to the agent, and the file stays as it is.
    std::fs::remove_file(&filler).unwrap();
    wait("the image is there", || names(&node).contains(&"game.example/big:1".to_owned()).then_some(()));
    node.finish();
}
