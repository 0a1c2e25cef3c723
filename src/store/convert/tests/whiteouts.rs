//! Whiteouts and opaque markers in every order.

use std::path::Path;

use super::super::testing::{Tar, convert};
use super::DRIVERS;
use crate::store::tree::{Kind, LayerTree};

fn each(tar: Tar, check: impl Fn(&dyn LayerTree)) {
    for driver in DRIVERS {
        let (dir, converted) = convert(driver, &tar.clone().end()).unwrap();
        assert!(converted.stands_alone);
        check(&*driver.open_tree(dir.path()).unwrap());
    }
}

fn kind(tree: &dyn LayerTree, path: &str) -> Option<Kind> {
    tree.node(Path::new(path)).unwrap().map(|node| node.kind)
}

const OPAQUE: Option<Kind> = Some(Kind::Directory { opaque: true });
const FILE: Option<Kind> = Some(Kind::File { size: 1 });

#[test]
fn a_real_entry_stays_whether_its_whiteout_comes_before_or_after() {
    each(Tar::new().file(".wh.a", b"").file("a", b"x"), |t| assert_eq!(kind(t, "a"), FILE));
    each(Tar::new().file("a", b"x").file(".wh.a", b""), |t| assert_eq!(kind(t, "a"), FILE));
    for tar in [
        Tar::new().file(".wh.d", b"").dir("d/").file("d/own", b"x"),
        Tar::new().dir("d/").file("d/own", b"x").file(".wh.d", b""),
        Tar::new().dir("d/").file(".wh.d", b"").file("d/own", b"x"),
    ] {
        each(tar, |t| assert_eq!((kind(t, "d"), kind(t, "d/own")), (OPAQUE, FILE)));
    }
}

#[test]
fn the_opaque_marker_means_the_same_before_and_after_its_siblings_and_twice() {
    let marker = "d/.wh..wh..opq";
    for tar in [
        Tar::new().dir("d/").file(marker, b"").file("d/own", b"x"),
        Tar::new().dir("d/").file("d/own", b"x").file(marker, b""),
        Tar::new().dir("d/").file(marker, b"").file("d/own", b"x").file(marker, b"").dir("d/"),
    ] {
        each(tar, |t| {
            assert_eq!((kind(t, "d"), kind(t, "d/own"), kind(t, marker)), (OPAQUE, FILE, None));
        });
    }
}

#[test]
fn a_directory_that_takes_the_place_of_a_file_hides_what_is_below() {
    each(Tar::new().file("d", b"x").dir("d/"), |t| assert_eq!(kind(t, "d"), OPAQUE));
    each(Tar::new().symlink("d", "x").dir("d/"), |t| assert_eq!(kind(t, "d"), OPAQUE));
    each(Tar::new().dir("d/").dir("d/"), |t| assert_eq!(kind(t, "d"), Some(Kind::Directory { opaque: false })));
}

#[test]
fn a_whiteout_that_hides_nothing_below_an_opaque_directory_is_left_out() {
    let tar = Tar::new().dir("d/").file("d/.wh..wh..opq", b"").file("d/.wh.a", b"").dir("d/e/").file("d/e/.wh.b", b"");
    each(tar.file(".wh.c", b""), |t| {
        assert_eq!((kind(t, "d/a"), kind(t, "d/e/b"), kind(t, "c")), (None, None, Some(Kind::Whiteout)));
    });
}

#[test]
fn what_aufs_left_behind_means_nothing() {
    each(Tar::new().dir(".wh..wh.plnk/").file(".wh..wh.aufs", b"data").file("a", b"x"), |t| {
        assert_eq!(t.read_dir(Path::new("")).unwrap().len(), 1);
    });
}

#[test]
fn duplicate_entries_leave_the_last() {
    each(Tar::new().file("a", b"old").symlink("a", "b").file("a", b"x"), |t| assert_eq!(kind(t, "a"), FILE));
    each(Tar::new().dir("a/").file("a/b", b"").file("a", b"x"), |t| {
        assert_eq!((kind(t, "a"), kind(t, "a/b")), (FILE, None));
    });
}
