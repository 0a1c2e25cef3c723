//! `cp`: files and directories in and out of a running container, whatever its image has and whatever it plants.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::process::Stdio;

use crate::support::image::{Config, Layer};
use crate::support::node::Node;

fn pod(name: &str, image: &str, more: &str, volumes: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  terminationGracePeriodSeconds: 0\n  {volumes}\n  containers:\n  \
         - {{ name: app, image: \"{image}\", imagePullPolicy: IfNotPresent, {more} }}\n"
    )
}

#[test]
fn files_and_directories_go_in_and_out_of_an_image_without_tar() {
    let node = Node::start();
    // One program that sleeps, and nothing else.
    let (mut layout, busybox) = node.busybox();
    let program = fs::read("/bin/busybox").unwrap();
    let bare = layout.add(
        "bare",
        &[Layer::new().dir("data", 0o755).file("sleep", &program, 0o755).file("data/given", b"of the image", 0o640)],
        Config::default(),
    );
    let volume = "volumes: [{ name: v, emptyDir: {} }]";
    let mounts = "command: [/sleep, \"1000\"], volumeMounts: [{ name: v, mountPath: /data/volume }]";
    node.manifest("bare.yaml", &pod("bare", &bare, mounts, volume));
    node.manifest(
        "two.yaml",
        &format!(
            "{}  - {{ name: other, image: \"{busybox}\", command: [sleep, \"1000\"] }}\n",
            pod("two", &busybox, "command: [sleep, \"1000\"]", "")
        ),
    );
    node.running("bare");
    node.running("two");
    let path = |below: &str| node.path(below).display().to_string();

    // A file, with its mode and time; onto one that is there; into a directory; under another name.
    node.ok(&["cp", "bare:/data/given", &path("given")]);
    let stat = fs::metadata(node.path("given")).unwrap();
    assert_eq!((fs::read(node.path("given")).unwrap(), stat.mode() & 0o7777), (b"of the image".to_vec(), 0o640));
    fs::write(node.path("script"), b"#!/bin/sh\n").unwrap();
    fs::set_permissions(node.path("script"), fs::Permissions::from_mode(0o4755)).unwrap();
    node.ok(&["cp", &path("script"), "bare:/data"]);
    node.ok(&["cp", &path("script"), "bare:/data/volume/renamed"]);
    node.ok(&["cp", &path("given"), "bare:/data/script"]);
    assert_eq!(node.ok(&["cp", "bare:/data/script", "-"]), "of the image");
    node.ok(&["cp", "bare:/data/volume/renamed", &path(".")]);
    let renamed = fs::metadata(node.path("renamed")).unwrap();
    assert_eq!((renamed.mode() & 0o7777, renamed.uid()), (0o755, 0), "set-id bits stay behind");

    // A directory with links, hard links, empty files and odd names, there and back.
    let from = node.path("from");
    fs::create_dir_all(from.join("deep/er")).unwrap();
    fs::write(from.join("deep/er/big"), vec![9; 2 << 20]).unwrap();
    fs::hard_link(from.join("deep/er/big"), from.join("twin")).unwrap();
    fs::write(from.join("an odd ünïcode näme"), b"").unwrap();
    symlink("deep/er", from.join("link")).unwrap();
    symlink("/nowhere", from.join("broken")).unwrap();
    fs::set_permissions(from.join("deep"), fs::Permissions::from_mode(0o750)).unwrap();
    node.ok(&["cp", &path("from"), "bare:/data/volume"]);
    node.ok(&["cp", "bare:/data/volume/from", &path("back")]);
    let back = node.path("back");
    let same =
        std::process::Command::new("diff").args(["-r", "--no-dereference"]).arg(&from).arg(&back).output().unwrap();
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
    assert_eq!(fs::metadata(back.join("twin")).unwrap().ino(), fs::metadata(back.join("deep/er/big")).unwrap().ino());
    assert_eq!(fs::metadata(back.join("deep")).unwrap().mode() & 0o7777, 0o750);
    assert_eq!(fs::metadata(back.join("twin")).unwrap().mtime(), fs::metadata(from.join("twin")).unwrap().mtime());
    // Once more: into the one that is there now.
    node.ok(&["cp", "bare:/data/volume/from", &path("back")]);
    assert!(back.join("from/deep/er/big").exists());

    // Through a pipe: a file, and a tar of a directory.
    let mut piped = node.command(&["cp", "-", "bare:/data/piped"]).stdin(Stdio::piped()).spawn().unwrap();
    piped.stdin.take().unwrap().write_all(b"through a pipe").unwrap();
    assert!(piped.wait().unwrap().success());
    assert_eq!(node.ok(&["cp", "bare:/data/piped", "-"]), "through a pipe");
    let tar = node.command(&["cp", "bare:/data/volume/from", "-"]).output().unwrap();
    assert!(tar.status.success());
    node.ok(&["exec", "two", "-c", "other", "--", "mkdir", "/data/whole"]);
    let mut piped = node.command(&["cp", "-c", "other", "-", "two:/data/whole"]).stdin(Stdio::piped()).spawn().unwrap();
    piped.stdin.take().unwrap().write_all(&tar.stdout).unwrap();
    assert!(piped.wait().unwrap().success());
    assert_eq!(
        node.ok(&["exec", "two", "-c", "other", "--", "stat", "-c", "%s %h %u", "/data/whole/twin"]),
        "2097152 2 0\n"
    );
    assert_eq!(node.lamina(&["cp", "two:/data/whole/twin", &path("none")]).status, 4, "it is the other container's");

    for (from, to, status) in [
        ("bare:/none", path("x"), 4),
        ("none:/data", path("x"), 4),
        ("bare:/data", "two:/data".to_owned(), 2),
        ("a", "b".to_owned(), 2),
    ] {
        let said = node.lamina(&["cp", from, &to]);
        assert_eq!(said.status, status, "{from} {to}: {}", said.err);
    }
    node.finish();
}

#[test]
fn no_link_of_a_container_leads_a_copy_out_of_it() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let canary = node.path("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("secret"), b"of the host").unwrap();
    fs::write(node.path("file"), b"of the user").unwrap();
    node.manifest("web.yaml", &pod("web", &image, "command: [sleep, \"1000\"]", ""));
    node.running("web");
    let there = canary.display();
    let plant = format!(
        "mkdir -p /data/d{there}; echo inside > {there}/secret 2>/dev/null; ln -s {there} /data/out; ln -s {there}/secret /data/file; \
         ln -s ../../../../../../../..{there} /data/up; ln -s /proc/1/root{there} /data/jump"
    );
    node.ok(&["exec", "web", "--", "sh", "-c", &format!("mkdir -p {there}; {plant}")]);
    let path = |below: &str| node.path(below).display().to_string();
    // Absolute links and `..` stay inside, where something else lies under that name.
    for link in ["out/secret", "file", "up/secret"] {
        assert_eq!(node.ok(&["cp", &format!("web:/data/{link}"), "-"]), "inside\n", "{link}");
        node.ok(&["cp", &path("file"), &format!("web:/data/{link}")]);
        node.ok(&["exec", "web", "--", "sh", "-c", &format!("echo inside > {there}/secret")]);
    }
    // A link of /proc that jumps is refused.
    assert_ne!(node.lamina(&["cp", "web:/data/jump/secret", "-"]).status, 0);
    assert_ne!(node.lamina(&["cp", &path("file"), "web:/data/jump/secret"]).status, 0);
    // Links in a directory come out as links.
    node.ok(&["cp", "web:/data", &path("got")]);
    assert!(fs::symlink_metadata(node.path("got/out")).unwrap().is_symlink());
    assert_eq!(fs::read(canary.join("secret")).unwrap(), b"of the host");
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 1);
    node.finish();
}

#[test]
fn in_a_pod_with_users_of_its_own_owners_are_those_of_the_container() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let host = node.path("host");
    fs::create_dir(&host).unwrap();
    let volumes = format!(
        "hostUsers: false\n  volumes: [{{ name: disk, emptyDir: {{}} }}, {{ name: memory, emptyDir: {{ medium: Memory }} }}, \
         {{ name: host, hostPath: {{ path: {} }} }}]",
        host.display()
    );
    let mounts = "command: [sleep, \"1000\"], volumeMounts: [{ name: disk, mountPath: /disk }, \
                  { name: memory, mountPath: /memory }, { name: host, mountPath: /host }]";
    node.manifest("mapped.yaml", &pod("mapped", &image, mounts, &volumes));
    node.running("mapped");
    let path = |below: &str| node.path(below).display().to_string();
    let inside = |script: &str| node.ok(&["exec", "mapped", "--", "sh", "-c", script]);

    fs::create_dir_all(node.path("from/deep")).unwrap();
    fs::write(node.path("from/deep/file"), b"one").unwrap();
    symlink("file", node.path("from/deep/link")).unwrap();
    for name in ["from/deep", "from/deep/file"] {
        std::os::unix::fs::chown(node.path(name), Some(1000), Some(2000)).unwrap();
    }
    for to in ["/", "/disk", "/memory", "/host"] {
        node.ok(&["cp", &path("from"), &format!("mapped:{to}")]);
        node.ok(&["cp", &path("from/deep/file"), &format!("mapped:{to}/single")]);
        node.ok(&["cp", "--archive", &path("from"), &format!("mapped:{to}/kept")]);
        node.ok(&["cp", "--archive", &path("from/deep/file"), &format!("mapped:{to}/kept")]);
        let owners = format!(
            "cd {to}; stat -c %u:%g from from/deep from/deep/file from/deep/link single kept | sort -u; \
             stat -c %u:%g kept/deep kept/deep/file kept/file | sort -u; cat from/deep/link single kept/file"
        );
        assert_eq!(inside(&owners), "0:0\n1000:2000\noneoneone", "{to}");
    }
    // On what is there, also where it has become another's, and out again.
    inside("chown 7:8 /disk/single; chmod 600 /disk/single");
    fs::write(node.path("two"), b"two").unwrap();
    node.ok(&["cp", &path("two"), "mapped:/disk/single"]);
    assert_eq!(node.ok(&["cp", "mapped:/disk/single", "-"]), "two");
    for from in ["/kept", "/disk/kept"] {
        node.ok(&["cp", "--archive", &format!("mapped:{from}"), &path("back")]);
        let stat = fs::metadata(node.path("back/deep/file")).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (1000, 2000), "{from}");
        node.ok(&["cp", "--archive", &format!("mapped:{from}/file"), &path("file")]);
        assert_eq!(fs::metadata(node.path("file")).unwrap().uid(), 1000);
        fs::remove_dir_all(node.path("back")).unwrap();
    }
    // An id that it does not have would be another pod's.
    std::os::unix::fs::chown(node.path("two"), Some(70_000), Some(0)).unwrap();
    let said = node.lamina(&["cp", "--archive", &path("two"), "mapped:/large"]);
    assert!(said.status == 1 && said.err.contains("no user 70000"), "{} {}", said.status, said.err);
    assert_eq!(inside("ls / | grep -c large || true"), "0\n");
    node.finish();
}
