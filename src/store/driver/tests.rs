//! What every driver must do, and what choosing one does.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::oci::Digest;
use crate::store::convert::testing::{Tar, convert};
use crate::store::tree::{Difference, Merged, diff, directory, write_tar};

const DRIVERS: [Driver; 2] = [Driver::Erofs, Driver::Directory];

fn sample() -> Vec<u8> {
    let tar = Tar::new().dir("./").dir("d/").file("d/a", b"one").symlink("d/l", "a").hard_link("d/h", "d/a");
    tar.pax(&[("SCHILY.xattr.user.a", b"1"), ("mtime", b"5.25")]).file("b", &[7; 10_000]).end()
}

#[test]
fn choosing_by_itself_finds_erofs_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Driver::choose(DriverChoice::Auto, dir.path()).unwrap(), (Driver::Erofs, Some(_))));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn names_of_drivers_are_read() {
    assert_eq!("auto".parse::<DriverChoice>().unwrap(), DriverChoice::Auto);
    assert!("zfs".parse::<DriverChoice>().is_err());
}

#[test]
fn a_layer_tells_its_driver() {
    for driver in DRIVERS {
        assert_eq!(Driver::of_layer(convert(driver, &sample()).unwrap().0.path()).unwrap(), driver);
    }
    assert!(Driver::of_layer(Path::new("/nonexistent")).is_err());
}

#[test]
fn a_whole_layer_passes_and_its_tar_comes_back() {
    for driver in DRIVERS {
        let (dir, converted) = convert(driver, &sample()).unwrap();
        driver.verify_seal(dir.path(), &converted.seal).unwrap();
        let mut tar = Vec::new();
        driver.rebuild_tar(dir.path(), &mut tar).unwrap();
        assert!(tar == sample());
        let other = DiffId(Digest::sha256_of(b"other"));
        assert!(matches!(driver.verify_full(dir.path(), &converted.seal, &other), Err(Error::Damaged { .. })));
    }
}

/// Changes a file, whatever its mode.
fn damage(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    let stat = std::fs::metadata(path).unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).truncate(true).open(path).unwrap();
    file.write_all(&bytes).unwrap();
    file.set_modified(stat.modified().unwrap()).unwrap();
}

#[test]
fn a_layer_that_is_gone_cut_off_or_changed_in_its_metadata_fails_its_seal() {
    for (name, change) in [
        ("layer.erofs", (|b| b.truncate(b.len() - 4096)) as fn(&mut Vec<u8>)),
        ("layer.erofs", |b| b.truncate(100)),
        ("layer.erofs", |b| b[1030] ^= 1),
        ("layer.erofs", |b| *b.last_mut().unwrap() ^= 1),
        ("tar.zst", |b| b.truncate(b.len() - 1)),
    ] {
        let (dir, converted) = convert(Driver::Erofs, &sample()).unwrap();
        damage(&dir.path().join(name), change);
        assert!(Driver::Erofs.verify_seal(dir.path(), &converted.seal).is_err(), "{name}");
    }
    for (driver, name) in [(Driver::Erofs, "layer.erofs"), (Driver::Erofs, "tar.zst"), (Driver::Directory, "tree/d/a")]
    {
        let (dir, converted) = convert(driver, &sample()).unwrap();
        std::fs::remove_file(dir.path().join(name)).unwrap();
        assert!(driver.verify_seal(dir.path(), &converted.seal).is_err(), "{name}");
    }
}

#[test]
fn a_flipped_bit_of_file_data_is_found_by_the_full_check_only() {
    for (driver, name) in [(Driver::Erofs, "layer.erofs"), (Driver::Directory, "tree/b")] {
        let (dir, converted) = convert(driver, &sample()).unwrap();
        damage(&dir.path().join(name), |bytes| {
            let at = bytes.windows(50).position(|w| w == [7; 50]).unwrap();
            bytes[at] = 8;
        });
        driver.verify_seal(dir.path(), &converted.seal).unwrap();
        let diff_id = DiffId(Digest::sha256_of(&sample()));
        assert!(matches!(driver.verify_full(dir.path(), &converted.seal, &diff_id), Err(Error::Damaged { .. })));
    }
}

fn merged(driver: Driver, dir: &Path) -> Merged {
    Merged::new(vec![Arc::from(driver.open_tree(dir).unwrap())])
}

#[test]
fn an_export_converted_again_is_the_same_tree() {
    for driver in DRIVERS {
        let (dir, _) = convert(driver, &sample()).unwrap();
        let mut tar = Vec::new();
        write_tar(&merged(driver, dir.path()), &mut tar).unwrap();
        let (again, converted) = convert(driver, &tar).unwrap();
        assert!(converted.stands_alone);
        assert_eq!(diff(&merged(driver, dir.path()), &merged(driver, again.path())).unwrap(), []);
    }
}

#[test]
fn the_diff_of_a_writable_layer_names_what_was_done() {
    let (dir, _) = convert(Driver::Erofs, &sample()).unwrap();
    let upper = tempfile::tempdir().unwrap();
    std::fs::create_dir(upper.path().join("d")).unwrap();
    std::fs::write(upper.path().join("d/a"), b"two").unwrap();
    std::fs::create_dir(upper.path().join("new")).unwrap();
    std::fs::write(upper.path().join("new/x"), b"").unwrap();
    let device = rustix::fs::makedev(0, 0);
    let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::empty());
    rustix::fs::mknodat(rustix::fs::CWD, upper.path().join("b"), kind, mode, device).unwrap();
    let base: Arc<dyn LayerTree> = Arc::from(Driver::Erofs.open_tree(dir.path()).unwrap());
    let before = Merged::new(vec![Arc::clone(&base)]);
    let after = Merged::new(vec![directory(upper.path(), 0).unwrap(), base]);
    let want = [
        ("b", Difference::Deleted),
        ("d", Difference::Changed),
        ("d/a", Difference::Changed),
        ("new", Difference::Added),
        ("new/x", Difference::Added),
    ];
    assert_eq!(diff(&before, &after).unwrap(), want.map(|(path, what)| (PathBuf::from(path), what)));
    assert!(after.open(Path::new("b")).is_err());
    assert_eq!(after.resolve(Path::new("/d/l")).unwrap(), Path::new("d/a"));
}
