//! Images that want out: nothing outside the state directory and the pod's volumes is ever touched (I6).

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::image::{Config, Layer};
use crate::support::node::Node;

/// A tree on the host that must look the same afterwards.
struct Canary {
    dir: PathBuf,
    before: Vec<String>,
}

impl Canary {
    fn place(node: &Node) -> Self {
        let dir = node.path("canary");
        for sub in ["dev", "proc", "etc"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
            fs::write(dir.join(sub).join("ptmx"), "canary").unwrap();
            fs::write(dir.join(sub).join("passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        }
        let before = listing(&dir);
        Self { dir, before }
    }

    fn check(&self) {
        assert_eq!(listing(&self.dir), self.before, "something outside was touched");
    }
}

fn listing(dir: &Path) -> Vec<String> {
    let out =
        std::process::Command::new("find").arg(dir).args(["-printf", "%P %y %m %U:%G %s %T@ %l\n"]).output().unwrap();
    let mut lines: Vec<String> = String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// busybox at `/bin`, without the directories that a hostile layer puts links in place of.
fn base_without(name: &str) -> Layer {
    let busybox = fs::read("/bin/busybox").unwrap();
    let mut layer = Layer::new().dir("bin", 0o755).file("bin/busybox", &busybox, 0o755);
    for applet in ["sh", "echo", "ls", "id", "true"] {
        layer = layer.link(&format!("bin/{applet}"), "busybox");
    }
    for dir in ["dev", "proc", "sys", "etc", "data"] {
        if dir != name {
            layer = layer.dir(dir, 0o755);
        }
    }
    layer
}

#[test]
fn system_directories_that_are_links_to_the_host_stay_inside() {
    let node = Node::start();
    let canary = Canary::place(&node);
    let (mut layout, _) = node.busybox();
    let climbing = format!("../../../../../../../../..{}", canary.dir.display());
    for (n, name) in ["dev", "proc", "sys", "etc"].iter().enumerate() {
        for (m, target) in [format!("{}/{name}", canary.dir.display()), format!("{climbing}/{name}")].iter().enumerate()
        {
            let tag = format!("link-{n}-{m}");
            let image = layout.add(&tag, &[base_without(name).link(name, target)], Config::default());
            let said = node.lamina(&["run", "--rm", &image, "--", "/bin/sh", "-c", "echo inside"]);
            // Refusing is as good as containing; reaching out is neither.
            assert!(said.status == 0 || said.status == 125, "{name}: {}{}", said.out, said.err);
            canary.check();
        }
    }
    node.finish();
}

#[test]
fn mount_targets_and_the_working_directory_stay_inside() {
    let node = Node::start();
    let canary = Canary::place(&node);
    let (mut layout, _) = node.busybox();
    let out = canary.dir.display().to_string();
    let layer = base_without("").link("data/out", &out).link("work", &out);
    let config = Config::default().set("WorkingDir", json!("/work"));
    let image = layout.add("targets", &[layer], config);
    node.manifest(
        "targets.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: targets }}\nspec:\n  restartPolicy: Never\n  \
             volumes: [{{ name: v, emptyDir: {{}} }}]\n  containers:\n  - name: app\n    image: \"{image}\"\n    \
             command: [/bin/sh, -c, \"echo x >here; echo y >/data/out/sub/there\"]\n    \
             volumeMounts: [{{ name: v, mountPath: /data/out/sub }}]\n"
        ),
    );
    node.until("targets", "ended", |p| {
        p["status"]["phase"] != "Pending" && p["status"]["phase"] != "Running"
            || p["status"]["containerStatuses"][0]["state"]["waiting"]["message"].is_string()
    });
    canary.check();
    node.finish();
}

#[test]
fn a_user_that_is_no_number_or_name_never_becomes_root() {
    let node = Node::start();
    let (mut layout, _) = node.busybox();
    for (n, user) in [
        "4294967296",
        "-1",
        "0x0",
        "nosuchuser",
        "4294967295",
        "1e3",
        " 0",
        "0 ",
        "player:nosuchgroup",
        "99999999999999999999",
    ]
    .iter()
    .enumerate()
    {
        let config = Config::default().set("User", json!(user));
        let image = layout.add(&format!("user-{n}"), &[Layer::busybox()], config);
        let said = node.lamina(&["run", "--rm", &image, "--", "id", "-u"]);
        assert_ne!(said.status, 0, "USER {user:?} ran as {}", said.out);
        assert!(said.err.contains("user") || said.err.contains("USER"), "USER {user:?}: {}", said.err);
    }
    for (user, uid, gid, groups) in
        [("player", "1000", "1000", "1000 29"), ("1000:29", "1000", "29", "29"), ("12345", "12345", "0", "0")]
    {
        let config = Config::default().set("User", json!(user));
        let image = layout.add("good", &[Layer::busybox()], config);
        let said = node.lamina(&["run", "--rm", &image, "--", "sh", "-c", "id -u; id -g; id -G"]);
        let lines: Vec<&str> = said.out.lines().collect();
        assert_eq!(lines, [uid, gid, groups], "USER {user}: {}", said.err);
    }
    node.finish();
}

#[test]
fn a_password_file_that_is_a_fifo_or_huge_blocks_nobody() {
    let node = Node::start();
    let (mut layout, _) = node.busybox();
    let config = || Config::default().set("User", json!("player"));
    let fifo = layout.add("fifo", &[base_without("").fifo("etc/passwd")], config());
    assert_ne!(node.lamina(&["run", "--rm", &fifo, "--", "id"]).status, 0);
    let huge = "x".repeat(64 << 20);
    let huge = layout.add("huge", &[base_without("").file("etc/passwd", huge.as_bytes(), 0o644)], config());
    assert_ne!(node.lamina(&["run", "--rm", &huge, "--", "id"]).status, 0);
    node.finish();
}

#[test]
fn hostile_layers_are_refused_or_contained_and_leave_nothing() {
    let node = Node::start();
    let canary = Canary::place(&node);
    let (mut layout, _) = node.busybox();
    let out = canary.dir.display().to_string();
    let cases: Vec<(&str, Layer)> = vec![
        ("parent", Layer::new().file("../../../escape", b"x", 0o644)),
        ("absolute", Layer::new().file("/escape", b"x", 0o644)),
        ("through", Layer::new().link("out", &out).file("out/escape", b"x", 0o644)),
        ("hardlink", Layer::new().entry("hard", b'1', 0o644, "../../../../etc/passwd", b"", (0, 0))),
        ("hardlink-link", Layer::new().link("out", &out).entry("hard", b'1', 0o644, "out/etc/passwd", b"", (0, 0))),
        ("whiteout-dot", Layer::new().file(".wh..", b"", 0o644)),
        ("whiteout-dots", Layer::new().file(".wh...", b"", 0o644)),
        ("device-zero", Layer::new().device("zero", b'3', 0, 0)),
        ("replaced", Layer::new().dir("d", 0o755).link("d", &out).file("d/escape", b"x", 0o644)),
        ("setuid", Layer::new().file("su", b"x", 0o6755)),
    ];
    for (name, layer) in cases {
        let image = layout.add(name, &[Layer::busybox(), layer], Config::default());
        let said = node.lamina(&["run", "--rm", &image, "--", "sh", "-c", "ls -la / >/dev/null; echo ok"]);
        assert!(said.status == 0 || !said.err.is_empty(), "{name}: {}", said.status);
        canary.check();
        crate::support::wait(&format!("{name} leaves nothing in the store"), || node.layers().is_empty().then_some(()));
    }
    assert!(!Path::new("/escape").exists());
    node.finish();
}
