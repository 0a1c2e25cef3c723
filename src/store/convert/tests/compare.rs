//! Layers as the kernel shows them, compared with what GNU tar unpacks. Needs root and a kernel with EROFS.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::testing::{Head, Tar, convert};
use crate::store::driver::Driver;
use crate::sys::mount::{Mount, overlay};
use std::os::fd::AsFd as _;

/// Everything that `stat` says and what is in it, by path.
fn look(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut out = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(root.join(&dir)).unwrap() {
            let path = dir.join(entry.unwrap().file_name());
            let full = root.join(&path);
            let m = full.symlink_metadata().unwrap();
            let mut text =
                format!("{:o} {}:{} {}.{} {:x} ", m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec(), m.rdev());
            if m.is_dir() {
                pending.push(path.clone());
            } else {
                write!(text, "links {} ", m.nlink()).unwrap();
            }
            if m.is_file() {
                text += &crate::oci::Digest::sha256_of(&std::fs::read(&full).unwrap()).to_string();
                let first = inodes.entry(m.ino()).or_insert_with(|| path.clone());
                if m.nlink() > 1 && *first > path {
                    *first = path.clone();
                }
            }
            if m.is_symlink() {
                text += std::fs::read_link(&full).unwrap().to_str().unwrap();
            }
            let mut value = vec![0; 256];
            for name in ["user.a", "security.capability"] {
                if let Ok(n) = rustix::fs::lgetxattr(&full, name, &mut value[..]) {
                    write!(text, " {name}={:?}", &value[..n]).unwrap();
                }
            }
            out.insert(path, text);
        }
    }
    out
}

fn unpack(tar: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.tar");
    std::fs::write(&file, tar).unwrap();
    std::fs::create_dir(dir.path().join("root")).unwrap();
    let out = Command::new("tar")
        .args(["--numeric-owner", "--same-owner", "-p", "--xattrs", "--xattrs-include=*", "-xf"])
        .arg(&file)
        .arg("-C")
        .arg(dir.path().join("root"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    dir
}

#[test]
fn a_mounted_layer_shows_what_gnu_tar_unpacks() {
    let names: Vec<String> = (0..3000).map(|n| format!("many/file-{n}-{}", "x".repeat(n % 60))).collect();
    let long = "l".repeat(255);
    let mut tar = Tar::new().dir("./").dir("many/");
    for name in &names {
        tar = tar.file(name, &name.as_bytes()[..name.len() % 7]);
    }
    tar = tar.dir("d/");
    for n in 0..200_usize {
        let target = "t/".repeat(n * 10 + 1);
        tar = tar.pax(&[("linkpath", target.as_bytes())]).symlink(&format!("d/link{n}"), "x");
    }
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tar = tar
        .entry(&Head { name: "d/su", mode: 0o6755, uid: 5, gid: 6, ..Head::default() }, b"su")
        .pax(&[("path", long.as_bytes())])
        .file("x", b"long")
        .pax(&[("uid", b"4000000000"), ("mtime", b"-12345.25")])
        .file("old", b"1")
        .pax(&[("mtime", b"15000000000.123456789")])
        .file("future", b"2")
        .pax(&[("SCHILY.xattr.user.a", b"value"), ("SCHILY.xattr.security.capability", &capability)])
        .file("capable", b"3")
        .pax(&[("SCHILY.xattr.user.a", &[b'v'; 200])])
        .dir("attributed/")
        .entry(&Head { name: "sticky/", kind: b'5', mode: 0o1777, ..Head::default() }, b"")
        .hard_link("hard", "d/su")
        .device("null", b'3', (1, 3))
        .device("block", b'4', (259, 70_000))
        .device("pipe", b'6', (0, 0))
        .file("big", &vec![5; 3_000_001])
        .file("zeros", &vec![0; 100_000])
        .end();
    let want = look(&unpack(&tar).path().join("root"));
    let (dir, _) = convert(Driver::Erofs, &tar).unwrap();
    let fsck = Command::new("fsck.erofs").arg(dir.path().join("layer.erofs")).output().unwrap();
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stderr));
    let mount = Mount::erofs(&dir.path().join("layer.erofs"), None).unwrap();
    let got = look(&mount.proc_path());
    assert_eq!(got.len(), want.len());
    for (path, text) in &want {
        assert_eq!(got.get(path), Some(text), "{}", path.display());
    }
    let (plain, _) = convert(Driver::Directory, &tar).unwrap();
    let got = look(&plain.path().join("tree"));
    for (path, text) in &want {
        assert_eq!(got.get(path), Some(text), "{}", path.display());
    }
}

#[test]
fn an_overlay_of_layers_hides_what_whiteouts_hide() {
    let low = Tar::new().dir("d/").file("d/a", b"1").file("d/b", b"1").dir("o/").file("o/a", b"1").file("gone", b"1");
    let high = Tar::new()
        .dir("d/")
        .file("d/.wh.a", b"")
        .file(".wh.gone", b"")
        .dir("o/")
        .file("o/own", b"2")
        .file("o/.wh..wh..opq", b"")
        .file("o/.wh.a", b"");
    let (low, high) = (convert(Driver::Erofs, &low.end()).unwrap().0, convert(Driver::Erofs, &high.end()).unwrap().0);
    let mounts = [high, low].map(|dir| Mount::erofs(&dir.path().join("layer.erofs"), None).unwrap());
    let lower: Vec<_> = mounts.iter().map(|m| m.as_fd()).collect();
    let merged = overlay(&lower, None, None).unwrap();
    let names: Vec<_> = look(&merged.proc_path()).into_keys().map(|p| p.to_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["d", "d/b", "o", "o/own"]);
}
