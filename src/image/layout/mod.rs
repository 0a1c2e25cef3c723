//! Images on this node's disk: an OCI layout (image-spec `image-layout.md`) or what `docker save` wrote, each as a
//! directory or as a tar.
//!
//! All of it is untrusted: names are looked up below the directory by the kernel (`openat2`, so neither `..` nor a link
//! leads out) or in the tar's own table; nothing is ever unpacked. Only regular files are read.

mod docker;
mod files;
mod table;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use files::Files;
pub(super) use files::LayoutBlob;

use super::client::Fetched;
use super::error::Error;
use super::name::LayoutTag;
use super::pull::blocking;
use crate::oci::media_type::MediaKind;
use crate::oci::{Descriptor, Digest, Document, Index, MAX_MANIFEST_BYTES, Reference};

/// What makes a directory an OCI layout, and lists its images.
const INDEX: &str = "index.json";

/// One image of a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) descriptor: Descriptor,
    /// The tag (OCI), or full references (docker).
    pub(super) names: Vec<String>,
}

/// An opened layout.
#[derive(Debug)]
pub(super) struct Layout {
    path: PathBuf,
    files: Files,
    items: Vec<Item>,
    /// Documents that the archive does not hold as such: docker's has no manifests.
    made: HashMap<Digest, Bytes>,
    /// Where blobs are that do not lie under their digest's name.
    places: HashMap<Digest, String>,
}

impl Layout {
    /// Opens a directory or a tar.
    ///
    /// # Errors
    /// If it cannot be read, or is neither an OCI layout nor a docker archive.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let files = Files::open(path)?;
        let mut layout =
            Self { path: path.to_owned(), files, items: Vec::new(), made: HashMap::new(), places: HashMap::new() };
        if let Some(index) = layout.files.read(INDEX, MAX_MANIFEST_BYTES)? {
            layout.read_index(&index)?;
        }
        // What newer dockers save is both; its names are in docker's part.
        if let Some(list) = layout.files.read(docker::MANIFEST, MAX_MANIFEST_BYTES)? {
            if layout.items.is_empty() {
                docker::read(&mut layout, &list)?;
            } else {
                docker::name(&mut layout, &list)?;
            }
        }
        if layout.items.is_empty() {
            return Err(layout.bad("it has neither index.json nor manifest.json, or they list nothing"));
        }
        Ok(layout)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }

    fn read_index(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let refused = |source| Error::Document { image: self.path.display().to_string(), source };
        let index = match Document::parse(bytes, Some(crate::oci::media_type::OCI_INDEX)).map_err(refused)? {
            Document::Index(index) => index,
            Document::Manifest(_) => return Err(self.bad("index.json is no index")),
        };
        self.items = items(index);
        Ok(())
    }

    /// The image that `tag` means.
    pub(super) fn find(&self, tag: &LayoutTag) -> Result<Descriptor, Error> {
        let named = |wanted: &str| {
            let by_name = |item: &&Item| item.names.iter().any(|name| name == wanted || tag_of(name) == Some(wanted));
            self.items.iter().find(by_name)
        };
        let found = match tag {
            LayoutTag::Only if self.items.len() == 1 => self.items.first(),
            // Several, and none is asked for: the one that a missing tag means everywhere.
            LayoutTag::Only => named("latest"),
            LayoutTag::Tag(tag) => named(tag),
            LayoutTag::Digest(digest) => {
                // A manifest within one of the indexes may be meant, too: its media type is in its bytes.
                let known = self.items.iter().find(|item| item.descriptor.digest == *digest);
                return Ok(known.map_or_else(|| unlisted(digest), |item| item.descriptor.clone()));
            }
        };
        found.map(|item| item.descriptor.clone()).ok_or_else(|| {
            let names: Vec<_> = self.items.iter().flat_map(|i| &i.names).take(16).map(String::as_str).collect();
            self.bad(&format!("it has no such tag; it has: {}", names.join(", ")))
        })
    }

    /// A document, whole. Its digest is the caller's to check.
    pub(super) async fn document(self: &std::sync::Arc<Self>, digest: &Digest, max: u64) -> Result<Fetched, Error> {
        let (layout, digest) = (std::sync::Arc::clone(self), digest.clone());
        blocking(move || {
            let bytes = match layout.made.get(&digest) {
                Some(bytes) => bytes.clone(),
                None => layout.files.read(&layout.place(&digest), max)?.ok_or_else(|| layout.missing(&digest))?.into(),
            };
            Ok(Fetched { bytes, media_type: None, private: false })
        })
        .await
    }

    /// Begins to read a layer of `size` bytes.
    pub(super) fn blob(&self, digest: &Digest, size: u64) -> Result<LayoutBlob, Error> {
        let (file, start, length) = self.files.find(&self.place(digest))?.ok_or_else(|| self.missing(digest))?;
        if length != size {
            return Err(self.bad(&format!("blob {digest} has {length} bytes where its manifest says {size}")));
        }
        Ok(LayoutBlob::new(file, self.path.clone(), start, length))
    }

    fn place(&self, digest: &Digest) -> String {
        let standard = || format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
        self.places.get(digest).cloned().unwrap_or_else(standard)
    }

    fn missing(&self, digest: &Digest) -> Error {
        self.bad(&format!("blob {digest} is missing"))
    }

    fn bad(&self, reason: &str) -> Error {
        Error::Archive { path: self.path.clone(), reason: reason.to_owned() }
    }
}

/// The images among the entries of a layout's index.
fn items(index: Index) -> Vec<Item> {
    let image = |kind| matches!(kind, MediaKind::Manifest | MediaKind::Index);
    index
        .manifests
        .into_iter()
        .filter(|entry| MediaKind::of(&entry.descriptor.media_type).is_some_and(image))
        .map(|entry| Item { descriptor: entry.descriptor, names: entry.name.into_iter().collect() })
        .collect()
}

/// A descriptor for what is only known by its digest.
fn unlisted(digest: &Digest) -> Descriptor {
    Descriptor { media_type: String::new(), digest: digest.clone(), size: 0 }
}

/// The tag of a full reference: tools write one or the other into a layout's names.
fn tag_of(name: &str) -> Option<&str> {
    let reference = name.parse::<Reference>().ok()?;
    let tag = reference.tag()?.len();
    name.contains(['/', ':']).then(|| name.get(name.len().checked_sub(tag)?..)).flatten()
}
