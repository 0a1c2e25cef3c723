//! Tests of whole conversions, on every driver where it does not matter which.

mod compare;
mod hostile;
mod model;
mod property;
mod sparse;
mod stacked;
mod whiteouts;

use std::path::Path;
use std::process::Command;

use super::testing::{Head, Tar, convert};
use crate::oci::{DiffId, Digest};
use crate::store::driver::Driver;
use crate::store::tree::Kind;

const DRIVERS: [Driver; 2] = [Driver::Erofs, Driver::Directory];

fn sample() -> Vec<u8> {
    let big: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let names: Vec<String> = (0..500).map(|n| format!("etc/many/file-with-a-long-name-{n}")).collect();
    let mut tar = Tar::new().dir("./").dir("etc/").file("etc/hostname", b"lamina\n").dir("etc/many/");
    for name in &names {
        tar = tar.file(name, name.as_bytes());
    }
    tar.dir("usr/")
        .file("usr/big", &big)
        .symlink("usr/link", "/etc/hostname")
        .hard_link("usr/hard", "etc/hostname")
        .device("null", b'3', (1, 3))
        .device("sda", b'4', (8, 300))
        .device("pipe", b'6', (0, 0))
        .pax(&[("SCHILY.xattr.user.a", b"1\0"), ("SCHILY.xattr.trusted.overlay.opaque", b"y"), ("mtime", b"-1.5")])
        .file("usr/attributes", b"")
        .file(".wh.gone", b"")
        .file("usr/.wh..wh..opq", b"")
        .entry(&Head { name: "usr/su", mode: 0o4755, uid: 1000, gid: 2_000_000, ..Head::default() }, b"x")
        .end()
}

#[test]
fn a_layer_is_read_back_and_its_tar_rebuilt() {
    let tar = sample();
    for driver in DRIVERS {
        let (dir, converted) = convert(driver, &tar).unwrap();
        assert!(converted.stands_alone);
        let diff_id = DiffId(Digest::sha256_of(&tar));
        driver.verify_full(dir.path(), &converted.seal, &diff_id).unwrap();
        let tree = driver.open_tree(dir.path()).unwrap();
        let node = |path: &str| tree.node(Path::new(path)).unwrap().unwrap();
        assert!(tree.root_declared());
        assert_eq!(node("etc/hostname").links, 2);
        assert_eq!(node("etc/hostname").inode, node("usr/hard").inode);
        assert_eq!(node("gone").kind, Kind::Whiteout);
        assert_eq!(node("usr").kind, Kind::Directory { opaque: true });
        assert_eq!((node("usr/su").mode, node("usr/su").uid, node("usr/su").gid), (0o4755, 1000, 2_000_000));
        assert_eq!((node("usr/attributes").mtime.seconds, node("usr/attributes").mtime.nanoseconds), (-2, 500_000_000));
        assert_eq!(tree.xattrs(Path::new("usr/attributes")).unwrap(), [(b"user.a"[..].into(), b"1\0"[..].into())]);
        assert_eq!(tree.read_dir(Path::new("etc/many")).unwrap().len(), 500);
        let mut big = Vec::new();
        tree.open(Path::new("usr/big")).unwrap().read_to_end(&mut big).unwrap();
        assert_eq!(big.len(), 1_200_000);
        assert_eq!(&big[400_000..400_004], 100_000_u32.to_le_bytes());
    }
}

#[test]
fn the_checker_of_erofs_finds_nothing_wrong() {
    let (dir, _) = convert(Driver::Erofs, &sample()).unwrap();
    let out = Command::new("fsck.erofs").arg(dir.path().join("layer.erofs")).output().unwrap();
    let said = [out.stdout, out.stderr].concat();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&said));
}
