//! Stored images: their documents byte for byte, and which layers they are made of.
//!
//! ```text
//! images/<top digest>/index.json                    where the image was named by an index
//!                     <manifest digest>/manifest.json
//!                                       config.json
//!                                       image.json   layers' keys, proofs of access
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest};
use serde::{Deserialize, Serialize};

use super::Store;
use super::access::{Access, Proof};
use super::error::Error;
use super::key::{ImageId, LayerKey};
use super::layout::{DIR_MODE, FILE_MODE, read_json, remove_all, to_json};
use super::staging::Staging;
use crate::oci::{DiffId, Digest};
use crate::sys::atomic;

/// The documents of an image, byte for byte as the registry gave them.
#[derive(Debug, Clone)]
pub struct ImageDocuments {
    /// The index, where the image was named by one.
    pub index: Option<Vec<u8>>,
    /// The manifest that was chosen.
    pub manifest: Vec<u8>,
    /// The manifest's config.
    pub config: Vec<u8>,
    /// How it was got.
    pub access: Access,
}

/// What is known of an image without opening its documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// The digest of the index (or manifest) and of the manifest.
    pub id: ImageId,
    /// The digest of the config.
    pub config_digest: Digest,
    /// Its layers, lowest first.
    pub layers: Arc<[LayerKey]>,
    /// How it was got.
    pub access: Access,
    /// When it was stored, by the wall clock: for show only.
    pub stored_at: SystemTime,
}

/// An image of the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of the index, or of the manifest where there is none.
    pub top: Digest,
    /// The digest of the manifest.
    pub manifest: Digest,
    /// The digest of the config.
    pub config_digest: Digest,
    /// The config.
    pub config: Arc<ImageConfiguration>,
    /// Its layers, lowest first.
    pub layers: Arc<[LayerKey]>,
    /// How it was got.
    pub access: Access,
}

impl Image {
    /// The image's identity.
    pub fn id(&self) -> ImageId {
        ImageId { top: self.top.clone(), manifest: self.manifest.clone() }
    }
}

/// The version of `image.json` that this release writes.
const VERSION: u32 = 1;
/// What says that an image is whole: written last of its directory.
pub(super) const DOCUMENT: &str = "image.json";
/// The index, beside the directories of its manifests.
pub(super) const INDEX: &str = "index.json";
const MANIFEST: &str = "manifest.json";
const CONFIG: &str = "config.json";

/// `image.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ImageFile {
    version: u32,
    config: Digest,
    layers: Vec<LayerKey>,
    access: Access,
    #[serde(with = "super::seconds")]
    stored_at: SystemTime,
}

/// Reads an image's record, and when it was last used (the time of its file).
pub(super) fn read_record(dir: &Path, id: &ImageId) -> Result<Option<(ImageRecord, SystemTime)>, Error> {
    let path = dir.join(DOCUMENT);
    let Some(file) = read_json::<ImageFile>(&path)? else { return Ok(None) };
    if file.version > VERSION {
        let source = serde::de::Error::custom(format!("version {} is newer than this release", file.version));
        return Err(Error::Document { path, source });
    }
    let used = std::fs::metadata(&path).and_then(|meta| meta.modified()).map_err(Error::at("look at", &path))?;
    let record = ImageRecord {
        id: id.clone(),
        config_digest: file.config,
        layers: file.layers.into(),
        access: file.access,
        stored_at: file.stored_at,
    };
    Ok(Some((record, used)))
}

impl ImageDocuments {
    /// The digests by which the documents name each other, checked against what they are.
    ///
    /// # Errors
    /// [`Error::Image`] if a document is not valid, [`Error::Digest`] if the config is not the manifest's, or the
    /// manifest not one of the index's.
    fn identity(&self) -> Result<(ImageId, Digest), Error> {
        let manifest = Digest::sha256_of(&self.manifest);
        let top = match &self.index {
            None => manifest.clone(),
            Some(index) => {
                let parsed: ImageIndex = parse("index", index)?;
                let named = parsed.manifests().iter().any(|entry| entry.digest().to_string() == manifest.to_string());
                if !named {
                    let reason = format!("it does not name manifest {manifest}");
                    return Err(Error::Image { what: "index", reason });
                }
                Digest::sha256_of(index)
            }
        };
        let parsed: ImageManifest = parse("manifest", &self.manifest)?;
        let want = parsed.config().digest().to_string();
        let want: Digest =
            want.parse().map_err(|e| Error::Image { what: "manifest", reason: format!("its config: {e}") })?;
        let got = Digest::of(want.algorithm(), &self.config);
        if got != want {
            return Err(Error::Digest { what: "config", want, got });
        }
        Ok((ImageId { top, manifest }, want))
    }
}

impl ImageDocuments {
    /// Whether the documents are still those of `record`.
    ///
    /// # Errors
    /// [`Error::Image`] or [`Error::Digest`] if not.
    pub(super) fn check(&self, record: &ImageRecord) -> Result<(), Error> {
        let (id, _) = self.identity()?;
        for (what, got, want) in [("manifest", id.manifest, &record.id.manifest), ("index", id.top, &record.id.top)] {
            if got != *want {
                return Err(Error::Digest { what, want: want.clone(), got });
            }
        }
        Ok(())
    }
}

fn parse<T: for<'de> Deserialize<'de>>(what: &'static str, text: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(text).map_err(|e| Error::Image { what, reason: e.to_string() })
}

/// The stack of layers that a config names, lowest first.
fn stack_of(config: &ImageConfiguration) -> Result<Vec<DiffId>, Error> {
    let ids = config.rootfs().diff_ids().iter().map(|text| text.parse().map(DiffId));
    ids.collect::<Result<_, _>>().map_err(|e| Error::Image { what: "config", reason: e.to_string() })
}

impl Store {
    /// Stores an image whose layers are here: durable when this returns. One that is here already gains the new
    /// proofs of access.
    ///
    /// # Errors
    /// [`Error::MissingLayer`] for the lowest layer that is not here, [`Error::Image`] or [`Error::Digest`] if the
    /// documents do not fit together, or a failure of the disk.
    pub fn put_image(&self, documents: ImageDocuments) -> Result<Image, Error> {
        self.writable("store an image")?;
        let (id, config_digest) = documents.identity()?;
        let config: ImageConfiguration = parse("config", &documents.config)?;
        let stack = stack_of(&config)?;
        // No sweep may take a layer between the look and the image that holds it.
        let _changes = self.changes();
        let before = self.index().images.get(&id).map(|entry| Arc::clone(&entry.record));
        let layers = self.keys_of(&stack)?;
        let mut access = documents.access.clone();
        access.proofs.extend(before.iter().flat_map(|record| record.access.proofs.iter().cloned()));
        let record = ImageRecord {
            id: id.clone(),
            config_digest,
            layers: layers.into(),
            access,
            stored_at: before.as_ref().map_or_else(super::seconds::now, |record| record.stored_at),
        };
        // Its documents may have been damaged since.
        let whole = before.is_some() && self.documents(&id).is_ok_and(|stored| stored.check(&record).is_ok());
        match before {
            Some(before) if whole && *before == record => {}
            Some(_) if whole => self.write_record(&record)?,
            _ => self.commit_image(&documents, &record)?,
        }
        let image = image_from(&record, config);
        self.index().add_image(Arc::new(record), Instant::now());
        self.loosen();
        Ok(image)
    }

    /// Adds a proof that someone may use the image, durably.
    ///
    /// # Errors
    /// [`Error::UnknownImage`], or a failure of the disk.
    pub fn record_access(&self, id: &ImageId, proof: Proof) -> Result<(), Error> {
        self.writable("record who may use an image")?;
        let _changes = self.changes();
        let mut index = self.index();
        let unknown = || Error::UnknownImage { digest: id.top.clone() };
        let (mut record, idle_since) =
            index.images.get(id).map(|entry| ((*entry.record).clone(), entry.idle_since)).ok_or_else(unknown)?;
        if !record.access.proofs.insert(proof) {
            return Ok(());
        }
        drop(index);
        self.write_record(&record)?;
        index = self.index();
        index.add_image(Arc::new(record), idle_since);
        Ok(())
    }

    /// The image of this index or manifest digest; `None` if it is not here.
    ///
    /// # Errors
    /// If its config cannot be read from disk.
    pub fn image(&self, digest: &Digest) -> Result<Option<Image>, Error> {
        let Some(record) = self.index().image(digest).map(|entry| Arc::clone(&entry.record)) else { return Ok(None) };
        let path = self.0.layout.image(&record.id).join(CONFIG);
        let config = read_json(&path)?.ok_or_else(|| Error::UnknownImage { digest: digest.clone() })?;
        Ok(Some(image_from(&record, config)))
    }

    /// All images, in the order of their digests.
    pub fn images(&self) -> Vec<Arc<ImageRecord>> {
        self.index().images.values().map(|entry| Arc::clone(&entry.record)).collect()
    }

    /// An image's documents, byte for byte.
    ///
    /// # Errors
    /// [`Error::UnknownImage`], or a failure of the disk.
    pub fn documents(&self, id: &ImageId) -> Result<ImageDocuments, Error> {
        let unknown = || Error::UnknownImage { digest: id.top.clone() };
        let record = self.index().images.get(id).map(|entry| Arc::clone(&entry.record)).ok_or_else(unknown)?;
        let dir = self.0.layout.image(id);
        let read = |path: PathBuf| std::fs::read(&path).map_err(Error::at("read", path));
        let index = (id.top != id.manifest).then(|| read(self.0.layout.top(&id.top).join(INDEX))).transpose()?;
        let (manifest, config) = (read(dir.join(MANIFEST))?, read(dir.join(CONFIG))?);
        Ok(ImageDocuments { index, manifest, config, access: record.access.clone() })
    }

    /// The keys of a whole stack.
    fn keys_of(&self, stack: &[DiffId]) -> Result<Vec<LayerKey>, Error> {
        let index = self.index();
        let mut keys = Vec::with_capacity(stack.len());
        for end in 1..=stack.len() {
            match index.find_layer(&stack[..end]) {
                Some(info) => keys.push(info.key.clone()),
                None => return Err(Error::MissingLayer { diff_id: stack[end - 1].clone() }),
            }
        }
        Ok(keys)
    }

    /// Writes a new image: its directory is made in `staging/` and renamed to its place.
    fn commit_image(&self, documents: &ImageDocuments, record: &ImageRecord) -> Result<(), Error> {
        let layout = &self.0.layout;
        let top = layout.top(&record.id.top);
        atomic::create_dir(&top, DIR_MODE)?;
        if let Some(index) = &documents.index {
            atomic::write(&top.join(INDEX), index, FILE_MODE)?;
        }
        let staging = Staging::create(self)?;
        for (name, content) in [(MANIFEST, &documents.manifest), (CONFIG, &documents.config)] {
            atomic::write(&staging.path().join(name), content, FILE_MODE)?;
        }
        let path = staging.path().join(DOCUMENT);
        atomic::write(&path, &record_json(record, &path)?, FILE_MODE)?;
        let place = layout.image(&record.id);
        // What lies there could not be read, or is damaged.
        remove_all(&place)?;
        atomic::commit(staging.path(), &place)?;
        self.index().reread(&place.join(DOCUMENT));
        Ok(())
    }

    fn write_record(&self, record: &ImageRecord) -> Result<(), Error> {
        let path = self.0.layout.image(&record.id).join(DOCUMENT);
        Ok(atomic::write(&path, &record_json(record, &path)?, FILE_MODE)?)
    }

    /// Sets the times of images that were just let go, so that their age outlasts a restart. For the order in which
    /// cached images go; a failure only makes one look older.
    pub(super) fn note_use(&self, ids: &[ImageId]) {
        for id in ids {
            let path = self.0.layout.image(id).join(DOCUMENT);
            let touched = File::options().write(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
            if let Err(error) = touched {
                tracing::debug!(image = %id, %error, "cannot set the time of an image's last use");
            }
        }
    }
}

fn record_json(record: &ImageRecord, path: &Path) -> Result<Vec<u8>, Error> {
    let file = ImageFile {
        version: VERSION,
        config: record.config_digest.clone(),
        layers: record.layers.to_vec(),
        access: record.access.clone(),
        stored_at: record.stored_at,
    };
    to_json(&file, path)
}

fn image_from(record: &ImageRecord, config: ImageConfiguration) -> Image {
    Image {
        top: record.id.top.clone(),
        manifest: record.id.manifest.clone(),
        config_digest: record.config_digest.clone(),
        config: Arc::new(config),
        layers: Arc::clone(&record.layers),
        access: record.access.clone(),
    }
}
