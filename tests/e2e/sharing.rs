//! Layers are stored once and shared, writable layers are private, and what nothing uses is freed at once.

use crate::support::image::{Config, Layer};
use crate::support::node::Node;
use crate::support::registry::Registry;
use crate::support::wait;

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
         - {{ name: app, image: \"{image}\", imagePullPolicy: IfNotPresent, command: [sleep, \"1000\"] }}\n"
    )
}

fn big(name: &str) -> Layer {
    Layer::new().file(name, name.repeat(20_000).as_bytes(), 0o644)
}

#[test]
fn two_images_share_layers_and_only_the_unshared_goes() {
    let node = Node::start();
    let (mut layout, _) = node.busybox();
    let one = layout.add("one", &[Layer::busybox(), big("runtime"), big("one")], Config::default());
    let two = layout.add("two", &[Layer::busybox(), big("runtime"), big("two")], Config::default());
    node.manifest("one.yaml", &pod("one", &one));
    node.manifest("two.yaml", &pod("two", &two));
    node.running("one");
    node.running("two");
    assert_eq!(node.layers().len(), 4, "base and runtime once, and two of their own");
    let shared = node.json(&["get", "layers"]);
    assert_eq!(shared["items"].as_array().unwrap().len(), 4);
    node.remove_manifest("one.yaml");
    node.gone("one");
    wait("only its own layer is freed", || (node.layers().len() == 3).then_some(()));
    assert_eq!(node.ok(&["exec", "two", "--", "head", "-c", "3", "/two"]), "two");
    node.finish();
}

#[test]
fn containers_of_one_image_do_not_see_each_others_writes() {
    let node = Node::start();
    let (_, image) = node.busybox();
    for name in ["a", "b"] {
        node.manifest(&format!("{name}.yaml"), &pod(name, &image));
        node.running(name);
    }
    for name in ["a", "b"] {
        node.ok(&[
            "exec",
            name,
            "--",
            "sh",
            "-c",
            &format!("echo {name} >/etc/passwd; rm /bin/yes; mkdir /data/{name}"),
        ]);
    }
    for name in ["a", "b"] {
        assert_eq!(node.ok(&["exec", name, "--", "cat", "/etc/passwd"]), format!("{name}\n"));
        assert_eq!(node.ok(&["exec", name, "--", "ls", "/data"]), format!("{name}\n"));
    }
    let changes = node.ok(&["diff", "a"]);
    for line in ["C /etc/passwd", "D /bin/yes", "A /data/a"] {
        assert!(changes.lines().any(|l| l == line), "{line} is not in\n{changes}");
    }
    // What dies with its container need not be on disk, and no end of one waits until all else is written.
    let root = node.ok(&["exec", "a", "--", "grep", "^lamina / overlay", "/proc/mounts"]);
    assert!(root.contains("volatile"), "{root}");
    assert_eq!(node.layers().len(), 1);
    node.finish();
}

#[test]
fn what_a_person_pulled_stays_until_it_is_removed() {
    let node = Node::start();
    let (mut layout, image) = node.busybox();
    let game = layout.add("game", &[Layer::busybox(), big("game")], Config::default());
    node.ok(&["pull", &game]);
    node.manifest("web.yaml", &pod("web", &image));
    node.running("web");
    assert_eq!(node.layers().len(), 2);
    node.remove_manifest("web.yaml");
    node.gone("web");
    node.ok(&["gc"]);
    assert_eq!(node.layers().len(), 2, "a pulled image was collected");
    let game_layer = node.json(&["get", "layers"])["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["metadata"]["name"].as_str().unwrap().to_owned())
        .max()
        .unwrap();
    let why = node.ok(&["why", &game_layer]);
    assert!(why.contains("tag"), "{why}");
    node.ok(&["tag", &game, "local/game:kept"]);
    node.ok(&["rmi", &game]);
    node.ok(&["gc"]);
    assert_eq!(node.layers().len(), 2, "the second tag was ignored");
    let plan = node.ok(&["gc", "--dry-run"]);
    assert_eq!(node.layers().len(), 2, "{plan}");
    node.ok(&["rmi", "local/game:kept"]);
    wait("all layers are freed", || node.layers().is_empty().then_some(()));
    node.finish();
}

#[test]
fn a_pin_holds_an_image_that_no_pod_uses() {
    let node = Node::start();
    let (_, image) = node.busybox();
    node.manifest("web.yaml", &pod("web", &image));
    node.running("web");
    node.ok(&["pin", &image]);
    node.remove_manifest("web.yaml");
    node.gone("web");
    node.ok(&["gc"]);
    assert_eq!(node.layers().len(), 1);
    node.ok(&["unpin", &image]);
    wait("the layer is freed", || node.layers().is_empty().then_some(()));
    node.finish();
}

#[test]
fn check_is_clean_and_finds_a_flipped_bit_and_repair_fetches_anew() {
    let node = Node::start();
    let registry = Registry::start();
    let (layout, _) = node.busybox();
    let image = registry.push(layout.dir(), "busybox", "busybox:1");
    node.ok(&["pull", &image]);
    node.ok(&["check", "--full"]);
    let key = node.layers().pop().unwrap();
    let file = node.path(&format!("root/layers/{key}/layer.erofs"));
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let _ = std::process::Command::new("chattr").arg("-i").arg(&file).status();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&file, bytes).unwrap();
    let said = node.lamina(&["check", "--full"]);
    assert_eq!(said.status, 1, "{}{}", said.out, said.err);
    assert!(format!("{}{}", said.out, said.err).contains(key.get(..19).unwrap()), "{}{}", said.out, said.err);
    node.ok(&["check", "--full", "--repair"]);
    node.ok(&["check", "--full"]);
    node.ok(&["rmi", &image]);
    node.finish();
}

#[test]
fn an_image_is_exported_as_its_one_merged_tree() {
    let node = Node::start();
    let (mut layout, _) = node.busybox();
    let layers = [
        Layer::new().dir("d", 0o755).file("d/gone", b"1", 0o644).file("d/kept", b"low", 0o640),
        Layer::new().dir("d", 0o755).file("d/.wh.gone", b"", 0o644).file("d/new", b"high", 0o600),
    ];
    let image = layout.add("merged", &layers, Config::default());
    node.ok(&["pull", &image]);
    node.ok(&["export", &image, "-o", node.path("out.tar").to_str().unwrap()]);
    let listing = std::process::Command::new("tar").arg("-tf").arg(node.path("out.tar")).output().unwrap();
    let listing = String::from_utf8(listing.stdout).unwrap();
    assert!(listing.contains("d/kept") && listing.contains("d/new") && !listing.contains("gone"), "{listing}");
    node.ok(&["rmi", &image]);
    node.finish();
}
