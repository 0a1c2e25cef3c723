//! A real registry, images by other tools, and trees compared entry by entry with another implementation's.

use std::path::Path;
use std::process::Command;

use crate::support::image::{Config, Layer};
use crate::support::node::Node;
use crate::support::registry::Registry;
use crate::support::wait;

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn only_the_layer_that_changed_is_fetched() {
    let node = Node::start();
    let registry = Registry::start();
    let (mut layout, _) = node.busybox();
    let names = registry.versions(&mut layout, "game");
    node.ok(&["pull", &names[0]]);
    let fetched = |node: &Node| -> f64 {
        let (_, text) = node.http("/metrics").unwrap();
        let line = text.lines().find(|l| l.starts_with("lamina_image_pull_bytes_total{kind=\"fetched\"}")).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let first = fetched(&node);
    node.ok(&["pull", &names[1]]);
    let second = fetched(&node) - first;
    assert!(second > 0.0 && second < 20_000.0, "{second} bytes were fetched for one small layer");
    assert_eq!(node.layers().len(), 4);
    for name in &names {
        node.ok(&["rmi", name]);
    }
    wait("all is freed", || node.layers().is_empty().then_some(()));
    node.finish();
}

#[test]
fn an_image_made_by_buildah_runs() {
    let node = Node::start();
    let registry = Registry::start();
    let name = registry.name("made/by-buildah:1");
    let work = node.path("buildah");
    std::fs::create_dir(&work).unwrap();
    std::fs::copy("/bin/busybox", work.join("busybox")).unwrap();
    std::fs::write(
        work.join("Containerfile"),
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\nENV GREETING=hello\nWORKDIR /srv/app\n\
         USER 1000:1000\nENTRYPOINT [\"/bin/sh\", \"-c\", \"echo $GREETING from $PWD\"]\n",
    )
    .unwrap();
    let storage = [
        "--root".to_owned(),
        work.join("root").display().to_string(),
        "--runroot".to_owned(),
        work.join("runroot").display().to_string(),
        "--storage-driver=vfs".to_owned(),
    ];
    let policy = work.join("policy.json");
    std::fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    run(Command::new("buildah")
        .args(&storage)
        .args(["build", "--layers", "--isolation", "chroot", "--signature-policy"])
        .arg(&policy)
        .args(["-t", "x", "."])
        .current_dir(&work));
    run(Command::new("buildah")
        .args(&storage)
        .args(["push", "--tls-verify=false", "--signature-policy"])
        .arg(&policy)
        .arg("x")
        .arg(format!("docker://{name}")));
    let said = node.lamina(&["run", "--rm", &name]);
    assert_eq!((said.status, said.out.as_str()), (0, "hello from /srv/app\n"), "{}", said.err);
    node.finish();
}

#[test]
fn a_cut_off_registry_is_said_and_what_is_here_still_runs() {
    let node = Node::start();
    let mut registry = Registry::start();
    let (mut layout, _) = node.busybox();
    layout.add("x", &[Layer::busybox()], Config::default());
    let name = registry.push(layout.dir(), "x", "x:1");
    node.ok(&["pull", &name]);
    registry.stop();
    let said = node.lamina(&["pull", &registry.name("other:1")]);
    assert_eq!(said.status, 1);
    assert!(said.err.contains("127.0.0.1"), "{}", said.err);
    let said = node.lamina(&["run", "--rm", &name, "--", "echo", "offline"]);
    assert_eq!(said.out, "offline\n", "{}", said.err);
    node.ok(&["rmi", &name]);
    node.finish();
}

/// Every entry of a tree: type, mode, owner, size, time, device, link target, xattrs, content, hard links.
fn tree(root: &Path) -> Vec<String> {
    let script = r#"
        cd "$1"
        find . -xdev -mindepth 1 -printf '%P\0' | sort -z | while IFS= read -r -d '' f; do
            meta=$(stat -c '%F %a %u %g %t:%T %h' -- "$f")
            # A directory's size and link count are the file system's own business.
            if [ -d "$f" ] && [ ! -L "$f" ]; then meta=$(stat -c '%F %a %u %g' -- "$f"); else meta="$meta $(stat -c '%s' -- "$f")"; fi
            time=$(stat -c '%y' -- "$f")
            sum=-; [ -f "$f" ] && [ ! -L "$f" ] && sum=$(sha256sum <"$f" | cut -c1-16)
            link=-; [ -L "$f" ] && link=$(readlink -- "$f")
            attrs=$(getfattr -h -d -m '^(user|security|system.posix)' -e hex -- "$f" 2>/dev/null | grep -v '^#' | sort | tr '\n' ' ' || true)
            printf '%q %s %s %s %s %s\n' "$f" "$meta" "$time" "$sum" "$link" "$attrs"
        done
    "#;
    let out = run(Command::new("bash").args(["-c", script, "tree"]).arg(root));
    out.lines().map(str::to_owned).collect()
}

#[test]
fn the_tree_equals_what_umoci_unpacks() {
    let node = Node::start();
    let work = node.path("umoci");
    std::fs::create_dir(&work).unwrap();
    // Two layers by GNU tar with everything a real image may hold.
    let script = r#"
        cd "$1"
        mkdir -p a b; cd a
        mkdir -p bin d/sub opq etc; cp /bin/busybox bin/busybox; ln -s busybox bin/sh
        echo low >d/file; ln d/file d/hard; ln -s ../nowhere d/dangling; mkfifo d/fifo; mknod d/null c 1 3; mknod d/disk b 7 200
        echo x >opq/hidden; echo y >d/removed; : >d/empty; truncate -s 5M d/sparse; echo end >>d/sparse
        name=$(printf 'n%.0s' $(seq 255)); echo long >"d/$name"; echo odd >"d/new
line"; printf x >"d/$(printf '\377\376')"; echo s >d/' space '
        chmod 6755 bin/busybox; chmod 1777 d/sub; chown 4000000000:4000000001 d/empty; chmod 0 d/removed
        setfattr -n user.note -v value d/file; setcap cap_net_bind_service+ep bin/busybox 2>/dev/null || setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 bin/busybox
        setfacl -m u:1234:rw d/empty
        touch -d '1960-02-03 04:05:06.789' d/sub; touch -d '2100-01-01 00:00:00.123456789' d/file; touch -h -d '2001-01-01' d/dangling
        cd ../b; mkdir -p d opq
        echo high >d/file2; : >d/.wh.removed; : >opq/.wh..wh..opq; echo z >opq/new
        cd ..
        for l in a b; do tar --xattrs --xattrs-include='*' --acls --format=pax --sort=name -C $l -cSf $l.tar .; done
        umoci init --layout layout; umoci new --image layout:x
        umoci raw add-layer --image layout:x a.tar; umoci raw add-layer --image layout:x b.tar
        umoci unpack --image layout:x bundle >/dev/null
    "#;
    run(Command::new("bash").args(["-euc", script, "make"]).arg(&work));
    let expected = tree(&work.join("bundle/rootfs"));
    let name = format!("oci:{}:x", work.join("layout").display());
    node.manifest(
        "x.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: x }}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
             - {{ name: app, image: \"{name}\", imagePullPolicy: IfNotPresent, command: [/bin/sh, -c, \"while :; do read x </d/fifo; done\"] }}\n"
        ),
    );
    node.running("x");
    let pid = node.pid("x", "app");
    let mut seen = tree(Path::new(&format!("/proc/{pid}/root")));
    // What the runtime mounts or makes is not the image's.
    let ours = ["dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf"];
    seen.retain(|line| {
        let path = line.split(' ').next().unwrap();
        !ours.iter().any(|o| path == *o || path.starts_with(&format!("{o}/")))
    });
    let times_of_touched =
        |lines: &[String]| -> Vec<String> { lines.iter().filter(|l| !l.starts_with("etc ")).cloned().collect() };
    assert_eq!(times_of_touched(&seen), times_of_touched(&expected));
    node.finish();
}
