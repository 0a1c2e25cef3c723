//! A store on a file system with no room left: nothing half-done, and collecting works.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::mount::MountAttrFlags;

use super::support::reference;
use crate::oci::{DiffId, Digest};
use crate::store::convert::testing::Tar;
use crate::store::driver::DriverChoice;
use crate::store::{Access, Error, ImageDocuments, Ingested, Options, Proof, RefKind, Store, SweepOptions, TagOrigin};
use crate::sys::mount::Mount;

const SIZE: u64 = 4 << 20;

/// A small file system of its own that is attached nowhere: gone with its descriptor.
struct Disk(std::os::fd::OwnedFd);

impl Disk {
    fn new() -> Self {
        Self(Mount::tmpfs(Some(SIZE), 0o700, MountAttrFlags::empty()).unwrap().into_fd())
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_fd().as_raw_fd()))
    }

    /// Takes every last byte.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        while file.write_all(&[1]).is_ok() {}
        path
    }
}

fn store(disk: &Disk) -> Store {
    Store::open(&Options { driver: DriverChoice::Erofs, ..Options::new(disk.path().join("root")) }).unwrap()
}

/// A layer of its own, of `size` bytes.
fn tar(name: &str, size: usize) -> Vec<u8> {
    Tar::new().dir("d/").file("d/name", name.as_bytes()).file("d/data", &vec![7; size]).end()
}

fn ingest(store: &Store, tar: &[u8]) -> Result<Ingested, Error> {
    let mut ingest = store.begin_ingest(vec![DiffId(Digest::sha256_of(tar))], None, None)?;
    ingest.write_blocking(Bytes::copy_from_slice(tar))?;
    ingest.finish_blocking(|| Ok(Vec::new()))
}

fn documents(tar: &[u8]) -> ImageDocuments {
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::sha256_of(tar).to_string()] },
    });
    let config = config.to_string().into_bytes();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::sha256_of(&config).to_string(),
            "size": config.len(),
        },
        "layers": [],
    });
    ImageDocuments {
        index: None,
        manifest: manifest.to_string().into_bytes(),
        config,
        access: Access::by(Proof::Local),
    }
}

fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_layer_that_does_not_fit_leaves_nothing_and_says_that_it_is_space() {
    let disk = Disk::new();
    let store = store(&disk);
    let before = store.capacity().unwrap();
    assert_eq!(before.total, SIZE);
    for size in [SIZE, SIZE - (12 << 10)] {
        let error = ingest(&store, &tar("big", usize::try_from(size).unwrap())).unwrap_err();
        assert!(error.is_space(), "{error:?}");
    }
    for empty in ["layers", "staging", "trash"] {
        assert_eq!(count(&disk.path().join("root").join(empty)), 0, "{empty}");
    }
    assert_eq!(store.capacity().unwrap().free, before.free);
    ingest(&store, &tar("small", 100)).unwrap();
}

#[test]
fn a_store_opens_with_no_byte_free_whatever_its_driver() {
    let disk = Disk::new();
    drop(store(&disk));
    disk.fill();
    for driver in [DriverChoice::Auto, DriverChoice::Erofs, DriverChoice::Directory] {
        let store = Store::open(&Options { driver, ..Options::new(disk.path().join("root")) }).unwrap();
        assert!(store.driver().is_some());
    }
}

#[test]
fn collecting_works_with_no_byte_free() {
    let disk = Disk::new();
    let store = store(&disk);
    let (kept, gone) = (tar("kept", 100 << 10), tar("gone", 1 << 20));
    for tar in [&kept, &gone] {
        ingest(&store, tar).unwrap();
    }
    let keep = store.put_image(documents(&kept)).unwrap();
    let go = store.put_image(documents(&gone)).unwrap();
    store.hold(RefKind::Pod, "keep", &keep.manifest).unwrap();
    store.hold(RefKind::Pod, "go", &go.manifest).unwrap();
    store.set_tag(&reference("go:1"), &go.id(), TagOrigin::Resolved).unwrap();
    disk.fill();
    assert_eq!(store.capacity().unwrap().free, 0);
    let error = store.hold(RefKind::Pin, "x", &keep.manifest).unwrap_err();
    assert!(error.is_space(), "{error:?}");
    store.release(RefKind::Pod, "go").unwrap();
    let swept = store.sweep(&SweepOptions::default()).unwrap();
    assert!(swept.failures.is_empty(), "{:?}", swept.failures);
    assert_eq!((swept.images, swept.tags.len()), (vec![go.id()], 1));
    assert!(store.capacity().unwrap().free >= 1 << 20);
    store.hold(RefKind::Pin, "x", &keep.manifest).unwrap();
    assert!(store.check(true).unwrap().is_sound());
    drop(store);
    disk.fill();
    let store = self::store(&disk);
    store.empty_staging_and_trash().unwrap();
    assert!(store.check(true).unwrap().is_sound());
}
