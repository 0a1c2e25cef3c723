//! Layers that depend on those below them, and random stacks compared with what unpacking would leave.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::super::testing::{Head, Tar, convert, convert_on};
use super::DRIVERS;
use super::model::{Model, Op, Thing, tar};
use crate::oci::{DiffId, Digest};
use crate::store::driver::Driver;
use crate::store::tree::{Kind, LayerTree, Merged};

fn stack(driver: Driver, dirs: &[&Path]) -> Merged {
    Merged::new(
        dirs.iter().rev().map(|dir| Arc::from(driver.open_tree(dir).unwrap())).collect::<Vec<Arc<dyn LayerTree>>>(),
    )
}

fn base() -> Vec<u8> {
    Tar::new()
        .dir("usr/")
        .entry(&Head { name: "usr/lib/", kind: b'5', mode: 0o750, uid: 7, gid: 8, ..Head::default() }, b"")
        .file("usr/lib/loader", b"loader")
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/../usr/lib")
        .end()
}

#[test]
fn a_file_in_an_undeclared_parent_lands_where_the_link_below_leads() {
    for driver in DRIVERS {
        let (low, _) = convert(driver, &base()).unwrap();
        for parent in ["lib", "abs", "usr/lib"] {
            let bytes = Tar::new().file(&format!("{parent}/new"), b"x").end();
            let (high, converted) = convert_on(driver, &bytes, &stack(driver, &[low.path()])).unwrap();
            assert!(!converted.stands_alone);
            let merged = stack(driver, &[low.path(), high.path()]);
            let names = merged.read_dir(Path::new("usr/lib")).unwrap();
            assert_eq!(names.iter().map(|e| &*e.name).collect::<Vec<_>>(), [&b"loader"[..], b"new"]);
            let kept = merged.node(Path::new("usr/lib")).unwrap().unwrap();
            assert_eq!((kept.mode, kept.uid, kept.gid, kept.mtime.seconds), (0o750, 7, 8, 1_000_000_000));
            assert!(matches!(merged.node(Path::new("lib")).unwrap().unwrap().kind, Kind::Symlink { .. }));
            driver.verify_full(high.path(), &converted.seal, &DiffId(Digest::sha256_of(&bytes))).unwrap();
        }
    }
}

#[test]
fn a_hard_link_to_a_file_below_brings_the_file_along() {
    for driver in DRIVERS {
        let (low, _) = convert(driver, &base()).unwrap();
        let bytes = Tar::new().hard_link("copy", "lib/loader").end();
        let (high, converted) = convert_on(driver, &bytes, &stack(driver, &[low.path()])).unwrap();
        assert!(!converted.stands_alone);
        let tree = driver.open_tree(high.path()).unwrap();
        let node = |p: &str| tree.node(Path::new(p)).unwrap().unwrap();
        assert_eq!((node("copy").inode, node("copy").links), (node("usr/lib/loader").inode, 2));
        let mut content = String::new();
        tree.open(Path::new("copy")).unwrap().read_to_string(&mut content).unwrap();
        assert_eq!(content, "loader");
        driver.verify_full(high.path(), &converted.seal, &DiffId(Digest::sha256_of(&bytes))).unwrap();
        let gone =
            Tar::new().dir("usr/").dir("usr/lib/").file("usr/lib/.wh.loader", b"").hard_link("c", "lib/loader").end();
        assert!(convert_on(driver, &gone, &stack(driver, &[low.path()])).is_err());
    }
}

#[test]
fn a_root_that_is_not_declared_keeps_the_mode_of_the_one_below() {
    for driver in DRIVERS {
        let root = Head { name: "./", kind: b'5', mode: 0o711, ..Head::default() };
        let (low, _) = convert(driver, &Tar::new().entry(&root, b"").end()).unwrap();
        let (high, converted) = convert(driver, &Tar::new().file("a", b"").end()).unwrap();
        assert!(converted.stands_alone);
        assert_eq!(stack(driver, &[low.path(), high.path()]).root().unwrap().mode, 0o711);
    }
}

#[test]
fn the_marker_at_the_root_hides_every_name_below() {
    for driver in DRIVERS {
        let (low, _) = convert(driver, &base()).unwrap();
        let bytes = Tar::new().dir("usr/").file("usr/own", b"").file(".wh..wh..opq", b"").end();
        let (high, _) = convert_on(driver, &bytes, &stack(driver, &[low.path()])).unwrap();
        let merged = stack(driver, &[low.path(), high.path()]);
        assert_eq!(merged.read_dir(Path::new("")).unwrap().len(), 1);
        assert_eq!(merged.read_dir(Path::new("usr")).unwrap().len(), 1);
    }
}

/// Everything in a merged tree, as the model has it.
fn listing(tree: &Merged) -> BTreeMap<Vec<String>, Thing> {
    let mut out = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(dir) = pending.pop() {
        for entry in tree.read_dir(&dir).unwrap() {
            let path = dir.join(std::str::from_utf8(&entry.name).unwrap());
            let thing = match entry.node.kind {
                Kind::Directory { .. } => {
                    pending.push(path.clone());
                    Thing::Dir(entry.node.mode.into())
                }
                Kind::File { .. } => {
                    let mut data = Vec::new();
                    tree.open(&path).unwrap().read_to_end(&mut data).unwrap();
                    Thing::File(data)
                }
                Kind::Symlink { target } => Thing::Symlink(String::from_utf8(target.into_vec()).unwrap()),
                other => panic!("{other:?}"),
            };
            out.insert(path.iter().map(|p| p.to_str().unwrap().to_owned()).collect(), thing);
        }
    }
    out
}

fn path() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned), 1..4)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (path(), prop::sample::select(vec![0o700, 0o750])).prop_map(|(p, m)| Op::Dir(p, m)),
        4 => (path(), prop::collection::vec(any::<u8>(), 0..3)).prop_map(|(p, d)| Op::File(p, d)),
        2 => (path(), prop::sample::select(vec!["a", "/b", "../c", "a/b", "/", ".."]))
            .prop_map(|(p, t)| Op::Symlink(p, t.to_owned())),
        1 => (path(), path()).prop_map(|(p, t)| Op::HardLink(p, t)),
        2 => path().prop_map(Op::Whiteout),
        1 => prop::collection::vec(prop::sample::select(vec!["a", "b"]).prop_map(str::to_owned), 0..3).prop_map(Op::Opaque),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_stack_of_layers_is_what_unpacking_them_leaves(layers in prop::collection::vec(prop::collection::vec(op(), 0..8), 1..4)) {
        let mut model = Model::default();
        let mut dirs: Vec<tempfile::TempDir> = Vec::new();
        for ops in &layers {
            let paths: Vec<&Path> = dirs.iter().map(tempfile::TempDir::path).collect();
            let below = stack(Driver::Erofs, &paths);
            let converted = convert_on(Driver::Erofs, &tar(ops), &below);
            let fine = model.apply(ops);
            prop_assert_eq!(converted.is_ok(), fine.is_some(), "{:?}", converted.map(|_| ()));
            let Ok((dir, _)) = converted else { return Ok(()) };
            dirs.push(dir);
            let paths: Vec<&Path> = dirs.iter().map(tempfile::TempDir::path).collect();
            prop_assert_eq!(listing(&stack(Driver::Erofs, &paths)), model.tree.clone());
        }
    }
}
