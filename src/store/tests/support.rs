//! A store in a temporary directory, with layers that are planted without converting anything.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::oci::{DiffId, Digest, Reference};
use crate::store::convert::Converted;
use crate::store::driver::{DriverChoice, Seal};
use crate::store::staging::Staging;
use crate::store::*;

/// A store, and the directory that it goes with.
pub(super) struct Bed {
    pub(super) store: Store,
    dir: tempfile::TempDir,
}

pub(super) fn options(root: impl Into<PathBuf>) -> Options {
    Options { driver: DriverChoice::Directory, ..Options::new(root) }
}

pub(super) fn diff_id(name: &str) -> DiffId {
    DiffId(Digest::sha256_of(name.as_bytes()))
}

pub(super) fn reference(name: &str) -> Reference {
    name.parse().unwrap()
}

impl Bed {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&options(dir.path().join("root"))).unwrap();
        Self { store, dir }
    }

    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join("root").join(below)
    }

    /// A store in memory where there is such a file system: for many short histories, where waiting for a disk would be
    /// all that takes time.
    pub(super) fn in_memory() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let store = Store::open(&options(dir.path().join("root"))).unwrap();
        Self { store, dir }
    }

    /// The names in a directory of the store.
    pub(super) fn names(&self, below: &str) -> Vec<String> {
        layout::list(&self.path(below)).unwrap()
    }

    /// Closes the store and opens it again, as a new agent would. `between` is what happens on disk meanwhile.
    pub(super) fn reopen(self, between: impl FnOnce(&std::path::Path)) -> Self {
        let Self { store, dir } = self;
        drop(store);
        between(&dir.path().join("root"));
        let store = Store::open(&options(dir.path().join("root"))).unwrap();
        Self { store, dir }
    }

    /// Commits a layer of `bytes` (by its own account) under its diffID.
    pub(super) fn layer(&self, name: &str, bytes: u64) -> LayerKey {
        self.plant(LayerKey::Diff(diff_id(name)), name, bytes)
    }

    /// Commits a layer under any key.
    pub(super) fn plant(&self, key: LayerKey, name: &str, bytes: u64) -> LayerKey {
        let staging = Staging::create(&self.store).unwrap();
        std::fs::create_dir(staging.path().join("tree")).unwrap();
        std::fs::write(staging.path().join("tree/file"), name).unwrap();
        let seal = serde_json::from_str::<Seal>(r#"{"bytes":1,"metadata":1,"checksum":1,"tar_bytes":1}"#).unwrap();
        let converted = Converted { stands_alone: true, disk_bytes: bytes, content_bytes: bytes, entries: 1, seal };
        let source = LayerSource { blob: None, bytes };
        let driver = self.store.driver().unwrap();
        self.store.commit_layer(&staging, key, diff_id(name), (driver, converted, source)).unwrap()
    }

    /// The documents of an image made of these layers.
    pub(super) fn documents(layers: &[&str]) -> ImageDocuments {
        let ids: Vec<_> = layers.iter().map(|name| diff_id(name).to_string()).collect();
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": ids },
        });
        let config = config.to_string().into_bytes();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
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

    /// The same with an index that names the manifest.
    pub(super) fn with_index(mut documents: ImageDocuments) -> ImageDocuments {
        let index = serde_json::json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": Digest::sha256_of(&documents.manifest).to_string(),
                "size": documents.manifest.len(),
            }],
        });
        documents.index = Some(index.to_string().into_bytes());
        documents
    }

    /// Plants the layers (10 bytes each) and stores the image.
    pub(super) fn image(&self, layers: &[&str]) -> Image {
        for name in layers {
            self.layer(name, 10);
        }
        self.store.put_image(Self::documents(layers)).unwrap()
    }

    /// Sweeps without grace.
    pub(super) fn sweep(&self) -> Swept {
        let swept = self.store.sweep(&SweepOptions::default()).unwrap();
        assert!(swept.failures.is_empty(), "{:?}", swept.failures);
        swept
    }

    pub(super) fn in_future(seconds: u64) -> SweepOptions {
        SweepOptions { now: Instant::now() + Duration::from_secs(seconds), ..SweepOptions::default() }
    }
}

pub(super) fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}
