//! Tars that want out, or too much. Each is refused with a reason, or contained.

use std::path::Path;

use super::super::testing::{Head, Tar, convert, convert_in, seal};
use super::super::{Error, Limits};
use super::DRIVERS;
use crate::store::driver::Driver;
use crate::store::tree::{Kind, Merged};

fn error(tar: &[u8]) -> Error {
    convert(Driver::Erofs, tar).map(|(_, converted)| converted).unwrap_err()
}

fn refused(tar: Tar) {
    for driver in DRIVERS {
        let result = convert(driver, &tar.clone().end()).map(|(_, converted)| converted);
        assert!(matches!(result, Err(Error::Refused { .. })), "{result:?}");
    }
}

fn malformed(tar: &[u8]) {
    let e = error(tar);
    assert!(matches!(e, Error::Malformed { .. } | Error::Truncated { .. }), "{e}");
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["..", "../x", "a/../../x", "/../x", "a/..", ".wh...", ".wh..", "a/.wh.."] {
        refused(Tar::new().dir("a/").file(name, b"x"));
        refused(Tar::new().dir("a/").symlink(name, "x"));
        refused(Tar::new().dir("a/").dir(name));
    }
    refused(Tar::new().file("a", b"").hard_link("b", "../../etc/passwd"));
    refused(Tar::new().file("a/../b", b""));
}

#[test]
fn absolute_names_stay_inside() {
    let tar = Tar::new().dir("/etc").file("/etc/passwd", b"x").file("//a", b"y").end();
    for driver in DRIVERS {
        let (dir, converted) = convert(driver, &tar).unwrap();
        assert!(converted.stands_alone);
        let tree = driver.open_tree(dir.path()).unwrap();
        assert!(tree.node(Path::new("etc/passwd")).unwrap().is_some());
        assert!(tree.node(Path::new("a")).unwrap().is_some());
    }
}

#[test]
fn links_out_are_followed_inside_the_root_only() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap().to_owned();
    let deep = "../".repeat(20) + &target[1..];
    for link in [target.as_str(), deep.as_str()] {
        let tar = Tar::new().symlink("out", link).file("out/planted", b"x").end();
        for driver in DRIVERS {
            let (dir, converted) = convert(driver, &tar).unwrap();
            assert!(!converted.stands_alone);
            let tree = driver.open_tree(dir.path()).unwrap();
            let inside = Path::new(&target[1..]).join("planted");
            assert!(tree.node(&inside).unwrap().is_some(), "{link}");
            assert_eq!(
                tree.node(Path::new("out")).unwrap().unwrap().kind,
                Kind::Symlink { target: link.as_bytes().into() }
            );
        }
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_file_replaced_by_a_link_in_mid_tar_is_not_written_through() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("x");
    std::fs::write(&target, b"mine").unwrap();
    let tar = Tar::new().file("a", b"1").symlink("a", target.to_str().unwrap()).file("a", b"2").end();
    for driver in DRIVERS {
        let (dir, _) = convert(driver, &tar).unwrap();
        let node = driver.open_tree(dir.path()).unwrap().node(Path::new("a")).unwrap().unwrap();
        assert_eq!(node.kind, Kind::File { size: 1 });
    }
    assert_eq!(std::fs::read(&target).unwrap(), b"mine");
}

#[test]
fn links_in_a_ring_are_refused() {
    refused(Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b""));
    refused(Tar::new().symlink("a", "a/a/a/a").file("a/x", b""));
}

#[test]
fn hard_links_to_what_no_link_can_be_to_are_refused() {
    refused(Tar::new().dir("d/").hard_link("a", "d"));
    refused(Tar::new().hard_link("a", "./"));
    refused(Tar::new().hard_link("a", "nothing"));
    refused(Tar::new().file(".wh.b", b"").hard_link("a", "b"));
    refused(Tar::new().hard_link("a", "a"));
}

#[test]
fn a_hard_link_to_a_symbolic_link_shares_the_link() {
    let tar = Tar::new().symlink("a", "/etc/shadow").hard_link("b", "a").end();
    for driver in DRIVERS {
        let (dir, _) = convert(driver, &tar).unwrap();
        let node = driver.open_tree(dir.path()).unwrap().node(Path::new("b")).unwrap().unwrap();
        assert_eq!((node.kind, node.links), (Kind::Symlink { target: b"/etc/shadow"[..].into() }, 2));
    }
}

#[test]
fn a_hard_link_to_itself_changes_nothing() {
    let tar = Tar::new().file("a", b"x").hard_link("a", "a").end();
    for driver in DRIVERS {
        let (dir, _) = convert(driver, &tar).unwrap();
        let node = driver.open_tree(dir.path()).unwrap().node(Path::new("a")).unwrap().unwrap();
        assert_eq!((node.kind, node.links), (Kind::File { size: 1 }, 1));
    }
}

#[test]
fn devices_that_overlayfs_would_take_for_whiteouts_are_refused() {
    refused(Tar::new().device("a", b'3', (0, 0)));
    refused(Tar::new().device("a", b'3', (4096, 0)));
    refused(Tar::new().device("a", b'4', (1, 1 << 20)));
}

#[test]
fn a_parent_that_is_a_file_is_refused() {
    refused(Tar::new().file("a", b"").file("a/b", b""));
    refused(Tar::new().file("a", b"").symlink("l", "a").file("l/b", b""));
}

#[test]
fn the_root_can_only_be_a_directory() {
    refused(Tar::new().file("./", b"x"));
    refused(Tar::new().symlink("/", "x"));
    refused(Tar::new().hard_link(".", "x"));
}

#[test]
fn owners_that_are_no_numbers_of_the_kernel_are_refused() {
    refused(Tar::new().pax(&[("uid", b"4294967295")]).file("a", b""));
    refused(Tar::new().pax(&[("gid", b"4294967296")]).file("a", b""));
    let mut block = Tar::header(&Head { name: "a", ..Head::default() }, 0);
    block[108..116].fill(0xff);
    seal(&mut block);
    malformed(&Tar::new().raw(&block).end());
    assert!(convert(Driver::Erofs, &Tar::new().pax(&[("uid", b"4294967294")]).file("a", b"").end()).is_ok());
}

#[test]
fn types_that_no_layer_holds_are_refused() {
    for kind in [b'M', b'N', b'D', b'V', b'A', b'8', b'?'] {
        refused(Tar::new().entry(&Head { name: "a", kind, ..Head::default() }, b""));
    }
}

#[test]
fn attributes_that_speak_to_the_host_are_dropped_and_long_ones_refused() {
    let tar = Tar::new()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.metacopy", b""),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.selinux", b"unconfined"),
            ("SCHILY.xattr.security.ima", b"x"),
            ("SCHILY.xattr.com.apple.quarantine", b"x"),
            ("SCHILY.xattr.trusted.other", b"1"),
            ("SCHILY.xattr.user.kept", b"2"),
        ])
        .file("a", b"")
        .end();
    for driver in DRIVERS {
        let (dir, _) = convert(driver, &tar).unwrap();
        let found = driver.open_tree(dir.path()).unwrap().xattrs(Path::new("a")).unwrap();
        let names: Vec<_> = found.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!(names, ["trusted.other", "user.kept"]);
    }
    refused(Tar::new().pax(&[("SCHILY.xattr.user.a", &vec![0; 65_536])]).file("a", b""));
    refused(Tar::new().pax(&[(&format!("SCHILY.xattr.user.{}", "n".repeat(256)), b"")]).file("a", b""));
    let name = format!("SCHILY.xattr.user.{}", "n".repeat(255));
    assert!(convert(Driver::Erofs, &Tar::new().pax(&[(&name, &vec![0; 65_535])]).file("a", b"").end()).is_ok());
    let many: Vec<String> = (0..9).map(|n| format!("SCHILY.xattr.user.{n}")).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|n| (n.as_str(), &[0; 16_000][..])).collect();
    refused(Tar::new().pax(&many).file("a", b""));
}

#[test]
fn damaged_and_cut_off_tars_are_refused() {
    let tar = Tar::new().file("a", &[1; 2000]).pax(&[("path", b"b")]).file("x", b"").end();
    for cut in [1, 511, 513, 600, 512 + 1999, 512 + 2048 + 1, 512 + 2048 + 512, 512 + 2048 + 1024] {
        let e = error(&tar[..cut]);
        assert!(matches!(e, Error::Truncated { .. }), "{cut}: {e}");
    }
    let mut flipped = tar.clone();
    flipped[3] ^= 1;
    malformed(&flipped);
    malformed(&[&[0; 512][..], &tar].concat());
    malformed(b"this is no tar at all, but long enough for one header".repeat(20).as_slice());
    let mut negative = Tar::header(&Head { name: "a", ..Head::default() }, 0);
    negative[124..136].fill(0xff);
    seal(&mut negative);
    malformed(&Tar::new().raw(&negative).end());
    malformed(&Tar::new().pax(&[("size", b"-1")]).file("a", b"").end());
    malformed(&Tar::new().pax(&[("path", b"a\0b")]).file("a", b"").end());
    malformed(&Tar::new().extended(b'g', &[("path", b"b")]).file("a", b"").end());
}

#[test]
fn tars_without_end_blocks_are_whole() {
    let tar = Tar::new().dir("d/").file("d/a", b"x");
    for tail in [0, 512, 1024, 20_480] {
        let bytes = tar.clone().raw(&vec![0; tail]).0;
        assert_eq!(convert(Driver::Erofs, &bytes).unwrap().1.entries, 2, "{tail}");
    }
    // Nor need the last block be full, as umoci's insert leaves it.
    for missing in [511, 200, 1] {
        let (dir, made) = convert(Driver::Erofs, &tar.0[..tar.0.len() - missing]).unwrap();
        assert_eq!(made.entries, 2);
        let mut file = Vec::new();
        let tree = Driver::Erofs.open_tree(dir.path()).unwrap();
        std::io::Read::read_to_end(&mut tree.open(Path::new("d/a")).unwrap(), &mut file).unwrap();
        assert_eq!(file, b"x");
    }
    assert_eq!(convert(Driver::Erofs, b"").unwrap().1.entries, 0);
}

fn within(tar: &[u8], limits: &Limits) -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    convert_in(Driver::Erofs, dir.path(), tar, 4096, limits, &Merged::default()).map(|_| ())
}

#[test]
fn every_limit_holds_at_itself_and_not_one_past_it() {
    let check = |tar: &[u8], at: Limits, past: Limits| {
        within(tar, &at).unwrap();
        assert!(matches!(
            within(tar, &past),
            Err(Error::Limit { .. } | Error::Refused { .. } | Error::Malformed { .. })
        ));
    };
    let base = Limits::default();
    let tar =
        Tar::new().dir("a/").dir("a/b/").file("a/b/c", &[1; 1000]).pax(&[("comment", b"x")]).file("d", b"1").end();
    let length = tar.len() as u64;
    check(&tar, Limits { tar_bytes: length, ..base.clone() }, Limits { tar_bytes: length - 1, ..base.clone() });
    check(&tar, Limits { entries: 4, ..base.clone() }, Limits { entries: 3, ..base.clone() });
    check(&tar, Limits { content_bytes: 1001, ..base.clone() }, Limits { content_bytes: 1000, ..base.clone() });
    check(&tar, Limits { depth: 3, ..base.clone() }, Limits { depth: 2, ..base.clone() });
    check(&tar, Limits { header_bytes: 13, ..base.clone() }, Limits { header_bytes: 12, ..base.clone() });
    check(&tar, Limits { metadata_bytes: 524, ..base.clone() }, Limits { metadata_bytes: 523, ..base.clone() });
    let sparse = Tar::new()
        .pax(&[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0,1,4,1"), ("GNU.sparse.name", b"s")])
        .file("x", b"ab")
        .end();
    check(&sparse, Limits { segments: 2, ..base.clone() }, Limits { segments: 1, ..base });
}

#[test]
fn a_very_deep_path_is_refused_and_a_deep_one_is_not() {
    let deep = |n: usize| "d/".repeat(n);
    refused(Tar::new().pax(&[("path", deep(1025).as_bytes())]).dir("x/"));
    let name = deep(1024);
    for driver in DRIVERS {
        let (dir, _) = convert(driver, &Tar::new().pax(&[("path", name.as_bytes())]).dir("x/").end()).unwrap();
        assert!(driver.open_tree(dir.path()).unwrap().node(Path::new(&name)).unwrap().is_some());
    }
    // Links must not lead deeper than a path may.
    let mut tar = Tar::new().dir("d/");
    let step = "d/".repeat(400);
    tar = tar.pax(&[("path", step.as_bytes())]).dir("x/").pax(&[("linkpath", step.as_bytes())]).symlink("d/l", "x");
    refused(tar.pax(&[("linkpath", deep(1100).as_bytes())]).symlink("far", "x").file("far/x", b""));
}

#[test]
fn a_size_that_lies_stops_at_the_budget() {
    let e = error(&Tar::new().pax(&[("size", b"80000000000")]).file("a", b"").end());
    assert!(matches!(e, Error::Limit { what: "bytes of file content", .. }), "{e}");
}
