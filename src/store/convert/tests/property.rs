//! Random trees and random splits.

use std::path::Path;

use proptest::prelude::*;

use super::super::Limits;
use super::super::testing::{Tar, convert, convert_in};
use super::DRIVERS;
use crate::oci::{DiffId, Digest};
use crate::store::driver::Driver;
use crate::store::tree::{Kind, Merged};

/// Name, content and mode.
type RandomFile = (String, Vec<u8>, u32);

/// Directories with files in them.
fn tree() -> impl Strategy<Value = Vec<(String, Vec<RandomFile>)>> {
    let file = ("[a-z]{1,20}", prop::collection::vec(any::<u8>(), 0..9000), 0..0o10000_u32);
    let dir = ("[A-Z]{1,40}", prop::collection::vec(file, 0..60));
    prop::collection::btree_map(dir.0, dir.1, 0..5).prop_map(|m| m.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_in_comes_out(tree in tree(), step in 1..70_000_usize) {
        let mut tar = Tar::new().dir("./");
        for (dir, files) in &tree {
            tar = tar.dir(dir);
            for (name, data, mode) in files {
                let head = super::super::testing::Head { name: &format!("{dir}/{name}"), mode: *mode, ..Default::default() };
                tar = tar.entry(&head, data);
            }
        }
        let tar = tar.end();
        for driver in DRIVERS {
            let dir = tempfile::tempdir().unwrap();
            let below = Merged::default();
            let converted = convert_in(driver, dir.path(), &tar, step, &Limits::default(), &below).unwrap();
            driver.verify_full(dir.path(), &converted.seal, &DiffId(Digest::sha256_of(&tar))).unwrap();
            let read = driver.open_tree(dir.path()).unwrap();
            for (name, files) in &tree {
                // The last of one name counts.
                let mut last = std::collections::BTreeMap::new();
                for (file, data, mode) in files {
                    last.insert(file.clone(), (data, *mode));
                }
                let entries = read.read_dir(Path::new(name)).unwrap();
                prop_assert_eq!(entries.len(), last.len());
                for (entry, (file, (data, mode))) in entries.iter().zip(last) {
                    prop_assert_eq!(&*entry.name, file.as_bytes());
                    prop_assert_eq!(&entry.node.kind, &Kind::File { size: data.len() as u64 });
                    prop_assert_eq!(u32::from(entry.node.mode), mode);
                    let mut got = Vec::new();
                    let path = Path::new(name).join(&file);
                    std::io::Read::read_to_end(&mut read.open(&path).unwrap(), &mut got).unwrap();
                    prop_assert!(&got == data);
                }
            }
        }
    }

    #[test]
    fn any_split_gives_the_same_file(steps in prop::collection::vec(1..5000_usize, 1..20)) {
        let tar = super::sample();
        let once = convert(Driver::Erofs, &tar).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut conversion = super::super::Conversion::begin(Driver::Erofs, dir.path(), &Limits::default()).unwrap();
        let mut rest = tar.as_slice();
        for step in steps.iter().cycle() {
            let (piece, tail) = rest.split_at((*step).min(rest.len()));
            conversion.feed(piece).unwrap();
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        let converted = conversion.finish(*b"0123456789abcdef", &mut || unreachable!()).unwrap();
        prop_assert_eq!(&converted.seal, &once.1.seal);
        for name in ["layer.erofs", "tar.zst"] {
            prop_assert!(std::fs::read(dir.path().join(name)).unwrap() == std::fs::read(once.0.path().join(name)).unwrap());
        }
    }

    #[test]
    fn random_bytes_in_a_tar_never_panic(at in 0..100_000_usize, bytes in prop::collection::vec(any::<u8>(), 1..600)) {
        let mut tar = super::sample();
        let at = at % (tar.len() - bytes.len());
        tar[at..at + bytes.len()].copy_from_slice(&bytes);
        let _ = convert(Driver::Erofs, &tar);
    }

    #[test]
    fn a_damaged_image_is_an_error_and_no_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..30)) {
        let (dir, converted) = convert(Driver::Erofs, &super::sample()).unwrap();
        let path = dir.path().join("layer.erofs");
        let mut bytes = std::fs::read(&path).unwrap();
        let start = usize::try_from(converted.seal.metadata).unwrap();
        let before = bytes.clone();
        for (at, value) in flips {
            let at = start + at.index(bytes.len() - start);
            bytes[at] ^= value;
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        prop_assert_eq!(Driver::Erofs.verify_seal(dir.path(), &converted.seal).is_ok(), before == bytes);
        if let Ok(tree) = Driver::Erofs.open_tree(dir.path()) {
            for path in ["", "etc", "etc/many", "usr", "usr/link"] {
                let _ = (tree.node(Path::new(path)), tree.xattrs(Path::new(path)));
                for entry in tree.read_dir(Path::new(path)).into_iter().flatten() {
                    let _ = entry.node;
                }
            }
        }
    }
}
